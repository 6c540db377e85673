"""JSON text that is checked before Python objects are made of it.

A parser makes an object of every value, and 16 MiB hold millions of values. So a file from a stranger is checked first.
`JsonText` finds where values begin and end, with regular expressions, and makes no objects.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, NoReturn

from fasteraa_transforms.policy.errors import PolicyError

_DEEPEST = 198  # levels below the document, as pydantic's parser takes them
_MOST_OPENED = 700_000  # lists and objects with something in them, of which a large policy has some thousands
_LONGEST = 8192  # bytes of a value that an error message is made of

_SPACE = rb"[ \t\n\r]*+"
_HEX = rb"[0-9a-fA-F]"
# A surrogate is valid as the first or second half of a pair only.
_UNICODE = rb"u(?:[0-9a-cefA-CEF]%b{3}|[dD][0-7]%b{2}|[dD][89abAB]%b{2}\\u[dD][c-fC-F]%b{2})" % ((_HEX,) * 4)
_STRING = rb'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|%b))*+"' % _UNICODE
# NaN and the infinities are no JSON, but the parser takes them, and the checks of the values name them.
_NUMBER = rb"(?:-?(?:0|[1-9][0-9]{0,4299}+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+(?![0-9])|NaN|-?Infinity)"
_SCALAR = rb"(?:%b|%b|true|false|null)" % (_STRING, _NUMBER)
_MEMBER = rb"%b%b:%b%b%b" % (_STRING, _SPACE, _SPACE, _SCALAR, _SPACE)

_BLANK = re.compile(_SPACE)
_NAME = re.compile(_STRING + _SPACE)
_KEY = re.compile(rb"(%b)%b:%b" % (_STRING, _SPACE, _SPACE))
# Members of an object, up to the first one that holds a list or an object.
_MEMBERS = rb"%b(?:,%b%b)*+" % (_MEMBER, _SPACE, _MEMBER)
# A value that holds no other list or object, such as a candidate; and the space behind it.
_FLAT = rb"(?:%b|\[%b\]|\{%b(?:%b)?+\})%b" % (_SCALAR, _SPACE, _SPACE, _MEMBERS, _SPACE)
_ONE_FLAT = re.compile(_FLAT)
_FLATS = re.compile(rb"%b(?:,%b%b)*+" % (_FLAT, _SPACE, _FLAT))
_ALL_MEMBERS = re.compile(_MEMBERS)
_NUMBERS = re.compile(rb"%b|(%b)" % (_STRING, _NUMBER))
_SEPARATORS = re.compile(rb"%b|([,\[{])" % _STRING)


class JsonText:
    """The text of a JSON document, and a place in it.

    The methods move the place forward, from the beginning of a value to what follows it.

    Args:
        data: the text, UTF-8.
        source: what errors call it.

    Raises:
        PolicyError: (all methods) the text is no JSON.
    """

    def __init__(self, data: bytes, source: str) -> None:
        self.data, self.source = data, source
        self.place = self._behind_space(0)
        self._opened = 0

    def first(self) -> bytes:
        """The first character of the value; nothing at the end of the text."""
        return self.data[self.place : self.place + 1]

    def skip(self) -> None:
        """Go past the value."""
        open_ends: list[bytes] = []
        while True:
            # Of a list, all elements at once that hold nothing; such a list may have millions.
            flat = (_FLATS if open_ends[-1:] == [b"]"] else _ONE_FLAT).match(self.data, self.place)
            if flat:
                self.place = flat.end()
            elif (first := self.first()) in (b"[", b"{"):
                self._open(first, open_ends)
                if first == b"[" or not self._members():
                    continue
            else:
                if first == b"]" and open_ends[-1:] == [first]:
                    self.fail("trailing comma")
                self._fail_at_value()
            if not self._close(open_ends):
                return

    def _open(self, first: bytes, open_ends: list[bytes]) -> None:
        """Go into a list or an object."""
        open_ends.append(b"]" if first == b"[" else b"}")
        self._opened += 1
        if len(open_ends) > _DEEPEST:
            self.fail("recursion limit exceeded")
        if self._opened > _MOST_OPENED:
            raise PolicyError(self.source, "$", f"more than {_MOST_OPENED} lists and objects", "a policy")
        self._step()
        if first == b"[" and not self.first():
            self.fail("EOF while parsing a list")

    def _close(self, open_ends: list[bytes]) -> bool:
        """Go past what follows a value, to the next value; False if no list or object is open any more."""
        while True:
            while open_ends and self.first() == open_ends[-1]:
                self._step()
                open_ends.pop()
            if not open_ends:
                return False
            self._comma(open_ends[-1])
            if open_ends[-1] == b"]" or not self._members():
                return True

    def _members(self) -> bool:
        """Go past all members of an object that hold nothing, or past the key of one that holds something.

        Returns:
            Whether it was members, not a key.
        """
        found = _ALL_MEMBERS.match(self.data, self.place)
        if found is None:
            self.key()
            return False
        self.place = found.end()
        return True

    def key(self) -> bytes:
        """Go past a key and its colon; returns the key as it is written."""
        found = _KEY.match(self.data, self.place)
        if found is None:
            name = _NAME.match(self.data, self.place)
            self.place = name.end() if name else self.place
            if not self.first():
                self.fail("EOF while parsing an object")
            if self.first() == b"}" and not name:
                self.fail("trailing comma")
            if name or self.first() != b'"':
                self.fail("expected `:`" if name else "key must be a string")
            self._fail_at_value()
        self.place = found.end()
        return found[1]

    def members(self) -> Iterator[bytes]:
        """Go through an object; yields each key, and the caller goes past the value."""
        self._step()
        if self.first() != b"}":
            yield self.key()
            while self.first() != b"}":
                self._comma(b"}")
                yield self.key()
        self._step()

    def elements(self) -> Iterator[int]:
        """Go through a list; yields the index of each element, and the caller goes past the element."""
        self._step()
        index = 0
        if self.first() != b"]":
            yield index
            while self.first() != b"]":
                self._comma(b"]")
                index += 1
                yield index
        self._step()

    def end(self) -> None:
        """Refuse text behind the document."""
        if self.first():
            self.fail("trailing characters")

    def is_long(self, begin: int, end: int, most: int) -> bool:
        """Whether more values than ``most`` stand between two places."""
        separators = (found for found in _SEPARATORS.finditer(self.data, begin, end) if found[1])
        return next(islice(separators, most, None), None) is not None

    def numbers(self, begin: int, end: int) -> Iterator[bytes]:
        """The numbers between two places, as they are written."""
        for found in _NUMBERS.finditer(self.data, begin, end):
            if found[1]:
                yield found[1]

    def shortened(self, begin: int, end: int) -> Any:
        """The value between two places, to be shown in a message; of a long one the beginning of its text."""
        from pydantic_core import from_json

        if end - begin <= _LONGEST:
            return from_json(self.data[begin:end])
        return self.data[begin : begin + 200].decode("utf-8", "replace")

    def fail(self, message: str) -> NoReturn:
        """Raise PolicyError, with the line and the column of the place."""
        end = min(self.place + 1, len(self.data))  # columns count from 1
        line, column = self.data.count(b"\n", 0, end) + 1, end - self.data.rfind(b"\n", 0, end) - 1
        raise PolicyError(self.source, "$", f"{message} at line {line} column {column}", "valid JSON")

    def _behind_space(self, place: int) -> int:
        blank = _BLANK.match(self.data, place)
        assert blank is not None  # it may be empty
        return blank.end()

    def _step(self) -> None:
        self.place = self._behind_space(self.place + 1)

    def _comma(self, closing: bytes) -> None:
        if self.first() != b",":
            name = "a list" if closing == b"]" else "an object"
            message = f"expected `,` or `{closing.decode()}`" if self.first() else f"EOF while parsing {name}"
            self.fail(message)
        self._step()

    def _fail_at_value(self) -> NoReturn:
        """Refuse what stands in the place of a value or a key, in the words of pydantic's parser."""
        from pydantic_core import from_json

        text = self.data[self.place : self.place + _LONGEST]
        try:
            from_json(text)
        except ValueError as error:
            message, line, column = str(error).replace(" column ", " at line ").split(" at line ")
            self.place += int(column) - 1 if line == "1" else text.find(b"\n")
            self.fail("invalid string" if message.startswith("EOF") and len(text) == _LONGEST else message)
        self.fail("expected value")
