"""What each improvement of the adversarial search does to what it finds. Can be resumed.

    python search/experiments/adversarial/run.py [--seeds 2] [--images 1797] [--epochs 30] [--replicates 3]

The data are scikit-learn's digits. For each seed a subset is drawn, and every variant searches on it: the adversarial
search as it is by default, and with one thing otherwise. All are held at the strength of their start. The policy that a
search finds is in its row of rows.jsonl, beside this file. Then networks are trained with each policy and tested on
images held out of their training, as in a race: the same splits, first weights and order for all, so that differences
are paired. The networks train three times as long as one needs to fit its images without augmentation.

No augmentation and the random start, which take no search, are tested beside them.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fasteraa_transforms import Policy
from fasteraa_transforms.search import Digits, Settings
from fasteraa_transforms.search.algorithm.loop import adversarial_search
from fasteraa_transforms.search.budget import FITTED, MULTIPLE, find_length
from fasteraa_transforms.search.contenders.adversarial import adversarial
from fasteraa_transforms.search.contenders.guard import Curves
from fasteraa_transforms.search.contenders.restrict import Allowed
from fasteraa_transforms.search.contenders.table import Material, find_kind
from fasteraa_transforms.search.contenders.trial import Arena, run_trial
from fasteraa_transforms.search.evaluation.statistics import compared_with
from fasteraa_transforms.search.networks.fit import Recipe
from fasteraa_transforms.search.runtime.recorder import Recorder
from fasteraa_transforms.search.task import Task, load_task

ROWS = Path(__file__).parent / "rows.jsonl"

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "one operation drawn": {"sample_selection": True},
    "start calibrated": {"start": "calibrated"},
    "guard own": {"guard": "own"},
    "penalty every 4": {"penalty_every": 4},
    "all four": {"sample_selection": True, "start": "calibrated", "guard": "own", "penalty_every": 4},
}
"""The settings that each variant has otherwise than the default."""

CONTROLS = ("none", "random start")
"""What takes no search."""

Row = dict[str, Any]


def rows() -> list[Row]:
    """What is done."""
    return [json.loads(line) for line in ROWS.read_text("utf-8").splitlines()] if ROWS.exists() else []


def add(row: Row) -> None:
    """Keep a row, and say that it is done."""
    with ROWS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    about = " ".join(str(row[key]) for key in ("kind", "variant", "seed", "replicate") if key in row)
    error = f", error {100 * row['error']:.2f} %" if "error" in row else ""
    print(f"{about}{error}, {row['seconds']:.0f} s", flush=True)


class Round:
    """All variants with one seed, on one subset.

    Args:
        seed: of the subset, the searches and the networks.
        options: of the command line; the rows of other sizes are left alone.
    """

    def __init__(self, seed: int, options: argparse.Namespace) -> None:
        self.seed, self.options = seed, options
        self.sizes = {key: getattr(options, key) for key in ("images", "epochs", "network")}
        self.settings = Settings(
            contenders=("adversarial",),
            num_images=options.images,
            epochs=options.epochs,
            classifier_epochs=min(options.epochs, Settings.classifier_epochs),
            strengths=(1.0,),
            seed=seed,
            device=options.device,
        )
        self.task: Task = load_task(Digits(), self.settings, name="digits")

    def found(self, **keys: Any) -> Row | None:
        """The row of these values, of this round."""
        wanted = {**keys, **self.sizes, "seed": self.seed}
        return next((row for row in rows() if wanted.items() <= row.items()), None)

    def arena(self, epochs: int) -> Arena:
        """What the networks share: two thirds of the images are trained on, the others judge."""
        recipe = Recipe(epochs=epochs, batch_size=32, learning_rate=0.05)
        task = self.task
        return Arena(task.data, task.crop, self.options.network, recipe, 2 * len(task.data) // 3, seed=self.seed)

    def length(self) -> int:
        """Epochs of each training; the search of the length, and the guard's curves, have a row."""
        row = self.found(kind="length")
        if row is None:
            began = time.perf_counter()

            def fit_in(lengths: Sequence[int]) -> list[float]:
                return [run_trial(self.arena(each), "none", None, 0)["train_accuracy"] for each in lengths]

            length, fitted = find_length(fit_in, most=self.options.longest)
            guard = run_trial(self.arena(MULTIPLE * length), "none", None, 0, curves_of=Allowed().operations)
            row = {
                "kind": "length",
                **self.sizes,
                "seed": self.seed,
                "length": MULTIPLE * length,
                "fitted": fitted,
                "curves": guard["curves"],
                "seconds": time.perf_counter() - began,
            }
            add(row)
        return int(row["length"])

    def calibrated(self) -> Policy:
        """The policy that a classifier loses least by, from which a search may begin."""
        row = self.found(kind="length")
        assert row is not None
        curves = {"none": Curves.from_json(row["curves"])}
        policy = find_kind("calibrated").make(Material(Allowed(), curves))[-1].policy
        assert policy is not None
        return policy

    def policy(self, variant: str) -> Policy | None:
        """What a variant finds; the same as a race makes of these settings."""
        if variant == "none":
            return None
        row = self.found(kind="search", variant=variant)
        if row is None:
            began = time.perf_counter()
            policy = self.start() if variant == "random start" else self.search(variant)
            add(
                {
                    "kind": "search",
                    "variant": variant,
                    **self.sizes,
                    "seed": self.seed,
                    "policy": json.loads(policy.to_json()),
                    "seconds": time.perf_counter() - began,
                }
            )
            return policy
        return Policy.from_json(json.dumps(row["policy"]))

    def start(self) -> Policy:
        """The random start of the default."""
        once = dataclasses.replace(self.settings, epochs=1, classifier_epochs=0)
        start = adversarial_search(self.task, once, Recorder()).reference.policy
        return Policy(start.to_policy(prune=self.settings.prune).sub_policies, name="random start")

    def search(self, variant: str) -> Policy:
        """The policy of the contender that a variant makes."""
        settings = dataclasses.replace(self.settings, **VARIANTS[variant])
        start = self.calibrated() if settings.start == "calibrated" else None
        (contender,) = adversarial(self.task, settings, Recorder(), Allowed(), start)
        assert contender.policy is not None
        return Policy(contender.policy.sub_policies, name=variant)

    def run(self) -> None:
        """Search and test what has no row yet."""
        arena = self.arena(self.length())
        for variant in (*CONTROLS, *VARIANTS):
            policy = self.policy(variant)
            for replicate in range(self.options.replicates):
                if self.found(kind="test", variant=variant, replicate=replicate):
                    continue
                tested = run_trial(arena, variant, policy, replicate)
                kept = {key: tested[key] for key in ("error", "loss", "train_accuracy", "seconds")}
                add(
                    {
                        "kind": "test",
                        "variant": variant,
                        **self.sizes,
                        "seed": self.seed,
                        "replicate": replicate,
                        **kept,
                    }
                )


