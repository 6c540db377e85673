"""How a policy draws: its tables of candidates, and the choice among them by random numbers."""

import math
import threading
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fasteraa_transforms.backends.device import runs_kernels
from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.plan import Plan
from fasteraa_transforms.policy.text import SubPolicies

if TYPE_CHECKING:  # it needs pydantic
    from fasteraa_transforms.policy.schema import Candidate

# Padded tables are faster. They are used unless they are several times as large as the policy.
_PADDED_WIDTH = 64  # candidates of the widest stage; a batch compares as many numbers for each image and stage
_PADDED_SHARE = 4  # padded rows for each candidate
_PADDED_ROWS = 2**12  # padded rows that any policy may have

# The candidates of one stage, to draw one image: the upper ends of their shares, without the last one; and for each
# candidate its operation, its probability, and its parameters with positive and negative sign.
_StageRow = tuple[list[float], list[tuple[int, float, float, float]]]


@dataclass(frozen=True)
class Tables:
    """The candidates of a policy as arrays, all on one device.

    The tables are padded or ragged. Padded, every stage has as many rows as the widest one, and ``S`` below is
    ``[L, K, N]``. Ragged, the candidates of all stages follow each other without a gap, and ``S`` is ``[N]``.
    """

    cumulative: Tensor  # float64 S, upper end of the candidate's share of [0, 1); inf from a stage's last candidate on
    operation: Tensor  # int64 S
    probability: Tensor  # float64 S
    parameter: Tensor  # float64 [2, *S], physical parameter: as the sign says, and with the other sign if it is drawn
    bounds: Tensor | None = None  # int64 [L K + 1], where the stages of ragged tables begin, and the end
    widest: int = 0  # candidates of the widest stage of ragged tables

    def to(self, device: torch.device) -> "Tables":
        """The same tables on a device."""
        return Tables(
            cumulative=self.cumulative.to(device),
            operation=self.operation.to(device),
            probability=self.probability.to(device),
            parameter=self.parameter.to(device),
            bounds=None if self.bounds is None else self.bounds.to(device),
            widest=self.widest,
        )

    def places(self, sub_policy: Tensor, choice: Tensor) -> Tensor:
        """The candidate that each image chooses in each stage.

        Args:
            sub_policy: int64 [B].
            choice: float64 [B, K], in [0, 1).

        Returns:
            int64 [B, K], places in the flattened tables.
        """
        stages = choice.shape[1]
        stage = sub_policy[:, None] * stages + torch.arange(stages, device=choice.device)  # [B, K]
        if self.bounds is None:
            stage *= self.cumulative.shape[-1]
            stage += (choice[..., None] >= self.cumulative[sub_policy]).sum(-1)
            return stage
        # Bisection, for all at once. The last end of a stage is inf, so that `low` never leaves the stage.
        low, high = self.bounds[stage], self.bounds[stage + 1] - 1
        for _ in range(self.widest.bit_length()):
            middle = (low + high) // 2
            above = choice >= self.cumulative[middle]
            low, high = torch.where(above, middle + 1, low), torch.where(above, high, middle)
        return low


def effective_share(sub_policies: SubPolicies) -> dict[str, float]:
    """See `Policy.effective_share`."""
    terms: dict[str, list[float]] = {name: [] for name in OPERATIONS}
    stages = [stage for sub_policy in sub_policies for stage in sub_policy]
    for stage in stages:
        for candidate in stage:
            terms[candidate.operation].append(candidate.weight * candidate.probability)
    return {name: math.fsum(values) / len(stages) for name, values in terms.items()}


def tables_of(sub_policies: SubPolicies) -> Tables:
    """The tables of a policy on the CPU, whatever the default device is."""
    stages = [stage for sub_policy in sub_policies for stage in sub_policy]
    widths = [len(stage) for stage in stages]
    widest, count = max(widths), sum(widths)
    padded = widest <= _PADDED_WIDTH and len(stages) * widest <= max(_PADDED_SHARE * count, _PADDED_ROWS)
    with torch.device("cpu"):
        ragged = _ragged([candidate for stage in stages for candidate in stage], widths)
        if not padded:
            return ragged
        width = torch.tensor(widths)
        row = torch.arange(len(stages)).repeat_interleave(width)
        place = row * widest + torch.arange(count) - (width.cumsum(0) - width)[row]
        shape = (len(sub_policies), len(sub_policies[0]), widest)

        def spread(values: Tensor, rest: float) -> Tensor:
            result = torch.full((len(stages) * widest,), rest, dtype=values.dtype)
            result[place] = values
            return result.reshape(shape)

        return Tables(
            cumulative=spread(ragged.cumulative, math.inf),
            operation=spread(ragged.operation, 0),
            probability=spread(ragged.probability, 0.0),
            parameter=torch.stack([spread(side, 0.0) for side in ragged.parameter]),
        )


