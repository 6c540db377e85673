"""A contest in the folder of a run: the files that it keeps, how it is resumed, and its messages."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from fasteraa_transforms.search import budget
from fasteraa_transforms.search.contenders import Contender
from fasteraa_transforms.search.contenders.adversarial import adversarial
from fasteraa_transforms.search.contenders.contest import Notes, Outcome, Rules, contest
from fasteraa_transforms.search.contenders.guard import Curves
from fasteraa_transforms.search.contenders.race import Trainings
from fasteraa_transforms.search.contenders.restrict import Allowed, parse_allowed
from fasteraa_transforms.search.contenders.rows import ROWS, read_race
from fasteraa_transforms.search.contenders.screening import Effect, effects, policies, screened
from fasteraa_transforms.search.contenders.table import Material, find_kind
from fasteraa_transforms.search.data.images import check_same
from fasteraa_transforms.search.runtime.files import DamagedFile, one_line
from fasteraa_transforms.search.runtime.recorder import Recorder
from fasteraa_transforms.search.settings import Settings
from fasteraa_transforms.search.task import Task

_REPORT = 5.0  # seconds that the report takes, about
_LEAST = 0.5  # of its minutes, what a search has for its networks however long its images took to load

SEARCHED = ("adversarial", "screening")
"""Contenders that take trainings of their own."""


def hold_contest(task: Task, settings: Settings, recorder: Recorder) -> Outcome:
    """Find the contender that is best for the images of a task, in the time that the settings allow.

    Args:
        task: what is searched on.
        settings: of the search.
        recorder: its folder keeps the plan and a row for each training, from which a run that goes on is resumed.

    Raises:
        ValueError: unknown contenders or operations; or, on resuming, other images than before.
        DamagedFile: on resuming, the plan or a row of the run cannot be used; says which.
    """
    rules = rules_of(task, settings)
    spent = time.perf_counter() - recorder.began
    rules = dataclasses.replace(rules, seconds=max(rules.seconds - spent - _REPORT, rules.seconds * _LEAST))
    notes = _notes(task, settings, recorder)
    allowed = rules.allowed

    found: list[Effect] = []

    def more(curves: dict[str, Curves], trainings: Trainings) -> Sequence[Contender]:
        contenders: list[Contender] = []
        if "screening" in settings.contenders:
            found.extend(screen(trainings, allowed))
            policy = screened(found, allowed.limits)
            if policy is not None:
                contenders.append(Contender("screening", policy, "the operations that help, by screening", True))
        if "adversarial" in settings.contenders:
            recorder.say("The adversarial search:")
            best = find_kind("calibrated").make(Material(allowed, curves)) if "none" in curves else []
            start = best[-1].policy if best and settings.start == "calibrated" else None
            contenders += adversarial(task, settings, recorder, allowed, start)
            recorder.doing = "in the race"
        return contenders

    try:
        outcome = contest(task.data, task.crop, rules, notes, more)
    finally:
        notes.close()
    return dataclasses.replace(outcome, effects=tuple(found))


def screen(trainings: Trainings, allowed: Allowed) -> list[Effect]:
    """Train the twenty networks of the screening design, and compute the effect of each operation."""
    runs = policies(allowed.operations, allowed.limits)
    trainings.train([Contender(name, policy, "a run of the screening design") for name, policy in runs.items()], 0)
    losses = []
    for name in runs:
        row = trainings.row(name, 0)
        assert row is not None
        losses.append(float(row["loss"]))
    return effects(allowed.operations, losses)


def rules_of(task: Task, settings: Settings) -> Rules:
    """The rules of the contest, from the settings."""
    kinds, allowed = check_settings(settings)
    return Rules(
        kinds=kinds,
        allowed=allowed,
        seconds=budget.seconds_of(settings.minutes, task.device),
        seed=settings.seed,
        network=settings.network,
        epochs=settings.race_epochs,
        replicates=settings.replicates,
        train_images=settings.race_images,
        processes=settings.processes,
        trainings=settings.trainings,
    )


def check_settings(settings: Settings) -> tuple[tuple[str, ...], Allowed]:
    """The kinds of contenders and the operations that the settings name.

    Raises:
        ValueError: one of them does not exist.
    """
    kinds = tuple(name for name in settings.contenders if name not in SEARCHED)
    for name in kinds:
        find_kind(name)
    return kinds, parse_allowed(settings.operations, settings.exclude, settings.max_magnitude)


class _FolderNotes(Notes):
    """Notes in the folder of a run, with a progress bar over its networks."""

    def __init__(
        self, recorder: Recorder, plan: budget.RacePlan | None, rows: list[dict[str, Any]], lengths_given: bool
    ) -> None:
        super().__init__(plan, rows)
        self.lengths_given = lengths_given
        self.recorder, self.bar = recorder, None
        self.save_plan, self.save_row = self._save_plan, self._save_row
        self.tell, self.advance, self.expect = self._say, self._advance, self._expect

    def _save_plan(self, plan: budget.RacePlan) -> None:
        if plan != self.plan or "contest" not in self.recorder.saved:
            self.plan = plan
            self.recorder.save({"contest": plan.to_json()}, None, epochs=0)
        if plan.fitted is None and not self.lengths_given:
            return
        if self.bar is None:
            done = sum(row["epochs"] == plan.epochs for row in self.rows)
            self.bar = self.recorder.bar(
                description="race", total=plan.trainings, unit="network", initial=min(done, plan.trainings)
            )

    def _save_row(self, row: dict[str, Any]) -> None:
        if self.recorder.folder is not None:
            self.recorder.folder.append([{**row, "elapsed": round(self.recorder.elapsed(), 3)}], ROWS)
        self.recorder.networks = len(self.rows)

    def _say(self, line: str) -> None:
        if self.bar is not None:
            self.bar.clear()
        self.recorder.say(line)

    def _advance(self, seconds: float) -> None:
        if self.bar is not None:
            self.bar.update()

    def _expect(self, networks: int) -> None:
        if self.bar is not None:
            self.bar.total = max(networks, self.bar.n)
            self.bar.refresh()

    def close(self) -> None:
        """End the progress bar."""
        if self.bar is not None:
            self.bar.close()


def _notes(task: Task, settings: Settings, recorder: Recorder) -> _FolderNotes:
    """The notes of a resumed run. For a new run, the folder notes its task."""
    saved = recorder.load()
    images = task.data.identity() if recorder.path is not None else {}
    plan, rows = None, []
    if saved is None:
        recorder.start(task.about(settings))
        if recorder.folder is not None:
            recorder.folder.replace_rows([], ROWS)
        recorder.save({"images": images}, None, epochs=0)  # from here on the run can go on
    else:
        check_same(saved["images"], images, recorder.path)
        plan = _plan(saved, recorder)
        if recorder.folder is not None:
            kinds, allowed = check_settings(settings)
            searched = [name for name in SEARCHED if name in settings.contenders]
            rows = read_race(recorder.folder, kinds, searched, allowed)
            recorder.count(max((row.get("elapsed", 0.0) for row in rows), default=0.0))
    recorder.networks = len(rows)
    return _FolderNotes(recorder, plan, rows, settings.race_epochs is not None)


def _plan(saved: dict[str, Any], recorder: Recorder) -> budget.RacePlan | None:
    """The plan in a checkpoint; None if the run had not made one yet."""
    if "contest" not in saved:
        return None
    try:
        return budget.RacePlan.from_json(saved["contest"])
    except (KeyError, TypeError, ValueError) as error:
        where = "the checkpoint" if recorder.folder is None else recorder.folder.checkpoint
        raise DamagedFile(
            f"{where} has a plan of another version ({one_line(error)}); search anew in another folder"
        ) from error
