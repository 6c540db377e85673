"""The choice among the policies of an adversarial search, by small networks on held-out images."""

import dataclasses
import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fasteraa_transforms.relaxed import RelaxedPolicy
from fasteraa_transforms.search.algorithm import diagnosis
from fasteraa_transforms.search.algorithm.diagnosis import Trial
from fasteraa_transforms.search.algorithm.loop import Adversarial, exported
from fasteraa_transforms.search.contenders.validation import FOLDS, cross_validate
from fasteraa_transforms.search.runtime.recorder import Recorder
from fasteraa_transforms.search.settings import GROUPS, Settings
from fasteraa_transforms.search.task import Task


class Candidate(NamedTuple):
    """A policy that may be chosen.

    Attributes:
        name: what it is called.
        file: of the folder, that it is written to.
        fraction: of the start's strength that it was held at; None for a uniform policy.
        policy: state dict of the relaxed policy.
        means: what the last epoch measured that goes with it.
    """

    name: str
    file: str
    fraction: float | None
    policy: dict[str, Tensor]
    means: dict[str, float]


class Choice(NamedTuple):
    """The policy that was chosen.

    Attributes:
        means: what the last epoch measured that goes with it.
        trials: what held-out images said of each candidate.
        seconds: that the choice took.
    """

    means: dict[str, float]
    trials: tuple[Trial, ...] = ()
    seconds: float = 0.0


def choose(task: Task, settings: Settings, recorder: Recorder, result: Adversarial) -> Choice:
    """Let the policy of a search be the one that held-out images prefer.

    Tried are those of the strengths, none if 0 is among these, and the uniform policies. The choice is in the
    checkpoint, and is not made again.

    Args:
        task: what was searched on.
        settings: of the search.
        recorder: of the search.
        result: of the search; its state's policy becomes the chosen one.
    """
    candidates = _candidates(settings, result)
    kept = recorder.saved.get("choice")
    if kept is None:
        recorder.doing = "while choosing the strength"
        began = time.perf_counter()
        trials = _try(task, settings, recorder, result, candidates)
        seconds = time.perf_counter() - began
    else:
        trials = tuple(Trial(**trial) for trial in kept["trials"])
        seconds = kept["seconds"]
    best = next(i for i, trial in enumerate(trials) if trial.chosen)
    state, reference, means = result.state, result.reference, candidates[best].means
    state.policy.load_state_dict(candidates[best].policy)
    if kept is None:
        found = reference.diagnose(state.policy, means, classifier=state.classifier, trials=trials)
        policy = exported(state.policy, task, settings, state, found, means=means, seconds=seconds)
        entry = {"trials": [dataclasses.asdict(trial) for trial in trials], "seconds": seconds}
        recorder.save({"choice": entry}, policy, epochs=state.epoch)
    return Choice(means, trials, seconds)


def _candidates(settings: Settings, result: Adversarial) -> list[Candidate]:
    candidates = [
        Candidate(f"at {end.fraction:g}", f"strength-{end.fraction:g}.json", end.fraction, end.policy, end.means)
        for end in result.ends
    ]
    last = result.ends[-1]
    if 0 in settings.strengths:
        nothing = last.policy | {"probabilities": torch.zeros_like(last.policy["probabilities"])}
        candidates.append(Candidate("at 0", "strength-0.json", 0.0, nothing, last.means))
    for group in settings.uniform:
        alike = _uniform(result.reference.policy, group)
        candidates.append(Candidate(group, f"uniform-{group}.json", None, alike, last.means))
    return candidates


def _uniform(start: RelaxedPolicy, group: str) -> dict[str, Tensor]:
    """State of the policy in which the operations of a group are all alike."""
    state: dict[str, Any] = start.state_dict()
    inside = torch.tensor([name in GROUPS[group] for name in start.operations])
    weights = torch.zeros_like(state["weights"]).masked_fill(~inside, -torch.inf)
    return state | {"weights": weights, "probabilities": torch.full_like(state["probabilities"], 0.5)}


def _try(
    task: Task, settings: Settings, recorder: Recorder, result: Adversarial, candidates: list[Candidate]
) -> tuple[Trial, ...]:
    """What held-out images say of each candidate; the ranks take turns."""
    policy, reference, world = result.state.policy, result.reference, task.world
    strengths: list[float] = []
    tested: dict[int, tuple[float, float]] = {}
    networks = f"training {FOLDS} small networks for each policy"
    for turn, candidate in enumerate(recorder.bar(candidates, networks, unit="policy")):
        policy.load_state_dict(candidate.policy)
        exact = policy.to_policy(f"{task.name} {candidate.name}", prune=settings.prune)
        if recorder.folder is not None:
            exact.save(recorder.folder.path / candidate.file)
        strengths.append(reference.strength_of(policy))
        if turn % world.size == world.rank:
            tested[turn] = cross_validate(
                None if candidate.fraction == 0 else exact,
                task.data,
                size=task.crop.size,
                padding=task.crop.padding,
                flip=task.crop.flip,
                steps=settings.validation_steps,
                seed=settings.seed,
            )
    tested = {turn: result for part in world.gather_objects(tested) for turn, result in part.items()}
    trials = []
    for turn, (candidate, strength) in enumerate(zip(candidates, strengths, strict=True)):
        uniform = candidate.name if candidate.fraction is None else None
        # Nothing held a uniform policy.
        reached = strength / reference.strength if candidate.fraction is None else candidate.fraction
        trials.append(Trial(reached, reached * reference.strength, strength, *tested[turn], uniform=uniform))
    best = diagnosis.best_trial(trials, len(task.data))
    return tuple(dataclasses.replace(trial, chosen=i == best) for i, trial in enumerate(trials))
