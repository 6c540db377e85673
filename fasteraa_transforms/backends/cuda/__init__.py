"""A plan applied to a uint8 batch on a GPU, in a few launches, byte for byte as on the CPU.

Nothing imports this package but `apply` and `Policy.sample`, on the first batch that lies on a GPU, so a machine
without Triton loses nothing. Root ``cuda/README.md`` says how the kernels work and what they cost.

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

from fasteraa_transforms.backends.cuda import _kernels
from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.plan import Plan

__all__ = ["apply_plan", "draw_plan", "supports"]

_LONGEST = 16384  # height or width up to which every parameter of the table stays in Pillow's 16.16 fixed point
# Largest absolute parameter with which that holds; any rotation does.
_FARTHEST = torch.tensor([0.99 if name.startswith(("shear", "translate")) else math.inf for name in OPERATIONS])
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

    Beyond, coordinates may reach 32768, where Pillow leaves fixed point. Those of a plan elsewhere are not looked at.
    """
    if max(images.shape[-2:]) > _LONGEST:
        return False
    return plan.operation.device.type != "cpu" or bool((plan.parameter.abs() <= _FARTHEST[plan.operation]).all())


def apply_plan(
    images: Tensor,
    plan: Plan,
    *,
    interpolation: InterpolationMode = InterpolationMode.NEAREST,
    fill: tuple[float, ...] = (0,),
    epilogue: Tensor | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Apply a plan to a batch; twin of the uint8 form of `fasteraa_transforms.backends.cpu`.

    Launches 1 + ceil(K / 2) kernels for images of up to 4096 pixels, and for larger ones 1 + 2 K + 2 ceil(K / 2); the
    same again for each further 64 MiB of tables. Nothing waits for the device, and with a plan that lies there it can
    be captured in a CUDA graph, after one call outside of it.

    Args:
        images: uint8 [B, C, H, W] of any strides, not written to; see `supports` for the size.
        plan: B rows, on the device of the images. Its values are not looked at: an image outside of the batch becomes
            the nearest one in it, and an operation that does not exist does nothing.
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
    options: dict[str, Any] = {"BILINEAR": bilinear, "fill": _fill(fill, channels, images.device)}
    small = height * width <= _SMALL
    a_stage = channels * 256 * (1 if small else 5)  # bytes: a table, and a histogram of int32
    size = max(1, _SCRATCH // (plan.stages * a_stage))
    with torch.cuda.device_of(images) if images.is_cuda else contextlib.nullcontext():
        for begin in range(0, batch, size):
            part = slice(begin, min(begin + size, batch))
            _apply_slice(images, begin, plan[part], out[part], epilogue, small, options)
    return out


def _apply_slice(
    originals: Tensor,
    begin: int,
    plan: Plan,
    out: Tensor,
    epilogue: Tensor | None,
    small: bool,
    options: dict[str, Any],
) -> None:
    """Write the images from `begin` on that the plan is for to `out`."""
    (batch, channels, height, width), stages = out.shape, plan.stages
    device = originals.device
    images = originals[begin : begin + batch]
    records = torch.empty(batch, stages, int(_kernels.RECORD), dtype=torch.int32, device=device)
    matrices = torch.empty(batch, stages, 6, dtype=torch.float64, device=device)
    tables = torch.empty(batch, stages, channels, 256, dtype=torch.uint8, device=device)
    counts = torch.empty(0 if small else (batch, stages, channels, 256), dtype=torch.int32, device=device)
    parameters = plan.parameter.contiguous()
    _launch(
        _kernels.prepare,
        batch * stages,
        operation=plan.operation.contiguous(),
        parameter=parameters,
        applied=plan.applied.contiguous().view(torch.uint8),
        centre=plan.centre.contiguous(),
        partner=plan.partner.contiguous(),
        records=records,
        matrices=matrices,
        tables=tables,
        histograms=counts,
        begin=begin,
        batch=len(originals),
        height=height,
        width=width,
        stages=stages,
        C=channels,
        CLEAR=not small,
        num_warps=1,
    )
    for base in range(0, stages, 2):
        count = min(2, stages - base)
        last = base + count == stages
        target = out if last else torch.empty(out.shape, dtype=torch.uint8, device=device)
        frame: dict[str, Any] = {
            "images": images,
            "originals": originals,
            "parameters": parameters,
            "records": records,
            "matrices": matrices,
            "tables": tables,
            **_strides(images, ""),
            **_strides(originals, "original_"),
            "height": height,
            "width": width,
            "stages": stages,
            "base": base,
            "C": channels,
            "DENSE": images.stride(2) == width * images.stride(3),
            **options,
        }
        write: dict[str, Any] = {
            "out": target,
            "epilogue": epilogue if last else None,
            "EPILOGUE": last and epilogue is not None,
            "out_image_stride": target.stride(0),
            "out_channel_stride": target.stride(1),
            "out_pixel_stride": target.stride(3),
            "STAGES": count,
        }
        if small:
            _launch(
                _kernels.small,
                batch,
                **frame,
                **write,
                BLOCK=_SMALL_BLOCK,
                TILES=triton.cdiv(height * width, _SMALL_BLOCK),
                num_warps=_SMALL_WARPS,
            )
        else:
            chunks = triton.cdiv(height * width, _CHUNK)
            for stage in range(count):
                grid = batch * channels * chunks
                _launch(
                    _kernels.histogram,
                    grid,
                    **frame,
                    histograms=counts,
                    chunks=chunks,
                    STAGE=stage,
                    BLOCK=_BLOCK,
                    TILES=_CHUNK // _BLOCK,
                )
                _launch(
                    _kernels.look_up_tables,
                    batch,
                    histograms=counts,
                    parameters=parameters,
                    records=records,
                    tables=tables,
                    pixels_of_channel=height * width,
                    stages=stages,
                    stage=base + stage,
                    C=channels,
                    num_warps=1,
                )
            for plain in (True, False):
                block = _PLAIN_BLOCK if plain else _BLOCK
                _launch(
                    _kernels.pixels,
                    batch * chunks,
                    **frame,
                    **write,
                    chunks=chunks,
                    PLAIN=plain,
                    BLOCK=block,
                    TILES=_CHUNK // block,
                    maxnreg=_PLAIN_REGISTERS if plain else _REGISTERS,
                )
        images = target


def draw_plan(uniform: Tensor, tables: dict[str, Tensor]) -> Plan:
    """A plan out of random numbers; twin of the part of ``Policy.sample`` after ``torch.rand``, in one launch.

    Args:
        uniform: float64 [B, 1 + 6 K], in [0, 1).
        tables: those of ``Policy.sample``, on the device of ``uniform``.
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
    with torch.cuda.device_of(uniform) if uniform.is_cuda else contextlib.nullcontext():
        _launch(
            _kernels.draw,
            triton.cdiv(batch, _DRAW_BLOCK),
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
            num_warps=2,
        )
    return plan


def _launch(kernel: Any, grid: int, num_warps: int = 4, **arguments: Any) -> None:
    # A fused multiply-add would round once where Pillow rounds twice.
    kernel[(grid,)](**arguments, num_warps=num_warps, enable_fp_fusion=False)


def _strides(images: Tensor, prefix: str) -> dict[str, int]:
    names = (f"{prefix}{axis}_stride" for axis in ("image", "channel", "row", "column"))
    return dict(zip(names, images.stride(), strict=True))


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
