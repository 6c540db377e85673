"""Compare what a search finds in bfloat16 with what it finds in float32.

    python search/experiments/precision/run.py --out DIR [--seeds 4] [--images 240] [--epochs 10] [--size 16] \\
        [--batch 32]

Searches on digits with each seed in both precisions: the same images, start and draws, the critic's arithmetic aside.
What two searches found lies as far apart as their effective shares, 17 numbers, Euclidean; and so for how the shares
changed since the start. The precisions, seed by seed, stand beside the seeds of float32, pair by pair. Each search that
is done is a row of DIR/rows.jsonl, and is not done again.
"""

import argparse
import itertools
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch

from fasteraa_transforms.search import Digits, Settings, search

PRECISIONS = ("float32", "bfloat16")


def run(seed: int, precision: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One search: its row."""
    settings = Settings(
        contenders=(),
        seed=seed,
        precision=precision,  # type: ignore[arg-type]
        num_images=arguments.images,
        epochs=arguments.epochs,
        batch_size=arguments.batch,
        image_size=arguments.size,
        padding=arguments.size // 8,
        strengths=(1.0,),
        classifier_epochs=2,
        device="cpu",
    )
    provenance: Any = search(Digits(), settings, progress=False).provenance
    found = provenance["diagnosis"]
    return {
        "seed": seed,
        "precision": precision,
        "steps": provenance["steps"],
        "seconds": provenance["seconds"],
        "drift": found["drift"],
        "strength": found["strength_end"],
        "share": found["share_end"],
        "change": {name: found["share_end"][name] - found["share_start"][name] for name in found["share_end"]},
    }


def distance(one: dict[str, float], other: dict[str, float]) -> float:
    """Euclidean."""
    return math.dist([one[name] for name in one], [other[name] for name in one])


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines of Markdown: the two distances, and drift and strength of either precision."""
    of = {(row["seed"], row["precision"]): row for row in rows}
    seeds = sorted({seed for seed, _ in of if all((seed, precision) in of for precision in PRECISIONS)})
    lines = ["| distance of | between the precisions | between seeds, float32 |", "|---|---|---|"]
    for field in ("share", "change"):
        precisions = [distance(*(of[seed, precision][field] for precision in PRECISIONS)) for seed in seeds]
        pairs = [distance(*(of[seed, "float32"][field] for seed in pair)) for pair in itertools.combinations(seeds, 2)]
        lines.append(f"| {field} | {_spread(precisions)} | {_spread(pairs)} |")
    lines += ["", "| | float32 | bfloat16 | difference, by seed |", "|---|---|---|---|"]
    for field in ("drift", "strength"):
        values = [[of[seed, precision][field] for seed in seeds] for precision in PRECISIONS]
        differences = ", ".join(f"{two - one:+.3f}" for one, two in zip(*values, strict=True))
        lines.append(f"| {field} | {_spread(values[0])} | {_spread(values[1])} | {differences} |")
    return lines


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["seed"], row["precision"]) for row in rows}
    for seed, precision in itertools.product(range(arguments.seeds), PRECISIONS):
        if (seed, precision) not in done:
            rows.append(run(seed, precision, arguments))
            with path.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    wanted = [row for row in rows if row["seed"] < arguments.seeds]
    print(f"{arguments.seeds} seeds, {wanted[0]['steps']} steps each; torch {torch.__version__}")
    print("\n".join(table(wanted)))


if __name__ == "__main__":
    main()
