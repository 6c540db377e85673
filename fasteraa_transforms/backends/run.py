"""A plan applied to images: the one place where plans become pixels.

`apply` picks the form of the operations that suits the images: Pillow's for PIL images, the exact one for uint8, the
differentiable one for floats. It draws nothing; the same images and plan give the same result every time.
"""

import functools
import itertools
import numbers
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode

from fasteraa_transforms.backends.device import runs_kernels
from fasteraa_transforms.backends.epilogue import Epilogue
from fasteraa_transforms.operations import pillow as _pillow
from fasteraa_transforms.operations.table import OPERATIONS, Operation
from fasteraa_transforms.plan import Plan

Images = TypeVar("Images", Tensor, Image.Image)

_OPERATIONS = tuple(OPERATIONS.values())
_PAIRING = list(OPERATIONS).index("sample_pairing")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_HIGHEST = {torch.uint8: 255, torch.uint16: 65535, **dict.fromkeys(_FLOATS, 1)}  # white, of each dtype taken

# The uint8 forms take so many values at a time, or one image if it has more. Taking more is no faster, and their wider
# intermediates stay within a few MiB (with large images, within those of one image) whatever the batch.
_CHUNK = 2**16

_NEAREST = InterpolationMode.NEAREST  # to look up a member of an enumeration takes a while
Fill = tuple[float, ...]
# What happens to one image in one stage: operation, as its index, parameter and centre.
Step = tuple[int, float, Sequence[float]]

_MODES: dict[object, InterpolationMode] = {
    InterpolationMode.NEAREST: InterpolationMode.NEAREST,
    InterpolationMode.BILINEAR: InterpolationMode.BILINEAR,
    "nearest": InterpolationMode.NEAREST,
    "bilinear": InterpolationMode.BILINEAR,
    int(Image.Resampling.NEAREST): InterpolationMode.NEAREST,
    int(Image.Resampling.BILINEAR): InterpolationMode.BILINEAR,
}


def interpolation_mode(interpolation: InterpolationMode | str | int) -> InterpolationMode:
    """The mode, given as torchvision takes it: itself, its name, or Pillow's number for it.

    Raises:
        ValueError: it is neither NEAREST nor BILINEAR.

    Example:
        >>> interpolation_mode("bilinear")
        <InterpolationMode.BILINEAR: 'bilinear'>
    """
    if interpolation is _NEAREST or interpolation is InterpolationMode.BILINEAR:
        return interpolation
    mode: Any = _MODES.get(interpolation, interpolation)
    _pillow.check_interpolation(mode)
    return mode


def fill_values(fill: float | Sequence[float]) -> tuple[float, ...]:
    """``fill`` as a tuple: of one number for all channels, or of one number for each.

    Raises:
        TypeError: it is neither a number nor a sequence of numbers.

    Example:
        >>> fill_values(7), fill_values([1, 2, 3])
        ((7,), (1, 2, 3))
    """
    if type(fill) in (int, float):
        return (fill,)  # type: ignore[return-value]
    values: tuple[Any, ...] = tuple(fill) if isinstance(fill, Sequence) else (fill,)
    if not all(isinstance(value, numbers.Real) for value in values):
        raise TypeError(f"fill should be a number or a sequence with one number per channel, but got {fill!r} instead")
    return values


