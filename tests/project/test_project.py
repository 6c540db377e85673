"""The package as a project: what the wheel holds, what an import pulls in, which names are public."""

import ast
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fasteraa_transforms

ROOT = Path(__file__).parents[2]

PUBLIC = [
    "AugmentCollate",
    "Candidate",
    "Epilogue",
    "DeviceLoader",
    "FasterAutoAugment",
    "OPERATIONS",
    "Operation",
    "Plan",
    "Policy",
    "PolicyError",
    "RelaxedPolicy",
    "apply",
    "augment_each",
    "functional",
    "list_policies",
]

# What the package imports on first use or not at all: the libraries of the GPU code, of the search, of the export, of
# the check of policies, and of policies from elsewhere.
LAZY = [
    *("triton", "matplotlib", "scipy", "sklearn", "tensorboard", "tqdm", "tyro", "webdataset"),
    *("albumentations", "cv2", "pydantic", "pydantic_core", "huggingface_hub"),
]

# Of this package itself, what needs them, and what needs pydantic.
PARTS = ("search", "backends.cuda", "policy.schema", "policy.hub", "policy.interchange")
NOT_YET = tuple(
    f"fasteraa_transforms.{name}"
    for name in ("search", "backends.cuda", "policy.schema", "policy.hub", "policy.interchange")
)


def _python(code: str, cwd: Path = ROOT) -> str:
    process = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip().splitlines()[-1]


def _build(hook: str, folder: Path) -> zipfile.ZipFile:
    # In a process of its own: hatchling builds the project of the working directory.
    name = _python(f"from hatchling.build import {hook}; print({hook}({str(folder)!r}))")
    return zipfile.ZipFile(folder / name)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return _build("build_wheel", tmp_path_factory.mktemp("wheel"))


def test_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    folders = {name.split("/")[0] for name in wheel.namelist()}
    assert folders == {"fasteraa_transforms", "fasteraa_transforms-0.1.0.dist-info"}


def test_wheel_holds_every_module(wheel: zipfile.ZipFile) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "fasteraa_transforms").rglob("*.py")}
    assert modules <= set(wheel.namelist())


def test_wheel_is_typed_and_licensed(wheel: zipfile.ZipFile) -> None:
    assert "fasteraa_transforms/py.typed" in wheel.namelist()
    assert "fasteraa_transforms-0.1.0.dist-info/licenses/LICENSE" in wheel.namelist()


def test_wheel_ships_the_policies_and_no_schema_among_them(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if name.startswith("fasteraa_transforms/policies/")}
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "fasteraa_transforms/policies").glob("*.json")}
    assert expected
    assert {name for name in shipped if name.endswith(".json")} == expected
    for name in expected:
        # Whatever lies in the folder can be loaded by its name, so a JSON Schema has to live elsewhere.
        assert "properties" not in json.loads(wheel.read(name)), name


def test_editable_install_is_a_plain_path(tmp_path: Path) -> None:
    with _build("build_editable", tmp_path) as wheel:
        files = [name for name in wheel.namelist() if ".dist-info/" not in name]
        assert len(files) == 1
        assert files[0].endswith(".pth")
        assert Path(wheel.read(files[0]).decode().strip()) == ROOT


def test_import_is_light() -> None:
    # torch itself imports triton and tqdm where they are installed, so it goes first; None makes a later import fail.
    code = f"""
import sys, torch, torchvision.transforms.v2
sys.modules.update(dict.fromkeys({LAZY!r}))
import fasteraa_transforms
print([name for name in sys.modules if name.startswith({NOT_YET!r})])
"""
    assert _python(code) == "[]"


def test_public_names() -> None:
    assert sorted(fasteraa_transforms.__all__) == sorted(PUBLIC)
    for name in PUBLIC:
        assert hasattr(fasteraa_transforms, name)


@pytest.mark.parametrize("folder", ["cuda", "search"])
def test_root_folders_are_not_packages(folder: str) -> None:
    # A package `cuda` at the root would shadow the namespace package of NVIDIA's cuda-bindings.
    assert not list((ROOT / folder).rglob("__init__.py"))


def _without_encoding(path: Path) -> list[str]:
    """Places of a file that open, read or write text and leave the encoding to the locale."""
    places = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or any(keyword.arg in ("encoding", None) for keyword in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = [each for value in (*node.args, *(each.value for each in node.keywords)) for each in ast.walk(value)]
        strings = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        binary = any(re.fullmatch(r"[rwxa+]*b[rwxa+]*", each) for each in strings)
        other = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) in ("Image", "os")
        needed = {"read_text": 1, "write_text": 2}.get(name, 0)
        if len(node.args) < needed or (name in ("open", "fdopen") and not binary and not other):
            places.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return places


def test_text_files_are_opened_with_an_encoding() -> None:
    # Else a locale that is not UTF-8 decides, and names with an umlaut or an arrow fail.
    paths = sorted((ROOT / "fasteraa_transforms").rglob("*.py"))
    assert [place for path in paths for place in _without_encoding(path)] == []


def test_a_text_file_without_an_encoding_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    lines = {
        'open("a")': True,
        'open("a", "w")': True,
        'path.open("a")': True,
        "path.read_text()": True,
        'path.write_text("x")': True,
        'open("a", "rb")': False,
        'open("a", mode="wb")': False,
        'path.open("r+b")': False,
        'path.read_text("utf-8")': False,
        'path.write_text("x", encoding="utf-8")': False,
        'open("a", encoding="utf-8")': False,
        "Image.open(path)": False,
        "path.read_bytes()": False,
    }
    path = tmp_path / "module.py"
    for line, wrong in lines.items():
        path.write_text(line, encoding="utf-8")
        assert bool(_without_encoding(path)) == wrong, line
