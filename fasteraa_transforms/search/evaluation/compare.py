"""Augmentations compared: the same network trained with each, interleaved; the differences and their intervals."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
import torchvision
from torch import Tensor
from torchvision.transforms import v2

from fasteraa_transforms.pipeline.transform import FasterAutoAugment
from fasteraa_transforms.policy.policy import Policy
from fasteraa_transforms.relaxed import RelaxedPolicy
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import (
    FOLDER_RECIPE,
    RECIPES,
    ImageSet,
    MapDataset,
    load_images,
    open_dataset,
)
from fasteraa_transforms.search.evaluation.checkpointed import CheckpointedFit
from fasteraa_transforms.search.evaluation.settings import TrainingSettings
from fasteraa_transforms.search.networks.fit import Augment, Fit
from fasteraa_transforms.search.networks.table import fitting_critic, make_network
from fasteraa_transforms.search.runtime.folder import RunFolder
from fasteraa_transforms.search.runtime.hardware import device_name
from fasteraa_transforms.search.runtime.world import World, join

CONTROLS = ("none", "cutout", "random", "trivialaugment", "randaugment", "autoaugment")
"""What every policy should be compared with; those that need no search."""

POLL = 1.0
"""Seconds between two looks for the rows of other processes."""


@dataclass(frozen=True)
class Augmentation:
    """One row of the table: a control by its name, or a policy.

    Attributes:
        label: what the table calls it.
        policy: of a policy; None for a control, whose name is the label.
    """

    label: str
    policy: Policy | None = None


def parse_augmentations(text: str) -> list[Augmentation]:
    """The augmentations of a list such as "none,cutout,mine=runs/mine/policy.json".

    Args:
        text: names of controls, names of shipped policies and policy files, separated by commas; ``label=`` in front of
            one says what the table calls it, else it is called what it is given as.

    Raises:
        ValueError: an unknown name, a label that is there twice, or no augmentation.
        PolicyError: a file cannot be read or is refused.

    Example:
        >>> [each.label for each in parse_augmentations("none, cutout, shipped=cifar10")]
        ['none', 'cutout', 'shipped']
    """
    found = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        label, equals, given = item.partition("=")
        given = given if equals else label
        if given in CONTROLS:
            if equals:
                raise ValueError(f"a control has its own name, but got {item!r}; leave out the label")
            found.append(Augmentation(given))
            continue
        if label in CONTROLS:
            raise ValueError(f"a policy should not be called as a control is, but got {item!r}; choose another label")
        try:
            policy = FasterAutoAugment.from_pretrained(given).policy
        except ValueError as error:
            if not str(error).startswith("unknown policy"):
                raise
            raise ValueError(f"policies should be among {', '.join(CONTROLS)}; or {error}") from None
        found.append(Augmentation(label, policy))
    labels = [each.label for each in found]
    if not labels:
        raise ValueError("policies should name at least one augmentation, but got none")
    if repeated := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"labels should differ, but got {', '.join(repeated)} more than once; give one with label=")
    return found


def open_splits(
    name: str, *, data_dir: str | Path = "data", download: bool = False
) -> tuple[MapDataset, MapDataset | None]:
    """The training and the test split of a named dataset or of a folder of images.

    Args:
        name: as for `open_dataset`; or a folder that holds ``train`` and ``test`` or ``val``, each laid out as
            torchvision's ImageFolder.
        data_dir: where torchvision finds or puts its files.
        download: whether torchvision may download them.

    Returns:
        Both, or all images and None where there is no official test split (digits, other folders).

    Raises:
        ValueError: neither a known name nor a folder, the files are not there, the splits have different classes, or
            images can only be iterated over.
    """
    folder = Path(name)
    parts = [folder / part for part in ("test", "val") if (folder / part).is_dir()]
    if name not in RECIPES and parts and (folder / "train").is_dir():
        train, test = (_open(str(part)) for part in (folder / "train", parts[0]))
        ours, theirs = (getattr(split, "classes", None) for split in (train, test))
        if ours != theirs:
            raise ValueError(f"train and {parts[0].name} of {name!r} should have the same classes, but they differ")
        return train, test
    train, root = _open(name, data_dir=data_dir, download=download), str(data_dir)
    try:
        match name:
            case "cifar10":
                return train, torchvision.datasets.CIFAR10(root, train=False)
            case "cifar100":
                return train, torchvision.datasets.CIFAR100(root, train=False)
            case "svhn":
                return train, torchvision.datasets.SVHN(root, split="test", download=download)
            case "imagenet":
                return train, torchvision.datasets.ImageNet(root, split="val")
    except (RuntimeError, FileNotFoundError) as error:
        raise ValueError(
            f"the test images of {name} were not found in {root!r} ({str(error).splitlines()[0]})"
        ) from error
    return train, None


def _open(name: str, **options: Any) -> MapDataset:
    dataset = open_dataset(name, **options)
    if not hasattr(dataset, "__getitem__"):
        raise ValueError(f"{name} should be a map-style dataset, but got a {type(dataset).__name__} instead")
    return cast(MapDataset, dataset)


@dataclass(frozen=True)
class Split:
    """What networks are trained on, and what they are tested on.

    Attributes:
        train: the training images.
        test: the test images, of the same classes.
        crop: random in training; its centre is tested.
    """

    train: ImageSet
    test: ImageSet
    crop: Crop


@dataclass(frozen=True)
class Interval:
    """Mean of paired differences, and its confidence interval.

    Attributes:
        mean: of the differences.
        half_width: the interval is mean ± this; infinite for one pair.
        n: number of pairs.
    """

    mean: float
    half_width: float
    n: int

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out 0."""
        return abs(self.mean) > self.half_width


