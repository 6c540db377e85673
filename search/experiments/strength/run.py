"""What each ingredient of the search does to the policy, and the policy to a small network. Can be resumed.

    python search/experiments/strength/run.py digits --out search/experiments/strength/digits

For each subset size and seed: a subset is drawn to search and train on, and other images for the test. Every policy is
searched on the subset alone, and small networks are trained on it with each: with none, with TrivialAugment
(torchvision's TrivialAugmentWide, a draw for each image), with the search's own random start, with another random
policy, with random starts whose probabilities are scaled down, and with what each variant of the search finds. All with
the same starts, order and crops. Seeds go round by round, and within a round every arm has its turn.

Rows are appended to `rows.jsonl` in the folder as they are done, and what is there is not done again; `README.md` is
made of them at the end, or by `--report` alone. The searches are kept in the folder `--work`.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor
from torchvision.transforms import v2

from fasteraa_transforms import Policy, RelaxedPolicy
from fasteraa_transforms.search import Settings, load_images, open_dataset, search
from fasteraa_transforms.search.algorithm.diagnosis import strength
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.data.table import DATASETS
from fasteraa_transforms.search.evaluation.statistics import paired_interval
from fasteraa_transforms.search.networks.fit import Fit, Recipe, fit
from fasteraa_transforms.search.networks.table import make_network

Row = dict[str, Any]

TRAVEL = {"policy_learning_rate"}
GUARD = {"classifier_epochs", "classification_weight"}
HELD = {"strengths", "multiplier_rate"}
SPREAD = {"selection_temperature"}
DEFAULT = "default: all four"
VARIANTS = {
    "paper": set(),
    "rate": TRAVEL,
    "rate, classifier first": TRAVEL | GUARD,
    "rate, strength held": TRAVEL | HELD,
    "rate, classifier first, strength held": TRAVEL | GUARD | HELD,
    DEFAULT: TRAVEL | GUARD | HELD | SPREAD,
}
"""The settings that each variant has of the defaults; the others are the paper's. All take as many steps.

