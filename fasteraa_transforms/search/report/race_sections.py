"""What was tried: the race as bars with intervals, and what a screening found of each operation."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fasteraa_transforms.search.contenders.screening import Effect
from fasteraa_transforms.search.evaluation.statistics import Compared, compared_with, signed
from fasteraa_transforms.search.report.charts import Bar, bar_chart, effect_chart
from fasteraa_transforms.search.report.html import dim, table

Rows = Sequence[Mapping[str, Any]]


def race_sections(
    rows: Rows, kept: str | None = None, behind: Mapping[str, tuple[float, float]] | None = None
) -> list[str]:
    """Bars of held-out errors with intervals, and the numbers as a table; arguments as of `page`."""
    errors: dict[str, dict[int, float]] = {}
    losses: dict[str, list[float]] = {}
    for row in rows:
        errors.setdefault(row["contender"], {})[row["replicate"]] = 100 * row["error"]
        losses.setdefault(row["contender"], []).append(row["loss"])
    most = max(map(len, errors.values()))
    means = {name: statistics.fmean(values.values()) for name, values in errors.items()}
    if kept not in errors:
        kept = min((name for name in errors if len(errors[name]) == most), key=means.__getitem__)
    compared = sorted(compared_with(kept, errors), key=lambda each: (each.label != kept, each.mean))
    intervals = {each.label: _interval(each, kept, behind) for each in compared}
    bars = [
        Bar(
            each.label,
            each.mean,
            each.values,
            None if intervals[each.label] is None else intervals[each.label][1],  # type: ignore[index]
            _difference(intervals[each.label]),
            emphasised=each.label == kept,
        )
        for each in compared
    ]
    chart = bar_chart(bars, reference=means[kept], title=f"Errors on held-out images; {kept} is kept")
    return [
        "<h2>What was tried</h2>",
        f'<div class="bars">{chart}</div>',
        dim(
            "Errors on images that the networks were not trained on: the mean, and small each network's. The dashed "
            f"line is {kept}. Behind a mean stand the paired difference to it and its 95 % interval, in points; a bar "
            "that does not reach the line is told apart."
        ),
        table(
            ("contender", "networks", "error, %", f"− {kept}", "cross entropy"),
            (
                (
                    each.label,
                    len(each.values),
                    _mean(each.values),
                    _difference(intervals[each.label]),
                    f"{statistics.fmean(losses[each.label]):.3f}",
                )
                for each in compared
            ),
            numbers=(1, 2, 3, 4),
        ),
    ]


def _interval(
    compared: Compared, kept: str, behind: Mapping[str, tuple[float, float]] | None
) -> tuple[float, float | None] | None:
    """Difference to the kept contender and half of its interval, in percentage points; None for itself."""
    if compared.label == kept:
        return None
    if behind is not None and compared.label in behind:
        mean, width = behind[compared.label]
        return 100 * mean, 100 * width
    if compared.difference is None:
        return None
    return compared.difference.mean, compared.difference.half_width if compared.difference.n > 1 else None


def _difference(interval: tuple[float, float | None] | None) -> str:
    if interval is None:
        return ""
    mean, width = interval
    return signed(mean) if width is None else f"{signed(mean)} ± {width:.2f}"


def _mean(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{deviation}"


def screening_sections(effects: Sequence[Effect]) -> list[str]:
    """What each operation does for a network, as dots with intervals.

    Args:
        effects: of a screening, the most helpful first.
    """
    return [
        "<h2>What each operation does for a network</h2>",
        f'<div class="bars">{effect_chart(effects)}</div>',
        dim(
            "Twenty networks were trained, each with another half of the operations. A dot is the mean cross entropy "
            "of the ten networks with the operation minus that of the ten without, with its 95 % interval, in nats. "
            "Left of the line the operation helps; an interval that reaches the line tells nothing apart."
        ),
    ]
