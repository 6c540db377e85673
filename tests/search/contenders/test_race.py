"""The race and its standings, on trainings that are made up; and one that is real."""

import base64
import math
import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from fasteraa_transforms.search import Digits, budget, load_images
from fasteraa_transforms.search.contenders import Contender
from fasteraa_transforms.search.contenders.contest import Notes, Rules, _Clock, contest
from fasteraa_transforms.search.contenders.race import Trainings, race
from fasteraa_transforms.search.contenders.standings import racing, standings
from fasteraa_transforms.search.contenders.trial import (
    TEMPERATURES,
    Arena,
    at_best_temperature,
    run_trial,
    values_of,
)
from fasteraa_transforms.search.contenders.uniform import uniform
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.networks.fit import Recipe
from fasteraa_transforms.search.runtime.pool import Pool, WorkerLost

IMAGES = 400


def made_up(contender: str, replicate: int, loss: float, *, noise: float = 0.02, seed: int = 0) -> dict[str, Any]:
    """A row whose images have losses around ``loss``, those of one replicate alike for all contenders."""
    generator = np.random.default_rng([replicate, 7])
    own = np.random.default_rng([replicate, sum(contender.encode()), seed])
    losses = loss + generator.normal(0, 0.3, IMAGES) + own.normal(0, 0.1, IMAGES) + own.normal(0, noise)
    return {
        "contender": contender,
        "replicate": replicate,
        "error": float(np.clip(losses.mean() / 3, 0, 1)),
        "loss": float(losses.mean()),
        "losses": base64.b64encode(losses.astype(np.float16).tobytes()).decode(),
        "errors": base64.b64encode((losses > loss).astype(np.float16).tobytes()).decode(),
        "held_out": IMAGES,
        "epochs": 1,
        "train_images": 2,
        "wall": 1.0,
        "seconds": 1.0,
        "train_accuracy": 1.0,
    }


def test_leader_is_the_smallest_loss_of_those_with_most_replicates() -> None:
    rows = [made_up(name, i, loss) for name, loss in (("a", 1.0), ("b", 0.7)) for i in range(3)]
    rows.append(made_up("lucky", 0, 0.5))
    assert standings(rows)[0].contender == "b"


def test_who_has_fewer_networks_is_compared_on_the_splits_of_the_leader() -> None:
    rows = [made_up("a", i, 1.0 + i) for i in range(3)]  # later splits are harder
    rows += [made_up("b", 0, 1.6)]
    a, b = standings(rows)
    assert a.error == pytest.approx(sum(row["error"] for row in rows[:3]) / 3)
    assert b.error - a.error == pytest.approx(b.error_behind) == pytest.approx(rows[3]["error"] - rows[0]["error"])
    assert b.loss - a.loss == pytest.approx(b.behind) == pytest.approx(rows[3]["loss"] - rows[0]["loss"])


def test_intervals_cover_the_true_difference() -> None:
    covered = []
    for seed in range(200):
        rows = [
            made_up(name, i, loss, noise=0.05, seed=seed)
            for name, loss in (("a", 1.0), ("b", 1.3), ("c", 1.6))
            for i in range(4)
        ]
        for each in standings(rows)[1:]:
            true = {"b": 0.3, "c": 0.6}[each.contender]
            covered.append(abs(each.behind - true) <= each.half_width)
    assert 0.9 < np.mean(covered) < 0.995


def test_one_replicate_drops_only_who_is_far_behind() -> None:
    rows = [made_up("a", 0, 1.0), made_up("b", 0, 1.01), made_up("c", 0, 2.0)]
    assert set(racing(rows)) == {"a", "b"}


class _Script:
    """Trains by looking up what a network of a contender would lose."""

    processes = 1

    def __init__(self, losses: dict[str, float]) -> None:
        self.losses, self.calls = losses, []

    def run(self, calls: list[tuple[Any, ...]]) -> Any:
        for index, (contender, _, replicate, *_) in enumerate(calls):
            self.calls.append((contender, replicate))
            yield index, made_up(contender, replicate, self.losses[contender])


def _trainings(losses: dict[str, float], rows: list[dict[str, Any]] | None = None) -> tuple[Trainings, _Script]:
    pool = _Script(losses)
    data = ImageSet(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), torch.arange(4) % 2, 2)
    arena = Arena(data, Crop((4, 4)), "small", Recipe(epochs=1), 2)
    return Trainings(arena, pool, [] if rows is None else rows, lambda row: None), pool  # type: ignore[arg-type]


