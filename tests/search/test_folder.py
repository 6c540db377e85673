"""The folder of a run: who holds it, what is written whole, what a damaged file says."""

import ast
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fasteraa_transforms
from fasteraa_transforms.search.runtime import claim as claims
from fasteraa_transforms.search.runtime import files
from fasteraa_transforms.search.runtime.claim import CLAIM, FolderInUse, claim
from fasteraa_transforms.search.runtime.files import DamagedFile
from fasteraa_transforms.search.runtime.folder import RunFolder
from fasteraa_transforms.search.runtime.output import Output, command_line, readable, say
from fasteraa_transforms.search.runtime.world import World

ABOUT = {"settings": {"epochs": 3, "betas": (0.0, 0.9)}, "source": {"dataset": "digits"}}


def started(path: Path, *states: dict[str, Any]) -> RunFolder:
    """A folder in which a run saved ``states``."""
    folder = RunFolder(path)
    folder.start(ABOUT)
    for state in states:
        folder.save_checkpoint(state)
    return folder


# --- the claim --------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from fasteraa_transforms.search.runtime.claim import claim

with claim(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(folder: Path) -> "subprocess.Popen[str]":
    """Another process that holds the folder."""
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    return other


def test_a_second_run_is_told_who_holds_the_folder_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    other = hold(tmp_path)
    try:
        with pytest.raises(FolderInUse, match=rf"is in use by process {other.pid} on .* since 20\d\d-") as caught:
            RunFolder(tmp_path).claim(World()).__enter__()
        assert str(caught.value).endswith("; wait for it, or choose another folder")
        assert "\n" not in str(caught.value)
    finally:
        other.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        other.wait()
    assert (tmp_path / CLAIM).exists()  # nobody was left to remove it
    with RunFolder(tmp_path).claim(World()):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_claim_within_a_process(tmp_path: Path) -> None:
    with claim(tmp_path), pytest.raises(FolderInUse, match=f"process {os.getpid()} "), claim(tmp_path):
        pass
    with claim(tmp_path):
        pass


def test_a_claim_ends_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), claim(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_without_locks_the_process_in_the_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_lock", lambda file: None)
    with claim(tmp_path), pytest.raises(FolderInUse, match=f"process {os.getpid()} "), claim(tmp_path):
        pass
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    about = json.dumps({"process": gone.pid, "machine": claims.platform.node()})
    (tmp_path / CLAIM).write_text(about)
    with claim(tmp_path):
        pass
    (tmp_path / CLAIM).write_text(about.replace(claims.platform.node(), "elsewhere"))
    with pytest.raises(FolderInUse, match=f"process {gone.pid} on elsewhere"), claim(tmp_path):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_does_not_go_on_holding_the_folder(tmp_path: Path) -> None:
    read, write = os.pipe()
    with claim(tmp_path):
        child = os.fork()
        if not child:
            os.close(write)
            os.read(read, 1)  # outlives the claim
            os._exit(0)
    try:
        with claim(tmp_path):
            pass
    finally:
        os.close(write)
        os.waitpid(child, 0)


def test_several_ranks_are_one_claim(tmp_path: Path) -> None:
    class Second(World):
        def from_first(self, make: Any) -> Any:
            return None

    with RunFolder(tmp_path).claim(World(0, 1)), RunFolder(tmp_path).claim(Second(1, 2)):
        assert [file.name for file in tmp_path.iterdir()] == [CLAIM]


def test_a_claim_removes_what_a_killed_run_left_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    torn = [tmp_path / ".policy.json.17.tmp", tmp_path / "checkpoints" / ".none-seed0.pt.4.tmp"]
    torn += [tmp_path / ".0123456789abcdef.tmp"]  # under which `Policy.save` writes
    mine = [tmp_path / ".notes.tmp", tmp_path / "x.17.tmp", tmp_path / ".policy.json.17.tmp.bak"]
    for file in (*torn, *mine):
        file.touch()
    with RunFolder(tmp_path).claim(World()):
        assert not any(file.exists() for file in torn)
        assert all(file.exists() for file in mine)


def test_a_run_that_writes_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "new").claim(World()):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()
    with RunFolder(tmp_path).claim(World()):
        pass
    assert tmp_path.is_dir()
    with pytest.raises(FileNotFoundError, match=r"new holds no checkpoint to resume from$"):
        RunFolder(tmp_path / "new").claim(World(), resume=True).__enter__()
    assert not (tmp_path / "new").exists()