def paired_interval(values: Sequence[float], control: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Interval of the mean of ``values[i] - control[i]``, by Student's t with n - 1 degrees of freedom.

    Args:
        values: one a seed.
        control: of the same seeds, in the same order.
        confidence: in (0, 1).

    Raises:
        ValueError: they are not equally many, or none.

    Example:
        >>> paired_interval([2.0, 3.0, 4.0], [1.0, 1.0, 1.0])  # 2 ± 4.303 · 1 / √3
        Interval(mean=2.0, half_width=2.484..., n=3)
    """
    from scipy.special import stdtrit

    n = len(values)
    if not n or n != len(control):
        raise ValueError(f"values and control should be equally many, at least 1, but got {n} and {len(control)}")
    differences = torch.tensor(values, dtype=torch.float64) - torch.tensor(control, dtype=torch.float64)
    if n == 1:
        return Interval(differences.item(), math.inf, 1)
    quantile = float(stdtrit(n - 1, (1 + confidence) / 2))
    return Interval(differences.mean().item(), quantile * differences.std().item() / math.sqrt(n), n)


def format_table(rows: Sequence[Mapping[str, Any]], *, paper: Mapping[str, float] | None = None) -> str:
    """The rows of an evaluation as a Markdown table.

    Args:
        rows: with ``augmentation``, ``seed`` and ``error``.
        paper: published error in percent by label, for a column of its own.

    Returns:
        A line an augmentation, in the order in which they come: seeds, mean error ± deviation, and for each control
        among them the mean difference to it ± half of its 95 % interval, in percentage points; negative is fewer
        errors. An asterisk marks intervals that leave out 0.

    Example:
        >>> rows = [{"augmentation": name, "seed": seed, "error": error + seed / 100}
        ...         for name, error in (("none", 0.10), ("mine", 0.08)) for seed in (0, 1)]
        >>> print(format_table(rows))
        | augmentation | seeds | error, % | − none |
        |---|---:|---:|---:|
        | none | 2 | 10.50 ± 0.71 | |
        | mine | 2 | 8.50 ± 0.71 | −2.00 ± 0.00 * |
    """
    errors: dict[str, dict[int, float]] = {}
    for row in rows:
        errors.setdefault(row["augmentation"], {})[row["seed"]] = 100 * row["error"]
    controls = [label for label in errors if label in CONTROLS]
    heading = ["augmentation", "seeds", "error, %", *(f"− {label}" for label in controls)]
    lines = []
    for label, by_seed in errors.items():
        values = torch.tensor(list(by_seed.values()), dtype=torch.float64)
        deviation = f" ± {values.std().item():.2f}" if len(values) > 1 else ""
        cells = [label, str(len(values)), f"{values.mean().item():.2f}{deviation}"]
        for control in controls:
            seeds = [seed for seed in by_seed if seed in errors[control]]
            if control == label or not seeds:
                cells.append("")
                continue
            found = paired_interval([by_seed[seed] for seed in seeds], [errors[control][seed] for seed in seeds])
            width = f" ± {found.half_width:.2f}" if found.n > 1 else ""
            cells.append(f"{found.mean:+.2f}{width}{' *' if found.decided else ''}".replace("-", "−"))
        lines.append(cells)
    if paper:
        heading.append("paper, %")
        for cells in lines:
            cells.append(str(paper.get(cells[0], "")))
    rule = "|".join(["---"] + ["---:"] * (len(heading) - 1))
    return "\n".join([f"| {' | '.join(heading)} |", f"|{rule}|", *(f"| {' | '.join(cells)} |" for cells in lines)])


def compare(
    dataset: MapDataset,
    augmentations: Sequence[Augmentation],
    settings: TrainingSettings | None = None,
    *,
    test: MapDataset | None = None,
    out: str | os.PathLike[str] | None = None,
    seeds: int = 3,
    name: str | None = None,
    paper: Mapping[str, float] | None = None,
    command: str | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train the same networks with each augmentation, and test each at the end of its last epoch.

    All augmentations of a seed come before the next seed; those of one seed share the first weights, the training
    images and their order, crops and flips, so that their differences are paired.

    Started by torchrun, or where `torch.distributed` has a process group, all processes have to call it alike. Each
    trains on its own device, who is ready takes the next training, and all return all rows. What they have done is
    merged by way of ``out``, a folder that all of them see.

    Args:
        dataset: the training split, or all images; map-style, samples (image, label), as for `search`.
        augmentations: from `parse_augmentations`. `random` draws a policy for each seed, of as many sub-policies and
            stages as the first policy has, else 10 and 2: the start of a search with that seed at the paper's settings.
        settings: how to train; the defaults if None.
        test: the test split; if None, the images that are not trained on.
        out: folder for ``rows.jsonl`` (one line a finished training), ``table.md``, ``settings.json``, TensorBoard
            events and checkpoints. What is there already is kept: finished trainings are not repeated, one that was cut
            off continues from its last whole epoch, and augmentations and seeds may be added.
        seeds: how many trainings of each augmentation, with the seeds from 0.
        name: of the dataset, whose recipe is the default of what ``settings`` leaves open.
        paper: published error in percent by label, for a column of the table.
        command: how this was started, for ``settings.json`` and the table.
        progress: whether to show a progress bar.

    Returns:
        The rows: augmentation, seed, error and loss on the test images, loss and accuracy of the last epoch of
        training, epochs, seconds of training, images per second, and of a policy its digest and on how many of the test
        images it was searched, where its provenance tells.

    Raises:
        ValueError: unusable images, settings or model; ``out`` holds trainings of other settings, or of another policy
            of the same label; or there are several processes and no ``out``.

    Source: the paper, section 5.1 and 5.2; Fast AutoAugment's repository.

    Example:
        >>> from fasteraa_transforms.search import Digits
        >>> settings = TrainingSettings(epochs=1, train_images=128)
        >>> rows = compare(Digits(), parse_augmentations("none,cifar10"), settings, seeds=1, progress=False)
        >>> [(row["augmentation"], row["seed"], 0 <= row["error"] <= 1) for row in rows]
        [('none', 0, True), ('cifar10', 0, True)]
    """
    settings = settings or TrainingSettings()
    if seeds < 1:
        raise ValueError(f"seeds should be positive, but got {seeds} instead")
    name = type(dataset).__name__.lower() if name is None else name
    world = join()
    if world.size > 1 and out is None:
        raise ValueError("out should be given for several processes, whose rows meet there, but got None instead")
    device = world.device(settings.device)
    with contextlib.ExitStack() as stack:
        devices = [device] if device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices=devices))  # each training seeds its draws
        folder = None if out is None else Path(out)
        left = f"{folder} keeps what is done, and the same command continues it"
        stack.enter_context(world.telling_when_terminated(lambda: left))
        evaluation = _Evaluation(dataset, test, list(augmentations), settings, folder, name, device, command, world)
        return evaluation.run(seeds, dict(paper or {}), progress)


