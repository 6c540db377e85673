"""The package as a project: what the wheel holds, what an import pulls in, which names are public."""

import ast
import email
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path
from types import ModuleType

import pytest
import yaml

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


def _built(hook: str, folder: Path, project: Path = ROOT) -> Path:
    # In a process of its own: hatchling builds the project of the working directory.
    return folder / _python(f"from hatchling.build import {hook}; print({hook}({str(folder)!r}))", project)


def _build(hook: str, folder: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(_built(hook, folder))


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


def test_the_source_distribution_holds_the_repository(tmp_path: Path) -> None:
    with tarfile.open(_built("build_sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    written = {
        *("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md"),
        *("pyproject.toml", "hatch_build.py", "PKG-INFO", ".gitignore"),
    }
    folders = {".ci", "benchmarks", "cuda", "docs", "examples", "fasteraa_transforms", "search", "tests"}
    assert {name.partition("/")[0] for name in names} == written | folders
    for folder in folders - {".ci"}:
        for path in (ROOT / folder).rglob("*.py"):
            assert path.relative_to(ROOT).as_posix() in names, path


# --- what an index of packages shows ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _metadata(folder: Path, repository: str | None) -> Message:
    """Metadata of the package as built with, or without, an address of its repository."""
    for name in ("README.md", "LICENSE", "hatch_build.py"):
        shutil.copy(ROOT / name, folder)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert text.count("\n[project.urls]\n") == 1
    text = re.sub(r"^Repository = .*\n", "", text, flags=re.MULTILINE)
    if repository:
        text = text.replace("\n[project.urls]\n", f'\n[project.urls]\nRepository = "{repository}"\n')
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    (folder / "fasteraa_transforms").mkdir()
    (folder / "fasteraa_transforms" / "__init__.py").touch()
    (folder / "built").mkdir()
    made = _built("prepare_metadata_for_build_wheel", folder / "built", folder)
    return email.message_from_bytes((made / "METADATA").read_bytes())


def _targets(markdown: str) -> list[str]:
    """Where links and pictures of a page lead, however they are written."""
    text = re.sub(r"^```.*?^```|`[^`\n]+`", "", markdown, flags=re.MULTILINE | re.DOTALL)
    written = (r"\]\(\s*<?([^)\s>]+)", r"^\s*\[[^\]]+\]:\s*(\S+)", r"(?:src|href)\s*=\s*[\"']?([^\"'\s>]+)")
    return [target for each in written for target in re.findall(each, text, re.MULTILINE)]


def test_the_description_has_no_relative_links(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    relative = [target for target in _targets(readme) if ":" not in target]
    assert len(relative) > 10
    description = _metadata(tmp_path, "https://example.org/someone/something/").get_payload(decode=True).decode()
    targets = _targets(description)
    assert all(target.startswith("https://") for target in targets)
    assert len(targets) == len(_targets(readme))
    made = [target for target in targets if target.startswith("https://example.org/")]
    for target in made:
        kind, head, path = target.removeprefix("https://example.org/someone/something/").split("/", 2)
        assert (ROOT / path.partition("#")[0]).exists()
        assert (kind, head) == ("raw" if path.endswith((".jpg", ".png", ".svg")) else "blob", "HEAD")
        assert path in relative
    assert len(made) == len(relative)


def test_the_description_without_a_repository_has_no_dead_links(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    metadata = _metadata(tmp_path, None)
    assert metadata["Description-Content-Type"] == "text/markdown"
    description = metadata.get_payload(decode=True).decode()
    assert _targets(description) == [target for target in _targets(readme) if ":" in target]
    for text, target in re.findall(r"(?<!!)\[([^\]]+)\]\(([^)]+)\)", readme):
        assert text in description
        assert ":" in target or f"[{text}]" not in description
    assert "![" not in description
    assert "\n\n\n" not in description


def test_links_of_every_kind_stand_alone(hook: ModuleType) -> None:
    page = """[a](docs/a.md#x) ![p](./p.png "title") [`b`](https://x.org/b) [c](#below) [![d](d.svg)](e.md)

![whole](q.jpg)

```bash
echo "[a](docs/a.md)"
```
`f[0](docs/a.md)`
"""
    code = page.partition("```")[1] + page.partition("```")[2]
    base = "https://x.org/me/it"
    assert hook.standing_alone(page, base) == (
        f'[a]({base}/blob/HEAD/docs/a.md#x) ![p]({base}/raw/HEAD/p.png "title") [`b`](https://x.org/b) '
        f"[c]({base}/blob/HEAD/README.md#below) [![d]({base}/raw/HEAD/d.svg)]({base}/blob/HEAD/e.md)\n\n"
        f"![whole]({base}/raw/HEAD/q.jpg)\n\n{code}"
    )
    assert hook.standing_alone(page, None) == f"a  [`b`](https://x.org/b) c \n\n{code}"


def test_the_citation_names_the_paper_and_this_version(wheel: zipfile.ZipFile) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)  # what the format asks for
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    built = email.message_from_bytes(wheel.read(name))
    assert citation["version"] == project["version"] == built["Version"]
    assert citation["title"] == project["name"] == built["Name"]
    assert citation["license"] == project["license"] == built["License-Expression"]
    paper = citation["preferred-citation"]
    assert paper["type"] == "conference-paper"
    assert (paper["doi"], paper["year"]) == ("10.1007/978-3-030-58595-2_1", 2020)
    assert paper["url"] == project["urls"]["Paper"]
    assert [each["family-names"] for each in paper["authors"]] == ["Hataya", "Zdenek", "Yoshizoe", "Nakayama"]

    (entry,) = re.findall(r"```bibtex\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert entry.count("{") == entry.count("}")
    fields = dict(re.findall(r"^  (\w+) += \{(.*)\},$", entry, re.MULTILINE))
    assert re.sub("[{}]", "", fields["title"]) == paper["title"]
    assert fields["author"] == " and ".join(
        f"{each['family-names']}, {each['given-names']}" for each in paper["authors"]
    )
    assert fields["booktitle"].replace("--", "–") == paper["collection-title"]
    assert (fields["pages"], fields["publisher"]) == (f"{paper['start']}--{paper['end']}", paper["publisher"]["name"])
    assert (fields["year"], fields["doi"]) == (str(paper["year"]), paper["doi"])


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
