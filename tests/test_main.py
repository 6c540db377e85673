"""The command line: what it draws, what it prints, and how it says no."""

import json
import os
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

import fasteraa_transforms
from fasteraa_transforms import Policy, __version__, apply, list_policies
from fasteraa_transforms.__main__ import main
from fasteraa_transforms.commands import diff


def candidate(operation: str, weight: float = 1, probability: float = 1.0, **values: Any) -> dict[str, Any]:
    return {"operation": operation, "weight": weight, "probability": probability, **values}


def policies() -> tuple[Policy, Policy]:
    first = Policy(
        [[[candidate("rotate", 3, 0.5, magnitude=0.4), candidate("flip", 1, 0.5)], [candidate("invert")]]] * 2,
        name="first",
        provenance={"dataset": "digits", "settings": {"epochs": 3}},
    )
    changed = [
        [candidate("rotate", 3, 0.5, magnitude=0.6, sign=-1), candidate("equalize", 1, 0.5)],
        [candidate("invert")],
    ]
    second = Policy([first.sub_policies[0], changed], name="second", provenance={"dataset": "svhn", "images": 1000})
    return first, second


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """A grey picture, a palette with transparency and a large photograph that is to be turned."""
    rng = np.random.default_rng(0)
    grey = Image.fromarray(rng.integers(0, 256, (40, 30), dtype=np.uint8))
    palette = Image.fromarray(rng.integers(0, 256, (24, 50, 3), dtype=np.uint8)).quantize(16)
    turned = Image.fromarray(np.repeat(np.arange(0, 200, 2, dtype=np.uint8)[:, None, None], 100, 1).repeat(3, 2))
    exif = turned.getexif()
    exif[0x0112] = 3  # upside down
    paths = [tmp_path / name for name in ("grey.png", "palette.gif", "turned.png")]
    for path, picture, options in zip(
        paths, (grey, palette, turned), ({}, {"transparency": 0}, {"exif": exif}), strict=True
    ):
        picture.save(path, **options)
    return paths


def tiles(sheet: Image.Image, tile: int, lines: int) -> np.ndarray[Any, Any]:
    """[rows, columns, tile, tile, 3]."""
    array = np.asarray(sheet)
    height, width = tile + 13 * lines + 8, tile + 6
    rows, columns = (array.shape[0] - 6) // height, (array.shape[1] - 6) // width
    return np.array(
        [[array[6 + r * height :, 6 + c * width :][:tile, :tile] for c in range(columns)] for r in range(rows)]
    )


