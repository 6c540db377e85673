"""Augmentations compared: the same network trained with each, interleaved; the differences and their intervals."""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fasteraa_transforms.policy import Policy
from fasteraa_transforms.policy.pictures import contact_sheet
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.data.samples import MapDataset
from fasteraa_transforms.search.data.table import find_dataset
from fasteraa_transforms.search.evaluation.checkpointed import CheckpointedFit
from fasteraa_transforms.search.evaluation.controls import Augmentation, Case
from fasteraa_transforms.search.evaluation.publish import Summary, publish
from fasteraa_transforms.search.evaluation.record import EvaluationRow, Record, key_of
from fasteraa_transforms.search.evaluation.settings import TrainingSettings, fitting_model
from fasteraa_transforms.search.evaluation.splits import SplitsBySeed
from fasteraa_transforms.search.networks.fit import Augment, Fit
from fasteraa_transforms.search.networks.table import make_network
from fasteraa_transforms.search.runtime import files
from fasteraa_transforms.search.runtime.defaults import usual_defaults
from fasteraa_transforms.search.runtime.events import Events, Nowhere, open_events
from fasteraa_transforms.search.runtime.hardware import device_name
from fasteraa_transforms.search.runtime.output import Output, say
from fasteraa_transforms.search.runtime.world import World, join

POLL = 1.0
"""Seconds between two looks for the rows of other processes."""

SHAPE = (10, 2)
"""Sub-policies and stages of random policies where no policy says otherwise."""


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
) -> list[EvaluationRow]:
    """Train the same networks with each augmentation, and test each at the end of its last epoch.

    All augmentations of a seed come before the next seed. Trainings of one seed share the first weights, the training
    images, and their order, crops and flips. So their differences are paired.

    Started by torchrun, or in a process group of `torch.distributed`, all processes have to call it alike. Each trains
    on its own device. A process that is ready takes the next training. All return all rows, which they exchange through
    ``out``.

    Args:
        dataset: the training split, or all images; map-style, samples (image, label), as for `search`.
        augmentations: from `parse_augmentations`. `random` draws a policy for each seed: the start of a search with
            that seed at the paper's settings. It has as many sub-policies and stages as the first policy, or 10 and 2
            without one. A folder keeps the numbers that it was started with.
        settings: how to train; the defaults if None.
        test: the test split; if None, the images that are not trained on.
        out: folder for ``rows.jsonl`` (one line a finished training), ``table.md``, ``evaluation.html`` and
            ``evaluation.svg``, ``settings.json``, TensorBoard events and checkpoints. A folder with results is
            continued: finished trainings are not repeated, and an unfinished one goes on from its last whole epoch.
            Augmentations and seeds may be added.
        seeds: how many trainings of each augmentation, with the seeds from 0.
        name: of the dataset; a known name (digits, cifar10, …) sets the defaults of size, padding, flip and Cutout.
        paper: published error in percent by label, for a column of the table.
        command: how this was started, for ``settings.json`` and the table.
        progress: whether to show a progress bar.

    Returns:
        The rows. Each has the augmentation, the seed, error and loss on the test images, loss and accuracy of the last
        epoch of training, epochs, seconds of training, and images per second. A policy also has its digest, and how
        many of the test images it was searched on, if its provenance says so. A number that is not finite is None.

    Raises:
        ValueError: unusable images, settings or model; ``out`` holds trainings of other settings or other images, or of
            another policy of the same label, or a damaged file; or there are several processes and no ``out``.
        FolderInUse: another evaluation works in ``out``.

    Source: the paper, section 5.1 and 5.2; Fast AutoAugment's repository.

    Example:
        >>> from fasteraa_transforms.search import Digits, parse_augmentations
        >>> settings = TrainingSettings(epochs=1, train_images=128)
        >>> rows = compare(Digits(), parse_augmentations("none,cifar10"), settings, seeds=1, progress=False)
        >>> [(row["augmentation"], row["seed"], 0 <= row["error"] <= 1) for row in rows]
        [('none', 0, True), ('cifar10', 0, True)]
    """
    if seeds < 1:
        raise ValueError(f"seeds should be positive, but got {seeds} instead")
    name = type(dataset).__name__.lower() if name is None else name
    world = join()
    if world.size > 1 and out is None:
        raise ValueError("out should be given for several processes, whose rows meet there, but got None instead")
    record = None if out is None else Record(Path(out))
    with _kept_apart(world, settings := settings or TrainingSettings(), record) as device:
        settings = _completed(settings, name, device)
        tell = say if progress and world.first else None
        splits = SplitsBySeed(name, dataset, test, settings, device, tell)
        if settings.model is None:
            settings = dataclasses.replace(settings, model=fitting_model(splits.of(0).crop.size, device))
        if not settings.cutout and any(each.label == "cutout" for each in augmentations):
            raise ValueError("cutout should be positive for the control cutout, but got 0 instead")
        evaluation = Evaluation(name, settings, splits, _shape(augmentations), device, record)
        before: list[EvaluationRow] = []
        if record is not None:
            before, shape = world.from_first(lambda: _prepare(evaluation, record, augmentations, command))
            evaluation = dataclasses.replace(evaluation, shape=shape)
        order = [each.label for each in augmentations]
        summary = Summary(name, evaluation.described(), order, paper or {}, command)
        trainings = [(each, seed) for seed in range(seeds) for each in augmentations]
        return _train_all(evaluation, trainings, before, summary, world, progress)


