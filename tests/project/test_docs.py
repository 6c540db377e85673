"""The documentation does what it says: the Python of every page runs, and every link leads somewhere."""

import doctest
import importlib
import importlib.util
import itertools
import json
import operator
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from fasteraa_transforms import Policy, apply

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])

# A block of Python, and the reason where it is marked as one that is not to run.
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>.+?) -->\n+)?^```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)

# Files that pages take for granted, as their readers have them: small ones of the same kind.
FAST_AUTOAUGMENT = """def fa_reduced_cifar10():
    p = [[["Rotate", 0.6, 0.9], ["Invert", 0.2, 0.1]], [["Contrast", 0.4, 0.7], ["Equalize", 0.5, 0.0]]]
    return p
"""


def autoalbument(name: str, p: float, *transforms: dict[str, Any]) -> dict[str, Any]:
    return {"__class_fullname__": name, "p": p} | ({"transforms": list(transforms)} if transforms else {})


def blocks(page: Path) -> Iterator[tuple[str, str | None, int]]:
    """The blocks of Python of a page, each with the reason not to run it, if any, and the line it starts in."""
    text = page.read_text("utf-8")
    for found in BLOCK.finditer(text):
        yield found["code"], found["reason"], text.count("\n", 0, found.start("code")) + 1


def run(page: Path, names: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run the blocks of a page one after another, as a reader would; yields each with the names after it."""
    if any(re.search(r"import albumentations|\.to_albumentations\(", code) for code, *_ in blocks(page)):
        pytest.importorskip("albumentations")
    for code, reason, line in blocks(page):
        if reason is not None:
            continue
        code = code if torch.cuda.is_available() else code.replace('"cuda"', '"cpu"')
        if code.startswith(">>> "):
            test = doctest.DocTestParser().get_doctest(code, names, page.name, str(page), line)
            failed, attempted = doctest.DocTestRunner().run(test, clear_globs=False)
            assert attempted
            assert not failed
            names.update(test.globs)
        else:
            # Empty lines in front, so that an error names the line of the page.
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)
        yield code, names


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photographs: list[npt.NDArray[np.uint8]]) -> Path:
    """A working folder with the files that pages take for granted."""
    shipped = ROOT / "fasteraa_transforms" / "policies" / "cifar10.json"
    for folder in ("runs/digits", "policy"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(shipped, tmp_path / "runs/digits/policy.json")
    Image.fromarray(photographs[0][:96, :128]).save(tmp_path / "photo.jpg")
    (tmp_path / "archive.py").write_text(FAST_AUTOAUGMENT)
    (tmp_path / "genotype.py").write_text("CIFAR10 = [[('ShearX', 0.5, 0.6), ('Rotate', 0.6, 0.5)]]", "utf-8")
    transforms = [autoalbument(name, p) for name, p in (("HorizontalFlip", 0.25), ("RGBShift", 0.005), ("NoOp", 0.745))]
    stage = autoalbument("OneOf", 1.0, *transforms)
    policy = autoalbument("OneOf", 1.0, *[autoalbument("Sequential", 0.5, stage)] * 2)
    document = {"__version__": "1.0.0", "transform": autoalbument("Compose", 1.0, policy)}
    (tmp_path / "policy/latest.json").write_text(json.dumps(document))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("desk")
@each_page
def test_the_python_of_a_page_runs(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "__main__", "image": np.zeros((224, 224, 3), np.uint8)}
    ran = list(run(page, names))
    wanted = [code for code, reason, _ in blocks(page) if reason is None]
    assert len(ran) == len(wanted)


@each_page
def test_no_python_of_a_page_is_overlooked(page: Path) -> None:
    text = page.read_text("utf-8")
    assert len(list(blocks(page))) == len(re.findall(r"^\s*```\s*(?:python|py|pycon)\b", text, re.MULTILINE))
    marked = re.findall(r"^<!-- not run:", text, re.MULTILINE)
    assert len(marked) == sum(reason is not None for _, reason, _ in blocks(page))


WAYS = ["AugmentCollate(augment", "DeviceLoader(DataLoader", "augment(images)"]


