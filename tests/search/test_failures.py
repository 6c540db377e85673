"""A search that cannot go on says why, and what it had stays: diverged, out of memory, a full disk, kill -9."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import STEP_METRICS
from torch import Tensor

from fasteraa_transforms import Policy
from fasteraa_transforms.search import SearchFailed, SearchInterrupted, Settings, search, task
from fasteraa_transforms.search.__main__ import main
from fasteraa_transforms.search.algorithm.state import SearchState
from fasteraa_transforms.search.algorithm.wasserstein import Wasserstein
from fasteraa_transforms.search.report import plots as pictures

TINY = Settings.paper(epochs=3, batch_size=16, sub_policies=3, stages=1, num_images=48, padding=1)
STEPS_PER_EPOCH = 3
PATIENCE = 600  # seconds for what takes some ten; on a machine that many share it can be minutes


def own_images() -> list[tuple[Tensor, int]]:
    images = torch.randint(0, 256, (48, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return [(image, i % 4) for i, image in enumerate(images)]


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib takes longer than the runs of these tests."""
    monkeypatch.setattr(pictures, "curves", lambda *args: None)
    monkeypatch.setattr(pictures, "curve_svg", lambda *args: "")


@pytest.fixture(scope="module")
def whole() -> Policy:
    """What a search that nothing disturbs finds."""
    return search(own_images(), TINY, progress=False)


def disturb(monkeypatch: pytest.MonkeyPatch, change: Callable[[int, SearchState, dict[str, Tensor]], object]) -> None:
    """Call ``change`` with the number of each step, counted from 1, the state and what the step measured."""
    step = Wasserstein.step
    count = 0

    def disturbed(self: Wasserstein, state: SearchState, *args: Any) -> dict[str, Tensor]:
        nonlocal count
        count += 1
        measured = step(self, state, *args)
        change(count, state, measured)
        return measured

    monkeypatch.setattr(Wasserstein, "step", disturbed)


# --- diverged ---------------------------------------------------------------------------------------------------------


def _nan(number: int, state: SearchState, measured: dict[str, Tensor]) -> None:
    if number == 5:
        measured["class_loss_real"].fill_(torch.nan)
        measured["policy_loss"].fill_(-torch.inf)


def _explodes(number: int, state: SearchState, measured: dict[str, Tensor]) -> None:
    if number in (5, 6):
        measured["gradient_penalty"].fill_(1e6)


@torch.no_grad()
def _parameters(number: int, state: SearchState, measured: dict[str, Tensor]) -> None:
    if number == 6:
        state.policy.magnitudes[0, 0, 0] = torch.nan


