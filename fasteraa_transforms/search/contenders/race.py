"""The race: networks are trained with every contender, and who is clearly behind drops out.

All trainings have the same length, three times what it takes to fit the images without augmentation: short trainings
favour no augmentation. The networks of the first replicate of "none" and "uniform" are the guards, too: they tell what
each operation does to the images held out, from which calibrated policies are made.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fasteraa_transforms.policy import Policy
from fasteraa_transforms.search.contenders import Contender
from fasteraa_transforms.search.contenders.guard import Curves
from fasteraa_transforms.search.contenders.standings import Standing, racing, standings
from fasteraa_transforms.search.contenders.trial import Arena, run_trial
from fasteraa_transforms.search.runtime.pool import Pool

TrialRow = dict[str, Any]

_SHARE = 0.5  # of the networks that are left, for one round; see search/experiments/rounds
_FEWEST = 2  # contenders that a round compares


def work(
    arena: Arena, contender: str, text: str | None, replicate: int, curves_of: tuple[str, ...], epochs: int | None
) -> TrialRow:
    """`run_trial` for a worker: the policy is the text of its file."""
    policy = None if text is None else Policy.from_json(text)
    return run_trial(arena, contender, policy, replicate, curves_of=curves_of, epochs=epochs)


@dataclass
class Trainings:
    """Trains the networks of a race, keeps their rows, and trains none twice.

    Attributes:
        arena: what all share.
        pool: where they run.
        rows: of what is done, from this run or the one it continues.
        keep: called with each new row, to write it.
        tell: called after each row, for progress.
    """

    arena: Arena
    pool: Pool
    rows: list[TrialRow]
    keep: Callable[[TrialRow], None]
    tell: Callable[[TrialRow], None] = lambda row: None

    def row(self, contender: str, replicate: int, epochs: int | None = None) -> TrialRow | None:
        """The row of a training that is done."""
        wanted = self.arena.recipe.epochs if epochs is None else epochs
        for row in self._alike(wanted):
            if (row["contender"], row["replicate"]) == (contender, replicate):
                return row
        return None

    def _alike(self, epochs: int) -> list[TrialRow]:
        """The rows of trainings of so many epochs on as many images as the arena's."""
        alike = (epochs, self.arena.train_images)
        return [row for row in self.rows if (row["epochs"], row["train_images"]) == alike]

    def train(
        self,
        contenders: Iterable[Contender],
        replicate: int,
        *,
        guards: Mapping[str, Sequence[str]] = MappingProxyType({}),
        epochs: int | None = None,
    ) -> None:
        """Train a network with each of the contenders that has no row yet.

        Args:
            contenders: to train with.
            replicate: number of the split and of all draws.
            guards: names of contenders whose networks look at operations, and at which.
            epochs: length, in place of the arena's.
        """
        self._run((each, replicate, tuple(guards.get(each.name, ())), epochs) for each in contenders)

    def train_lengths(self, contender: Contender, lengths: Iterable[int]) -> None:
        """Train networks of the first replicate with a contender, one of each length in epochs."""
        self._run((contender, 0, (), epochs) for epochs in lengths)

    def train_replicates(self, contender: Contender, replicates: Iterable[int], curves_of: Sequence[str]) -> None:
        """Train networks with a contender, one for each replicate, that look at operations as guards."""
        self._run((contender, replicate, tuple(curves_of), None) for replicate in replicates)

    def _run(self, wanted: Iterable[tuple[Contender, int, tuple[str, ...], int | None]]) -> None:
        """Train what has no row yet."""
        calls = [
            (each.name, None if each.policy is None else each.policy.to_json(), replicate, curves_of, epochs)
            for each, replicate, curves_of, epochs in wanted
            if self.row(each.name, replicate, epochs) is None
        ]
        before = time.perf_counter()
        for _, row in self.pool.run(calls):
            now = time.perf_counter()
            row["wall"] = now - before  # of the whole machine, since others train beside it
            before = now
            self.rows.append(row)
            self.keep(row)
            self.tell(row)

    def curves(self, contender: str) -> Curves | None:
        """What the networks trained with a contender saw as guards, on average over their replicates."""
        rows = self._alike(self.arena.recipe.epochs)
        found = [Curves.from_json(row["curves"]) for row in rows if row["contender"] == contender and "curves" in row]
        return Curves.mean(found) if found else None

    def of(self, names: Iterable[str]) -> list[TrialRow]:
        """The rows of these contenders, of trainings of the arena's length.

        Args:
            names: of contenders, whose order is that of the rows: not that in which workers happened to finish.
        """
        place = {name: number for number, name in enumerate(names)}
        chosen = [row for row in self._alike(self.arena.recipe.epochs) if row["contender"] in place]
        return sorted(chosen, key=lambda row: (place[row["contender"]], row["replicate"]))


def expected_networks(inside: int, rounds: int) -> int:
    """How many networks a race usually takes: in each round half of the contenders drop out, until two are left.

    Args:
        inside: contenders in the next round.
        rounds: that are left.

    Example:
        >>> expected_networks(10, 4)  # 10, 5, 3 and 2
        20
    """
    if inside < _FEWEST:
        return inside
    return sum(max(_FEWEST, math.ceil(inside / 2**number)) for number in range(rounds))


def race(
    trainings: Trainings,
    contenders: Sequence[Contender],
    *,
    most: int,
    replicates: int,
    tell: Callable[[str], None] = lambda line: None,
    limit: Callable[[int, int, int], int] = lambda most, done, expected: most,
) -> list[Standing]:
    """Race until one is left, the replicates are used up, or ``most`` networks were trained.

    All contenders get one network. Each further round takes at most half of the networks that are left, for the best
    contenders first: so the best are told apart with more networks than the others.

    What is trained depends on the rows alone, not on the clock: a race that was cut off ends as one that was not.

    Args:
        trainings: trains the networks; guards that were trained before count.
        contenders: who races, at least one.
        most: networks in all. Every contender gets its first one even so.
        replicates: of one contender at most.
        tell: takes a line about who dropped out.
        limit: called after each round with ``most``, how many networks were trained, and how many the race is
            expected to take in all; returns what ``most`` is from there on.

    Returns:
        The standings, the leader first.
    """
    by_name = {each.name: each for each in contenders}
    inside = list(by_name)
    for replicate in range(replicates):
        done = trainings.of(by_name)
        have = {row["contender"] for row in done if row["replicate"] == replicate}
        chosen = inside
        if replicate:
            left = most - sum(1 for row in done if row["replicate"] < replicate)
            chosen = inside[: max(0, min(max(_FEWEST, math.ceil(left * _SHARE)), left))]
            if len(chosen) < _FEWEST:
                break
        missing = [name for name in chosen if name not in have]
        trainings.train([by_name[name] for name in missing], replicate)
        rows = [row for row in trainings.of(by_name) if row["replicate"] <= replicate]
        after = [name for name in racing(rows) if name in inside]
        if dropped := [name for name in inside if name not in after]:
            tell(f"after round {replicate + 1}, clearly behind: {', '.join(dropped)}")
        inside = after
        if len(inside) == 1:
            break
        expected = len(rows) + expected_networks(len(inside), replicates - replicate - 1)
        most = limit(most, len(trainings.of(by_name)), min(most, expected))
    return standings(trainings.of(by_name))
