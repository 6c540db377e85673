"""The host's part: it turns a plan into launches of kernels, and never waits for the device.

Every function also runs in Triton's interpreter (``TRITON_INTERPRET=1`` before Triton is imported), on the CPU.
"""

import contextlib
import functools
import math
from typing import Any

import torch
import triton
from torch import Tensor
from torchvision.transforms import InterpolationMode

from fasteraa_transforms.backends.cuda import passes, stage
from fasteraa_transforms.backends.cuda.frame import Images, Planes, Target
from fasteraa_transforms.backends.cuda.geometry import COEFFICIENTS
from fasteraa_transforms.backends.cuda.stage import Rows
from fasteraa_transforms.operations.geometry import FIXED_POINT_LIMIT, Affine, Term
from fasteraa_transforms.operations.table import OPERATIONS, Operation
from fasteraa_transforms.plan import Plan

_LONGEST = FIXED_POINT_LIMIT // 2  # height or width up to which `_reach` holds
_SMALL = 4096  # pixels of a channel up to which one program makes an image, its statistics included
_SCRATCH = 2**26  # bytes of tables and histograms at a time: more images than fit are taken slice by slice
_CHUNK = 8192  # pixels of a program
# Pixels at a time by 128 threads, and registers of a thread: what the kernels, compiled for compute capability 9.0,
# take with hardly a spill. The plain kernel moves 8 bytes a load, with 8 programs on a multiprocessor; the other has 4.
_BLOCK, _REGISTERS = 512, 128
_PLAIN_BLOCK, _PLAIN_REGISTERS = 1024, 64
_SMALL_BLOCK, _SMALL_WARPS = 1024, 8
_DRAW_BLOCK = 64


def supports(images: Tensor, plan: Plan) -> bool:
    """Whether the kernels are exact on images [B, C, H, W] of this size, and with the parameters of a plan on the CPU.

    They compute in fixed point, as Pillow does if no coordinate can reach 32768. For a plan on another device,
    parameters are not checked, only whether the kernels know all operations.
    """
    if max(images.shape[-2:]) > _LONGEST:
        return False
    reaches = _reaches(tuple(OPERATIONS))
    if plan.operation.device.type == "cpu":
        return bool((plan.parameter.abs() <= reaches[plan.operation]).all())
    return bool((reaches >= 0).all())


