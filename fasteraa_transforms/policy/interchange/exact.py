"""Transforms for albumentations that run an operation of this package, for operations that albumentations lacks.

The module needs albumentations. To read an exported pipeline back in another process, import this module before
``albumentations.from_dict``, which finds classes by their names:

    import fasteraa_transforms.policy.interchange.exact
    pipeline = albumentations.from_dict(json.loads(text))
"""

from typing import Any

import numpy as np
import torch
from albumentations import DualTransform, ImageOnlyTransform
from albumentations.augmentations.geometric import functional as geometric
from numpy.typing import NDArray
from torchvision.transforms import InterpolationMode

from fasteraa_transforms.backends import apply_one
from fasteraa_transforms.operations.geometry import Affine
from fasteraa_transforms.operations.table import OPERATIONS

_BORDER_CONSTANT = 0  # cv2.BORDER_CONSTANT

_Array = NDArray[Any]


class ExactOperation(ImageOnlyTransform):
    """One operation at one parameter, byte for byte; masks, boxes and key points stay as they are.

    Args:
        operation: a name in `OPERATIONS`.
        parameter: the physical parameter, in the unit that the operation's row states.
        p: how often the transform is applied.

    Raises:
        ValueError: no operation has this name.
        TypeError: (on the call) the image is not uint8.

    Example:
        >>> ExactOperation("invert", 0.0, p=1)(image=np.full((1, 1, 3), 50, np.uint8))["image"].tolist()
        [[[205, 205, 205]]]
    """

    def __init__(self, operation: str, parameter: float, p: float = 0.5) -> None:
        super().__init__(p=p)
        _kind(operation)
        self.operation, self.parameter = operation, parameter

    def get_params(self) -> dict[str, Any]:
        """The centre of cutout, which is drawn for each image."""
        return {"centre": (self.py_random.random(), self.py_random.random())}

    def apply(self, img: _Array, centre: tuple[float, float], **_: Any) -> _Array:
        """The image, uint8 [H, W, C] or [H, W], after the operation."""
        return _applied(img, self.operation, self.parameter, centre=centre)


class ExactMovement(DualTransform):
    """One operation that moves pixels, byte for byte. Masks, boxes and key points move along.

    Masks have any dtype. They are moved by nearest, and are 0 where they come from outside of the image.

    Args:
        operation: a name in `OPERATIONS`, of an operation whose kind is an affine map.
        parameter: the physical parameter, in the unit that the operation's row states.
        interpolation: "nearest" or "bilinear", for images.
        fill: value of an image outside of it, one number or one a channel, in [0, 255].
        p: how often the transform is applied.

    Raises:
        ValueError: no operation has this name, or it does not move pixels.
        TypeError: (on the call) the image is not uint8.
    """

    def __init__(
        self,
        operation: str,
        parameter: float,
        interpolation: str = "nearest",
        fill: float | tuple[float, ...] = 0,
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        if not isinstance(_kind(operation), Affine):
            raise ValueError(f"operation should move pixels, but got {operation!r} instead")
        self.operation, self.parameter = operation, parameter
        self.interpolation, self.fill = interpolation, tuple(fill) if isinstance(fill, list | tuple) else fill

    def apply(self, img: _Array, **_: Any) -> _Array:
        """The image, uint8 [H, W, C] or [H, W], after the operation."""
        return _applied(img, self.operation, self.parameter, InterpolationMode(self.interpolation), self.fill)

    def apply_to_mask(self, mask: _Array, **_: Any) -> _Array:
        """The mask, [H, W] or [H, W, C], moved as the image is by nearest."""
        height, width = mask.shape[:2]
        # The operation moves the numbers of the pixels, counted from 1, as an image of four channels.
        numbers = np.arange(1, height * width + 1, dtype=np.uint32).reshape(height, width)
        moved = _applied(numbers.view(np.uint8).reshape(height, width, 4), self.operation, self.parameter)
        numbers = np.ascontiguousarray(moved).view(np.uint32)[..., 0]  # 0 is outside
        pixels = mask.reshape(height * width, *mask.shape[2:])
        result = pixels[numbers.astype(np.int64) - 1]
        result[numbers == 0] = 0
        return result

    def apply_to_bboxes(self, bboxes: _Array, shape: tuple[int, ...], **_: Any) -> _Array:
        """The boxes around the moved corners, [N, 4 or more], as fractions of width and height."""
        size = shape[:2]
        return geometric.bboxes_affine(bboxes, self._forward(size), "largest_box", size, _BORDER_CONSTANT, size)

    def apply_to_keypoints(self, keypoints: _Array, shape: tuple[int, ...], **_: Any) -> _Array:
        """The moved points, [N, 5 or more]; a point at a whole number is the centre of a pixel."""
        size = shape[:2]
        half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        matrix = np.linalg.inv(half) @ self._forward(size) @ half
        return geometric.keypoints_affine(keypoints, matrix, size, {"x": 1.0, "y": 1.0}, _BORDER_CONSTANT)

    def _forward(self, size: tuple[int, ...]) -> _Array:
        """Where a point of the image goes, [3, 3]."""
        kind = _kind(self.operation)
        assert isinstance(kind, Affine)
        height, width = size
        inverse = [*kind.matrix(self.parameter, height, width), 0, 0, 1]
        return np.linalg.inv(np.array(inverse, dtype=np.float64).reshape(3, 3))


def _kind(operation: str) -> object:
    if operation not in OPERATIONS:
        raise ValueError(f"operation should be one of {', '.join(OPERATIONS)}, but got {operation!r} instead")
    return OPERATIONS[operation].kind


def _applied(
    image: _Array,  # uint8 [H, W, C] or [H, W]
    operation: str,
    parameter: float,
    interpolation: InterpolationMode = InterpolationMode.NEAREST,
    fill: float | tuple[float, ...] = 0,
    centre: tuple[float, float] = (0.5, 0.5),
) -> _Array:
    """The image after one operation."""
    if image.dtype != np.uint8:
        raise TypeError(f"an exported policy takes uint8 images, but got {image.dtype} instead")
    planes = image[..., None] if image.ndim == 2 else image
    tensor = torch.from_numpy(np.ascontiguousarray(planes.transpose(2, 0, 1)))
    step = (list(OPERATIONS).index(operation), parameter, centre)
    result = apply_one(tensor, [step], interpolation, fill).numpy().transpose(1, 2, 0)
    return np.ascontiguousarray(result).reshape(image.shape)
