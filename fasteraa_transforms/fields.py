"""The ranges of settings: each field names its range beside its default, and one function checks them all."""

import math
import operator
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch

RANGE = "range"
"""Key of a field's metadata."""

Rule = Callable[[float], bool]


@dataclass(frozen=True)
class Range:
    """Which numbers a field holds.

    Attributes:
        rules: what a number should do, in the words of a message, such as "be positive", each with a function that
            checks it. NaN fails them all. A message names the first rule that fails.
        most: its largest whole number.
        hint: what a message says at its end.
    """

    rules: Mapping[str, Rule]
    most: int = 2**31 - 1  # larger ones overflow in PyTorch
    hint: str = ""

    @property
    def words(self) -> str:
        """Which numbers these are, for a help.

        Example:
            >>> FRACTION["range"].words, EVEN["range"].words
            ('in [0, 1)', 'not negative, even')
        """
        return ", ".join(rule.replace("be ", "", 1) for rule in self.rules)

    @property
    def metadata(self) -> dict[str, "Range"]:
        """For a field of a dataclass."""
        return {RANGE: self}


_POSITIVE: dict[str, Rule] = {"be positive": lambda value: value > 0}
_NOT_NEGATIVE: dict[str, Rule] = {"not be negative": lambda value: value >= 0}
_EVEN: dict[str, Rule] = {"be even": lambda value: value % 2 == 0}

POSITIVE = Range(_POSITIVE).metadata
NOT_NEGATIVE = Range(_NOT_NEGATIVE).metadata
FRACTION = Range({"be in [0, 1)": lambda value: 0 <= value < 1}).metadata
EVEN = Range(_NOT_NEGATIVE | _EVEN).metadata
HALVED = Range(_POSITIVE | {"be even (half is augmented)": lambda value: value % 2 == 0}).metadata
SIDE = Range({"be at least 2 pixels": lambda value: value >= 2}).metadata
SEED = Range({f"be in [0, {2**32})": lambda value: 0 <= value < 2**32}, most=2**32 - 1).metadata
"""Of seeds: what NumPy and PyTorch both take, times the replicates of a race."""
STRENGTH = Range(_POSITIVE, hint="; no augmentation is the contender none").metadata
LABEL = Range({f"be in [{-(2**31)}, {2**31})": lambda value: -(2**31) <= value < 2**31}).metadata
"""Of values of masks, which alone may be negative."""


def check_fields(settings: Any) -> None:
    """Check every field of a dataclass by its type and, of numbers, by its range.

    Call it in ``__post_init__``. A field of a number has its range in its metadata: ``epochs: int = field(default=3,
    metadata=POSITIVE)``. The range of a tuple is that of each of its numbers. No number is NaN or infinite, and True is
    no number. Equal values are converted to the type of the field: lists to tuples, scalars of NumPy and PyTorch to
    numbers, 4e3 to the whole number 4000, paths and devices to text.

    Args:
        settings: instance of a dataclass; may be frozen.

    Raises:
        ValueError: a field holds something else; names it.
        TypeError: the dataclass has a field of a number without a range, or of a type that is not known here.

    Example:
        >>> from dataclasses import field
        >>> @dataclass(frozen=True)
        ... class Rates:
        ...     betas: tuple[float, float] = field(default=(0.0, 0.9), metadata=FRACTION)
        ...     minutes: float | None = field(default=None, metadata=POSITIVE)
        ...     def __post_init__(self) -> None:
        ...         check_fields(self)
        >>> Rates(betas=[0, 0.5])
        Rates(betas=(0, 0.5), minutes=None)
        >>> Rates(minutes=float("inf"))
        Traceback (most recent call last):
        ValueError: minutes should be finite, but got inf instead
    """
    hints = get_type_hints(type(settings))
    for each in fields(settings):
        value = getattr(settings, each.name)
        try:
            taken = _taken(value, hints[each.name], each.metadata.get(RANGE))
        except _Refused as refused:
            raise ValueError(refused.message(each.name, value)) from None
        object.__setattr__(settings, each.name, taken)


