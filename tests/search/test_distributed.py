"""Several processes do what one does: a step, a search, an evaluation. And where one of them fails, none hangs.

The processes are real, and started by torchrun; they talk by Gloo, on the CPU.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import search_ranks as ranks
import torch
from torch import Tensor

from fasteraa_transforms import Policy
from fasteraa_transforms.search import search
from fasteraa_transforms.search.__main__ import main
from fasteraa_transforms.search.report import plots as pictures
from fasteraa_transforms.search.runtime import world as distributed
from fasteraa_transforms.search.runtime.files import read_rows
from fasteraa_transforms.search.runtime.world import World, exit_with, join

SCRIPT = str(Path(ranks.__file__))
TINY = "--epochs 1 --num-images 48 --batch-size 16 --sub-policies 3 --stages 1 --image-size 8 --padding 1"


def torchrun(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=ranks.PATIENCE,
    )


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib takes longer than the runs of these tests."""
    monkeypatch.setattr(pictures, "curves", lambda *args: None)
    monkeypatch.setattr(pictures, "curve_svg", lambda *args: "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks did everything, and before them one process a part of it."""
    folder = tmp_path_factory.mktemp("ranks")
    ranks.interrupted(folder / "left")
    ranks.evaluated(folder / "evaluation-left", seeds=1)
    result = torchrun(SCRIPT, "everything", str(folder))
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def both(folder: Path) -> list[dict[str, Any]]:
    """What each of the two ranks found."""
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> Policy:
    """What one process finds."""
    return search(ranks.Images(), ranks.HELD, progress=False)


def parameters(policy: Any) -> Tensor:
    """Every weight, probability and magnitude of a policy."""
    content = json.loads(policy.to_json()) if isinstance(policy, Policy) else policy
    candidates = [each for sub_policy in content["sub_policies"] for stage in sub_policy for each in stage]
    names = ("weight", "probability", "magnitude")
    return torch.tensor([each[name] for each in candidates for name in names if each.get(name) is not None])


def assert_found_alike(one: Any, other: Any) -> None:
    """Up to what rounding becomes: Adam makes steps of one size of gradients of any, and pixels jump to their place."""
    difference = (parameters(one) - parameters(other)).abs()
    assert difference.mean() < 1e-3
    assert difference.max() < 2e-2  # a step of the policy's optimizer


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in ("seconds", "images_per_second")} for row in rows]


# --- one step ---------------------------------------------------------------------------------------------------------


def test_steps_on_two_ranks_are_those_of_one_process(both: list[dict[str, Any]]) -> None:
    """Of a critic without batch norm."""
    alone = ranks.steps("small", World())
    for found in both:
        torch.testing.assert_close(found["steps, small"], alone, rtol=1e-6, atol=1e-7, check_dtype=False)


@pytest.mark.parametrize("backbone", ranks.BACKBONES)
def test_the_ranks_have_the_same_parameters(backbone: str, both: list[dict[str, Any]]) -> None:
    one, other = (found[f"steps, {backbone}"] for found in both)
    start = ranks.steps(backbone, World(), steps=0)
    differ = {name for name in one if not torch.equal(one[name], other[name])}
    assert differ == {name for name in one if "running_" in name}  # the statistics of batch norm are each rank's own
    for name in ("critic.class_head.weight", "policy.weights", "policy.magnitudes"):
        assert not torch.equal(one[name], start[name])


# --- a search ---------------------------------------------------------------------------------------------------------


def test_a_search_on_two_ranks_finds_what_one_process_finds(
    alone: Policy, both: list[dict[str, Any]], folder: Path
) -> None:
    assert parameters(both[0]["policy"]).equal(parameters(both[1]["policy"]))
    assert parameters(both[0]["policy"]).equal(parameters(Policy.load(folder / "search" / "policy.json")))
    assert_found_alike(both[0]["policy"], alone)
    provenance = both[0]["policy"]["provenance"]
    assert (provenance["processes"], alone.provenance["processes"]) == (2, 1)
    found, expected = (each["diagnosis"] for each in (provenance, alone.provenance))
    for name in ("held", "strength_start", "strength_end"):
        assert found[name] == pytest.approx(expected[name], rel=0.05)
    assert (folder / "search" / "strength-0.5.json").is_file()