def test_show_draws_sub_policies_and_samples(
    images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = Policy(
        [
            [[candidate("invert")], [candidate("flip")]],
            [[candidate("solarize", magnitude=1.0)], [candidate("flip", 1, 0.0)]],
        ]
    )
    policy.save(tmp_path / "policy.json")
    out = tmp_path / "sheet.png"
    command = ["show", str(tmp_path / "policy.json"), *map(str, images), "--out", str(out)]
    assert main([*command, "--samples", "4", "--tile", "24"]) == 0
    assert capsys.readouterr().out == f"wrote {out}: 2 of 2 sub-policies, 4 samples each\n"
    with Image.open(out) as sheet:
        found = tiles(sheet, 24, 3)
    assert found.shape == (3, 4, 24, 24, 3)  # the smallest of the pictures is 24 pixels high
    originals, flipped, solarized = found
    assert np.array_equal(originals[0], originals[3])  # three pictures in turn
    assert np.array_equal(flipped, 255 - originals[:, :, ::-1])
    assert np.array_equal(solarized, 255 - originals)
    assert originals[2][0].mean() > 150 > 50 > originals[2][-1].mean()  # as it is meant to be seen


def test_show_writes_the_operations_below(images: list[Path], tmp_path: Path) -> None:
    def sheet(*operations: str) -> Image.Image:
        Policy([[[candidate(name)] for name in operations]]).save(tmp_path / "policy.json")
        out = tmp_path / "sheet.png"
        arguments = ["--out", str(out), "--samples", "1", "--tile", "100"]
        assert main(["show", str(tmp_path / "policy.json"), str(images[0]), *arguments]) == 0
        with Image.open(out) as picture:
            return picture.convert("L")

    def ink(picture: Image.Image, line: int) -> bytes:
        """Line of text below the one tile of the second row."""
        top = 6 + (100 + 13 * 3 + 8) + 100 + 1 + 13 * line
        return picture.crop((6, top, 106, top + 13)).tobytes()

    first, second = sheet("flip", "invert"), sheet("flip", "equalize")
    assert min(ink(first, 1)) < 128
    assert ink(first, 0) == ink(second, 0)  # sub-policy 0
    assert ink(first, 1) == ink(second, 1)
    assert ink(first, 2) != ink(second, 2)


def test_show_draws_what_the_seed_says(images: list[Path], tmp_path: Path) -> None:
    def sheet(*arguments: str) -> bytes:
        out = tmp_path / "sheet.png"
        assert main(["show", "cifar10", str(images[0]), "--out", str(out), "--tile", "30", *arguments]) == 0
        with Image.open(out) as picture:
            return picture.tobytes()

    assert sheet() == sheet("--seed", "0") != sheet("--seed", "1")
    assert sheet("--limit", "3") == sheet("--limit", "3", "--samples", "8") != sheet("--limit", "2")


def test_show_augments_at_the_size(images: list[Path], tmp_path: Path) -> None:
    Policy([[[candidate("translate_x", magnitude=1.0, sign=-1)]]]).save(tmp_path / "policy.json")
    out = tmp_path / "sheet.png"
    arguments = ["--out", str(out), "--samples", "1", "--tile", "20", "--size", "20"]
    assert main(["show", str(tmp_path / "policy.json"), str(images[2]), *arguments]) == 0
    with Image.open(out) as sheet:
        original, moved = tiles(sheet, 20, 2)[:, 0]
    batch = tv.to_image(original)[None]
    expected = apply(batch.as_subclass(torch.Tensor), Policy.load(tmp_path / "policy.json").sample(1))[0]
    assert np.array_equal(moved, expected.permute(1, 2, 0).numpy())
    assert not moved[:, :9].any()


def test_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = policies()
    first.save(tmp_path / "a.json")
    second.save(tmp_path / "b.json")
    assert main(["diff", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "                         A        B",
        "name                 first   second",
        "sub-policies             2        2",
        "stages                   2        2",
        "candidates               6        6",
        "applied             0.7500   0.7500",
        "provenance dataset  digits     svhn",
        "provenance images        -     1000",
        "",
        "operation       share A  share B  difference  magnitude A  magnitude B",
        "rotate           0.1875   0.1875     +0.0000        0.400        0.500",
        "flip             0.0625   0.0312     -0.0312            -            -",
        "invert           0.5000   0.5000     +0.0000            -            -",
        "equalize         0.0000   0.0312     +0.0312            -            -",
        "",
        "sub-policy  stage  in    operation       weight            probability       magnitude",
        "         1      0  both  rotate          0.7500            0.500             0.400 -> -0.600",
        "         1      0  A     flip            0.2500            0.500             -",
        "         1      0  B     equalize        0.2500            0.500             -",
    ]


def test_control_characters_are_printed_as_escapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip = candidate("flip", probability=0.5)
    red = Policy([[[flip]]], name="red\x1b[31m\nline", provenance={"data\rset": "a\x07b", "x\u202e": "\x9b1m"})
    red.save(tmp_path / "a.json")
    assert main(["diff", str(tmp_path / "a.json"), str(tmp_path / "a.json")]) == 0
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.split("\n"))
    assert r"red\x1b[31m\nline" in printed
    assert r"provenance data\rset" in printed
    assert repr(red).split("\n")[0].isprintable()
    for arguments in (["cifar10", "a\x1b[31m.json"], ["no\x1b[31m", "b"], ["a", "b", "\x1b[2J"]):
        with suppress(SystemExit):
            main(["diff", *arguments])
        error = capsys.readouterr().err
        assert error.removesuffix("\n").isprintable()
        assert r"\x1b" in error


@pytest.mark.parametrize("options", [["--tile", "1000000"], ["--size", "1000000"], ["--samples", "100000000"]])
def test_show_refuses_what_would_take_too_much_memory(
    options: list[str], images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sheet.png"
    tracemalloc.start()
    assert main(["show", "cifar10", str(images[0]), "--out", str(out), *options]) == 2
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()
    assert capsys.readouterr().err.startswith("error: a sheet should have at most 100,000,000 pixels, but ")
    assert not out.exists()


def test_diff_of_policies_that_are_the_same_or_do_not_align() -> None:
    first, second = policies()
    assert list(diff(first, first))[-1] == "the sub-policies are the same"
    expected = "the sub-policies do not align: their numbers, or those of their stages, differ"
    assert list(diff(first, Policy(first.sub_policies[:1])))[-1] == expected
    one_stage = Policy([sub_policy[:1] for sub_policy in first.sub_policies])
    assert list(diff(first, one_stage))[-1] == expected


def test_diff_tells_the_same_operation_of_a_stage_apart() -> None:
    stage = [candidate("rotate", 1, 0.5, magnitude=0.1), candidate("rotate", 1, 0.5, magnitude=0.2)]
    other = [stage[0], {**stage[1], "magnitude": 0.3}]
    changes = list(diff(Policy([[stage]]), Policy([[other]])))[-2:]
    assert changes[0].startswith("sub-policy")
    assert changes[1].endswith("0.200 -> 0.300")


def test_diff_averages_magnitudes_by_share() -> None:
    stage = [candidate("rotate", 3, 1.0, magnitude=0.2), candidate("rotate", 1, 0.5, magnitude=0.9)]
    never = [candidate("rotate", 1, 0.0, magnitude=0.9)]
    (row,) = (line for line in diff(Policy([[stage]]), Policy([[never]])) if line.startswith("rotate"))
    assert row.split()[1:] == ["0.8750", "0.0000", "-0.8750", f"{(0.75 * 0.2 + 0.125 * 0.9) / 0.875:.3f}", "-"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: the following arguments are required: COMMAND; --help says more"),
        (["draw"], "error: unknown command 'draw'; known: search, evaluate, operations, show, diff, list"),
        (["serch", "digits"], "error: unknown command 'serch'; did you mean search?"),
        (["list", "--verbose"], "error: unrecognized arguments: --verbose; --help says more"),
        (["search", "--lerning-rate", "1"], "error: unknown option --lerning-rate; did you mean --"),
        (["search", "--minuts", "3"], "error: unknown option --minuts; did you mean --minutes?; --help says more"),
        (["search", "--epochs", "x"], "error: Error parsing --epochs: invalid literal for int() with base 10: 'x'"),
        (["evaluate", "--seed", "3"], "error: unknown option --seed; did you mean --seeds?"),
        (["operations", "--networcs", "3"], "error: unknown option --networcs; did you mean --networks?; --help"),
        (["show", "cifar10", "a.png"], "error: the following arguments are required: --out; --help says more"),
        (
            ["show", "cifar10", "a.png", "--out", "o.png", "--samples", "0"],
            "error: samples should be positive, but got 0 instead",
        ),
        (
            ["show", "nope", "a.png", "--out", "o.png"],
            f"error: unknown policy 'nope'; known: {', '.join(list_policies())}; or",
        ),
        (["show", "cifar10", "missing.png", "--out", "o.png"], "error: [Errno 2] No such file or directory: "),
        (["show", "cifar10", "broken.png", "--out", "o.png"], "error: cannot identify image file "),
        (["show", "cifar10", "large.png", "--out", "o.png"], "error: Image size ("),
        (["show", "cifar10", "a.png", "--out", "o.policy"], "error: unknown file extension: .policy"),
        (["show", "cifar10", "a.png", "--out", "missing/o.png"], "error: [Errno 2] No such file or directory: "),
        (
            ["diff", "cifar10", "missing.json"],
            "error: missing.json: $: found nothing readable (No such file or directory)",
        ),
        (["diff", "broken.json", "cifar10"], "error: broken.json: $.format: found nothing"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")
    Image.new("L", (200, 200)).save("large.png")
    if "large.png" in arguments:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    Path("broken.png").write_text("no picture")
    Path("broken.json").write_text(json.dumps({"name": "a\nb"}))
    try:
        status = main(arguments)
    except SystemExit as stop:  # argparse
        status = stop.code
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err.startswith(message)
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.glob("o.*"))


def test_runs_as_a_module_without_the_libraries_of_the_search() -> None:
    code = (
        "import sys, torch, torchvision.transforms.v2\n"
        "absent = ['matplotlib', 'sklearn', 'tensorboard', 'tqdm', 'tyro', 'albumentations']\n"
        "sys.modules.update(dict.fromkeys(absent))\n"
        "import runpy\n"
        "sys.argv = ['fasteraa_transforms', 'diff', 'cifar10', 'cifar10']\n"
        "runpy.run_module('fasteraa_transforms', run_name='__main__')\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "the sub-policies are the same"


def test_the_policies_of_the_package_are_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["list"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if not line.startswith(" ")] == list_policies()
    for name in list_policies():
        below = printed[printed.index(name) + 1 :]
        assert below[0] == f"    searched on  {name.searched_on}"
        assert below[1].startswith("    measured     ")
        assert name.gains or "names no controls" in below[1]
    controls = [
        {"augmentation": "mine", "error": 3.5, "half_width": 0.25, "seeds": 3},
        {"augmentation": "none", "error": 7, "half_width": None, "seeds": [3]},
    ]
    monkeypatch.setattr(
        type(list_policies()[0]), "provenance", {"images": 1000, "dataset": "pets", "controls": controls}
    )
    assert main(["list"]) == 0
    assert capsys.readouterr().out.splitlines()[1:4] == [
        "    searched on  1,000 images of pets",
        "    measured     mine  3.50 ± 0.25 % error, 3 seeds",
        "                 none  7.00 % error, 1 seed",
    ]


@pytest.mark.parametrize("command", [["--help"], ["list"], ["show", "--help"], ["--version"]])
def test_looking_imports_nothing_of_the_search(command: list[str]) -> None:
    code = f"""
import sys
from fasteraa_transforms.__main__ import main
try:
    status = main({command!r})
except SystemExit as stop:
    status = stop.code
print(status, [name for name in sys.modules if name.startswith("fasteraa_transforms.search")])
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.stdout.splitlines()[-1] == "0 []", process.stderr
    if command == ["--version"]:
        assert process.stdout.splitlines()[0] == f"fasteraa_transforms {__version__}"
    if command == ["--help"]:
        assert process.stdout.count("\n  fasteraa ") == 3  # examples
        for name in ("search", "evaluate", "operations", "show", "diff", "list"):
            assert f"\n    {name}" in process.stdout


def test_the_console_script_finds_modules_of_the_working_directory(tmp_path: Path) -> None:
    """As `python -m` does. A script has its own folder on the path instead."""
    script, here = tmp_path / "bin" / "script.py", tmp_path / "here"
    script.parent.mkdir()
    here.mkdir()
    script.write_text("from fasteraa_transforms.__main__ import run\nrun()\n", encoding="utf-8")
    (here / "mine.py").write_text("def images():\n    raise ValueError('found')\n", encoding="utf-8")
    (here / "json.py").write_text("raise SystemExit('shadowed')\n", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(Path(fasteraa_transforms.__file__).parents[1])}
    process = subprocess.run(
        [sys.executable, str(script), "search", "mine:images"],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stderr == "error: found\n"
    assert process.returncode == 2


def test_a_command_of_the_search_without_its_libraries_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "absent = ['matplotlib', 'sklearn', 'scipy', 'tensorboard', 'tqdm', 'tyro']\n"
        "sys.modules.update(dict.fromkeys(absent))\n"
        "from fasteraa_transforms.__main__ import main\n"
        "sys.exit(main(['search', 'digits']))\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode != 0
    assert process.stderr.count("\n") == 1, process.stderr
    assert 'pip install "fasteraa_transforms[search]"' in process.stderr


def test_every_tile_of_the_readmes_picture_differs_from_its_photograph() -> None:
    with Image.open(Path(__file__).parents[1] / "docs" / "images" / "augmentations.jpg") as picture:
        sheet = np.asarray(picture.convert("RGB"), dtype=np.int16)
    assert sheet.shape == (600, 1048, 3)
    for row in range(2):
        strip = [sheet[300 * row :][:256, 264 * column :][:, :256] for column in range(4)]
        for tile in strip[1:]:
            assert abs(tile - strip[0]).mean() > 20


def test_the_readme_is_short() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    prose = text.partition("## What was measured")[0]
    assert len(prose.split()) <= 600