@pytest.mark.usefixtures("desk")
def test_the_guide_to_batches_trains_on_what_it_augments() -> None:
    seen = []
    for code, names in run(DOCS / "gpu-batches.md", {"__name__": "__main__"}):
        if "loss" in code:
            assert names["loss"].isfinite()
            # Of the last, short batch; and where the loader augments, ready for the network.
            assert len(names["labels"]) == 500 % 128
            assert names["images"].dtype == (torch.uint8 if "augment(images)" in code else torch.float32)
            joined = re.sub(r"\(\s+", "(", code)  # a call may be broken over lines
            seen += [name for name in WAYS if name in joined]
    assert sorted(seen) == WAYS


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text("utf-8"))
    links = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert target == page or ROOT in target.parents, link
        if anchor:
            assert anchor in anchors(target), link


@each_page
def test_a_page_has_one_title_and_skips_no_level(page: Path) -> None:
    text = FENCE.sub("", page.read_text("utf-8"))
    levels = [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs and items of lists; tables, headings and code are none."""
    for part in re.split(r"\n\s*\n|\n(?=[-*] |\d+\. |\|)", FENCE.sub("\n", text)):
        if part.strip() and not part.lstrip().startswith(("|", "#")) and not part.startswith("    "):
            yield part


WITH_PROSE = [*sorted(DOCS.glob("*.md")), ROOT / "search" / "README.md"]


@pytest.mark.parametrize("page", WITH_PROSE, ids=[page.name for page in WITH_PROSE])
def test_no_paragraph_is_too_long_to_read(page: Path) -> None:
    long = {part.strip()[:60]: len(part.split()) for part in _paragraphs(page.read_text("utf-8"))}
    assert {start: words for start, words in long.items() if words > 90} == {}


def test_the_guide_of_the_search_is_short() -> None:
    assert len((DOCS / "search.md").read_text("utf-8").split()) <= 1200


@pytest.mark.parametrize("page", WITH_PROSE, ids=[page.name for page in WITH_PROSE])
def test_code_fits_its_page(page: Path) -> None:
    """84 columns have room at 1280 pixels. What programs print and changes of files are as wide as they are."""
    text = page.read_text("utf-8")
    code = []
    for kind, block in re.findall(r"^```([\w{}-]*)[^\n]*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if kind in ("text", "diff"):
            continue
        typed = re.findall(r"^(?:>>> |\.\.\. ).*", block, re.MULTILINE)  # of a session at the prompt
        code += typed if kind == "python" and typed else block.splitlines()
    code += re.findall(r"^ {4}((?:fasteraa|python|torchrun|pip) .*)$", FENCE.sub("", text), re.MULTILINE)
    assert [line for line in code if len(line) > 84] == []


RESULTS = ("evaluation", "search-research", "benchmarks", "gallery", "operations", "suite", "search", "targets")


@pytest.mark.parametrize("name", RESULTS)
def test_a_page_with_results_has_a_picture(name: str) -> None:
    text = (DOCS / f"{name}.md").read_text("utf-8")
    sys.path.insert(0, str(DOCS / "_extensions"))
    try:
        pages = importlib.import_module("pages") if importlib.util.find_spec("sphinx") else None
    finally:
        sys.path.pop(0)
    if pages is None:
        pytest.skip("the site needs the extra docs")
    assert re.search(r"!\[[^\]]+\]\(|^<!-- generated: \w+ -->$", pages._with_charts(name, text), re.MULTILINE)


@each_page
def test_code_that_is_linked_is_in_the_linked_file(page: Path) -> None:
    for name, path in re.findall(r"\[`([\w.]+)`\]\(([\w./-]+\.py)\)", page.read_text("utf-8")):
        file = (page.parent / path).resolve()
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found = operator.attrgetter(name)(importlib.import_module(module))
        assert getattr(found, "__module__", module) == module, name


@each_page
def test_tests_that_are_named_exist(page: Path) -> None:
    # A test stands for a claim; the file may be named beside it.
    text = page.read_text("utf-8")
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py"))
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in sources, name
    for name in re.findall(r"`(tests/[\w./]+)`", text):
        assert (ROOT / name).exists(), name


def apply_diffs(page: Path, folder: Path) -> set[str]:
    """Make the changes that a page shows; every context has to be in its file, exactly once. Returns the files."""
    changed = set()
    for diff in re.findall(r"(?ms)^```diff\n(.*?)^```$", page.read_text("utf-8")):
        for name, hunks in re.findall(r"(?ms)^--- (\S+)\n(.*?)(?=^--- |\Z)", diff):
            text = (folder / name).read_text("utf-8")
            for hunk in hunks.split("@@\n")[1:]:
                lines = hunk.splitlines(keepends=True)
                before = "".join(line[1:] for line in lines if line[0] != "+")
                after = "".join(line[1:] for line in lines if line[0] != "-")
                before, after = before.removesuffix("\n"), after.removesuffix("\n")  # it may be a part of a line
                assert text.count(before) == 1, f"{name}: {text.count(before)} times:\n{before}"
                text = text.replace(before, after)
            (folder / name).write_text(text, "utf-8")
            changed.add(name)
    return changed


@pytest.mark.slow
def test_the_recipe_for_a_new_operation(tmp_path: Path) -> None:
    for folder in ("fasteraa_transforms", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    changed = apply_diffs(DOCS / "adding-an-operation.md", tmp_path)
    # Every file that CONTRIBUTING.md names is there.
    steps = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("## Adding an operation")[2].partition("## ")[0]
    assert set(re.findall(r"`(fasteraa_transforms/[\w/]+\.py)`", steps)) <= changed

    # The photographs and the examples of Hypothesis take half of the time and find nothing here that others do not.
    selected = "(slant and not photograph and not anything) or boxes_as_torchvisions"
    shared = ["test_functional.py", "backends/test_cuda.py", "pipeline/test_targets.py", "policy/test_interchange.py"]
    files = sorted({name for name in changed if name.startswith("tests/")} | {f"tests/{name}" for name in shared})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", selected, *files]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout[-5000:]
    passed = re.search(r"(\d+) passed", process.stdout)
    assert passed is not None
    assert int(passed[1]) > 100


@pytest.mark.usefixtures("desk")
def test_the_pages_randaugment_is_torchvisions(photographs: list[npt.NDArray[np.uint8]]) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    list(run(DOCS / "coming-from.md", names))
    image = Image.fromarray(photographs[0][:120, :150])
    theirs = v2.RandAugment()
    candidates = {each.operation: each for each in names["rand_augment"]().sub_policies[0][0] if each.probability}
    assert len(candidates) == len(theirs._AUGMENTATION_SPACE) - 1  # the identity
    for name, (magnitudes, signed) in theirs._AUGMENTATION_SPACE.items():
        if name == "Identity":
            continue
        operation = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        candidate = candidates[operation]
        found = magnitudes(theirs.num_magnitude_bins, image.height, image.width)
        magnitude = 0.0 if found is None else float(found[theirs.magnitude])
        # The two sides of a translation are the other way round, which with equal chances for both is no difference.
        sides = (1, -1) if signed else (None,)
        for sign in sides:
            side = -sign if sign and operation.startswith("translate") else sign
            policy = Policy([[[candidate.model_copy(update={"sign": side})]]])
            expected = theirs._apply_image_or_video_transform(
                image, name, (sign or 1) * magnitude, interpolation=theirs.interpolation, fill={}
            )
            assert np.array_equal(apply(image, policy.sample(1)), expected), (name, sign)


NOTEBOOK = DOCS / "tour.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    # Raises where a cell does.
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    committed = nbformat.read(NOTEBOOK, as_version=4)
    for cell, old in zip(notebook.cells, committed.cells, strict=True):
        # Numbers may differ from machine to machine, what kind of thing comes out may not.
        kinds = [{output.output_type for output in each.get("outputs", [])} for each in (cell, old)]
        assert kinds[0] == kinds[1], cell.source


def test_the_notebook_is_committed_as_it_ran() -> None:
    text = NOTEBOOK.read_text("utf-8")
    assert len(text) < 500_000
    notebook = nbformat.reads(text, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for output in (output for cell in code for output in cell.outputs):
        assert output.output_type in ("stream", "execute_result")
        assert output.get("name", "stdout") == "stdout"  # no warnings
        assert not re.search(r"(/tmp|/home|/root|[A-Z]:\\)", output.get("text", ""))
    for link in re.findall(r"\]\(([\w-]+\.md)\)", "".join(cell.source for cell in notebook.cells)):
        assert (DOCS / link).exists(), link
