"""A plan applied to a uint8 batch on a GPU, in a few launches, byte for byte as on the CPU.

`fasteraa_transforms.backends` and `Policy.sample` import this package on the first batch that lies on a GPU, and
nothing else does: a machine without Triton loses nothing. Root ``cuda/README.md`` says how the kernels work and what
they cost.
"""

from fasteraa_transforms.backends.cuda.launch import apply_plan, draw_plan, supports

__all__ = ["apply_plan", "draw_plan", "supports"]