def apply(
    images: Images,
    plan: Plan,
    *,
    interpolation: InterpolationMode | str | int = InterpolationMode.NEAREST,
    fill: float | Sequence[float] = 0,
    epilogue: Epilogue | None = None,
) -> Images:
    """Apply a plan to the images it was drawn for.

    A pure function: nothing is drawn, nothing is written into ``images``, and the result shares no memory with them.
    On uint8 the result is, byte for byte, what Pillow gives, one image at a time. On floats it is the same without the
    rounding to 8 bits, and gradients flow to ``images`` as `functional` says.

    sample_pairing blends in the *original* partner, ``images[plan.partner]`` as it came in, whatever the earlier stages
    did to either of the two. An image that is its own partner, as the only one of a batch is, stays as it is.

    Args:
        images: one of

            - a PIL image of mode L, LA, RGB, RGBA or I;16, with a plan of one image. Alpha follows geometry only; I;16
              is what a uint16 tensor is;
            - a uint8 tensor [..., C, H, W], with values in [0, 255]. On a GPU of NVIDIA's with Triton, and up to 16384
              pixels high and wide, it is computed there, in a few launches and without waiting for the device;
              otherwise on the CPU, where it is copied to and from;
            - a uint16 tensor [..., C, H, W], with values in [0, 65535]: as a float64 one in [0, 1], rounded at the end;
            - a float16, bfloat16, float32 or float64 tensor [..., C, H, W], with values in [0, 1], computed on its own
              device, the two 16-bit types in float32.

            Any number of channels. Of a subclass of Tensor, the plain tensor is taken.
        plan: one row for each image, leading dimensions flattened; on any device. The values of one that lies on a GPU
            are not looked at where images are computed there: an image outside of the batch is taken for the nearest
            one in it, an operation that does not exist does nothing, and parameters beyond those of the table of
            operations may leave Pillow's fixed point.
        interpolation: NEAREST or BILINEAR, for shear, translate and rotate; also their names or Pillow's numbers.
        fill: value outside of the image, one number or one a channel, in the image's own range: [0, 255] for uint8
            and 8-bit PIL images, [0, 65535] for uint16 and I;16 (fractions are dropped), [0, 1] for floats.
        epilogue: what follows, on tensors: scaling, normalisation, conversion.

    Returns:
        PIL image of the same mode and size, or plain tensor of the same shape and device, and of the same dtype unless
        there is an epilogue.

    Raises:
        TypeError: the type, dtype or mode of ``images``, or the type of ``fill``, is not one of those above; or a PIL
            image is to have an epilogue.
        ValueError: shape, length of the plan, interpolation, or range or length of ``fill`` do not fit; or the plan
            names an operation or a partner that does not exist.

    Example:
        >>> from fasteraa_transforms.policy.policy import Policy
        >>> policy = Policy([[[{"operation": "invert", "weight": 1, "probability": 1}]]])
        >>> apply(torch.full((2, 1, 1, 3), 50, dtype=torch.uint8), policy.sample(2)).tolist()
        [[[[205, 205, 205]]], [[[205, 205, 205]]]]
        >>> apply(Image.new("L", (1, 1), 50), policy.sample(1)).getpixel((0, 0))
        205
    """
    mode = interpolation_mode(interpolation)
    values = fill_values(fill)
    if isinstance(images, Image.Image):
        if epilogue is not None:
            raise TypeError("an epilogue needs tensors, but got a PIL image; v2.PILToTensor() makes one of it")
        return _apply_pillow(images, plan, mode, values)
    if not isinstance(images, Tensor):
        raise TypeError(f"images should be a PIL image or a tensor, but got {type(images).__name__} instead")
    return _apply_tensor(images.as_subclass(Tensor), plan, mode, values, epilogue)


def apply_one(
    image: Images,
    drawn: Sequence[Step],
    interpolation: InterpolationMode | str | int,
    fill: float | Sequence[float],
) -> Images:
    """`apply` for one image and what `Policy.sample_one` has drawn for it, without making a `Plan` of tensors.

    Args:
        image: PIL image, or uint8 tensor or `tv_tensors.Image` [C, H, W] with at least one pixel, on the CPU.
        drawn: what happens in each stage that is applied.
        interpolation: as `apply` takes it.
        fill: as `apply` takes it.
    """
    nearest, values = interpolation_mode(interpolation) is _NEAREST, fill_values(fill)
    if isinstance(image, Image.Image):
        _pillow.check_mode(image)
        _check_fill(values, len(image.getbands()), 255)
        return _steps_pillow(image, drawn, nearest, values)
    _check_fill(values, image.shape[0], 255)
    plain = image if type(image) is Tensor else image.as_subclass(Tensor)
    before = after = np.ascontiguousarray(plain.numpy())[None]
    for index, parameter, centre in drawn:
        after = _prepared("uint8", index, parameter, nearest, values)(after, (centre,), None)
    result = torch.from_numpy(before[0].copy() if after is before else after[0])
    return result if plain is image else tv_tensors.wrap(result, like=image)


@functools.lru_cache(maxsize=4096)
def _prepared(form: str, index: int, parameter: float, nearest: bool, fill: Fill) -> Callable[[Any, Any, Any], Any]:
    """The "pillow" or the "uint8" form of an operation, as a function of (image, centre, partner).

    A policy has few parameters, and to put together what an operation takes would be a good part of the time of a small
    image. One without a partner is its own, which changes nothing.
    """
    operation = _OPERATIONS[index]
    function = getattr(operation, form)
    value = parameter if form == "pillow" else (parameter,)
    if "fill" in operation.takes:
        interpolation = _NEAREST if nearest else InterpolationMode.BILINEAR
        return lambda image, centre, partner: function(image, value, interpolation=interpolation, fill=fill)
    if "centre" in operation.takes:
        return lambda image, centre, partner: function(image, value, centre=centre)
    if "partner" in operation.takes:
        return lambda image, centre, partner: image if partner is None else function(image, value, partner=partner)
    return lambda image, centre, partner: function(image, value)


