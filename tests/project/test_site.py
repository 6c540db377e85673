"""The site: what it makes of the code, a reference without gaps, and no link that leads nowhere."""

import importlib
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import fasteraa_transforms
from fasteraa_transforms import OPERATIONS, Policy, search

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def _extension(name: str) -> ModuleType:
    sys.path.insert(0, str(DOCS / "_extensions"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    module = _extension("generated")
    monkeypatch.setattr(module, "PICTURES", tmp_path / "pictures")
    return module


@pytest.fixture(scope="module")
def documented() -> set[str]:
    """The names that the pages of the reference have an entry for."""
    text = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.rst"))
    # The docstring of a dictionary is found only where it is defined, so the entry of OPERATIONS is written out.
    written = re.findall(r"^\.\. py:data:: (\w+)", text, re.MULTILINE)
    found = re.findall(r"^\.\. auto\w+:: ([\w.]+)", text, re.MULTILINE)
    return {*found, *(f"fasteraa_transforms.{name}" for name in written)}


@pytest.mark.parametrize("module", [fasteraa_transforms, search])
def test_every_public_name_is_in_the_reference(module: ModuleType, documented: set[str]) -> None:
    assert {f"{module.__name__}.{name}" for name in module.__all__} - documented == set()


def test_the_reference_documents_what_exists(documented: set[str]) -> None:
    for name in documented:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_operations_table_is_that_of_the_code() -> None:
    lines = (DOCS / "operations.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| operation |")) + 2
    found = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        names, parameter, signed, _ = (cell.strip() for cell in line.strip("|").split("|"))
        for name in names.split(", "):
            operation = OPERATIONS[name]
            found.append(name)
            assert signed == ("–" if not operation.has_magnitude else "yes" if operation.signed else "no"), name
            if operation.has_magnitude:
                assert f"{abs(operation.severest - operation.weakest):g}" in parameter, name
                assert not operation.weakest or f"{operation.weakest:g} " in parameter, name
            else:
                assert parameter == "–", name
    assert sorted(found) == sorted(OPERATIONS)


def _links(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [target for target in re.findall(r"\]\(([^()\s]+)\)", text) if not re.match(r"#|\w+:", target)]


def test_links_between_files_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("cuda/*.md"), *ROOT.glob("search/**/*.md")]
    links = [(page, target) for page in pages for target in _links(page)]
    assert len(links) > 50
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page, target in links
        if not (page.parent / target.partition("#")[0]).exists()
    ]
    assert missing == []


