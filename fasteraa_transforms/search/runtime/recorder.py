"""What a search leaves while it runs: rows of metrics, TensorBoard's events, checkpoints, progress bars."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from fasteraa_transforms.policy.policy import Policy
from fasteraa_transforms.search.runtime.events import Events, open_events
from fasteraa_transforms.search.runtime.folder import RunFolder
from fasteraa_transforms.search.runtime.output import Output, command_line, say
from fasteraa_transforms.search.runtime.world import World


class Recorder:
    """Writes the files of a search, and shows how far it is.

    All ranks of a search have one, and make the same calls; the first rank alone writes. Without a folder nothing is
    written. It is a context manager, which closes TensorBoard's events.

    Args:
        folder: of the run, prepared; None for none.
        world: the processes of the search; this one alone if None.
        resume: whether the run in the folder goes on.
        progress: whether bars are shown.
        again: what a command that resumes the run has to name again, as `consent_flags` says.

    Attributes:
        path: of the folder, on all ranks.
        folder: the folder, on the rank that writes; None on others.
        doing: what the search is doing, for messages.
        kept: epochs that the checkpoint holds.

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
        self.doing = "before the first step"
        self.kept = 0
        self.saved: dict[str, Any] = {}  # what the checkpoint holds
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
        """What the checkpoint of a run that goes on holds, on all ranks; None for a new run.

        Raises:
            FileNotFoundError: the folder has no checkpoint.
            DamagedFile: the checkpoint cannot be read.
        """
        if not self.resume or self.path is None:
            return None
        folder = self.folder or RunFolder(self.path)  # which the first rank alone asks
        self.saved = self.world.from_first(folder.load_checkpoint)
        return self.saved

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
        self.saved = {**self.saved, **entries}
        if self.folder is not None:
            if policy is not None:
                policy.save(self.folder.policy)
            self.folder.save_checkpoint(self.saved)
        self.kept = epochs

    def left(self) -> str:
        """What a run that stops early leaves."""
        if self.path is None:
            return "nothing was kept, since no folder was given"
        # Only the rank that writes knows how many, and all are to say the same.
        kept = f"{self.kept} whole epochs" if self.world.size == 1 else "the last epoch that was written"
        arguments = command_line("--resume", self.path, *self.again)
        return f"{self.path} keeps {kept}. Continue with\n    {self.world.program('search')} {arguments}"

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
        """Drop the rows that are later than the checkpoint, which has ``epoch`` whole epochs."""
        self.kept = epoch
        if self.folder is not None:
            self.folder.forget_after(epoch)

    def bar(self, iterable: Iterable[Any] | None = None, description: str = "", **options: Any) -> Any:
        """A progress bar of tqdm, which is shown only where progress is."""
        from tqdm import tqdm

        return tqdm(iterable, description, file=Output(sys.stderr), disable=not self.progress, **options)

    def say(self, text: str) -> None:
        """Print where progress is shown."""
        if self.progress:
            say(text)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``."""
        return [] if self.folder is None else self.folder.rows()
