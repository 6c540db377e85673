"""What the site draws of the rows that are kept: speed, the suite, a race, strength and error, the paper's objective.

Each function returns Markdown with its charts inside, as they stand in the colours of the page. `pages.py` puts it in
the place of a comment `<!-- generated: NAME -->`. Whatever rows there are when the site is built are drawn.
"""

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from fasteraa_transforms import Policy
from fasteraa_transforms.search.evaluation.table import errors_of as errors_by_label
from fasteraa_transforms.search.report.charts import (
    ACCENT,
    LINE,
    Bar,
    Length,
    bar_chart,
    length_chart,
    share_bars,
    share_chart,
)
from fasteraa_transforms.search.report.comparison import error_chart

ROOT = Path(__file__).parents[2]

SUITE = {
    "digits": ("Digits", "handwritten digits, 8×8, shown at 32×32 pixels"),
    "silhouettes": ("Silhouettes", "silhouettes of animals, 28×28"),
    "fashion": ("Fashion-MNIST", "clothes, 28×28"),
    "solar": ("Solar cells", "photographs of solar cells, 48×48"),
    "svhn": ("SVHN", "house numbers, 32×32"),
    "cifar10": ("CIFAR-10", "photographs of ten kinds of things, 32×32"),
    "cifar100": ("CIFAR-100", "photographs of a hundred kinds of things, 32×32"),
    "imagenet": ("ImageNet", "photographs of a hundred kinds of things"),
}
"""Title of each data set of the suite, and what its images show."""

_WHOLE = 6  # augmentations, from which on a regret says something

_LIBRARIES = {
    "fasteraa_transforms, shipped cifar10-paper policy": "this, shipped policy",
    "fasteraa_transforms": "this",
    "albumentations, as TrivialAugment": "albumentations",
}


def rows_of(path: str) -> list[dict[str, Any]]:
    """The rows of a file of the repository; none if it is not there."""
    file = ROOT / path
    return [json.loads(line) for line in file.read_text("utf-8").splitlines() if line] if file.exists() else []


def chart(svg: str, caption: str = "") -> str:
    """A chart as HTML between two paragraphs of Markdown."""
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure class="chart">{svg}{below}</figure>'


def charts(parts: Iterable[str], kind: str = "charts") -> str:
    """Charts beside each other, as many as have room."""
    return f'<div class="{kind}">{"".join(parts)}</div>'


# --- speed ------------------------------------------------------------------------------------------------------------


def speed() -> str:
    """Time of each library on the processor measured last, a chart for each kind of input."""
    document = json.loads((ROOT / "benchmarks" / "augment.json").read_text("utf-8"))[-1]
    parts = []
    for row in document["rows"]:
        times = sorted(row["results"].items(), key=lambda item: item[1]["median"])
        bars = [
            Length(
                _LIBRARIES.get(name, name.replace("fasteraa_transforms", "this")),
                result["median"],
                _time(result["median"]),
                name.startswith("fasteraa_transforms"),
            )
            for name, result in times
        ]
        svg = length_chart(bars, title=f"{row['name']}: time an image", label_width=160)
        parts.append(chart(svg, escape(row["name"])))
    loader = json.loads((ROOT / "benchmarks" / "loader.json").read_text("utf-8"))[-1]["results"]
    rates = [
        Length(
            _LIBRARIES.get(name, name),
            result["median"],
            f"{result['median']:.0f} images/s",
            name.startswith("fasteraa_transforms"),
        )
        for name, result in sorted(loader.items(), key=lambda item: -item[1]["median"])
    ]
    whole = chart(length_chart(rates, title="Images a second through a DataLoader", label_width=160, right=260))
    return (
        f"Time an image, the fastest first; “this” is this package.\n\n{charts(parts)}\n\n"
        f"Through a DataLoader, where decoding and cropping take most of the time:\n\n{whole}\n"
    )


