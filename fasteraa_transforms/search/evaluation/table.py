"""The table of an evaluation, in Markdown."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fasteraa_transforms.search.evaluation.controls import CONTROLS
from fasteraa_transforms.search.evaluation.statistics import paired_interval, signed


def errors_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """The errors of an evaluation in percent: by augmentation in the order in which they come, then by seed.

    Example:
        >>> errors_of([{"augmentation": "none", "seed": 0, "error": 0.25}])
        {'none': {0: 25.0}}
    """
    errors: dict[str, dict[int, float]] = {}
    for row in rows:
        errors.setdefault(row["augmentation"], {})[row["seed"]] = 100 * row["error"]
    return errors


def table_cells(
    rows: Sequence[Mapping[str, Any]], paper: Mapping[str, float] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Heading and lines of the table, as `format_table` writes them."""
    errors = errors_of(rows)
    controls = [label for label in errors if label in CONTROLS and CONTROLS[label].compared]
    heading = ["augmentation", "seeds", "error, %", *(f"− {label}" for label in controls)]
    lines = []
    for label, by_seed in errors.items():
        values = list(by_seed.values())
        deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        cells = [label, str(len(values)), f"{statistics.fmean(values):.2f}{deviation}"]
        for control in controls:
            seeds = [seed for seed in by_seed if seed in errors[control]]
            if control == label or not seeds:
                cells.append("")
                continue
            found = paired_interval([by_seed[seed] for seed in seeds], [errors[control][seed] for seed in seeds])
            width = f" ± {found.half_width:.2f}" if found.n > 1 else ""
            cells.append(f"{signed(found.mean)}{width}{' *' if found.decided else ''}")
        lines.append(cells)
    if paper:
        heading.append("paper, %")
        for cells in lines:
            cells.append(str(paper.get(cells[0], "")))
    return heading, lines


def format_table(rows: Sequence[Mapping[str, Any]], *, paper: Mapping[str, float] | None = None) -> str:
    """The rows of an evaluation as a Markdown table.

    Args:
        rows: with ``augmentation``, ``seed`` and ``error``.
        paper: published error in percent by label, for a column of its own.

    Returns:
        A line for each augmentation, in the order in which they come: seeds, mean error ± deviation, and the mean
        difference to each control ± half of its 95 % interval, in percentage points; negative is fewer errors. An
        asterisk marks intervals that leave out 0. The uniform policies of a group have no column.

    Example:
        >>> rows = [{"augmentation": name, "seed": seed, "error": error + seed / 100}
        ...         for name, error in (("none", 0.10), ("mine", 0.08)) for seed in (0, 1)]
        >>> print(format_table(rows))
        | augmentation | seeds | error, % | − none |
        |---|---:|---:|---:|
        | none | 2 | 10.50 ± 0.71 | |
        | mine | 2 | 8.50 ± 0.71 | −2.00 ± 0.00 * |
    """
    heading, lines = table_cells(rows, paper)
    rule = "|".join(["---"] + ["---:"] * (len(heading) - 1))
    return "\n".join([_line(heading), f"|{rule}|", *map(_line, lines)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
