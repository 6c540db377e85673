"""The curves of a search."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def curves(metrics: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Plot a run: losses a step, accuracies and strength, and the effective share of each operation an epoch.

    Args:
        metrics: the rows of ``metrics.jsonl``.
        path: of the PNG to write.
    """
    from matplotlib.figure import Figure

    steps = [row for row in metrics if row["kind"] == "step"]
    epochs = [row for row in metrics if row["kind"] == "epoch"]
    figure = Figure(figsize=(12, 8), layout="constrained")
    losses, guard, strengths, shares = figure.subplots(2, 2).flat
    x = [row["step"] for row in steps]
    for name in ("wasserstein", "gradient_penalty", "class_loss_real", "class_loss_augmented"):
        losses.plot(x, [row[name] for row in steps], label=name, linewidth=0.8)
    losses.set(title="losses", xlabel="step", yscale="symlog")
    for name in ("accuracy_real", "accuracy_augmented"):
        guard.plot([row["epoch"] for row in epochs], [row.get(name) for row in epochs], label=name)
    guard.set(title="accuracy of the class head", xlabel="epoch", ylim=(0, 1))
    x = [row["epoch"] for row in epochs]
    strengths.plot(x, [row["strength"] for row in epochs], label="strength: mean |S(X) - X|")
    strengths.plot(x, [row["drift"] for row in epochs], label="drift from the start (1: another random start)")
    strengths.plot(x, [row["entropy"] for row in epochs], label="selection entropy (1: all alike)")
    strengths.set(title="the policy", xlabel="epoch", ylim=(0, None))
    names = list(epochs[0]["share"])
    for i, name in enumerate(names):
        style = ("-", "--", ":")[i // 6]
        shares.plot(x, [row["share"][name] for row in epochs], style, color=f"C{i % 6}", label=name)
    shares.set(title="effective share (selection × probability)", xlabel="epoch", ylim=(0, None))
    for axes in (losses, guard, strengths):
        axes.legend(fontsize=8)
    shares.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=100)
