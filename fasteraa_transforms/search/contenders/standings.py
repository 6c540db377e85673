"""Where contenders stand after some replicates, with the intervals of their differences.

A replicate is a split of the images, first weights and a seed of all draws. All contenders share it, so that their
differences are paired. What is compared is the cross entropy on the images held out, at each network's best
temperature: it orders policies as the error does, with less noise.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fasteraa_transforms.search.contenders.trial import values_of

CONFIDENCE = 0.95

TRAINING_NOISE = 2.0
"""Two networks trained alike differ by more than the images held out explain: by about this factor. It matters while
few replicates are there to tell the deviation of a training."""

PRIOR_FREEDOM = 4
"""How many degrees of freedom the deviation that the images explain counts for, beside that of the replicates."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Standing:
    """Where a contender stands.

    Attributes:
        contender: its name.
        replicates: how many networks were trained with it.
        error: mean error on images held out, in [0, 1], on the replicates of the leader: where it has fewer of them,
            the leader's mean and what it is behind. So contenders that dropped out early can be compared.
        loss: mean cross entropy on them, in nats, likewise.
        behind: its cross entropy minus the leader's, over the replicates that both have.
        half_width: the 95 % interval of ``behind`` is behind ± half_width; 0 for the leader.
        error_behind: its error minus the leader's, over the same replicates.
        error_half_width: of its interval.
    """

    contender: str
    replicates: int
    error: float
    loss: float
    behind: float
    half_width: float
    error_behind: float
    error_half_width: float

    @property
    def tied(self) -> bool:
        """Whether it cannot be told apart from the leader."""
        return self.behind <= self.half_width


def standings(rows: Rows) -> list[Standing]:
    """Where the contenders stand, the leader first.

    The leader is the contender of the smallest cross entropy among those with the most replicates: who dropped out was
    told apart before.

    Args:
        rows: of `run_trial`.

    Raises:
        ValueError: no rows.

    Example:
        >>> rows = [{"contender": name, "replicate": i, "error": loss / 2, "loss": loss + i / 100, "losses": ""}
        ...         for name, loss in (("none", 0.2), ("uniform", 0.1)) for i in range(3)]
        >>> [(each.contender, round(each.behind, 3)) for each in standings(rows)]
        [('uniform', 0.0), ('none', 0.1)]
    """
    if not rows:
        raise ValueError("rows should hold at least one training, but got none")
    by_name: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["contender"], {})[row["replicate"]] = row
    most = max(map(len, by_name.values()))

    def mean(name: str, field: str) -> float:
        return statistics.fmean(row[field] for row in by_name[name].values())

    leader = min((name for name in by_name if len(by_name[name]) == most), key=lambda name: mean(name, "loss"))
    spread = {field: _residual(by_name, field) for field in ("loss", "error")}
    result = []
    for name, mine in by_name.items():
        shared = sorted(mine.keys() & by_name[leader].keys())
        fields: dict[str, tuple[float, float]] = {}
        for field in ("loss", "error"):
            differences = [mine[i][field] - by_name[leader][i][field] for i in shared]
            width = 0.0 if name == leader else _half_width(mine, by_name[leader], shared, spread[field], field)
            fields[field] = (statistics.fmean(differences) if differences else math.nan, width)
        error, loss = (
            mean(leader, field) + fields[field][0] if shared else mean(name, field) for field in ("error", "loss")
        )
        result.append(Standing(name, len(mine), error, loss, *fields["loss"], *fields["error"]))
    return sorted(result, key=lambda each: (each.contender != leader, each.behind))


def _residual(by_name: Mapping[str, Mapping[int, Mapping[str, Any]]], field: str) -> tuple[float, int]:
    """Deviation of one training, and its degrees of freedom, pooled over all contenders.

    Residuals of a randomised block design: what is left of each value after the effects of contender and replicate.
    Contenders that dropped out early count with the replicates that they have.
    """
    squares, freedom = 0.0, 0
    names = list(by_name)
    most = max(map(len, by_name.values()))
    for count in range(2, most + 1):
        # Those with exactly so many replicates form a block of their own, so that each row counts once.
        block = [name for name in names if len(by_name[name]) == count]
        shared = sorted(set.intersection(*(set(by_name[name]) for name in block))) if block else []
        if len(block) < 2 or len(shared) < 2:
            continue
        values = np.array([[by_name[name][i][field] for i in shared] for name in block])
        left = values - values.mean(0) - values.mean(1)[:, None] + values.mean()
        squares += float((left**2).sum())
        freedom += (len(block) - 1) * (len(shared) - 1)
    return (math.sqrt(squares / freedom), freedom) if freedom else (math.nan, 0)


def _half_width(
    mine: Mapping[int, Mapping[str, Any]],
    leader: Mapping[int, Mapping[str, Any]],
    shared: Sequence[int],
    spread: tuple[float, int],
    field: str,
) -> float:
    """Half of the 95 % interval of the mean difference of two contenders.

    The variance of a training is what the replicates say, pooled over all contenders. While these are few, what the
    images held out say counts, too; but never so that the interval gets narrower.
    """
    from scipy.special import stdtrit

    if not shared:
        return math.inf
    deviation, freedom = spread
    of_images = statistics.fmean(_standard_error(mine[i], leader[i], field) ** 2 for i in shared) / 2
    expected = TRAINING_NOISE**2 * of_images
    variance, total = deviation**2, freedom
    if freedom < PRIOR_FREEDOM:
        total = freedom + PRIOR_FREEDOM
        variance = ((freedom * deviation**2 if freedom else 0.0) + PRIOR_FREEDOM * expected) / total
        variance = max(variance, deviation**2) if freedom else variance
    quantile = float(stdtrit(total, (1 + CONFIDENCE) / 2))
    return quantile * math.sqrt(variance * 2 / len(shared))


def _standard_error(a: Mapping[str, Any], b: Mapping[str, Any], field: str) -> float:
    """Of the mean difference of two networks over the same images."""
    key = {"loss": "losses", "error": "errors"}[field]
    if not (a.get(key) and b.get(key)):
        return 0.0
    difference = values_of(a, key) - values_of(b, key)
    return float(difference.std(ddof=1) / math.sqrt(len(difference))) if len(difference) > 1 else 0.0


def racing(rows: Rows) -> list[str]:
    """The contenders that are not clearly behind the leader, which comes first."""
    return [each.contender for each in standings(rows) if each.tied]
