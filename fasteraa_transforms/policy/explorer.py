"""A page to explore a policy on one's own photos: how often it applies each operation, and how photos look after it.

The page is one file. It holds all it shows, loads nothing, and works by touch and by keyboard.
"""

import base64
import hashlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, features
from torch import Tensor

from fasteraa_transforms.backends import apply
from fasteraa_transforms.operations.table import OPERATIONS, Operation
from fasteraa_transforms.policy.errors import printable
from fasteraa_transforms.policy.pictures import describe
from fasteraa_transforms.policy.policy import Policy
from fasteraa_transforms.policy.text import physical_text

if TYPE_CHECKING:  # it needs pydantic
    from fasteraa_transforms.policy.schema import Candidate

_STEPS = 11  # of a slider; a signed operation's goes from -1 to 1
_LOSSLESS = 64  # pixels up to which pictures are kept as they are, and shown with sharp pixels
_MOST_PICTURES = 6000  # of a page, which then takes some 60 MB
_LISTED = 12  # candidates of a stage that are named


def explorer_page(
    policy: Policy,
    images: Tensor,  # uint8 [N, C, S, S], C 1 or 3
    *,
    samples: int = 8,
    seed: int = 0,
    limit: int | None = None,
) -> str:
    """A page of HTML on which a policy can be explored.

    It shows the share of each operation as bars. A slider shows each operation at each magnitude. Each sub-policy is
    shown on the photos.

    Args:
        policy: the policy.
        images: the photos, uint8 [N, C, S, S], C 1 or 3.
        samples: draws of each sub-policy for each photo.
        seed: of the draws.
        limit: so many sub-policies, the first ones; None shows all.

    Raises:
        ValueError: the page would hold too many pictures.

    Example:
        >>> policy = Policy([[[{"operation": "flip", "weight": 1, "probability": 0.5}]]], name="mine")
        >>> page = explorer_page(policy, torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
        >>> page.startswith("<!doctype html>"), "<title>mine</title>" in page
        (True, True)
    """
    sub_policies = policy.sub_policies[:limit]
    count = len(images) * (_STEPS * len(OPERATIONS) + (1 + len(sub_policies)) * samples)
    if count > _MOST_PICTURES:
        raise ValueError(
            f"a page should have at most {_MOST_PICTURES:,} pictures, but {len(images)} photos and "
            f"{len(sub_policies)} sub-policies of {samples} samples would make {count:,}"
        )
    album = _Album()
    generator = torch.Generator().manual_seed(seed)
    shown = [policy, *(Policy([each]) for each in sub_policies)]
    names = sorted(OPERATIONS, key=lambda name: -policy.effective_share()[name])
    originals = [album.add(image) for image in images]
    data = {
        "originals": originals,
        "operations": [_operation(OPERATIONS[name], policy, images, album) for name in names],
        "draws": [_draws(each, images, samples, generator, album) for each in shown],
        "pictures": album.pictures,
    }
    folder = files(__package__)
    script = folder.joinpath("explorer.js").read_text(encoding="utf-8")
    return Template(folder.joinpath("explorer.html").read_text(encoding="utf-8")).substitute(
        title=escape(printable(policy.name)),
        style=folder.joinpath("page.css").read_text(encoding="utf-8"),
        rendering="pixelated" if images.shape[-1] <= _LOSSLESS else "auto",
        hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        script=script,
        data=json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"),
        facts="\n".join(f"<p>{escape(line)}</p>" for line in _facts(policy, len(sub_policies))),
        photos="\n".join(_photos(originals, album)),
        choices="\n".join(_choices(names, policy)),
        options="\n".join(_options(len(sub_policies))),
        stages="\n".join(_stages(sub_policies)),
    )


class _Album:
    """The pictures of a page, each of them once.

    Attributes:
        pictures: as addresses, for `src`.
    """

    def __init__(self) -> None:
        self.pictures: list[str] = []
        self._places: dict[bytes, int] = {}

    def add(self, image: Tensor) -> int:
        """The place of an image [C, S, S] in the list."""
        array = image.permute(1, 2, 0).contiguous().numpy()
        key = hashlib.sha256(array.tobytes()).digest()
        if key not in self._places:
            self._places[key] = len(self.pictures)
            self.pictures.append(_address(Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)))
        return self._places[key]


def _address(picture: Image.Image) -> str:
    """A picture as an address that holds it."""
    file = io.BytesIO()
    if picture.width <= _LOSSLESS:
        kind = "png"
        picture.save(file, "PNG", optimize=True)
    else:
        kind = "webp" if features.check("webp") else "jpeg"
        picture.save(file, kind.upper(), quality=82)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _facts(policy: Policy, shown: int) -> Iterator[str]:
    applied = math.fsum(policy.effective_share().values()) * policy.stages
    stages = f"{policy.stages} stage{'s' * (policy.stages != 1)}"
    numbers = f"{len(policy)} sub-polic{'ies' if len(policy) != 1 else 'y'} of {stages}"
    yield f"{numbers}: an image gets {applied:.1f} operations on average."
    if shown < len(policy):
        yield f"The first {shown} sub-policies are shown; the bars count all of them."


# --- the operations ---------------------------------------------------------------------------------------------------


def _magnitudes(operation: Operation) -> list[float | None]:
    """The steps of an operation's slider; below 0 it goes to the other side."""
    if not operation.has_magnitude:
        return [None]
    lowest = -1.0 if operation.signed else 0.0
    return [round(lowest + (1 - lowest) * i / (_STEPS - 1), 6) for i in range(_STEPS)]


