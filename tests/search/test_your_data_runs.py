"""Whole searches on images of one's own from the command line: what is said, kept, refused and found again."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fasteraa_transforms import Policy
from fasteraa_transforms.search.__main__ import main
from fasteraa_transforms.search.report import plots as pictures
from fasteraa_transforms.search.runtime.claim import claim

SMALL = shlex.split("--preset paper --epochs 1 --batch-size 4 --sub-policies 2 --stages 1 --critic small --padding 1")


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib takes longer than the runs of these tests."""
    monkeypatch.setattr(pictures, "curves", lambda *args: None)
    monkeypatch.setattr(pictures, "curve_svg", lambda *args: "")


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (10, 10, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for i in range(12):
        write(tmp_path / "my pets" / ("cat", "dog")[i % 2] / f"{i}.png", i)
    return tmp_path / "my pets"


def test_a_search_within_its_data(
    pets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(pets)
    assert main([".", *SMALL]) == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert said == "12 of 12 images, 3×10×10 (channels, height, width); 2 classes: cat (6), dog (6)"
    out = pets / "runs" / "my pets"
    policy = Policy.load(out / "policy.json")
    assert policy.name == "my pets"
    assert policy.provenance["source"] == {"dataset": "my pets"}

    assert main([".", *SMALL, "--out", "runs/again"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [said, f"left out of {pets}: runs (runs of a search or an evaluation)"] or lines[1].endswith(
        ": runs (runs of a search or an evaluation)"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["--resume", str(out)]) == 0  # from another folder
    assert Policy.load(out / "policy.json") == policy


def test_data_that_moved_or_changed(pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main([str(pets), *SMALL, "--out", str(out)]) == 0
    moved = pets.rename(tmp_path / "elsewhere")
    assert main(["--resume", str(out)]) == 2
    assert str(pets) in capsys.readouterr().err
    assert main(["--resume", str(out), str(moved)]) == 0
    capsys.readouterr()

    for change, difference in (
        (lambda: write(moved / "cat" / "0.png", 99), "images were changed or replaced"),
        (lambda: write(moved / "cat" / "99.png", 99), "they were 12 and are 13"),
        (lambda: write(moved / "owl" / "99.png", 99), "they have a new class, owl"),
    ):
        change()
        assert main(["--resume", str(out), str(moved)]) == 2
        message = f"error: the images should be those that {out} was started with, but {difference}; "
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(message)


def test_broken_images_are_skipped_and_listed(pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pets / "cat" / "0.png").write_bytes(b"no image")
    assert main([str(pets), *SMALL, "--out", str(tmp_path / "run")]) == 2
    assert "1 of 12 images cannot be read" in capsys.readouterr().err
    assert main([str(pets), *SMALL, "--out", str(tmp_path / "run"), "--skip-broken"]) == 0
    assert re.search(r"^1 of 12 images cannot be read and are left out:\n    .*0\.png", capsys.readouterr().out, re.M)


def test_a_folder_that_is_in_use(pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with claim(tmp_path / "run"):
        assert main([str(pets), *SMALL, "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'run'} is in use by process {os.getpid()} on ")
    assert main([str(pets), *SMALL, "--out", str(tmp_path / "run")]) == 0
    assert not (tmp_path / "run" / "run.lock").exists()


@pytest.mark.parametrize("name", ["checkpoint.pt", "settings.json"])
def test_a_damaged_folder_is_one_line(
    pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    out = tmp_path / "run"
    assert main([str(pets), *SMALL, "--out", str(out)]) == 0
    whole = (out / name).read_bytes()
    for damaged in (
        b"",
        whole[: len(whole) // 2],
        whole.replace(b"dog", b"dot").replace(b'"epochs": 1', b'"epochs": 9'),
    ):
        (out / name).write_bytes(damaged if damaged != whole else whole[:-1])
        capsys.readouterr()
        assert main(["--resume", str(out)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {out / name} ")
    (out / "checkpoint.previous.pt").replace(out / "checkpoint.pt")
    if name == "checkpoint.pt":
        assert main(["--resume", str(out)]) == 0


def test_a_run_without_a_checkpoint_starts_again(pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main([str(pets), *SMALL, "--out", str(out)]) == 0
    policy = Policy.load(out / "policy.json")
    for file in out.glob("checkpoint*.pt"):
        file.unlink()
    assert main([str(pets), *SMALL, "--out", str(out)]) == 0
    assert Policy.load(out / "policy.json") == policy


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locale")
def test_a_search_in_a_locale_without_its_characters(pets: Path, tmp_path: Path) -> None:
    shutil.copytree(pets, tmp_path / "Tiere für")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "fasteraa_transforms.search", "Tiere für", *SMALL, "--out", "läufe/ü"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | locale,
        capture_output=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.isascii()
    out = tmp_path / "läufe" / "ü"
    assert Policy.load(out / "policy.json").name == "Tiere für"
    assert main(["--resume", str(out)]) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe breaks in another way on Windows")
def test_a_closed_output_ends_no_search(pets: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fasteraa_transforms.search", str(pets), *SMALL, "--out", str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(["/bin/sh", "-c", f"{shlex.join(command)} >&- 2>&-"], env=environment)
    assert result.returncode == 0
    assert (tmp_path / "run" / "report.html").is_file()
