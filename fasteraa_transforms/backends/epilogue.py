"""The step that follows augmentation in nearly every pipeline. On a GPU it is a part of the last kernel."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F


@dataclass(frozen=True, kw_only=True)
class Epilogue:
    """Scale to [0, 1], normalise, convert: ``v2.ToDtype(torch.float32, scale=True)``, ``v2.Normalize``, and a cast.

    `apply` and `FasterAutoAugment` take one. On a GPU, the 256 levels of each channel are computed once and looked up
    when a pixel is written. So an epilogue costs no pass of its own, and gives the bits of torchvision's transforms.

    Attributes:
        dtype: of the result: float16, bfloat16, float32 or float64. Scaling and normalising are done in float32.
        mean: one number a channel, in [0, 1]; None if the images are scaled only.
        std: one number a channel, above 0; None if ``mean`` is None.
        memory_format: of a result [B, C, H, W]: ``torch.contiguous_format`` or ``torch.channels_last``.

    Raises:
        ValueError: another dtype or memory format, only one of mean and std, of different length, or a std not above 0.

    Example:
        >>> epilogue = Epilogue(dtype=torch.float16, mean=(0.5,), std=(0.25,))
        >>> epilogue(torch.tensor([[[0, 255]]], dtype=torch.uint8))
        tensor([[[-2.,  2.]]], dtype=torch.float16)
    """

    dtype: torch.dtype = torch.float32
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    memory_format: torch.memory_format = torch.contiguous_format

    def __post_init__(self) -> None:
        if self.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise ValueError(f"dtype should be a floating-point type, but got {self.dtype} instead")
        if self.memory_format not in (torch.contiguous_format, torch.channels_last):
            raise ValueError(
                "memory_format should be torch.contiguous_format or torch.channels_last, "
                f"but got {self.memory_format} instead"
            )
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"mean and std should both be given or neither, but got {self.mean} and {self.std}")
        if self.mean is not None and self.std is not None:
            # A list would make two equal epilogues differ in their hash.
            object.__setattr__(self, "mean", tuple(self.mean))
            object.__setattr__(self, "std", tuple(self.std))
            if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
                raise ValueError(
                    f"std should be as long as mean and above 0, but got {self.std} for mean {self.mean} instead"
                )

    def __call__(self, images: Tensor) -> Tensor:
        """The images, uint8 or float [..., C, H, W], scaled, normalised and converted.

        Raises:
            ValueError: ``mean`` has another length than C.
        """
        result = F.to_dtype(images, torch.float64 if images.dtype == torch.float64 else torch.float32, scale=True)
        if self.mean is not None:
            if len(self.mean) not in (1, images.shape[-3]):
                raise ValueError(
                    f"mean should be one number for each of {images.shape[-3]} channels, but is {self.mean}"
                )
            # Made on the device: numbers, F.normalize would copy to it, and wait for the copies.
            mean, std = (
                torch.cat([result.new_full((1,), value) for value in values]) for values in (self.mean, self.std or ())
            )
            result = F.normalize(result, mean, std)
        result = result.to(self.dtype)
        return result.contiguous(memory_format=self.memory_format) if result.ndim == 4 else result

    def levels(self, channels: int, device: torch.device) -> Tensor:
        """What each level of a uint8 image becomes, [channels, 256] on a device."""
        make = _kept_levels if channels <= _KEPT_CHANNELS else _levels
        return make(self, channels, device)


_KEPT_CHANNELS = 32  # up to which the levels are kept, so that they are copied to the device once: 64 KiB in float64


def _levels(epilogue: Epilogue, channels: int, device: torch.device) -> Tensor:
    every = torch.arange(256, dtype=torch.uint8).expand(channels, 1, 256)
    return epilogue(every).reshape(channels, 256).contiguous().to(device)


_kept_levels = functools.lru_cache(maxsize=64)(_levels)


def finish(images: Tensor, epilogue: Epilogue | None) -> Tensor:
    """The images after the epilogue, if there is one."""
    return images if epilogue is None else epilogue(images)
