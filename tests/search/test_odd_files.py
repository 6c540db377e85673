"""Damaged folders of runs, and folders of images with odd files: an answer or one line, never a traceback."""

import io
import json
import os
import shutil
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import DAMAGE, attempt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fasteraa_transforms.search import Settings, load_images, open_dataset
from fasteraa_transforms.search.runtime import files
from fasteraa_transforms.search.runtime.files import DamagedFile
from fasteraa_transforms.search.runtime.folder import RunFolder

fuzzed = settings(
    derandomize=True, deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

# --- folders of runs --------------------------------------------------------------------------------------------------

STATE = {"epoch": 2, "weights": torch.arange(50.0), "found": [{"loss": 0.5}], "optimizer": {0: torch.ones(3)}}
ROWS = [{"kind": "step", "epoch": epoch, "loss": 0.25 * epoch} for epoch in range(4)]
NEEDS: dict[str, type | tuple[type, ...]] = {"epoch": int, "loss": (int, float)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, with a checkpoint and the one before."""
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    folder.start({"settings": Settings(epochs=7).__dict__, "source": {"dataset": "digits", "data_dir": "/data"}})
    folder.append(ROWS)
    folder.save_checkpoint({**STATE, "epoch": 1})
    folder.save_checkpoint(STATE)
    return folder.path


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    return bool(one == other)


@fuzzed
@given(name=st.sampled_from(["checkpoint.pt", "settings.json"]), damage=DAMAGE)
def test_a_damaged_run_is_refused_in_one_line_or_goes_on_as_it_was(
    run: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(shutil.copytree(run, Path(place) / "run"))
        path = folder.path / name
        path.write_bytes(damage(path.read_bytes()))
        state, error = attempt(folder.load_checkpoint, DamagedFile)
        if error:
            assert error.startswith(f"{path} ")
            assert "\n" not in error
        else:
            assert equal(state, STATE)
            assert folder.about()["settings"] == files.plain(Settings(epochs=7).__dict__)
        if name == "settings.json":
            found, error = attempt(folder.load_settings, DamagedFile)
            assert isinstance(found, Settings) or error.startswith(f"{path} ")
            assert "\n" not in error
        elif path.read_bytes() != (run / name).read_bytes():
            with pytest.raises(DamagedFile, match=r"the one before it, checkpoint\.previous\.pt, is whole"):
                folder.load_checkpoint()


@fuzzed
@given(damage=DAMAGE)
def test_damaged_rows_are_refused_in_one_line_or_can_be_used(run: Path, damage: Callable[[bytes], bytes]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(place)
        folder.metrics.write_bytes(damage((run / "metrics.jsonl").read_bytes()))
        rows, error = attempt(lambda: folder.rows(needs=NEEDS), DamagedFile)
        if error:
            assert error.startswith(f"{folder.metrics} is damaged in line ")
            assert "\n" not in error
            return
        folder.forget_after(1)
        assert all(type(row["epoch"]) is int and type(row["loss"]) in (int, float) for row in rows)
        kept = [row for row in rows if row["epoch"] <= 1]
        folder.append([{"epoch": 1, "loss": 9}])
        assert folder.rows(needs=NEEDS) == [*kept, {"epoch": 1, "loss": 9}]


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.builds(np.float32, st.floats(width=32))
    ),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner), st.tuples(inner, inner)),
    max_leaves=8,
)


@fuzzed
@given(rows=st.lists(st.dictionaries(st.text(), VALUES), max_size=4))
def test_whatever_rows_hold_they_are_json(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(place)
        folder.append(rows)
        folder.replace_json(folder.settings, {"rows": rows})
        expected = [json.loads(files.to_line(row)) for row in rows]
        assert folder.rows() == expected
        assert files.read_json(folder.settings) == {"rows": expected}
        for path in (folder.metrics, folder.settings):
            for line in path.read_bytes().decode("utf-8").split("\n"):
                assert (
                    not any(name in line.replace('"', " ").split() for name in ("NaN", "Infinity", "-Infinity"))
                    or '"' in line
                )


# --- folders of images ------------------------------------------------------------------------------------------------


def image(mode: str = "RGB", side: int = 8, kind: str = "PNG") -> bytes:
    levels = np.arange(side * side, dtype=np.uint8).reshape(side, side)
    file = io.BytesIO()
    Image.fromarray(levels).convert(mode).save(file, kind)
    return file.getvalue()


def sixteen() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(file, "PNG")
    return file.getvalue()


def bomb() -> bytes:
    """A PNG that says it has 10^10 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IEND\xaeB`\x82"


GOOD: dict[str, bytes] = {
    "rgb": image(),
    "grey": image("L"),
    "palette": image("P"),
    "transparent": image("RGBA"),
    "bilevel": image("1"),
    "16 bits": sixteen(),
    "jpeg": image("RGB", kind="JPEG"),
    "cmyk": image("CMYK", kind="JPEG"),
    "tiny": image(side=1),
}
BROKEN: dict[str, bytes] = {
    "empty": b"",
    "text": b"not an image at all, only its name is one",
    "torn": image(side=64)[:100],
    "torn jpeg": image("RGB", 64, "JPEG")[:400],
    "bomb": bomb(),
    "zeros": bytes(1000),
    "32 bits": image("F", kind="TIFF"),
}
LEFT_OUT = ("folder", "fifo", "hidden", "other")
NAMES = ["a", "für", "猫", "with space", "new\nline", "\x1b[31m", "x" * 100, b"\xff".decode("utf-8", "surrogateescape")]


def add(folder: Path, number: int, what: str, name: str) -> Path:
    """A file, or something else, called as an image is."""
    path = folder / f"{number}{name}.png"
    match what:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "hidden":
            (folder / f".{number}.png").write_bytes(b"no image")
        case "other":
            (folder / f"{number}.txt").write_bytes(b"no image")
        case "link":
            path.symlink_to(folder / "nowhere")
        case _:
            path.write_bytes({**GOOD, **BROKEN}[what])
    return path


@contextmanager
def classes(entries: list[tuple[str, str]]) -> Iterator[tuple[Path, int, int]]:
    """A folder of two classes with these entries beside an image each, the number of good ones, and of broken ones."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "images"
        for name in ("cat", "dog"):
            (root / name).mkdir(parents=True)
            (root / name / "good.png").write_bytes(GOOD["rgb"])
        for number, (what, name) in enumerate(entries):
            add(root / ("cat", "dog")[number % 2], number, what, name)
        good = sum(what in GOOD for what, _ in entries) + 2
        yield root, good, sum(what in BROKEN or what == "link" for what, _ in entries)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither FIFOs nor such names")
@fuzzed
@given(
    entries=st.lists(
        st.tuples(st.sampled_from([*GOOD, *BROKEN, *LEFT_OUT, "link"]), st.sampled_from(NAMES)), max_size=8
    ),
    seed=st.integers(0, 3),
)
def test_odd_files_among_images_are_named_or_left_out(entries: list[tuple[str, str]], seed: int) -> None:
    with classes(entries) as (root, good, broken):
        dataset = open_dataset(str(root))
        if broken:
            with pytest.raises(ValueError, match=rf"^{broken} of {good + broken} images cannot be read") as caught:
                load_images(dataset, size=(8, 8), seed=seed)
            lines = str(caught.value).splitlines()
            assert len(lines) == 1 + min(broken, 10) + (broken > 10)
            assert all(line.isprintable() for line in lines if not any(0xD800 <= ord(each) < 0xE000 for each in line))
        loaded = load_images(dataset, size=(8, 8), seed=seed, skip_broken=True)
        assert loaded.images.shape == (good, 3, 8, 8)
        assert loaded.available == good + broken
        again = load_images(open_dataset(str(root)), size=(8, 8), seed=seed, skip_broken=True)
        assert loaded.identity() == again.identity()
        assert len(loaded.describe().splitlines()) == 1 + len(dataset.notes) + (1 + min(broken, 10) if broken else 0)  # type: ignore[union-attr]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
@fuzzed
@given(
    names=st.lists(
        st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12),
        min_size=1,
        max_size=5,
        unique=True,
    )
)
def test_folders_of_any_name(names: list[str]) -> None:
    """Each folder is a class, a split or left out; what comes out says so in lines of text."""
    with tempfile.TemporaryDirectory() as place:
        for name in names:
            try:
                (Path(place) / name).mkdir()
                (Path(place) / name / "a.png").write_bytes(GOOD["rgb"])
            except OSError:  # "..", too long in bytes
                continue
        loaded, error = attempt(lambda: load_images(open_dataset(place)), ValueError)
        if error:
            assert "\n" not in error
            return
        assert len(loaded.names) == loaded.classes >= 2
        files.to_document(loaded.identity()).encode()
