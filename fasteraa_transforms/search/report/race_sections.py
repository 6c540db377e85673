"""What was tried: the race as bars with intervals, and what a screening found of each operation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fasteraa_transforms.search.contenders.screening import Effect
from fasteraa_transforms.search.contenders.standings import Standing
from fasteraa_transforms.search.evaluation.statistics import signed
from fasteraa_transforms.search.report.charts import Bar, bar_chart, effect_chart
from fasteraa_transforms.search.report.html import dim, table


@dataclass(frozen=True)
class Raced:
    """What a race found, as a report shows it.

    Attributes:
        rows: with ``contender`` and ``error``, in [0, 1] on held-out images; one for each network.
        standings: of the contenders, the kept one first.
        effects: what a screening found of each operation.
    """

    rows: Sequence[Mapping[str, Any]]
    standings: Sequence[Standing]
    effects: Sequence[Effect] = ()


def race_sections(raced: Raced) -> list[str]:
    """Bars of held-out errors with intervals, the numbers as a table, and the effects of a screening."""
    kept, *others = raced.standings
    ranked = [kept, *sorted(others, key=lambda each: each.error)]
    errors: dict[str, list[float]] = {}
    for row in raced.rows:
        errors.setdefault(row["contender"], []).append(100 * row["error"])
    bars = [
        Bar(
            each.contender,
            100 * each.error,
            errors.get(each.contender, ()),
            None if each is kept else 100 * each.error_half_width,
            _difference(each, kept),
            emphasised=each is kept,
        )
        for each in ranked
    ]
    name = kept.contender
    chart = bar_chart(bars, reference=100 * kept.error, title=f"Errors on held-out images; {name} is kept")
    return [
        "<h2>What was tried</h2>",
        f'<div class="bars">{chart}</div>',
        dim(
            "Errors on images that the networks were not trained on: the mean, and small each network's. The dashed "
            f"line is {name}. Behind a mean stand the paired difference to it and its 95 % interval, in points; a bar "
            f"that does not reach the line is told apart. The mean of a contender with fewer networks than {name} is "
            "that of the line and the difference, since splits of the images differ."
        ),
        table(
            ("contender", "networks", "error, %", f"− {name}", "cross entropy"),
            (
                (
                    each.contender,
                    each.replicates,
                    f"{100 * each.error:.2f}",
                    _difference(each, kept),
                    f"{each.loss:.3f}",
                )
                for each in ranked
            ),
            numbers=(1, 2, 3, 4),
        ),
        *(screening_sections(raced.effects) if raced.effects else []),
    ]


def _difference(standing: Standing, kept: Standing) -> str:
    """Difference to the kept contender and half of its interval, in percentage points."""
    if standing is kept:
        return ""
    mean, width = 100 * standing.error_behind, 100 * standing.error_half_width
    return f"{signed(mean)} ± {width:.2f}" if math.isfinite(width) else signed(mean)


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