def for_readers(page: str) -> str:
    """The page of the benchmarks without what is for its authors, and with tables that fit it.

    What is left out: that a script writes it, and the targets. A table of many libraries has them as rows.
    """
    parts = []
    for part in page.split("\n\n"):
        lines = part.strip("\n").split("\n")
        if "do not edit" in part or (lines[0].startswith("|") and "target" in lines[0].split("|")[2]):
            continue
        turned = lines[0].count("|") > _COLUMNS
        parts.append(_turned(lines) if turned else part.replace(" column", " row"))
    return "\n\n".join(parts)


_COLUMNS = 8  # of a table, and their separators, that have room


def _turned(lines: Sequence[str]) -> str:
    """A table in Markdown with its rows as columns."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("|---")]
    columns = list(zip(*rows, strict=True))
    rule = "|---|" + "---:|" * (len(rows) - 1)
    head, *rest = (f"| {' | '.join(column)} |" for column in columns)
    return "\n".join([head, rule, *rest])


def _time(microseconds: float) -> str:
    if microseconds >= 1000:
        return f"{microseconds / 1000:.1f} ms"
    return f"{microseconds:.0f} µs" if microseconds >= 100 else f"{microseconds:.1f} µs"


# --- policies ---------------------------------------------------------------------------------------------------------


@cache
def shipped() -> dict[str, Policy]:
    """The policies that come with the package, by name."""
    entries = [entry for entry in (files("fasteraa_transforms") / "policies").iterdir() if entry.name.endswith(".json")]
    found = {
        entry.name.removesuffix(".json"): Policy.from_json(entry.read_text(encoding="utf-8"), source=entry.name)
        for entry in entries
    }
    return dict(sorted(found.items()))


def shares() -> str:
    """How often each shipped policy applies each operation."""
    return charts(chart(share_bars(policy.effective_share()), name) for name, policy in shipped().items()) + "\n"


# --- the search -------------------------------------------------------------------------------------------------------


def race() -> str:
    """The race of a search of the suite: the one with the most networks for a contender."""
    searches = [row for row in rows_of("search/experiments/suite/rows.jsonl") if row["kind"] == "search"]
    if not searches:
        return ""
    found = max(searches, key=lambda row: sum(each["replicates"] for each in row["standings"]) / len(row["standings"]))
    leader = found["standings"][0]["contender"]
    bars = [
        Bar(
            each["contender"],
            100 * each["error"],
            (),
            None if each["contender"] == leader else 100 * each["error_half_width"],
            f"({each['replicates']})",
            each["contender"] == leader,
        )
        for each in found["standings"]
    ]
    svg = bar_chart(bars, reference=bars[0].mean, title=f"The race on {found['data']}")
    caption = (
        f"A race on {found['images']:,} {found['data']}: held-out error of each contender, with the 95 % interval of "
        f"its difference to {escape(leader)}, which was kept; in brackets the number of networks."
    )
    return chart(svg, caption) + "\n"


def strength() -> str:
    """How strong the policies of each arm are, against the error of networks trained with them: digits, 60 images."""
    rows = [row for row in rows_of("search/experiments/strength/digits/rows.jsonl") if row["count"] == 60]
    arms: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        arms.setdefault(row["arm"], []).append(row)
    points = {
        arm: (statistics.fmean(row["strength"] for row in found), _mean_error(found))
        for arm, found in arms.items()
        if all("strength" in row for row in found)
    }
    lines = {arm: _mean_error(arms[arm]) for arm in ("none", "TrivialAugment") if arm in arms}
    caption = (
        "Each dot is an arm, mean of four seeds: blue was searched, grey is a random policy. Across: how much its "
        "policy changes images, mean |S(X) − X|. Up: test error of networks trained with it. Pointing at a dot shows "
        "its name."
    )
    return chart(_scatter(points, lines), caption) + "\n"


def _mean_error(rows: Sequence[Mapping[str, Any]]) -> float:
    return 100 * statistics.fmean(statistics.fmean(row["error"]) for row in rows)


_NAMED = {
    "paper": ("the paper’s search", -4),
    "default: all four": ("the default", 4),
    "random start": ("random start", -2),
}
"""Arms whose names stand beside their dots, and how far below: so that no name lies on another."""


def _scatter(points: Mapping[str, tuple[float, float]], lines: Mapping[str, float]) -> str:
    left, right, top, bottom = 34, 264, 8, 190  # right of it stand the names of lines
    errors = [y for _, y in points.values()] + list(lines.values())
    low, high = min(errors) - 0.4, max(errors) + 0.4
    widest = 1.05 * max(x for x, _ in points.values())

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * x / widest, bottom - (bottom - top) * (y - low) / (high - low)

    parts = [f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="currentColor" opacity=".35"/>']
    for tick in range(int(low) + 1, int(high) + 1):
        y = place(0, tick)[1]
        parts.append(f'<text x="{left - 5}" y="{y + 4:.1f}" text-anchor="end" opacity=".75">{tick} %</text>')
    for tick in (0.0, 0.05, 0.1, 0.15):
        if tick <= widest:
            x = place(tick, low)[0]
            parts.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle" opacity=".75">{tick:g}</text>')
    for name, error in lines.items():
        y = place(0, error)[1]
        parts.append(f'<path d="M{left} {y:.1f}H{right}" stroke="{LINE}" stroke-dasharray="4 3"/>')
        parts.append(f'<text x="{right + 4}" y="{y + 4:.1f}">{name}</text>')
    for arm, (strength, error) in points.items():
        x, y = place(strength, error)
        colour = "currentColor" if arm.startswith("random") else ACCENT
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}" opacity=".8"><title>{escape(arm)}: strength '
            f"{strength:.3f}, {error:.1f} %</title></circle>"
        )
        if arm in _NAMED:
            name, below = _NAMED[arm]
            parts.append(f'<text x="{x + 7:.1f}" y="{y + below:.1f}">{name}</text>')
    return _svg(bottom + 20, "Test error against the strength of the policy", parts)


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 360 {height}" role="img" aria-label="{escape(title)}" '
        f'font-family="system-ui, sans-serif" font-size="11.5" fill="currentColor">{"".join(parts)}</svg>'
    )


def collapse() -> str:
    """What the paper's objective does to a policy: its strength, and the share of each operation, epoch by epoch."""
    epochs = [row for row in rows_of("search/runs/cifar10-paper/metrics.jsonl") if row["kind"] == "epoch"]
    values = [row["strength"] for row in epochs]
    left, right, top, bottom = 34, 350, 14, 110
    most = max(values)
    path = " ".join(
        f"{left + (right - left) * i / (len(values) - 1):.1f},{bottom - (bottom - top) * value / most:.1f}"
        for i, value in enumerate(values)
    )
    parts = [
        f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="currentColor" opacity=".35"/>',
        f'<text x="{left - 5}" y="{top + 4}" text-anchor="end" opacity=".75">{most:.2f}</text>',
        f'<text x="{left - 5}" y="{bottom + 4}" text-anchor="end" opacity=".75">0</text>',
        f'<polyline points="{path}" fill="none" stroke="{ACCENT}" stroke-width="2"/>',
        f'<text x="{right}" y="{bottom + 15}" text-anchor="end" opacity=".75">epoch {len(values) - 1}</text>',
        f'<text x="{left}" y="{bottom + 15}" opacity=".75">start</text>',
        f'<text x="{right}" y="{bottom - (bottom - top) * values[-1] / most - 8:.1f}" text-anchor="end">strength '
        f"{values[0]:.3f} → {values[-1]:.3f}</text>",
    ]
    caption = (
        "The paper’s objective on CIFAR-10: how much the policy changes images, mean |S(X) − X|, falls from epoch to "
        "epoch."
    )
    top_share = max(max(row["share"].values()) for row in epochs)
    small = (
        f"<div>{share_chart(name, [row['share'][name] for row in epochs], top=top_share)}</div>"
        for name in epochs[0]["share"]
    )
    whole = chart(_svg(bottom + 20, "Strength of the policy by epoch", parts), caption)
    below = "The share of each operation in the same search, selection × probability; all charts have the same scale.\n"
    return f"{whole}\n\n{charts(small, 'small-charts')}\n\n{below}"


