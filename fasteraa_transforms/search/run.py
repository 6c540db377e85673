"""One run of a search and the folder it leaves."""

import contextlib
import dataclasses
import functools
import io
import json
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sized
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fasteraa_transforms
from fasteraa_transforms.policy.pictures import contact_sheet
from fasteraa_transforms.policy.policy import Policy
from fasteraa_transforms.relaxed import RelaxedPolicy
from fasteraa_transforms.search.algorithm import diagnosis
from fasteraa_transforms.search.algorithm.loop import batches
from fasteraa_transforms.search.algorithm.objective import make_objective
from fasteraa_transforms.search.algorithm.state import SearchState, adam
from fasteraa_transforms.search.algorithm.strength import Strength
from fasteraa_transforms.search.algorithm.tools import Tools
from fasteraa_transforms.search.contenders.validation import FOLDS, cross_validate
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.data.load import load_images
from fasteraa_transforms.search.data.samples import Samples
from fasteraa_transforms.search.data.table import Preparation, find_dataset
from fasteraa_transforms.search.evaluation.affinity import affinity_and_diversity as measure_affinity_and_diversity
from fasteraa_transforms.search.networks.critic import Critic
from fasteraa_transforms.search.networks.losses import SegmentationCritic, chance
from fasteraa_transforms.search.networks.table import fitting_critic, make_backbone
from fasteraa_transforms.search.report import page as report
from fasteraa_transforms.search.report import plots as pictures
from fasteraa_transforms.search.runtime.folder import RunFolder
from fasteraa_transforms.search.runtime.graph import CudaCapture, GraphedStep, Step
from fasteraa_transforms.search.runtime.hardware import computes_in_bfloat16, device_name
from fasteraa_transforms.search.runtime.world import RanksLost, World, join, synchronise
from fasteraa_transforms.search.settings import GROUPS, Settings

EXPLODED = 1e4
"""A gradient penalty above it, in the median step of an epoch, ends the search: a slope above 100 where 1 is wanted."""


class SearchInterrupted(KeyboardInterrupt):
    """Raised in place of KeyboardInterrupt once the run is left so that it can be resumed."""


class SearchFailed(RuntimeError):
    """A search that could not go on: out of memory, diverged, its folder cannot be written, or a process was lost.

    The message says what to change. The last checkpoint in the folder is whole, and of an epoch that went well.
    """