def _operation(operation: Operation, policy: Policy, images: Tensor, album: _Album) -> dict[str, Any]:
    """What the page says and shows of an operation."""
    steps = _magnitudes(operation)
    applied = [_applied(operation, magnitude, images) for magnitude in steps]
    used = list(_used(operation, policy))
    places = sorted({place for candidate in used for place in _places(operation, candidate)})
    middle = max(places, default=0.75 if operation.signed else 0.5)
    return {
        "texts": [_step_text(operation, magnitude) for magnitude in steps],
        "pictures": [[album.add(batch[photo]) for batch in applied] for photo in range(len(images))],
        "places": places,
        "start": round(middle * (len(steps) - 1)),
        "use": _use_text(operation, used),
    }


def _applied(operation: Operation, magnitude: float | None, images: Tensor) -> Tensor:
    """The images after one operation; the same draws at every magnitude, so the same centre of cutout."""
    candidate: dict[str, Any] = {"operation": operation.name, "weight": 1, "probability": 1}
    if magnitude is not None:
        candidate["magnitude"] = abs(magnitude)
        if operation.signed:
            candidate["sign"] = -1 if magnitude < 0 else 1
    plan = Policy([[[candidate]]]).sample(len(images), generator=torch.Generator().manual_seed(2))
    return apply(images, plan)


def _step_text(operation: Operation, magnitude: float | None) -> str:
    if magnitude is None:
        return operation.name
    value = operation.parameter(torch.tensor(magnitude)).item()
    return f"{operation.name} {value:.3g} {operation.unit} (magnitude {magnitude:.1f})".replace("-", "−")


def _used(operation: Operation, policy: Policy) -> "Iterator[Candidate]":
    """The candidates of a policy that apply the operation."""
    for sub_policy in policy.sub_policies:
        for each in (candidate for stage in sub_policy for candidate in stage):
            if each.operation == operation.name and each.weight * each.probability > 0:
                yield each


def _places(operation: Operation, candidate: "Candidate") -> list[float]:
    """Where a candidate's magnitude lies on the slider, from 0 to 1: on both sides if it draws its sign."""
    if candidate.magnitude is None:
        return []
    if not operation.signed:
        return [round(candidate.magnitude, 2)]
    signs = (1, -1) if candidate.sign is None else (candidate.sign,)
    return [round((1 + sign * candidate.magnitude) / 2, 2) for sign in signs]


def _use_text(operation: Operation, used: "Sequence[Candidate]") -> str:
    if not used:
        return "The policy does not use this operation."
    times = f"{len(used)} time{'s' * (len(used) != 1)}"
    magnitudes = [each.magnitude for each in used if each.magnitude is not None]
    if not magnitudes:
        return f"It stands {times} in the policy."
    low, high = min(magnitudes), max(magnitudes)
    span = f"magnitude {low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"magnitudes from {low:.2f} to {high:.2f}"
    return f"It stands {times} in the policy, at {span}: the dots above the slider."


def _choices(names: Sequence[str], policy: Policy) -> Iterator[str]:
    shares = policy.effective_share()
    top = max(shares.values()) or 1.0
    for i, name in enumerate(names):
        yield (
            f'<label class="choice"><input type="radio" name="operation" value="{i}"{" checked" * (i == 0)}>'
            f'<span>{name}</span><span class="bar"><span style="width:{100 * shares[name] / top:.1f}%"></span></span>'
            f'<span class="share">{100 * shares[name]:.1f} %</span></label>'
        )


# --- photos and sub-policies ------------------------------------------------------------------------------------------


def _photos(originals: Sequence[int], album: _Album) -> Iterator[str]:
    for i, original in enumerate(originals):
        yield (
            f'<label><input type="radio" name="photo" value="{i}" aria-label="photo {i + 1}"{" checked" * (i == 0)}>'
            f'<img alt="photo {i + 1}" src="{album.pictures[original]}"></label>'
        )


def _draws(
    policy: Policy, images: Tensor, samples: int, generator: torch.Generator, album: _Album
) -> list[list[tuple[int, list[str]]]]:
    """For each photo its draws: the place of the picture, and what was done, a line a stage."""
    count = len(images)
    batch = images.repeat(samples, 1, 1, 1)  # photo by photo in turn, so that partners are mostly others
    plan = policy.sample(len(batch), generator=generator)
    augmented = apply(batch, plan)
    return [
        [(album.add(augmented[i]), describe(plan, i)) for i in range(photo, len(batch), count)]
        for photo in range(count)
    ]


def _options(count: int) -> Iterator[str]:
    yield "<option>whole policy</option>"
    yield from (f"<option>sub-policy {i}</option>" for i in range(count))


def _stages(sub_policies: "Sequence[Sequence[Sequence[Candidate]]]") -> Iterator[str]:
    """What each choice of the list is made of."""
    yield '<div class="stages"><p>Each image draws one of all sub-policies, with equal chance.</p></div>'
    for sub_policy in sub_policies:
        lines = []
        for k, stage in enumerate(sub_policy):
            ranked = sorted(stage, key=lambda each: -each.weight)
            cells = [f"<span>{escape(_candidate_text(each))}</span>" for each in ranked[:_LISTED]]
            if rest := ranked[_LISTED:]:
                share = math.fsum(each.weight for each in rest)
                cells.append(f"<span>{len(rest)} more, together {share:.0%}</span>")
            lines.append(f'<div class="stage"><b>stage {k}</b> {" ".join(cells)}</div>')
        yield f'<div class="stages" hidden>{"".join(lines)}</div>'


def _candidate_text(candidate: "Candidate") -> str:
    how_far = "" if candidate.magnitude is None else f", {physical_text(candidate)}"
    return f"{candidate.weight:.0%} {candidate.operation}{how_far}, applied {candidate.probability:.0%}"
