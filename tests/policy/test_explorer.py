"""The page to explore a policy on: what it holds, and how it behaves in a browser."""

import base64
import hashlib
import io
import json
import re
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import BROWSER, candidate, dump_dom, example
from PIL import Image
from torch import Tensor

from fasteraa_transforms import OPERATIONS, Policy, apply
from fasteraa_transforms.__main__ import main
from fasteraa_transforms.policy.explorer import explorer_page

NASTY = "<script>alert('x')</script></style> & \"<img src=x onerror=alert(1)>"


def photos(count: int = 2, side: int = 24, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


def data_of(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    found: dict[str, Any] = json.loads(text)
    return found


def pixels(address: str) -> Tensor:
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
        return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1)


@pytest.fixture(scope="module")
def page() -> str:
    return explorer_page(example(), photos(), samples=3)


def test_the_page_loads_nothing_and_runs_its_own_script_alone(page: str) -> None:
    (allowed,) = re.findall(r'Content-Security-Policy" content="(.*?)"', page)
    *_, script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert allowed == f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    assert len(re.findall(r"<script\b", page)) == 2
    assert not re.search(r"https?:|url\(|@import|<link|<iframe", page)
    sources = re.findall(r'\bsrc="([^"]*)"', page) + data_of(page)["pictures"]
    assert len(sources) > 20
    assert all(source.startswith("data:image/") for source in sources)


def test_names_of_policies_are_text() -> None:
    policy = Policy(example().sub_policies, name=NASTY)
    page = explorer_page(policy, photos(1), samples=1)
    assert f"<h1>{escape(NASTY)}</h1>" in page
    assert len(re.findall(r"<script\b", page)) == 2
    assert "<img src=x" not in page


def test_operations_come_by_their_share(page: str) -> None:
    rows = re.findall(
        r'name="operation" value="(\d+)"( checked)?><span>(\w+)</span>.*?width:([\d.]+)%.*?>([\d.]+) %<', page
    )
    shares = example().effective_share()
    assert [name for _, _, name, _, _ in rows] == sorted(OPERATIONS, key=lambda name: -shares[name])
    assert [bool(checked) for _, checked, *_ in rows] == [True] + [False] * 16
    for _, _, name, width, share in rows:
        assert float(share) == pytest.approx(100 * shares[name], abs=0.05)
        assert float(width) == pytest.approx(100 * shares[name] / max(shares.values()), abs=0.05)


def test_each_operation_at_each_magnitude_is_the_operation_itself(page: str) -> None:
    data, images = data_of(page), photos()
    names = sorted(OPERATIONS, key=lambda name: -example().effective_share()[name])
    for name, shown in zip(names, data["operations"], strict=True):
        operation = OPERATIONS[name]
        magnitudes = [-1 + i / 5 for i in range(11)] if operation.signed else [i / 10 for i in range(11)]
        assert len(shown["texts"]) == (len(magnitudes) if operation.has_magnitude else 1)
        if name in ("cutout", "sample_pairing"):  # which draw a place or a partner
            continue
        for step in (0, 3, 10) if operation.has_magnitude else (0,):
            plan = {"operation": name, "weight": 1, "probability": 1}
            if operation.has_magnitude:
                plan["magnitude"] = round(abs(magnitudes[step]), 6)
                value = operation.parameter(torch.tensor(magnitudes[step])).item()
                assert shown["texts"][step].startswith(f"{name} {value:.3g} {operation.unit}".replace("-", "−"))
            if operation.signed:
                plan["sign"] = -1 if magnitudes[step] < 0 else 1
            expected = apply(images, Policy([[[plan]]]).sample(2))
            for photo in range(2):
                found = pixels(data["pictures"][shown["pictures"][photo][step]])
                assert torch.equal(found, expected[photo]), (name, step)


def test_where_a_policy_applies_an_operation() -> None:
    stage = [
        candidate("rotate", magnitude=0.4),
        candidate("contrast", magnitude=1.0, sign=-1),
        candidate("solarize", magnitude=0.25),
        candidate("shear_x", probability=0.0),
        candidate("flip"),
    ]
    page = explorer_page(Policy([[stage]]), photos(1), samples=1)
    names = re.findall(r'name="operation" value="\d+"[^>]*><span>(\w+)</span>', page)
    found = dict(zip(names, data_of(page)["operations"], strict=True))
    assert found["rotate"]["places"] == [0.3, 0.7]
    assert found["rotate"]["start"] == 7
    assert found["contrast"]["places"] == [0.0]
    assert found["solarize"]["places"] == [0.25]
    assert found["solarize"]["use"] == "It stands 1 time in the policy, at magnitude 0.25: the dots above the slider."
    assert found["flip"]["use"] == "It stands 1 time in the policy."
    for name in ("shear_x", "invert"):
        assert found[name]["use"] == "The policy does not use this operation."


def test_draws_are_those_of_the_sub_policy() -> None:
    always = [[[candidate("invert", probability=1)]], [[candidate("flip", probability=1)]]]
    images = photos()
    data = data_of(explorer_page(Policy(always), images, samples=3))
    for i, change in enumerate((lambda image: 255 - image, lambda image: image.flip(2))):
        for photo in range(2):
            draws = data["draws"][1 + i][photo]
            assert len(draws) == 3
            for place, lines in draws:
                assert torch.equal(pixels(data["pictures"][place]), change(images[photo]))
                assert lines == [("invert", "flip")[i]]
    assert {lines[0] for _, lines in data["draws"][0][0]} <= {"invert", "flip"}  # the whole policy
    assert len(data["pictures"]) == len(set(data["pictures"]))


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 224)])
def test_grey_and_large_photos(channels: int, side: int) -> None:
    page = explorer_page(Policy([[[candidate("invert", probability=1)]]]), photos(1, side, channels), samples=1)
    (place, _), *_ = data_of(page)["draws"][1][0]
    found = pixels(data_of(page)["pictures"][place]).float()
    expected = (255 - photos(1, side, channels)[0]).expand(3, -1, -1).float()
    assert abs(found.mean() - expected.mean()) < 3  # large ones are lossy
    assert len(page) < 6_000_000


