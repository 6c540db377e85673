"""The adversarial search: epochs of steps, at one strength after another, that can be stopped and resumed."""

import functools
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fasteraa_transforms.policy.policy import Policy
from fasteraa_transforms.relaxed import RelaxedPolicy
from fasteraa_transforms.search.algorithm.diagnosis import Diagnosis, Reference
from fasteraa_transforms.search.algorithm.divergence import Measured, divergence
from fasteraa_transforms.search.algorithm.objective import make_objective
from fasteraa_transforms.search.algorithm.setup import make_tools, set_up
from fasteraa_transforms.search.algorithm.state import SearchState
from fasteraa_transforms.search.algorithm.tools import Tools
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet, check_same
from fasteraa_transforms.search.runtime.failures import SearchFailed
from fasteraa_transforms.search.runtime.files import plain
from fasteraa_transforms.search.runtime.graph import CudaCapture, GraphedStep, Step
from fasteraa_transforms.search.runtime.recorder import Recorder
from fasteraa_transforms.search.settings import Settings
from fasteraa_transforms.search.task import Task, seeded

Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class End:
    """The policy that one strength ended with.

    Attributes:
        policy: state dict of the relaxed policy, on the device of the search.
        means: what its last epoch measured.
        fraction: of the start's strength that it was held at; None where nothing held it.
    """

    policy: dict[str, Tensor]
    means: dict[str, float]
    fraction: float | None


@dataclass(frozen=True)
class Adversarial:
    """What an adversarial search leaves.

    Attributes:
        ends: a policy for each strength, in the order of the settings; one where no strength is held.
        state: the state at its end.
        reference: its start.
        steps: how many were done.
    """

    ends: tuple[End, ...]
    state: SearchState
    reference: Reference
    steps: int


def adversarial_search(
    task: Task, settings: Settings, recorder: Recorder, *, start: RelaxedPolicy | None = None
) -> Adversarial:
    """Search a relaxed policy (the paper's Algorithm 2, by default), at one strength after another.

    Args:
        task: what is searched on.
        settings: of the search.
        recorder: keeps the metrics, and a checkpoint an epoch, from which a run that goes on is resumed. On the CPU it
            then finds bit for bit what an undisturbed run finds.
        start: the policy to begin from, with its own temperatures; a random one if None.

    Raises:
        ValueError: no such critic or objective; or, on resuming, other images than the checkpoint's.
        SearchFailed: the search diverged.

    Example:
        >>> from fasteraa_transforms.search import Digits
        >>> from fasteraa_transforms.search.task import load_task
        >>> settings = Settings.paper(epochs=1, num_images=256, device="cpu")
        >>> result = adversarial_search(load_task(Digits(), settings, name="digits"), settings, Recorder())
        >>> [end.fraction for end in result.ends], result.steps
        ([None], 2)
    """
    with seeded(settings.seed, task.device):
        state, reference = set_up(task, settings, start)
        tools = make_tools(task, settings)
        objective = make_objective(settings.objective, settings, tools)
        learned, held_out = _parts(task.data, apart=getattr(objective, "holds_out", False))
        _begin(task, settings, recorder, state, reference)
        if settings.classifier_epochs and state.classifier is None:
            _train_classifier(task, settings, recorder, state, tools, learned if held_out else task.data)
            _save(task, settings, recorder, state, reference)
        variant = functools.partial(getattr(objective, "variant", _alike), state)
        step = graphed(functools.partial(objective.step, state), state, settings.graphs, variant)
        while state.epoch < settings.epochs:
            recorder.doing = f"in epoch {state.epoch + 1} of {settings.epochs}"
            turn = _turn(settings, state.epoch)
            if tools.strength is not None and isinstance(tools.strength.target, Tensor):
                tools.strength.target.fill_(settings.strengths[turn] * reference.strength)
            began = time.perf_counter()
            stream = batches(learned, settings.batch_size, task.crop, generator=state.generator, held_out=held_out)
            measured = _epoch(task, settings, recorder, state, step, stream)
            state.seconds += time.perf_counter() - began
            state.epoch += 1
            state.means = measured.means()
            if _turn(settings, state.epoch) != turn:  # the last epoch of this strength
                policy = {name: value.detach().clone() for name, value in state.policy.state_dict().items()}
                state.ends.append({"policy": policy, "means": state.means})
            rows = _step_rows(measured, task, settings, state)
            recorder.append([*rows, _epoch_row(task, settings, state, reference)])
            _save(task, settings, recorder, state, reference)
    fractions = settings.strengths or (None,)
    ends = tuple(End(**end, fraction=fraction) for end, fraction in zip(state.ends, fractions, strict=True))
    return Adversarial(ends, state, reference, settings.epochs * steps_per_epoch(task, settings))


# --- what comes before the epochs -------------------------------------------------------------------------------------


