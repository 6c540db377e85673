"""The rows of a race that goes on: what was written is read, what was damaged or is not of the race is named."""

import base64
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import DAMAGE, attempt
from hypothesis import given, settings
from hypothesis import strategies as st

from fasteraa_transforms.search.contenders import Contender
from fasteraa_transforms.search.contenders.guard import Curves, Point, points_of
from fasteraa_transforms.search.contenders.restrict import Allowed
from fasteraa_transforms.search.contenders.rows import NEEDS, ROWS, read_race
from fasteraa_transforms.search.contenders.standings import racing, standings
from fasteraa_transforms.search.contenders.table import Material
from fasteraa_transforms.search.runtime.files import DamagedFile
from fasteraa_transforms.search.runtime.folder import RunFolder

KINDS = ("none", "uniform", "calibrated")
ALLOWED = Allowed(("flip", "rotate"))
HELD_OUT = 6


def made(contender: str, replicate: int, **changes: Any) -> dict[str, Any]:
    """A row as `run_trial` makes it; a guard's with curves."""
    draw = np.random.default_rng([replicate, len(contender)])
    values = [base64.b64encode(draw.random(HELD_OUT).astype(np.float16).tobytes()).decode() for _ in range(2)]
    row = {
        "contender": contender,
        "replicate": replicate,
        "error": 0.25,
        "loss": float(draw.random()),
        "temperature": 1.0,
        "train_accuracy": 1.0,
        "train_loss": 0.125,
        "epochs": 3,
        "train_images": 9,
        "held_out": HELD_OUT,
        "losses": values[0],
        "errors": values[1],
        "seconds": 2.5,
        "wall": 1.5,
    }
    if contender == "none" and not replicate:
        curves = Curves(
            0.9, {name: tuple(Point(m, 0.5, 0.1) for m in points_of(name)) for name in ALLOWED.operations}, 6
        )
        row["curves"] = curves.to_json()
    return row | changes


RACE = [made(name, replicate) for replicate in (0, 1) for name in ("none", "uniform", "calibrated 0.1")]


def read(folder: RunFolder) -> list[dict[str, Any]]:
    return read_race(folder, KINDS, (), ALLOWED)


def mine(material: Material) -> list[Contender]:
    return []


def folder_of(place: Path | str, rows: list[dict[str, Any]]) -> RunFolder:
    folder = RunFolder(place)
    folder.replace_rows(rows, ROWS)
    return folder


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert read(folder_of(tmp_path, RACE)) == RACE
    assert read(RunFolder(tmp_path / "empty")) == []


def test_a_network_that_diverged_is_read_as_it_was(tmp_path: Path) -> None:
    diverged = [made("none", 0, loss=math.nan, train_loss=math.inf)]
    (row,) = read(folder_of(tmp_path, diverged))
    assert math.isnan(row["loss"])
    assert math.isnan(row["train_loss"])


def test_whoever_can_be_in_the_race_is_known(tmp_path: Path) -> None:
    kinds = ("none", "geometry", "calibrated-uniform")
    names = ["none", "uniform", "geometry", "adversarial 0.5", "screening 19", "screening", "calibrated 0.25"]
    folder = folder_of(tmp_path, [made(name, 0) for name in names])
    assert len(read_race(folder, kinds, ("adversarial", "screening"), ALLOWED)) == len(names)
    own = folder_of(tmp_path, [made("mine 3", 0)])  # what a callable makes can depend on what the guards saw
    assert len(read_race(own, (f"{__name__}:mine",), (), ALLOWED)) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"contender": "foreign"}, "contender is 'foreign', which is not in this race"),
        ({"contender": "adversarial 1"}, "contender is 'adversarial 1', which is not in this race"),
        ({"contender": 3}, "contender is 3"),
        ({"replicate": -1}, "replicate is -1"),
        ({"replicate": True}, "replicate is True"),
        ({"replicate": 1.0}, "replicate is 1.0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"held_out": 5}, "held_out is 5, but 6 in an earlier line"),
        ({"error": 1.5}, "error is 1.5"),
        ({"error": None}, "error is None"),
        ({"loss": "1"}, "loss is '1'"),
        ({"losses": ""}, "losses has 0 bytes, not 2 for each of 6 images"),
        ({"errors": "AAAA"}, "errors has 3 bytes, not 2 for each of 6 images"),
        ({"losses": "A"}, "Invalid base64-encoded string: .*"),
        ({"losses": "🙂"}, "string argument should contain only ASCII characters"),
        ({"replicate": 0}, "the network of 'uniform', replicate 0, stands in an earlier line, too"),
        ({"curves": []}, ".*"),
        ({"curves": {"clean": 1, "images": 5, "points": {}}}, "'flip' is missing"),
        ({"curves": {"clean": 1, "images": 5, "points": {"flip": [{"accuracy": 1}]}}}, ".*missing.*"),
        (
            {"curves": {"clean": 2, "images": 5, "points": RACE[0]["curves"]["points"]}},
            r"curves has .* not in \[0, 1\]",
        ),
    ],
    ids=str,
)
def test_a_row_of_no_network_of_the_race_is_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    rows = [*RACE[:4], RACE[4] | changes, RACE[5]]
    folder = folder_of(tmp_path, rows)
    with pytest.raises(DamagedFile, match=rf"^{folder.path / ROWS} is damaged in line 5 \({reason}\)$") as caught:
        read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NEEDS)
