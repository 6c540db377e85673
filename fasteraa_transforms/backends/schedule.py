"""A plan read in the two orders that backends need: operation by operation, and image by image."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fasteraa_transforms.operations.kinds import Mix
from fasteraa_transforms.operations.table import OPERATIONS, Operation
from fasteraa_transforms.plan import Plan

Step = tuple[int, float, Sequence[float]]
"""What happens to one image in one stage: the operation, as its index, with parameter and centre."""


def chosen(plan: Plan) -> NDArray[np.int64]:
    """Index of the operation that happens to each image in each stage, [B, K]; -1 where nothing happens.

    Nothing happens to an image that is to be blended with itself.

    Args:
        plan: on the CPU.

    Raises:
        ValueError: the plan names an operation or a partner that does not exist.
    """
    last = len(OPERATIONS) - 1
    operation, applied, partner = plan.operation.numpy(), plan.applied.numpy(), plan.partner.numpy()
    if operation.size and not 0 <= operation.min() <= operation.max() <= last:
        raise ValueError(f"plan.operation should be in [0, {last}], but got {np.unique(operation).tolist()} instead")
    mixing = np.array([isinstance(row.kind, Mix) for row in OPERATIONS.values()])[operation]
    if len(plan) == 1:  # also of a row cut out of a larger plan, whose partner lies elsewhere
        applied = applied & ~mixing
    elif mixing.any():
        if ((partners := partner[mixing]) < 0).any() or (partners >= len(plan)).any():
            found = np.unique(partners).tolist()
            raise ValueError(f"plan.partner should be in [0, {len(plan) - 1}], but got {found} instead")
        applied = applied & ~(mixing & (partner == np.arange(len(plan))[:, None]))
    return np.where(applied, operation, -1)


def by_operation(plan: Plan) -> list[list[tuple[Operation, NDArray[np.int64]]]]:
    """For each stage of a plan on the CPU, the operations that are applied, each with the rows [n] of its images."""
    operations = list(OPERATIONS.values())
    schedule = []
    for column in chosen(plan).T:
        order = column.argsort(kind="stable")
        ends = np.bincount(column + 1).cumsum().tolist()
        schedule.append(
            [
                (operations[index], order[start:end])
                for index, (start, end) in enumerate(itertools.pairwise(ends))
                if start < end
            ]
        )
    return schedule


def by_image(plan: Plan) -> list[list[tuple[Step, int]]]:
    """For each image of a plan on the CPU, its steps, stage by stage, each with the partner."""
    columns = (plan.parameter, plan.centre, plan.partner)
    rows = zip(chosen(plan).tolist(), *(column.tolist() for column in columns), strict=True)
    return [
        [((index, *step), partner) for index, *step, partner in zip(*row, strict=True) if index >= 0] for row in rows
    ]
