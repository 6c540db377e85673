"""The report of a search: the verdict, the contenders, the effect of each operation, the policy in pictures."""

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
from fasteraa_transforms.search.report import plots
from fasteraa_transforms.search.report.charts import operation_chart, share_bars, share_chart
from fasteraa_transforms.search.report.html import code, dim, document, figure, table
from fasteraa_transforms.search.report.race_sections import Raced, race_sections

_ORIGINALS, _SAMPLES = 2, 3  # of each sub-policy: so many images, each so often augmented
_SHOWN = 25  # sub-policies in pictures; the table has all


def page(
    policy: Policy,
    *,
    verdict: Sequence[str],
    images: Tensor,
    metrics: Sequence[dict[str, Any]] = (),
    race: Raced | None = None,
    curves: Curves | None = None,
    tolerance: float = 0.1,
    tried: Mapping[str, Policy] | None = None,
    next_steps: Sequence[tuple[str, str]] = (),
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
        race: what a race found.
        curves: what a guard saw.
        tolerance: fraction of the accuracy that an operation may lose.
        tried: policies that were tried, by name; shown where ``policy`` changes nothing.
        next_steps: what to do next: a sentence, and what to copy.
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
        *_next(next_steps),
        *(race_sections(race) if race else []),
        *(operation_sections(curves, tolerance) if curves else []),
        *(_tried(tried or {}, images) if changes_nothing(policy) else _pictures(policy, images)),
        *(_course(policy, metrics) if metrics else []),
        *_policy_table(policy),
        *(["<h2>Settings and versions</h2>", table(("setting", "value"), settings)] if settings else []),
    ]
    return document(f"Search of {policy.name}", verdict, sections)


def _next(steps: Sequence[tuple[str, str]]) -> Iterable[str]:
    if steps:
        yield "<h2>What to do next</h2>"
    for sentence, copied in steps:
        yield f"<p>{escape(sentence)}</p>{code(copied)}"


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


# --- the operations ---------------------------------------------------------------------------------------------------


def operation_sections(curves: Curves, tolerance: float = 0.1) -> list[str]:
    """What each operation does to the classes: accuracy against magnitude, a small chart for each.

    Args:
        curves: what a guard saw.
        tolerance: fraction of the accuracy that an operation may lose.
    """
    clean, names = curves.clean, list(curves.points)
    charts = (f"<div>{operation_chart(curves, name, tolerance)}</div>" for name in names)
    return [
        "<h2>What each operation does to the classes</h2>",
        dim(
            f"A network that was trained without augmentation looks at {curves.images:,} images that it has not seen, "
            f"augmented by one operation. Dashed: what it gets right of the images as they are, {clean:.1%}. Solid "
            f"line: the {clean * (1 - tolerance):.1%} that are left where {tolerance:.0%} of that may be lost, the "
            "tolerance. Across: the magnitude."
        ),
        f'<div class="small">{"".join(charts)}</div>',
        dim("The same in numbers: accuracy in %, by magnitude; displacement: mean change of a pixel, of 1."),
        table(
            ("operation", "what it does", "accuracy, %", "displacement"),
            (
                (name, curves.words(name, tolerance), _accuracies(points), f"{max(p.displacement for p in points):.3f}")
                for name, points in curves.points.items()
            ),
            numbers=(2, 3),
        ),
    ]


def operation_lines(curves: Curves, tolerance: float = 0.1) -> list[str]:
    """What each operation does to the classes, in up to three lines of text; arguments as of `operation_sections`.

    Example:
        >>> points = {"flip": (Point(None, accuracy=0.9, displacement=0.2),)}
        >>> operation_lines(Curves(0.9, points, images=100))
        ['Keeps the classes: flip.']
    """
    groups: dict[str, list[str]] = {"keeps the classes": [], "breaks the classes": [], "changes nothing here": []}
    for name in curves.points:
        words = curves.words(name, tolerance)
        group = next(each for each in groups if words.startswith(each))
        groups[group].append(name + words.removeprefix(group).replace(" magnitude", ""))
    return [f"{group.capitalize()}: {', '.join(names)}." for group, names in groups.items() if names]


def operations_page(name: str, curves: Curves, *, tolerance: float = 0.1) -> str:
    """A page of `operation_sections` alone, without a search.

    Args:
        name: of the data set.
        curves: what a guard saw.
        tolerance: fraction of the accuracy that an operation may lose.
    """
    return document(f"Operations on {name}", operation_lines(curves, tolerance), operation_sections(curves, tolerance))


def _accuracies(points: Sequence[Point]) -> str:
    return ", ".join(
        f"{100 * point.accuracy:.1f}" if point.magnitude is None else f"{point.magnitude:g}: {100 * point.accuracy:.1f}"
        for point in points
    )


# --- the policy -------------------------------------------------------------------------------------------------------


def _pictures(policy: Policy, images: Tensor) -> Iterable[str]:
    """Originals, and beside each what a sub-policy makes of it."""
    shown = min(len(policy), _SHOWN)
    yield "<h2>What the policy applies</h2>"
    yield f'<div class="bars">{share_bars(policy.effective_share())}</div>'
    yield dim("How often a stage applies each operation: chosen × probability, mean over all stages.")
    yield "<h2>The policy in pictures</h2>"
    several = f"{shown} of {len(policy)} sub-policies. Each image draws one of all, with equal chance."
    told = several if len(policy) > 1 else "The policy has one sub-policy."
    yield dim(f"{told} A dash: the stage left the image as it was.")
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
            f'<div role="img" aria-label="curves: {name}">{plots.curve_svg(metrics, name)}</div>'
            for name in plots.PANELS
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
