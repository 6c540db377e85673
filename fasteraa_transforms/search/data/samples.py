"""One sample of a data set: which part is the image and which the label, and the image as uint8 [C, H, W]."""

import io
import operator
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset
from torchvision.transforms.v2 import functional as tv

from fasteraa_transforms.pipeline.image_files import eight_bits, extent_of, open_image
from fasteraa_transforms.search.data.masks import is_mask


class MapDataset(Protocol):
    """Any map-style dataset of samples as `parts_of` takes them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


Samples = MapDataset | Iterable[Any]
"""What can be searched on: a map-style dataset, or one that can only be iterated, gone through once."""


class Encoded(NamedTuple):
    """An image as it lies in a file, decoded only if the subset is to hold it.

    Attributes:
        data: JPEG, PNG, or whatever else Pillow reads.
        name: for messages.
    """

    data: bytes
    name: str


IMAGE_KEYS = ("image", "img", "pixel_values")
"""Keys of the image in a sample that is a dict, as the datasets of Hugging Face give it."""

TARGET_KEYS = ("label", "labels", "target", "fine_label", "mask", "annotation")
"""Keys of the label or the mask in such a sample."""

# What Pillow raises for torn files and those that are no images; a SyntaxError for some PNGs, a ValueError for PPMs.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def is_map_style(dataset: Samples) -> bool:
    """Whether ``dataset`` can be asked for any of its samples."""
    # IterableDataset inherits a __getitem__ that only raises.
    return hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset)


def parts_of(sample: Any, name: str) -> tuple[Any, Any]:
    """Image, and label or mask, of a sample.

    Args:
        sample: (image, label), (image, mask), or a dict with one of `IMAGE_KEYS` and one of `TARGET_KEYS`. More than
            two items of a tuple are left alone. A label is a whole number of any library, also in an array of one
            element; a mask has two axes or more.
        name: of the sample, for messages.

    Raises:
        ValueError: another kind of sample or label.

    Example:
        >>> parts_of({"image": "pixels", "label": np.array([3])}, "sample 0")
        ('pixels', 3)
    """
    if isinstance(sample, Mapping):
        sample = _values_of(sample, name)
    if not isinstance(sample, tuple | list) or len(sample) < 2:
        raise ValueError(f"{name} should be (image, label), but got {type(sample).__name__} instead")
    image, target = sample[0], sample[1]
    return image, target if is_mask(target) else whole_number(target, name)


def _values_of(sample: Mapping[Any, Any], name: str) -> tuple[Any, Any]:
    """Image and target of a sample that is a dict."""
    values = []
    for what, keys in (("an image", IMAGE_KEYS), ("a label or a mask", TARGET_KEYS)):
        present = [key for key in keys if key in sample]
        if len(present) != 1:
            wanted = f"should have {what} under one of {', '.join(keys)}"
            raise ValueError(f"{name} {wanted}, but has {', '.join(map(str, present or sample)) or 'nothing'}")
        values.append(sample[present[0]])
    return values[0], values[1]


def whole_number(label: Any, name: str) -> int:
    """``label`` as an int.

    Raises:
        ValueError: it is no whole number.
    """
    value = label
    if getattr(label, "size", 0) == 1 or (isinstance(label, Tensor) and label.numel() == 1):
        value = label.item()  # a number or an array of NumPy, a tensor
    try:
        return int(operator.index(value))
    except TypeError:
        raise ValueError(f"the label of {name} should be a whole number, but got {label!r:.40} instead") from None


def label_of(sample: Any, name: str, setting: str) -> int:
    """Label of a sample, where ``setting`` needs one.

    Raises:
        ValueError: it has a mask.
    """
    _, label = parts_of(sample, name)
    if is_mask(label):
        raise ValueError(f"{setting} takes a label for each image, but {name} has a mask; leave it out")
    return label


def decode(image: Any, *, at_least: tuple[int, int] | None = None, beside: tuple[int, int] | None = None) -> Any:
    """``image``, turned upright; a file is decoded first.

    Args:
        image: `Encoded`, bytes, or a dict of ``bytes`` and ``path`` as Hugging Face's datasets have them with
            ``decode=False``; anything else is returned as it is.
        at_least: as for `open_image`.
        beside: as for `open_image`.

    Raises:
        one of `UNREADABLE`: it cannot be decoded.
    """
    if (file := _file_of(image)) is not None:
        return open_image(file, at_least=at_least, upright=True, beside=beside)
    if isinstance(image, Image.Image):
        image.load()
    return image


def extent_of_image(image: Any) -> tuple[int, int] | None:
    """(height, width) of a sample's image, which is not decoded; None if it is of no kind that is known.

    Example:
        >>> extent_of_image(Image.new("L", (6, 4))), extent_of_image(torch.zeros(3, 4, 6))
        ((4, 6), (4, 6))
    """
    if (file := _file_of(image)) is not None:
        return extent_of(file)
    if isinstance(image, Image.Image):
        return image.height, image.width
    if isinstance(image, Tensor) and image.ndim == 3:
        return image.shape[1], image.shape[2]
    if isinstance(image, np.ndarray) and image.ndim in (2, 3):
        return image.shape[0], image.shape[1]
    return None


def _file_of(image: Any) -> str | io.BytesIO | None:
    """The path or the bytes of an image that is not decoded; None for one that is."""
    if isinstance(image, Mapping) and {"bytes", "path"} <= image.keys():
        image = image["path"] if image["bytes"] is None else image["bytes"]
        if isinstance(image, str):
            return image
    data = image.data if isinstance(image, Encoded) else image
    return io.BytesIO(data) if isinstance(data, bytes) else None


def to_uint8(image: Any, name: str) -> Tensor:
    """One sample's image as uint8 [C, H, W].

    Args:
        image: a PIL image, which becomes grey or RGB without its transparency; an array [H, W, C] or [H, W]; or a
            tensor [C, H, W]. Arrays and tensors are uint8, uint16, scaled to 8 bits, or float in [0, 1].
        name: of the sample, for messages.

    Raises:
        ValueError: another kind, shape or range.

    Example:
        >>> to_uint8(np.zeros((4, 6), np.uint16), "sample 0").shape
        torch.Size([1, 4, 6])
    """
    if isinstance(image, Image.Image):
        mode = image.mode
        try:
            image = tv.pil_to_tensor(eight_bits(image))
        except ValueError as error:
            raise ValueError(
                f"{name} should be of 8 or 16 bits a channel, but got a PIL image of mode {mode}"
            ) from error
    if isinstance(image, np.ndarray):
        image = _from_array(image, name)
    elif isinstance(image, Tensor) and image.ndim == 3 and _looks_like(image.shape, channels=2):
        raise ValueError(
            f"the tensor of {name} should be [C, H, W], but its shape {list(image.shape)} looks like [H, W, C]; "
            "permute it (image.permute(2, 0, 1)), or make it an array, which is [H, W, C]"
        )
    kinds = (torch.uint8, torch.uint16)
    if isinstance(image, Tensor) and image.ndim == 3 and (image.dtype in kinds or image.is_floating_point()):
        if not image.numel():
            raise ValueError(f"{name} should hold pixels, but got an image of shape {list(image.shape)} instead")
        if image.is_floating_point() and not (image.min() >= 0 and image.max() <= 1):
            raise ValueError(
                f"the float image of {name} should have values in [0, 1], but they lie in "
                f"[{image.min():.3g}, {image.max():.3g}]; leave out a normalisation"
            )
        return tv.to_dtype(image.as_subclass(Tensor), torch.uint8, scale=True)
    found = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
    raise ValueError(
        f"{name} should hold a PIL image, an array [H, W, C], or a uint8, uint16 or float tensor [C, H, W], "
        f"but holds {found}"
    )


def _from_array(array: np.ndarray, name: str) -> Tensor:
    """An array [H, W] or [H, W, C] as a tensor [C, H, W]."""
    if array.ndim == 3 and _looks_like(array.shape, channels=0):
        raise ValueError(
            f"the array of {name} should be [H, W, C], but its shape {list(array.shape)} looks like [C, H, W]; "
            "transpose it (array.transpose(1, 2, 0)), or make it a tensor, which is [C, H, W]"
        )
    # torch takes neither negative strides, nor other orders of bytes, nor, without a warning, read-only arrays.
    try:
        tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C", copy=True))
    except TypeError:
        raise ValueError(f"the array of {name} should hold numbers, but got {array.dtype} instead") from None
    if tensor.ndim == 2:
        return tensor[None]
    return tensor.permute(2, 0, 1) if tensor.ndim == 3 else tensor


def _looks_like(shape: tuple[int, ...], *, channels: int) -> bool:
    """Whether a shape of three axes has from 1 to 4 at the axis ``channels``, and more at the other end."""
    return 1 <= shape[channels] <= 4 < shape[2 - channels]
