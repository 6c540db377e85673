"""The folder of a run: its claim, its settings, its checkpoint, its rows.

What is replaced is replaced whole: a crash leaves the old file or the new one. What is read is checked: a damaged file
is an error of one line that names it. Nothing that is read can execute anything.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from fasteraa_transforms.search.runtime import files
from fasteraa_transforms.search.runtime.claim import claim
from fasteraa_transforms.search.runtime.files import DamagedFile
from fasteraa_transforms.search.settings import Settings

_ABOUT = "about"  # key of a checkpoint
_TEMPORARY = re.compile(r"\.(.+\.\d+|[0-9a-f]{16})\.tmp")  # names that `files.replace` and `Policy.save` write under
_RETIRED = ("uniform", "validation_steps")
"""Settings of earlier versions, whose adversarial search let small networks choose among its policies."""


class Ranks(Protocol):
    """The processes that work in one folder; `world.World`."""

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What ``make`` returns on the first one."""


def read_settings(path: Path) -> Settings:
    """The settings in a file such as the `settings.json` of a run.

    A run of an earlier version may have settings that no longer exist, or the strength 0. Both are left out.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it cannot be read, or has settings that do not exist.
    """
    about = files.read_json(path)
    try:
        fields = {name: value for name, value in about["settings"].items() if name not in _RETIRED}
        if isinstance(strengths := fields.setdefault("strengths", ()), list):
            fields["strengths"] = [each for each in strengths if each != 0]
        # An old run lacks newer settings. It ran with the paper's values of these.
        return Settings.paper(**fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedFile(f"{path} does not hold the settings of a search ({files.one_line(error)})") from error


class RunFolder:
    """The files of a run.

    A run claims its folder, writes `settings.json` once, adds to `metrics.jsonl`, and replaces its checkpoint. Only the
    checkpoint says that there is something to resume.

    Args:
        path: of the folder, which need not be there yet.

    Attributes:
        checkpoint: what a run goes on from.
        previous: the checkpoint before that.
        settings: how the run was started, for people to read and for the checkpoint to compare itself with.
        policy: the policy as of the checkpoint.
        metrics: a line a step, a line an epoch.

    Example:
        >>> import tempfile
        >>> from fasteraa_transforms.search.runtime.world import World
        >>> path = Path(tempfile.mkdtemp()) / "run"
        >>> folder = RunFolder(path)
        >>> with folder.claim(World()):
        ...     folder.start({"settings": {"epochs": 2}})
        ...     folder.append([{"epoch": 1, "loss": 0.5}])
        ...     folder.save_checkpoint({"epoch": 1})
        >>> again = RunFolder(path)
        >>> with again.claim(World()):
        ...     again.load_checkpoint(), again.rows()
        ({'epoch': 1}, [{'epoch': 1, 'loss': 0.5}])
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.checkpoint = self.path / "checkpoint.pt"
        self.previous = files.previous_of(self.checkpoint)
        self.settings = self.path / "settings.json"
        self.policy = self.path / "policy.json"
        self.metrics = self.path / "metrics.jsonl"
        self._about: dict[str, Any] = {}

    @contextlib.contextmanager
    def claim(self, world: Ranks, *, resume: bool = False) -> Iterator[None]:
        """Hold the folder for the processes of ``world`` while the context lasts.

        The folder is made if it does not exist, and removed at the end if it is empty. Temporary files that a killed
        run left are removed.

        Args:
            world: the processes, which all have to enter alike; the first one claims for all.
            resume: whether a run in the folder is to go on.

        Raises:
            FileNotFoundError: ``resume``, but the folder has no checkpoint.
            FolderInUse: another run holds the folder; says which.
            OSError: it cannot be made or written.
        """
        with contextlib.ExitStack() as stack:

            def take() -> None:
                if resume:
                    self.check_resumable()
                if not self.path.exists():
                    stack.callback(self._remove_if_empty)
                stack.enter_context(claim(self.path))
                self._remove_temporary_files()

            world.from_first(take)
            yield

    def _remove_if_empty(self) -> None:
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _remove_temporary_files(self) -> None:
        for folder in (self.path, self.path / "checkpoints"):
            for file in folder.glob(".*.tmp"):
                if _TEMPORARY.fullmatch(file.name):
                    file.unlink(missing_ok=True)

    # --- starting and going on ----------------------------------------------------------------------------------------

    @property
    def can_resume(self) -> bool:
        """Whether a checkpoint is there."""
        return self.checkpoint.is_file()

    def check_resumable(self) -> None:
        """Check that a checkpoint is there.

        Raises:
            FileNotFoundError: it is not.
        """
        if self.previous.is_file() and not self.can_resume:
            raise FileNotFoundError(
                f"{self.path} holds no checkpoint to resume from but an older one, {self.previous.name}; "
                f"rename it to {self.checkpoint.name} to go on from there"
            )
        if not self.can_resume:
            raise FileNotFoundError(f"{self.path} holds no checkpoint to resume from")

    def check_free(self) -> None:
        """Check that a run can start here.

        What a run left that ended before its first checkpoint is no obstacle: the new run replaces it.

        Raises:
            FileExistsError: the folder holds a checkpoint, or a policy that no run of this folder wrote.
        """
        foreign = self.policy.exists() and not self.settings.exists()
        if self.can_resume or self.previous.exists() or foreign:
            raise FileExistsError(f"{self.path} holds a run already; resume it, or choose another folder")

    def start(self, about: Mapping[str, Any]) -> None:
        """Start a run: write ``about`` to `settings.json`, and remove what an unfinished start left.

        Args:
            about: how the run was started, as JSON; ``settings`` in it is kept in the checkpoint too.

        Raises:
            FileExistsError: as of `check_free`.
        """
        self.check_free()
        self.path.mkdir(parents=True, exist_ok=True)
        for file in (self.policy, self.metrics):
            file.unlink(missing_ok=True)
        self.replace_json(self.settings, about)
        self._about = files.plain(about)

    def about(self) -> dict[str, Any]:
        """How the run in the folder was started, as `start` was given it; checked against the checkpoint.

        Raises:
            FileNotFoundError: no checkpoint to resume from.
            DamagedFile: the checkpoint or `settings.json` cannot be read, or they disagree.
        """
        self._load()
        return self._about

    def prepare(self, settings: Settings, *, resume: bool) -> None:
        """Check that a run of ``settings`` can start here, or that the run in the folder has the same.

        Raises:
            FileExistsError: as of `check_free`, if not ``resume``.
            FileNotFoundError: no checkpoint, if ``resume``.
            DamagedFile: as of `about`, if ``resume``.
            ValueError: the run in the folder has other settings, or this version cannot continue it.
        """
        if not resume:
            self.check_free()
            self.path.mkdir(parents=True, exist_ok=True)
            return
        self.check_resumable()
        self._remove_temporary_files()
        saved = self.load_settings()
        if _chose_by_small_networks(files.read_json(self.settings)["settings"]):
            raise ValueError(
                f"{self.path} was run by an earlier version, which chose among strengths and uniform policies by small "
                "networks; search anew with contenders such as none, uniform and adversarial, which race"
            )
        if saved != settings:
            raise ValueError(f"{self.path} was run with {saved}, which is not {settings}; resume with the same")

    def load_settings(self) -> Settings:
        """The settings of the run in the folder.

        Raises:
            DamagedFile: `settings.json` cannot be read, or has settings that do not exist.
        """
        return read_settings(self.settings)

    # --- the checkpoint -----------------------------------------------------------------------------------------------

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint; the one that it replaces is kept as `previous`.

        Args:
            state: tensors, numbers, text, and lists, tuples and dicts of these; without a key ``about``.

        Raises:
            OSError: the folder cannot be written; the old checkpoint is still there.
        """
        files.write_checkpoint(self.checkpoint, {**state, _ABOUT: json.dumps(self._about)})

    def load_checkpoint(self) -> dict[str, Any]:
        """What the last `save_checkpoint` was given, with its tensors on the CPU.

        Raises:
            FileNotFoundError: no checkpoint to resume from.
            DamagedFile: the checkpoint or `settings.json` cannot be read, or they disagree; says what to do.
        """
        return self._load()

    def _load(self) -> dict[str, Any]:
        self.check_resumable()
        saved = files.read_checkpoint(self.checkpoint)
        about = files.read_json(self.settings)
        if not isinstance(text := saved.pop(_ABOUT, None), str):
            raise DamagedFile(f"{self.checkpoint} does not say how its run was started; it is of another version")
        mine, theirs = about.get("settings"), json.loads(text).get("settings")
        if mine != theirs:
            raise DamagedFile(
                f"{self.settings} is damaged or was changed: {_difference(mine, theirs)}; "
                f"restore it, or start again in another folder"
            )
        self._about = about  # of which the source may have been given anew
        return saved

    # --- rows ---------------------------------------------------------------------------------------------------------

    def rows(
        self,
        name: str = "metrics.jsonl",
        *,
        needs: Mapping[str, type | tuple[type, ...]] | None = None,
        check: Callable[[dict[str, Any]], object] | None = None,
    ) -> list[dict[str, Any]]:
        """The rows of a file, of which a last one that is torn is left out.

        Args:
            name: of the file.
            needs: as of `files.read_rows`.
            check: as there.

        Raises:
            DamagedFile: a row that is not the last one cannot be read, or one is refused; says which.
        """
        return files.read_rows(self.path / name, needs=needs, check=check)

    def append(self, rows: Iterable[Mapping[str, Any]], name: str = "metrics.jsonl") -> None:
        """Add rows to a file, behind its last whole row."""
        files.append_rows(self.path / name, rows)

    def replace_rows(self, rows: Iterable[Mapping[str, Any]], name: str = "metrics.jsonl") -> None:
        """Write rows in the place of a file."""
        self.replace_text(self.path / name, "".join(map(files.to_row, rows)))

    def forget_after(self, epoch: int) -> None:
        """Drop the rows of `metrics.jsonl` after ``epoch``, the checkpoint's; a crash can leave such rows, torn too."""
        if self.metrics.exists():
            kept = [row for row in self.rows(needs={"epoch": int}) if row["epoch"] <= epoch]
            self.replace_rows(kept)

    # --- files --------------------------------------------------------------------------------------------------------

    def replace(self, path: Path, write: Callable[[Path], object]) -> None:
        """`files.replace`, for a file of the folder."""
        files.replace(path, write)

    def replace_text(self, path: Path, text: str) -> None:
        """Write ``text`` in the place of ``path``."""
        files.replace_text(path, text)

    def replace_json(self, path: Path, value: object) -> None:
        """Write ``value`` as JSON in the place of ``path``."""
        self.replace_text(path, files.to_document(value))


def _chose_by_small_networks(fields: Mapping[str, Any]) -> bool:
    """Whether a run of an earlier version with these settings chose its policy in a way that no longer exists."""
    several = bool(fields.get("uniform")) or len(fields.get("strengths", ())) > 1
    return "validation_steps" in fields and several and not fields.get("contenders")


def _difference(mine: object, theirs: object) -> str:
    """The first place where `settings.json` differs from the checkpoint."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in {**theirs, **mine}:
            if mine.get(key) != theirs.get(key):
                return f"{key} is {mine.get(key)!r:.60}, but the checkpoint has {theirs.get(key)!r:.60}"
    return "it has other settings than the checkpoint"
