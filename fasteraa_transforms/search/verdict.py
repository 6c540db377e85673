"""The verdict of a contest in plain words: which contender to keep, and how sure that is."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fasteraa_transforms.policy import Candidate, Policy
from fasteraa_transforms.policy.pictures import contact_sheet, policies_sheet
from fasteraa_transforms.search.budget import FITTED, MULTIPLE
from fasteraa_transforms.search.contenders.contest import Outcome
from fasteraa_transforms.search.contenders.hold import rules_of
from fasteraa_transforms.search.contenders.screening import Effect
from fasteraa_transforms.search.contenders.standings import Standing
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.evaluation.statistics import signed
from fasteraa_transforms.search.report.next_steps import next_steps
from fasteraa_transforms.search.report.page import changes_nothing, page
from fasteraa_transforms.search.report.race_sections import Raced
from fasteraa_transforms.search.runtime.folder import RunFolder
from fasteraa_transforms.search.runtime.recorder import Recorder
from fasteraa_transforms.search.settings import Settings
from fasteraa_transforms.search.task import Task

BASELINES = {"none": "without augmentation", "trivialaugment": "with TrivialAugment"}
"""Contenders that take no search, which the kept one is compared with."""


def verdict(outcome: Outcome, data: ImageSet) -> list[str]:
    """A line a paragraph: what to keep, who is tied with it, and what the judgement rests on.

    Args:
        outcome: of the contest.
        data: the images.
    """
    leader, *others = outcome.standings
    by_name = {each.contender: each for each in outcome.standings}
    tied = [each for each in others if each.tied]
    lines = [_first_line(leader, by_name, tied)]
    if tied:
        names = _listed([each.contender for each in tied])
        lines.append(f"It cannot be told apart from {names}; the kept one has the smallest cross entropy so far.")
    lines.append(_basis(outcome, data))
    if outcome.effects:
        lines.append(_screening(outcome.effects))
    return lines


def _first_line(leader: Standing, by_name: dict[str, Standing], tied: Sequence[Standing]) -> str:
    compared = [
        f"{100 * other.error:.1f} % {words} ({_difference(other)})"
        for name, words in BASELINES.items()
        if (other := by_name.get(name)) is not None and name != leader.contender
    ]
    what = "Train without augmentation" if leader.contender == "none" else f"Keep {leader.contender}"
    beside = f", against {' and '.join(compared)}" if compared else ""
    networks = f"{leader.replicates} network{'s' * (leader.replicates != 1)}"
    return f"{what}: {100 * leader.error:.1f} % held-out error, {networks}{beside}."


def _difference(other: Standing) -> str:
    """The kept contender's error minus the other's, in points, with its interval."""
    return f"{signed(-100 * other.error_behind, 1)} ± {100 * other.error_half_width:.1f} points"


def _basis(outcome: Outcome, data: ImageSet) -> str:
    plan = outcome.plan
    networks = sum(each.replicates for each in outcome.standings)
    fitted = _fitted(outcome)
    text = (
        f"Judged by {networks} networks ({plan.network}), each trained on {plan.train_images} of your {len(data)} "
        f"images for {plan.epochs} epochs and tested on {plan.held_out} others."
    )
    if _fits(outcome):
        return f"{text} Without augmentation they fit their own images."
    if plan.fitted:
        return f"{text} That is {MULTIPLE} times what it takes to fit the images without augmentation."
    return (
        f"{text} Without augmentation they got {fitted:.0%} of their own images right; shorter than {MULTIPLE} times "
        "what it takes to fit them, a race favours weak augmentation, so trust it less or give it more --minutes."
    )


def _fitted(outcome: Outcome) -> float:
    """The share of their own images that networks without augmentation got right."""
    return max((row["train_accuracy"] for row in outcome.rows if row["contender"] == "none"), default=0.0)


def _fits(outcome: Outcome) -> bool:
    """Whether networks of a length that was given, not found, fit their own images."""
    return outcome.plan.fitted is None and _fitted(outcome) >= FITTED


def _screening(effects: Sequence[Effect]) -> str:
    """What a screening found, in a sentence."""
    helps = [each.operation for each in effects if each.effect < -each.half_width]
    harms = [each.operation for each in effects if each.effect > each.half_width]
    parts = [
        f"{_listed(names)} {word}{'s' * (len(names) == 1)}"
        for names, word in ((helps, "help"), (harms, "harm"))
        if names
    ]
    return f"Screening: {'; '.join(parts)}." if parts else "Screening: no operation's effect is told apart from none."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def kept_policy(outcome: Outcome, task: Task, settings: Settings, *, seconds: float) -> Policy:
    """The policy of the contender that is kept, with where it comes from; one that changes nothing for "none".

    Args:
        outcome: of the contest.
        task: what was searched on.
        settings: of the search.
        seconds: that the search took.
    """
    kept = outcome.kept
    policy = kept.policy or Policy([[[Candidate(operation="flip", weight=1, probability=0)]]])
    found = {
        "kept": kept.name,
        "origin": kept.origin,
        "verdict": verdict(outcome, task.data),
        "standings": plain_standings(outcome),
        "plan": outcome.plan.to_json(),
        "seconds": round(seconds, 1),
    }
    return Policy(policy.sub_policies, name=task.name, provenance=task.provenance(settings) | found)


def plain_standings(outcome: Outcome) -> list[dict[str, Any]]:
    """The standings, for a file; numbers that are not finite are left out."""
    rows = [dataclasses.asdict(each) for each in outcome.standings]
    return [
        {key: value for key, value in row.items() if not isinstance(value, float) or math.isfinite(value)}
        for row in rows
    ]


def write_report(
    folder: RunFolder,
    outcome: Outcome,
    policy: Policy,
    lines: Sequence[str],
    task: Task,
    settings: Settings,
    recorder: Recorder,
) -> None:
    """Write what a contest found into the folder of its run.

    Args:
        folder: of the run.
        outcome: of the contest.
        policy: what is kept.
        lines: the verdict.
        task: what was searched on.
        settings: of the search.
        recorder: of the search; it has the rows of the adversarial search, if there was one.
    """
    tried = {each.name: each.policy for each in outcome.contenders if each.policy is not None}
    curves = {name: each.to_json() for name, each in outcome.curves.items()}
    found = {"verdict": list(lines), "kept": outcome.kept.name, "standings": plain_standings(outcome), "curves": curves}
    if outcome.effects:
        found["screening"] = [dataclasses.asdict(each) for each in outcome.effects]
    folder.replace_json(folder.path / "diagnosis.json", found | {"plan": outcome.plan.to_json()})
    for each in outcome.contenders:
        if each.policy is not None and each.searched:
            each.policy.save(folder.path / f"{each.name.replace(' ', '-')}.json")
    leave_pictures(recorder, policy, task.probe, tried)
    text = page(
        policy,
        verdict=lines,
        images=task.probe,
        metrics=recorder.rows(),
        race=Raced(outcome.rows, outcome.standings, outcome.effects),
        curves=outcome.curves.get("none"),
        tried=tried,
        next_steps=next_steps(
            folder.path,
            task.source,
            nothing=changes_nothing(policy),
            short_of=None if outcome.plan.fitted or _fits(outcome) else rules_of(task, settings).seconds / 60,
            masks=task.data.has_masks,
            train_images=settings.num_images,
            image_size=settings.image_size if isinstance(settings.image_size, int) else None,
        ),
        source=task.source,
    )
    folder.replace_text(folder.path / "report.html", text)


def leave_pictures(recorder: Recorder, policy: Policy, images: Tensor, tried: Mapping[str, Policy]) -> None:
    """Write ``contact_sheet.png``, and show the same in TensorBoard, where the images have one channel or three.

    Args:
        recorder: of the search.
        policy: what is kept. Where it changes nothing, the sheet shows what was tried instead.
        images: uint8 [N, C, H, W], of which the first eight are shown.
        tried: policies that were tried, by name.
    """
    if recorder.folder is None or images.shape[1] not in (1, 3):
        return
    others = {name: each for name, each in tried.items() if not changes_nothing(each)}
    if changes_nothing(policy) and others:
        sheet = policies_sheet(others, images[:8])
    else:
        sheet = contact_sheet(policy, images[:8])
    recorder.folder.replace(recorder.folder.path / "contact_sheet.png", lambda file: sheet.save(file, "PNG"))
    recorder.show("policy", sheet)