def _check(plan: Plan, count: int, fill: Fill, channels: int, highest: int) -> None:
    """Raise ValueError if the plan or the fill do not fit ``count`` images of so many channels."""
    if len(plan) != count:
        raise ValueError(f"the plan should have one row for each image, but has {len(plan)} for {count}")
    _check_fill(fill, channels, highest)


@functools.lru_cache(maxsize=64)
def _check_fill(fill: Fill, channels: int, highest: int) -> None:
    if len(fill) not in (1, channels):
        raise ValueError(f"fill should be one number or one for each of {channels} channels, but got {fill} instead")
    if not all(0 <= value <= highest for value in fill):
        raise ValueError(f"fill should be in [0, {highest}], the range of the images, but got {fill} instead")


Schedule = list[list[tuple[Operation, NDArray[np.int64]]]]


def _chosen(plan: Plan) -> NDArray[np.int64]:
    """Index of the operation that happens to each image in each stage, -1 if none, [B, K]; plan on the CPU."""
    last = len(_OPERATIONS) - 1
    operation, applied, partner = plan.operation.numpy(), plan.applied.numpy(), plan.partner.numpy()
    if operation.size and not 0 <= operation.min() <= operation.max() <= last:
        raise ValueError(f"plan.operation should be in [0, {last}], but got {np.unique(operation).tolist()} instead")
    pairing = operation == _PAIRING
    if len(plan) == 1:  # also of a row cut out of a larger plan, whose partner lies elsewhere
        applied = applied & ~pairing
    elif pairing.any():
        if ((partners := partner[pairing]) < 0).any() or (partners >= len(plan)).any():
            found = np.unique(partners).tolist()
            raise ValueError(f"plan.partner should be in [0, {len(plan) - 1}], but got {found} instead")
        applied = applied & ~(pairing & (partner == np.arange(len(plan))[:, None]))
    return np.where(applied, operation, -1)


def _schedule(plan: Plan) -> Schedule:
    """For each stage of a plan on the CPU, the operations that happen there, each with the rows [n] it happens to."""
    schedule = []
    for column in _chosen(plan).T:
        order = column.argsort(kind="stable")
        ends = np.bincount(column + 1).cumsum().tolist()
        schedule.append(
            [
                (_OPERATIONS[index], order[start:end])
                for index, (start, end) in enumerate(itertools.pairwise(ends))
                if start < end
            ]
        )
    return schedule


