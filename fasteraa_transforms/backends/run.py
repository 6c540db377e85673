"""Names that are moving to `fasteraa_transforms.backends`."""

from fasteraa_transforms.backends import apply, apply_one
from fasteraa_transforms.backends.device import runs_kernels
from fasteraa_transforms.backends.floats import through_stages as _apply_stages
from fasteraa_transforms.backends.options import fill_values, interpolation_mode

__all__ = ["_apply_stages", "apply", "apply_one", "fill_values", "interpolation_mode", "runs_kernels"]