def test_of_many_sub_policies_the_first_are_shown() -> None:
    policy = Policy([[[candidate("flip")]]] * 30)
    page = explorer_page(policy, photos(1), samples=1, limit=4)
    assert "The first 4 sub-policies are shown; the bars count all of them." in page
    assert page.count("<option>") == 5
    with pytest.raises(ValueError, match=r"^a page should have at most 6,000 pictures, but 1 photos and 30 sub-pol"):
        explorer_page(policy, photos(1), samples=300)


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path, photo in zip(paths, photos(), strict=True):
        Image.fromarray(photo.permute(1, 2, 0).numpy()).save(path)
    out = tmp_path / "page.html"
    command = ["show", "cifar10", *map(str, paths), "--out", str(out), "--samples", "2", "--limit", "3"]
    assert main(command) == 0
    assert capsys.readouterr().out == f"wrote {out}: cifar10 on 2 photos; open it in a browser\n"
    text = out.read_text("utf-8")
    assert text.count("<option>") == 4
    assert len(data_of(text)["originals"]) == 2


# --- in a browser -----------------------------------------------------------------------------------------------------

# What a user does: moves the slider, chooses another operation, another sub-policy and another photo.
PROBE = """<!doctype html><body style="margin:0"><iframe id="page" width="{width}" height="800" style="border:0"
srcdoc="{page}"></iframe><script>
onload = () => {{
  const page = document.getElementById("page").contentDocument, root = page.documentElement, found = {{}};
  const get = (id) => page.getElementById(id), said = () => get("said").textContent;
  const change = (each, kind) => each.dispatchEvent(new Event(kind, {{ bubbles: true }}));
  const draws = () => [...get("draws").querySelectorAll("img")].map((each) => each.src.slice(-40));
  const wide = [...page.querySelectorAll("body *")].filter(
    (each) => each.getBoundingClientRect().right > {width} + 0.5);
  found.wide = wide.map((each) => each.tagName);
  found.scroll = root.scrollWidth - root.clientWidth;
  found.shown = [...page.images].every((each) => each.naturalWidth > 0);
  found.start = said();
  found.dots = get("places").children.length;
  const slider = get("magnitude");
  found.slider = slider.getBoundingClientRect().height;
  slider.value = 0; change(slider, "input"); found.first = said(); const one = get("after").src;
  slider.value = 10; change(slider, "input"); found.last = said(); found.moved = one !== get("after").src;
  const choices = [...page.querySelectorAll('input[name="operation"]')];
  const flip = choices.find((each) => each.parentElement.textContent.includes("flip"));
  flip.click(); found.flip = said(); found.hidden = get("slider").hidden;
  found.draws = draws().length;
  found.stages = [...page.querySelectorAll(".stages")].map((each) => !each.hidden);
  const before = draws();
  get("next").click();
  found.next = get("sub-policy").selectedIndex;
  found.after = [...page.querySelectorAll(".stages")].map((each) => !each.hidden);
  get("next").click(); found.end = get("next").disabled;
  page.querySelectorAll('input[name="photo"]')[1].click();
  found.photo = draws()[0] !== before[0];
  found.focusable = choices[0].tabIndex >= 0 && slider.tabIndex >= 0 && get("sub-policy").tabIndex >= 0;
  found.smallest = Math.min(...[...page.querySelectorAll("p, span, figcaption, button")].map(
    (each) => parseFloat(getComputedStyle(each).fontSize)));
  document.body.textContent = "FOUND" + JSON.stringify(found) + "END";
}};
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(width: int, page: str, tmp_path: Path) -> None:
    dom, messages = dump_dom(PROBE.format(width=width, page=escape(page)), width, tmp_path)
    assert messages == []
    match = re.search(r"FOUND(.*)END", dom)
    assert match is not None, dom[:2000]
    found = json.loads(unescape(match[1]))
    assert found == found | {
        "wide": [],
        "scroll": 0,
        "start": "cutout 0.08 of the width (magnitude 0.4)",
        "dots": 1,
        "first": "cutout 0 of the width (magnitude 0.0)",
        "last": "cutout 0.2 of the width (magnitude 1.0)",
        "moved": True,
        "flip": "flip",
        "hidden": True,
        "draws": 1 + 3,
        "stages": [True, False, False],
        "next": 1,
        "after": [False, True, False],
        "end": True,
        "photo": True,
        "shown": True,
        "focusable": True,
    }
    assert found["slider"] >= 32  # a finger's width
    assert found["smallest"] >= 11


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_what_the_browser_complains_of_is_seen(page: str, tmp_path: Path) -> None:
    _, messages = dump_dom(page.replace("chooseOperation();\nshow", "chooseOperations();\nshow"), 390, tmp_path)
    assert messages  # the changed script is no longer the one that the page allows
