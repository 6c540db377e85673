"""What differences between augmentations are worth: paired intervals, and how many seeds would tell.

The trainings of one seed share first weights, images, their order, crops and flips. So differences are taken within a
seed, and the interval is that of paired samples.
"""

import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ENOUGH = 1000
"""More seeds than these are no answer to how many would tell."""


def signed(value: float, digits: int = 2) -> str:
    """A difference as text, with its sign; one that is rounded to nothing has a plus.

    Example:
        >>> signed(-1.234), signed(-0.001), signed(0.25, 1)
        ('−1.23', '+0.00', '+0.2')
    """
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")  # -0.0 + 0.0 is 0.0


@dataclass(frozen=True)
class Interval:
    """Mean of paired differences, and its confidence interval.

    Attributes:
        mean: of the differences.
        half_width: the interval is mean ± this; infinite for one pair.
        n: number of pairs.
        deviation: standard deviation of the differences; nan for one pair.
    """

    mean: float
    half_width: float
    n: int
    deviation: float = math.nan

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out 0."""
        return abs(self.mean) > self.half_width


def paired_interval(values: Sequence[float], control: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Interval of the mean of ``values[i] - control[i]``, by Student's t with n - 1 degrees of freedom.

    Args:
        values: one a seed.
        control: of the same seeds, in the same order.
        confidence: in (0, 1).

    Raises:
        ValueError: they are not equally many, or none.

    Source: Student 1908; `scipy.stats.ttest_rel`.

    Example:
        >>> paired_interval([2.0, 3.0, 4.0], [1.0, 1.0, 1.0])  # 2 ± 4.303 · 1 / √3
        Interval(mean=2.0, half_width=2.484..., n=3, deviation=1.0)
    """
    from scipy.stats import ttest_rel

    n = len(values)
    if not n or n != len(control):
        raise ValueError(f"values and control should be equally many, at least 1, but got {n} and {len(control)}")
    differences = [value - other for value, other in zip(values, control, strict=True)]
    mean = statistics.fmean(differences)
    if n == 1:
        return Interval(mean, math.inf, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # differences that are all alike have no test, but an interval
        low, high = ttest_rel(values, control).confidence_interval(confidence)
    return Interval(mean, float(high - low) / 2, n, statistics.stdev(differences))


def seeds_to_tell(interval: Interval, *, confidence: float = 0.95, power: float = 0.8) -> int | None:
    """How many seeds would tell the difference from 0, if its mean and deviation stay as they are.

    Args:
        interval: of the seeds that are there.
        confidence: of the interval that is to leave out 0.
        power: the chance that it does.

    Returns:
        The smallest number; None if nothing can be said: of one pair, of a difference of 0, or beyond `ENOUGH`.

    Source: the sample size of a paired t test (Cohen 1988, chapter 2), by its usual approximation with quantiles of t.

    Example:
        >>> seeds_to_tell(Interval(mean=-0.5, half_width=1.24, n=3, deviation=0.5))
        10
    """
    from scipy.special import stdtrit

    if not interval.mean or not math.isfinite(interval.deviation):
        return None
    ratio = interval.deviation / abs(interval.mean)
    for n in range(2, ENOUGH + 1):
        quantiles = stdtrit(n - 1, (1 + confidence) / 2) + stdtrit(n - 1, power)
        if n >= (quantiles * ratio) ** 2:
            return n
    return None


@dataclass(frozen=True)
class Compared:
    """The values of one label, beside those of a reference.

    Attributes:
        label: name of an augmentation or of a contender.
        values: one a seed, such as errors in percent.
        difference: to the reference, paired by seed; None for the reference itself, and without a common seed.
    """

    label: str
    values: tuple[float, ...]
    difference: Interval | None

    @property
    def mean(self) -> float:
        """Of the values."""
        return statistics.fmean(self.values)


def compared_with(reference: str, values: Mapping[str, Mapping[int, float]]) -> list[Compared]:
    """All labels beside one of them.

    Args:
        reference: one of the labels.
        values: by label, then by seed.

    Example:
        >>> none, mine = compared_with("none", {"none": {0: 9.0, 1: 8.0}, "mine": {1: 7.0, 0: 7.0}})
        >>> none.difference, mine.mean, mine.difference.mean
        (None, 7.0, -1.5)
    """
    base = values[reference]
    compared = []
    for label, by_seed in values.items():
        seeds = [seed for seed in by_seed if seed in base]
        difference = None
        if label != reference and seeds:
            difference = paired_interval([by_seed[seed] for seed in seeds], [base[seed] for seed in seeds])
        compared.append(Compared(label, tuple(by_seed.values()), difference))
    return compared
