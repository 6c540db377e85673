"""The folder of a run, and what is written about the machine it ran on."""

import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fasteraa_transforms.search.settings import Settings


class RunFolder:
    """The files of a run. What is replaced is replaced whole: a crash leaves the old file or the new one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint.pt"
        self.settings = path / "settings.json"
        self.policy = path / "policy.json"
        self.metrics = path / "metrics.jsonl"

    def prepare(self, settings: Settings, *, resume: bool) -> None:
        """Make the folder, or check that it holds a run of these settings to resume."""
        if resume:
            if not self.checkpoint.is_file():
                raise FileNotFoundError(f"{self.path} holds no checkpoint to resume from")
            for torn in self.path.glob(".*.tmp"):  # of a run that was killed while it wrote
                torn.unlink()
            if (found := self.load_settings()) != settings:
                raise ValueError(f"{self.path} was run with {found}, which is not {settings}; resume with the same")
            return
        if self.checkpoint.exists() or self.policy.exists():
            raise FileExistsError(f"{self.path} holds a run already; resume it, or choose another folder")
        self.path.mkdir(parents=True, exist_ok=True)

    def load_settings(self) -> Settings:
        """The settings of the run in the folder."""
        fields = json.loads(self.settings.read_text())["settings"]
        # A run of before the strength could be held has the paper's value of what it does not name.
        tuples = {name: tuple(fields[name]) for name in ("betas", "strengths", "uniform") if name in fields}
        return Settings.paper(**{**fields, **tuples})

    def replace(self, path: Path, write: Callable[[Path], object]) -> None:
        """Write ``path`` through ``write`` to a temporary file that then takes its place."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def replace_json(self, path: Path, value: object) -> None:
        """Write ``value`` as JSON in the place of ``path``."""
        self.replace(path, lambda file: file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n"))

    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text().splitlines()]

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Add rows to ``metrics.jsonl``."""
        with self.metrics.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def forget_after(self, epoch: int) -> None:
        """Drop the rows of epochs that the checkpoint does not know; a crash can leave them, the last one torn."""
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                break
            if row["epoch"] <= epoch:
                kept.append(line + "\n")
        self.replace(self.metrics, lambda file: file.write_text("".join(kept)))


def processor() -> str:
    """Model name of the processor, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} threads" if names else platform.machine()
