"""What an evaluation says about its policies, in sentences."""

import math
from collections.abc import Collection, Mapping

from fasteraa_transforms.search.evaluation.statistics import (
    ENOUGH,
    Compared,
    Interval,
    compared_with,
    seeds_to_tell,
    signed,
)

Errors = Mapping[str, Mapping[int, float]]
"""Errors in percent: by label, then by seed."""


def conclusions(errors: Errors, controls: Collection[str]) -> list[str]:
    """One sentence for each policy, the best one first: how it stands against the best control.

    Args:
        errors: in the order of the table.
        controls: which of the labels are controls. Without a policy among the labels, the best control is compared with
            ``none``, or with the next best.

    Example:
        >>> errors = {"none": {0: 9.0, 1: 9.2, 2: 9.1}, "mine": {0: 7.0, 1: 7.4, 2: 7.2}}
        >>> print(*conclusions(errors, ["none"]))
        mine has fewer errors than none, the only control: 7.20 % against 9.10 % (paired difference −1.90 ± 0.25
        points, 3 seeds).
    """
    means = {label: math.fsum(by_seed.values()) / len(by_seed) for label, by_seed in errors.items() if by_seed}
    ranked = sorted(means, key=means.__getitem__)
    policies = [label for label in ranked if label not in controls]
    free = [label for label in ranked if label in controls]
    if len(ranked) < 2:
        return [f"{label} has {means[label]:.2f} % errors, and nothing to be compared with." for label in ranked]
    if policies and free:
        what = "the best of the controls" if len(free) > 1 else "the only control"
        return [_sentence(errors, policy, free[0], what) for policy in policies]
    rest = ranked[1:]
    other = "none" if "none" in rest else rest[0]
    return [_sentence(errors, ranked[0], other, "" if other == "none" else "the next best")]


def reference_of(errors: Errors, controls: Collection[str]) -> str:
    """What the others are held against in a chart: the best control; without policies ``none``, if it is there.

    Example:
        >>> reference_of({"mine": {0: 1.0}, "none": {0: 3.0}, "cutout": {0: 2.0}}, ["none", "cutout"])
        'cutout'
    """
    free = [label for label in errors if label in controls] or list(errors)
    if len(free) == len(errors) and "none" in free:
        return "none"
    return min(free, key=lambda label: math.fsum(errors[label].values()) / len(errors[label]))


def _sentence(errors: Errors, label: str, other: str, what: str) -> str:
    """A sentence that compares ``label`` with ``other``; ``what`` describes the other."""
    by_label = {each.label: each for each in compared_with(other, errors)}
    mine, theirs = by_label[label], by_label[other]
    named = f"{other}, {what}" if what else other
    if mine.difference is None:
        return f"{label} and {named}, have no seed in common yet."
    figures = _figures(mine, theirs, mine.difference)
    if not mine.difference.decided:
        return f"Undecided between {label} and {named}: {figures}; {_what_would_tell(mine.difference)}."
    if mine.difference.mean < 0:
        return f"{label} has fewer errors than {named}: {figures}."
    return f"{label} has more errors than {named}: {figures}."


def _figures(mine: Compared, theirs: Compared, interval: Interval) -> str:
    width = f" ± {interval.half_width:.2f}" if interval.n > 1 else ""
    difference = f"{signed(interval.mean)}{width} points"
    seeds = f"{interval.n} seed{'s' if interval.n > 1 else ''}"
    return f"{mine.mean:.2f} % against {theirs.mean:.2f} % (paired difference {difference}, {seeds})"


def _what_would_tell(interval: Interval) -> str:
    if interval.n == 1:
        return "one seed has no interval, 3 or more have"
    seeds = seeds_to_tell(interval)
    if seeds is None:
        return f"not even {ENOUGH:,} seeds would tell so small a difference"
    return f"about {max(seeds, interval.n + 1)} seeds would tell"