def _ragged(candidates: "list[Candidate]", widths: list[int]) -> Tables:
    index = {name: i for i, name in enumerate(OPERATIONS)}
    operation = torch.tensor([index[candidate.operation] for candidate in candidates])

    cumulative: list[float] = []
    for width in widths:
        begin = len(cumulative)
        cumulative += accumulate(candidate.weight for candidate in candidates[begin : begin + width])
        cumulative[-1] = math.inf  # rounding may leave the sum below 1 and a draw above it

    # Magnitudes with the candidate's sign, and with the other one if the sign is drawn.
    sides: list[tuple[float, float]] = []
    for candidate in candidates:
        drawn = OPERATIONS[candidate.operation].signed and candidate.sign is None
        magnitude = (candidate.magnitude or 0.0) * (candidate.sign or 1)
        sides.append((magnitude, -magnitude if drawn else magnitude))
    parameter = torch.tensor(sides, dtype=torch.float64).T.contiguous()
    for name, i in index.items():
        if (chosen := operation == i).any():
            parameter[:, chosen] = OPERATIONS[name].parameter(parameter[:, chosen])

    return Tables(
        cumulative=torch.tensor(cumulative, dtype=torch.float64),
        operation=operation,
        probability=torch.tensor([candidate.probability for candidate in candidates], dtype=torch.float64),
        parameter=parameter,
        bounds=torch.tensor([0, *accumulate(widths)]),
        widest=max(widths),
    )


class Sampler:
    """Draws from one policy. It keeps the tables, one set for each device, and is safe to use from many threads.

    Args:
        sub_policies: L sub-policies of K stages.
    """

    def __init__(self, sub_policies: SubPolicies) -> None:
        self.sub_policies = sub_policies
        self.stages = len(sub_policies[0])
        self._tables: dict[torch.device, Tables] = {}
        self._rows: list[list[_StageRow]] | None = None
        self._room = threading.local()

    def tables(self, device: torch.device) -> Tables:
        """The tables on a device."""
        if device not in self._tables:
            self._tables[device] = tables_of(self.sub_policies).to(device)
        return self._tables[device]

    def batch(self, batch_size: int, generator: torch.Generator | None) -> Plan:
        """See `Policy.sample`."""
        device = torch.device("cpu") if generator is None else generator.device
        tables = self.tables(device)
        columns = 1 + 6 * self.stages
        uniform = torch.rand(batch_size, columns, dtype=torch.float64, generator=generator, device=device)
        if tables.bounds is None and runs_kernels(device):
            from fasteraa_transforms.backends import cuda  # on first use: it needs Triton

            return cuda.draw_plan(uniform, vars(tables))
        choice, gate, sign, x, y, other = uniform[:, 1:].reshape(batch_size, self.stages, 6).unbind(-1)  # [B, K] each

        sub_policy = _whole(uniform[:, 0], len(self.sub_policies))  # [B]
        place = tables.places(sub_policy, choice)  # [B, K]
        image = torch.arange(batch_size, device=device)[:, None]  # [B, 1]
        return Plan(
            operation=tables.operation.take(place),
            parameter=tables.parameter.take(place + (sign < 0.5) * tables.operation.numel()),
            applied=gate < tables.probability.take(place),
            centre=torch.stack((x, y), -1),
            partner=(image + 1 + _whole(other, batch_size - 1)) % max(batch_size, 1),
            sub_policy=sub_policy,
        )

    def one(self, generator: torch.Generator | None) -> list[tuple[int, float, tuple[float, float]]]:
        """See `Policy.sample_one`."""
        if self._rows is None:
            self._rows = self._made_rows()
        if generator is None or generator.device.type == "cpu":
            try:
                room, numbers = self._room.uniform
            except AttributeError:  # in this thread for the first time
                room, numbers = self._room.uniform = self._made_room()
            room.uniform_(generator=generator)  # as torch.rand does, in half the time, as it makes no tensor
            uniform = numbers.tolist()
        else:
            columns = 1 + 6 * self.stages
            uniform = torch.rand(columns, dtype=torch.float64, generator=generator, device=generator.device).tolist()
        steps = []
        last, place = len(self._rows) - 1, 1
        for ends, candidates in self._rows[min(int(uniform[0] * (last + 1)), last)]:
            choice, gate, sign, x, y, _ = uniform[place : place + 6]
            place += 6
            operation, probability, positive, negative = candidates[bisect_right(ends, choice)]
            if gate < probability:
                steps.append((operation, negative if sign < 0.5 else positive, (x, y)))
        return steps

    def _made_room(self) -> tuple[Tensor, NDArray[np.float64]]:
        """Where a thread draws the numbers of one image, [1 + 6 K]; as an array too, which is faster to read."""
        with torch.inference_mode(False):  # else nobody could write into it outside of that mode
            room = torch.empty(1 + 6 * self.stages, dtype=torch.float64, device="cpu")
        return room, room.numpy()

    def _made_rows(self) -> list[list[_StageRow]]:
        widths = [len(stage) for sub_policy in self.sub_policies for stage in sub_policy]
        with torch.device("cpu"):
            tables = _ragged(
                [candidate for sub_policy in self.sub_policies for stage in sub_policy for candidate in stage], widths
            )
        ends = tables.cumulative.tolist()
        columns = (tables.operation.tolist(), tables.probability.tolist(), *tables.parameter.tolist())
        candidates = list(zip(*columns, strict=True))
        bounds = [0, *accumulate(widths)]
        rows = [(ends[a : b - 1], candidates[a:b]) for a, b in pairwise(bounds)]
        return [rows[i : i + self.stages] for i in range(0, len(rows), self.stages)]


def _whole(uniform: Tensor, count: int) -> Tensor:
    """Whole numbers in [0, count), int64, from numbers in [0, 1); 0 if count < 1. Any shape."""
    # The product may round up to count.
    return (uniform * count).long().clamp(min=0, max=max(count - 1, 0))
