"""Write docs/benchmarks.md from what the benchmarks measured: ``python benchmarks/report.py``."""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DESTINATION = HERE.parent / "docs" / "benchmarks.md"
OURS, BASE = "fasteraa_transforms", "torchvision AutoAugment"


def _setting(document: dict[str, Any]) -> str:
    setting = document["setting"]
    versions = ", ".join(f"{name} {version}" for name, version in setting["versions"].items())
    return f"{setting['processor']} ({setting['vector_extensions']}), Python {setting['python']}, {versions}"


def _row(row: dict[str, Any], names: list[str]) -> str:
    results = row["results"]
    cells = [
        f"{results[name]['median']:.1f} ({results[name]['ratio']:.2f})" if name in results else "–" for name in names
    ]
    return f"| {row['name']} | {' | '.join(cells)} |"


def _target(row: dict[str, Any], names: list[str]) -> str:
    def verdict(name: str) -> str:
        ratio = row["results"][name]["ratio"]
        return f"{ratio:.3f}, {'met' if ratio <= row['target'] else '**missed**'}"

    return f"| {row['name']} | ≤ {row['target']:.2f} | {' | '.join(verdict(name) for name in names)} |"


def text(augment: dict[str, Any], loader: dict[str, Any]) -> str:
    """The page, from the two JSON documents."""
    names = list(dict.fromkeys(name for row in augment["rows"] for name in row["results"]))
    ours = [name for name in names if name.startswith(OURS)]
    rates = {name: result["median"] for name, result in loader["results"].items()}
    return f"""# Benchmarks

Written by `python benchmarks/report.py` from `benchmarks/augment.json` and `benchmarks/loader.json`; do not edit.

## One thread, µs an image

{_setting(augment)}. One thread.
Median of {augment["rounds"]} blocks of about 20 ms; blocks of all libraries take turns, and the number in brackets is
the median over the turns of the ratio to torchvision's AutoAugment. Garbage collection is off.
What is timed is the whole call that a user makes. `python benchmarks/augment.py --json benchmarks/augment.json`.

| | {" | ".join(names)} |
|---|{"---:|" * len(names)}
{chr(10).join(_row(row, names) for row in augment["rows"])}

Every library runs its own policy, on pieces of two photographs, in the form that it takes: albumentations arrays
[H, W, C], kornia floats [B, C, H, W], the others PIL images or uint8 tensors. Ours, `{OURS}`, is ten
sub-policies of two operations that hold each operation at least once (all but sample_pairing), each applied with
probability 0.6, as often as those of torchvision on average; the shipped policy is the second column.

torchvision and albumentations draw once for a whole batch, so there they run in a loop over its images. albumentations
ships no policy: its column is one of 14 operations, as in TrivialAugment.

| | target | {" | ".join(ours)} |
|---|---|{"---|" * len(ours)}
{chr(10).join(_target(row, ours) for row in augment["rows"])}

## A DataLoader

{_setting(loader)}. JPEG files of 500 × 375, RandomResizedCrop(224), flip, policy, ToImage, ToDtype, Normalize;
{loader["workers"]} workers, median of {loader["rounds"]} epochs of {loader["images"]} images, epochs taking turns.
`python benchmarks/loader.py --json benchmarks/loader.json`.

| policy | images/s | of no policy |
|---|---:|---:|
{chr(10).join(f"| {name} | {rate:.1f} | {rate / rates['no policy']:.3f} |" for name, rate in rates.items())}
"""


def main() -> None:
    documents = [json.loads((HERE / f"{name}.json").read_text(encoding="utf-8")) for name in ("augment", "loader")]
    DESTINATION.write_text(text(*documents), encoding="utf-8")


if __name__ == "__main__":
    main()
