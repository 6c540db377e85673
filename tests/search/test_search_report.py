"""The report of a run: what it says, that it is one safe page, and how it lies in a browser; affinity and diversity."""

import base64
import dataclasses
import io
import json
import math
import re
import xml.etree.ElementTree
from collections import Counter
from collections.abc import Sequence
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import BROWSER, STEP_METRICS, dump_dom
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from fasteraa_transforms import Policy
from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.policy.pictures import contact_sheet, policies_sheet, tile
from fasteraa_transforms.relaxed import RelaxedPolicy
from fasteraa_transforms.search import Digits, Settings, TrainingSettings, load_images, search
from fasteraa_transforms.search.__main__ import main
from fasteraa_transforms.search.contenders import contest
from fasteraa_transforms.search.contenders.guard import Curves, Point
from fasteraa_transforms.search.contenders.screening import Effect
from fasteraa_transforms.search.contenders.standings import Standing, standings
from fasteraa_transforms.search.contenders.table import Material, gather
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.evaluation import affinity
from fasteraa_transforms.search.evaluation.affinity import AffinityDiversity, affinity_and_diversity
from fasteraa_transforms.search.evaluation.table import errors_of
from fasteraa_transforms.search.report import page as report
from fasteraa_transforms.search.report.charts import Bar, bar_chart, operation_chart, share_bars, standalone
from fasteraa_transforms.search.report.comparison import comparison_page, error_chart
from fasteraa_transforms.search.report.next_steps import next_steps
from fasteraa_transforms.search.report.race_sections import Raced
from fasteraa_transforms.search.runtime.files import read_rows

ROOT = Path(__file__).parents[2]
NASTY = "<script>alert('x')</script> & \"<img src=x onerror=alert(1)>"
VERDICT = ["Collapsed to the identity: 0.1 → 0.0.", f"Of {NASTY}."]
VOID = {"meta", "img", "br", "wbr", "path", "use", "rect", "circle", "polyline"}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded())


def metrics(epochs: int = 3) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for epoch in range(epochs + 1):
        measured = dict.fromkeys(STEP_METRICS, 0.5 / epoch) if epoch else {}
        if epoch:
            rows.append({"kind": "step", "epoch": epoch, "step": epoch} | measured)
        share = {name: 0.01 + 0.01 * n * epoch / epochs for n, name in enumerate(OPERATIONS)}
        rows.append(
            {"kind": "epoch", "epoch": epoch, "step": epoch, "strength": 0.1, "drift": 0.1, "entropy": 0.4}
            | {"share": share, **measured}
        )
    return rows


def some_policy(sub_policies: int = 3) -> Policy:
    provenance = {"dataset": NASTY, "settings": {"critic": f"{NASTY}:net", "betas": [0.0, 0.999], "padding": None}}
    return RelaxedPolicy(sub_policies, 2, generator=seeded()).to_policy(f"pets {NASTY}", provenance=provenance)