class _Evaluation:
    """The state of one call of `compare`."""

    def __init__(
        self,
        dataset: MapDataset,
        test: MapDataset | None,
        augmentations: list[Augmentation],
        settings: TrainingSettings,
        out: Path | None,
        name: str,
        device: torch.device,
        command: str | None,
        world: World,
    ) -> None:
        self.world = world
        self.dataset, self.test, self.augmentations, self.out = dataset, test, augmentations, out
        self.name, self.device, self.command = name, device, command
        recipe = RECIPES.get(name, FOLDER_RECIPE)
        self.margin = recipe.margin
        size = recipe.image_size if settings.image_size is None else (settings.image_size, settings.image_size)
        self.image_size = size
        self.settings = dataclasses.replace(
            settings,
            model=settings.model or recipe.critic,
            padding=recipe.padding if settings.padding is None else settings.padding,
            flip=recipe.flip if settings.flip is None else settings.flip,
            cutout={"svhn": 20, "imagenet": 0}.get(name, 16) if settings.cutout is None else settings.cutout,
            device=str(device),
        )
        if not self.settings.cutout and any(each.label == "cutout" for each in augmentations):
            raise ValueError("cutout should be positive for the control cutout, but got 0 instead")
        shapes = [each.policy for each in augmentations if each.policy is not None]
        self.shape = (len(shapes[0]), shapes[0].stages) if shapes else (10, 2)
        self._kept: tuple[int, Split] | None = None
        first = self._split(0)
        self.counts = len(first.train.images), len(first.test.images)
        self.classes = first.train.classes
        if self.settings.model is None:
            self.settings = dataclasses.replace(self.settings, model=fitting_critic(first.crop.size))

    def run(self, seeds: int, paper: dict[str, float], progress: bool) -> list[dict[str, Any]]:
        from tqdm import tqdm

        world = self.world
        before = world.from_first(self._prepare)
        done = {_key(row) for row in before}
        trainings = [(each, seed) for seed in range(seeds) for each in self.augmentations]
        pending = {(each.label, seed): each for each, seed in trainings if (each.label, seed) not in done}
        epochs, finished = self.settings.epochs, len(trainings) - len(pending)
        show = progress and world.first
        own: list[dict[str, Any]] = []
        rows = before
        with tqdm(total=epochs * len(trainings), initial=epochs * finished, unit="epoch", disable=not show) as bar:

            def collect() -> list[dict[str, Any]]:
                """The rows of all ranks by now; of which the first one keeps the record."""
                new = {_key(row): row for row in (*self._recorded(), *own)}
                found = before + [new[key] for key in pending if key in new]
                if world.first and self.out is not None and len(found) > len(rows):
                    _write_rows(self.out / "rows.jsonl", found)
                    self._write_table(found, paper)
                    bar.n = epochs * (finished + len(found) - len(before))
                    bar.refresh()
                return found

            for number in world.take(len(pending)):
                (label, seed), augmentation = list(pending.items())[number]
                bar.set_description(f"{label}, seed {seed}")
                own.append(self._train(augmentation, seed, bar))
                if self.out is not None and not world.first:
                    _write_rows(self.out / f"rows-{world.rank}.jsonl", own)
                rows = collect()
                if self.out is not None:
                    self._checkpoint(augmentation, seed).unlink(missing_ok=True)
            while len(rows) < len(before) + len(pending):  # which the others are at
                time.sleep(POLL)
                rows = collect()
        if self.out is not None and world.first:
            self._write_table(rows, paper)
            self._merge(rows)
        return rows

    def _recorded(self) -> list[dict[str, Any]]:
        """The rows in the folder: of the record, and of the ranks but the first."""
        if self.out is None:
            return []
        paths = (self.out / "rows.jsonl", *sorted(self.out.glob("rows-*.jsonl")))
        return list({_key(row): row for path in paths for row in _read_rows(path)}.values())

    def _merge(self, rows: list[dict[str, Any]]) -> None:
        """Leave ``rows`` in one file, from which those of the ranks but the first are gone."""
        assert self.out is not None
        if parts := list(self.out.glob("rows-*.jsonl")):
            _write_rows(self.out / "rows.jsonl", rows)
        for part in parts:
            part.unlink()

    def _prepare(self) -> list[dict[str, Any]]:
        """Make the folder, or check that what it holds can be added to; the rows that are there."""
        if self.out is None:
            return []
        path = self.out / "settings.json"
        mine = {"dataset": self.name} | dataclasses.asdict(self.settings)
        if path.is_file():
            theirs = json.loads(path.read_text(encoding="utf-8"))["settings"]
            elsewhere = ("device", "compile")  # an evaluation may continue on another machine
            differences = [
                f"{key}={theirs.get(key)!r}, but got {value!r}"
                for key, value in mine.items()
                if theirs.get(key) != value and key not in elsewhere
            ]
            if differences:
                raise ValueError(f"{self.out} was trained with {'; '.join(differences)} instead; choose another folder")
        (self.out / "checkpoints").mkdir(parents=True, exist_ok=True)
        rows = self._recorded()
        by_label = {each.label: each for each in self.augmentations}
        for row in rows:
            label = row["augmentation"]
            policy = self._policy(by_label[label], row["seed"]) if label in by_label else None
            if policy is not None and _digest(policy) != row["policy"]:
                raise ValueError(
                    f"{self.out} was trained with another policy called {label}; choose another label or folder"
                )
        recipe = self.settings.recipe(self.device)
        about = {
            "settings": mine,
            "learning_rate": recipe.learning_rate,
            "weight_decay": recipe.weight_decay,
            "precision": "bfloat16" if recipe.bfloat16 else "float32",
            "train_images": self.counts[0],
            "test_images": self.counts[1],
            "classes": self.classes,
            "hardware": _hardware(self.device),
            "versions": {"python": platform.python_version()}
            | {package: version(package) for package in ("torch", "torchvision", "pillow", "numpy")},
            "command": self.command,
        }
        _replace(path, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
        self._merge(rows)  # of a run that was cut off
        return rows

    def _split(self, seed: int) -> Split:
        """The images of a training; kept while the trainings share them."""
        if self.settings.split_seed is not None:
            seed = self.settings.split_seed
        if self.test is not None and self.settings.train_images is None:
            seed = 0  # all of them
        if self._kept is None or self._kept[0] != seed:
            self._kept = seed, self._load(seed)
        return self._kept[1]

    def _load(self, seed: int) -> Split:
        settings = self.settings
        held = None if self.image_size is None else tuple(side + self.margin for side in self.image_size)
        everything = load_images(self.dataset, size=held, seed=seed)  # type: ignore[arg-type]
        if everything.has_masks:
            raise ValueError("an evaluation takes a label for each image, but the dataset has masks")
        total = len(everything.images)
        count = settings.train_images or (total if self.test is not None else total // 2)
        if count > total or (count == total and self.test is None):
            raise ValueError(
                f"train_images should be at most {total if self.test is not None else total - 1}, "
                f"but got {count} instead"
            )

        def moved(images: Tensor, labels: Tensor) -> ImageSet:
            return ImageSet(images.to(self.device), labels.to(self.device), everything.classes)

        train = moved(everything.images[:count], everything.labels[:count])
        if self.test is None:
            test = moved(everything.images[count:], everything.labels[count:])
        else:
            loaded = load_images(self.test, size=held)  # type: ignore[arg-type]
            if loaded.classes != everything.classes or loaded.images.shape[1] != everything.images.shape[1]:
                raise ValueError(
                    "test images should have the classes and channels of the training images, "
                    f"{everything.classes} and {everything.images.shape[1]}, "
                    f"but got {loaded.classes} and {loaded.images.shape[1]} instead"
                )
            test = moved(loaded.images, loaded.labels)
        size = self.image_size or (train.images.shape[-2], train.images.shape[-1])
        assert settings.padding is not None
        return Split(train, test, Crop(size, settings.padding, bool(settings.flip)))

    def _policy(self, augmentation: Augmentation, seed: int) -> Policy | None:
        """The policy it trains with, of those that are policies."""
        if augmentation.label == "random":
            generator = torch.Generator().manual_seed(seed)
            return RelaxedPolicy(*self.shape, generator=generator).to_policy(f"random-{seed}")
        if augmentation.label == "autoaugment":
            kind = {"svhn": "SVHN", "imagenet": "IMAGENET"}.get(self.name, "CIFAR10")
            return Policy.from_autoaugment(getattr(v2.AutoAugmentPolicy, kind))
        return augmentation.policy

    def _train(self, augmentation: Augmentation, seed: int, bar: Any) -> dict[str, Any]:
        split, settings, label = self._split(seed), self.settings, augmentation.label
        policy = self._policy(augmentation, seed)

        def build(generator: torch.Generator) -> Augment | None:
            if policy is not None:
                return FasterAutoAugment(policy, generator=generator)
            transforms = {"trivialaugment": v2.TrivialAugmentWide, "randaugment": v2.RandAugment}
            return _one_by_one(transforms[label]()) if label in transforms else None

        side = settings.cutout or 0
        if label == "none" or not (label == "cutout" or settings.cutout_after):
            side = 0
        checkpoint = self._checkpoint(augmentation, seed) if self.out is not None else None
        model, channels = settings.model, split.train.images.shape[1]
        assert model is not None
        training = Fit(
            split.train,
            lambda: make_network(model, channels=channels, classes=split.train.classes),
            settings.recipe(self.device, cutout=side),
            split.crop,
            augment=build,
            seed=seed,
            compile=settings.compile,
        )
        kept = CheckpointedFit(training, checkpoint)
        writer = None
        if self.out is not None:
            from torch.utils.tensorboard import SummaryWriter

            events = self.out / "tensorboard" / _file_name(augmentation, seed)
            writer = SummaryWriter(str(events), purge_step=training.epoch + 1 if training.epoch else None)
        bar.update(training.epoch)

        def tell(measured: dict[str, float]) -> None:
            if writer is not None:
                for key, value in measured.items():
                    writer.add_scalar(f"train/{key}", value, training.epoch)
            bar.update()
            bar.set_postfix(loss=f"{measured['loss']:.3f}", refresh=False)

        try:
            kept.run(tell)
            row = _row(kept, split.test)
            if writer is not None:
                writer.add_scalar("test/error", row["error"], training.epoch)
                writer.add_scalar("test/loss", row["loss"], training.epoch)
        finally:
            if writer is not None:
                writer.close()
        digest = None if policy is None else _digest(policy)
        searched = None if augmentation.policy is None else self._searched_on(augmentation.policy, seed)
        return {"augmentation": label, "seed": seed, "policy": digest, "searched_test_images": searched} | row

    def _searched_on(self, policy: Policy, seed: int) -> int | None:
        """How many of the test images a policy was searched on, as far as its provenance tells."""
        origin = policy.provenance
        if self.test is not None or origin.get("dataset") != self.name:
            return None if not origin else 0
        settings, searched = origin.get("settings"), origin.get("images")
        if not (isinstance(settings, Mapping) and isinstance(searched, int)):
            return None
        split_seed = seed if self.settings.split_seed is None else self.settings.split_seed
        seen, tested = (
            torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(each))
            for each in (int(settings["seed"]), split_seed)
        )
        return int(torch.isin(tested[self.counts[0] :], seen[:searched]).sum())

    def _checkpoint(self, augmentation: Augmentation, seed: int) -> Path:
        """Of one training with one policy: that of another policy of the same label is another file."""
        assert self.out is not None
        policy = self._policy(augmentation, seed)
        mark = "" if policy is None else f"-{_digest(policy)}"
        return self.out / "checkpoints" / f"{_file_name(augmentation, seed)}{mark}.pt"

    def _write_table(self, rows: list[dict[str, Any]], paper: dict[str, float]) -> None:
        assert self.out is not None
        order = {each.label: i for i, each in enumerate(self.augmentations)}
        ranked = sorted(rows, key=lambda row: order.get(row["augmentation"], len(order)))
        about = [
            f"{self.name}: {self.counts[0]} training images, {self.counts[1]} test images; "
            f"{self.settings.model}, {self.settings.epochs} epochs, last epoch; {_hardware(self.device)}, "
            f"torch {version('torch')}, torchvision {version('torchvision')}.",
            "Mean error ± deviation over the seeds; mean difference to a control by seed ± half of its 95 % interval "
            "(Student's t, paired), in percentage points; negative: fewer errors; *: the interval leaves out 0.",
        ]
        peeked = {row["augmentation"]: row["searched_test_images"] for row in rows if row["searched_test_images"]}
        about += [f"**{label} was searched on {count} of the test images.**" for label, count in peeked.items()]
        if self.command:
            about.append(f"    {self.command}")
        text = "\n\n".join([*about, format_table(ranked, paper=paper)]) + "\n"
        _replace(self.out / "table.md", text)


def _replace(path: Path, text: str) -> None:
    RunFolder(path.parent).replace(path, lambda file: file.write_text(text, encoding="utf-8"))


def _row(kept: CheckpointedFit, test: ImageSet) -> dict[str, Any]:
    """What a finished training is worth, as it goes into ``rows.jsonl``."""
    training = kept.training
    error, loss = training.test(test)
    images = training.steps_per_epoch * training.batch_size * training.epoch
    return {
        "error": error,
        "loss": loss,
        "train_loss": kept.means["loss"],
        "train_accuracy": kept.means["accuracy"],
        "epochs": training.epoch,
        "seconds": round(kept.seconds, 3),
        "images_per_second": round(images / kept.seconds, 1),
    }


def _key(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["augmentation"], row["seed"]


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    _replace(path, "".join(json.dumps(row) + "\n" for row in rows))


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:  # not yet, or merged by now
        return []
    return [json.loads(line) for line in text.splitlines()]


def _one_by_one(transform: Callable[[Tensor], Tensor]) -> Augment:
    """A transform of torchvision's, which draws once a call, on each image by itself."""
    return lambda images: torch.stack([transform(image) for image in images])


def _hardware(device: torch.device) -> str:
    name = device_name(device)
    return name if device.type == "cuda" else f"{name}, of which PyTorch uses {torch.get_num_threads()}"


def _digest(policy: Policy) -> str:
    """Of what a policy does, whatever its name and provenance."""
    content = json.loads(policy.to_json())
    return hashlib.sha256(json.dumps(content["sub_policies"], sort_keys=True).encode()).hexdigest()[:16]


def _file_name(augmentation: Augmentation, seed: int) -> str:
    """A file's name for any label: two labels may differ only in what file names cannot have."""
    plain = "".join(each if each.isalnum() or each in "-_." else "_" for each in augmentation.label)
    mark = "" if plain == augmentation.label else "-" + hashlib.sha256(augmentation.label.encode()).hexdigest()[:8]
    return f"{plain}{mark}-seed{seed}"