def test_a_row_without_something_is_named(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path, [{key: value for key, value in RACE[0].items() if key != name}, *RACE[1:]])
    with pytest.raises(DamagedFile, match=rf"^{folder.path / ROWS} is damaged in line 1 \('{name}' is missing\)$"):
        read(folder)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_was_not_written(tmp_path: Path, number: str) -> None:
    folder = RunFolder(tmp_path)
    line = json.dumps(RACE[0]).replace('"error": 0.25', f'"error": {number}')
    (tmp_path / ROWS).write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(DamagedFile, match=rf"^{folder.path / ROWS} is damaged in line 1 \({number} is "):
        read(folder)


# --- at random --------------------------------------------------------------------------------------------------------

fuzzed = settings(derandomize=True, deadline=None, max_examples=150)

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(["none", "AAA=", 0, 1])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a row: keys and indices, from the outside in."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """The row with what stands at a place replaced; what becomes None of a dict's is left out."""
    if not path:
        return change(value)
    copy = value.copy()
    new = changed(value[path[0]], path[1:], change)
    if new is LEFT_OUT:
        copy.pop(path[0])
    else:
        copy[path[0]] = new
    return copy


LEFT_OUT = object()


def use(rows: list[dict[str, Any]]) -> None:
    """What a race that goes on does with its rows."""
    curves = [Curves.from_json(row["curves"]) for row in rows if "curves" in row]
    for each in curves:
        for name in ALLOWED.operations:
            each.words(name, 0.1)
            each.still(name)
    if curves:
        Curves.mean(curves)
    racing(rows)
    standings(rows)


@fuzzed
@given(data=st.data(), checked=st.booleans())
def test_any_change_of_a_row_is_named_or_can_be_used(data: st.DataObject, checked: bool) -> None:
    number = data.draw(st.integers(0, len(RACE) - 1), "row")
    path = data.draw(st.sampled_from(places(RACE[number])[1:]), "place")
    new = data.draw(st.one_of(st.just(LEFT_OUT), VALUES), "value")
    rows = [*RACE]
    rows[number] = changed(RACE[number], path, lambda old: new)
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(place)
        if checked:
            folder.replace_rows(rows, ROWS)
        else:  # as of somebody else, without checksums
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder.path / ROWS).write_text(text, encoding="utf-8")
        found, error = attempt(lambda: read(folder), DamagedFile)
        if error:  # a later row can be the one that does not fit to the changed one
            assert error.startswith(f"{folder.path / ROWS} is damaged in line ")
            assert "\n" not in error
        else:
            use(found)


@fuzzed
@given(damage=DAMAGE)
def test_damaged_bytes_are_named_or_leave_whole_rows(damage: Callable[[bytes], bytes]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = folder_of(place, RACE)
        path = folder.path / ROWS
        path.write_bytes(damage(path.read_bytes()))
        found, error = attempt(lambda: read(folder), DamagedFile)
        if error:
            assert error.startswith(f"{path} is damaged in line ")
            assert "\n" not in error
        else:
            assert all(row in RACE for row in found)
