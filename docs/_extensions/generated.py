"""What the site makes of the code: pictures and tables of operations and policies, and the help of the commands.

Each function returns Markdown; `pages.py` puts it in the place of a comment `<!-- generated: NAME -->`.
"""

import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import Any
from unittest.mock import patch

import torch
from measured import chart, shipped
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

import fasteraa_transforms.__main__ as looking
from fasteraa_transforms import OPERATIONS, Candidate, Operation, Plan, Policy, apply
from fasteraa_transforms.policy.pictures import describe, tile
from fasteraa_transforms.policy.schema import schema_text
from fasteraa_transforms.policy.text import physical_text
from fasteraa_transforms.search.algorithm.diagnosis import Diagnosis, Distance
from fasteraa_transforms.search.report.charts import share_bars

PICTURES = Path(__file__).parents[1] / "generated"  # not under version control
MAGNITUDES = (0.0, 0.25, 0.5, 0.75, 1.0)

_SIDE = 224  # pixels that the photographs are augmented at
_TILE = 128  # and that they are shown at
_SAMPLES = 3  # augmentations beside an original
_DRAWS = 6  # of a whole policy for each photograph
_LISTED = 4  # candidates of a stage that are named
_COLUMNS = 88  # of the help of a command


def operations() -> str:
    """Every operation at five magnitudes; a signed one on both sides."""
    images = _photographs().flip(0)  # the flower; its partner is the other
    lines = [
        "## In pictures",
        "",
        f"The middle of a photograph at {_SIDE} × {_SIDE} pixels, with the physical parameter below. The square of "
        "cutout lies at the same place in all of its row, and the partner of `sample_pairing` is a photograph of a "
        "temple.",
        "",
        f"| | {' | '.join(f'μ = {magnitude:g}' for magnitude in MAGNITUDES)} |",
        "|---" * (1 + len(MAGNITUDES)) + "|",
    ]
    for operation in OPERATIONS.values():
        link = f"{{py:func}}`{operation.name} <fasteraa_transforms.functional.{operation.name}>`"
        for sign in (1, -1) if operation.signed else (None,):
            side = {1: " +", -1: " −", None: ""}[sign]
            head = f"{link}{side}{operation.unit and f'<br>{operation.unit}'}"
            lines.append(f"| {head} | {' | '.join(_operation_cells(operation, sign, images))} |")
    return "\n".join(lines)


def _operation_cells(operation: Operation, sign: int | None, images: Tensor) -> Iterator[str]:
    """A picture at each magnitude, with its parameter; one picture if there are no magnitudes."""
    name = f"{operation.name}-minus" if sign == -1 else operation.name
    for magnitude in MAGNITUDES if operation.has_magnitude else (None,):
        candidate = {"operation": operation.name, "weight": 1, "probability": 1, "magnitude": magnitude, "sign": sign}
        # The same draws at every magnitude, so the same centre of cutout.
        plan = Policy([[[candidate]]]).sample(len(images), generator=torch.Generator().manual_seed(2))
        (text,) = describe(plan, 0)
        value = text.removeprefix(operation.name).strip()
        path = _save(name if magnitude is None else f"{name}-{magnitude:g}", [apply(images, plan)[0]])
        yield f"![{text}]({path}){value and f'<br>{value}'}"
    if not operation.has_magnitude:
        yield from [""] * (len(MAGNITUDES) - 1)


def teaser() -> str:
    """What augmentation looks like: a photograph, and five draws of AutoAugment's policy for ImageNet."""
    image = _photographs()[:1]
    policy = Policy.from_autoaugment("imagenet")
    plan = policy.sample(5, generator=torch.Generator().manual_seed(321))  # draws that all differ
    augmented = apply(image.repeat(5, 1, 1, 1), plan)
    path = _save("teaser", [image[0], *augmented])
    return f"![original; {'; '.join(_steps(plan, i) for i in range(5))}]({path}){{.whole}}"


def policies() -> str:
    """The shipped policies: what each applies and what that looks like; folded, where it comes from and its parts."""
    return "\n\n".join("\n".join(_policy(name, policy)) for name, policy in shipped().items())