LOSSES = {"none": 1.5, "uniform": 1.0, "geometry": 1.02, "colour": 2.0}


def test_race_drops_who_is_behind_and_keeps_ties() -> None:
    trainings, pool = _trainings(LOSSES)
    contenders = [Contender(name, None, "") for name in LOSSES]
    result = race(trainings, contenders, most=12, replicates=8)
    assert result[0].contender in ("uniform", "geometry")
    assert [each for each in pool.calls if each[0] == "colour"] == [("colour", 0)]
    assert len(pool.calls) <= 12
    assert {each.contender for each in result if each.tied} >= {result[0].contender}


def test_race_that_was_cut_off_ends_as_one_that_was_not() -> None:
    contenders = [Contender(name, None, "") for name in LOSSES]
    whole, _ = _trainings(LOSSES)
    expected = race(whole, contenders, most=11, replicates=8)
    for kept in range(len(whole.rows)):
        again, pool = _trainings(LOSSES, whole.rows[:kept])
        assert race(again, contenders, most=11, replicates=8) == expected
        assert len(pool.calls) == len(whole.rows) - kept


def test_the_order_in_which_workers_finish_changes_nothing() -> None:
    losses = dict.fromkeys(("none", "uniform", "geometry"), 1.0) | {"colour": 1.001}
    contenders = [Contender(name, None, "") for name in losses]
    whole, _ = _trainings(losses)
    expected = race(whole, contenders, most=11, replicates=8)
    for seed in range(10):
        rows = random.Random(seed).sample(whole.rows, len(whole.rows))
        again, pool = _trainings(losses, rows)
        assert race(again, contenders, most=11, replicates=8) == expected
        assert not pool.calls
        assert again.of(["colour", "none"]) == whole.of(["colour", "none"])


def test_a_round_takes_at_most_half_of_what_is_left_for_the_best() -> None:
    losses = {str(i): 1 + i / 1000 for i in range(10)}  # hardly differ
    trainings, pool = _trainings(losses)
    race(trainings, [Contender(name, None, "") for name in losses], most=30, replicates=8)
    taken = [sum(number == replicate for _, number in pool.calls) for replicate in range(8)]
    assert taken[:2] == [10, 6]
    assert sum(taken) in (29, 30)
    inside = list(losses)
    for replicate in range(1, len([each for each in taken if each])):
        before = [row for row in trainings.rows if row["replicate"] < replicate]
        inside = [name for name in racing(before) if name in inside]  # who has dropped out stays out
        half = max(2, math.ceil((30 - len(before)) / 2))
        assert taken[replicate] == min(half, len(inside))
        assert {name for name, number in pool.calls if number == replicate} == set(inside[:half])


def test_every_contender_races_once_whatever_the_budget() -> None:
    trainings, pool = _trainings(LOSSES)
    race(trainings, [Contender(name, None, "") for name in LOSSES], most=1, replicates=8)
    assert sorted(pool.calls) == sorted((name, 0) for name in LOSSES)
    alike = {str(i): 1 + i / 1000 for i in range(10)}
    trainings, pool = _trainings(alike)
    race(trainings, [Contender(name, None, "") for name in alike], most=4, replicates=8)
    assert sorted(pool.calls) == [(name, 0) for name in sorted(alike)]


def test_temperature_is_chosen_on_the_other_half() -> None:
    losses = torch.ones(10, len(TEMPERATURES))
    losses[::2, 3] = 0.0  # the even half likes one, the odd half another
    losses[1::2, 5] = 0.0
    chosen, _ = at_best_temperature(losses)
    assert chosen.tolist() == [1.0] * 10


# --- real trainings ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arena() -> Arena:
    data = load_images(Digits(), num_images=300, size=(16, 16))
    return Arena(data, Crop((16, 16), 2), "resnet9-4", Recipe(epochs=4, batch_size=32), 150, seed=3)


def test_replicates_are_stratified_and_differ(arena: Arena) -> None:
    first, second = arena.split(0), arena.split(1)
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[0], arena.split(0)[0])
    assert not set(first[0].tolist()) & set(first[1].tolist())
    counts = arena.data.labels[first[0]].bincount(minlength=10)
    whole = arena.data.labels.bincount(minlength=10)
    assert ((counts - whole / 2).abs() <= 1).all()


