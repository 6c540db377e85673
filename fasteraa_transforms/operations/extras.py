"""What an operation may need besides images and parameters."""

from typing import Any, NamedTuple

from torchvision.transforms import InterpolationMode


class Extras(NamedTuple):
    """Everything that a form of an operation gets besides images and parameters; each takes what it needs.

    ``centre`` and ``partner`` have the type of the form's images: a pair and a PIL image, arrays, or tensors.

    Attributes:
        interpolation: NEAREST or BILINEAR, for affine maps.
        fill: value outside of the image, in the image's own range: one number, or one a channel. For affine maps.
        centre: (x, y) for each image, [N, 2], as fractions of width and height in [0, 1). For cutout.
        partner: the images to blend with, [N, C, H, W]. For sample_pairing.
    """

    interpolation: InterpolationMode = InterpolationMode.NEAREST
    fill: tuple[float, ...] = (0,)
    centre: Any = None
    partner: Any = None

    def colours(self, channels: int) -> tuple[float, ...]:
        """The fill of each of so many channels.

        Raises:
            ValueError: ``fill`` has another number of numbers, and more than one.

        Example:
            >>> Extras(fill=(7,)).colours(3)
            (7, 7, 7)
        """
        if len(self.fill) == channels:
            return self.fill
        if len(self.fill) != 1:
            raise ValueError(
                f"fill should be one number or one for each of {channels} channels, but got {self.fill} instead"
            )
        return self.fill * channels