def _steps(plan: Plan) -> list[list[tuple[int, float, list[float], int]]]:
    """For each image of a plan on the CPU, what happens to it, stage by stage: a `Step` and the partner."""
    columns = (_chosen(plan), plan.parameter, plan.centre, plan.partner)
    return [
        [step for step in zip(*row, strict=True) if step[0] >= 0]
        for row in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _apply_pillow(image: Image.Image, plan: Plan, interpolation: InterpolationMode, fill: Fill) -> Image.Image:
    _pillow.check_mode(image)
    if image.mode == "I;16":
        # Pillow has no color operations for it, and its bilinear sampling mixes up the bytes of its values.
        tensor = _apply_tensor(torch.from_numpy(np.array(image))[None], plan, interpolation, fill, None)
        return Image.fromarray(tensor[0].numpy())
    _check(plan, 1, fill, len(image.getbands()), 255)
    steps = [step[:3] for step in _steps(plan.to("cpu"))[0]]
    return _steps_pillow(image, steps, interpolation is _NEAREST, fill)


def _steps_pillow(image: Image.Image, steps: Sequence[Step], nearest: bool, fill: Fill) -> Image.Image:
    result = image
    for index, parameter, centre in steps if 0 not in image.size else ():
        result = _prepared("pillow", index, parameter, nearest, fill)(result, centre, None)
    return image.copy() if result is image else result


def _apply_tensor(
    images: Tensor, plan: Plan, interpolation: InterpolationMode, fill: Fill, epilogue: Epilogue | None
) -> Tensor:
    if images.dtype not in _HIGHEST:
        accepted = ", ".join(map(str, _HIGHEST))
        raise TypeError(f"the dtype of images should be one of {accepted}, but got {images.dtype} instead")
    if images.ndim < 3:
        raise ValueError(f"images should have the shape [..., C, H, W], but got {list(images.shape)} instead")
    _check(plan, images.shape[:-3].numel(), fill, images.shape[-3], _HIGHEST[images.dtype])
    if images.numel() == 0:
        return images.clone() if epilogue is None else epilogue(images)
    batch = images.reshape(-1, *images.shape[-3:])
    if images.dtype == torch.uint8 and runs_kernels(images.device):
        result = _apply_on_gpu(batch, plan, interpolation, fill, epilogue)
        if result is not None:
            return result.reshape(images.shape)
    form = {torch.uint8: _apply_uint8, torch.uint16: _apply_uint16}.get(images.dtype, _apply_float)
    result = form(batch, plan.to("cpu"), interpolation, fill)
    result = result.to(images.device)
    return (result if epilogue is None else epilogue(result)).reshape(images.shape)


def _apply_on_gpu(
    images: Tensor, plan: Plan, interpolation: InterpolationMode, fill: tuple[float, ...], epilogue: Epilogue | None
) -> Tensor | None:
    """The kernels on [B, C, H, W]; None if they do not take these images or this plan."""
    from fasteraa_transforms.backends import cuda  # on first use: it needs Triton

    if plan.operation.device.type == "cpu":
        _chosen(plan)  # raises
    if not cuda.supports(images, plan):
        return None
    plan = plan.to(images.device)
    if epilogue is None:
        return cuda.apply_plan(images, plan, interpolation=interpolation, fill=fill)
    return cuda.apply_plan(
        images,
        plan,
        interpolation=interpolation,
        fill=fill,
        epilogue=epilogue.levels(images.shape[1], images.device),
        memory_format=epilogue.memory_format,
    )


def _apply_uint8(images: Tensor, plan: Plan, interpolation: InterpolationMode, fill: Fill) -> Tensor:
    """The exact forms on [B, C, H, W]; the result lies on the CPU."""
    before = np.ascontiguousarray(images.cpu().numpy())
    # Bilinear sampling has several intermediates in float64.
    nearest = interpolation is _NEAREST
    size = _CHUNK // before[0].size // (1 if nearest else 4)
    if size < 2:  # one large image at a time, which then stays in the cache
        result = np.empty_like(before)
        for image, steps, output in zip(before[:, None], _steps(plan), result, strict=True):
            for which, value, middle, other in steps:
                image = _prepared("uint8", which, value, nearest, fill)(image, (middle,), before[other, None])
            output[...] = image[0]
        return torch.from_numpy(result)
    result = before.copy()
    parameter, centre, partner = plan.parameter.numpy(), plan.centre.numpy(), plan.partner.numpy()
    for stage, groups in enumerate(_schedule(plan)):
        for operation, rows in groups:
            for start in range(0, len(rows), size):
                index = rows[start : start + size]
                takes: dict[str, Any] = {"interpolation": interpolation, "fill": fill}
                if "centre" in operation.takes:
                    takes["centre"] = centre[index, stage]
                if "partner" in operation.takes:
                    takes["partner"] = before[partner[index, stage]]
                keywords = {key: takes[key] for key in operation.takes}
                chosen = result.take(index, axis=0)  # in two thirds of the time of result[index]
                result[index] = operation.uint8(chosen, parameter[index, stage].tolist(), **keywords)
    return torch.from_numpy(result)


def _apply_uint16(images: Tensor, plan: Plan, interpolation: InterpolationMode, fill: Fill) -> Tensor:
    """The differentiable forms on [0, 1] in float64, which brings values back unchanged where nothing changes them."""
    result = _apply_float(images.double() / 65535, plan, interpolation, tuple(int(value) / 65535 for value in fill))
    return (result * 65535).round().to(torch.uint16)


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, without waiting for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _apply_float(images: Tensor, plan: Plan, interpolation: InterpolationMode, fill: Fill) -> Tensor:
    """The differentiable forms on [B, C, H, W], on the device of the images."""
    device = images.device
    before = images if images.dtype.itemsize >= 4 else images.float()
    result = before
    # The convolution in sharpness would otherwise lose up to a level to the 16 bits of an autocast region around us.
    with torch.autocast(device.type, enabled=False):
        for stage, steps in enumerate(_schedule(plan)):
            if not steps:
                continue
            untouched = np.ones(len(plan), dtype=bool)
            for _, rows in steps:
                untouched[rows] = False
            order = torch.from_numpy(np.concatenate([*(rows for _, rows in steps), untouched.nonzero()[0]]))
            # The images of an operation one after the other, each group a slice: two copies of the batch a stage
            # whatever the number of operations, nothing that waits for the device, nothing written in place.
            result = result[_send(order, device)]
            parameters, centres = _send(plan.parameter[order, stage], device), _send(plan.centre[order, stage], device)
            partners = _send(plan.partner[order, stage], device)
            outputs = []
            begin = 0
            for operation, rows in steps:
                group = slice(begin, begin + len(rows))
                begin = group.stop
                takes: dict[str, Any] = {"interpolation": interpolation, "fill": fill, "centre": centres[group]}
                if "partner" in operation.takes:
                    takes["partner"] = before[partners[group]]
                keywords = {key: takes[key] for key in operation.takes}
                outputs.append(operation.differentiable(result[group], parameters[group], **keywords))
            result = torch.cat([*outputs, result[begin:]])[_send(order.argsort(), device)]
    return images.clone() if result is before else result.to(images.dtype)
