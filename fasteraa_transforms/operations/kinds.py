"""The kinds of operations: what sort of change one makes, and the data that says which."""

from collections.abc import Callable
from dataclasses import dataclass

from fasteraa_transforms.operations.geometry import Affine


@dataclass(frozen=True)
class Levels:
    """A map of levels: what a value becomes depends on that value and on the parameter alone.

    Attributes:
        table: gives, at a parameter, the 256 levels that the levels 0 to 255 become.

    Example:
        >>> darken = Levels(lambda factor: bytes(int(level * factor) for level in range(256)))
        >>> darken.table(0.5)[100]
        50
    """

    table: Callable[[float], bytes]


@dataclass(frozen=True)
class Histogram:
    """A map of levels whose table depends on all values of the image, or of each channel."""


@dataclass(frozen=True)
class Blend:
    """A blend of the image with another one that is made of it. The parameter is the weight of the image."""


@dataclass(frozen=True)
class Paste:
    """A square of one colour. Its centre is drawn."""


@dataclass(frozen=True)
class Mix:
    """A blend with another image of the batch. The parameter is the weight of that image."""


Kind = Affine | Levels | Histogram | Blend | Paste | Mix
