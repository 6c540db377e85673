"""The transform inside of `torch.compile`: operators that the compiler calls without looking into them.

What is drawn decides which operations run, so there is nothing in it to compile; but as operators they break no graph.
They run the same code as outside of it, so draws and pixels are the same. An operator runs below autograd and cannot
ask for gradients there, so images that require them, like what the compiler does not look into, break the graph and
run outside of it.
"""

import itertools
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from fasteraa_transforms.backends import apply as apply_eagerly
from fasteraa_transforms.plan import _SHAPES, Plan

_HANDLES = itertools.count()

# An operator takes tensors, numbers and strings, so the transform that draws goes by a name of its own in this process.
_TRANSFORMS: "weakref.WeakValueDictionary[str, Any]" = weakref.WeakValueDictionary()


def register(transform: Any) -> str:
    """A name for a transform, by which `draw` finds it as long as it lives."""
    handle = str(next(_HANDLES))
    _TRANSFORMS[handle] = transform
    return handle


def breaks_graph(value: Any) -> bool:
    """Whether a value of a sample cannot be transformed by the operators here."""
    return isinstance(value, (tv_tensors.TVTensor, Image.Image)) or (isinstance(value, Tensor) and value.requires_grad)


def draw(handle: str, count: int, stages: int) -> Plan:
    """What ``transform._draw(count)`` gives, of the transform of this name; on the CPU."""
    return Plan(*torch.ops.fasteraa_transforms.draw(handle, count, stages))


def apply(images: Tensor, plan: Plan, *, interpolation: str, fill: Sequence[float]) -> Tensor:
    """`apply` on tensors; what that refuses is refused when the graph runs."""
    tensors = [getattr(plan, name) for name in _SHAPES]
    return torch.ops.fasteraa_transforms.apply(images, tensors, interpolation, fill)


# The tag keeps two draws in one graph from being taken for the same. The number of stages is handed over for the shapes
# to depend on the arguments alone: compiled graphs are cached on disk, and in another process the name is another's.
@torch.library.custom_op("fasteraa_transforms::draw", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def _draw(handle: str, count: int, stages: int) -> list[Tensor]:
    plan = _TRANSFORMS[handle]._draw(count).to("cpu")
    return [getattr(plan, name) for name in _SHAPES]


@_draw.register_fake
def _(handle: str, count: int, stages: int) -> list[Tensor]:
    sizes = {"B": count, "K": stages, "2": 2}
    return [torch.empty([sizes[axis] for axis in axes], dtype=dtype) for dtype, axes in _SHAPES.values()]


@torch.library.custom_op("fasteraa_transforms::apply", mutates_args=())
def _apply(images: Tensor, plan: Sequence[Tensor], interpolation: str, fill: Sequence[float]) -> Tensor:
    return apply_eagerly(images, Plan(*plan), interpolation=interpolation, fill=fill).contiguous()


@_apply.register_fake
def _(images: Tensor, plan: Sequence[Tensor], interpolation: str, fill: Sequence[float]) -> Tensor:
    return torch.empty_like(images, memory_format=torch.contiguous_format)