def table(done: Sequence[Row], options: argparse.Namespace) -> list[str]:
    """Error of each variant, paired with the default, as Markdown.

    Args:
        done: rows; those of the sizes in ``options`` count.
        options: of the command line.
    """
    sizes = {key: getattr(options, key) for key in ("images", "epochs", "network")}.items()
    mine = [row for row in done if sizes <= row.items()]
    errors: dict[str, dict[tuple[int, int], float]] = {}
    for row in mine:
        if row["kind"] == "test":
            errors.setdefault(row["variant"], {})[row["seed"], row["replicate"]] = 100 * row["error"]
    if "default" not in errors:
        return ["Nothing of the default is tested yet."]
    # A test is paired with that of the default with the same seed and replicate.
    numbers = {key: i for i, key in enumerate(sorted({key for values in errors.values() for key in values}))}
    by_number = {name: {numbers[key]: error for key, error in values.items()} for name, values in errors.items()}
    seconds: dict[str, list[float]] = {}
    for row in mine:
        if row["kind"] == "search":
            seconds.setdefault(row["variant"], []).append(row["seconds"])
    lines = [
        f"{options.images} digits, {options.epochs} epochs, {options.network}; error in %, paired with the default.",
        "",
        "| variant | networks | error | minus default | search, s |",
        "|---|---:|---:|---:|---:|",
    ]
    for each in compared_with("default", by_number):
        difference = ""
        if each.difference is not None:
            difference = f"{each.difference.mean:+.2f}"
            difference += f" ± {each.difference.half_width:.2f}" if each.difference.n > 1 else ""
        took = f"{statistics.fmean(seconds[each.label]):.0f}" if each.label in seconds else ""
        lines.append(f"| {each.label} | {len(each.values)} | {each.mean:.2f} | {difference} | {took} |")
    if short := [row["seed"] for row in mine if row["kind"] == "length" and not row["fitted"]]:
        lines += ["", f"With seeds {short} no network fitted its images to {FITTED:.0%}: trust these less."]
    return lines


def main() -> None:
    """Run what has no row yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=1797, help="size of the subset; all digits by default")
    parser.add_argument("--epochs", type=int, default=30, help="of each search")
    parser.add_argument("--network", default="resnet9-8", help="that the policies are tested with")
    parser.add_argument("--longest", type=int, default=64, help="epochs at most that fitting the images is given")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--replicates", type=int, default=3, help="networks for each policy")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--table", action="store_true", help="print what is done, and run nothing")
    options = parser.parse_args()
    for seed in range(0 if options.table else options.seeds):
        Round(seed, options).run()
    print("\n".join(table(rows(), options)))


if __name__ == "__main__":
    main()
