"""Runs that are killed at random moments, again and again, end as undisturbed ones do, and leave nothing behind."""

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fasteraa_transforms.search.runtime.files import read_rows

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

PATIENCE = 600
"""Seconds that a run may take on a machine that is busy with others."""

TIMES = {"seconds", "wall", "elapsed", "rate", "images_per_second"}
"""What differs from run to run of the same work."""


class Server:
    """Starts the runs of `killed_runs`, each as a session of its own, and watches what they leave.

    Args:
        folder: for what runs write beside their own folders.
    """

    def __init__(self, folder: Path) -> None:
        self.temporary, self.begun, self.errors = folder / "temporary", folder / "begun", folder / "errors"
        self.temporary.mkdir()
        paths = [str(Path(__file__).parent), *filter(None, sys.path)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import killed_runs; killed_runs.serve()"],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def start(self, run: str, out: Path) -> int:
        """Start or resume a run in the folder ``out``; the number of its process and session."""
        order = {"run": run, "out": out, "temporary": self.temporary, "begun": self.begun, "errors": self.errors}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order, default=str).encode() + b"\n")
        self.process.stdin.flush()
        answer = self.answer(PATIENCE)
        assert answer is not None
        return answer

    def answer(self, seconds: float) -> int | None:
        """What the server says next: the status of the run, say; None if it says nothing for so long."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return None
        line = b""
        while not line.endswith(b"\n"):  # no more than the line, so that the next one is waited for
            character = os.read(self.process.stdout.fileno(), 1)
            assert character, "the server has ended"
            line += character
        return int(line)

    def finish(self, run: str, out: Path) -> None:
        """Let a run come to its end."""
        self.start(run, out)
        assert self.answer(PATIENCE) == 0, self.errors.read_text("utf-8")

    def work(self) -> list[str]:
        """The pieces of work that were begun since this was asked last."""
        begun = self.begun.read_text("utf-8").splitlines() if self.begun.exists() else []
        self.begun.unlink(missing_ok=True)
        return begun


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.process.kill()
    server.process.wait()


def alive(session: int) -> list[str]:
    """The processes of a session that have not ended."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = status.read_text("utf-8", "replace").rpartition(")")
        except OSError:  # it has ended meanwhile
            continue
        state, _, _, of = rest.split()[:4]
        if int(of) == session and state not in "ZX":
            found.append(name + ")")
    return found


def check_nobody_left(session: int) -> None:
    """Check that all processes of a session end by themselves."""
    deadline = time.monotonic() + PATIENCE
    while found := alive(session):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def content(out: Path) -> dict[str, Any]:
    """What a run left, without the times that it took: the parsed rows and documents, and the names of all files."""
    found: dict[str, Any] = {"names": {_name(path.relative_to(out)) for path in out.rglob("*")}}
    for name in ("race.jsonl", "rows.jsonl", "metrics.jsonl"):
        # Of trainings side by side, who ends first comes first.
        found[name] = sorted(json.dumps(timeless(row), sort_keys=True) for row in read_rows(out / name))
    for name in ("policy.json", "diagnosis.json"):
        found[name] = timeless(json.loads((out / name).read_text("utf-8"))) if (out / name).exists() else None
    return found


def _name(path: Path) -> str:
    """The name of a file; those of TensorBoard's events hold time and process, and each start has its own."""
    return "events" if "tfevents" in path.name else str(path)


def timeless(value: Any) -> Any:
    """A parsed document without what `TIMES` names."""
    if isinstance(value, dict):
        return {key: timeless(each) for key, each in value.items() if key not in TIMES}
    return [timeless(each) for each in value] if isinstance(value, list) else value


def check_kills(server: Server, run: str, folder: Path, *, kills: int, at_once: int = 1, group: bool = True) -> None:
    """Kill a run at random moments, resume it each time until it is whole, and begin again until it was killed enough.

    Args:
        server: starts the run.
        run: its name in `killed_runs.RUNS`.
        folder: for the folders of the run.
        kills: how often.
        at_once: pieces of work that the run does side by side, of which one kill may cut off all.
        group: whether all processes of the run are killed, or the first alone.
    """
    server.work()
    began = time.monotonic()
    server.finish(run, folder / "undisturbed")
    takes = time.monotonic() - began
    expected, needed = content(folder / "undisturbed"), len(server.work())
    draw = random.Random(run)
    out, killed, cut_off = folder / "killed", 0, 0
    while killed < kills or cut_off:
        session, began = server.start(run, out), time.monotonic()
        status = server.answer(draw.uniform(0, takes) if killed < kills else PATIENCE)
        if status is None:
            (os.killpg if group else os.kill)(session, signal.SIGKILL)
            status = server.answer(PATIENCE)
        check_nobody_left(session)
        assert not list(server.temporary.iterdir())
        if status == -signal.SIGKILL:
            killed, cut_off = killed + 1, cut_off + 1
            continue
        assert status == 0, server.errors.read_text("utf-8")
        assert content(out) == expected, f"after {killed} kills"
        assert not list(out.rglob("*.tmp"))
        assert needed <= len(server.work()) <= needed + cut_off * at_once
        shutil.rmtree(out)
        if not cut_off:
            takes = min(takes, time.monotonic() - began)
        cut_off = 0


@pytest.mark.slow
@pytest.mark.stress
@pytest.mark.parametrize("run", ["race with an adversarial search", "adversarial", "evaluation", "race"])
def test_a_run_that_is_killed_again_and_again_ends_as_an_undisturbed_one(
    server: Server, run: str, tmp_path: Path
) -> None:
    check_kills(server, run, tmp_path, kills=20)


@pytest.mark.slow
@pytest.mark.stress
@pytest.mark.parametrize("group", [True, False])
def test_a_race_of_two_processes_that_is_killed_ends_as_an_undisturbed_one(
    server: Server, group: bool, tmp_path: Path
) -> None:
    check_kills(server, "race of two processes", tmp_path, kills=4, at_once=2, group=group)
