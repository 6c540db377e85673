"""The rows of a race as a run that goes on reads them: what each has to hold, and whose it may be."""

import base64
import binascii
import math
from collections.abc import Callable, Sequence
from typing import Any

from fasteraa_transforms.search.contenders.contest import GUARDS
from fasteraa_transforms.search.contenders.guard import Curves, points_of
from fasteraa_transforms.search.contenders.restrict import Allowed
from fasteraa_transforms.search.contenders.screening import RUNS
from fasteraa_transforms.search.contenders.table import Material, find_kind, gather
from fasteraa_transforms.search.runtime.folder import RunFolder

ROWS = "race.jsonl"
"""A line for each network that was trained."""

NEEDS: dict[str, type | tuple[type, ...]] = {
    "contender": str,
    "replicate": int,
    "epochs": int,
    "train_images": int,
    "held_out": int,
    "error": (int, float),
    "loss": (int, float, type(None)),
    "train_accuracy": (int, float),
    "train_loss": (int, float, type(None)),
    "seconds": (int, float),
    "losses": str,
    "errors": str,
}
"""What every row has to have. A loss that was not finite, of a network that diverged, is None in the file."""

_BYTES = 2  # of a float16


def read_race(
    folder: RunFolder, kinds: Sequence[str], searched: Sequence[str], allowed: Allowed
) -> list[dict[str, Any]]:
    """The rows of a race that goes on, as they were when their networks were trained.

    Args:
        folder: of the run.
        kinds: of contenders, as `find_kind` takes them.
        searched: "adversarial" and "screening", where they are asked for.
        allowed: operations that contenders may use.

    Raises:
        DamagedFile: a row cannot be read, lacks something, or is of no network of this race; names file and line.
    """
    rows = folder.rows(ROWS, needs=NEEDS, check=_RowCheck(kinds, searched, allowed))
    for row in rows:
        for name in ("loss", "train_loss"):
            row[name] = math.nan if row[name] is None else row[name]
    return rows


class _RowCheck:
    """Checks the rows of one race, one after another.

    Args:
        kinds: of contenders.
        searched: contenders that take trainings of their own.
        allowed: operations that contenders may use.
    """

    def __init__(self, kinds: Sequence[str], searched: Sequence[str], allowed: Allowed) -> None:
        self.is_known = _known(kinds, searched, allowed)
        self.operations = allowed.operations
        self.done: set[tuple[str, int, int, int]] = set()
        # Differences of the contenders of a replicate are taken image by image.
        self.held_out: dict[tuple[int, int], int] = {}

    def __call__(self, row: dict[str, Any]) -> None:
        """Check a row that has what `NEEDS` names.

        Raises:
            KeyError, TypeError, ValueError: it is of no network of the race.
        """
        contender, replicate, held_out = row["contender"], row["replicate"], row["held_out"]
        if not self.is_known(contender):
            raise ValueError(f"contender is {contender!r:.40}, which is not in this race")
        for name, least in (("replicate", 0), ("epochs", 1), ("train_images", 1), ("held_out", 1)):
            if row[name] < least:
                raise ValueError(f"{name} is {row[name]}")
        if not isinstance(row.get("elapsed", 0.0), int | float):  # rows of older versions have none
            raise TypeError(f"elapsed is {row['elapsed']!r:.40}")
        for name in ("error", "train_accuracy"):
            if not 0 <= row[name] <= 1:
                raise ValueError(f"{name} is {row[name]}")
        training = (contender, replicate, row["epochs"], row["train_images"])
        if training in self.done:
            raise ValueError(f"the network of {contender!r:.40}, replicate {replicate}, stands in an earlier line, too")
        self.done.add(training)
        before = self.held_out.setdefault((replicate, row["train_images"]), held_out)
        if before != held_out:
            raise ValueError(f"held_out is {held_out}, but {before} in an earlier line")
        for name in ("losses", "errors"):
            if (length := _length(row[name])) != _BYTES * held_out:
                raise ValueError(f"{name} has {length} bytes, not {_BYTES} for each of {held_out} images")
        if "curves" in row:
            _check_curves(row["curves"], self.operations)


def _known(kinds: Sequence[str], searched: Sequence[str], allowed: Allowed) -> Callable[[str], bool]:
    """Tells whether a contender can be in a race of these kinds."""
    names = {*GUARDS, *(each.name for each in gather(kinds, Material(allowed)))}
    begins: tuple[str, ...] = ()
    if "screening" in searched:
        names |= {"screening", *(f"screening {run}" for run in range(RUNS))}
    if "adversarial" in searched:
        begins += ("adversarial",)
    for kind in kinds:
        if find_kind(kind).guards:  # its contenders are called after it and after how much they may lose
            begins += (f"{kind.partition('-')[0]} ",)
    own = any(":" in kind for kind in kinds)  # whose contenders can depend on what the guards saw
    return lambda name: own or name in names or name.startswith(begins)


def _length(text: str) -> int:
    """How many bytes a text in base 64 stands for."""
    try:
        return len(base64.b64decode(text, validate=True))
    except binascii.Error as error:
        raise ValueError(f"{error}") from error


def _check_curves(value: dict[str, Any], operations: Sequence[str]) -> None:
    """Check that the curves of a guard have every operation at every magnitude."""
    curves = Curves.from_json(value)
    numbers = [curves.clean]
    for name in operations:
        points = curves.points[name]
        if len(points) != len(points_of(name)):
            raise ValueError(f"curves has {len(points)} magnitudes of {name}, not {len(points_of(name))}")
        numbers += [number for point in points for number in (point.magnitude or 0, point.accuracy, point.displacement)]
    if curves.images < 1 or not all(0 <= number <= 1 for number in numbers):
        raise ValueError("curves has numbers that are not in [0, 1]")