def _begin(task: Task, settings: Settings, recorder: Recorder, state: SearchState, reference: Reference) -> None:
    """Resume the state from the checkpoint, or leave the first one."""
    saved = recorder.load()
    images = task.data.identity() if recorder.path is not None else {}
    if saved is not None and "state" in saved:
        check_same(saved["images"], images, recorder.path)
        state.load_state_dict(saved["state"])
        reference.policy.load_state_dict(saved["start"])
        recorder.forget_after(state.epoch)
        return
    if not recorder.saved:  # else a contest has begun the folder
        recorder.start(task.about(settings))
    if recorder.folder is not None:
        recorder.folder.replace_rows([])  # a run that was killed here left the first row
    recorder.append([_epoch_row(task, settings, state, reference)])
    recorder.saved = {**recorder.saved, "start": reference.policy.state_dict(), "images": images}
    _save(task, settings, recorder, state, reference)


def _parts(data: ImageSet, *, apart: bool) -> tuple[ImageSet, ImageSet | None]:
    """The images, whose order is random, as one set or as two of one size."""
    if not apart:
        return data, None
    half = len(data) // 2
    return data.subset(slice(half)), data.subset(slice(half, None))  # which take no memory of their own


def _train_classifier(
    task: Task, settings: Settings, recorder: Recorder, state: SearchState, tools: Tools, data: ImageSet
) -> None:
    """Let the classifier learn the classes before it guards them."""
    recorder.doing = "while training the classifier"
    # As many steps as an epoch of the search has.
    batch_size = settings.batch_size if data is task.data else settings.batch_size // 2
    step = graphed(functools.partial(tools.classify, state), state, settings.graphs)
    done, epochs = state.classifier_epoch, settings.classifier_epochs
    name = "training the classifier first"
    for epoch in recorder.bar(range(done, epochs), name, unit="epoch", total=epochs, initial=done):
        began = time.perf_counter()
        stream = batches(data, batch_size, task.crop, generator=state.generator)
        rows = [torch.stack(list(step(*batch).values())) for batch in stream]
        state.classifier_epoch = epoch + 1
        if state.classifier_epoch == epochs:
            if state.guard is not None:  # batch norm has seen other images on each rank
                state.guard.load_state_dict(task.world.from_first(state.guard.state_dict))
                state.freeze_guard()
            loss, accuracy = torch.stack(rows).mean(0).tolist()
            state.classifier = {"loss": loss, "accuracy": accuracy}
        state.seconds += time.perf_counter() - began
        recorder.save({"state": state.state_dict()}, None, epochs=state.epoch)  # the policy is as it was


# --- an epoch ---------------------------------------------------------------------------------------------------------


def steps_per_epoch(task: Task, settings: Settings) -> int:
    """How many steps an epoch has; the last images that fill no batch are left out, others each time."""
    return len(task.data) // settings.batch_size


def _turn(settings: Settings, epoch: int) -> int:
    """Which strength has its turn in an epoch, counted from 0; as many as there are once all is done."""
    return epoch * max(len(settings.strengths), 1) // settings.epochs


def _alike(state: SearchState) -> bool:
    """The variant of steps that are all of one kind."""
    return True


def graphed(
    step: Step[Metrics], state: SearchState, graphs: str, variant: Callable[[], Hashable] | None = None
) -> Step[Metrics]:
    """A step of the state, captured as a CUDA graph where the device is a GPU, unless ``graphs`` is "off"."""
    if graphs == "off" or state.generator.device.type != "cuda":
        return step
    return GraphedStep(step, CudaCapture(state.generator), variant=variant, required=graphs == "on")


def _epoch(
    task: Task,
    settings: Settings,
    recorder: Recorder,
    state: SearchState,
    step: Step[Metrics],
    stream: Iterator[tuple[Tensor, Tensor]],
) -> Measured:
    """Let every batch take its step; what they measured.

    Raises:
        SearchFailed: the search diverged; nothing of this epoch is kept.
    """
    names: tuple[str, ...] = ()
    count = steps_per_epoch(task, settings)
    values = torch.zeros(count, 0, device=task.device)
    with recorder.bar(
        description=f"epoch {state.epoch + 1}/{settings.epochs}",
        total=settings.epochs * count,
        initial=state.epoch * count,
        unit="step",
        leave=state.epoch + 1 == settings.epochs,
    ) as bar:
        for i, (images, labels) in enumerate(stream):
            try:
                metrics = step(images, labels)
            except Exception:  # such as a modulus of 0 bits, where a magnitude is nan
                if i:
                    _check(Measured(names, values[:i].cpu()), task, settings, recorder, state)
                raise
            if not i:
                names = tuple(metrics)
                values = torch.zeros(count, len(names), device=task.device)
            values[i].copy_(torch.stack(list(metrics.values())))
            state.step += 1
            bar.update()
            if task.device.type == "cpu":  # on an accelerator, reading a value would wait for it
                bar.set_postfix(_shown(dict(zip(names, values[i].tolist(), strict=True))), refresh=False)
        measured = Measured(names, values.cpu())
        _check(measured, task, settings, recorder, state)
        bar.set_postfix(_shown(measured.row(-1)))
    return measured