@pytest.mark.parametrize(
    ("change", "step", "reason"),
    [
        (_nan, 5, "class_loss_real is nan, policy_loss is -inf"),
        (_explodes, 5, "the critic explodes, its slope is 1e+03 where 1 is wanted"),
        (_parameters, 6, "it left parameters that are not finite"),
    ],
)
def test_a_search_that_diverges_stops_and_keeps_the_last_good_epoch(
    change: Any, step: int, reason: str, whole: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        disturb(patch, change)
        with pytest.raises(SearchFailed) as caught:
            search(own_images(), TINY, out=tmp_path, progress=False)
    message = str(caught.value)
    assert message.startswith(f"the search diverged in step {step}, epoch 2 of 3: {reason}.\n")
    measured = re.search(r"^Measured in it: (.*)\.$", message, re.MULTILINE)
    assert measured is not None
    assert [each.split()[0] for each in measured[1].split(", ")] == list(STEP_METRICS)
    assert f"the last good checkpoint, {tmp_path / 'checkpoint.pt'}, holds 1 whole epochs" in message
    assert "a lower critic_learning_rate (now 0.001) or policy_learning_rate (now 0.001)" in message
    assert "precision float32 (now float32)" in message

    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["epoch"] == 1
    assert Policy.load(tmp_path / "policy.json").provenance["epochs"] == 1
    assert '"epoch": 2' not in (tmp_path / "metrics.jsonl").read_text()
    assert search(own_images(), TINY, out=tmp_path, resume=True, progress=False) == whole


def test_a_search_that_really_diverges(tmp_path: Path) -> None:
    settings = Settings(**{**vars(TINY), "critic_learning_rate": 1e20})
    with pytest.raises(SearchFailed, match=r"diverged in step \d, epoch 1 of 3: .*(nan|inf|slope)"):
        search(own_images(), settings, out=tmp_path, progress=False)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["epoch"] == 0


def test_one_steep_step_is_no_explosion(whole: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    def spike(number: int, state: SearchState, measured: dict[str, Tensor]) -> None:
        if number == 5:
            measured["gradient_penalty"].fill_(1e6)

    disturb(monkeypatch, spike)
    assert search(own_images(), TINY, progress=False) == whole


def test_a_search_without_a_folder_that_diverges(monkeypatch: pytest.MonkeyPatch) -> None:
    disturb(monkeypatch, _nan)
    with pytest.raises(SearchFailed, match="nothing was kept, since no folder was given"):
        search(own_images(), TINY, progress=False)


# --- interrupted ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["exported", "leave_pictures", "report.page"])
def test_ctrl_c_in_the_report_leaves_the_report_alone_to_do(
    where: str, whole: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"fasteraa_transforms.search.run.{where}", interrupted)
        with pytest.raises(SearchInterrupted) as caught:
            search(own_images(), TINY, out=tmp_path, progress=False)
    assert re.fullmatch(
        rf"interrupted while writing the report; {tmp_path} keeps all that was searched; only the report is left\. "
        rf"Write it with\n    .* search --resume {tmp_path}",
        str(caught.value),
    )
    monkeypatch.setattr(Wasserstein, "step", interrupted)  # nothing is searched again
    assert search(own_images(), TINY, out=tmp_path, resume=True, progress=False) == whole
    assert (tmp_path / "report.html").is_file()


# --- out of memory ----------------------------------------------------------------------------------------------------


def _cuda(*args: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.25 GiB. GPU 0 has a total capacity of …")


def _cpu(*args: object) -> None:
    torch.empty(10**17)


def _cublas(*args: object) -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


@pytest.mark.parametrize(
    ("fail", "tried"),
    [(_cuda, r" \(tried to allocate 2.25 gib\)"), (_cpu, r" \(tried to allocate 4\d+ bytes\)"), (_cublas, "")],
)
def test_out_of_memory_says_what_to_lower(
    fail: Any, tried: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(number: int, *args: object) -> None:
        if number == 4:
            fail()

    disturb(monkeypatch, change)
    message = (
        rf"^out of memory in epoch 2 of 3{tried}; start again with a lower batch_size \(now 16\), a lower image_size "
        r"\(now 12×12\) or a smaller critic \(now small\)$"
    )
    with pytest.raises(SearchFailed, match=message):
        search(own_images(), TINY, out=tmp_path, progress=False)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["epoch"] == 1


@pytest.mark.parametrize("fail", [_cpu, lambda *args: [0] * 10**17], ids=["torch", "python"])
def test_images_that_do_not_fit_into_memory(fail: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "load_images", lambda *args, **options: fail())
    message = (
        r"^out of memory before the first step.*; lower num_images \(now 48\) or image_size \(now that of the images\)$"
    )
    with pytest.raises(SearchFailed, match=message):
        search(own_images(), TINY, progress=False)


MEASURE = """
import resource
import torch
from fasteraa_transforms.search import Settings
from fasteraa_transforms.search.algorithm.setup import make_tools, set_up
from fasteraa_transforms.search.task import load_task

class Images:
    def __init__(self, count, side):
        self.count, self.side = count, side

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.randint(0, 256, (3, self.side, self.side), dtype=torch.uint8), index % 4

def prepare(count, side):
    settings = Settings(batch_size=8, critic="small", device="cpu")
    task = load_task(Images(count, side), settings, name="own")
    set_up(task, settings)
    make_tools(task, settings)
    task.data.identity()

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

torch.set_num_threads(1)
prepare(8, 256)
before = peak()
prepare(600, 256)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is counted in other units, or not at all")
def test_before_the_first_step_memory_is_twice_that_of_the_images_at_most() -> None:
    result = subprocess.run(
        [sys.executable, "-c", MEASURE],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) <= 2 * 600 * 3 * 256 * 256


def test_other_errors_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    disturb(monkeypatch, fail)
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2") as caught:
        search(own_images(), TINY, progress=False)
    assert type(caught.value) is RuntimeError


def test_the_command_line_says_why_in_lines_of_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    disturb(monkeypatch, _cuda)
    assert main([*ARGUMENTS, "--out", str(tmp_path)]) == 1
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("error: out of memory in epoch 1 of 3 (tried to allocate 2.25 gib); ")


# --- writing that fails -----------------------------------------------------------------------------------------------

PROGRAM = """
import os, resource, signal, sys
from pathlib import Path
import torch
from fasteraa_transforms.search.report import plots as pictures
from fasteraa_transforms.search.__main__ import main

torch.set_num_threads(1)
pictures.curves = lambda *args: None
pictures.curve_svg = lambda *args: ""
how, *arguments = sys.argv[1:]
write_bytes, checkpoints = Path.write_bytes, 0

def disturbed(path, data):
    global checkpoints
    checkpoints += 1
    if checkpoints == 3:  # the start, epoch 1, epoch 2
        if how == "kill":
            write_bytes(path, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return write_bytes(path, data)

Path.write_bytes = disturbed
sys.exit(main(arguments))
"""
SETTINGS = {"epochs": 3, "num-images": 48, "batch-size": 16, "sub-policies": 3, "stages": 1, "image-size": 12}
ARGUMENTS = [
    "--preset=paper",
    *(text for name, value in SETTINGS.items() for text in (f"--{name}", str(value))),
]


def run_program(how: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, how, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither SIGKILL nor limits of files")
def test_kill_9_and_a_full_disk_leave_the_last_checkpoint(tmp_path: Path) -> None:
    undisturbed = tmp_path / "undisturbed"
    assert main([*ARGUMENTS, "--out", str(undisturbed)]) == 0
    for how in ("kill", "full"):
        out = tmp_path / how
        result = run_program(how, *ARGUMENTS, "--out", str(out))
        if how == "kill":
            assert result.returncode == -signal.SIGKILL, result.stderr
            (torn,) = out.glob(".*.tmp")
            assert torn.stat().st_size > 100_000
        else:
            assert result.returncode == 1, result.stderr
            assert "Traceback" not in result.stderr
            message = f"error: {out} could not be written ([Errno 27] File too large); {out} keeps 1 whole epochs."
            assert message in result.stderr
            assert f"fasteraa search --resume {out}" in result.stderr
            assert not list(out.glob(".*"))
        assert torch.load(out / "checkpoint.pt", weights_only=True)["state"]["epoch"] == 1

        assert main(["--resume", str(out)]) == 0
        assert Policy.load(out / "policy.json") == Policy.load(undisturbed / "policy.json")
        assert not list(out.glob(".*"))


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(tmp_path: Path, whole: Policy) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "epoch", "epoch": 0')
    assert search(own_images(), TINY, out=tmp_path, progress=False) == whole
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3 * STEPS_PER_EPOCH + 4