@contextlib.contextmanager
def _kept_apart(world: World, settings: TrainingSettings, record: Record | None) -> Iterator[torch.device]:
    """The device, while the folder is claimed and the caller's random numbers are left alone."""
    device = world.device(settings.device)
    with contextlib.ExitStack() as stack:
        stack.enter_context(usual_defaults())
        # Each training seeds its draws.
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        if record is not None:
            stack.enter_context(record.claim(world))
        where = None if record is None else record.path
        left = f"{where} keeps what is done, and the same command continues it"
        stack.enter_context(world.telling_when_terminated(lambda: left))
        yield device


def _completed(settings: TrainingSettings, name: str, device: torch.device) -> TrainingSettings:
    """``settings``, with values of the data set in the place of None. A model that depends on the images stays None."""
    row = find_dataset(name)
    return dataclasses.replace(
        settings,
        model=settings.model or row.model,
        padding=row.preparation.padding if settings.padding is None else settings.padding,
        flip=row.preparation.flip if settings.flip is None else settings.flip,
        cutout=row.cutout if settings.cutout is None else settings.cutout,
        device=str(device),
    )


def _shape(augmentations: Sequence[Augmentation]) -> tuple[int, int]:
    """Sub-policies and stages of the first policy, if there is one."""
    shapes = [(len(each.policy), each.policy.stages) for each in augmentations if each.policy is not None]
    return shapes[0] if shapes else SHAPE


@dataclass(frozen=True)
class Evaluation:
    """What the trainings of an evaluation share.

    Attributes:
        name: of the data set.
        settings: complete.
        splits: the images of each training.
        shape: sub-policies and stages of random policies.
        device: to train on.
        record: the folder, if there is one.
    """

    name: str
    settings: TrainingSettings
    splits: SplitsBySeed
    shape: tuple[int, int]
    device: torch.device
    record: Record | None

    def case(self, seed: int) -> Case:
        """What a control may depend on."""
        return Case(self.name, seed, self.shape)

    def digest(self, augmentation: Augmentation, seed: int) -> str | None:
        """Of the policy that a network is trained with; None where it is no policy."""
        made = augmentation.made(self.case(seed))
        return digest_of(made) if isinstance(made, Policy) else None

    def about(self) -> dict[str, Any]:
        """How networks are trained, and on what, for ``settings.json``."""
        split, recipe = self.splits.of(0), self.settings.recipe(self.device)
        return {
            "settings": {"dataset": self.name} | dataclasses.asdict(self.settings),
            "images": split.identity(),
            "random_shape": self.shape,
            "learning_rate": recipe.learning_rate,
            "weight_decay": recipe.weight_decay,
            "precision": "bfloat16" if recipe.bfloat16 else "float32",
            "train_images": len(split.train),
            "test_images": len(split.test),
            "classes": split.train.classes,
            "hardware": _hardware(self.device),
            "versions": {"python": platform.python_version()}
            | {package: version(package) for package in ("torch", "torchvision", "pillow", "numpy")},
        }

    def described(self) -> str:
        """The same in one sentence."""
        split = self.splits.of(0)
        return (
            f"{self.name}: {len(split.train)} training images, {len(split.test)} test images; "
            f"{self.settings.model}, {self.settings.epochs} epochs, last epoch; {_hardware(self.device)}, "
            f"torch {version('torch')}, torchvision {version('torchvision')}."
        )


def _prepare(
    evaluation: Evaluation, record: Record, augmentations: Sequence[Augmentation], command: str | None
) -> tuple[list[EvaluationRow], tuple[int, int]]:
    """Make the folder, or check that what it holds can be added to; its rows, and the shape of its random policies."""
    about = evaluation.about() | {"command": command}
    record.check(about)
    kept = record.about().get("random_shape")
    if isinstance(kept, list) and len(kept) == 2 and all(isinstance(each, int) and each > 0 for each in kept):
        evaluation = dataclasses.replace(evaluation, shape=(kept[0], kept[1]))
    rows = record.rows()
    by_label = {each.label: each for each in augmentations}
    for row in rows:
        label, seed = key_of(row)
        digest = evaluation.digest(by_label[label], seed) if label in by_label else None
        if digest is not None and digest != row.get("policy"):
            raise ValueError(
                f"{record.path} was trained with another policy called {label}; choose another label or folder"
            )
    record.start(about | {"random_shape": evaluation.shape})
    record.merge(rows)  # of a run that was cut off
    for row in rows:  # whose end came before that of its checkpoint
        record.checkpoint(*key_of(row), row.get("policy")).unlink(missing_ok=True)
    return rows, evaluation.shape