All but the last are held at the strength of their start, where they are held. The last is held at one strength after
another, of which the first is kept.
"""

FRACTIONS = Settings().strengths
PAPER = Settings.paper()


class Round:
    """All arms of one subset size and seed.

    Args:
        dataset: name of the dataset.
        pool: the images of this seed; the first `count` are the subset, the next ones the test.
        count: images of the subset.
        seed: of everything.
        options: of the command line.
    """

    def __init__(self, pool: ImageSet, count: int, seed: int, options: argparse.Namespace) -> None:
        self.options, self.count, self.seed = options, count, seed
        tested = slice(count, count + options.test_images)
        self.subset = ImageSet(pool.images[:count], pool.labels[:count], pool.classes)
        self.test = ImageSet(pool.images[tested], pool.labels[tested], pool.classes)
        recipe = DATASETS[options.dataset].preparation
        self.size = tuple(pool.images.shape[-2:])
        padding = recipe.padding * self.size[0] // 32
        self.crop = Crop(self.size, padding, recipe.flip)

    def arms(self) -> Iterator[tuple[str, Callable[[], Row]]]:
        """Names, and what gives their rows."""
        yield "none", lambda: self.train(None)
        yield "TrivialAugment", lambda: self.train(trivial_augment)
        yield "random start", lambda: self.train_with(self.random(self.seed, PAPER))
        yield "random start, probabilities × 0.25", lambda: self.train_with(self.random(self.seed, PAPER, 0.25))
        yield "random, fresh", lambda: self.train_with(self.random(self.seed + 1000, PAPER))
        yield "random start of the default", lambda: self.train_with(self.random(self.seed, Settings()))
        for fraction in FRACTIONS:
            if fraction < 1:
                name = f"random start of the default, probabilities × {fraction:g}"
                yield name, lambda f=fraction: self.train_with(self.random(self.seed, Settings(), f))
        for name in VARIANTS:
            yield name, lambda name=name: self.train_with(self.search(name))
        for fraction in FRACTIONS:
            yield f"default, held at {fraction:g}", lambda f=fraction: self.train_with(self.searched_at(f))

    def random(self, seed: int, settings: Settings, fraction: float = 1.0) -> Policy:
        """A random start, its probabilities scaled down."""
        policy = RelaxedPolicy(
            selection_temperature=settings.selection_temperature, generator=torch.Generator().manual_seed(seed)
        )
        with torch.no_grad():
            policy.probabilities.mul_(fraction)
        return policy.to_policy(f"random × {fraction:g}", prune=settings.prune)

    def settings(self, name: str) -> Settings:
        """Of a variant, all with as many steps."""
        per_epoch = self.count // self.options.batch_size
        mine = {field: getattr(Settings(), field) for field in VARIANTS[name]}
        if "classifier_epochs" in mine:
            mine["classifier_epochs"] = -(-self.options.classifier_steps // per_epoch)
        if "strengths" in mine and name != DEFAULT:
            mine["strengths"] = (1.0,)
        return Settings.paper(
            **mine,
            epochs=-(-self.options.steps // per_epoch),
            batch_size=self.options.batch_size,
            image_size=self.size[0],
            padding=self.crop.padding,
            critic=self.options.critic,
            seed=self.seed,
            device="cpu",
        )

    @property
    def folder(self) -> Path:
        """Of the default search."""
        return self.options.work / f"{self.options.dataset}-{self.count}-{self.seed}"

    def search(self, name: str) -> Policy:
        """The policy that a variant finds, on the subset alone; only the default leaves a folder."""
        folder = self.folder if name == DEFAULT else None
        samples = list(zip(self.subset.images, self.subset.labels.tolist(), strict=True))
        resume = folder is not None and (folder / "checkpoint.pt").exists()
        return search(
            samples, self.settings(name), out=folder, resume=resume, name=self.options.dataset, progress=False
        )

    def searched_at(self, fraction: float) -> Policy:
        """What the default search left at one of its strengths."""
        self.search(DEFAULT)  # at once, where it is done
        return Policy.load(self.folder / f"strength-{fraction:g}.json")

    def train_with(self, policy: Policy) -> Row:
        """Train with a policy; its own diagnosis goes into the row."""
        row: Row = {}
        if found := policy.provenance.get("diagnosis"):
            row = {name: found[name] for name in ("drift", "entropy_end", "accuracy_clean", "accuracy_classifier")}
        return self.train(policy) | row | {"strength": strength(policy, self.subset.images[:512])}

    def train(self, augment: Policy | Callable[[Tensor], Tensor] | None) -> Row:
        """Train small networks on the subset and test them."""
        data, tested = self.subset, []
        batch_size = min(50, len(data))
        epochs = -(-self.options.network_steps // (len(data) // batch_size))
        recipe = Recipe.of("small", epochs=epochs, batch_size=batch_size)
        made = augment if augment is None or isinstance(augment, Policy) else lambda generator: augment
        with torch.random.fork_rng(devices=[]):
            for i in range(self.options.trainings):
                training = Fit(
                    data,
                    lambda: make_network("small", channels=data.images.shape[1], classes=data.classes),
                    recipe,
                    self.crop,
                    augment=made,
                    seed=100 * self.seed + i,
                )
                fit(training)
                tested.append(training.test(self.test))
        errors, losses = zip(*tested, strict=True)
        return {"error": errors, "loss": losses}


def trivial_augment(images: Tensor) -> Tensor:
    """TrivialAugment, with a draw for each image; on a batch torchvision has one draw for all."""
    transform = v2.TrivialAugmentWide()
    return torch.stack([transform(image) for image in images])


def interval(values: list[float]) -> str:
    """Mean and 95 % confidence interval by Student's t."""
    found = paired_interval(values, [0.0] * len(values))
    if found.n < 2:
        return f"{found.mean:+.1f}"
    return f"{found.mean:+.1f} [{found.mean - found.half_width:+.1f}, {found.mean + found.half_width:+.1f}]"