# --- starting and going on --------------------------------------------------------------------------------------------


def test_only_the_checkpoint_counts(tmp_path: Path) -> None:
    folder = started(tmp_path)
    folder.policy.write_text("{}")  # killed before the first checkpoint
    folder.append([{"epoch": 0}])
    again = RunFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no checkpoint to resume from$"):
        again.load_checkpoint()
    again.start(ABOUT)
    assert not again.policy.exists()
    assert again.rows() == []
    again.save_checkpoint({"epoch": 1})
    with pytest.raises(FileExistsError, match=r"holds a run already; resume it, or choose another folder$"):
        RunFolder(tmp_path).start(ABOUT)


def test_a_policy_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text("precious")
    with pytest.raises(FileExistsError):
        RunFolder(tmp_path).start(ABOUT)
    assert (tmp_path / "policy.json").read_text() == "precious"


def test_a_run_goes_on_with_what_it_was_started_with(tmp_path: Path) -> None:
    state = {"weights": torch.arange(3.0), "epoch": 2, "found": [{"loss": 0.5}], "pair": (1, "two")}
    started(tmp_path, {"epoch": 1}, state)
    again = RunFolder(tmp_path)
    loaded = again.load_checkpoint()
    assert torch.equal(loaded.pop("weights"), state.pop("weights"))  # type: ignore[arg-type]
    assert loaded == state
    assert again.about() == {"settings": {"epochs": 3, "betas": [0.0, 0.9]}, "source": {"dataset": "digits"}}
    again.save_checkpoint({"epoch": 3})
    assert RunFolder(tmp_path).load_checkpoint() == {"epoch": 3}
    assert torch.load(again.checkpoint, weights_only=True)["epoch"] == 3  # a file as any of PyTorch's


def test_settings_that_are_not_those_of_the_checkpoint(tmp_path: Path) -> None:
    folder = started(tmp_path, {"epoch": 1})
    folder.settings.write_text(folder.settings.read_text().replace("3", "9"))
    message = rf"^{folder.settings} is damaged or was changed: epochs is 9, but the checkpoint has 3; restore it, or "
    with pytest.raises(DamagedFile, match=message):
        RunFolder(tmp_path).load_checkpoint()


def test_the_source_may_be_given_anew(tmp_path: Path) -> None:
    folder = started(tmp_path, {"epoch": 1})
    moved = ABOUT | {"source": {"dataset": "/elsewhere/digits"}}
    folder.replace_json(folder.settings, moved)
    assert RunFolder(tmp_path).about()["source"] == {"dataset": "/elsewhere/digits"}