def check_number(name: str, value: Any, kind: type[int] | type[float], range: Mapping[str, Range]) -> None:
    """Check a number that is no field, as `check_fields` does.

    Args:
        name: of the number, for the message.
        value: to check.
        kind: int or float.
        range: POSITIVE, say.

    Raises:
        ValueError: it is no number of the range.

    Example:
        >>> check_number("minutes", 0, float, POSITIVE)
        Traceback (most recent call last):
        ValueError: minutes should be positive, but got 0 instead
    """
    try:
        _taken(value, kind, range[RANGE])
    except _Refused as refused:
        raise ValueError(refused.message(name, value)) from None


class _Refused(Exception):
    """A value should do something, and does not."""

    def __init__(self, should: str, hint: str = "") -> None:
        self.should, self.hint = should, hint

    def message(self, name: str, value: Any) -> str:
        """For the user."""
        return f"{name} should {self.should}, but got {_shown(value)} instead{self.hint}"


def _shown(value: Any) -> str:
    """A value for a message: text in quotes, in one line, and not all of it where it is long."""
    try:
        shown = repr(value)
    except ValueError:  # a number of very many digits
        return "a very large number"
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def _taken(value: Any, kind: Any, range: Range | None) -> Any:
    """The value as its type has it."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in inner:
            return None
        words = [word for each in inner if get_origin(each) is Literal for word in get_args(each)]
        (kind,) = (each for each in inner if each is not NoneType and get_origin(each) is not Literal)
        if words and isinstance(value, str):  # a number, or a word such as own
            if value not in words:
                raise _Refused(f"be a whole number or {' or '.join(words)}")
            return value
        return _taken(value, kind, range)
    if origin is Literal:
        if not isinstance(value, str) or value not in inner:
            raise _Refused(f"be {', '.join(inner[:-1])} or {inner[-1]}")
        return value
    if origin is tuple:
        return _tuple(value, inner, range)
    if kind not in _PLAIN:
        raise TypeError(f"a field of settings should be of a known type, but got {kind} instead")
    return _PLAIN[kind](value, range)


def _tuple(value: Any, inner: tuple[Any, ...], range: Range | None) -> tuple[Any, ...]:
    names = {str: "texts", int: "whole numbers", float: "numbers"}[inner[0]]
    count = "" if Ellipsis in inner else f"{len(inner)} "
    if not isinstance(value, list | tuple) or (count and len(value) != len(inner)):
        raise _Refused(f"be a list of {count}{names}")
    kinds = (inner[0],) * len(value) if not count else inner
    return tuple(_taken(each, kind, range) for each, kind in zip(value, kinds, strict=True))


def _whole(value: Any, range: Range | None) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise _Refused("be a whole number")
    if number > (most := _checked(number, range).most):
        raise _Refused(f"be at most {most}")
    return number


def _real(value: Any, range: Range | None) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Refused("be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    _checked(number, range)
    if math.isinf(number):
        raise _Refused("be finite")
    return value


def _checked(number: float, range: Range | None) -> Range:
    if range is None:
        raise TypeError("a field of a number should have its range in its metadata, but has none")
    for should, holds in range.rules.items():
        if number != number or not holds(number):  # NaN is in no range
            raise _Refused(should, range.hint)
    return range


def _flag(value: Any, range: Range | None) -> bool:
    if not isinstance(value, bool):
        raise _Refused("be True or False")
    return value


def _path(value: Any, range: Range | None) -> Path:
    if not isinstance(value, str | os.PathLike):
        raise _Refused("be a path")
    return Path(value)


def _text(value: Any, range: Range | None) -> str:
    if isinstance(value, os.PathLike | torch.device):
        value = str(value)
    if not isinstance(value, str):
        raise _Refused("be text")
    return value


_PLAIN: dict[Any, Callable[[Any, Range | None], Any]] = {
    int: _whole,
    float: _real,
    bool: _flag,
    str: _text,
    Path: _path,
}