def table(rows: Iterable[Row], count: int) -> list[str]:
    """The Markdown table of one subset size, of the seeds for which every arm is done."""
    mine = [row for row in rows if row["count"] == count]
    names = list(dict.fromkeys(row["arm"] for row in mine))
    by = {(row["arm"], row["seed"]): row for row in mine}
    seeds = sorted({row["seed"] for row in mine})
    seeds = [seed for seed in seeds if all((name, seed) in by for name in names)]
    if not seeds:
        return [f"{count} images: no seed is complete.", ""]

    def errors(name: str) -> list[float]:
        return [100 * statistics.mean(by[name, seed]["error"]) for seed in seeds]

    def mean(name: str, key: str, digits: int) -> str:
        values = [value for seed in seeds if (value := by[name, seed].get(key)) is not None]
        return f"{statistics.mean(values):.{digits}f}" if values else ""

    trainings = len(by[names[0], seeds[0]]["error"])
    lines = [
        f"{count} images, {len(seeds)} seeds, {trainings} networks each. Test error in %, mean ± deviation over",
        "the seeds, and its difference with a 95 % confidence interval, paired by seed:",
        "",
        "| arm | test error | minus none | minus random | minus TrivialAugment | strength | drift | entropy | guard |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        found = errors(name)
        spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
        cells = [name, f"{statistics.mean(found):.1f}{spread}"]
        for other in ("none", "random, fresh", "TrivialAugment"):
            against = [mine - yours for mine, yours in zip(found, errors(other), strict=True)]
            cells.append("" if name == other else interval(against))
        cells += [mean(name, "strength", 3), mean(name, "drift", 2), mean(name, "entropy_end", 2)]
        cells.append(mean(name, "accuracy_clean", 2))
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def report(out: Path, options: argparse.Namespace) -> None:
    """Write README.md of the rows."""
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    lines = [
        f"# What the ingredients of the search do: {options.dataset}",
        "",
        f"Images of {options.size}×{options.size} pixels, up to {options.test_images} of them for the test. A search: "
        f"{options.steps} steps of batch {options.batch_size}",
        f"with the {options.critic} critic, after {options.classifier_steps} of the classifier alone where it comes "
        f"first. A network: {options.network_steps} steps.",
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, on the CPU.",
        "",
        "strength: mean |S(X) - X| on the subset. drift: distance of the parameters from their start, as a fraction of",
        "that between two random starts. entropy: of the selection at the end (1: all alike). guard: accuracy of the",
        "critic's class head on clean images in the last epoch.",
        "",
    ]
    for count in sorted({row["count"] for row in rows}):
        lines += table(rows, count)
    (out / "README.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "dataset", nargs="?", default="digits", choices=[name for name in DATASETS if name != "imagenet"]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--work", type=Path, default=Path("runs/strength"), help="folder of the searches")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--images", type=int, nargs="+", default=[60], help="sizes of the subset")
    parser.add_argument("--size", type=int, default=16, help="side of the images in pixels")
    parser.add_argument("--test-images", type=int, default=1600)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trainings", type=int, default=1, help="networks for each policy")
    parser.add_argument("--network-steps", type=int, default=200, help="of a network's training")
    parser.add_argument("--steps", type=int, default=150, help="of a search")
    parser.add_argument("--classifier-steps", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=32, help="of a search")
    parser.add_argument("--critic", default="small")
    parser.add_argument("--arms", nargs="+", help="only these, by the names in the report; all by default")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no arm after so long")
    parser.add_argument("--report", action="store_true", help="only make the report of the rows that are there")
    return parser.parse_args()


def main() -> None:
    options = parse()
    out, began = options.out, time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "rows.jsonl"
    done = {
        (row["count"], row["seed"], row["arm"])
        for row in map(json.loads, kept.read_text().splitlines() if kept.exists() else [])
    }
    dataset = None if options.report else open_dataset(options.dataset, data_dir=options.data_dir)
    for seed in range(options.first_seed, options.first_seed + options.seeds if dataset else 0):
        most = max(options.images) + options.test_images
        pool = load_images(dataset, num_images=most, size=(options.size, options.size), seed=1000 + seed)
        for count in options.images:
            for name, arm in Round(pool, count, seed, options).arms():
                if options.arms and name not in options.arms:
                    continue
                if (count, seed, name) in done or time.monotonic() - began > 60 * options.minutes:
                    continue
                start = time.perf_counter()
                row = {"count": count, "seed": seed, "arm": name, **arm(), "seconds": time.perf_counter() - start}
                with kept.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(
                    count,
                    seed,
                    name,
                    [round(100 * error, 2) for error in row["error"]],
                    f"{row['seconds']:.0f} s",
                    flush=True,
                )
    report(out, options)


if __name__ == "__main__":
    main()