def cifar10_evaluation() -> str:
    """The evaluation of shipped policies on images of CIFAR-10."""
    errors = errors_by_label(rows_of("search/runs/cifar10-evaluation/rows.jsonl"))
    policies = [label for label in errors if label.startswith("cifar10")]
    svg = error_chart(errors, reference="none", emphasised=policies)
    caption = (
        "Test error, and in brackets its paired difference to none with the 95 % interval. A bar that does not reach "
        "the dashed line, none, is told apart. Blue: the shipped policies."
    )
    return chart(svg, caption) + "\n"


# --- the suite --------------------------------------------------------------------------------------------------------


def suite() -> str:
    """Errors of every augmentation on every data set of the suite, as charts and as a table."""
    return "\n".join(_suite(rows_of("search/experiments/suite/rows.jsonl")))


def _suite(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    errors = suite_errors(rows)
    if not errors:
        yield "No training of the suite is done yet."
        return
    kept = {(row["data"], row["seed"]): row["kept"] for row in rows if row["kind"] == "search"}
    yield _regret_chart(regrets(errors))
    yield "## The table\n"
    yield from suite_table(errors)
    for data in dict.fromkeys(name for name, _ in errors):
        cases = {seed: found for (name, seed), found in errors.items() if name == data}
        title, shown = SUITE.get(data, (data[:1].upper() + data[1:], data))
        yield f"\n## {title}\n"
        searches = [row for row in rows if row["kind"] == "search" and row["data"] == data]
        images = f"{searches[0]['images']:,} training images; " if searches else ""
        yield f"{shown[:1].upper()}{shown[1:]}; {images}{_seeds(len(cases))}.\n"
        if told := [f"`{kept[data, seed]}`" for seed in cases if (data, seed) in kept]:
            seconds = [row["seconds"] for row in searches]
            minutes = statistics.fmean(seconds) / 60
            yield f"The search kept {', '.join(dict.fromkeys(told))}; it took {minutes:.0f} minutes.\n"
        yield _suite_chart(data, cases) + "\n"


def suite_errors(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], dict[str, float]]:
    """Test errors in percent: by data set and seed, then by augmentation."""
    errors: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        if row["kind"] == "test":
            errors.setdefault((row["data"], row["seed"]), {})[row["augmentation"]] = 100 * row["error"]
    return errors


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"


