"""Warnings about images that are taken for something else than they are, once for each transform.

Nothing here changes an image, and nothing is refused: a tensor that looks odd may be right.
"""

import sys
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

_FEW = 4  # the most channels that images usually have
_CALLS = 8  # Values of float images are looked at in so many calls. That costs a pass over the image each time.
_TOLERANCE = 0.1  # Resizing overshoots [0, 1] by less than that, mostly.
_FRAMEWORKS = ("fasteraa_transforms", "torch", "torchvision")


def seems_channels_last(shape: Sequence[int]) -> bool:
    """Whether the shape of images is rather [..., H, W, C] than [..., C, H, W]."""
    return shape[-1] <= _FEW < shape[-3]


class InputChecks:
    """What one transform still looks at; what it has warned of once, it looks at no more."""

    def __init__(self) -> None:
        self._looks_at_layout = True
        self._float_calls = _CALLS

    def look(self, images: Tensor) -> None:
        """Warn if the last axis of images seems to hold the channels, or if floats lie outside of [0, 1]."""
        images = images.as_subclass(Tensor)  # whose attributes are faster to look at
        if images.ndim < 3 or images.numel() == 0 or images.is_meta:
            return
        if self._looks_at_layout and seems_channels_last(images.shape):
            self._looks_at_layout = False
            channels, height, width = images.shape[-3:]
            _warn(
                f"images of the shape {list(images.shape)} are taken for {channels} channels of {height}×{width} "
                "pixels, [..., C, H, W]; if the last axis holds the channels, give images.movedim(-1, -3)"
            )
        if self._float_calls and images.is_floating_point() and not _is_captured(images):
            self._float_calls -= 1
            self._look_at_values(images)

    def _look_at_values(self, images: Tensor) -> None:
        lowest, highest = (float(value) for value in images.detach().aminmax())
        if not (lowest < -_TOLERANCE or highest > 1 + _TOLERANCE):  # NaN is neither
            return
        self._float_calls = 0
        if lowest >= 0 and 2 < highest <= 255:
            advice = "keep images uint8, or divide them by 255"
        else:
            advice = "augment images before they are normalised"
        _warn(
            f"float images should have values in [0, 1], but got values from {lowest:.3g} to {highest:.3g} instead, "
            f"which the operations clamp; {advice}"
        )


def _is_captured(images: Tensor) -> bool:
    """Whether a CUDA graph is being captured, which does not let us look at values."""
    return images.is_cuda and torch.cuda.is_current_stream_capturing()


def _warn(message: str) -> None:
    """Warn at the line of whoever called the transform, perhaps through a pipeline; of all workers, in the first."""
    worker = get_worker_info()
    if worker is not None and worker.id != 0:
        return
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] in _FRAMEWORKS:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
