"""What an evaluation leaves for people: the table, the page with its plot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fasteraa_transforms.search.evaluation.conclusions import conclusions, reference_of
from fasteraa_transforms.search.evaluation.controls import CONTROLS
from fasteraa_transforms.search.evaluation.record import Record
from fasteraa_transforms.search.evaluation.table import errors_of, format_table, table_cells
from fasteraa_transforms.search.report.charts import standalone
from fasteraa_transforms.search.report.comparison import comparison_page, error_chart

HOW_TO_READ = (
    "Mean error ± deviation over the seeds; mean difference to a control by seed ± half of its 95 % interval "
    "(Student's t, paired), in percentage points; negative: fewer errors; *: the interval leaves out 0."
)


@dataclass(frozen=True)
class Summary:
    """What is said about the rows of an evaluation.

    Attributes:
        name: of the data set.
        described: images, network and hardware in one sentence.
        order: labels of the augmentations, as they were asked for.
        paper: published error in percent by label.
        command: how the evaluation was started.
    """

    name: str
    described: str
    order: Sequence[str]
    paper: Mapping[str, float] = field(default_factory=dict)
    command: str | None = None

    def ranked(self, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The rows in the order that was asked for; others of the folder after them."""
        place = {label: i for i, label in enumerate(self.order)}
        return sorted(rows, key=lambda row: place.get(row["augmentation"], len(place)))

    def conclusions(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """One sentence for each policy."""
        return conclusions(errors_of(self.ranked(rows)), CONTROLS.keys())

    def peeked(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """A warning for each policy that was searched on test images."""
        counts = {row["augmentation"]: row.get("searched_test_images") for row in rows}
        return [f"{label} was searched on {count} of the test images." for label, count in counts.items() if count]

    def markdown(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """The content of ``table.md``."""
        paragraphs = [
            *self.conclusions(rows),
            *(f"**{warning}**" for warning in self.peeked(rows)),
            format_table(self.ranked(rows), paper=self.paper),
            HOW_TO_READ,
            self.described,
        ]
        if self.command:
            paragraphs.append(f"    {self.command}")
        return "\n\n".join(paragraphs) + "\n"


def publish(record: Record, summary: Summary, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``table.md``, ``evaluation.html`` and ``evaluation.svg``."""
    record.replace_text(record.table, summary.markdown(rows))
    if not rows:
        return
    errors = errors_of(summary.ranked(rows))
    reference = reference_of(errors, CONTROLS.keys())
    chart = error_chart(errors, reference=reference, emphasised=[label for label in errors if label not in CONTROLS])
    text = comparison_page(
        summary.name,
        verdict=summary.conclusions(rows),
        warnings=summary.peeked(rows),
        chart=chart,
        reference=reference,
        cells=table_cells(summary.ranked(rows), summary.paper),
        how_to_read=HOW_TO_READ,
        described=summary.described,
        command=summary.command,
    )
    record.replace_text(record.plot, standalone(chart))
    record.replace_text(record.page, text)