def _suite_chart(data: str, cases: Mapping[int, Mapping[str, float]]) -> str:
    names = dict.fromkeys(name for found in cases.values() for name in found)
    values = {name: [found[name] for found in cases.values() if name in found] for name in names}
    bars = [
        Bar(name, statistics.fmean(found), found if len(found) > 1 else (), emphasised=name == "searched")
        for name, found in sorted(values.items(), key=lambda item: statistics.fmean(item[1]))
    ]
    line = next((bar.mean for bar in bars if bar.label == "none"), None)
    return chart(
        bar_chart(bars, reference=line, title=f"Test errors on {data}"),
        "Test error: the mean over the seeds, and small each seed’s. The dashed line is no augmentation.",
    )


def regrets(errors: Mapping[tuple[str, int], Mapping[str, float]]) -> dict[str, list[float]]:
    """Mean error over the seeds minus that of the best control, for each data set: those seeds count that are whole."""
    names = {name for found in errors.values() for name in found}
    if "searched" not in names or len(names) < _WHOLE:
        return {}
    whole = {case: by_name for case, by_name in errors.items() if set(by_name) == names}
    found: dict[str, list[float]] = {}
    for data in dict.fromkeys(data for data, _ in whole):
        seeds = [by_name for (each, _), by_name in whole.items() if each == data]
        means = {name: statistics.fmean(by_name[name] for by_name in seeds) for name in names}
        best = min(error for name, error in means.items() if name != "searched")
        for name, error in means.items():
            found.setdefault(name, []).append(error - best)
    return found