def _policy(name: str, policy: Policy) -> Iterator[str]:
    yield f"## {name}\n"
    yield f'`FasterAutoAugment.from_pretrained("{name}")`: {_summary(policy)}\n'
    alike = [each for each, other in shipped().items() if each != name and other.sub_policies == policy.sub_policies]
    if alike:
        yield f"`{'`, `'.join(alike)}` has the same sub-policies.\n"
    yield chart(share_bars(policy.effective_share())) + "\n"
    yield from _whole(name, policy)
    yield "\n<details><summary>Where it comes from</summary>\n"
    yield from _provenance(policy)
    yield "\n</details>\n"
    yield f"<details><summary>{_count(len(policy))}, one by one</summary>\n"
    yield from _sub_policies(name, policy)
    yield "\n</details>"


def _count(sub_policies: int) -> str:
    return f"{sub_policies} sub-polic{'ies' if sub_policies != 1 else 'y'}"


def _summary(policy: Policy) -> str:
    """A sentence about what a policy does to an image."""
    share = policy.effective_share()
    applied = policy.stages * sum(share.values())
    used = sorted((name for name in share if share[name] > 0), key=lambda name: -share[name])
    if not used:
        return "it leaves every image as it is."
    often = ", ".join(f"`{name}`" for name in used[:3])
    more = f", most often {often}" if len(used) > 3 else ""
    return f"{applied:.1f} operations an image on average, of {len(used)}{more}."


def _whole(name: str, policy: Policy) -> Iterator[str]:
    """Six draws of the whole policy for each of the two photographs."""
    images = _photographs()
    batch = images.repeat(_DRAWS, 1, 1, 1)
    plan = policy.sample(len(batch), generator=torch.Generator().manual_seed(1))
    augmented = apply(batch, plan)
    for j in range(len(images)):
        drawn = range(j, len(batch), len(images))
        path = _save(f"{name}-whole-{j}", [augmented[i] for i in drawn])
        yield f"![{'; '.join(_steps(plan, i) for i in drawn)}]({path}){{.whole}}"


def _sub_policies(name: str, policy: Policy) -> Iterator[str]:
    """What each sub-policy is made of, and what it makes of the two photographs."""
    images = _photographs()
    generator = torch.Generator().manual_seed(0)
    for index, sub_policy in enumerate(policy.sub_policies):
        # Image by image in turn, so that partners are mostly others.
        batch = images.repeat(_SAMPLES, 1, 1, 1)
        plan = Policy([sub_policy]).sample(len(batch), generator=generator)
        augmented = apply(batch, plan)
        yield f"\n**Sub-policy {index}**\n"
        for k, stage in enumerate(sub_policy):
            yield f"- stage {k}: {_stage(stage)}"
        yield ""
        for j, original in enumerate(images):
            drawn = range(j, len(batch), len(images))
            path = _save(f"{name}-{index}-{j}", [original, *(augmented[i] for i in drawn)])
            yield f"![original; {'; '.join(_steps(plan, i) for i in drawn)}]({path}){{.strip}}"


def _provenance(policy: Policy) -> Iterator[str]:
    """What the file says of where the policy comes from, and in its own words what the search did."""
    origin = policy.provenance
    side = origin.get("image_size") or origin.get("recipe", {}).get("image_size")
    images = f"{origin['images']:,} of {origin['dataset']}" if "images" in origin else origin.get("dataset")
    steps = "steps" in origin and f"{origin['epochs']} epochs, {origin['steps']:,} steps"
    facts = {
        "which images": origin.get("source", {}).get("description"),
        "images": images and images + (f", at {_by(side)} pixels" if side else ""),
        "size": f"{len(policy)} sub-policies of {policy.stages} stages, "
        f"{sum(len(stage) for sub_policy in policy.sub_policies for stage in sub_policy)} candidates",
        "search": steps and f"{steps}, {origin['seconds'] / 60:.0f} min on {origin['hardware']}",
    }
    yield "| | |\n|---|---|"
    yield from (f"| {key} | {value} |" for key, value in facts.items() if value)
    if kept := origin.get("kept"):
        yield f"\nWhat the search kept, and said: `{kept}` ({origin['origin']}).\n"
        yield from (f"- {line}" for line in origin["verdict"])
    if controls := origin.get("controls"):
        yield from _controls(controls, origin["controls_settings"])
    if found := origin.get("diagnosis"):
        yield "\nWhat the search said of itself:\n"
        yield from (f"- {line}" for line in _diagnosis(found).verdict().splitlines())
        for trial in found.get("trials", ()):  # of a search that chose by small networks
            kept = ", which is kept" if trial["chosen"] else ""
            yield f"- {trial['error']:.1%} held-out error of small networks at strength {trial['strength']:.3f}{kept}"