def _shown(row: dict[str, float]) -> dict[str, str]:
    """What the progress bar shows of a step: its first two metrics, and the accuracy."""
    shown = {name: f"{row[name]:.2f}" for name in list(row)[:2]}
    if "accuracy_real" in row:
        shown["accuracy"] = f"{row['accuracy_real']:.0%}"
    return shown


def _check(measured: Measured, task: Task, settings: Settings, recorder: Recorder, state: SearchState) -> None:
    """Raise SearchFailed, before anything of this epoch is kept, if the next one cannot follow from it."""
    found = divergence(measured, state, penalty_every=settings.penalty_every)
    if found is None:
        return
    step, reason = found
    number = state.epoch * steps_per_epoch(task, settings) + step + 1
    losses = ", ".join(f"{name} {value:.4g}" for name, value in measured.row(step).items())
    kept = (
        "nothing was kept, since no folder was given"
        if recorder.path is None
        else f"the last good checkpoint, {recorder.path / 'checkpoint.pt'}, holds {state.epoch} whole epochs"
    )
    raise SearchFailed(
        f"the search diverged in step {number}, epoch {state.epoch + 1} of {settings.epochs}: {reason}.\n"
        f"Measured in it: {losses}.\n"
        f"Of this epoch nothing is kept; {kept}. Start again with a lower critic_learning_rate (now "
        f"{settings.critic_learning_rate:g}) or policy_learning_rate (now {settings.policy_learning_rate:g}), or "
        f"with precision float32 (now {str(task.precision).removeprefix('torch.')})"
    )


def batches(
    data: ImageSet,
    batch_size: int,
    crop: Crop,
    *,
    generator: torch.Generator,
    held_out: ImageSet | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of shuffled batches: images float [B, C, *crop.size] in [0, 1], and labels.

    Labels are int64 [B], or masks uint8 [B, *crop.size], cropped and flipped with their images. A last batch that would
    be smaller is left out.

    Args:
        data: the images.
        batch_size: B.
        crop: the preprocessing.
        generator: source of the draws, on the device of the images.
        held_out: images that the second half of each batch is drawn from; then ``data`` are those of the first.
    """
    parts = [data] if held_out is None else [data, held_out]
    size = batch_size // len(parts)
    orders = [torch.randperm(len(part), generator=generator, device=part.images.device) for part in parts]
    for begin in range(0, min(map(len, orders)) - size + 1, size):
        chosen = [part.subset(order[begin : begin + size]) for part, order in zip(parts, orders, strict=True)]
        images, labels = chosen[0].images, chosen[0].labels
        if len(chosen) > 1:
            images, labels = (torch.cat([getattr(part, each) for part in chosen]) for each in ("images", "labels"))
        images, labels = crop.samples(images, labels, generator=generator)
        yield images.float() / 255, labels


# --- what is kept -----------------------------------------------------------------------------------------------------


def _step_rows(measured: Measured, task: Task, settings: Settings, state: SearchState) -> list[dict[str, Any]]:
    """A row of metrics for each step of the epoch that is done."""
    first = (state.epoch - 1) * steps_per_epoch(task, settings) + 1
    return [
        {"kind": "step", "epoch": state.epoch, "step": first + i} | measured.row(i) for i in range(len(measured.values))
    ]


def _epoch_row(task: Task, settings: Settings, state: SearchState, reference: Reference) -> dict[str, Any]:
    """A row of metrics for the epoch that is done."""
    found = reference.diagnose(state.policy, state.means)
    return {
        "kind": "epoch",
        "epoch": state.epoch,
        "step": state.epoch * steps_per_epoch(task, settings),
        "seconds": state.seconds,
        **state.means,
        "strength": found.strength_end,
        "drift": found.drift,
        "entropy": found.entropy_end,
        "share": found.share_end,
    }


def _save(task: Task, settings: Settings, recorder: Recorder, state: SearchState, reference: Reference) -> None:
    """Keep policy and checkpoint."""
    found = reference.diagnose(state.policy, state.means, classifier=state.classifier)
    policy = exported(state.policy, task, settings, state, found)
    recorder.save({"state": state.state_dict()}, policy, epochs=state.epoch)


def exported(
    policy: RelaxedPolicy,
    task: Task,
    settings: Settings,
    state: SearchState,
    found: Diagnosis,
    *,
    means: dict[str, float] | None = None,
) -> Policy:
    """A relaxed policy as the one that it stands for, with where it comes from.

    Args:
        policy: what the search found.
        task: what was searched on.
        settings: of the search.
        state: of the search, as of now.
        found: the diagnosis.
        means: what the last epoch of this policy measured; those of the last epoch if None.
    """
    done = {
        "epochs": state.epoch,
        "steps": state.epoch * steps_per_epoch(task, settings),
        "seconds": round(state.seconds, 1),
        "last_epoch": state.means if means is None else means,
        "diagnosis": plain(found),
    }
    return policy.to_policy(task.name, prune=settings.prune, provenance=task.provenance(settings) | done)
