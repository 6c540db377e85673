"""The folder of an evaluation: its settings, its rows, what is left of trainings that were cut off."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fasteraa_transforms.search.data.images import check_same
from fasteraa_transforms.search.runtime import files
from fasteraa_transforms.search.runtime.files import DamagedFile
from fasteraa_transforms.search.runtime.folder import RunFolder
from fasteraa_transforms.search.runtime.world import World

EvaluationRow = dict[str, Any]

NEEDS: dict[str, type | tuple[type, ...]] = {"augmentation": str, "seed": int, "error": (int, float)}
"""What every row has to have."""

ELSEWHERE = ("device", "compile")
"""Settings that may differ, so that an evaluation can continue on another machine."""


def key_of(row: Mapping[str, Any]) -> tuple[str, int]:
    """Which training a row is of: its augmentation and its seed."""
    return row["augmentation"], row["seed"]


class Record:
    """The files of an evaluation.

    The first process keeps ``rows.jsonl``, each of the others ``rows-RANK.jsonl``, which the first one merges.

    Args:
        path: of the folder.

    Attributes:
        rows_file: one line for each finished training.
        settings: how networks were trained, and on what.
        table: the table in Markdown.
        page: the same as a page, with a plot.
        plot: the plot by itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows_file = path / "rows.jsonl"
        self.settings = path / "settings.json"
        self.table = path / "table.md"
        self.page = path / "evaluation.html"
        self.plot = path / "evaluation.svg"

    @contextlib.contextmanager
    def claim(self, world: World) -> Iterator[None]:
        """Hold the folder for the processes of ``world`` while the context lasts.

        Raises:
            FolderInUse: another evaluation or search holds it.
        """
        with RunFolder(self.path).claim(world):
            yield

    def about(self) -> dict[str, Any]:
        """What ``settings.json`` holds; nothing if it is not there.

        Raises:
            DamagedFile: it cannot be read, or holds something else.
        """
        try:
            about = files.read_json(self.settings)
        except FileNotFoundError:
            return {}
        if not isinstance(about.get("settings"), dict):
            raise DamagedFile(f"{self.settings} does not hold the settings of an evaluation")
        return about

    def check(self, about: Mapping[str, Any]) -> None:
        """Check that trainings of ``about`` can be added to what the folder holds.

        Args:
            about: ``settings``, and the identity of the ``images``.

        Raises:
            ValueError: the folder holds trainings of other settings or other images.
            DamagedFile: as of `about`.
        """
        theirs = self.about()
        if not theirs:
            if self.rows_file.exists():
                raise DamagedFile(f"{self.rows_file} is there without {self.settings.name}; choose another folder")
            return
        mine = files.plain(about)
        differences = [
            f"{key}={theirs['settings'].get(key)!r}, but got {value!r}"
            for key, value in mine["settings"].items()
            if theirs["settings"].get(key) != value and key not in ELSEWHERE
        ]
        if differences:
            raise ValueError(f"{self.path} was trained with {'; '.join(differences)} instead; choose another folder")
        for part, what in (("train", self.path), ("test", f"the test of {self.path}")):
            try:
                saved = theirs["images"][part]
                check_same(dict(saved), mine["images"][part], what)
            except (KeyError, TypeError) as error:
                raise DamagedFile(f"{self.settings} does not say what images it is of") from error

    def start(self, about: Mapping[str, Any]) -> None:
        """Write ``about`` to ``settings.json``, and make the folder ready for trainings."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "checkpoints").mkdir(exist_ok=True)
        RunFolder(self.path).replace_json(self.settings, about)

    def rows(self) -> list[EvaluationRow]:
        """The rows of the first process and of the others.

        Raises:
            DamagedFile: a row cannot be read; names the file.
        """
        paths = (self.rows_file, *sorted(self.path.glob("rows-*.jsonl")))
        return list({key_of(row): row for path in paths for row in files.read_rows(path, needs=NEEDS)}.values())

    def write_rows(self, rows: Sequence[EvaluationRow], rank: int = 0) -> None:
        """Replace the rows of a process."""
        path = self.path / f"rows-{rank}.jsonl" if rank else self.rows_file
        self.replace_text(path, "".join(map(files.to_row, rows)))

    def merge(self, rows: Sequence[EvaluationRow]) -> None:
        """Write all ``rows`` into one file, and remove the files of the other processes."""
        if parts := list(self.path.glob("rows-*.jsonl")):
            self.write_rows(rows)
        for part in parts:
            part.unlink()

    def replace_text(self, path: Path, text: str) -> None:
        """Write ``text`` in the place of ``path``."""
        files.replace_text(path, text)

    def checkpoint(self, label: str, seed: int, digest: str | None) -> Path:
        """File of one training with one policy; another policy of the same label has another file."""
        mark = f"-{digest}" if digest else ""
        return self.path / "checkpoints" / f"{_file_name(label, seed)}{mark}.pt"

    def events(self, label: str, seed: int) -> Path:
        """Folder of the TensorBoard events of one training."""
        return self.path / "tensorboard" / _file_name(label, seed)


def _file_name(label: str, seed: int) -> str:
    """A file's name for any label: two labels may differ only in what file names cannot have."""
    plain = "".join(each if (each.isascii() and each.isalnum()) or each in "-_." else "_" for each in label)
    mark = "" if plain == label else "-" + hashlib.sha256(label.encode()).hexdigest()[:8]
    return f"{plain}{mark}-seed{seed}"