def _controls(rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> Iterator[str]:
    """What networks make of test images that were trained with the policy, and with every control."""
    yield (
        f"\nErrors on test images of `{settings['model']}`, trained on {settings['train_images']:,} images for "
        f"{settings['epochs']} epochs:\n"
    )
    yield "| augmentation | error, % | seeds |\n|---|---:|---:|"
    for row in rows:
        name = "this policy" if row["augmentation"] == "searched" else row["augmentation"]
        width = "" if row["half_width"] is None else f" ± {row['half_width']:.2f}"
        yield f"| {name} | {row['error']:.2f}{width} | {len(row['seeds'])} |"


def _diagnosis(found: Mapping[str, Any]) -> Diagnosis:
    """A diagnosis as a policy file has it, also of an earlier version."""
    known = {each.name for each in dataclasses.fields(Diagnosis)}
    values = {name: value for name, value in found.items() if name in known}
    chosen = [trial["target"] for trial in found.get("trials", ()) if trial["chosen"]]
    held = {"held": chosen[0]} if chosen else {}
    return Diagnosis(**values | held | {"distance": Distance(**found["distance"])})


def _by(side: int | list[int]) -> str:
    """Height × width of a side or of both."""
    height, width = side if isinstance(side, list) else (side, side)
    return f"{height} × {width}"


def _stage(stage: tuple[Candidate, ...]) -> str:
    """The candidates that are chosen most, and how many there are besides."""
    ranked = sorted(stage, key=lambda candidate: -candidate.weight)
    texts = [
        f"{candidate.operation} {candidate.weight:.0%} (applied {candidate.probability:.2f}"
        + (f"; {physical_text(candidate)})" if candidate.magnitude is not None else ")")
        for candidate in ranked[:_LISTED]
    ]
    if rest := ranked[_LISTED:]:
        texts.append(f"{len(rest)} more, together {sum(candidate.weight for candidate in rest):.0%}")
    return ", ".join(texts)


def _steps(plan: Plan, index: int) -> str:
    return ", ".join(describe(plan, index))


def command_line() -> str:
    """The help of every command, as it prints it."""
    commands: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
        "fasteraa": (looking.main, []),
        "fasteraa search": (looking.main, ["search"]),
        "fasteraa evaluate": (looking.main, ["evaluate"]),
        "fasteraa operations": (looking.main, ["operations"]),
        "fasteraa show": (looking.main, ["show"]),
        "fasteraa diff": (looking.main, ["diff"]),
        "fasteraa list": (looking.main, ["list"]),
    }
    return "\n\n".join(
        f"## {name}\n\n```text\n$ {name} --help\n{_help(main, arguments)}\n```"
        for name, (main, arguments) in commands.items()
    )


def _help(main: Callable[[list[str]], int], arguments: list[str]) -> str:
    printed = io.StringIO()
    with patch.dict(os.environ, {"COLUMNS": str(_COLUMNS)}), redirect_stdout(printed), suppress(SystemExit):
        main([*arguments, "--help"])
    lines = (line.rstrip() for line in printed.getvalue().strip().splitlines())
    return "\n".join(fill(line, _COLUMNS) if len(line) > _COLUMNS else line for line in lines)


def policy_schema() -> str:
    """The JSON Schema of policy files."""
    return f"## The schema\n\n```json\n{schema_text()}```"


@cache
def _photographs() -> Tensor:
    """The two photographs of scikit-learn, uint8 [2, 3, S, S]."""
    pictures = [torch.tensor(picture).permute(2, 0, 1) for picture in load_sample_images().images]
    return torch.stack([tv.resize(tv.center_crop(picture, [427, 427]), [_SIDE, _SIDE]) for picture in pictures])


def _save(name: str, images: list[Tensor]) -> str:
    """Write images side by side, and return the path for a page."""
    strip = Image.new("RGBA", (len(images) * (_TILE + 4) - 4, _TILE))
    for i, image in enumerate(images):
        strip.paste(tile(image, _TILE), (i * (_TILE + 4), 0))
    PICTURES.mkdir(exist_ok=True)
    strip.save(PICTURES / f"{name}.webp", quality=80)
    return f"/{PICTURES.name}/{name}.webp"
