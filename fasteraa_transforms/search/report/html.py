"""Parts of the pages of this package: the template, tables, pictures.

A page is one file, runs no script, and fits a phone as well as a wide screen.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

from torch import Tensor

from fasteraa_transforms.policy.pictures import tile

PICTURE_SIDE = 96
"""Pixels of a picture."""


def document(title: str, verdict: Sequence[str], sections: Iterable[str]) -> str:
    """A page: its title, what it comes to, and sections of HTML.

    Args:
        title: as text.
        verdict: as text, a line a paragraph.
        sections: as HTML.

    Example:
        >>> "<h1>cats &amp; dogs</h1>" in document("cats & dogs", ["Keep it."], ["<p>more</p>"])
        True
    """
    template = Template(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        style=files("fasteraa_transforms.policy").joinpath("page.css").read_text(encoding="utf-8"),
        verdict="\n".join(f"<p>{escape(line)}</p>" for line in verdict),
        sections="\n".join(sections),
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[int] = ()) -> str:
    """A table in a box of its own, in which it scrolls; the columns ``numbers`` are set flush right."""
    kinds = [' class="number"' if i in numbers else "" for i in range(len(head))]
    lines = [
        "<tr>" + "".join(f"<td{kind}>{escape(str(cell))}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    ]
    titles = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, head, strict=True))
    # tabindex: a box that scrolls has to be reachable by keyboard.
    return (
        f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def figure(image: Tensor, lines: Sequence[str]) -> str:
    """A picture with lines of text below it.

    Args:
        image: uint8 [C, H, W]. Of more than three channels the first three are shown, of two the first.
        lines: below it; what is read in its place.
    """
    file = io.BytesIO()
    tile(image[: 3 if len(image) >= 3 else 1], PICTURE_SIDE).save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    caption = "<br>".join(escape(line).replace("_", "_<wbr>") for line in lines)
    return (
        f'<figure><img alt="{escape(", ".join(lines))}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def dim(text: str) -> str:
    """A paragraph that explains."""
    return f'<p class="dim">{escape(text)}</p>'


def code(text: str) -> str:
    """Lines to copy."""
    return f"<pre>{escape(text)}</pre>"
