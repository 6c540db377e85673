"""Which augmentation for which data: a search on each data set, then every control beside what it kept.

    python search/experiments/suite/run.py --data FOLDER [--only silhouettes,digits] [--seeds 1] [--minutes 6]
    python search/experiments/suite/run.py --table

FOLDER holds the image folders that the data sets below name. Every search and every training that is done has its row
in rows.jsonl beside this file, and the policies that were kept lie in policies; the same command goes on where it was
cut off. For each data set and seed a subset is drawn and searched with the default contenders. Then the policy that the
search kept and all controls train the same network, until a network without augmentation has fitted the images or
longer, and are tested on the test images.
"""

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from scipy.special import stdtrit

from fasteraa_transforms import Policy
from fasteraa_transforms.search import Settings, TrainingSettings, compare, open_dataset, parse_augmentations, search
from fasteraa_transforms.search.evaluation.compare import digest_of
from fasteraa_transforms.search.evaluation.controls import Augmentation
from fasteraa_transforms.search.runtime.hardware import device_name

HERE = Path(__file__).parent
ROWS = HERE / "rows.jsonl"
POLICIES = HERE / "policies"
CONTROLS = "none,cutout,random,trivialaugment,randaugment,autoaugment,uniform,colour,geometry"


@dataclass(frozen=True)
class Case:
    """One data set of the suite.

    Attributes:
        folder: below the data folder; None for digits.
        images: size of the subset.
        model: network of the evaluation.
        epochs: of each of its trainings.
        size: side that images are resized to; None for their own.
        flip: whether the baseline mirrors.
        of: which images the subset is drawn from, for the policies that are shipped.
    """

    folder: str | None
    images: int
    model: str
    epochs: int
    size: int | None = None
    flip: bool = False
    of: str = field(kw_only=True)

    @property
    def images_in_words(self) -> str:
        """The images of the search, such as "1,000 of Fashion-MNIST's 60,000 training images"."""
        return f"{self.images:,} of {self.of}"


CASES = {
    "digits": Case(None, 150, "resnet9-16", 200, 32, of="scikit-learn's 1,797 handwritten digits"),
    "silhouettes": Case("silhouettes/train", 1000, "resnet9-16", 60, of="5,000 silhouettes of animals, 28x28 pixels"),
    "fashion": Case("fashion/train", 1000, "resnet9-16", 60, of="10,000 of Fashion-MNIST's 60,000 training images"),
    "solar": Case("solar/train", 650, "resnet9-16", 200, 48, of="1,300 solar cells, scaled to 48x48"),
    "svhn": Case(
        "svhn_first288", 192, "resnet9-16", 150, of="the first 288 of SVHN's 73,257 training images, 32x32 pixels"
    ),
    "cifar10": Case(
        "cifar10", 2000, "resnet9-16", 100, flip=True, of="CIFAR-10's 50,000 training images, 32x32 pixels"
    ),
    "cifar100": Case(
        "cifar100_reduced/train",
        2000,
        "resnet9-16",
        100,
        flip=True,
        of="4,000 of CIFAR-100's 50,000 training images, 40 of each class, 32x32 pixels",
    ),
    "imagenet": Case(
        "imagenet_100x60/train",
        2000,
        "resnet9-16",
        100,
        64,
        flip=True,
        of="60 training images of each of 100 of ImageNet's 1,000 classes, 84x84 pixels, scaled to 64x64",
    ),
}


class Grey:
    """A folder of grey images saved as RGB, as grey images."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.targets = list(dataset.targets)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.dataset[index]
        return image.convert("L"), label


def splits(name: str, data: Path) -> tuple[Any, Any]:
    """The training and the test images; None where the rest of the training images is the test."""
    case = CASES[name]
    if case.folder is None:
        return open_dataset("digits"), None
    if name == "cifar10":
        import torchvision

        return (torchvision.datasets.CIFAR10(str(data), train=part) for part in (True, False))  # type: ignore[return-value]
    parts: list[Any] = [open_dataset(str(data / case.folder))]
    test = data / case.folder.replace("train", "val" if name == "imagenet" else "test")
    parts.append(open_dataset(str(test)) if "train" in case.folder else None)
    if name in ("silhouettes", "fashion", "solar"):
        parts = [Grey(part) for part in parts]
    return parts[0], parts[1]


def rows() -> list[dict[str, Any]]:
    """What is done."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def add(row: dict[str, Any]) -> None:
    """Keep a row."""
    with ROWS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def run(name: str, seed: int, data: Path, minutes: float) -> None:
    """Search on one data set, and evaluate what the search kept."""
    case = CASES[name]
    train, test = splits(name, data)
    out = Path("runs") / "suite" / f"{name}-{seed}"
    kept = POLICIES / f"{name}-{seed}.json"
    if not any(row["kind"] == "search" and (row["data"], row["seed"]) == (name, seed) for row in rows()):
        settings = Settings(
            num_images=case.images, image_size=case.size, seed=seed, minutes=minutes, flip=case.flip, padding=4
        )
        began = time.perf_counter()
        policy = search(
            train, settings, out=out / "search", name=name, resume=(out / "search" / "checkpoint.pt").exists()
        )
        POLICIES.mkdir(exist_ok=True)
        policy.save(kept)
        origin = policy.provenance
        add(
            {
                "kind": "search",
                "data": name,
                "seed": seed,
                "images": case.images,
                "minutes": minutes,
                "kept": origin["kept"],
                "seconds": round(time.perf_counter() - began),
                "plan": origin["plan"],
                "standings": origin["standings"],
                "hardware": device_name(torch.device("cpu")),
            }
        )
    training = TrainingSettings(
        model=case.model,
        epochs=case.epochs,
        batch_size=50,
        learning_rate=0.05,
        warmup=0.2,
        train_images=case.images,
        split_seed=seed,
        image_size=case.size,
        flip=case.flip,
        padding=4,
        cutout_after=False,
    )
    policy = Policy.load(kept)
    controls = parse_augmentations(CONTROLS)
    for wanted in (controls, [Augmentation("searched", policy)]):
        done = {
            row["augmentation"]: row
            for row in rows()
            if row["kind"] == "test" and (row["data"], row["seed"]) == (name, seed)
        }
        twins = [row for row in done.values() if row["policy"] == digest_of(policy)]
        if twins and "searched" not in done and wanted is not controls:
            # The search kept a control: the same policy and the same seed are the same network.
            add({**twins[0], "augmentation": "searched", "searched_test_images": 0})
            continue
        missing = [each for each in wanted if each.label not in done]
        # The folder keeps what is done of this call, should it be cut off.
        out_of = out / ("evaluation" if wanted is controls else "evaluation-searched")
        for row in compare(train, missing, training, test=test, seeds=1, name=name, out=out_of) if missing else ():
            if row["augmentation"] not in done:
                add({"kind": "test", "data": name, **row, "seed": seed, "model": case.model})