def test_trial_is_reproducible_and_pairs_its_contenders(arena: Arena) -> None:
    flip = uniform(["flip"], probability=0.0)
    one, two, still = (
        run_trial(arena, "none", None, 0),
        run_trial(arena, "none", None, 0),
        run_trial(arena, "still", flip, 0),
    )
    assert one["losses"] == two["losses"] == still["losses"]
    assert one["error"] == still["error"]
    assert 0 <= one["error"] <= 1
    assert values_of(one).mean() == pytest.approx(one["loss"], rel=1e-2)


def test_workers_give_the_same_as_this_process(arena: Arena) -> None:
    calls = [("none", None, 0, ("flip",), 2), ("uniform", uniform(["rotate"]).to_json(), 1, (), 2)]
    from fasteraa_transforms.search.contenders.race import work

    rows = []
    for processes in (1, 2):
        with Pool(work, arena, processes=processes).started() as pool:
            rows.append([row for _, row in sorted(pool.run(calls))])
    for mine, theirs in zip(*rows, strict=True):
        assert {k: v for k, v in mine.items() if k != "seconds"} == {k: v for k, v in theirs.items() if k != "seconds"}


def _die(shared: int, code: int) -> None:
    import os

    os._exit(code)


def test_a_worker_that_ends_is_said() -> None:
    import test_race  # the workers import it by its name

    with Pool(test_race._die, 0, processes=2).started() as pool, pytest.raises(WorkerLost, match="a worker process"):
        list(pool.run([(3,)]))


def test_a_contest_keeps_a_contender_and_resumes(arena: Arena) -> None:
    rules = Rules(kinds=("none", "uniform", "calibrated"), epochs=2, replicates=2, train_images=150, processes=1)
    rules = Rules(**{**vars(rules), "network": "resnet9-4", "seconds": 90.0})
    notes = Notes()
    plans: list[budget.RacePlan] = []
    notes.save_plan = plans.append
    outcome = contest(arena.data, arena.crop, rules, notes)
    assert outcome.kept.name == outcome.standings[0].contender
    assert {"none", "uniform"} <= {each.name for each in outcome.contenders}
    assert set(outcome.curves) == {"none"}
    again = Notes(plan=plans[-1], rows=notes.rows[:3])
    resumed = contest(arena.data, arena.crop, rules, again)
    assert [each.contender for each in resumed.standings] == [each.contender for each in outcome.standings]
    assert resumed.standings[0].loss == outcome.standings[0].loss


def test_a_race_ends_with_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that take longer than planned become fewer, and the plan keeps how many."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    trainings, pool = _trainings({str(i): 1 + i / 1000 for i in range(10)})
    trainings.tell = lambda row: now.__setitem__(0, now[0] + 5.0)
    plans: list[budget.RacePlan] = []
    expected: list[int] = []
    notes = Notes(save_plan=plans.append, expect=expected.append)
    plan = budget.changed(_plan(), trainings=100)
    clock = _Clock(plan, Rules(kinds=()), notes, trainings, seconds=100.0)
    contenders = [Contender(str(i), None, "") for i in range(10)]
    race(trainings, contenders, most=100, replicates=16, limit=clock.limit)
    assert 80 <= now[0] <= 100
    assert clock.plan == plans[-1]
    assert len(pool.calls) <= clock.plan.trainings <= 20
    assert expected[0] > 10
    assert expected[-1] >= len(pool.calls)
    # Whoever asks for a number of networks gets it, however long they take.
    clock = _Clock(plan, Rules(kinds=(), trainings=100), notes, trainings, seconds=1.0)
    assert clock.limit(100, 50, 80) == 100


# --- the budget -------------------------------------------------------------------------------------------------------


def _plan(**changes: Any) -> budget.RacePlan:
    plan = budget.RacePlan("resnet9-8", (32, 32), 500, 1000, 32, 90, 15, 8, 2, 1000.0)
    return budget.changed(plan, **changes)


def test_training_seconds_count_judging() -> None:
    assert _plan().training_seconds() == pytest.approx((90 * 500 + 1000 / 3) / 2000)


@pytest.mark.parametrize("at_once", [1, 2])
def test_length_is_found_by_doubling_and_between(at_once: int) -> None:
    asked: list[int] = []

    def fit_in(tried: Sequence[int]) -> list[float]:
        asked.extend(tried)
        return [1 - 0.4 / epochs for epochs in tried]

    assert budget.find_length(fit_in, most=1000, at_once=at_once) == (40, True)
    assert asked == [8, 16, 32, 64]


def test_length_that_is_not_reached_is_said() -> None:
    assert budget.find_length(lambda tried: [0.5] * len(tried), most=20) == (16, False)


