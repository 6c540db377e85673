"""The report of a search: what was kept and why, what was tried, what each operation does, the policy in pictures."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fasteraa_transforms.backends import apply
from fasteraa_transforms.policy import Candidate, Policy
from fasteraa_transforms.policy.pictures import describe
from fasteraa_transforms.policy.text import physical_text
from fasteraa_transforms.search.contenders.guard import Curves, Point
from fasteraa_transforms.search.evaluation.statistics import Compared, compared_with
from fasteraa_transforms.search.report import plots as pictures
from fasteraa_transforms.search.report.charts import Bar, bar_chart, operation_chart, share_chart
from fasteraa_transforms.search.report.html import code, dim, document, figure, table

_ORIGINALS, _SAMPLES = 2, 3  # of each sub-policy: so many images, each so often augmented
_SHOWN = 25  # sub-policies in pictures; the table has all

Rows = Sequence[Mapping[str, Any]]


def page(
    policy: Policy,
    *,
    verdict: Sequence[str],
    images: Tensor,
    metrics: Sequence[dict[str, Any]] = (),
    race: Rows = (),
    kept: str | None = None,
    behind: Mapping[str, tuple[float, float]] | None = None,
    curves: Curves | None = None,
    budget: float = 0.1,
    tried: Mapping[str, Policy] | None = None,
    next_step: str | None = None,
    source: Mapping[str, Any] | None = None,
) -> str:
    """The report of a run as HTML, with neither scripts nor anything from elsewhere.

    Every section is left out where there is nothing to show in it.

    Args:
        policy: what is kept; its provenance is shown. Of one that changes nothing there are no pictures.
        verdict: in plain words, a line a paragraph.
        images: uint8 [N, C, H, W] to show policies on, the first two of them. Of more than three channels the first
            three are shown, of two the first.
        metrics: the rows of ``metrics.jsonl``, of an adversarial search.
        race: rows with ``contender``, ``replicate``, ``error`` in [0, 1] on held-out images, and ``loss``.
        kept: the contender that is kept; that of the smallest error if None.
        behind: error of each contender minus that of the kept one and half of its interval, both in [0, 1]; by the
            paired differences of ``race`` if None.
        curves: what a guard saw.
        budget: fraction of the accuracy that an operation may lose.
        tried: policies that were tried, by name; shown where ``policy`` changes nothing.
        next_step: a command to go on with.
        source: how the dataset was opened.

    Example:
        >>> flip = {"operation": "flip", "weight": 1, "probability": 0.5}
        >>> images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> "Keep it." in page(Policy([[[flip]]], name="mine"), verdict=["Keep it."], images=images)
        True
    """
    provenance = dict(policy.provenance)
    facts = {"source": dict(source or {}), **{key: provenance[key] for key in provenance if key != "diagnosis"}}
    settings = list(_flat(facts))
    sections = [
        *([] if next_step is None else [code(next_step)]),
        *(race_sections(race, kept, behind) if race else []),
        *(operation_sections(curves, budget) if curves else []),
        *(_tried(tried or {}, images) if changes_nothing(policy) else _pictures(policy, images)),
        *(_course(policy, metrics) if metrics else []),
        *_policy_table(policy),
        *(["<h2>Settings and versions</h2>", table(("setting", "value"), settings)] if settings else []),
    ]
    return document(f"Search of {policy.name}", verdict, sections)


def changes_nothing(policy: Policy) -> bool:
    """Whether a policy leaves every image as it is.

    Example:
        >>> changes_nothing(Policy([[[{"operation": "flip", "weight": 1, "probability": 0}]]]))
        True
    """
    return all(each.probability == 0 for sub_policy in policy.sub_policies for stage in sub_policy for each in stage)


def how_to_use(policy: Policy, path: Path) -> str:
    """What to do with the policy of a run, which lies at ``path``.

    Example:
        >>> print(how_to_use(Policy([[[{"operation": "flip", "weight": 1, "probability": 1}]]]), Path("policy.json")))
        augment with FasterAutoAugment.from_pretrained('policy.json')
    """
    if changes_nothing(policy):
        return "it changes nothing: train without augmentation"
    return f"augment with FasterAutoAugment.from_pretrained({str(path)!r})"


# --- the race ---------------------------------------------------------------------------------------------------------


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
    text = f"{mean:+.2f}" if width is None else f"{mean:+.2f} ± {width:.2f}"
    return text.replace("-", "−")


def _mean(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{deviation}"


# --- the operations ---------------------------------------------------------------------------------------------------


def operation_sections(curves: Curves, budget: float = 0.1) -> list[str]:
    """What each operation does to the classes: accuracy against magnitude, a small chart for each.

    Args:
        curves: what a guard saw.
        budget: fraction of the accuracy that an operation may lose.
    """
    clean, names = curves.clean, list(curves.points)
    charts = (f"<div>{operation_chart(curves, name, budget)}</div>" for name in names)
    return [
        "<h2>What each operation does to the classes</h2>",
        dim(
            f"A network that was trained without augmentation looks at {curves.images:,} images that it has not seen, "
            f"augmented by one operation. Dashed: what it gets right of the images as they are, {clean:.1%}. Solid "
            f"line: the {clean * (1 - budget):.1%} that are left where {budget:.0%} of that may be lost. Across: the "
            "magnitude."
        ),
        f'<div class="small">{"".join(charts)}</div>',
        dim("The same in numbers: accuracy in %, by magnitude; displacement: mean change of a pixel, of 1."),
        table(
            ("operation", "what it does", "accuracy, %", "displacement"),
            (
                (name, curves.words(name, budget), _accuracies(points), f"{max(p.displacement for p in points):.3f}")
                for name, points in curves.points.items()
            ),
            numbers=(3,),
        ),
    ]


def operation_lines(curves: Curves, budget: float = 0.1) -> list[str]:
    """What each operation does to the classes, in up to three lines of text; arguments as of `operation_sections`.

    Example:
        >>> points = {"flip": (Point(None, accuracy=0.9, displacement=0.2),)}
        >>> operation_lines(Curves(0.9, points, images=100))
        ['Keeps the classes: flip.']
    """
    groups: dict[str, list[str]] = {"keeps the classes": [], "breaks the classes": [], "changes nothing here": []}
    for name in curves.points:
        words = curves.words(name, budget)
        group = next(each for each in groups if words.startswith(each))
        groups[group].append(name + words.removeprefix(group).replace(" magnitude", ""))
    return [f"{group.capitalize()}: {', '.join(names)}." for group, names in groups.items() if names]


def operations_page(name: str, curves: Curves, *, budget: float = 0.1) -> str:
    """A page of `operation_sections` alone, without a search.

    Args:
        name: of the data set.
        curves: what a guard saw.
        budget: fraction of the accuracy that an operation may lose.
    """
    return document(f"Operations on {name}", operation_lines(curves, budget), operation_sections(curves, budget))


def _accuracies(points: Sequence[Point]) -> str:
    return ", ".join(
        f"{100 * point.accuracy:.1f}" if point.magnitude is None else f"{point.magnitude:g}: {100 * point.accuracy:.1f}"
        for point in points
    )


# --- the policy -------------------------------------------------------------------------------------------------------


def _pictures(policy: Policy, images: Tensor) -> Iterable[str]:
    """Originals, and beside each what a sub-policy makes of it."""
    shown = min(len(policy), _SHOWN)
    yield "<h2>The policy in pictures</h2>"
    yield dim(
        f"{shown} of {len(policy)} sub-policies. Each image draws one of them, with equal chance. A dash: the stage "
        "left the image as it was."
    )
    generator = torch.Generator().manual_seed(0)
    originals = images[:_ORIGINALS]
    for i, sub_policy in enumerate(policy.sub_policies[:shown]):
        yield f"<h3>Sub-policy {i}</h3>"
        yield _tiles(Policy([sub_policy]), originals, generator)


def _tried(tried: Mapping[str, Policy], images: Tensor) -> Iterable[str]:
    """What the policies that were not kept make of images."""
    if not tried:
        return
    yield "<h2>What was tried, in pictures</h2>"
    yield dim("No augmentation is kept. These policies were tried beside it.")
    for name, policy in tried.items():
        if changes_nothing(policy):
            continue
        yield f"<h3>{escape(name)}</h3>"
        yield _tiles(policy, images[:_ORIGINALS], torch.Generator().manual_seed(0))


def _tiles(policy: Policy, originals: Tensor, generator: torch.Generator) -> str:
    """A row of pictures: each original, then what the policy makes of it."""
    batch = originals.repeat(_SAMPLES, 1, 1, 1)  # image by image in turn, so that partners are mostly others
    plan = policy.sample(len(batch), generator=generator)
    augmented = apply(batch, plan)
    figures = []
    for j, original in enumerate(originals):
        figures.append(figure(original, ["original"]))
        figures += [figure(augmented[k], describe(plan, k)) for k in range(j, len(batch), len(originals))]
    return f'<div class="tiles">{"".join(figures)}</div>'


def _policy_table(policy: Policy) -> list[str]:
    if changes_nothing(policy):
        return []
    return [
        "<h2>The policy as a table</h2>",
        dim("A stage chooses one of its operations, then applies it with the probability."),
        table(
            ("sub-policy", "stage", "operation", "chosen", "probability", "magnitude", "that is"),
            (
                (i, k, each.operation, f"{each.weight:.1%}", f"{each.probability:.2f}", *_magnitude(each))
                for i, sub_policy in enumerate(policy.sub_policies)
                for k, stage in enumerate(sub_policy)
                for each in sorted(stage, key=lambda each: -each.weight)
            ),
            numbers=(0, 1, 3, 4, 5, 6),
        ),
    ]


def _magnitude(candidate: Candidate) -> tuple[str, str]:
    """The magnitude, and what it stands for."""
    return "-" if candidate.magnitude is None else f"{candidate.magnitude:.2f}", physical_text(candidate)


# --- the adversarial search -------------------------------------------------------------------------------------------


def _course(policy: Policy, metrics: Sequence[dict[str, Any]]) -> list[str]:
    """Curves of an adversarial search, and how much it made of each operation."""
    shares = [row["share"] for row in metrics if row["kind"] == "epoch"]
    # Of the policy that was kept, which need not be that of the last epoch.
    kept: Any = policy.provenance.get("diagnosis") or {}
    final = kept.get("share_end", shares[-1])
    return [
        "<h2>The adversarial search</h2>",
        '<div class="curves">',
        *(
            f'<div role="img" aria-label="curves: {name}">{pictures.curve_svg(metrics, name)}</div>'
            for name in pictures.PANELS
            if name != "shares"
        ),
        "</div>",
        dim("The share of each operation: selection × probability, mean over all stages, epoch by epoch."),
        f'<div class="small">{"".join(_share_charts(shares))}</div>',
        dim("The same at the start, and of the policy that is kept."),
        table(
            ("operation", "start", "end", "change"),
            ((name, *_change(shares[0][name], final[name])) for name in shares[0]),
            numbers=(1, 2, 3),
        ),
    ]


def _share_charts(shares: Sequence[Mapping[str, float]]) -> Iterable[str]:
    top = max(max(each.values()) for each in shares) or 1.0
    for name in shares[0]:
        yield f"<div>{share_chart(name, [each[name] for each in shares], top=top)}</div>"


def _change(start: float, end: float) -> tuple[str, str, str]:
    return f"{start:.4f}", f"{end:.4f}", f"{end / start - 1:+.0%}" if start else "-"


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested facts as rows of (path, value)."""
    for key, value in facts.items():
        match value:
            case Mapping():
                yield from _flat(value, f"{prefix}{key}.")
                continue
            case list() | tuple():
                text = ", ".join(map(str, value))
            case float():
                text = f"{value:.6g}"
            case None:
                text = "as fits the dataset"
            case _:
                text = str(value)
        yield f"{prefix}{key}", text
