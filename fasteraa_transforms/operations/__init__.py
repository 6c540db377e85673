"""What each image operation does: one table, and the forms of its operations for PIL images, bytes and floats."""

from fasteraa_transforms.operations.extras import Extras
from fasteraa_transforms.operations.geometry import Affine, Term
from fasteraa_transforms.operations.kinds import Blend, Histogram, Kind, Levels, Mix, Paste
from fasteraa_transforms.operations.table import OPERATIONS, Operation

__all__ = [
    "OPERATIONS",
    "Affine",
    "Blend",
    "Extras",
    "Histogram",
    "Kind",
    "Levels",
    "Mix",
    "Operation",
    "Paste",
    "Term",
]
