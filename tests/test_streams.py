"""Whoever stops reading what a command prints ends it without a word."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fasteraa_transforms import list_policies

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork, and breaks pipes in another way")

# A line for each command that failed or said something: how its output was closed, its words, its status, what it said.
PROGRAM = """
import json, os, sys
import fasteraa_transforms.__main__ as command_line
import fasteraa_transforms.search.__main__, fasteraa_transforms.search.evaluate, fasteraa_transforms.search.operations

def started(how, words):
    read, write = os.pipe()
    said, says = os.pipe()
    process = os.fork()
    if not process:
        os.dup2(says, 2)
        os.dup2(write, 1)
        for number in (read, write, said, says):
            os.close(number)
        if how == "missing":
            os.close(1)
            sys.stdout = None
        if how == "both broken":
            os.dup2(1, 2)
        if how == "full":
            os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        return None
    os.close(write)
    os.close(says)
    if how == "read once":
        os.read(read, 1)
    os.close(read)
    with open(said, encoding="utf-8") as file:
        text = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), text

for how, words in json.loads(sys.argv[1]):
    sys.argv = ["fasteraa", *words]
    end = started(how, words)
    if end is None:
        command_line.run()
    print(json.dumps([how, words, *end]), flush=True)
"""

TINY = (
    "--num-images 64 --image-size 8 --network resnet9-4 --race-images 32 --race-epochs 1 --contenders none "
    "--replicates 1 --processes 1 --device cpu"
)


def ends(commands: list[tuple[str, list[str]]], folder: Path) -> list[tuple[str, list[str], int, str]]:
    """How each command ended: how its output was closed, its words, its status, what it said on standard error."""
    paths = os.pathsep.join(filter(None, sys.path))
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    found = [tuple(json.loads(line)) for line in result.stdout.splitlines()]
    assert len(found) == len(commands)
    return found


@pytest.mark.slow
@pytest.mark.stress
def test_a_closed_output_is_no_error(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    first, other = list_policies()[:2]
    every = [
        ["list"],
        ["diff", first, other],
        ["show", first, "a.png", "--out", "sheet.png", "--limit", "1", "--samples", "1"],
        ["--help"],
        ["--version"],
        *([command, "--help"] for command in ("list", "diff", "show", "search", "evaluate", "operations")),
    ]
    closed = [("broken", words) for words in every]
    some = [["list"], ["--help"], ["search", "--help"]]
    closed += [(how, words) for how in ("missing", "both broken", "read once") for words in some]
    for how, words, status, said in ends(closed, tmp_path):
        assert (status, said) == (0, ""), (how, words)
    assert (tmp_path / "sheet.png").is_file()


@pytest.mark.slow
@pytest.mark.stress
def test_a_closed_output_ends_no_work(tmp_path: Path) -> None:
    operations = "operations --num-images 64 --image-size 8 --network resnet9-4 --networks 1 --epochs 1 --processes 1"
    evaluate = "evaluate --policies none --model small --epochs 1 --seeds 1"
    commands = [(how, line.split()) for how, line in (("broken", operations), ("both broken", evaluate))]
    commands += [(how, f"search digits {TINY} --out runs/{how}".split()) for how in ("broken", "missing")]
    for how, words, status, said in ends(commands, tmp_path):
        assert status == 0, (how, words)
        assert not {"error", "Error", "Traceback", "pipe"} & set(said.replace(":", " ").split()), said
    pages = ("broken/report.html", "missing/report.html", "operations/operations.html")
    for path in (*pages, "digits-evaluation/evaluation.html"):
        assert (tmp_path / "runs" / path).is_file()


@pytest.mark.slow
@pytest.mark.stress
def test_mistakes_keep_their_status_where_nobody_reads(tmp_path: Path) -> None:
    mistakes = [["lst"], ["diff", "no such policy", "neither"], ["search", "no such folder"], ["show"]]
    for _, words, status, said in ends([("both broken", words) for words in mistakes], tmp_path):
        assert (status, said) == (2, ""), words


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /dev/full")
def test_a_full_disk_is_said_in_a_line(tmp_path: Path) -> None:
    ((_, _, status, said),) = ends([("full", ["list"])], tmp_path)
    assert (status, said) == (2, "error: [Errno 28] No space left on device\n")
