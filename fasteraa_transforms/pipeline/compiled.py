"""The transform inside of `torch.compile`: one operator that the compiler calls without looking into it.

What is drawn decides which operations run, so the compiler has nothing to compile. As an operator the transform breaks
no graph, and it runs the same code as outside of the compiler: draws and pixels are the same. An operator runs below
autograd and cannot ask for gradients. So images that require gradients break the graph and run outside of it.

An operator takes tensors and numbers but no transform, so a transform goes by a number. The number stands in a tensor.
The compiler makes new code for each string or number that it meets, up to a limit, but does not look at the values of a
tensor. So all transforms share one piece of code.
"""

import itertools
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from fasteraa_transforms.backends.epilogue import Epilogue

T = TypeVar("T")

_NUMBERS = itertools.count()
_TRANSFORMS: "weakref.WeakValueDictionary[int, Any]" = weakref.WeakValueDictionary()


def outside_of_graphs(function: Callable[..., T]) -> Callable[..., T]:
    """Let the compiler call ``function`` without looking into it, and say why where PyTorch takes a reason."""
    try:
        disabled = torch.compiler.disable(
            function, reason="the sample should have plain tensors that require no gradient"
        )
    except TypeError:  # before PyTorch 2.8
        disabled = torch.compiler.disable(function)
    result: Callable[..., T] = disabled
    return result


def register(transform: Any) -> Tensor:
    """A number for a transform, in a tensor. `augment` finds the transform by it for as long as it lives."""
    number = next(_NUMBERS)
    _TRANSFORMS[number] = transform
    return torch.tensor(number, device="cpu")


def breaks_graph(value: Any) -> bool:
    """Whether `augment` cannot take a value of a sample."""
    return isinstance(value, (tv_tensors.TVTensor, Image.Image)) or (isinstance(value, Tensor) and value.requires_grad)


def augment(number: Tensor, images: Tensor, epilogue: Epilogue | None) -> Tensor:
    """What the transform of this number makes of images. What it refuses is refused when the graph runs.

    Args:
        number: from `register`.
        images: plain tensor [..., C, H, W] that requires no gradient.
        epilogue: that of the transform. It decides the dtype and the memory format of the result.
    """
    dtype = images.dtype if epilogue is None else epilogue.dtype
    # Not the memory format itself: an operator takes none in PyTorch 2.11.
    channels_last = epilogue is not None and epilogue.memory_format == torch.channels_last and images.ndim == 4
    return torch.ops.fasteraa_transforms.augment(number, images, dtype, channels_last)


# Not by `custom_op`, which takes no tag in PyTorch 2.6. The tag keeps two calls in one graph from being taken for the
# same.
torch.library.define(
    "fasteraa_transforms::augment",
    "(Tensor number, Tensor images, ScalarType dtype, bool channels_last) -> Tensor",
    tags=(torch.Tag.nondeterministic_seeded,),
)


@torch.library.impl("fasteraa_transforms::augment", "default")
def _augment(number: Tensor, images: Tensor, dtype: torch.dtype, channels_last: bool) -> Tensor:
    transform = _TRANSFORMS.get(int(number))
    if transform is None:
        raise RuntimeError("the transform of this graph is gone; a graph cannot be kept longer than its transform")
    result: Tensor = transform.transform(images, transform.make_params([images]))
    return result.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@torch.library.register_fake("fasteraa_transforms::augment")
def _(number: Tensor, images: Tensor, dtype: torch.dtype, channels_last: bool) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty_like(images, dtype=dtype, memory_format=layout)
