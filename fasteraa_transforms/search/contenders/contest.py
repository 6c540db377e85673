"""From images to the augmentation that is best for them: length, guards, contenders, race."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fasteraa_transforms.search import budget
from fasteraa_transforms.search.contenders import Contender
from fasteraa_transforms.search.contenders.guard import Curves
from fasteraa_transforms.search.contenders.race import Trainings, TrialRow, expected_networks, race, work
from fasteraa_transforms.search.contenders.restrict import Allowed
from fasteraa_transforms.search.contenders.screening import Effect
from fasteraa_transforms.search.contenders.standings import Standing
from fasteraa_transforms.search.contenders.table import Material, find_kind, gather
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.runtime.pool import Pool

GUARDS = ("none", "uniform")
"""Contenders whose networks can serve as guards."""


@dataclass
class Notes:
    """What a contest leaves in the folder of a run, and takes up again.

    Attributes:
        plan: as it was made; None before that.
        rows: of the trainings that are done.
        save_plan: called with a plan that is new or changed.
        save_row: called with each new row.
        tell: takes a line for the user.
        advance: takes the seconds of work that a training has brought the run forward, as planned.
        expect: takes how many networks the race is expected to take in all, after each round.
    """

    plan: budget.RacePlan | None = None
    rows: list[TrialRow] = field(default_factory=list)
    save_plan: Callable[[budget.RacePlan], None] = lambda plan: None
    save_row: Callable[[TrialRow], None] = lambda row: None
    tell: Callable[[str], None] = lambda line: None
    advance: Callable[[float], None] = lambda seconds: None
    expect: Callable[[int], None] = lambda networks: None


@dataclass(frozen=True)
class Outcome:
    """How a contest ended.

    Attributes:
        plan: what was trained.
        contenders: who raced.
        standings: the leader first.
        curves: what the guards saw, by the contender that they were trained with.
        rows: of all trainings of the race.
        effects: what a screening found of each operation.
    """

    plan: budget.RacePlan
    contenders: tuple[Contender, ...]
    standings: tuple[Standing, ...]
    curves: dict[str, Curves]
    rows: tuple[TrialRow, ...]
    effects: tuple[Effect, ...] = ()

    @property
    def kept(self) -> Contender:
        """The leader."""
        return next(each for each in self.contenders if each.name == self.standings[0].contender)


@dataclass(frozen=True)
class Rules:
    """What a contest is run with; the settings of a search.

    Attributes:
        kinds: names of kinds of contenders, as `find_kind` takes them.
        allowed: operations and magnitudes that contenders may use.
        seconds: that the contest may take.
        seed: of the replicates.
        network: name; None: one that fits the budget.
        epochs: length of each training; None: found.
        replicates: at most so many for one contender.
        train_images: for each network; None: as fits the budget.
        processes: trainings side by side; None: as fits the device.
        trainings: of the race in all; None: as fits the budget.
    """

    kinds: tuple[str, ...]
    allowed: Allowed = field(default_factory=Allowed)
    seconds: float = 600.0
    seed: int = 0
    network: str | None = None
    epochs: int | None = None
    replicates: int = budget.REPLICATES
    train_images: int | None = None
    processes: int | None = None
    trainings: int | None = None


def contest(
    data: ImageSet,
    crop: Crop,
    rules: Rules,
    notes: Notes,
    more: Callable[[dict[str, Curves], Trainings], Sequence[Contender]] = lambda curves, trainings: (),
) -> Outcome:
    """Find the contender that is best for ``data``.

    Args:
        data: the images, on the device to train on.
        crop: the preprocessing; its size is what the networks see.
        rules: how the contest is run.
        notes: results of an earlier start of the run, and functions that keep new ones.
        more: makes further contenders, such as the adversarial search, from the curves of the guards and the trainings.
    """
    began = time.perf_counter()
    first = gather(rules.kinds, Material(rules.allowed))
    count = len(first) + _expected(rules.kinds)
    plan = notes.plan or _plan(data, crop, rules, count)
    notes.save_plan(plan)
    notes.tell(_plan_in_words(plan, data, rules, count))
    if plan.fitted is None and rules.epochs is None:
        plan = _with_length(plan, data, crop, rules, notes, count, rules.seconds - (time.perf_counter() - began))
        notes.save_plan(plan)
    arena = budget.arena_of(plan, data, crop, rules.seed)
    notes.tell(_length_in_words(plan, count))
    with Pool(work, arena, processes=plan.processes).started() as pool:
        trainings = Trainings(arena, pool, notes.rows, notes.save_row, lambda row: notes.advance(row["wall"]))
        wanted = {guard for name in rules.kinds for guard in find_kind(name).guards} | {"none"}
        guards = [each for each in gather(GUARDS, Material(rules.allowed)) if each.name in wanted]
        looking = {each.name: rules.allowed.operations for each in guards}
        # The guards come first; contenders that need none are trained beside them, so that no process waits.
        at_once = {each.name: each for each in [*guards, *first]}
        trainings.train(at_once.values(), 0, guards=looking)
        curves = {name: found for name in looking if (found := trainings.curves(name)) is not None}
        contenders = gather(rules.kinds, Material(rules.allowed, curves))
        left = rules.seconds - (time.perf_counter() - began)
        contenders += more(curves, trainings)  # what these take comes on top
        clock = _Clock(plan, rules, notes, trainings, seconds=left)
        result = race(
            trainings,
            contenders,
            most=plan.trainings,
            replicates=plan.replicates,
            tell=notes.tell,
            limit=clock.limit,
        )
        rows = trainings.of(each.name for each in contenders)
    return Outcome(clock.plan, tuple(contenders), tuple(result), curves, tuple(rows))


class _Clock:
    """Keeps a race within its seconds, should networks take longer than they were planned to.

    Attributes:
        plan: of the race, with as many trainings as fit.
    """

    def __init__(
        self, plan: budget.RacePlan, rules: Rules, notes: Notes, trainings: Trainings, *, seconds: float
    ) -> None:
        self.plan, self.rules, self.notes, self.trainings = plan, rules, notes, trainings
        self.began, self.before = time.perf_counter(), len(trainings.rows)
        self.end = self.began + seconds

    def limit(self, most: int, raced: int, expected: int) -> int:
        """How many networks the race may take in all; see `race`. The plan keeps it, for whoever resumes the run."""
        now, trained = time.perf_counter(), len(self.trainings.rows) - self.before
        if trained and self.rules.trainings is None:
            each = (now - self.began) / trained
            fit = max(raced, raced + int((self.end - now) / each))
            if fit < most:
                most = fit
                self.plan = budget.changed(self.plan, trainings=most)
                self.notes.save_plan(self.plan)
        self.notes.expect(min(most, expected))
        return most


def guard_curves(
    data: ImageSet, crop: Crop, rules: Rules, notes: Notes, *, networks: int = 3
) -> tuple[Curves, budget.RacePlan]:
    """What every operation does to the images and their classes, without a race.

    Args:
        data: the images, on the device to train on.
        crop: the preprocessing.
        rules: how networks are trained; of the contenders only "none" is.
        notes: takes the rows.
        networks: how many are trained without augmentation, each on another split; what they see is averaged.
    """
    began = time.perf_counter()
    plan = notes.plan or _plan(data, crop, rules, networks)
    none = gather(["none"], Material(rules.allowed))
    if rules.epochs is None:
        plan = _with_length(plan, data, crop, rules, notes, networks, rules.seconds - (time.perf_counter() - began))
    with Pool(work, budget.arena_of(plan, data, crop, rules.seed), processes=plan.processes).started() as pool:
        trainings = Trainings(pool.shared, pool, notes.rows, notes.save_row, lambda row: notes.advance(row["wall"]))
        trainings.train_replicates(none[0], range(networks), curves_of=rules.allowed.operations)
        curves = trainings.curves("none")
    assert curves is not None
    return curves, plan


def _expected(kinds: Sequence[str]) -> int:
    """How many contenders the kinds will bring that need a guard first."""
    return sum(len(Material().tolerances) for name in kinds if find_kind(name).guards)


def _plan(data: ImageSet, crop: Crop, rules: Rules, count: int) -> budget.RacePlan:
    plan = budget.make_plan(
        data,
        crop,
        seconds=rules.seconds,
        contenders=count,
        network=rules.network,
        processes=rules.processes,
        train_images=rules.train_images,
    )
    changes: dict[str, Any] = {"replicates": rules.replicates}
    if rules.trainings is not None:
        changes["trainings"] = rules.trainings
    if rules.epochs is not None:
        changes["epochs"] = rules.epochs
    return budget.changed(plan, **changes)


def _with_length(
    plan: budget.RacePlan, data: ImageSet, crop: Crop, rules: Rules, notes: Notes, count: int, seconds: float
) -> budget.RacePlan:
    """The plan with the length of its trainings, and with fewer images where the networks cannot fit them in time."""
    began = time.perf_counter()
    none = gather(["none"], Material(rules.allowed))[0]
    while True:
        arena = budget.arena_of(plan, data, crop, rules.seed)
        most = budget.affordable_length(plan, seconds=seconds - (time.perf_counter() - began), contenders=count)
        with Pool(work, arena, processes=plan.processes).started() as pool:
            trainings = Trainings(arena, pool, notes.rows, notes.save_row, lambda row: notes.advance(row["wall"]))
            length, fitted = _length(trainings, none, most, plan.processes)
        done = [row for epochs in budget.LENGTHS if (row := trainings.row("none", 0, epochs)) is not None]
        plan = budget.with_rate(plan, done[-1]["epochs"], done[-1]["seconds"])
        fewer = None if fitted or rules.train_images else budget.fewer_images(plan, images=len(data))
        if fewer is None:
            break
        notes.tell(
            f"{plan.network} does not fit {plan.train_images} images in the time there is; "
            f"{fewer.train_images} are trained on instead"
        )
        plan = fewer
        notes.save_plan(plan)
    left = seconds - (time.perf_counter() - began)
    longer = budget.with_length(plan, length, fitted, seconds=left, contenders=count)
    return longer if rules.trainings is None else budget.changed(longer, trainings=rules.trainings)


def _length(trainings: Trainings, none: Contender, most: int, at_once: int) -> tuple[int, bool]:
    """Epochs in which networks without augmentation fit their images, and whether they do; see `find_length`."""

    def fit_in(tried: Sequence[int]) -> list[float]:
        trainings.train_lengths(none, tried)
        return [float(trainings.row(none.name, 0, epochs)["train_accuracy"]) for epochs in tried]  # type: ignore[index]

    return budget.find_length(fit_in, most=most, at_once=at_once)


def _plan_in_words(plan: budget.RacePlan, data: ImageSet, rules: Rules, count: int) -> str:
    beside = f", {plan.processes} networks side by side" if plan.processes > 1 else ""
    each = plan.training_seconds()
    networks = min(expected_networks(count, plan.replicates), max(plan.trainings, int(rules.seconds / each)))
    return (
        f"{data.images.device.type}{beside}; {count} contenders race with {plan.network}, about "
        f"{networks} networks of about {budget.duration(each)} each: "
        f"{budget.duration(min(networks * each, rules.seconds))} of {budget.duration(rules.seconds)}"
    )


def _length_in_words(plan: budget.RacePlan, count: int) -> str:
    each = plan.training_seconds()
    about = min(expected_networks(count, plan.replicates), plan.trainings)
    takes = f"each training takes {plan.epochs} epochs; about {about} of them, {budget.duration(about * each)}"
    if about < plan.trainings:
        takes += f", at most {plan.trainings}, {budget.duration(plan.trainings * each)}"
    if plan.fitted is None:
        return f"{plan.network} on {plan.train_images} images; {takes}"
    fits = (
        f"fits its images without augmentation within {plan.epochs // budget.MULTIPLE} epochs"
        if plan.fitted
        else "does not fit its images without augmentation in the time there is, so that the race is trusted less"
    )
    return f"{plan.network} on {plan.train_images} images {fits}; {takes}"