def search(
    dataset: Samples,
    settings: Settings | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    name: str | None = None,
    source: Mapping[str, Any] | None = None,
    affinity_diversity: bool = False,
    progress: bool = True,
) -> Policy:
    """Search a policy on a dataset (the paper's Algorithm 2, repaired).

    Started by torchrun, or where `torch.distributed` has a process group, all processes have to call it alike. They
    share each batch, each on its own device, the first alone writes, and all return the policy.

    Args:
        dataset: samples (image, label), the label a whole number, or (image, mask), the mask a PIL image, array or
            tensor [H, W] of whole numbers; images PIL, arrays [H, W, C], or uint8, uint16 or float tensors [C, H, W];
            all of one size, unless ``settings.image_size`` says what to resize to. A dataset that can only be iterated,
            such as `Shards`, is gone through once.
        settings: all settings; the defaults if None. ``Settings.paper()`` has the paper's.
        out: folder for ``policy.json``, ``settings.json``, ``metrics.jsonl``, ``diagnosis.json``, ``report.html``,
            TensorBoard events, a checkpoint an epoch and pictures; nothing is written if None.
        resume: continue from the checkpoint in ``out``. On the CPU the policy is bit for bit that of an uninterrupted
            run.
        name: of the policy; if it is that of a known dataset (digits, cifar10, …), that dataset's recipe is the
            default of what ``settings`` leaves open. The class's name in lower case if None.
        source: how the dataset was opened, kept in ``settings.json`` for whoever resumes the run and in the policy's
            provenance; with a ``description``, it says in words which images they are.
        affinity_diversity: whether to measure affinity and diversity of the policy at the end, which trains six small
            networks; see `search.affinity`. Not for masks.
        progress: whether to show a progress bar and print the verdict.

    Returns:
        The policy found. Its provenance holds data, settings, versions, hardware, time, final losses, and the
        diagnosis.

    Raises:
        ValueError: unusable images or settings; on resuming, other settings than the checkpoint's; or, of several
            processes, not all have the same images.
        FileExistsError: ``out`` holds a run and ``resume`` is False.
        FileNotFoundError: ``resume`` is True and ``out`` holds no checkpoint.
        SearchInterrupted: on Ctrl-C, a KeyboardInterrupt; ``out`` can be resumed.
        SearchFailed: out of memory, not finite or exploding losses, ``out`` cannot be written any more, or another
            process has ended.

    Example:
        >>> from fasteraa_transforms.search import Digits, Settings, search
        >>> policy = search(Digits(), Settings.paper(epochs=1, num_images=256), progress=False)
        >>> len(policy), policy.stages
        (10, 2)
    """
    settings = settings or Settings()
    world = join()
    if settings.batch_size % (2 * world.size):
        raise ValueError(
            f"batch_size should be a multiple of {2 * world.size}, two halves for each of {world.size} processes, "
            f"but got {settings.batch_size} instead"
        )
    name = type(dataset).__name__.lower() if name is None else name
    recipe = resolve(settings, find_dataset(name).preparation)
    folder = None if out is None else RunFolder(Path(out))
    if folder is not None and world.first:
        folder.prepare(settings, resume=resume)
    device = world.device(settings.device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # seeding the run must not seed the caller
        torch.default_generator.manual_seed(settings.seed)  # torch.manual_seed would seed all devices, for good
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(settings.seed)
        size = settings.image_size or "that of the images"
        number = "all" if recipe.num_images is None else recipe.num_images
        advice = f"lower num_images (now {number}) or image_size (now {size})"
        with _memory("before the first step", advice), _ranks(lambda: "this was before the first step"):
            run = _Run(dataset, settings, recipe, folder, name, source, progress and world.first, device, world)
        if affinity_diversity and run.data.has_masks:
            raise ValueError("affinity_diversity should be False for masks, but got True instead")
        with world.telling_when_terminated(run._left), _ranks(run._left):
            return run.finish(resume, affinity_diversity)


@contextlib.contextmanager
def _memory(when: str, advice: str) -> Iterator[None]:
    """Say what to do where memory, of a device or of the machine, runs out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        # The allocator of the CPU and the libraries of CUDA have no exception of their own.
        signs = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(sign in text for sign in signs):
            raise
        tried = re.search(r"[Tt]ried to allocate [\d.]+ \w+", text)
        raise SearchFailed(f"out of memory {when}{f' ({tried[0].lower()})' if tried else ''}; {advice}") from error


@contextlib.contextmanager
def _ranks(left: Callable[[], str]) -> Iterator[None]:
    """Say what is ``left`` where another process ends."""
    try:
        yield
    except RanksLost as error:
        raise SearchFailed(f"{error}; {left()}") from error


def resolve(settings: Settings, recipe: Preparation) -> Preparation:
    """``recipe`` with what ``settings`` says otherwise."""
    return recipe.changed(
        image_size=settings.image_size,
        num_images=settings.num_images,
        padding=settings.padding,
        flip=settings.flip,
        critic=settings.critic,
    )


class _Run:
    """The state of one call of `search`."""

    def __init__(
        self,
        dataset: Samples,
        settings: Settings,
        recipe: Preparation,
        folder: RunFolder | None,
        name: str,
        source: Mapping[str, Any] | None,
        progress: bool,
        device: torch.device,
        world: World,
    ) -> None:
        self.settings, self.recipe, self.progress, self.world = settings, recipe, progress, world
        self.out = None if folder is None else folder.path
        self.folder = folder if world.first else None  # what the others would write is the same
        self.name, self.source = name, dict(source or {})
        # How many images there are, of which a subset is drawn.
        self.available = len(dataset) if isinstance(dataset, Sized) else None
        if settings.graphs == "on" and device.type != "cuda":
            raise ValueError(f"graphs should be auto or off where the device is {device}, but got on instead")
        loaded = load_images(
            dataset,
            num_images=recipe.num_images,
            num_classes=recipe.num_classes,
            balanced=settings.balanced,
            size=recipe.held_size,
            seed=settings.seed,
            ignore_label=settings.ignore_label,
        )
        if len(loaded.images) < settings.batch_size:
            raise ValueError(
                f"batch_size is {settings.batch_size}, but there are {len(loaded.images)} images; lower it"
            )
        if world.size > 1:
            if loaded.has_masks:  # the mean over pixels that are not ignored is no mean of the ranks' means
                raise ValueError(f"masks should be searched on by one process, but got {world.size} instead")
            checksum = zlib.crc32(loaded.images.numpy().data, zlib.crc32(loaded.labels.numpy().data))
            world.agree("the checksum of the images", checksum)
            # What a GPU draws depends on its model too.
            world.agree("the device", torch.cuda.get_device_name(device) if device.type == "cuda" else device.type)
        self.data = ImageSet(loaded.images.to(device), loaded.labels.to(device), loaded.classes)
        self.chance = chance(loaded.labels) if loaded.has_masks else 1 / loaded.classes
        channels, height, width = loaded.images.shape[1:]
        self.size = recipe.image_size or (height, width)
        self.probe = loaded.images[:512, :, : self.size[0], : self.size[1]]  # whose displacement is the strength

        backbone = recipe.critic or fitting_critic(self.size)
        self.recipe = dataclasses.replace(recipe, critic=backbone)

        pixels = loaded.images.transpose(0, 1).flatten(1).double() / 255
        auto = settings.precision == "auto"
        fast = backbone in ("wrn40_2", "resnet50") and computes_in_bfloat16(device)
        bfloat16 = fast if auto else settings.precision == "bfloat16"
        self.target = torch.zeros((), device=device)  # the strength that is held
        self.tools = Tools(
            mean=pixels.mean(1).float().to(device),
            std=pixels.std(1).clamp(min=1e-3).float().to(device),
            chunk_size=settings.chunk_size,
            precision=torch.bfloat16 if bfloat16 else torch.float32,
            strength=Strength(self.target, settings.multiplier_rate) if settings.held else None,
            world=world,
        )
        self.objective = make_objective(settings.objective, settings, self.tools)
        policy = RelaxedPolicy(
            settings.sub_policies,
            settings.stages,
            temperature=settings.temperature,
            selection_temperature=settings.selection_temperature,
            sample_selection=loaded.has_masks if settings.sample_selection is None else settings.sample_selection,
            generator=torch.Generator().manual_seed(settings.seed),
        )
        self.start = RelaxedPolicy(
            settings.sub_policies, settings.stages, selection_temperature=settings.selection_temperature
        )
        self.start.load_state_dict(policy.state_dict())
        self.yardstick = diagnosis.random_distance(self.start)
        policy = policy.to(device)
        network = make_backbone(backbone, channels, feature_map=loaded.has_masks)
        kind = SegmentationCritic if loaded.has_masks else Critic
        critic = kind(network, classes=loaded.classes, image_shape=(channels, *self.size))
        if world.size > 1:
            synchronise(critic, world)
            critic.load_state_dict(world.from_first(critic.state_dict))  # alike, however a backbone came by its weights
        critic = critic.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.state = SearchState(
            policy=policy,
            critic=critic,
            policy_optimizer=adam(policy, settings.policy_learning_rate, settings.betas),
            critic_optimizer=adam(critic, settings.critic_learning_rate, settings.betas),
            generator=torch.Generator(device).manual_seed(settings.seed),
            multiplier=torch.zeros((), device=device),
        )
        self.strength_start = diagnosis.strength(self.start.to_policy(prune=settings.prune), self.probe)
        self.seconds = 0.0
        self.last_epoch: dict[str, Any] = {}
        self.kept = 0  # epochs that the checkpoint holds
        self.classifier: dict[str, float] | None = None  # loss and accuracy at the end of its own training
        self.found: list[dict[str, Any]] = []  # of each strength that is done: the policy, and the last epoch's means
        self.trials: tuple[diagnosis.Trial, ...] = ()

    def finish(self, resume: bool, affinity_diversity: bool) -> Policy:
        settings, folder, state = self.settings, self.folder, self.state
        if resume and self.out is not None:
            path = RunFolder(self.out).checkpoint
            saved = self.world.from_first(lambda: torch.load(path, map_location="cpu", weights_only=True))
            state.load_state_dict(saved["state"])
            self.start.load_state_dict(saved["start"])
            self.seconds, self.last_epoch = saved["seconds"], saved["last_epoch"]
            self.classifier, self.found = saved.get("classifier"), saved.get("found", [])
            self.trials = tuple(diagnosis.Trial(**trial) for trial in saved.get("trials", ()))
            if folder is not None:
                folder.forget_after(state.epoch)
            self.kept = state.epoch
        elif folder is not None:
            resolved = {
                "settings": dataclasses.asdict(settings),
                "recipe": dataclasses.asdict(self.recipe),
                "dataset": self.name,
                "source": self.source,
                "precision": str(self.tools.precision),
                "device": str(self.data.images.device),
            }
            folder.replace_json(folder.settings, resolved)
            folder.metrics.unlink(missing_ok=True)  # of a run that was killed before its first checkpoint
            folder.append([self._epoch_row({})])
            self._save()
        writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            steps_done = state.epoch * self.steps_per_epoch
            writer = SummaryWriter(str(folder.path / "tensorboard"), purge_step=steps_done + 1 if resume else None)
        try:
            with contextlib.nullcontext() if writer is None else contextlib.closing(writer):
                if settings.classifier_epochs and self.classifier is None:
                    with _memory("while training the classifier", self._smaller()):
                        self._train_classifier()
                self._epochs(writer)
                if settings.strengths and not self.trials:
                    with _memory("while choosing the strength", self._smaller()):
                        self._choose()
        except KeyboardInterrupt as interrupt:
            done = state.epoch == settings.epochs
            where = "while choosing the strength" if done else f"in epoch {state.epoch + 1} of {settings.epochs}"
            raise SearchInterrupted(f"interrupted {where}; {self._left()}") from interrupt
        except OSError as error:
            if folder is None:
                raise
            raise SearchFailed(f"{folder.path} could not be written ({error}); {self._left()}") from error
        return self._report(affinity_diversity)

    def _left(self) -> str:
        """What a run that stops early leaves."""
        if self.out is None:
            return "nothing was kept, since no folder was given"
        # Only the rank that writes knows how many, and all are to say the same.
        kept = f"{self.kept} whole epochs" if self.world.size == 1 else "the last epoch that was written"
        return (
            f"{self.out} keeps {kept}. Continue with\n"
            f"    {self.world.program} -m fasteraa_transforms.search --resume {self.out}"
        )

    def _smaller(self) -> str:
        """Which settings take less memory."""
        height, width = self.size
        return (
            f"start again with a lower batch_size (now {self.settings.batch_size}), a lower image_size (now "
            f"{height}×{width}) or a smaller critic (now {self.recipe.critic})"
        )

    @property
    def steps_per_epoch(self) -> int:
        return len(self.data.images) // self.settings.batch_size

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        crop = Crop(self.size, self.recipe.padding, self.recipe.flip)
        return batches(self.data, self.settings.batch_size, crop, generator=self.state.generator)

    def _graphed(self, step: Callable[[SearchState, Tensor, Tensor], dict[str, Tensor]]) -> Step[dict[str, Tensor]]:
        """A step of the state, captured as a CUDA graph where settings and device have it so."""
        plain = functools.partial(step, self.state)
        if self.settings.graphs == "off" or self.data.images.device.type != "cuda":
            return plain
        return GraphedStep(plain, CudaCapture(self.state.generator), required=self.settings.graphs == "on")

    def _train_classifier(self) -> None:
        """Let the classifier learn the classes before it guards them."""
        from tqdm import tqdm

        began = time.perf_counter()
        step = self._graphed(self.tools.classify)
        measured = torch.zeros(self.steps_per_epoch, 2, device=self.data.images.device)
        epochs = range(self.settings.classifier_epochs)
        for _ in tqdm(epochs, "training the classifier first", unit="epoch", disable=not self.progress):
            for values, batch in zip(measured, self._batches(), strict=True):
                values.copy_(torch.stack(list(step(*batch).values())))
        loss, accuracy = measured.mean(0).tolist()
        self.classifier = {"loss": loss, "accuracy": accuracy}
        self.seconds += time.perf_counter() - began
        if self.folder is not None:
            self._save()

    def _turn(self, epoch: int) -> int:
        """Which of the strengths has its turn in an epoch, counted from 0; as many as there are once all is done."""
        return epoch * len(self.settings.held) // self.settings.epochs

    def _uniform(self, group: str) -> dict[str, Tensor]:
        """State of the policy in which the operations of a group are all alike."""
        start = self.start.state_dict()
        inside = torch.tensor([name in GROUPS[group] for name in self.start.operations])
        weights = torch.zeros_like(start["weights"]).masked_fill(~inside, -torch.inf)
        return start | {"weights": weights, "probabilities": torch.full_like(start["probabilities"], 0.5)}

    def _choose(self) -> None:
        """Keep the policy that held-out images prefer."""
        from tqdm import tqdm

        began = time.perf_counter()
        settings, policy = self.settings, self.state.policy
        # Name, file and fraction of the start's strength of each, and what it was.
        found: list[tuple[str, str, float | None, dict[str, Any]]] = [
            (f"at {fraction:g}", f"strength-{fraction:g}.json", fraction, each)
            for fraction, each in zip(settings.held, self.found, strict=True)
        ]
        if 0 in settings.strengths:
            nothing = {**self.found[-1]["policy"], "probabilities": torch.zeros_like(policy.probabilities)}
            found.append(("at 0", "strength-0.json", 0.0, {"policy": nothing, "last_epoch": self.last_epoch}))
        for group in settings.uniform:
            alike = {"policy": self._uniform(group), "last_epoch": self.last_epoch}
            found.append((group, f"uniform-{group}.json", None, alike))
        strengths, tested = [], {}
        networks = f"training {FOLDS} small networks for each policy"
        for turn, (name, file, fraction, each) in enumerate(
            tqdm(found, networks, unit="policy", disable=not self.progress)
        ):
            policy.load_state_dict(each["policy"])
            exact = policy.to_policy(f"{self.name} {name}", prune=settings.prune)
            if self.folder is not None:
                exact.save(self.folder.path / file)
            strengths.append(diagnosis.strength(exact, self.probe))
            if turn % self.world.size == self.world.rank:
                tested[turn] = cross_validate(
                    None if fraction == 0 else exact,
                    self.data,
                    size=self.size,
                    padding=self.recipe.padding,
                    flip=self.recipe.flip,
                    steps=settings.validation_steps,
                    seed=settings.seed,
                )
        tested = {turn: result for part in self.world.gather_objects(tested) for turn, result in part.items()}
        trials = []
        for turn, ((name, _, fraction, _), strength) in enumerate(zip(found, strengths, strict=True)):
            uniform = name if fraction is None else None
            reached = strength / self.strength_start if fraction is None else fraction  # nothing held a uniform one
            target = reached * self.strength_start
            trials.append(diagnosis.Trial(reached, target, strength, *tested[turn], uniform=uniform))
        best = diagnosis.best_trial(trials, len(self.data.images))
        self.trials = tuple(dataclasses.replace(trial, chosen=i == best) for i, trial in enumerate(trials))
        policy.load_state_dict(found[best][-1]["policy"])
        self.last_epoch = found[best][-1]["last_epoch"]
        self.seconds += time.perf_counter() - began
        if self.folder is not None:
            self._save()

    def _epochs(self, writer: Any) -> None:
        step = self._graphed(self.objective.step)  # what a graph holds of the memory is free when they are done
        while self.state.epoch < self.settings.epochs:
            with _memory(f"in epoch {self.state.epoch + 1} of {self.settings.epochs}", self._smaller()):
                self._epoch(step, writer)

    def _epoch(self, step: Step[dict[str, Tensor]], writer: Any) -> None:
        from tqdm import tqdm

        settings, state = self.settings, self.state
        began = time.perf_counter()
        device = self.data.images.device
        names: tuple[str, ...] = ()
        measured: Tensor = torch.zeros(0)  # [steps, metrics]
        turn = self._turn(state.epoch)
        if settings.held:
            self.target.fill_(settings.held[turn] * self.strength_start)
        done = state.epoch * self.steps_per_epoch
        with tqdm(
            total=settings.epochs * self.steps_per_epoch,
            initial=done,
            desc=f"epoch {state.epoch + 1}/{settings.epochs}",
            disable=not self.progress,
            unit="step",
            leave=state.epoch + 1 == settings.epochs,
        ) as bar:
            for i, (images, labels) in enumerate(self._batches()):
                try:
                    values = step(images, labels)
                except Exception:  # such as a modulus of 0 bits, where a magnitude is nan
                    if i:
                        self._check(names, measured[:i].cpu())
                    raise
                if not i:
                    names = tuple(values)
                    measured = torch.zeros(self.steps_per_epoch, len(names), device=device)
                measured[i].copy_(torch.stack(list(values.values())))
                bar.update()
                if device.type == "cpu":  # on an accelerator, reading a value would wait for it
                    bar.set_postfix(_postfix(names, measured[i]), refresh=False)
            measured = measured.cpu()
            self._check(names, measured)
            bar.set_postfix(_postfix(names, measured[-1]))
        state.epoch += 1
        self.seconds += time.perf_counter() - began
        rows: list[dict[str, Any]] = [
            {"kind": "step", "epoch": state.epoch, "step": done + i + 1} | dict(zip(names, row.tolist(), strict=True))
            for i, row in enumerate(measured)
        ]
        self.last_epoch = dict(zip(names, measured.mean(0).tolist(), strict=True))
        if self._turn(state.epoch) != turn:  # the last epoch of this strength
            policy = {name: value.detach().clone() for name, value in state.policy.state_dict().items()}
            self.found.append({"policy": policy, "last_epoch": self.last_epoch})
        rows.append(self._epoch_row(self.last_epoch))
        if self.folder is not None:
            self.folder.append(rows)
            for row in rows:
                prefix = "epoch" if row["kind"] == "epoch" else "step"
                for key, value in row.items():
                    if isinstance(value, float):
                        writer.add_scalar(f"{prefix}/{key}", value, row["step"])
            for key, value in rows[-1]["share"].items():
                writer.add_scalar(f"share/{key}", value, rows[-1]["step"])
            self._save()

    def _check(self, names: tuple[str, ...], values: Tensor) -> None:
        """Raise SearchFailed, before anything of this epoch is kept, if the next one cannot follow from it.

        Args:
            names: of the metrics.
            values: [steps, metrics], the epoch's.
        """
        settings, state = self.settings, self.state
        penalty = values[:, names.index("gradient_penalty")] if "gradient_penalty" in names else torch.zeros(1)
        finite = values.isfinite()
        parameters = [*state.policy.parameters(), *state.critic.parameters()]
        if not finite.all():
            step = int((~finite.all(1)).nonzero()[0])
            named = [f"{name} is {values[step, i]:g}" for i, name in enumerate(names) if not finite[step, i]]
            reason = ", ".join(named)
        elif penalty.median() > EXPLODED:
            step = int((penalty > EXPLODED).nonzero()[0])
            reason = f"the critic explodes, its slope is {1 + penalty[step].sqrt():.3g} where 1 is wanted"
        elif not torch.stack([parameter.isfinite().all() for parameter in parameters]).all():
            step = len(values) - 1
            reason = "it left parameters that are not finite"
        else:
            return
        number = state.epoch * self.steps_per_epoch + step + 1
        losses = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, values[step], strict=True))
        precision = str(self.tools.precision).removeprefix("torch.")
        kept = (
            "nothing was kept, since no folder was given"
            if self.out is None
            else f"the last good checkpoint, {RunFolder(self.out).checkpoint}, holds {state.epoch} whole epochs"
        )
        raise SearchFailed(
            f"the search diverged in step {number}, epoch {state.epoch + 1} of {settings.epochs}: {reason}.\n"
            f"Measured in it: {losses}.\n"
            f"Of this epoch nothing is kept; {kept}. Start again with a lower critic_learning_rate (now "
            f"{settings.critic_learning_rate:g}) or policy_learning_rate (now {settings.policy_learning_rate:g}), or "
            f"with precision float32 (now {precision})"
        )

    def _epoch_row(self, means: dict[str, float]) -> dict[str, Any]:
        found = self._diagnose()
        return {
            "kind": "epoch",
            "epoch": self.state.epoch,
            "step": self.state.epoch * self.steps_per_epoch,
            "seconds": self.seconds,
            **means,
            "strength": found.strength_end,
            "drift": found.drift,
            "entropy": found.entropy_end,
            "share": found.share_end,
        }

    def _diagnose(self) -> diagnosis.Diagnosis:
        policy, start = self.state.policy, self.start
        distance = diagnosis.Distance.between(policy, start)
        fractions = [
            moved / whole
            for field in ("selection", "probability", "magnitude")
            if (whole := getattr(self.yardstick, field)) > 0
            for moved in (getattr(distance, field),)
        ]
        return diagnosis.Diagnosis(
            drift=sum(fractions) / len(fractions),
            distance=distance,
            strength_start=self.strength_start,
            strength_end=diagnosis.strength(policy.to_policy(prune=self.settings.prune), self.probe),
            entropy_start=diagnosis.selection_entropy(start),
            entropy_end=diagnosis.selection_entropy(policy),
            share_start=diagnosis.effective_share(start),
            share_end=diagnosis.effective_share(policy),
            accuracy_clean=self.last_epoch.get("accuracy_real", 0.0),
            accuracy_augmented=self.last_epoch.get("accuracy_augmented", 0.0),
            chance=self.chance,
            of="pixels" if self.data.has_masks else "images",
            accuracy_classifier=None if self.classifier is None else self.classifier["accuracy"],
            trials=self.trials,
        )

    def _policy(self, found: diagnosis.Diagnosis) -> Policy:
        device = self.data.images.device
        provenance: dict[str, object] = {
            "dataset": self.name,
            "source": {key: value for key, value in self.source.items() if key != "data_dir"},  # of this machine only
            "images": len(self.data.images),
            "images_available": self.available,
            "image_size": list(self.size),
            "classes": self.data.classes,
            "settings": _as_json(self.settings),
            "recipe": _as_json(self.recipe),
            "precision": str(self.tools.precision).removeprefix("torch."),
            "epochs": self.state.epoch,
            "steps": self.state.epoch * self.steps_per_epoch,
            "seconds": round(self.seconds, 1),
            "hardware": device_name(device),
            "threads": torch.get_num_threads(),
            "processes": self.world.size,
            "versions": {
                "fasteraa_transforms": fasteraa_transforms.__version__,
                **{name: version(name) for name in ("torch", "torchvision", "pillow", "numpy")},
            },
            "last_epoch": self.last_epoch,
            "diagnosis": _as_json(found),
        }
        return self.state.policy.to_policy(self.name, prune=self.settings.prune, provenance=provenance)

    def _save(self) -> None:
        """Write policy and checkpoint, each replaced whole."""
        assert self.folder is not None
        self._policy(self._diagnose()).save(self.folder.policy)
        saved = {
            "state": self.state.state_dict(),
            "start": self.start.state_dict(),
            "seconds": self.seconds,
            "last_epoch": self.last_epoch,
            "classifier": self.classifier,
            "found": self.found,
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
        }
        data = io.BytesIO()  # given a file, PyTorch makes of a full disk a RuntimeError with another reason
        torch.save(saved, data)
        self.folder.replace(self.folder.checkpoint, lambda file: file.write_bytes(data.getbuffer()))
        self.kept = self.state.epoch

    def _report(self, affinity_diversity: bool) -> Policy:
        found = self._diagnose()
        policy = self._policy(found)
        verdict = found.verdict().splitlines()
        if affinity_diversity:
            recipe = self.recipe
            measured = measure_affinity_and_diversity(
                policy, self.data, crop=Crop(self.size, recipe.padding, recipe.flip), seed=self.settings.seed
            )
            provenance = {**policy.provenance, "affinity_diversity": measured.to_json()}
            policy = Policy(policy.sub_policies, name=policy.name, provenance=provenance)
            verdict += measured.lines()
            if self.folder is not None:
                policy.save(self.folder.policy)
        if self.folder is not None:
            folder = self.folder
            folder.replace_json(folder.path / "diagnosis.json", dataclasses.asdict(found) | {"verdict": verdict})
            rows = folder.rows()
            pictures.curves(rows, folder.path / "curves.png")
            if self.data.images.shape[1] in (1, 3):
                sheet = contact_sheet(policy, self.probe[:8])
                sheet.save(folder.path / "contact_sheet.png")
            tried = {
                file.stem: Policy.load(file)
                for kind in ("strength", "uniform")
                for file in sorted(folder.path.glob(f"{kind}-*.json"))
                if report.changes_nothing(policy)
            }
            page = report.page(
                policy, verdict=verdict, metrics=rows, images=self.probe, tried=tried, source=self.source
            )
            folder.replace(folder.path / "report.html", lambda file: file.write_text(page, encoding="utf-8"))
        if self.progress:
            print("\n".join(verdict))
        return policy


def _as_json(value: Settings | Preparation | diagnosis.Diagnosis) -> dict[str, Any]:
    """As it is read back from a file, with lists for tuples."""
    return json.loads(json.dumps(dataclasses.asdict(value)))


def _postfix(names: tuple[str, ...], values: Tensor) -> dict[str, str]:
    """What the progress bar shows of a step: its first two metrics, and the accuracy."""
    measured = dict(zip(names, values.tolist(), strict=True))
    shown = {name: f"{measured[name]:.2f}" for name in names[:2]}
    if "accuracy_real" in measured:
        shown["accuracy"] = f"{measured['accuracy_real']:.0%}"
    return shown
