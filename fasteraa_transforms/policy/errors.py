"""How a policy is refused: the error, and how it shows values and places."""

import reprlib
from collections.abc import Iterable

_LONGEST = 80  # characters of a value that a message shows


class PolicyError(ValueError):
    r"""A policy is refused. The error says in which place, what stands in it, and what should stand in it.

    The message is one line. It shows control characters as escapes, such as ``\x1b``.

    Attributes:
        source: the file, "<string>" for text, "<policy>" for a policy that was built in Python.
        path: JSON path of the place, such as ``$.sub_policies[0][1][0].probability``; ``$`` is the whole document.
        found: what stands in the place, shortened to about 80 characters.
        expected: what should stand in it.
        more: the number of further errors in the same document.

    Example:
        >>> from fasteraa_transforms import Policy
        >>> try:
        ...     Policy([[[{"operation": "flip", "weight": 1, "probability": 1.5}]]])
        ... except PolicyError as error:
        ...     print(error)
        <policy>: $.sub_policies[0][0][0].probability: found 1.5, expected a number in [0, 1]
    """

    def __init__(self, source: str, path: str, found: str, expected: str, more: int = 0) -> None:
        super().__init__(source, path, found, expected, more)  # pickle calls the class with these
        self.source, self.path, self.found, self.expected, self.more = source, path, found, expected, more

    def __str__(self) -> str:
        more = f" (and {self.more} more error{'s' * (self.more > 1)})" if self.more else ""
        return printable(f"{self.source}: {self.path}: found {self.found}, expected {self.expected}{more}")


def printable(text: str) -> str:
    r"""The text with escapes in the place of characters that a terminal would obey instead of showing.

    Args:
        text: any text; names of policies and paths come from strangers.

    Returns:
        The text on one line.

    Example:
        >>> print(printable("red \x1b[31m\nnew line"))
        red \x1b[31m\nnew line
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shown(value: object) -> str:
    """The repr of any value, at most 80 characters."""
    short = reprlib.Repr()
    short.maxstring = short.maxlong = short.maxother = _LONGEST
    try:
        text = short.repr(value)
    except Exception:  # a foreign __repr__ raises anything; Python refuses to print integers of over 4300 digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def json_path(place: Iterable[int | str]) -> str:
    """The JSON path, such as ``$.sub_policies[0][1]``, of the keys and indices that lead to a place."""

    def step(key: int | str) -> str:
        plain = isinstance(key, str) and key.isidentifier() and len(key) <= 40
        return f".{key}" if plain else f"[{shown(key)}]"

    return "$" + "".join(map(step, place))
