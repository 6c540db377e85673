"""Compiles every kernel to machine code, no GPU needed, for all the launches that batches of RGB images make.

    python tests/backends/compile_kernels.py 90 [--registers]

The argument is the compute capability. Each line is a kernel: its name, its fused multiply-adds on float32 and those on
float64, and what it was compiled for. With --registers, the registers of a thread and the bytes that it spills (stored)
stand before that. The last line is a kernel compiled as Triton would by itself, which has to have fused multiply-adds.

Needs a Triton that compiles (no TRITON_INTERPRET=1).
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from torchvision.transforms import InterpolationMode
from triton.backends.compiler import GPUTarget

from fasteraa_transforms import Policy
from fasteraa_transforms.backends.cuda import launch
from fasteraa_transforms.policy.sampling import tables_of

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHOWN = ("STAGES", "STAGE", "PLAIN", "BILINEAR", "EPILOGUE", "CLEAR", "maxnreg")


def compiled(kernel: Any, grid: int, num_warps: int = 4, *, fusion: bool = False, **arguments: Any) -> Any:
    """What a launch of a kernel would run."""
    return kernel.warmup(grid=(grid,), num_warps=num_warps, enable_fp_fusion=fusion, **arguments)


def registers(ptx: str, capability: int) -> tuple[int, int]:
    """Registers of a thread and bytes of spill stores, from ``ptxas -v``."""
    assembler = TOOLS / ("ptxas-blackwell" if capability >= 100 else "ptxas")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        architecture = f"--gpu-name=sm_{capability}{'a' if capability >= 90 else ''}"
        command = [assembler, "-v", "--fmad=false", architecture, path, "-o", path.with_suffix(".cubin")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return int(re.search(r"Used (\d+) registers", said)[1]), int(re.search(r"(\d+) bytes spill stores", said)[1])


def fused(kernel: Any) -> str:
    """The numbers of fused multiply-adds of what was compiled."""
    return " ".join(str(len(re.findall(rf"\b{name}\b", kernel.asm["sass"]))) for name in ("FFMA", "DFMA"))


def main() -> None:
    capability = int(sys.argv[1])
    triton.runtime.driver.set_active(
        SimpleNamespace(
            get_current_device=lambda: 0,
            get_current_stream=lambda _: 0,
            get_current_target=lambda: GPUTarget("cuda", capability, 32),
        )
    )
    seen = set()
    last: dict[str, Any] = {}

    def show(kernel: Any, grid: int, num_warps: int = 4, **arguments: Any) -> None:
        options = " ".join(f"{key}={int(arguments[key])}" for key in SHOWN if key in arguments)
        if (kernel.__name__, options) in seen:
            return
        seen.add((kernel.__name__, options))
        if kernel.__name__ == "pixels":
            last.update(kernel=kernel, grid=grid, **arguments)
        result = compiled(kernel, grid, num_warps, **arguments)
        numbers = registers(result.asm["ptx"], capability) if "--registers" in sys.argv else ()
        print(kernel.__name__, fused(result), *numbers, options, flush=True)

    launch._launch = show
    policy = Policy([[[{"operation": "flip", "weight": 1, "probability": 1}]] * 3])
    launch.draw_plan(torch.rand(64, 19, dtype=torch.float64), vars(tables_of(policy.sub_policies)))
    levels = torch.zeros(3, 256)
    for side in (32, 224):  # small images and larger ones
        images = torch.zeros(16, 3, side, side, dtype=torch.uint8)
        for interpolation in (InterpolationMode.NEAREST, InterpolationMode.BILINEAR):
            # A pass of two stages, and one of one stage with the epilogue.
            launch.apply_plan(images, policy.sample(16), interpolation=interpolation, epilogue=levels)
    print("control", fused(compiled(**last, fusion=True)))


if __name__ == "__main__":
    main()
