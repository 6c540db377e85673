"""What each image operation does: one table, and the forms of its operations for PIL images, bytes and floats."""

from fasteraa_transforms.operations.table import OPERATIONS, Operation

__all__ = ["OPERATIONS", "Operation"]