def regret() -> str:
    """The mean regret of every augmentation over the suite, as a chart."""
    return _regret_chart(regrets(suite_errors(rows_of("search/experiments/suite/rows.jsonl"))))


def _regret_chart(regret: Mapping[str, Sequence[float]]) -> str:
    """A bar for each augmentation, the least mean regret first; nothing where there are no regrets."""
    if not regret:
        return ""
    means = {name: statistics.fmean(values) for name, values in regret.items()}
    bars = [
        Length(name, max(mean, 0.0), f"{mean:+.2f}".replace("-", "−"), name == "searched")
        for name, mean in sorted(means.items(), key=lambda item: item[1])
    ]
    caption = (
        "Mean regret over the data sets of the suite, in points: how much more test error an augmentation has than the "
        "best control of the same data set. Short is good."
    )
    return chart(length_chart(bars, title="Mean regret of each augmentation"), caption) + "\n"


def _regret_in_words(regret: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """What regret is, and what came out, whoever it is that has the least."""
    count = len(regret["searched"])
    sets = f"the {count} data sets" if count > 1 else "the one data set"
    yield (
        "Regret: mean error over the seeds minus that of the best control on the same data set, in points. It is over "
        f"{sets} on which every augmentation was trained.\n"
    )
    means = {name: statistics.fmean(values) for name, values in regret.items()}
    least = min(means, key=lambda name: means[name])
    mine = f"{means['searched']:+.2f}".replace("-", "−")
    best = f"{means[least]:+.2f}".replace("-", "−")
    won = sum(value < 0 for value in regret["searched"])
    outcome = (
        f"What the search kept has the smallest mean regret, {mine}."
        if least == "searched"
        else f"{least} has the smallest mean regret, {best}; what the search kept has {mine}."
    )
    yield f"**{outcome}** It has fewer errors than every control in {won} of {count}.\n"


def suite_table(errors: Mapping[tuple[str, int], Mapping[str, float]]) -> Iterator[str]:
    """The table of errors and regrets, in Markdown."""
    sets = list(dict.fromkeys(data for data, _ in errors))
    names = list(dict.fromkeys(name for found in errors.values() for name in found))
    regret = regrets(errors)
    titles = [SUITE.get(data, (data,))[0] for data in sets]
    # What matters most stands where no one has to scroll.
    yield f"| augmentation |{' mean regret | worst |' if regret else ''} {' | '.join(titles)} |"
    yield "|---|" + "---:|" * (len(sets) + 2 * bool(regret))
    order = {name: statistics.fmean(regret[name]) for name in regret}
    counts = Counter((data, name) for (data, _), found in errors.items() for name in found)
    alike = set(counts.values()) if len(set(counts.values())) == 1 else set()
    for name in sorted(names, key=lambda name: order.get(name, 0.0)):
        cells = [f"{statistics.fmean(regret[name]):+.2f}", f"{max(regret[name]):+.2f}"] if regret else []
        for data in sets:
            values = [found[name] for (each, _), found in errors.items() if each == data and name in found]
            seeds = "" if alike else f" ({len(values)})"
            cells.append(f"{statistics.fmean(values):.2f}{seeds}" if values else "–")
        yield f"| {'**searched**' if name == 'searched' else name} | {' | '.join(cells)} |"
    told = _seeds(alike.pop()) if alike else "mean over the seeds, in brackets how many there are"
    yield f"\nTest error in %, {told}.\n"
    if regret:
        yield from _regret_in_words(regret)
