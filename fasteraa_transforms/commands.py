"""The commands that look at policies: ``fasteraa show``, ``fasteraa diff`` and ``fasteraa list``.

A policy is whatever `FasterAutoAugment.from_pretrained` takes: a name, the path of a policy file, or a URL.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from fasteraa_transforms.fields import POSITIVE, RANGE, SEED, check_number
from fasteraa_transforms.help import SHOW_HELP, Option, described, formatter
from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.pipeline.image_files import open_image
from fasteraa_transforms.policy import origins
from fasteraa_transforms.policy.errors import printable
from fasteraa_transforms.policy.explorer import explorer_page
from fasteraa_transforms.policy.pictures import check_sheet, sub_policy_sheet
from fasteraa_transforms.policy.policy import Policy
from fasteraa_transforms.policy.text import magnitude_text

if TYPE_CHECKING:  # it needs pydantic
    from fasteraa_transforms.policy.schema import Candidate

SUMMARIES = {
    "show": "draw what each sub-policy does to photographs",
    "diff": "compare two policies",
    "list": "the policies of the package: on what each was searched, and what it gains",
}

_SIDE = 224  # images are shown at this size or at that of the smallest

_POLICY = "Name of a shipped policy, path of a policy file, https://… or hf://owner/name."

_EXAMPLES = {
    "show": {
        "cifar10 photo.jpg --out sheet.png": "a shipped policy: one row of augmented photos for each sub-policy",
        "runs/photos/policy.json photos/*.jpg --out page.html": "a page to explore the policy of a search on",
        "hf://owner/name photo.jpg --out sheet.png --samples 4": "a policy of the Hugging Face hub",
    },
    "diff": {
        "cifar10 svhn": "two shipped policies",
        "runs/first/policy.json runs/second/policy.json": "what two searches found",
        "cifar10 hf://owner/name": "a shipped policy and one of the Hugging Face hub",
    },
    "list": {"": "every shipped policy", "| grep -A 3 cifar10": "those of one name"},
}

_NUMBERS = {
    "samples": ("Columns of the sheet.", POSITIVE, 8),
    "limit": ("How many sub-policies are shown, from the first one on.", POSITIVE, 25),
    "size": (f"Side in pixels that photos are augmented at; none: {_SIDE}, or the smallest's.", POSITIVE, None),
    "tile": ("Side in pixels that photos are drawn at.", POSITIVE, 112),
    "seed": ("Of the draws.", SEED, 0),
}
"""Options of ``show``: what each does, which whole numbers it takes, and its default."""


def add_parsers(commands: "argparse._SubParsersAction[Any]", **options: Any) -> None:
    """Add the parser of each command.

    Args:
        commands: the subparsers of the whole command line.
        options: of every parser.
    """
    command = _add_parser(commands, "show", "POLICY PHOTO ... --out PATH [OPTIONS]", show, options)
    group = command.add_argument_group("what to show")
    group.add_argument("policy", metavar="POLICY", help=_POLICY)
    group.add_argument("images", nargs="+", type=Path, metavar="PHOTO", help="Drawn in turn, cropped to a square.")
    _add_numbers(group, "limit", "samples", "seed")
    group = command.add_argument_group("file and sizes")
    out = "Picture to write, such as sheet.png; NAME.html: a page to explore the policy on."
    group.add_argument("--out", type=Path, required=True, metavar="PATH", help=out)
    _add_numbers(group, "size", "tile")
    _add_help(command)

    command = _add_parser(commands, "diff", "A B", _print_diff, options)
    group = command.add_argument_group("policies")
    group.add_argument("a", metavar="A", help=_POLICY)
    group.add_argument("b", metavar="B", help="The other policy, alike.")
    _add_help(command)

    _add_help(_add_parser(commands, "list", "", _print_overview, options))


def _add_parser(
    commands: "argparse._SubParsersAction[Any]",
    name: str,
    usage: str,
    run: Callable[[argparse.Namespace], None],
    options: dict[str, Any],
) -> argparse.ArgumentParser:
    prog = f"fasteraa {name}"
    summary = SUMMARIES[name]
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        usage=f"{prog} {usage}".rstrip(),
        description=described(f"{summary[0].upper()}{summary[1:]}.", _EXAMPLES[name], prog),
        formatter_class=formatter,
        add_help=False,
        **options,
    )
    command.set_defaults(run=run)
    return command


def _add_numbers(group: Any, *names: str) -> None:
    for name in names:
        text, numbers, default = _NUMBERS[name]
        option = Option(name, int, text, default, "N", numbers[RANGE].words)
        group.add_argument(f"--{name}", type=int, default=default, metavar=option.metavar, help=option.text())


def _add_help(command: argparse.ArgumentParser) -> None:
    command.add_argument_group("other options").add_argument("-h", "--help", action="help", help=SHOW_HELP)


def _print_diff(options: argparse.Namespace) -> None:
    print("\n".join(diff(_policy(options.a), _policy(options.b))))


def _print_overview(options: argparse.Namespace) -> None:
    print("\n".join(overview()))


def overview() -> Iterator[str]:
    """Lines of text on each policy of the package: on what it was searched, and what was measured of it."""
    for name in origins.list_policies():
        yield name
        yield f"    searched on  {printable(name.searched_on)}"
        gains = name.gains or ["its file names no controls"]
        for head, gain in zip(("measured", *[""] * len(gains)), gains, strict=False):
            yield f"    {head:11}  {printable(gain)}".rstrip()


def _policy(name_or_path: str) -> Policy:
    return origins.find(name_or_path)


def show(options: argparse.Namespace) -> None:
    """Write the contact sheet, or the page where ``--out`` ends in .html."""
    for name, (_, numbers, _) in _NUMBERS.items():
        if (value := getattr(options, name)) is not None:
            check_number(name, value, int, numbers)
    policy = _policy(options.policy)
    if options.out.suffix.lower() in (".html", ".htm"):
        _explore(policy, options)
        return
    rows = 1 + min(len(policy), options.limit)
    check_sheet(rows, options.samples, max(options.tile, options.size or 0), 1 + policy.stages)
    images = _squares(options.images, options.size)
    sheet = sub_policy_sheet(
        policy, images, samples=options.samples, seed=options.seed, tile=options.tile, limit=options.limit
    )
    sheet.save(options.out)
    shown = min(len(policy), options.limit)
    print(f"wrote {printable(str(options.out))}: {shown} of {len(policy)} sub-policies, {options.samples} samples each")


def _explore(policy: Policy, options: argparse.Namespace) -> None:
    """Write the page to explore a policy on."""
    images = _squares(options.images, options.size)
    text = explorer_page(policy, images, samples=options.samples, seed=options.seed, limit=options.limit)
    options.out.write_text(text, encoding="utf-8")
    photos = f"{len(images)} photo{'s' * (len(images) != 1)}"
    print(f"wrote {printable(str(options.out))}: {printable(policy.name)} on {photos}; open it in a browser")


def _squares(paths: list[Path], side: int | None) -> Tensor:
    """The middles of the pictures, uint8 [N, 3, S, S]."""
    pictures = []
    for path in paths:
        try:
            pictures.append(open_image(path, upright=True).convert("RGB"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    side = side or min(_SIDE, *(min(picture.size) for picture in pictures))
    return torch.stack([tv.pil_to_tensor(ImageOps.fit(picture, (side, side))) for picture in pictures])


def diff(a: Policy, b: Policy) -> Iterator[str]:
    r"""Lines of text that compare two policies: as a whole, operation by operation, and candidate by candidate.

    Example:
        >>> flip = {"operation": "flip", "weight": 1, "probability": 0.5}
        >>> print("\n".join(diff(Policy([[[flip]]]), Policy([[[{**flip, "probability": 0.75}]]]))))
                              A        B
        name            unnamed  unnamed
        sub-policies          1        1
        stages                1        1
        candidates            1        1
        applied          0.5000   0.7500
        <BLANKLINE>
        operation       share A  share B  difference  magnitude A  magnitude B
        flip             0.5000   0.7500     +0.2500            -            -
        <BLANKLINE>
        sub-policy  stage  in    operation       weight            probability       magnitude
                 0      0  both  flip            1.0000            0.500 -> 0.750    -
    """
    facts = [_facts(a), _facts(b)]
    keys = list({**facts[0], **facts[1]})
    left = max(15, *map(len, keys))
    wide = [max(7, *map(len, fact.values())) for fact in facts]
    yield f"{'':{left}} {'A':>{wide[0]}}  {'B':>{wide[1]}}"
    for key in keys:
        yield f"{key:{left}} {facts[0].get(key, '-'):>{wide[0]}}  {facts[1].get(key, '-'):>{wide[1]}}"

    yield ""
    yield "operation       share A  share B  difference  magnitude A  magnitude B"
    shares = [policy.effective_share() for policy in (a, b)]
    magnitudes = [_mean_magnitude(policy) for policy in (a, b)]
    for name in OPERATIONS:
        x, y = (share[name] for share in shares)
        if x or y:
            p, q = ("-" if each[name] is None else f"{each[name]:.3f}" for each in magnitudes)
            yield f"{name:15} {x:7.4f}  {y:7.4f}  {y - x:+10.4f}  {p:>11}  {q:>11}"

    yield ""
    if a == b:
        yield "the sub-policies are the same"
    elif (len(a), a.stages) != (len(b), b.stages):
        yield "the sub-policies do not align: their numbers, or those of their stages, differ"
    else:
        yield "sub-policy  stage  in    operation       weight            probability       magnitude"
        yield from _changes(a, b)


def _facts(policy: Policy) -> dict[str, str]:
    """What is said of a whole policy; of its provenance what fits into a word."""
    facts = {
        "name": printable(policy.name),
        "sub-policies": str(len(policy)),
        "stages": str(policy.stages),
        "candidates": str(sum(len(stage) for sub_policy in policy.sub_policies for stage in sub_policy)),
        "applied": f"{math.fsum(policy.effective_share().values()):.4f}",
    }
    provenance = {key: value for key, value in policy.provenance.items() if isinstance(value, str | int | float)}
    return facts | {printable(f"provenance {key}"): printable(str(value)[:40]) for key, value in provenance.items()}


def _mean_magnitude(policy: Policy) -> dict[str, float | None]:
    """Mean over the candidates of an operation, by how often they are applied; None if there is nothing to average."""
    terms: dict[str, list[tuple[float, float]]] = {name: [] for name in OPERATIONS}
    for sub_policy in policy.sub_policies:
        for candidate in (each for stage in sub_policy for each in stage):
            if candidate.magnitude is not None:
                terms[candidate.operation].append((candidate.weight * candidate.probability, candidate.magnitude))
    totals = {name: math.fsum(share for share, _ in pairs) for name, pairs in terms.items()}
    return {
        name: math.fsum(share * magnitude for share, magnitude in pairs) / totals[name] if totals[name] else None
        for name, pairs in terms.items()
    }


def _changes(a: Policy, b: Policy) -> Iterator[str]:
    """A line for each candidate that is not the same in both."""
    for index, pair in enumerate(zip(a.sub_policies, b.sub_policies, strict=True)):
        for k, stages in enumerate(zip(*pair, strict=True)):
            in_a, in_b = (_by_operation(stage) for stage in stages)
            for key in {**in_a, **in_b}:
                found = [side[key] for side in (in_a, in_b) if key in side]
                if len(found) == 2 and found[0] == found[1]:
                    continue
                where = "both" if len(found) == 2 else "A" if key in in_a else "B"
                texts = [(f"{each.weight:.4f}", f"{each.probability:.3f}", magnitude_text(each)) for each in found]
                values = "  ".join(f"{' -> '.join(dict.fromkeys(column)):16}" for column in zip(*texts, strict=True))
                yield f"{index:>10}  {k:>5}  {where:4}  {key[0]:14}  {values}".rstrip()


def _by_operation(stage: "tuple[Candidate, ...]") -> "dict[tuple[str, int], Candidate]":
    """The candidates by their operation, and a number where a stage has it more than once."""
    found: dict[tuple[str, int], Candidate] = {}
    for candidate in stage:
        number = sum(name == candidate.operation for name, _ in found)
        found[candidate.operation, number] = candidate
    return found
