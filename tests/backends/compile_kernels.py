"""Compiles every kernel to machine code, no GPU needed: prints its name and its fused multiply-adds,
those on float32 and those on float64.

    python tests/backends/compile_kernels.py 90

The argument is the compute capability. Needs a Triton that compiles (no TRITON_INTERPRET=1). The last line is a kernel
compiled as Triton would by itself, which has to have some.
"""

import re
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fasteraa_transforms.backends.cuda import _kernels

POINTERS = {
    "u8": "images originals fill tables applied",
    "i32": "records histograms",
    "i64": "candidates operation partner sub_policy",
    "fp32": "epilogue",
    "fp64": "parameters parameter matrices uniform cumulative probability centre",
}
TYPES = {name: f"*{dtype}" for dtype, names in POINTERS.items() for name in names.split()}
ONES = ("column_stride", "original_column_stride", "out_pixel_stride")


def fused(kernel: Any, capability: int, *, fusion: bool = False, epilogue: bool = False, **constants: object) -> str:
    """Compile a kernel for contiguous images; the numbers of its fused multiply-adds."""
    constants |= {name: 1 for name in ONES if name in kernel.arg_names}
    types = {**TYPES, "out": "*fp32" if epilogue else "*u8"}
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
    source = ASTSource(kernel, signature, constants)
    options = {"enable_fp_fusion": fusion}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return " ".join(str(len(re.findall(rf"\b{name}\b", compiled.asm["sass"]))) for name in ("FFMA", "DFMA"))


def main() -> None:
    capability = int(sys.argv[1])
    image = {"C": 3, "DENSE": True, "BLOCK": 512, "TILES": 16}
    print("draw", fused(_kernels.draw, capability, BLOCK=64, stages=2, widest=17))
    print("prepare", fused(_kernels.prepare, capability, C=3, CLEAR=True))
    print("look_up_tables", fused(_kernels.look_up_tables, capability, C=3))
    for bilinear in (False, True):
        shared = {**image, "BILINEAR": bilinear}
        print("histogram", fused(_kernels.histogram, capability, **shared, STAGE=1))
        print("small", fused(_kernels.small, capability, **shared, STAGES=2, EPILOGUE=False))
        for plain in (False, True):
            options = {**shared, "STAGES": 2, "PLAIN": plain}
            print("pixels", fused(_kernels.pixels, capability, epilogue=True, EPILOGUE=True, **options))
    print("control", fused(_kernels.pixels, capability, fusion=True, EPILOGUE=False, **options))


if __name__ == "__main__":
    main()