def test_pictures_of_the_operations(generated: ModuleType) -> None:
    rows = [line for line in generated.operations().splitlines() if line.startswith("| {py:func}")]
    for name, operation in OPERATIONS.items():
        mine = [row for row in rows if f".functional.{name}>`" in row]
        assert len(mine) == 1 + operation.signed
        for row in mine:
            assert row.count("![") == (len(generated.MAGNITUDES) if operation.has_magnitude else 1)
            assert row.count("|") == 2 + len(generated.MAGNITUDES)
    assert "![rotate 30](/pictures/rotate-1.webp)<br>30" in "\n".join(rows)
    assert "![rotate -30](/pictures/rotate-minus-1.webp)<br>-30" in "\n".join(rows)

    def pixels(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
        with Image.open(generated.PICTURES / f"{name}.webp") as picture:
            return np.asarray(picture.convert("RGB"), dtype=np.int16)

    original = pixels("rotate-0")
    for name, expected in (("flip", original[:, ::-1]), ("invert", 255 - original), ("solarize-1", 255 - original)):
        assert abs(pixels(name) - expected).mean() < 6, name  # the files are lossy
    changes = [abs(pixels(f"contrast-{magnitude:g}") - original).mean() for magnitude in generated.MAGNITUDES]
    assert changes == sorted(changes)
    assert changes[-1] > 10


def test_every_shipped_policy_is_shown(generated: ModuleType) -> None:
    text = generated.policies()
    folder = files("fasteraa_transforms") / "policies"
    names = [entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json")]
    assert re.findall(r"^## (\S+)$", text, re.MULTILINE) == sorted(names)
    for name in names:
        policy = Policy.from_json((folder / f"{name}.json").read_text())
        part = text.split(f"## {name}\n")[1].partition("\n## ")[0]
        assert part.count("**Sub-policy ") == len(policy)
        assert part.index("<svg") < part.index("{.whole}") < part.index("<details>")  # what it does comes first
        assert part.count("<details>") == part.count("</details>") == 2
        assert len(list(generated.PICTURES.glob(f"{name}-[0-9]*-[01].webp"))) == 2 * len(policy)
    # Both are AutoAugment's policy of CIFAR-10; no other two are the same.
    assert "`cifar100` has the same sub-policies." in text.split("## cifar10\n")[1].partition("\n## ")[0]
    assert "`cifar10` has the same sub-policies." in text.split("## cifar100\n")[1].partition("\n## ")[0]
    assert text.count("has the same sub-policies.") == 2


def test_the_first_page_shows_what_augmentation_does(generated: ModuleType) -> None:
    assert generated.teaser().endswith("(/pictures/teaser.webp){.whole}")
    with Image.open(generated.PICTURES / "teaser.webp") as picture:
        strip = np.asarray(picture.convert("RGB"), dtype=np.int16)
    tiles = [strip[:, 132 * i : 132 * i + 128] for i in range(6)]
    assert all(abs(tile - tiles[0]).mean() > 8 for tile in tiles[1:])  # all of them can be seen to differ


def test_a_policy_without_provenance_is_shown(generated: ModuleType) -> None:
    candidates = [{"operation": name, "weight": 1, "probability": 0.5} for name in ("flip", "invert", "equalize")]
    solarize = {"operation": "solarize", "weight": 5, "probability": 1, "magnitude": 0.5}
    sub_policies = [[[*candidates, solarize, *candidates]]]
    lines = list(generated._policy("mine", Policy(sub_policies)))
    assert "| size | 1 sub-policies of 1 stages, 7 candidates |" in lines
    assert not any("said of itself" in line for line in lines)
    (stage,) = (line for line in lines if line.startswith("- stage"))
    assert stage == (
        "- stage 0: solarize 45% (applied 1.00; 128 level), flip 9% (applied 0.50), invert 9% (applied 0.50), "
        "equalize 9% (applied 0.50), 3 more, together 27%"
    )


@pytest.mark.parametrize("size", [48, [48, 48]])
def test_the_images_of_a_policy_are_told(size: object, generated: ModuleType) -> None:
    flip = {"operation": "flip", "weight": 1, "probability": 0.5}
    provenance = {"dataset": "pets", "images": 4000, "settings": {"image_size": None}, "recipe": {"image_size": size}}
    lines = generated._policy("mine", Policy([[[flip]]], provenance=provenance))
    assert "| images | 4,000 of pets, at 48 × 48 pixels |" in lines


def test_command_line_has_every_option(generated: ModuleType) -> None:
    text = generated.command_line()
    for option in ("--tile", "--preset", "--classifier-epochs", "--resume", "--policies", "--split-seed"):
        assert re.search(rf"^ +{option}\b", text, re.MULTILINE), option
    for usage in ("show POLICY PHOTO ... --out PATH [OPTIONS]", "diff A B", "list"):
        assert f"\nusage: fasteraa {usage}\n" in text
    assert max(map(len, text.splitlines())) <= 88


@pytest.fixture
def link() -> Callable[..., str]:
    pytest.importorskip("sphinx", reason="the site needs the extra docs")
    return partial(_extension("pages")._with_links, source="docs/evaluation.md", source_url="")


def test_links_lead_to_pages(link: Callable[..., str]) -> None:
    assert link("[a](search.md#the-budget)") == "[a](/searching.md#the-budget)"
    assert link("[a\nb](../cuda/README.md)") == "[a\nb](/kernels.md)"
    assert link("[a](../README.md)") == "[a](/index.md)"
    assert link("[a](../README.md#what-was-measured)") == "[a](/measured.md#what-was-measured)"
    assert link("[a](docs/targets.md)", source="CHANGELOG.md") == "[a](/targets.md)"
    assert link("![a](docs/images/targets.png)", source="README.md") == "![a](/images/targets.png)"
    for unchanged in (
        "[a](#measured)",
        "[a](https://example.org/x.md)",
        "[a](/images/x.png)",
        "`a[0](b)`",
        "```\na[0](b)\n```",
    ):
        assert link(unchanged) == unchanged


def test_links_to_files_that_are_no_pages(link: Callable[..., str]) -> None:
    file = "[rows](../search/experiments/strength/digits/rows.jsonl)"
    folder = "[runs](../search/experiments/strength/digits)"
    assert link(file) == "[rows](path:/../search/experiments/strength/digits/rows.jsonl)"
    assert link(folder) == "runs (`search/experiments/strength/digits`)"
    url = "https://example.org/blob/main/"
    assert (
        link(file, source_url=url)
        == "[rows](https://example.org/blob/main/search/experiments/strength/digits/rows.jsonl)"
    )
    assert link(folder, source_url=url) == "[runs](https://example.org/blob/main/search/experiments/strength/digits)"


def test_links_that_lead_nowhere_are_warned_of(link: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    assert link("[a](missing.md)") == "a"
    assert "docs/evaluation.md links to missing.md, which does not exist" in caplog.text


# --- charts of what was measured --------------------------------------------------------------------------------------


@pytest.fixture
def measured() -> ModuleType:
    return _extension("measured")


def _bars(markdown: str) -> list[dict[str, float]]:
    """The bars of each chart of lengths: how long each is, by its label."""
    charts = re.findall(r"<svg.*?</svg>", markdown, re.DOTALL)
    found = []
    for chart in charts:
        widths = [float(each) for each in re.findall(r'<rect .*? width="([\d.]+)"', chart)]
        labels = re.findall(r'<text x="0" [^>]*>([^<]+)</text>', chart)
        found.append(dict(zip(labels, widths, strict=False)))
    return found


def test_bars_of_speed_are_as_long_as_the_times(measured: ModuleType) -> None:
    rows = json.loads((ROOT / "benchmarks" / "augment.json").read_text())[-1]["rows"]
    text = measured.speed()
    assert re.findall(r"<figcaption>(.*?)</figcaption>", text) == [row["name"] for row in rows]
    *charts, rates = _bars(text)
    assert list(rates) == ["no policy", "this", "torchvision AutoAugment"]
    assert list(rates.values()) == sorted(rates.values(), reverse=True)
    for row, bars in zip(rows, charts, strict=True):
        times = sorted(result["median"] for result in row["results"].values())
        assert list(bars.values()) == pytest.approx([146 * time / times[-1] for time in times], abs=0.1)
        assert "this" in bars
    assert "do not edit" not in text
    assert "target" not in text


def test_every_shipped_policy_has_its_shares(measured: ModuleType) -> None:
    charts = _bars(measured.shares())
    assert len(charts) == len(measured.shipped())
    for bars, policy in zip(charts, measured.shipped().values(), strict=True):
        shares = policy.effective_share()
        top = max(shares.values())
        used = {name: share for name, share in shares.items() if share >= 0.0005}
        drawn = {name: width for name, width in bars.items() if name in OPERATIONS}
        assert drawn == pytest.approx({name: 202 * share / top for name, share in used.items()}, abs=0.1)


def test_charts_of_the_search(measured: ModuleType) -> None:
    race = measured.race()
    rows = [row for row in measured.rows_of("search/experiments/suite/rows.jsonl") if row["kind"] == "search"]
    if rows:
        (data,) = re.findall(r'aria-label="The race on (\w+)"', race)
        assert any(
            race.count("<title>") == len(row["standings"]) and f"{100 * row['standings'][0]['error']:.2f} % (" in race
            for row in rows
            if row["data"] == data
        )
    else:
        assert race == ""
    strength = measured.strength()
    arms = {row["arm"] for row in measured.rows_of("search/experiments/strength/digits/rows.jsonl")}
    assert strength.count("<circle") == len(arms - {"none", "TrivialAugment"})
    assert "paper: strength 0.037, 10.0 %" in strength
    collapse = measured.collapse()
    assert "strength 0.119 → 0.055" in collapse
    assert collapse.count("<svg") == 1 + len(OPERATIONS)
    for text in (race, strength, collapse):
        for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
            ElementTree.fromstring(svg)


CONTROLS = ("none", "cutout", "random", "trivialaugment", "uniform")


def _case(data: str, seed: int, **errors: float) -> list[dict[str, object]]:
    return [
        {"kind": "test", "data": data, "seed": seed, "augmentation": name, "error": error / 100}
        for name, error in errors.items()
    ]


def test_the_suite_with_whatever_rows_there_are(measured: ModuleType) -> None:
    assert list(measured._suite([])) == ["No training of the suite is done yet."]
    some = _case("silhouettes", 0, searched=3.0, none=4.0)
    text = "\n".join(measured._suite(some))
    assert "| **searched** | 3.00 |" in text
    assert "Test error in %, 1 seed." in text
    assert "regret" not in text
    assert "1 seed." in text
    whole = [
        *_case("silhouettes", 0, searched=3.0, **dict(zip(CONTROLS, (4.0, 3.5, 3.6, 3.7, 3.8), strict=True))),
        *_case("silhouettes", 1, searched=3.2, **dict(zip(CONTROLS, (4.0, 3.0, 3.6, 3.7, 3.8), strict=True))),
        *_case("fashion", 0, searched=3.85, **dict(zip(CONTROLS, (4.0, 3.9, 3.6, 3.7, 3.8), strict=True))),
        *_case("a set of tomorrow", 0, searched=9.0, none=8.0),
        {"kind": "search", "data": "silhouettes", "seed": 0, "images": 1000, "kept": "uniform", "seconds": 120},
    ]
    text = "\n".join(measured._suite(whole))
    # Silhouettes' means are 3.1 and, of the best control, 3.25; so the regrets of searched are -0.15 and +0.25.
    assert "| **searched** | +0.05 | +0.25 | 3.10 (2) | 3.85 (1) | 9.00 (1) |" in text
    assert "| cutout | +0.15 | +0.30 | 3.25 (2) | 3.90 (1) | – |" in text
    assert "in brackets how many" in text
    assert "over the 2 data sets on which" in text
    assert "**What the search kept has the smallest mean regret, +0.05.**" in text
    assert "It has fewer errors than every control in 1 of 2." in text
    assert "## A set of tomorrow" in text
    assert "1,000 training images; 2 seeds." in text
    assert "The search kept `uniform`; it took 2 minutes." in text
    worse = _case("cifar10", 0, searched=3.9, **dict(zip(CONTROLS, (4.0, 3.5, 3.6, 3.7, 3.8), strict=True)))
    text = "\n".join(measured._suite(worse))
    assert "over the one data set on which" in text
    assert "**cutout has the smallest mean regret, +0.00; what the search kept has +0.40.** It has" in text
    assert "## CIFAR-10\n" in text


def test_the_chart_of_regrets(measured: ModuleType) -> None:
    assert measured._regret_chart({}) == ""
    text = measured._regret_chart({"none": [2.0, 4.0], "searched": [-0.5, 0.1], "cutout": [0.0, 1.0]})
    assert re.findall(r">([^<]+)</text>", text) == ["searched", "−0.20", "cutout", "+0.50", "none", "+3.00"]
    widths = [float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', text)]
    assert widths[0] == 0
    assert widths[2] / widths[1] == pytest.approx(6, rel=0.01)


def test_the_suite_as_it_is(measured: ModuleType) -> None:
    text = measured.suite()
    for data in {row["data"] for row in measured.rows_of("search/experiments/suite/rows.jsonl")}:
        assert f"## {measured.SUITE[data][0]}\n" in text
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)


def test_the_page_of_the_benchmarks_is_for_readers(measured: ModuleType) -> None:
    page = """# Title

Written by a script; do not edit.

| | a | b | c | d | e | f | g |
|---|---:|---:|---:|---:|---:|---:|---:|
| one | 1 | 2 | 3 | 4 | 5 | 6 | 7 |
| two | 8 | 9 | 10 | 11 | 12 | 13 | 14 |

Ours is the second column.

| | target | a |
|---|---|---|
| one | 0.2 | met |

| policy | images/s |
|---|---:|
| mine | 1 |
"""
    head, table, words, last = measured.for_readers(page).strip().split("\n\n")
    assert (head, words) == ("# Title", "Ours is the second row.")
    assert table.splitlines()[:4] == ["|  | one | two |", "|---|---:|---:|", "| a | 1 | 8 |", "| b | 2 | 9 |"]
    assert len(table.splitlines()) == 2 + 7
    assert last == "| policy | images/s |\n|---|---:|\n| mine | 1 |"
    whole = measured.for_readers((DOCS / "benchmarks.md").read_text("utf-8"))
    assert "do not edit" not in whole
    assert "| target |" not in whole
    assert max(line.count("|") for line in whole.splitlines() if line.startswith("|")) <= 9


def test_a_page_that_a_script_writes_gets_its_charts() -> None:
    pytest.importorskip("sphinx", reason="the site needs the extra docs")
    pages = _extension("pages")
    assert pages._with_charts("benchmarks", "# Title\n\ntext") == "# Title\n\n<!-- generated: speed -->\n\ntext"
    asked = "# Title\n\n<!-- generated: speed -->\n"
    assert pages._with_charts("benchmarks", asked) == asked
    assert pages._with_charts("search", "# Title\n") == "# Title\n"
    column = pages._with_charts("measured", "# Title\n\na column")
    assert column == "# Title\n\n<!-- generated: regret -->\n\na column"
    assert "<svg" in pages._filled("<!-- generated: shares -->")