def apply_plan(
    images: Tensor,  # uint8 [B, C, H, W]
    plan: Plan,
    *,
    interpolation: InterpolationMode = InterpolationMode.NEAREST,
    fill: tuple[float, ...] = (0,),
    epilogue: Tensor | None = None,  # [C, 256]
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:  # [B, C, H, W]
    """Apply a plan to a batch; twin of the uint8 form of `fasteraa_transforms.backends.cpu`.

    It launches 1 + ceil(K / 2) kernels for images of up to 4096 pixels, and 1 + 2 K + 2 ceil(K / 2) for larger ones.
    Every further 64 MiB of tables need the same number of launches again. A call can be captured in a CUDA graph if its
    plan lies on the device and the same call was made once before.

    Args:
        images: uint8 [B, C, H, W] of any strides, not written to; see `supports` for the size.
        plan: B rows, on the device of the images. Its values are not checked: an image outside of the batch becomes the
            nearest one in it, and an operation that does not exist does nothing.
        interpolation: NEAREST, or BILINEAR.
        fill: one number, or one a channel, in [0, 255].
        epilogue: [C, 256] on the device of the images, what is written for a level of a channel.
        memory_format: of the result.

    Returns:
        [B, C, H, W], uint8, or of the dtype of ``epilogue``.

    Raises:
        ValueError: the plan has another length.
    """
    batch, channels, height, width = images.shape
    if len(plan) != batch:
        raise ValueError(f"the plan should have one row for each image, but has {len(plan)} for {batch}")
    dtype = torch.uint8 if epilogue is None else epilogue.dtype
    out = torch.empty(images.shape, dtype=dtype, device=images.device, memory_format=memory_format)
    if out.numel() == 0:
        return out
    if plan.stages == 0:
        plan = _still(plan)
    bilinear = interpolation is InterpolationMode.BILINEAR
    colour = _fill(fill, channels, images.device)
    small = height * width <= _SMALL
    a_stage = channels * 256 * (1 if small else 5)  # bytes: a table, and a histogram of int32
    size = max(1, _SCRATCH // (plan.stages * a_stage))
    with _device_of(images):
        for begin in range(0, batch, size):
            part = slice(begin, min(begin + size, batch))
            _apply_slice(images, begin, plan[part], out[part], colour, bilinear, epilogue, small)
    return out


def _apply_slice(
    originals: Tensor,  # uint8 [B, C, H, W]
    begin: int,
    plan: Plan,
    out: Tensor,  # [len(plan), C, H, W], written
    fill: Tensor,  # uint8 [C]
    bilinear: bool,
    epilogue: Tensor | None,
    small: bool,
) -> None:
    """Make the images from `begin` on, as many as the plan has rows."""
    (batch, channels, height, width), stages = out.shape, plan.stages
    rows = _prepare(originals, begin, plan, small)
    before = originals[begin : begin + batch]
    for base in range(0, stages, 2):
        count = min(2, stages - base)
        last = base + count == stages
        after = out if last else torch.empty(out.shape, dtype=torch.uint8, device=out.device)
        inputs = {
            "images": Images(_planes(before), _planes(originals), fill, height, width),
            "rows": rows,
            "stages": stages,
            "base": base,
            "C": channels,
            "DENSE": before.stride(2) == width * before.stride(3),
            "BILINEAR": bilinear,
        }
        levels = epilogue if last else None
        outputs = {
            "target": Target(after, levels, after.stride(0), after.stride(1), after.stride(3)),
            "STAGES": count,
            "EPILOGUE": levels is not None,
        }
        if small:
            tiles = triton.cdiv(height * width, _SMALL_BLOCK)
            _launch(passes.small, batch, _SMALL_WARPS, **inputs, **outputs, BLOCK=_SMALL_BLOCK, TILES=tiles)
        else:
            _launch_in_chunks(batch, inputs, outputs)
        before = after


def _prepare(originals: Tensor, begin: int, plan: Plan, small: bool) -> Rows:
    """Launch `passes.prepare`, which fills what it returns: the rows of all images and stages of the plan."""
    (total, channels, height, width), device = originals.shape, originals.device
    batch, stages = plan.operation.shape
    kinds, coefficients = _operations_on(device, tuple(OPERATIONS))
    rows = Rows(
        records=torch.empty(batch, stages, stage.NUMBERS.value, dtype=torch.int32, device=device),
        matrices=torch.empty(batch, stages, 6, dtype=torch.float64, device=device),
        tables=torch.empty(batch, stages, channels, 256, dtype=torch.uint8, device=device),
        histograms=torch.empty(0 if small else (batch, stages, channels, 256), dtype=torch.int32, device=device),
    )
    _launch(
        passes.prepare,
        batch * stages,
        num_warps=1,
        kinds=kinds,
        coefficients=coefficients,
        operations=len(kinds),
        operation=plan.operation.contiguous(),
        parameter=plan.parameter.contiguous(),
        applied=plan.applied.contiguous().view(torch.uint8),
        centre=plan.centre.contiguous(),
        partner=plan.partner.contiguous(),
        rows=rows,
        stages=stages,
        begin=begin,
        batch=total,
        height=height,
        width=width,
        C=channels,
        CLEAR=not small,
    )
    return rows


def _launch_in_chunks(batch: int, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    """One pass over images of which one program would take too long."""
    images, rows, channels = inputs["images"], inputs["rows"], inputs["C"]
    pixels = images.height * images.width
    chunks = triton.cdiv(pixels, _CHUNK)
    for which in range(outputs["STAGES"]):
        _launch(
            passes.histogram,
            batch * channels * chunks,
            **inputs,
            chunks=chunks,
            STAGE=which,
            BLOCK=_BLOCK,
            TILES=_CHUNK // _BLOCK,
        )
        _launch(
            passes.look_up_tables,
            batch,
            num_warps=1,
            rows=rows,
            stages=inputs["stages"],
            stage=inputs["base"] + which,
            pixels_of_channel=pixels,
            C=channels,
        )
    for plain, block, registers in ((True, _PLAIN_BLOCK, _PLAIN_REGISTERS), (False, _BLOCK, _REGISTERS)):
        _launch(
            passes.pixels,
            batch * chunks,
            **inputs,
            **outputs,
            chunks=chunks,
            PLAIN=plain,
            BLOCK=block,
            TILES=_CHUNK // block,
            maxnreg=registers,
        )


def draw_plan(
    uniform: Tensor,  # float64 [B, 1 + 6 K]
    tables: dict[str, Tensor],
) -> Plan:
    """A plan out of random numbers; twin of the part of ``Policy.sample`` after ``torch.rand``, in one launch.

    Args:
        uniform: float64 [B, 1 + 6 K], in [0, 1).
        tables: those of ``Policy.sample``, on the device of ``uniform``.

    Returns:
        A plan for B images, on that device.
    """
    batch, device = len(uniform), uniform.device
    sub_policies, stages, widest = tables["cumulative"].shape
    plan = Plan(
        operation=torch.empty(batch, stages, dtype=torch.int64, device=device),
        parameter=torch.empty(batch, stages, dtype=torch.float64, device=device),
        applied=torch.empty(batch, stages, dtype=torch.bool, device=device),
        centre=torch.empty(batch, stages, 2, dtype=torch.float64, device=device),
        partner=torch.empty(batch, stages, dtype=torch.int64, device=device),
        sub_policy=torch.empty(batch, dtype=torch.int64, device=device),
    )
    if batch == 0:
        return plan
    with _device_of(uniform):
        _launch(
            passes.draw,
            triton.cdiv(batch, _DRAW_BLOCK),
            num_warps=2,
            uniform=uniform,
            cumulative=tables["cumulative"],
            candidates=tables["operation"],
            probability=tables["probability"],
            parameters=tables["parameter"],
            operation=plan.operation,
            parameter=plan.parameter,
            applied=plan.applied.view(torch.uint8),
            centre=plan.centre,
            partner=plan.partner,
            sub_policy=plan.sub_policy,
            batch=batch,
            sub_policies=sub_policies,
            stages=stages,
            widest=widest,
            BLOCK=_DRAW_BLOCK,
        )
    return plan


# --- what is known of an operation ------------------------------------------------------------------------------------

# The operations that have code of their own in the kernels. Every affine one has the same.
_KINDS: dict[str, int] = {
    name: getattr(stage, name.upper()).value
    for name in (
        *("solarize", "posterize", "invert", "brightness", "contrast", "auto_contrast", "equalize"),
        *("color", "cutout", "sample_pairing", "sharpness"),
    )
}


@functools.lru_cache(maxsize=64)
def _operations_on(device: torch.device, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """What `passes.prepare` knows of the operations: kinds, int32 [N], and coefficients, float64 [N, COEFFICIENTS]."""
    kinds = torch.zeros(len(names), dtype=torch.int32)
    coefficients = torch.zeros(len(names), COEFFICIENTS.value, dtype=torch.float64)
    for i, row in enumerate(OPERATIONS[name] for name in names):
        if isinstance(row.kind, Affine):
            kinds[i] = stage.AFFINE.value
            coefficients[i] = torch.tensor((*row.kind.coefficients(), row.kind.turns), dtype=torch.float64)
        else:
            kinds[i] = _KINDS.get(row.name, stage.SKIP.value)
    return kinds.to(device), coefficients.to(device)


@functools.lru_cache(maxsize=64)
def _reaches(names: tuple[str, ...]) -> Tensor:  # float64 [N], on the CPU
    return torch.tensor([_reach(OPERATIONS[name]) for name in names], dtype=torch.float64)


def _reach(operation: Operation) -> float:
    """The largest absolute parameter that the kernels are exact with; below 0 if there is none.

    For affine maps it is on the safe side: coordinates in units of the longest side stay below 2, by 1 %.
    """
    kind = operation.kind
    if not isinstance(kind, Affine):
        return math.inf if operation.name in _KINDS else -1.0
    if kind.scales:  # Pillow adds up coordinates one by one
        return -1.0
    # A corner is at most one side away from the corner that stays in its place, or half of one from the centre.
    distance, offset = (0.5, 0.5) if kind.about_centre else (1.0, 0.0)
    reaches = []
    for terms, shift in (((kind.a, kind.b), kind.shift_x), ((kind.d, kind.e), kind.shift_y)):
        least = offset + distance * sum(map(_bounded_part, terms))
        growth = abs(shift) + distance * sum(abs(term.parameter) for term in terms)
        reaches.append(0.99 * (2 - least) / growth if growth else math.copysign(math.inf, 2 - least))
    return min(reaches)


def _bounded_part(term: Term) -> float:
    """What the absolute value of a term is at most, without the part that grows with the parameter."""
    return abs(term.one) + math.hypot(term.cosine, term.sine)


# --- small things -----------------------------------------------------------------------------------------------------


def _launch(kernel: Any, grid: int, num_warps: int = 4, **arguments: Any) -> None:
    # A fused multiply-add would round once where Pillow rounds twice.
    kernel[(grid,)](**arguments, num_warps=num_warps, enable_fp_fusion=False)


def _device_of(images: Tensor) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device_of(images) if images.is_cuda else contextlib.nullcontext()


def _planes(images: Tensor) -> Planes:
    return Planes(images, *images.stride())


@functools.lru_cache(maxsize=64)
def _fill(fill: tuple[float, ...], channels: int, device: torch.device) -> Tensor:  # uint8 [C]
    # Copied to the device once: a copy out of ordinary memory waits for it.
    values = fill * channels if len(fill) == 1 else fill
    return torch.tensor([int(value) for value in values], dtype=torch.uint8).to(device)


def _still(plan: Plan) -> Plan:
    """A plan of no stages as one of a stage in which nothing happens."""
    batch, device = len(plan), plan.operation.device
    return Plan(
        operation=torch.zeros(batch, 1, dtype=torch.int64, device=device),
        parameter=torch.zeros(batch, 1, dtype=torch.float64, device=device),
        applied=torch.zeros(batch, 1, dtype=torch.bool, device=device),
        centre=torch.zeros(batch, 1, 2, dtype=torch.float64, device=device),
        partner=torch.zeros(batch, 1, dtype=torch.int64, device=device),
        sub_policy=plan.sub_policy,
    )