class Page(HTMLParser):
    """A page taken apart; fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def tables(self) -> list[list[list[str]]]:
        """Rows of cells of each table."""
        return [
            [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)]
            for table in re.findall(r"<table>(.*?)</table>", self.rawdata_whole, re.DOTALL)
        ]

    rawdata_whole = ""


def make_page(policy: Policy | None = None, images: Tensor | None = None) -> tuple[str, Page]:
    text = report.page(
        policy or some_policy(),
        verdict=VERDICT,
        metrics=metrics(),
        images=pixels(4, 3, 20, 20) if images is None else images,
        source={"dataset": NASTY, "shards": [NASTY, "b.tar"]},
    )
    page = Page(text)
    page.rawdata_whole = text
    return text, page


@pytest.fixture(scope="module")
def made() -> tuple[str, Page]:
    return make_page()


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_is_one_file_without_scripts(made: tuple[str, Page]) -> None:
    text, page = made
    assert text.startswith("<!doctype html>")
    names = {name for name, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for name, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on"), (name, key)
            if key in ("src", "href", "xlink:href", "action", "data", "poster"):
                assert value is not None
                assert value.startswith(("data:image/png;base64,", "#")), (name, key, value[:80])
    assert not re.findall(r"url\((?!#)|@import", text)
    (policy,) = [each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_names_of_users_are_text(made: tuple[str, Page]) -> None:
    text, page = made
    assert "<script" not in text
    assert "<img src=x" not in text
    whole = " ".join(each for _, each in page.texts)
    assert whole.count(NASTY) >= 6  # title, heading, verdict, source twice, dataset, critic
    assert f"Search of pets {NASTY}" in [each for tag, each in page.texts if tag == "h1"]


def test_the_verdict_comes_first(made: tuple[str, Page]) -> None:
    _, page = made
    paragraphs = [each for tag, each in page.texts if tag == "p"]
    assert paragraphs[:2] == VERDICT
    body = [tag for tag, _ in page.tags]
    assert body[body.index("body") + 1 :][:4] == ["h1", "section", "p", "p"]


def test_curves_take_the_colour_of_the_page_and_do_not_clash(made: tuple[str, Page]) -> None:
    text, page = made
    assert len(page.all("svg")) == 1 + 3 + len(OPERATIONS)  # shares, the course, a share each
    assert [each["aria-label"] for each in page.all("div") if "aria-label" in each] == [
        "curves: losses",
        "curves: accuracies",
        "curves: policy",
    ]
    svgs = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    for svg in svgs:
        assert "currentColor" in svg
        assert "#010203" not in svg
        assert not re.search(r"fill: ?(#ffffff|white)", svg)
    clips = Counter(each for svg in svgs for each in re.findall(r'<clipPath id="(.*?)"', svg))
    assert len(clips) >= 3
    assert set(clips.values()) == {1}
    words = {each for tag, each in page.texts if tag == "text"}
    assert {"wasserstein", "accuracy_augmented", "sample_pairing", "epoch"} <= words
    assert make_page()[0] == text  # nothing random, no time


def test_the_table_of_operations(made: tuple[str, Page]) -> None:
    head, *rows = made[1].tables()[0]
    assert head == ["operation", "start", "end", "change"]
    assert [row[0] for row in rows] == list(OPERATIONS)
    assert rows[3] == ["translate_y", "0.0100", "0.0400", "+300%"]


def test_the_table_of_the_policy(made: tuple[str, Page]) -> None:
    head, *rows = made[1].tables()[1]
    assert head == ["sub-policy", "stage", "operation", "chosen", "probability", "magnitude", "that is"]
    expected = [
        (i, k, each)
        for i, sub_policy in enumerate(some_policy().sub_policies)
        for k, stage in enumerate(sub_policy)
        for each in stage
    ]
    assert len(rows) == len(expected)
    for i, k, each in expected:
        (row,) = [row for row in rows if row[:3] == [str(i), str(k), each.operation]]
        assert row[3] == f"{each.weight:.1%}"
        assert float(row[4]) == pytest.approx(each.probability, abs=0.005)
        assert row[5] == ("-" if each.magnitude is None else f"{each.magnitude:.2f}")
    shares = [float(row[3][:-1]) for row in rows if row[:2] == ["0", "0"]]
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    ("operation", "magnitude", "sign", "expected"),
    [
        ("rotate", 0.4, None, "± 12 degrees"),
        ("rotate", 0.4, -1, "-12 degrees"),
        ("contrast", 0.5, None, "1 ± 0.45 factor"),
        ("contrast", 0.5, -1, "0.55 factor"),
        ("contrast", 0.5, 1, "1.45 factor"),
        ("solarize", 0.25, None, "192 level"),
        ("posterize", 1.0, None, "4 bits"),
        ("cutout", 0.5, None, "0.1 of the width"),
        ("flip", None, None, "-"),
    ],
)
def test_what_a_magnitude_stands_for(operation: str, magnitude: float | None, sign: int | None, expected: str) -> None:
    candidate: dict[str, Any] = {"operation": operation, "weight": 1, "probability": 0.5}
    if magnitude is not None:
        candidate["magnitude"] = magnitude
    if sign is not None:
        candidate["sign"] = sign
    _, page = make_page(Policy([[[candidate]]]))
    assert page.tables()[1][1][6] == expected


def test_the_settings(made: tuple[str, Page]) -> None:
    rows = dict(made[1].tables()[2])
    assert rows["source.dataset"] == escape(NASTY)
    assert rows["source.shards"] == f"{escape(NASTY)}, b.tar"
    assert rows["settings.betas"] == "0.0, 0.999"
    assert rows["settings.padding"] == "as fits the dataset"
    assert rows["settings.critic"] == f"{escape(NASTY)}:net"


def pictures_of(page: Page) -> list[Image.Image]:
    sources = [each["src"] or "" for each in page.all("img")]
    return [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources]


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_pictures_show_originals_beside_what_sub_policies_make_of_them(channels: int) -> None:
    images = pixels(4, channels, 20, 24)
    invert = {"operation": "invert", "weight": 1, "probability": 1}
    flip = {"operation": "flip", "weight": 1, "probability": 1}
    text, page = make_page(Policy([[[invert]], [[flip]]]), images)
    found = pictures_of(page)
    shown = images[:, :3] if channels >= 3 else images[:, :1]
    assert len(found) == 2 * 2 * 4
    for i, change in enumerate((lambda image: 255 - image, lambda image: image.flip(2))):
        for j in range(2):
            original, *augmented = found[8 * i + 4 * j : 8 * i + 4 * j + 4]
            assert original.tobytes() == tile(shown[j], 96).tobytes()
            for each in augmented:
                assert each.tobytes() == tile(change(shown[j]), 96).tobytes()
    labels = [each["alt"] for each in page.all("img")]
    assert labels == (["original"] + ["invert"] * 3) * 2 + (["original"] + ["flip"] * 3) * 2
    assert "2 of 2 sub-policies" in text


def test_of_many_sub_policies_some_are_in_pictures_and_all_in_the_table() -> None:
    flip = {"operation": "flip", "weight": 1, "probability": 0.5}
    text, page = make_page(Policy([[[flip]]] * 30), pixels(1, 3, 8, 8))
    assert "25 of 30 sub-policies" in text
    assert len(page.all("img")) == 25 * 4  # there is one image to show
    assert len(page.tables()[1]) == 1 + 30
    alone, _ = make_page(Policy([[[flip]]]), pixels(1, 3, 8, 8))
    assert "The policy has one sub-policy. A dash" in alone


# --- the race and the operations --------------------------------------------------------------------------------------


def race_rows(errors: dict[str, tuple[float, ...]]) -> list[dict[str, Any]]:
    return [
        {"contender": name, "replicate": i, "error": value / 100, "loss": value / 50, "seconds": 1}
        for name, values in errors.items()
        for i, value in enumerate(values)
    ]


def race_page(
    errors: dict[str, tuple[float, ...]],
    effects: Sequence[Effect] = (),
    standing: Sequence[Standing] | None = None,
    **options: Any,
) -> tuple[str, Page]:
    rows = race_rows(errors)
    raced = Raced(rows, standings(rows) if standing is None else standing, effects)
    text = report.page(some_policy(), verdict=VERDICT, images=pixels(2, 3, 8, 8), race=raced, **options)
    page = Page(text)
    page.rawdata_whole = text
    return text, page


RACE = {"none": (4.0, 4.4, 4.2), f"mine {NASTY}": (3.0, 3.5, 3.1), "early": (9.0,)}


def test_the_race_as_bars_and_as_a_table() -> None:
    text, page = race_page(RACE)
    body = [tag for tag, _ in page.tags]
    assert body.index("section") < body.index("svg") < body.index("table")
    head, *rows = page.tables()[0]
    kept = escape(f"mine {NASTY}")
    assert head == ["contender", "networks", "error, %", f"− {kept}", "cross entropy"]
    # Differences 1.0, 0.9, 1.1: a training deviates by 0.1 / √2, of 2 degrees of freedom; with the prior's 4 of them
    # the half width is 2.447 · 0.1 / √3. "early" has the first replicate alone, in which it is 6.0 behind.
    assert rows == [
        [kept, "3", "3.20", "", "0.064"],
        ["none", "3", "4.20", "+1.00 ± 0.14", "0.084"],
        ["early", "1", "9.20", "+6.00 ± 0.24", "0.184"],
    ]
    svg, _ = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert "4.20 % +1.00 ± 0.14" in svg
    assert "3.20 %</text>" in svg
    assert "9.20 % +6.00 ± 0.24<" in svg
    assert "currentColor" in svg
    assert "nan" not in text
    assert "inf" not in svg


def test_an_interval_that_is_not_known_is_left_out() -> None:
    unknown = [Standing("a", 1, 0.03, 0.1, 0, 0, 0, 0), Standing("b", 1, 0.05, 0.2, 0.1, math.inf, 0.02, math.inf)]
    text, page = race_page({"a": (3.0,), "b": (5.0,)}, standing=unknown)
    assert [row[3] for row in page.tables()[0][1:]] == ["", "+2.00"]
    assert "inf" not in "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))


def test_the_one_that_is_kept_comes_first_whatever_its_error() -> None:
    by_loss = [Standing("a", 1, 0.05, 0.1, 0, 0, 0, 0), Standing("b", 1, 0.03, 0.2, 0.1, 0.2, -0.02, 0.01)]
    _, page = race_page({"a": (5.0,), "b": (3.0,)}, standing=by_loss)
    assert [row[0] for row in page.tables()[0][1:]] == ["a", "b"]
    assert page.tables()[0][2][3] == "−2.00 ± 1.00"


EFFECTS = [Effect("sample_pairing", -0.05, 0.02), Effect("rotate", -0.001, 0.02), Effect("invert", 0.03, 0.02)]


def test_what_a_screening_found() -> None:
    text, page = race_page(RACE, effects=EFFECTS)
    _, svg, _ = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    headings = [each for tag, each in page.texts if tag == "h2"]
    assert headings[:2] == ["What was tried", "What each operation does for a network"]
    words = re.findall(r">([^<]+)</text>", svg)
    assert words[:6] == ["sample_pairing", "−0.050 ± 0.020", "rotate", "−0.001 ± 0.020", "invert", "+0.030 ± 0.020"]
    (line,) = re.findall(r'"M([\d.]+) 0V', svg)
    dots = [float(each) for each in re.findall(r'cx="([\d.]+)"', svg)]
    ends = [tuple(map(float, each)) for each in re.findall(r'"M([\d.]+) \d+H([\d.]+)"', svg)]
    # The axis is 73 wide on either side, for 0.07: the farthest end of an interval.
    assert dots == pytest.approx([float(line) + 73 / 0.07 * each.effect for each in EFFECTS], abs=0.1)
    assert ends[0] == pytest.approx((float(line) - 73, float(line) - 73 * 3 / 7), abs=0.1)
    told = re.findall(r'<circle[^>]* fill="(.*?)"', svg)
    assert told[1] == "currentColor"  # its interval reaches the line
    assert told[0] == told[2] != "currentColor"


def test_shares_of_a_policy_as_bars() -> None:
    shares = dict.fromkeys(OPERATIONS, 0.0) | {"rotate": 0.3, "flip": 0.15, "invert": 0.001}
    svg = share_bars(shares)
    assert re.findall(r">([^<]+)</text>", svg)[:6] == ["rotate", "30.0 %", "flip", "15.0 %", "invert", "0.1 %"]
    widths = [float(each) for each in re.findall(r'<rect .*? width="([\d.]+)"', svg)]
    assert widths == pytest.approx([202, 101, 202 / 300], abs=0.1)
    assert "never: shear_x, shear_y" in svg
    assert "sample_pairing" in svg  # the last of those that are never applied is named as well
    assert xml.etree.ElementTree.fromstring(svg).tag.endswith("svg")


@pytest.mark.parametrize(
    ("source", "options", "expected"),
    [
        (
            {"dataset": "/my pets", "data_dir": "/d"},
            {"nothing": False, "train_images": 200, "image_size": 32},
            [
                "augment = FasterAutoAugment.from_pretrained('runs/a/policy.json')",
                "evaluate '/my pets' --policies none,trivialaugment,searched=runs/a/policy.json --train-images 200 "
                "--image-size 32 --seeds 3",
            ],
        ),
        (
            {"dataset": "cifar10", "data_dir": "/d"},
            {"nothing": True, "short_of": 2.5},
            [
                "search cifar10 --data-dir /d --settings runs/a/settings.json --minutes 10 --out runs/a-longer",
                "evaluate cifar10 --data-dir /d --policies none,trivialaugment --seeds 3",
            ],
        ),
        ({"shards": ["a.tar"]}, {"nothing": True}, []),
        ({}, {"nothing": True, "short_of": 1.0}, []),
        ({"dataset": "/roads"}, {"nothing": True, "masks": True}, []),
    ],
)
def test_what_to_do_next(source: dict[str, Any], options: dict[str, Any], expected: list[str]) -> None:
    steps = next_steps("runs/a", source, **options)
    assert [text.removeprefix("fasteraa ") for _, text in steps] == expected
    for _, text in steps:
        if text.startswith("fasteraa evaluate "):  # the command line takes it
            assert set(re.findall(r"--[\w-]+", text)) <= {
                "--policies",
                "--seeds",
                "--data-dir",
                *(f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(TrainingSettings)),
            }
    page = race_page(RACE, next_steps=steps)[1]
    assert ("What to do next" in [each for tag, each in page.texts if tag == "h2"]) == bool(steps)


def some_curves() -> Curves:
    def points(*accuracies: float, displacement: float = 0.1) -> tuple[Point, ...]:
        magnitudes = (0.5, 1.0) if len(accuracies) > 1 else (None,)
        return tuple(Point(m, a, displacement) for m, a in zip(magnitudes, accuracies, strict=True))

    return Curves(
        0.9,
        {
            "rotate": points(0.88, 0.4),
            "contrast": points(0.9, 0.89),
            "color": points(0.9, 0.9, displacement=0.001),
            "invert": points(0.1),
            "flip": points(0.89),
        },
        images=100,
    )


def test_what_each_operation_does_to_the_classes() -> None:
    curves = some_curves()
    text = report.page(some_policy(), verdict=VERDICT, images=pixels(2, 3, 8, 8), curves=curves, tolerance=0.1)
    page = Page(text)
    page.rawdata_whole = text
    *svgs, _ = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(svgs) == 5
    words = [curves.words(name, 0.1) for name in curves.points]
    assert words == [
        "keeps the classes up to magnitude 0.57",
        "keeps the classes",
        "changes nothing here",
        "breaks the classes",
        "keeps the classes",
    ]
    for svg, name, said in zip(svgs, curves.points, words, strict=True):
        assert f">{name}</text>" in svg
        assert said in " ".join(re.findall(r">([^<]+)</text>", svg))
        assert f'aria-label="{name}: {said}. Accuracy' in svg
    rows = page.tables()[0][1:]
    assert [row[:2] for row in rows] == [[name, said] for name, said in zip(curves.points, words, strict=True)]
    assert rows[0][2:] == ["0.5: 88.0, 1: 40.0", "0.100"]
    assert rows[3][2:] == ["10.0", "0.100"]


def test_lines_of_an_operations_chart_are_where_the_accuracies_are() -> None:
    svg = operation_chart(some_curves(), "rotate", 0.5)
    (dashed,) = re.findall(r'<path d="M30 ([\d.]+)H166" stroke="currentColor"', svg)
    (floor,) = re.findall(r'<path d="M30 ([\d.]+)H166" stroke="#bf8700"', svg)
    (line,) = re.findall(r'<polyline points="([^"]+)"', svg)
    first, last = (tuple(map(float, each.split(","))) for each in line.split())
    # The axis is 68 high, from 88 for nothing up to 20 for all.
    assert float(dashed) == pytest.approx(88 - 68 * 0.9, abs=0.05)
    assert float(floor) == pytest.approx(88 - 68 * 0.45, abs=0.05)
    assert first == pytest.approx((98, 88 - 68 * 0.88), abs=0.05)
    assert last == pytest.approx((166, 88 - 68 * 0.4), abs=0.05)


def test_a_page_of_the_operations_alone() -> None:
    page = Page(report.operations_page(f"digits {NASTY}", some_curves()))
    assert [each for tag, each in page.texts if tag == "p"][:3] == [
        "Keeps the classes: rotate up to 0.57, contrast, flip.",
        "Breaks the classes: invert.",
        "Changes nothing here: color.",
    ]


def test_a_run_that_keeps_nothing_shows_what_was_tried() -> None:
    nothing = Policy([[[{"operation": "flip", "weight": 1, "probability": 0}]]] * 10, name="none")
    options: dict[str, Any] = {"verdict": ["Keep no augmentation."], "images": pixels(2, 3, 8, 8)}
    alone = Page(report.page(nothing, **options))
    assert not alone.all("img")
    tried = {"uniform": some_policy(1), "nothing": nothing, f"mine {NASTY}": always("invert")}
    page = Page(report.page(nothing, **options, tried=tried))
    assert [each for tag, each in page.texts if tag == "h3"] == ["uniform", f"mine {NASTY}"]
    assert len(page.all("img")) == 2 * 8
    assert not [each for _, each in page.texts if "sub-polic" in each]


def test_bars_stay_inside_of_their_chart() -> None:
    bars = [
        Bar("a", 5.0, (4.0, 6.0), 100.0),
        Bar("b" * 60, 5.5, (5.5,), math.inf),
        Bar("c", 0.0),
        Bar("d", 5.0, (), 0.2),
    ]
    svg = bar_chart(bars, reference=5.0)
    places = [float(each) for each in re.findall(r'cx="([^"]+)"', svg)]
    ends = [tuple(map(float, each)) for each in re.findall(r'"M([\d.]+) \d+H([\d.]+)"', svg)]
    assert min(places) >= 8
    assert max(places) <= 352
    assert len(ends) == 2
    assert all(8 <= start <= end <= 352 for start, end in ends)
    assert "b" * 29 + "…" in svg
    assert f"<title>{'b' * 60}</title>" in svg
    one = bar_chart([Bar("a", 5.0)])
    assert "5.00 %" in one
    assert standalone(svg).startswith('<?xml version="1.0" encoding="utf-8"?>\n<svg xmlns=')
    assert xml.etree.ElementTree.fromstring(standalone(svg)).tag.endswith("svg")


@pytest.mark.parametrize("side", [24, 64, 96])
def test_captions_of_a_contact_sheet_never_reach_their_neighbours(side: int) -> None:
    """Captions stand on columns of their own: the gap before each tile stays white, all the way down."""
    candidates = [
        {"operation": name, "weight": 1, "probability": 1} | ({"magnitude": 0.123} if operation.has_magnitude else {})
        for name, operation in OPERATIONS.items()
    ]
    policy = Policy([[candidates, candidates]])
    sheet = contact_sheet(policy, pixels(4, 3, 16, 16), samples=40, tile=side).convert("L")
    values = np.asarray(sheet)
    gap, width = 6, side + 6
    columns = [gap + width * i - 2 for i in range(41)]  # the last but one before a tile, whose own letters lean out
    assert (values[:, columns] == 255).all()
    assert (values < 128).any()


# --- the page of an evaluation ----------------------------------------------------------------------------------------


def evaluation_page() -> str:
    errors = {"none": {0: 9.0, 1: 9.2, 2: 9.1}, "cutout": {0: 8.4, 1: 8.9}, NASTY: {0: 7.1, 1: 7.4, 2: 7.0}}
    return comparison_page(
        f"pets {NASTY}",
        verdict=[f"{NASTY} has fewer errors than none."],
        warnings=[f"{NASTY} was searched on 3 of the test images."],
        chart=error_chart(errors, reference="none", emphasised=[NASTY]),
        reference="none",
        cells=(["augmentation", "seeds"], [["none", "3"], [NASTY, "3"]]),
        how_to_read="Mean error ± deviation.",
        described="pets: 100 training images.",
        command=f"fasteraa evaluate {NASTY}",
    )


def test_the_page_of_an_evaluation_is_one_file_without_scripts() -> None:
    text = evaluation_page()
    page = Page(text)
    assert "<script" not in text
    assert "<img" not in text
    paragraphs = [each for tag, each in page.texts if tag == "p"]
    assert paragraphs[:2] == [f"{NASTY} has fewer errors than none.", f"{NASTY} was searched on 3 of the test images."]
    assert [each for tag, each in page.texts if tag == "pre"] == [f"fasteraa evaluate {NASTY}"]
    # From the fewest errors to the most, with differences to the reference.
    notes = [each for tag, each in page.texts if tag == "text" and "(" in each]
    assert [each.partition(" (")[0] for each in notes[-2:]] == ["7.17 %", "8.65 %"]
    assert notes[-1] == "8.65 % (−0.45 ± 1.91)"


def test_the_picture_of_the_docs_is_that_of_the_rows() -> None:
    rows = read_rows(ROOT / "search" / "runs" / "digits-evaluation" / "rows.jsonl")
    chart = error_chart(errors_of(rows), reference="none", emphasised=["searched"])
    assert (ROOT / "docs" / "images" / "evaluation.svg").read_text(encoding="utf-8") == standalone(chart)


# --- the page of a run ------------------------------------------------------------------------------------------------


def test_a_run_leaves_its_report(tmp_path: Path) -> None:
    settings = Settings.paper(epochs=1, batch_size=32, num_images=64, image_size=12, padding=1, sub_policies=2)
    policy = search(
        Digits(), settings, out=tmp_path, progress=False, affinity_diversity=True, name=NASTY, source={"dataset": "x"}
    )
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    saved = json.loads((tmp_path / "diagnosis.json").read_text())
    paragraphs = [each for tag, each in page.texts if tag == "p"]
    assert paragraphs[: len(saved["verdict"])] == saved["verdict"]
    assert saved["verdict"][-2].startswith("Affinity ")
    assert saved["verdict"][-1].startswith("Diversity ")
    assert "<script" not in text
    measured = policy.provenance["affinity_diversity"]
    assert len(measured["affinity"]) == len(measured["diversity"]) == 3
    assert Policy.load(tmp_path / "policy.json").provenance == policy.provenance
    page.rawdata_whole = text
    rows = dict(page.tables()[2])
    assert rows["versions.torch"] == torch.__version__.partition("+")[0] or rows["versions.torch"] == torch.__version__
    assert rows["images"] == "64"
    assert len(page.all("img")) == 2 * 8


def test_a_search_that_keeps_nothing_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    race = contest.race

    def won_by_none(*arguments: Any, **options: Any) -> list[Standing]:
        return sorted(race(*arguments, **options), key=lambda each: each.contender != "none")

    monkeypatch.setattr(contest, "race", won_by_none)
    arguments = "digits --num-images 64 --image-size 8 --network resnet9-4 --race-epochs 1 --trainings 3 --processes 1"
    names = ["uniform", "geometry"]
    assert main([*arguments.split(), "--contenders", "none", *names, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"wrote {tmp_path / 'policy.json'}; it changes nothing: train without augmentation" in printed
    assert "augment with" not in printed
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [each for tag, each in page.texts if tag == "h3"] == names
    assert len(page.all("img")) == 2 * 8
    assert not [each for _, each in page.texts if "FasterAutoAugment" in each]
    # The sheet shows what was tried, not the images as they are; TensorBoard has the same.
    tried = {each.name: each.policy for each in gather(names, Material())}
    data = load_images(Digits(), num_images=64, size=(8, 8))
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert sheet.size == policies_sheet(tried, data.images[:8]).size
        shown = np.asarray(sheet)
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"images": 0}).Reload()
    assert events.Tags()["images"] == ["policy"]
    with Image.open(io.BytesIO(events.Images("policy")[-1].encoded_image_string)) as picture:
        assert np.array_equal(np.asarray(picture), shown)


# --- in a browser -----------------------------------------------------------------------------------------------------

PROBE = """<!doctype html><body style="margin:0"><iframe id="page" width="{width}" height="800" style="border:0"
srcdoc="{page}"></iframe><script>
onload = () => {{
  const page = document.getElementById("page").contentDocument, root = page.documentElement;
  const boxes = [...page.querySelectorAll(".scroll")], images = [...page.images];
  const wide = [...page.querySelectorAll("body *")].filter(
    each => !each.closest(".scroll") && each.getBoundingClientRect().right > {width} + 0.5);
  const found = {{
    width: root.clientWidth, content: root.scrollWidth, wide: wide.map(each => each.tagName),
    scrolling: boxes.map(each => each.scrollWidth > each.clientWidth), images: images.length,
    shown: images.filter(each => each.naturalWidth && each.getBoundingClientRect().width >= 48).length,
    curves: [...page.querySelectorAll(".curves svg")].map(each => each.getBoundingClientRect().width),
    charts: [...page.querySelectorAll(".bars svg, .small svg")].map(each => each.getBoundingClientRect().width),
    paper: getComputedStyle(page.body).backgroundColor, ink: getComputedStyle(page.body).color,
    title: getComputedStyle(page.querySelector("svg text")).fill,
    smallest: Math.min(...[...page.querySelectorAll("p, td, figcaption, svg text")].map(each => {{
      const scale = each.ownerSVGElement ? each.getScreenCTM().a : 1;
      return scale * parseFloat(getComputedStyle(each).fontSize);
    }})),
  }};
  document.body.textContent = "FOUND" + JSON.stringify(found) + "END";
}};
</script></body>"""


def rendered(text: str, width: int, dark: bool, folder: Path) -> dict[str, Any]:
    """What a browser measures of a page that is ``width`` pixels wide."""
    colours = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    dom, messages = dump_dom(PROBE.format(width=width, page=escape(text)), width, folder, colours)
    assert messages == []
    match = re.search(r"FOUND(.*)END", dom)
    assert match is not None, dom[:2000]
    found: dict[str, Any] = json.loads(match[1].replace("&amp;", "&"))
    assert found["content"] <= found["width"]  # the page itself does not scroll sideways
    assert found["width"] > width - 20
    assert found["wide"] == []
    assert found["shown"] == found["images"]
    assert found["smallest"] > 8
    paper, ink, title = (sum(map(int, re.findall(r"\d+", found[key])[:3])) for key in ("paper", "ink", "title"))
    assert (paper < ink) == dark
    assert abs(paper - ink) > 500  # of 765
    assert title == ink
    return found


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_in_a_browser(width: int, dark: bool, made: tuple[str, Page], tmp_path: Path) -> None:
    found = rendered(made[0], width, dark, tmp_path)
    assert found["images"] == 3 * 8
    assert len(found["curves"]) == 3
    assert len(found["charts"]) == 1 + len(OPERATIONS)
    assert all(280 < each <= width for each in found["curves"])
    assert any(found["scrolling"]) == (width == 360)


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [360, 1280])
def test_charts_in_a_browser(width: int, tmp_path: Path) -> None:
    steps = [("Go on:", "fasteraa search " + "x" * 200)]
    race = race_page(RACE, curves=some_curves(), effects=EFFECTS, next_steps=steps)[0]
    (tmp_path / "race").mkdir()
    found = rendered(race, width, False, tmp_path / "race")
    bars, effects, *small, shares = found["charts"]
    assert all(300 < each <= 500 for each in (bars, effects, shares))
    assert len(small) == 5
    assert all(140 < each < 260 for each in small)
    (tmp_path / "evaluation").mkdir()
    (bars,) = rendered(evaluation_page(), width, True, tmp_path / "evaluation")["charts"]
    assert 300 < bars <= 500


# --- affinity and diversity -------------------------------------------------------------------------------------------


def shapes(count: int = 200) -> ImageSet:
    """Dark images of class 0, and their like inverted of class 1."""
    labels = torch.arange(count) % 2
    images = torch.randint(0, 100, (count, 1, 8, 8), generator=seeded()).to(torch.uint8)
    return ImageSet(torch.where(labels[:, None, None, None] == 1, 255 - images, images), labels, 2)


def always(name: str, probability: float = 1.0) -> Policy:
    return Policy([[[{"operation": name, "weight": 1, "probability": probability}]]])


def test_a_policy_that_does_nothing_has_no_affinity_to_lose() -> None:
    found = affinity_and_diversity(always("flip", 0.0), shapes(), networks=2, epochs=15, batch_size=16)
    assert found.affinity == (0.0, 0.0)
    assert min(found.clean_accuracy) > 0.95
    # The draws of starts, order and crops are the same, so the two networks are one.
    assert found.augmented_loss == pytest.approx(found.clean_loss, rel=1e-5)


def test_a_policy_that_turns_classes_into_each_other() -> None:
    found = affinity_and_diversity(always("invert"), shapes(), networks=2, epochs=15, batch_size=16)
    assert max(found.affinity) < -0.9  # on the clean network's accuracy
    assert max(found.diversity) < 0.1  # always inverted images are as easy to learn
    half = affinity_and_diversity(always("invert", 0.5), shapes(), networks=2, epochs=15, batch_size=16)
    assert -0.7 < min(half.affinity) <= max(half.affinity) < -0.3
    assert half.diversity == pytest.approx((0.69, 0.69), abs=0.1)  # nothing can be known: ln 2
    assert half.clean_loss == found.clean_loss


def test_affinity_repeats_by_seed_and_leaves_the_random_state() -> None:
    data = load_images(Digits(), num_images=60)
    before = torch.get_rng_state()
    one, again, other = (
        affinity_and_diversity(some_policy(), data, networks=1, epochs=2, crop=Crop((8, 8), 1, True), seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert one == again
    assert one != other


def test_affinity_that_was_cut_off_goes_on_after_its_last_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    data, kept = load_images(Digits(), num_images=60), []
    whole = affinity_and_diversity(some_policy(), data, epochs=1, keep=kept.append)
    assert [len(each.affinity) for each in kept] == [1, 2, 3]
    assert kept[-1] == whole
    assert affinity_and_diversity(some_policy(), data, epochs=1, before=kept[0]) == whole
    monkeypatch.setattr(affinity, "fit", lambda training: 1 / 0)
    assert affinity_and_diversity(some_policy(), data, epochs=1, before=whole) == whole


def test_affinity_with_a_crop() -> None:
    data = load_images(Digits(), num_images=60, size=(12, 12))
    found = affinity_and_diversity(always("flip"), data, crop=Crop((8, 8)), networks=1, epochs=1)
    assert 0 <= found.clean_accuracy[0] <= 1


def test_affinity_of_too_few_images() -> None:
    with pytest.raises(ValueError, match=r"^data should hold 5 images or more, but got 4 instead$"):
        affinity_and_diversity(always("flip"), shapes(4))


def test_affinity_in_words() -> None:
    found = AffinityDiversity((0.9, 0.94), (0.8, 0.8), (0.1, 0.1), (0.5, 0.7))
    assert found.lines() == [
        "Affinity -12.0 ± 2.8 points: a small network trained without the policy has 92.0 ± 2.8 % of held-out images "
        "right, 80.0 ± 0.0 % of augmented ones (n = 2).",
        "Diversity 0.600 ± 0.141: the final training loss with the policy, 0.100 ± 0.000 without (n = 2).",
    ]
    single = AffinityDiversity((0.9,), (0.8,), (0.1,), (0.5,))
    assert single.lines()[1].endswith("0.100 without (n = 1).")
    assert single.to_json()["affinity"] == pytest.approx([-0.1])
