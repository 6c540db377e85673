"""The curves of a search."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fasteraa_transforms.search.runtime.files import replace

Rows = Sequence[dict[str, Any]]


def _of(metrics: Rows, kind: str, *names: str) -> list[list[Any]]:
    """Columns of the rows of one kind."""
    rows = [row for row in metrics if row["kind"] == kind]
    return [[row.get(name) for row in rows] for name in names]


def _losses(axes: Any, metrics: Rows) -> None:
    names = ["wasserstein", "gradient_penalty", "alignment", "class_loss_real", "class_loss_augmented"]
    measured = {name for row in metrics if row["kind"] == "step" for name in row}
    names = [name for name in names if name in measured or not measured]  # those of the objective
    x, *columns = _of(metrics, "step", "step", *names)
    for name, column in zip(names, columns, strict=True):
        axes.plot(x, column, label=name, linewidth=0.8)
    axes.set(title="losses", xlabel="step")
    axes.set_yscale("symlog", base=2, linthresh=1)  # a critic that explodes is still in the picture
    axes.yaxis.set_major_formatter("{x:g}")


def _accuracies(axes: Any, metrics: Rows) -> None:
    x, real, augmented = _of(metrics, "epoch", "epoch", "accuracy_real", "accuracy_augmented")
    axes.plot(x, real, label="accuracy_real")
    axes.plot(x, augmented, label="accuracy_augmented")
    axes.set(title="accuracy of the class head", xlabel="epoch", ylim=(0, 1))


def _policy(axes: Any, metrics: Rows) -> None:
    x, strength, drift, entropy = _of(metrics, "epoch", "epoch", "strength", "drift", "entropy")
    axes.plot(x, strength, label="strength: mean |S(X) - X|")
    axes.plot(x, drift, label="drift from the start (1: another random start)")
    axes.plot(x, entropy, label="selection entropy (1: all alike)")
    axes.set(title="the policy", xlabel="epoch", ylim=(0, None))


def _shares(axes: Any, metrics: Rows) -> None:
    x, shares = _of(metrics, "epoch", "epoch", "share")
    for i, name in enumerate(shares[0]):
        style = ("-", "--", ":")[i // 6]
        axes.plot(x, [share[name] for share in shares], style, color=f"C{i % 6}", label=name)
    axes.set(title="effective share (selection × probability)", xlabel="epoch", ylim=(0, None))
    _name_lines(axes)


def _name_lines(axes: Any) -> None:
    """Write the name of each line right of its end, apart from its neighbours."""
    low, high = axes.get_ylim()
    step = (high - low) / 24
    place = low - step
    for line in sorted(axes.get_lines(), key=lambda line: line.get_ydata()[-1]):
        place = max(place + step, line.get_ydata()[-1])
        axes.annotate(
            line.get_label(),
            (line.get_xdata()[-1], line.get_ydata()[-1]),
            (1.04, place),
            textcoords=axes.get_yaxis_transform(),
            fontsize=7,
            verticalalignment="center",
            color=line.get_color(),
            arrowprops={"arrowstyle": "-", "color": line.get_color(), "linewidth": 0.5},
            annotation_clip=False,
        )


PANELS: dict[str, Callable[[Any, Rows], None]] = {
    "losses": _losses,
    "accuracies": _accuracies,
    "policy": _policy,
    "shares": _shares,
}
"""What is plotted of a run: each draws the rows of ``metrics.jsonl`` on axes."""


def curves(metrics: Rows, path: str | Path) -> None:
    """Plot a run: losses a step, accuracies and strength, and the effective share of each operation an epoch.

    Args:
        metrics: the rows of ``metrics.jsonl``.
        path: of the PNG to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    for axes, (name, draw) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        draw(axes, metrics)
        if name != "shares":
            axes.legend(fontsize=8)
    replace(Path(path), lambda file: figure.savefig(file, format="png", dpi=100))


def curve_svg(metrics: Rows, panel: str) -> str:
    """One panel as an SVG element for an HTML page, its lines of text in the colour of the page's.

    Args:
        metrics: the rows of ``metrics.jsonl``.
        panel: a key of `PANELS`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    ink = "#010203"  # of nothing else; matplotlib does not know currentColor
    keys = ("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color")
    # Text stays text. Names inside of the SVG do not clash with the names of another SVG on the same page.
    style: Any = dict.fromkeys(keys, ink) | {"svg.fonttype": "none", "svg.hashsalt": panel}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.2, 3.6), layout="constrained")
        axes = figure.subplots()
        PANELS[panel](axes, metrics)
        figure.legend(loc="outside lower center", ncols=1 if panel == "policy" else 2, fontsize=8, frameon=False)
        file = io.StringIO()
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    text = file.getvalue()
    return text[text.index("<svg") :].replace(ink, "currentColor").strip()