def test_length_beyond_the_longest_tried_is_on_the_line_through_the_last_two() -> None:
    asked: list[int] = []

    def fit_in(tried: Sequence[int]) -> list[float]:
        asked.extend(tried)
        return [1 - (8 / epochs) ** 2 for epochs in tried]  # 1 % wrong after 80 epochs

    assert budget.find_length(fit_in, most=100) == (80, True)
    assert asked == [8, 16, 32, 64]
    assert budget.find_length(fit_in, most=79) == (64, False)
    assert budget.find_length(lambda tried: [0.9] * len(tried), most=8) == (8, False)


def test_fewer_images_leave_more_to_judge_and_not_too_few_to_train_on() -> None:
    half = budget.fewer_images(_plan(), images=1600)
    assert half is not None
    assert (half.train_images, half.held_out, half.epochs) == (250, 1250, 90)
    least = budget.fewer_images(budget.changed(half, train_images=130), images=1600)
    assert least is not None
    assert least.train_images == budget.FEWEST_IMAGES
    assert budget.fewer_images(least, images=1600) is None


def test_a_race_of_the_affordable_length_fits_into_its_seconds() -> None:
    plan = _plan()
    length = budget.affordable_length(plan, seconds=600, contenders=10)
    race = math.ceil(budget.ROUNDS * 10) * plan.training_seconds(budget.MULTIPLE * length)
    assert 0.95 * 600 < race <= 600


def test_networks_that_do_not_fit_get_fewer_images(arena: Arena) -> None:
    # A length of at most 8 epochs is affordable; with it resnet9-4 fits nothing, so that images are halved twice.
    rules = Rules(kinds=("none", "uniform"), replicates=1, processes=1, network="resnet9-4", seconds=1.0)
    told: list[str] = []
    plans: list[budget.RacePlan] = []
    planned = budget.RacePlan("resnet9-4", (16, 16), 480, 500, 32, 24, 2, 1, 1, 1000.0)
    notes = Notes(plan=planned, tell=told.append, save_plan=plans.append)
    large = load_images(Digits(), num_images=1000, size=(16, 16))
    outcome = contest(large, arena.crop, rules, notes)
    counts = [row["train_images"] for row in notes.rows]
    assert sorted(set(counts), reverse=True) == [480, 240, budget.FEWEST_IMAGES]
    assert outcome.plan.train_images == counts[-1] == budget.FEWEST_IMAGES
    assert outcome.plan.fitted is False
    assert "resnet9-4 does not fit 480 images in the time there is; 240 are trained on instead" in told
    assert {row["train_images"] for row in outcome.rows} == {budget.FEWEST_IMAGES}
    assert [plan.train_images for plan in plans][:3] == [480, 240, budget.FEWEST_IMAGES]


def test_a_rate_is_that_of_a_whole_training() -> None:
    plan = budget.with_rate(_plan(processes=1), epochs=30, seconds=20.0)
    assert plan.training_seconds(30) == pytest.approx(20.0 / 0.9)


def test_a_plan_takes_what_fits() -> None:
    roomy = budget.with_length(_plan(), 32, True, seconds=1000, contenders=8)
    assert roomy.epochs == 96
    assert roomy.fitted
    assert roomy.trainings == min(64, int(1000 / roomy.training_seconds()))
    tight = budget.with_length(_plan(), 32, True, seconds=100, contenders=8)
    assert tight.trainings == 10
    assert tight.epochs < 96
    assert tight.fitted is False
    assert 10 * tight.training_seconds() == pytest.approx(100, rel=0.1)
    lengths = {budget.with_length(_plan(), 90, True, seconds=s, contenders=8).epochs for s in range(2, 400)}
    assert {31, 33} < lengths  # a network that looked for the length is none of the race, so no length is one of its
    assert not lengths & set(budget.LENGTHS)


def test_plans_are_read_back() -> None:
    plan = _plan(fitted=True)
    assert budget.RacePlan.from_json(plan.to_json()) == plan


def test_networks_of_a_race_compute_in_what_is_fast(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    from fasteraa_transforms.search.networks import table

    for has, wide, narrow in ((True, True, False), (False, False, False)):
        monkeypatch.setattr(table, "computes_in_bfloat16", lambda device, has=has: has)
        for name, expected in (("resnet9-12", wide), ("resnet9-8", narrow), ("small", narrow)):
            plan = budget.make_plan(
                arena.data, arena.crop, seconds=1, contenders=2, network=name, processes=1, train_images=120
            )
            assert plan.bfloat16 is expected
            assert budget.arena_of(plan, arena.data, arena.crop, 0).recipe.bfloat16 is expected