def _train_all(
    evaluation: Evaluation,
    trainings: Sequence[tuple[Augmentation, int]],
    before: list[EvaluationRow],
    summary: Summary,
    world: World,
    progress: bool,
) -> list[EvaluationRow]:
    """Do the trainings that have no row yet, with the other processes; the rows of all."""
    from tqdm import tqdm

    record, epochs = evaluation.record, evaluation.settings.epochs
    done = {key_of(row) for row in before}
    pending = {(each.label, seed): (each, seed) for each, seed in trainings if (each.label, seed) not in done}
    finished = len(trainings) - len(pending)
    own: list[EvaluationRow] = []
    rows = before
    show = progress and world.first
    total, initial = epochs * len(trainings), epochs * finished
    with tqdm(total=total, initial=initial, unit="epoch", file=Output(sys.stderr), disable=not show) as bar:

        def collect() -> list[EvaluationRow]:
            """The rows of all ranks by now; of which the first one keeps the record."""
            recorded = [] if record is None else record.rows()
            new = {key_of(row): row for row in (*recorded, *own)}
            known = before + [new[key] for key in pending if key in new]
            if world.first and record is not None and len(known) > len(rows):
                record.write_rows(known)
                record.replace_text(record.table, summary.markdown(known))
                bar.n = epochs * (finished + len(known) - len(before))
                bar.refresh()
            return known

        for number in world.take(len(pending)):
            augmentation, seed = list(pending.values())[number]
            bar.set_description(f"{augmentation.label}, seed {seed}")
            own.append(_train(evaluation, augmentation, seed, bar))
            if record is not None and not world.first:
                record.write_rows(own, world.rank)
            rows = collect()
            if record is not None:
                digest = evaluation.digest(augmentation, seed)
                record.checkpoint(augmentation.label, seed, digest).unlink(missing_ok=True)
        while len(rows) < len(before) + len(pending):  # which the others are at
            time.sleep(POLL)
            rows = collect()
    if record is not None and world.first:
        publish(record, summary, rows)
        record.merge(rows)
    return rows


def _train(evaluation: Evaluation, augmentation: Augmentation, seed: int, bar: Any) -> EvaluationRow:
    """One training; its row."""
    settings, record, label = evaluation.settings, evaluation.record, augmentation.label
    split = evaluation.splits.of(seed)
    model, channels = settings.model, split.train.images.shape[1]
    assert model is not None
    made = augmentation.made(evaluation.case(seed))
    training = Fit(
        split.train,
        lambda: make_network(model, channels=channels, classes=split.train.classes),
        settings.recipe(evaluation.device, cutout=augmentation.cutout(settings.cutout or 0, settings.cutout_after)),
        split.crop,
        augment=made if made is None or isinstance(made, Policy) else (lambda generator: _one_by_one(made)),
        seed=seed,
        compile=settings.compile,
    )
    digest = digest_of(made) if isinstance(made, Policy) else None
    kept = CheckpointedFit(training, None if record is None else record.checkpoint(label, seed, digest))
    bar.update(training.epoch)
    with _events(record, label, seed, training) as events:
        if isinstance(made, Policy) and channels in (1, 3):
            sheet = contact_sheet(made, split.train.images[:8].cpu(), seed=seed)
            events.add_image("augmented", np.asarray(sheet), training.epoch, dataformats="HWC")

        def tell(means: dict[str, float]) -> None:
            for key, value in means.items():
                events.add_scalar(f"train/{key}", value, training.epoch)
            bar.update()
            bar.set_postfix(loss=f"{means['loss']:.3f}", refresh=False)

        kept.run(tell)
        result = _result(kept, split.test)
        for key in ("error", "loss"):
            events.add_scalar(f"test/{key}", result[key], training.epoch)
    policy = augmentation.policy
    searched = None if policy is None else evaluation.splits.searched_on(policy, seed)
    row = {"augmentation": label, "seed": seed, "policy": digest, "searched_test_images": searched} | result
    plain: EvaluationRow = files.plain(row)
    return plain


@contextlib.contextmanager
def _events(record: Record | None, label: str, seed: int, training: Fit) -> Iterator[Events]:
    """The TensorBoard events of a training; they go nowhere if there is no folder."""
    if record is None:
        yield Nowhere()
        return
    purge_step = training.epoch + 1 if training.epoch else None
    with contextlib.closing(open_events(record.events(label, seed), purge_step=purge_step)) as events:
        yield events


def _result(kept: CheckpointedFit, test: ImageSet) -> dict[str, Any]:
    """What a finished training is worth."""
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
        "images_per_second": round(images / max(kept.seconds, 1e-9), 1),
    }


def _one_by_one(transform: Callable[[Tensor], Tensor]) -> Augment:
    """A transform of torchvision's, which draws once a call, on each image by itself."""
    return lambda images: torch.stack([transform(image) for image in images])


def _hardware(device: torch.device) -> str:
    name = device_name(device)
    return name if device.type == "cuda" else f"{name}, of which PyTorch uses {torch.get_num_threads()}"


def digest_of(policy: Policy) -> str:
    """Of what a policy does, whatever its name and provenance."""
    content = json.loads(policy.to_json())
    return hashlib.sha256(json.dumps(content["sub_policies"], sort_keys=True).encode()).hexdigest()[:16]