def test_a_policy_comes_out_of_a_critic_with_batch_norm(both: list[dict[str, Any]]) -> None:
    found = [each["policy, batch norm"] for each in both]
    assert parameters(found[0]).equal(parameters(found[1]))
    assert found[0]["provenance"]["processes"] == 2
    assert found[0]["provenance"]["diagnosis"]["drift"] > 0


def test_one_rank_writes(folder: Path) -> None:
    rows = read_rows(folder / "search" / "metrics.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "step"] == list(range(1, 13))
    assert len(list((folder / "search" / "tensorboard").iterdir())) == 1


def test_a_checkpoint_of_one_process_is_resumed_by_two(alone: Policy, both: list[dict[str, Any]]) -> None:
    assert_found_alike(both[0]["resumed"], alone)


def test_a_checkpoint_of_two_processes_is_resumed_by_one(
    alone: Policy, both: list[dict[str, Any]], folder: Path
) -> None:
    out = folder / "interrupted"
    for found in both:
        assert found["interrupted"] == (
            f"interrupted in epoch 3 of 4; {out} keeps the last epoch that was written. Continue with\n"
            f"    torchrun --nproc-per-node 2 -m fasteraa_transforms.search --resume {out}"
        )
    assert torch.load(out / "checkpoint.pt", weights_only=True)["state"]["epoch"] == 2
    assert_found_alike(search(ranks.Images(), ranks.HELD, out=out, resume=True, progress=False), alone)


def test_what_several_processes_refuse(both: list[dict[str, Any]]) -> None:
    assert both[0]["refused"] == both[1]["refused"]
    batch, images, out = both[0]["refused"]
    assert batch == "batch_size should be a multiple of 4, two halves for each of 2 processes, but got 18 instead"
    assert images.startswith("the checksum of the images should be the same on all ranks, but got ")
    assert images.endswith(" on rank 1")
    assert out == "out should be given for several processes, whose rows meet there, but got None instead"


@pytest.mark.slow
def test_the_command_line_under_torchrun(tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["digits", *TINY.split(), "--preset=paper"]
    result = torchrun("-m", "fasteraa_transforms.search", *arguments, "--out", str(out))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(f"wrote {out / 'policy.json'}") == 1
    assert result.stdout.count("Close to the random start") == 1
    assert result.stderr.count("epoch 1/1:   0%") == 1
    assert main([*arguments, "--out", str(tmp_path / "alone")]) == 0
    assert_found_alike(Policy.load(out / "policy.json"), Policy.load(tmp_path / "alone" / "policy.json"))


# --- one of them fails ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "out of memory"])
def test_a_rank_that_fails_ends_the_run_with_a_message_and_a_checkpoint(how: str, tmp_path: Path) -> None:
    result = torchrun(SCRIPT, how, str(tmp_path))
    assert result.returncode == 1
    errors = result.stderr
    assert (
        f"{tmp_path} keeps the last epoch that was written. Continue with\n"
        f"    torchrun --nproc-per-node 2 -m fasteraa_transforms.search --resume {tmp_path}\n"
    ) in errors
    if how == "killed":
        assert "\nrank 0: stopped by SIGTERM, with which torchrun follows up the end of a process; " in errors
        assert "Signal 9 (SIGKILL)" in errors
    else:
        message = (
            "\nrank 1: error: out of memory in epoch 2 of 3 (tried to allocate 2.25 gib); start again with a lower "
        )
        assert message in errors
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["epoch"] == 1
    assert main(["--resume", str(tmp_path)]) == 0
    assert Policy.load(tmp_path / "policy.json").provenance["epochs"] == 3


# --- an evaluation ----------------------------------------------------------------------------------------------------


def test_an_evaluation_by_two_processes_has_the_rows_of_one(
    both: list[dict[str, Any]], folder: Path, tmp_path: Path
) -> None:
    expected = timeless(ranks.evaluated(tmp_path))
    assert len(expected) == 6
    for found in both:
        assert timeless(found["rows"]) == expected
        assert timeless(found["rows after one process"]) == expected
    for name in ("evaluation", "evaluation-left"):
        rows = read_rows(folder / name / "rows.jsonl")
        assert timeless(rows) == expected
        assert "| random | 2 |" in (folder / name / "table.md").read_text()
        assert not list((folder / name).glob("rows-*"))
        assert not list((folder / name / "checkpoints").iterdir())


def test_the_command_line_of_an_evaluation_by_two_processes(both: list[dict[str, Any]], folder: Path) -> None:
    assert [found["status"] for found in both] == [0, 0]
    assert both[1]["printed"] == ""
    assert "| none | 1 |" in both[0]["printed"]
    about = json.loads((folder / "command line" / "settings.json").read_text())
    assert about["command"].startswith("torchrun --nproc-per-node 2 -m fasteraa_transforms.search.evaluate ")


def test_rows_that_a_lost_rank_left_are_kept(tmp_path: Path) -> None:
    whole = ranks.evaluated(tmp_path, seeds=1)
    *first, last = (tmp_path / "rows.jsonl").read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join(first) + "\n")
    (tmp_path / "rows-1.jsonl").write_text(last + "\n")
    assert ranks.evaluated(tmp_path, seeds=1) == whole  # the seconds too: nothing was trained again
    assert (tmp_path / "rows.jsonl").read_text().splitlines() == [*first, last]
    assert not (tmp_path / "rows-1.jsonl").exists()


# --- one process ------------------------------------------------------------------------------------------------------


def test_one_process_is_a_world_in_which_nothing_is_exchanged() -> None:
    world = join()
    assert world == World(rank=0, size=1)
    assert world.first
    values = torch.rand(3)
    assert world.mean(values) is values
    assert world.sum(values) is values
    assert world.gather_objects("it") == ["it"]
    assert world.from_first(lambda: 3) == world.after_first(lambda: 3) == 3
    assert list(world.take(3)) == [0, 1, 2]
    with world.telling_when_terminated(str):
        pass


def test_shares_are_the_parts_of_a_batch() -> None:
    images = torch.arange(12)
    assert torch.cat([images[World(rank, 3).share(12)] for rank in range(3)]).equal(images)


@pytest.mark.parametrize(
    ("name", "rank", "message"),
    [
        ("cuda:1", 0, r"^device should be auto, cpu or cuda for several processes, but got 'cuda:1' instead$"),
        ("meta", 0, r"^device should be auto, cpu or cuda for several processes, but got 'meta' instead$"),
        ("cuda", 2, r"^--nproc-per-node should be at most 2, one for each GPU, but got 4$"),
    ],
)
def test_devices_that_several_processes_refuse(
    name: str, rank: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "pick_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(ValueError, match=message):
        World(rank, 4).device(name)


def test_each_rank_has_the_gpu_of_its_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(distributed, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert World(3, 4).device("auto") == torch.device("cuda", 1)
    assert chosen == [1]
    assert World().device("auto") == torch.device("cuda")
    assert chosen == [1]


def test_only_the_first_rank_says_what_all_would_say(capsys: pytest.CaptureFixture[str]) -> None:
    for rank in range(2):
        with World(rank, 2).quiet():
            print(f"out {rank}")
            print(f"error {rank}", file=sys.stderr)
    assert capsys.readouterr() == ("out 0\n", "error 0\n")


def test_one_process_exits_as_ever(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^3$"):
        exit_with(lambda: 3)

    def fail() -> int:
        raise RuntimeError("a bug of somebody's")

    with pytest.raises(RuntimeError, match=r"^a bug of somebody's$"):
        exit_with(fail)
