"""The page of an evaluation: its verdict, bars with intervals, the table, the command."""

from collections.abc import Mapping, Sequence

from fasteraa_transforms.search.evaluation.statistics import compared_with, signed
from fasteraa_transforms.search.report.charts import Bar, bar_chart
from fasteraa_transforms.search.report.html import code, dim, document, table


def error_chart(errors: Mapping[str, Mapping[int, float]], *, reference: str, emphasised: Sequence[str]) -> str:
    """Errors of all augmentations with the intervals of their differences to one, as an SVG element.

    Args:
        errors: in percent, by augmentation, then by seed.
        reference: an augmentation.
        emphasised: the policies.

    Example:
        >>> errors = {"none": {0: 9.0, 1: 9.2}, "mine": {0: 7.1, 1: 7.4}}
        >>> error_chart(errors, reference="none", emphasised=["mine"]).count("<circle")
        6
    """
    bars = []
    for each in sorted(compared_with(reference, errors), key=lambda each: each.mean):
        width = None if each.difference is None else each.difference.half_width
        note = ""
        if each.difference is not None:
            shown = f" ± {each.difference.half_width:.2f}" if each.difference.n > 1 else ""
            note = f"({signed(each.difference.mean)}{shown})"
        bars.append(Bar(each.label, each.mean, each.values, width, note, each.label in emphasised))
    line = next(bar.mean for bar in bars if bar.label == reference)
    return bar_chart(bars, reference=line, title=f"Errors in percent; the line is {reference}")


def comparison_page(
    name: str,
    *,
    verdict: Sequence[str],
    warnings: Sequence[str],
    chart: str,
    reference: str,
    cells: tuple[Sequence[str], Sequence[Sequence[str]]],
    how_to_read: str,
    described: str,
    command: str | None,
) -> str:
    """The page of an evaluation as HTML, with neither scripts nor anything from elsewhere.

    Args:
        name: of the data set.
        verdict: in plain words, a line a paragraph.
        warnings: said right after it.
        chart: of `error_chart`.
        reference: the augmentation that is its line.
        cells: heading and lines of the table.
        how_to_read: says what is in the table.
        described: images, network and hardware.
        command: how the evaluation was started.
    """
    heading, lines = cells
    sections = [
        f'<div class="bars">{chart}</div>',
        dim(
            "Errors on the test images after the last epoch: the mean, and small each seed's. The dashed line is "
            f"{reference}. Behind a mean stand the paired difference to it and its 95 % interval, in points; a bar "
            "that does not reach the line is told apart."
        ),
        "<h2>Table</h2>",
        table(heading, lines, numbers=range(1, len(heading))),
        dim(how_to_read),
        "<h2>How it was measured</h2>",
        dim(described),
        *([] if command is None else [code(command)]),
    ]
    return document(f"Evaluation on {name}", [*verdict, *warnings], sections)
