"""Screening: what each operation does for a network, by a Plackett-Burman design.

Twenty networks are trained, each with the uniform policy of another half of the operations. The design balances every
operation against every other. The effect of an operation is the mean of the ten networks with it minus the mean of the
ten networks without it.

Source: Plackett and Burman 1946, "The design of optimum multifactorial experiments", N = 20.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fasteraa_transforms.policy import Policy
from fasteraa_transforms.search.contenders.uniform import uniform

RUNS = 20

_GENERATOR = "++--++++-+-+----++-"  # the first row; the others are its cyclic shifts, and one of minus


def design(factors: int) -> NDArray[np.int64]:
    """The design [20, factors] of +1 and -1; columns are orthogonal, and each sums to 0.

    Raises:
        ValueError: more than 19 factors.

    Example:
        >>> matrix = design(17)
        >>> matrix.sum(0).tolist() == [0] * 17, bool((matrix.T @ matrix == 20 * np.eye(17)).all())
        (True, True)
    """
    if not 1 <= factors < RUNS:
        raise ValueError(f"factors should be from 1 to {RUNS - 1}, but got {factors} instead")
    first = np.array([1 if sign == "+" else -1 for sign in _GENERATOR])
    rows = [np.roll(first, shift) for shift in range(RUNS - 1)]
    return np.array([*rows, -np.ones(RUNS - 1, dtype=np.int64)])[:, :factors]


def policies(operations: Sequence[str], limits: Mapping[str, float]) -> dict[str, Policy | None]:
    """The policy of each network of the design, by the name of its run; None where no operation is switched on."""
    matrix = design(len(operations))
    result: dict[str, Policy | None] = {}
    for run, row in enumerate(matrix):
        chosen = [name for name, sign in zip(operations, row, strict=True) if sign > 0]
        result[f"screening {run}"] = uniform(chosen, limits=limits) if chosen else None
    return result


@dataclass(frozen=True)
class Effect:
    """What an operation does for a network.

    Attributes:
        operation: its name.
        effect: mean loss with it minus mean loss without it, in nats; negative: it helps.
        half_width: the 95 % interval is effect ± half_width.
    """

    operation: str
    effect: float
    half_width: float


def effects(
    operations: Sequence[str],
    losses: Sequence[float],  # [20], of the networks of the design
    deviation: float | None = None,
) -> list[Effect]:
    """The main effect of each operation, the most helpful first.

    Args:
        operations: in the order of the design's columns.
        losses: of its networks, in the order of the design's rows.
        deviation: of one training, as a race has measured it; if None, that of the columns without an operation.

    Example:
        >>> matrix = design(17)
        >>> names = [f"operation {i}" for i in range(17)]
        >>> found = effects(names, (1 - 0.1 * matrix[:, 3]).tolist(), deviation=0.01)
        >>> found[0].operation, round(found[0].effect, 3)
        ('operation 3', -0.2)
    """
    from scipy.special import stdtrit

    values = np.asarray(losses, dtype=np.float64)
    all_columns = design(RUNS - 1)
    contrasts = all_columns.T @ values / (RUNS / 2)  # [19]
    freedom = math.inf
    if deviation is None:
        spare = contrasts[len(operations) :]
        if not len(spare):
            raise ValueError("deviation should be given where every column has an operation, but got None")
        # A contrast without an effect has the deviation 2 s / √20.
        deviation, freedom = float(np.sqrt((spare**2).mean()) * math.sqrt(RUNS) / 2), len(spare)
    quantile = 1.96 if math.isinf(freedom) else float(stdtrit(freedom, 0.975))
    width = quantile * 2 * deviation / math.sqrt(RUNS)
    found = [Effect(name, float(contrasts[i]), width) for i, name in enumerate(operations)]
    return sorted(found, key=lambda each: each.effect)


def screened(found: Sequence[Effect], limits: Mapping[str, float]) -> Policy | None:
    """The uniform policy of the operations that help; None if none does."""
    helpful = [each.operation for each in found if each.effect < 0]
    return uniform(helpful, limits=limits, name="screening") if helpful else None