# --- damaged files ----------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_offers_the_one_before(tmp_path: Path) -> None:
    folder = started(tmp_path, {"epoch": 1}, {"epoch": 2})
    data = bytearray(folder.checkpoint.read_bytes())
    data[len(data) // 2] ^= 1
    folder.checkpoint.write_bytes(data)
    message = (
        rf"^{folder.checkpoint} is damaged \(its checksum is not that of its content\); "
        r"the one before it, checkpoint.previous.pt, is whole: copy it over checkpoint.pt to go on from there$"
    )
    with pytest.raises(DamagedFile, match=message):
        folder.load_checkpoint()
    folder.previous.replace(folder.checkpoint)
    assert folder.load_checkpoint() == {"epoch": 1}


def test_a_missing_checkpoint_offers_the_one_before(tmp_path: Path) -> None:
    folder = started(tmp_path, {"epoch": 1}, {"epoch": 2})
    folder.checkpoint.unlink()
    with pytest.raises(FileNotFoundError, match=r"an older one, checkpoint.previous.pt; rename it to checkpoint.pt"):
        folder.load_checkpoint()
    with pytest.raises(FileExistsError):
        folder.start(ABOUT)


@pytest.mark.parametrize("where", [0, 30, 500, -1, -40, -64, -71, -72, -80])
def test_any_flipped_bit_of_a_checkpoint_is_found(tmp_path: Path, where: int) -> None:
    folder = started(tmp_path, {"epoch": 1, "weights": torch.zeros(100)})
    data = bytearray(folder.checkpoint.read_bytes())
    data[where] ^= 16
    folder.checkpoint.write_bytes(data)
    with pytest.raises(
        DamagedFile, match=rf"^{folder.checkpoint} is damaged \(its checksum is not that of its content\)$"
    ):
        folder.load_checkpoint()


@pytest.mark.parametrize("length", [0, 1, 70, 71, 72, 1000])
def test_a_truncated_checkpoint_is_found(tmp_path: Path, length: int) -> None:
    folder = started(tmp_path, {"epoch": 1})
    folder.checkpoint.write_bytes(folder.checkpoint.read_bytes()[:length])
    with pytest.raises(DamagedFile, match=rf"^{folder.checkpoint} is damaged"):
        folder.load_checkpoint()


def test_a_file_that_pytorch_wrote_is_no_checkpoint_of_a_run(tmp_path: Path) -> None:
    folder = started(tmp_path)
    torch.save({"state": {}}, folder.checkpoint)
    with pytest.raises(DamagedFile, match="is damaged"):
        folder.load_checkpoint()


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "\x00" * 20, '{"settings": {"epochs": 3}', "[" * 100_000])
def test_damaged_settings_are_one_line(tmp_path: Path, content: str) -> None:
    folder = started(tmp_path, {"epoch": 1})
    folder.settings.write_text(content)
    for read in (folder.load_settings, folder.load_checkpoint, folder.about):
        with pytest.raises(DamagedFile) as caught:
            read()
        assert str(caught.value).startswith(f"{folder.settings} ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [{}, {"settings": 3}, {"settings": {"epoch": 3}}, {"settings": {"epochs": "3"}}, {"settings": {"betas": 1}}],
)
def test_settings_of_another_kind_are_one_line(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = RunFolder(tmp_path)
    folder.replace_json(folder.settings, settings)
    with pytest.raises(DamagedFile, match=rf"^{folder.settings} does not hold the settings of a search \(.*\)$"):
        folder.load_settings()


# --- rows -------------------------------------------------------------------------------------------------------------


def test_rows_are_valid_json_whatever_they_hold(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    rows = [{"a": float("nan"), "b": [np.float32("inf"), {"c": -np.inf}], "d": np.int64(3), "e": torch.tensor(2.5)}]
    folder.append(rows)
    folder.append([{"ü": "→"}])
    for line in folder.metrics.read_bytes().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert folder.rows() == [{"a": None, "b": [None, {"c": None}], "d": 3, "e": 2.5}, {"ü": "→"}]
    folder.replace_json(folder.settings, {"a": float("nan")})
    assert json.loads(folder.settings.read_text()) == {"a": None}


def test_a_torn_last_row_is_left_out_and_written_over(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text('{"epoch": 1}\n{"epoch": 2, "lo')
    assert folder.rows() == [{"epoch": 1}]
    folder.append([{"epoch": 2}])
    old, new = folder.metrics.read_text().splitlines()
    assert old == '{"epoch": 1}'
    assert json.loads(new).keys() == {"epoch", "checksum"}
    assert folder.rows() == [{"epoch": 1}, {"epoch": 2}]


def test_any_flipped_bit_of_a_row_is_found(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    rows = [{"epoch": 1, "loss": 0.25}, {"epoch": 2, "name": "für"}, {}]
    folder.append(rows)
    assert folder.rows() == rows
    whole = folder.metrics.read_bytes()
    for place in range(len(whole) - 1):  # without the last line's end the last row is torn
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            folder.metrics.write_bytes(damaged)
            with pytest.raises(DamagedFile, match=rf"^{folder.metrics} is damaged in line \d \("):
                folder.rows()


def test_rows_that_are_copied_keep_no_old_checksum(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append([{"epoch": 1, "checksum": "0" * 16}])
    folder.replace_rows([{**row, "epoch": 2} for row in folder.rows()])
    assert folder.rows() == [{"epoch": 2}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"epo', "Invalid control character"),
        ("3", "it should hold an object, but holds int"),
        ('{"loss": 1}', "'epoch' is missing"),
        ('{"epoch": "1"}', "epoch is '1'"),
        ('{"epoch": true}', "epoch is True"),
        ("\x00\x00", "Expecting value"),
    ],
)
def test_a_damaged_row_is_named(tmp_path: Path, line: str, reason: str) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text(f'{{"epoch": 1}}\n{line}\n{{"epoch": 2}}\n')
    with pytest.raises(DamagedFile, match=rf"^{folder.metrics} is damaged in line 2 \({reason}") as caught:
        folder.forget_after(1)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).rows("rows.jsonl") == []


# --- other systems ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has the rule itself")
def test_files_are_flushed_as_windows_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, `os.fsync` refuses what is open for reading only."""
    import fcntl

    fsync, flushed = os.fsync, []

    def strict(number: int) -> None:
        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        flushed.append(number)
        fsync(number)

    monkeypatch.setattr(os, "fsync", strict)
    folder = started(tmp_path, {"epoch": 1}, {"epoch": 2})
    folder.replace_rows([{"epoch": 1}])
    assert len(flushed) >= 4


def test_without_links_the_checkpoint_before_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    folder = started(tmp_path, {"epoch": 1}, {"epoch": 2})
    assert files.read_checkpoint(folder.previous)["epoch"] == 1
    assert folder.load_checkpoint() == {"epoch": 2}


def test_text_is_utf_8_wherever_it_is_read_or_written() -> None:
    root = Path(fasteraa_transforms.__file__).parent / "search"
    without = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in sorted(root.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _opens_text(node) and "encoding" not in {each.arg for each in node.keywords}
    ]
    assert without == []


def _opens_text(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("read_text", "write_text"):
        return True
    owner = getattr(getattr(call.func, "value", None), "id", "")
    if name != "open" or owner in ("Image", "os", "tarfile"):
        return False
    modes = [each.value for each in ast.walk(call) if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return not any("b" in mode and set(mode) <= set("rwaxb+") for mode in modes)


# --- what is printed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_no_character_ends_a_run(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    say("0.1 → 0.2 für 猫\x1b[31m\r\ttab\nnext")
    shown = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert shown.endswith("\\x1b[31m\\r\ttab\nnext\n")
    assert ("→" in shown) == (encoding == "utf-8")
    assert ("ü" in shown) == (encoding != "ascii")


def test_a_stream_that_is_closed_or_missing_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (closed, None):
        monkeypatch.setattr(sys, "stdout", stream)
        say("nobody reads this")
    output = Output(None)
    output.write("nor this")
    output.flush()
    assert not output.isatty()


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe breaks in another way on Windows")
def test_a_reader_that_goes_away_ends_no_run() -> None:
    program = "from fasteraa_transforms.search.runtime.output import say\nfor _ in range(20_000): say('line')\n"
    process = subprocess.run(
        f"{sys.executable} -c {shlex.quote(program)} | head -n 1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert (process.stdout, process.stderr, process.returncode) == ("line\n", "", 0)


def test_commands_can_be_pasted() -> None:
    assert command_line("--resume", Path("runs/my pets; rm x")) == "--resume 'runs/my pets; rm x'"


def test_names_are_the_same_in_every_locale() -> None:
    undecoded = "für".encode().decode("ascii", "surrogateescape")  # as Python has it in the locale C
    assert readable(undecoded) == readable("für") == "für"
    assert readable(b"\xff".decode("utf-8", "surrogateescape")) == "\\xff"
    assert readable("\ud800").encode() == b"\\ud800"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locale")
def test_an_evaluation_runs_in_a_locale_without_its_characters(tmp_path: Path) -> None:
    for name in ("Kätzchen", "Hund→"):
        (tmp_path / "Tiere für" / name).mkdir(parents=True)
        for i in range(4):
            image = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "Tiere für" / name / f"{i}é.png")
    module = [sys.executable, "-m", "fasteraa_transforms.search.evaluate"]
    options = ["--policies", "none,ü=cifar10", "--epochs", "1", "--batch-size", "4", "--model", "small", "--seeds", "1"]
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = subprocess.run(
        [*module, "Tiere für", *options, "--out", "läufe/ü"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"} | locale,
        capture_output=True,
        text=True,
        encoding="ascii",
    )
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "läufe" / "ü"
    assert [row["augmentation"] for row in files.read_rows(folder / "rows.jsonl")] == ["none", "ü"]
    assert "Tiere für: 4 training images" in (folder / "table.md").read_text(encoding="utf-8")
