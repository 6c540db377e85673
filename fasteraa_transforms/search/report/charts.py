"""Charts as SVG, drawn for the width of a phone: bars with intervals, and what an operation does to the classes.

Text stays text, in the colour of the page. One unit is a pixel where the page is as narrow as a phone.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from fasteraa_transforms.search.contenders.guard import Curves
from fasteraa_transforms.search.contenders.screening import Effect
from fasteraa_transforms.search.evaluation.statistics import signed

ACCENT, LINE = "#2f81f7", "#bf8700"
"""Colours that can be told from a white and from a black page: what is looked at, and what it is compared with."""

_WIDTH, _ROW = 360, 34  # of a chart of bars, and the height of a bar with its label
_LABEL = 30  # characters of a label that have room


@dataclass(frozen=True)
class Bar:
    """One row of a chart of errors.

    Attributes:
        label: what it is called.
        mean: where its mark is, in percent.
        values: single values, shown small; in percent.
        half_width: of the interval around the mean; None or infinite for none.
        note: right of the label, behind the mean.
        emphasised: whether it is the one that the page is about.
    """

    label: str
    mean: float
    values: Sequence[float] = ()
    half_width: float | None = None
    note: str = ""
    emphasised: bool = False


def bar_chart(bars: Sequence[Bar], *, reference: float | None = None, title: str = "errors") -> str:
    """Errors with their intervals, one row each, as an SVG element.

    Args:
        bars: from the first row to the last.
        reference: where a line goes through all rows, in percent: what the intervals are to be held against.
        title: what is read in the place of the chart.

    Example:
        >>> svg = bar_chart([Bar("none", 9.1, (9.0, 9.2)), Bar("mine", 7.2, half_width=0.4)], reference=9.1)
        >>> svg.startswith("<svg"), "7.20 %" in svg
        (True, True)
    """
    low, high = _range(bars)
    ticks = _ticks(low, high)

    def x(value: float) -> float:
        return 8 + (_WIDTH - 16) * (min(max(value, low), high) - low) / (high - low)

    bottom = _ROW * len(bars) + 6
    parts = [_grid(x(tick), bottom, f"{tick:g} %") for tick in ticks]
    if reference is not None:  # beside the marks only, not through the text above them
        pieces = "".join(f"M{x(reference):.1f} {_ROW * i + 17}V{_ROW * i + 34}" for i in range(len(bars)))
        parts.append(f'<path d="{pieces}" stroke="{LINE}" stroke-width="1.5" stroke-dasharray="4 2"/>')
    for i, bar in enumerate(bars):
        top, colour = _ROW * i, ACCENT if bar.emphasised else "currentColor"
        y = top + 24
        name = bar.label if len(bar.label) <= _LABEL else f"{bar.label[: _LABEL - 1]}…"
        weight = ' font-weight="600"' if bar.emphasised else ""
        value = f"{bar.mean:.2f} %{f' {bar.note}' if bar.note else ''}"
        parts.append(f'<g><title>{escape(bar.label)}</title><text x="8" y="{top + 14}"{weight}>{escape(name)}</text>')
        parts.append(f'<text x="{_WIDTH - 8}" y="{top + 14}" text-anchor="end"{weight}>{escape(value)}</text>')
        parts += [f'<circle cx="{x(each):.1f}" cy="{y}" r="2" fill="{colour}" opacity=".45"/>' for each in bar.values]
        if ends := _ends(bar):
            parts.append(f'<path d="M{x(ends[0]):.1f} {y}H{x(ends[1]):.1f}" stroke="{colour}" stroke-width="2"/>')
            # A stop at an end that is there, none at one beyond the chart.
            stops = "".join(f"M{x(end):.1f} {y - 4}V{y + 4}" for end in ends if low < end < high)
            parts.append(f'<path d="{stops}" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<circle cx="{x(bar.mean):.1f}" cy="{y}" r="4.5" fill="{colour}"/></g>')
    return _svg(_WIDTH, bottom + 18, title, parts)


def _ends(bar: Bar) -> tuple[float, ...]:
    width = bar.half_width
    return () if width is None or not math.isfinite(width) else (bar.mean - width, bar.mean + width)


def _grid(x: float, bottom: float, text: str) -> str:
    anchor = "start" if x < 24 else "end" if x > _WIDTH - 24 else "middle"
    return (
        f'<path d="M{x:.1f} 0V{bottom}" stroke="currentColor" opacity=".15"/>'
        f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="{anchor}" opacity=".75">{text}</text>'
    )


def _range(bars: Sequence[Bar]) -> tuple[float, float]:
    """Ends of the axis: beyond all values, and beyond intervals unless they are much wider than these."""
    values = [value for bar in bars for value in (bar.mean, *bar.values)]
    low, high = min(values), max(values)
    room = max(high - low, 0.2)
    ends = [end for bar in bars for end in _ends(bar)]
    low = max(min([low, *ends]), low - 1.5 * room) - 0.06 * room
    high = min(max([high, *ends]), high + 1.5 * room) + 0.06 * room
    return max(low, -0.02 * high), high


def _ticks(low: float, high: float) -> list[float]:
    """A few round numbers between two."""
    step = next(each for each in _steps() if (high - low) / each <= 5)
    first = math.ceil(low / step)
    return [round(step * i, 10) for i in range(first, math.floor(high / step) + 1)]


def _steps() -> Any:
    exponent = -3
    while True:
        yield from (factor * 10.0**exponent for factor in (1, 2, 5))
        exponent += 1


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, sans-serif" font-size="11.5" fill="currentColor">'
        + "".join(parts)
        + "</svg>"
    )


def standalone(svg: str) -> str:
    """A chart as a file of its own, on white."""
    head, _, rest = svg.partition(">")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head} style="background:#fff;color:#1b1f24">{rest}\n'


# --- what an operation does for a network, and how often it is applied ------------------------------------------------


def effect_chart(effects: Sequence[Effect]) -> str:
    """The effect of each operation with its interval, a row each, as an SVG element. A line marks no effect.

    Args:
        effects: from the first row to the last.

    Example:
        >>> svg = effect_chart([Effect("rotate", -0.03, 0.01), Effect("invert", 0.02, 0.04)])
        >>> "−0.030 ± 0.010" in svg, svg.count("<circle")
        (True, 2)
    """
    row, left, right = 20, 104, 250
    reach = max(max(abs(each.effect) + each.half_width for each in effects), 1e-6)
    middle = (left + right) / 2
    bottom = row * len(effects) + 4

    def x(value: float) -> float:
        return middle + (right - left) / 2 * value / reach

    parts = [f'<path d="M{middle:.1f} 0V{bottom}" stroke="{LINE}" stroke-dasharray="4 3"/>']
    for i, each in enumerate(effects):
        y = row * i + 12
        told = abs(each.effect) > each.half_width
        colour, weight = (ACCENT, ' font-weight="600"') if told else ("currentColor", "")
        low, high = x(each.effect - each.half_width), x(each.effect + each.half_width)
        parts.append(
            f'<text x="0" y="{y + 4}"{weight}>{escape(each.operation)}</text>'
            f'<path d="M{low:.1f} {y}H{high:.1f}" stroke="{colour}" stroke-width="2"/>'
            f'<circle cx="{x(each.effect):.1f}" cy="{y}" r="4" fill="{colour}"/>'
            f'<text x="{_WIDTH}" y="{y + 4}" text-anchor="end"{weight}>'
            f"{signed(each.effect, 3)} ± {each.half_width:.3f}</text>"
        )
    parts += [
        f'<text x="{left}" y="{bottom + 14}" opacity=".75">helps</text>',
        f'<text x="{right}" y="{bottom + 14}" text-anchor="end" opacity=".75">harms</text>',
    ]
    return _svg(_WIDTH, bottom + 18, "Effect of each operation on the cross entropy, in nats", parts)


def share_bars(shares: Mapping[str, float]) -> str:
    """How often each operation is applied, the most frequent first, as an SVG element; what is never applied in words.

    Args:
        shares: in [0, 1], by operation, as `Policy.effective_share` gives them.

    Example:
        >>> svg = share_bars({"flip": 0.1, "rotate": 0.25, "invert": 0.0})
        >>> svg.index("rotate") < svg.index("flip"), "25.0 %" in svg, "never: invert" in svg
        (True, True, True)
    """
    used = sorted((name for name in shares if shares[name] >= 0.0005), key=lambda name: -shares[name])
    rows = [Length(name, shares[name], f"{100 * shares[name]:.1f} %", emphasised=True) for name in used]
    never = [name for name in shares if not shares[name]]
    rest = {"less than 0.1 %": [name for name in shares if 0 < shares[name] < 0.0005], "never": never}
    below = "; ".join(f"{words}: {', '.join(names)}" for words, names in rest.items() if names)
    return length_chart(rows, title="Share of each operation", below=below)


@dataclass(frozen=True)
class Length:
    """One row of a chart of lengths.

    Attributes:
        label: what it is called.
        value: how long its bar is; 0 or more.
        text: right of the bar.
        emphasised: whether it is one that the page is about.
    """

    label: str
    value: float
    text: str
    emphasised: bool = False


def length_chart(
    rows: Sequence[Length], *, title: str, below: str = "", label_width: int = 104, right: int = 306
) -> str:
    """Bars that begin at 0, one row each, as an SVG element.

    Args:
        rows: from the first row to the last.
        title: what is read in the place of the chart.
        below: a sentence below the bars.
        label_width: room for the labels, in pixels.
        right: where the longest bar ends, in pixels; its text has the room from there to 360.

    Example:
        >>> svg = length_chart([Length("a", 2.0, "2 s"), Length("b", 1.0, "1 s")], title="time", label_width=60)
        >>> [part.split('"')[0] for part in svg.split(' width="')[1:]]
        ['246.0', '123.0']
    """
    row = 18
    top = max((each.value for each in rows), default=0.0) or 1.0
    parts = []
    for i, each in enumerate(rows):
        y, width = row * i, (right - label_width) * each.value / top
        colour, opacity = (ACCENT, 1) if each.emphasised else ("currentColor", 0.45)
        weight = ' font-weight="600"' if each.emphasised and not all(other.emphasised for other in rows) else ""
        parts.append(
            f'<text x="0" y="{y + 13}"{weight}>{escape(each.label)}</text>'
            f'<rect x="{label_width}" y="{y + 3}" width="{width:.1f}" height="12" rx="2" fill="{colour}" '
            f'opacity="{opacity}"/>'
            f'<text x="{label_width + width + 5:.1f}" y="{y + 13}"{weight}>{escape(each.text)}</text>'
        )
    lines = _wrapped(below, 58, 4) if below else []
    parts += [
        f'<text x="0" y="{row * len(rows) + 15 + 14 * i}" opacity=".75">{escape(line)}</text>'
        for i, line in enumerate(lines)
    ]
    return _svg(_WIDTH, row * len(rows) + 6 + 14 * len(lines), title, parts)


# --- what an operation does to the classes ----------------------------------------------------------------------------


def operation_chart(curves: Curves, operation: str, tolerance: float) -> str:
    """Accuracy against magnitude for one operation, as a small SVG element with its words below.

    A dashed line is the accuracy on the original images. A solid line is the least accuracy that the tolerance allows.

    Args:
        curves: what a guard saw.
        operation: one of its operations.
        tolerance: fraction of the accuracy that may be lost.

    Example:
        >>> from fasteraa_transforms.search.contenders.guard import Point
        >>> curves = Curves(0.9, {"invert": (Point(None, accuracy=0.2, displacement=0.5),)}, images=100)
        >>> "breaks the classes" in operation_chart(curves, "invert", 0.1)
        True
    """
    points, clean, words = curves.points[operation], curves.clean, curves.words(operation, tolerance)
    left, right, top, bottom = 30, 166, 20, 88

    def x(magnitude: float | None) -> float:
        return (left + right) / 2 if magnitude is None else left + (right - left) * magnitude

    def y(accuracy: float) -> float:
        return bottom - (bottom - top) * accuracy

    colour = "currentColor" if curves.still(operation) else ACCENT
    floor = y(clean * (1 - tolerance))
    places = [(x(point.magnitude), y(point.accuracy)) for point in points]
    parts = [
        f'<text x="0" y="12" font-weight="600">{escape(operation)}</text>',
        f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="currentColor" opacity=".35"/>',
        f'<text x="{left - 4}" y="{top + 6}" text-anchor="end" font-size="10" opacity=".75">100</text>',
        f'<text x="{left - 4}" y="{bottom}" text-anchor="end" font-size="10" opacity=".75">0 %</text>',
        f'<path d="M{left} {y(clean):.1f}H{right}" stroke="currentColor" stroke-dasharray="2 3" opacity=".6"/>',
        f'<path d="M{left} {floor:.1f}H{right}" stroke="{LINE}"/>',
    ]
    if len(points) > 1:
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
    if points[0].magnitude is not None:
        parts.append(f'<text x="{left}" y="{bottom + 11}" font-size="10" opacity=".75">0</text>')
        parts.append(f'<text x="{right}" y="{bottom + 11}" text-anchor="end" font-size="10" opacity=".75">1</text>')
    parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.4" fill="{colour}"/>' for px, py in places]
    lines = _wrapped(words)
    parts += [
        f'<text x="0" y="{bottom + 24 + 12 * i}" font-size="10.5">{escape(line)}</text>' for i, line in enumerate(lines)
    ]
    readable = "; ".join(
        f"{'' if point.magnitude is None else format(point.magnitude, 'g') + ': '}{point.accuracy:.0%}"
        for point in points
    )
    return _svg(170, bottom + 40, f"{operation}: {words}. Accuracy {readable}", parts)


def share_chart(name: str, shares: Sequence[float], *, top: float) -> str:
    """Share of one operation over the epochs of a search, as a small SVG element.

    Args:
        name: of the operation.
        shares: one an epoch, from before the first one.
        top: of the axis, the same for all operations.

    Example:
        >>> "3.0 % → 9.0 %" in share_chart("rotate", [0.03, 0.05, 0.09], top=0.1)
        True
    """
    left, right, highest, bottom = 4, 166, 20, 68
    step = (right - left) / max(len(shares) - 1, 1)
    path = " ".join(
        f"{left + step * i:.1f},{bottom - (bottom - highest) * share / top:.1f}" for i, share in enumerate(shares)
    )
    change = f"{shares[0]:.1%} → {shares[-1]:.1%}".replace("%", " %")
    parts = [
        f'<text x="0" y="12" font-weight="600">{escape(name)}</text>',
        f'<path d="M{left} {bottom}H{right}" stroke="currentColor" opacity=".35"/>',
        f'<polyline points="{path}" fill="none" stroke="{ACCENT}" stroke-width="1.8"/>',
        f'<text x="0" y="{bottom + 13}" font-size="10.5">{change}</text>',
    ]
    return _svg(170, bottom + 18, f"{name}: share {change}", parts)


def _wrapped(words: str, width: int = 30, most: int = 2) -> list[str]:
    """Lines of some ``width`` characters, ``most`` of them at most."""
    return textwrap.wrap(words, width, max_lines=most, placeholder=" …")