def errors_of(done: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Errors in percent of each augmentation on each data set, over the seeds that have all augmentations."""
    names = {"searched", *CONTROLS.split(",")}
    by_case: dict[tuple[str, int], dict[str, float]] = {}
    for row in done:
        if row["kind"] == "test":
            by_case.setdefault((row["data"], row["seed"]), {})[row["augmentation"]] = 100 * row["error"]
    found: dict[str, dict[str, list[float]]] = {}
    for (data, _), errors in sorted(by_case.items()):
        if names <= set(errors):
            for name in names:
                found.setdefault(data, {}).setdefault(name, []).append(errors[name])
    return found


def table(done: list[dict[str, Any]]) -> str:
    """Mean error in percent over the seeds of each data set, and the regret: its difference to the best control's."""
    errors = errors_of(done)
    means = {data: {name: fmean(found) for name, found in by_name.items()} for data, by_name in errors.items()}
    best = {data: min(each for name, each in by_name.items() if name != "searched") for data, by_name in means.items()}
    heads = [f"{data} ({len(by_name['searched'])})" for data, by_name in errors.items()]
    lines = [f"| augmentation | mean regret | worst | {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) + 2) + "|"]
    for name in ["searched", *CONTROLS.split(",")]:
        regrets = [means[data][name] - best[data] for data in means]
        cells = [f"{fmean(regrets):+.2f}", f"{max(regrets):+.2f}", *(f"{means[data][name]:.2f}" for data in means)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def prediction(done: list[dict[str, Any]]) -> str:
    """Which number of a race orders augmentations as their test error does: Spearman's correlation, by data set."""
    from scipy.stats import spearmanr

    tested = {(row["data"], row["seed"], row["augmentation"]): row["error"] for row in done if row["kind"] == "test"}
    lines = ["| data, seed | cross entropy | error |", "|---|---:|---:|"]
    found: list[tuple[float, float]] = []
    for row in done:
        if row["kind"] != "search":
            continue
        raced = {each["contender"]: each for each in row["standings"]}
        if row["data"] != "svhn":  # whose control is AutoAugment's policy for SVHN
            raced["autoaugment"] = raced.get("autoaugment-cifar10")
        shared = [name for name in raced if raced[name] and (row["data"], row["seed"], name) in tested]
        if len(shared) < 3:
            continue
        errors = [tested[row["data"], row["seed"], name] for name in shared]
        by_loss, by_error = (
            float(spearmanr(errors, [raced[name][field] for name in shared])[0]) for field in ("loss", "error")
        )
        found.append((by_loss, by_error))
        lines.append(f"| {row['data']} {row['seed']} | {by_loss:.2f} | {by_error:.2f} |")
    if len(found) > 1:
        differences = [by_loss - by_error for by_loss, by_error in found]
        half_width = float(stdtrit(len(found) - 1, 0.975)) * stdev(differences) / len(found) ** 0.5
        means = " | ".join(f"{fmean(column):.2f}" for column in zip(*found, strict=True))
        lines += [f"| mean | {means} |", "", f"cross entropy − error: {fmean(differences):+.2f} ± {half_width:.2f}"]
    return "\n".join(lines)


def main() -> None:
    """Run the suite."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--table", action="store_true", help="print what is done, and train nothing")
    options = parser.parse_args()
    if options.table:
        print(table(rows()))
        print("\nDoes a race order augmentations as the test images do?\n")
        print(prediction(rows()))
        return
    for seed in range(options.seeds):
        for name in options.only.split(","):
            run(name, seed, options.data, options.minutes)


if __name__ == "__main__":
    main()
