"""Output of a running search: rows of metrics, TensorBoard's events, checkpoints, progress bars."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from fasteraa_transforms.policy.policy import Policy
from fasteraa_transforms.search.runtime.events import Events, open_events
from fasteraa_transforms.search.runtime.folder import RunFolder
from fasteraa_transforms.search.runtime.output import Output, command_line, say
from fasteraa_transforms.search.runtime.world import World

_SILENT = 3.0
"""Without a progress bar, a line tells the progress of loading after this many seconds."""

_METRICS: dict[str, type] = {"kind": str, "epoch": int, "step": int}
"""What every row of ``metrics.jsonl`` holds."""


def _metrics_check() -> Callable[[Mapping[str, Any]], None]:
    """A check for the rows of one file: the report plots their numbers, and their shares of the same operations.

    It raises KeyError, TypeError or ValueError.
    """
    operations: list[str] = []

    def check(row: Mapping[str, Any]) -> None:
        if row["kind"] not in ("step", "epoch"):
            raise ValueError(f"kind is {row['kind']!r:.40}")
        share: Any = row["share"] if row["kind"] == "epoch" else {}
        if row["kind"] == "epoch":
            operations.extend(() if operations else share)
            if not isinstance(share, dict) or not share or list(share) != operations:
                raise ValueError("share is not that of the operations of the search")
        for name, value in {**row, **share, "kind": None, "share": None}.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(f"{name} is {value!r:.40}")

    return check


class Recorder:
    """Writes the files of a search, and shows its progress.

    Every rank of a search has a recorder, and all ranks make the same calls. Only the first rank writes. Without a
    folder nothing is written. As a context manager, it closes TensorBoard's events.

    Args:
        folder: of the run, prepared; None for none.
        world: the processes of the search; this one alone if None.
        resume: whether the run in the folder goes on.
        progress: whether bars are shown.
        again: arguments that a command has to repeat to resume the run; see `consent_flags`.

    Attributes:
        path: of the folder, on all ranks.
        folder: the folder, on the rank that writes; None on others.
        began: when the recorder was made, on the clock of `time.perf_counter`.
        doing: what the search is doing, for messages.
        kept: epochs of an adversarial search that the checkpoint holds.
        networks: trainings of a race that the folder keeps; None where none races.
        searched: whether nothing is left to do but the report.

    Example:
        >>> recorder = Recorder()
        >>> recorder.load(), recorder.left()
        (None, 'nothing was kept, since no folder was given')
    """

    def __init__(
        self,
        folder: RunFolder | None = None,
        *,
        world: World | None = None,
        resume: bool = False,
        progress: bool = False,
        again: Sequence[str] = (),
    ) -> None:
        self.world = world or World()
        self.path: Path | None = None if folder is None else folder.path
        self.folder = folder if self.world.first else None  # what the others would write is the same
        self.resume, self.again = resume, list(again)
        self.progress = progress and self.world.first
        self.began = time.perf_counter()
        self.doing = "before the first step"
        self.kept = 0
        self.networks: int | None = None
        self.searched = False
        self.saved: dict[str, Any] = {}  # what the checkpoint holds
        self._before = 0.0  # seconds of earlier starts
        self._events: Events | None = None
        self._step = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def load(self) -> dict[str, Any] | None:
        """The checkpoint of a resumed run, on all ranks; None for a new run.

        Raises:
            FileNotFoundError: the folder has no checkpoint.
            DamagedFile: the checkpoint cannot be read.
        """
        if not self.resume or self.path is None:
            return None
        folder = self.folder or RunFolder(self.path)  # which the first rank alone asks
        first, self.saved = not self.saved, self.world.from_first(folder.load_checkpoint)
        if first:  # later ones hold seconds of this start, too
            self.count(self.saved.get("elapsed", 0.0))
        return self.saved

    def count(self, seconds: float) -> None:
        """Note that earlier starts of the run took so many seconds, or more if more was noted."""
        self._before = max(self._before, seconds)

    def elapsed(self) -> float:
        """Seconds that the run took, over all its starts.

        A killed start counts up to its last row or its last checkpoint.
        """
        return self._before + time.perf_counter() - self.began

    def start(self, about: Mapping[str, Any]) -> None:
        """Note in the folder how a new run was started."""
        if self.folder is not None:
            self.folder.start(about)

    def save(self, entries: Mapping[str, Any], policy: Policy | None, *, epochs: int) -> None:
        """Replace the policy, if there is one yet, and the checkpoint.

        Args:
            entries: what the checkpoint is to hold, beside what it holds already.
            policy: as of this checkpoint.
            epochs: how many are done.
        """
        self.saved = {**self.saved, **entries, "elapsed": self.elapsed()}
        if self.folder is not None:
            if policy is not None:
                policy.save(self.folder.policy)
            self.folder.save_checkpoint(self.saved)
        self.kept = epochs

    def left(self) -> str:
        """What a run that stops early leaves, and the command that does the rest."""
        if self.path is None:
            return "nothing was kept, since no folder was given"
        if not RunFolder(self.path).can_resume:
            return f"{self.path} keeps nothing yet; start again"
        command = f"{self.world.program('search')} {command_line('--resume', self.path, *self.again)}"
        if self.searched:
            return f"{self.path} keeps all that was searched; only the report is left. Write it with\n    {command}"
        return f"{self.path} keeps {self._kept()}. Continue with\n    {command}"

    def _kept(self) -> str:
        """What the folder keeps, in words."""
        parts = []
        if self.networks is not None:
            parts.append(f"{self.networks} network{'s' * (self.networks != 1)} of the race")
        if self.networks is None or "state" in self.saved:
            # Only the rank that writes knows how many, and all are to say the same.
            parts.append(f"{self.kept} whole epochs" if self.world.size == 1 else "the last epoch that was written")
        return " and ".join(parts)

    # --- metrics and progress -----------------------------------------------------------------------------------------

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows to ``metrics.jsonl``, and what they measured to TensorBoard's events.

        Args:
            rows: each with a ``kind``, "step" or "epoch", and the number of its ``step``.
        """
        if self.folder is None or not rows:
            return
        self.folder.append(rows)
        events = self._opened(self.folder, rows[0]["step"])
        for row in rows:
            for name, value in row.items():
                if isinstance(value, float):
                    events.add_scalar(f"{row['kind']}/{name}", value, row["step"])
            for name, value in row.get("share", {}).items():
                events.add_scalar(f"share/{name}", value, row["step"])
        self._step = rows[-1]["step"]

    def show(self, name: str, picture: Image.Image) -> None:
        """Add a picture to TensorBoard's events, at the step of the last row."""
        if self.folder is not None:
            pixels = np.asarray(picture.convert("RGB"))
            self._opened(self.folder, self._step).add_image(name, pixels, self._step, dataformats="HWC")

    def _opened(self, folder: RunFolder, step: int) -> Events:
        """The events, which go on at a step."""
        if self._events is None:
            self._events = open_events(folder.path / "tensorboard", purge_step=step if self.resume else None)
        return self._events

    def forget_after(self, epoch: int) -> None:
        """Drop the rows that are later than the checkpoint, which has ``epoch`` whole epochs.

        Raises:
            DamagedFile: as of `rows`.
        """
        self.kept = epoch
        if self.folder is not None:
            self.rows()  # whoever looks at them only at the end would have searched in vain
            self.folder.forget_after(epoch)

    def bar(self, iterable: Iterable[Any] | None = None, description: str = "", **options: Any) -> Any:
        """A progress bar of tqdm, which is shown only where progress is."""
        from tqdm import tqdm

        return tqdm(iterable, description, file=Output(sys.stderr), disable=not self.progress, **options)

    def watch(self, items: Iterable[Any], description: str, count: int) -> Iterable[Any]:
        """``items``, with a word on how far they are where that takes longer: a bar in a terminal, else a line."""
        if Output(sys.stderr).isatty():
            return self.bar(items, description, total=count, unit="image", delay=1, leave=False)
        return self._announced(items, description, count)

    def _announced(self, items: Iterable[Any], description: str, count: int) -> Iterator[Any]:
        began, silent = time.perf_counter(), True
        for done, item in enumerate(items):
            passed = time.perf_counter() - began
            if silent and done and passed > _SILENT:
                left = passed / done * (count - done)
                self.say(f"{description}: {done:,} of {count:,} images after {passed:.0f} s, about {left:.0f} s left")
                silent = False
            yield item

    def say(self, text: str) -> None:
        """Print where progress is shown."""
        if self.progress:
            say(text)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``.

        Raises:
            DamagedFile: a row is not one of a search; says which.
        """
        return [] if self.folder is None else self.folder.rows(needs=_METRICS, check=_metrics_check())
