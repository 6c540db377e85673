"""Policies of others: torchvision's AutoAugment, Fast AutoAugment's archives and AutoAlbument's JSON as a `Policy`.

What means the same is converted; what does not is refused with `PolicyError`, which names it and says why. Where the
same operation differs in a detail, the policy's provenance lists it under "differences". Files are read as data,
nothing in them is executed. Public are `Policy.from_autoaugment`, `from_fast_autoaugment` and `from_autoalbument`.
"""

import ast
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic_core import from_json
from torchvision.transforms import AutoAugmentPolicy

from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.policy.policy import Policy, PolicyError, json_path, read_text, shown

_MAX_SUB_POLICIES = 100_000  # adding a list to itself over and over is a short way to write an endless one
_MAX_CHARACTERS = 2**20  # the syntax tree takes 500 times as much; the published archive.py has 128,000

# ------------------------------------------------------------------------------------------------------- torchvision

# Cubuk et al. 2019, AutoAugment, appendix A, as torchvision has it: twice an operation, probability and magnitude bin.
_AUTOAUGMENT = {
    AutoAugmentPolicy.IMAGENET: """
        Posterize 0.4 8  Rotate 0.6 9
        Solarize 0.6 5  AutoContrast 0.6 -
        Equalize 0.8 -  Equalize 0.6 -
        Posterize 0.6 7  Posterize 0.6 6
        Equalize 0.4 -  Solarize 0.2 4
        Equalize 0.4 -  Rotate 0.8 8
        Solarize 0.6 3  Equalize 0.6 -
        Posterize 0.8 5  Equalize 1.0 -
        Rotate 0.2 3  Solarize 0.6 8
        Equalize 0.6 -  Posterize 0.4 6
        Rotate 0.8 8  Color 0.4 0
        Rotate 0.4 9  Equalize 0.6 -
        Equalize 0.0 -  Equalize 0.8 -
        Invert 0.6 -  Equalize 1.0 -
        Color 0.6 4  Contrast 1.0 8
        Rotate 0.8 8  Color 1.0 2
        Color 0.8 8  Solarize 0.8 7
        Sharpness 0.4 7  Invert 0.6 -
        ShearX 0.6 5  Equalize 1.0 -
        Color 0.4 0  Equalize 0.6 -
        Equalize 0.4 -  Solarize 0.2 4
        Solarize 0.6 5  AutoContrast 0.6 -
        Invert 0.6 -  Equalize 1.0 -
        Color 0.6 4  Contrast 1.0 8
        Equalize 0.8 -  Equalize 0.6 -
    """,
    AutoAugmentPolicy.CIFAR10: """
        Invert 0.1 -  Contrast 0.2 6
        Rotate 0.7 2  TranslateX 0.3 9
        Sharpness 0.8 1  Sharpness 0.9 3
        ShearY 0.5 8  TranslateY 0.7 9
        AutoContrast 0.5 -  Equalize 0.9 -
        ShearY 0.2 7  Posterize 0.3 7
        Color 0.4 3  Brightness 0.6 7
        Sharpness 0.3 9  Brightness 0.7 9
        Equalize 0.6 -  Equalize 0.5 -
        Contrast 0.6 7  Sharpness 0.6 5
        Color 0.7 7  TranslateX 0.5 8
        Equalize 0.3 -  AutoContrast 0.4 -
        TranslateY 0.4 3  Sharpness 0.2 6
        Brightness 0.9 6  Color 0.2 8
        Solarize 0.5 2  Invert 0.0 -
        Equalize 0.2 -  AutoContrast 0.6 -
        Equalize 0.2 -  Equalize 0.6 -
        Color 0.9 9  Equalize 0.6 -
        AutoContrast 0.8 -  Solarize 0.2 8
        Brightness 0.1 3  Color 0.7 0
        Solarize 0.4 5  AutoContrast 0.9 -
        TranslateY 0.9 9  TranslateY 0.7 9
        AutoContrast 0.9 -  Solarize 0.8 3
        Equalize 0.8 -  Invert 0.1 -
        TranslateY 0.7 9  AutoContrast 0.9 -
    """,
    AutoAugmentPolicy.SVHN: """
        ShearX 0.9 4  Invert 0.2 -
        ShearY 0.9 8  Invert 0.7 -
        Equalize 0.6 -  Solarize 0.6 6
        Invert 0.9 -  Equalize 0.6 -
        Equalize 0.6 -  Rotate 0.9 3
        ShearX 0.9 4  AutoContrast 0.8 -
        ShearY 0.9 8  Invert 0.4 -
        ShearY 0.9 5  Solarize 0.2 6
        Invert 0.9 -  AutoContrast 0.8 -
        Equalize 0.6 -  Rotate 0.9 3
        ShearX 0.9 4  Solarize 0.3 3
        ShearY 0.8 8  Invert 0.7 -
        Equalize 0.9 -  TranslateY 0.6 6
        Invert 0.9 -  Equalize 0.6 -
        Contrast 0.3 3  Rotate 0.8 4
        Invert 0.8 -  TranslateY 0.0 2
        ShearY 0.7 6  Solarize 0.4 8
        Invert 0.6 -  Rotate 0.8 4
        ShearY 0.3 7  TranslateX 0.9 3
        ShearX 0.1 6  Invert 0.6 -
        Solarize 0.7 2  TranslateY 0.6 7
        ShearY 0.8 4  Invert 0.8 -
        ShearX 0.7 9  TranslateY 0.8 3
        ShearY 0.8 5  AutoContrast 0.7 -
        ShearX 0.7 2  Invert 0.1 -
    """,
}

# AutoAugment's names of the operations, which Fast AutoAugment uses too: ShearX, AutoContrast, …
_NAMES = {name.title().replace("_", ""): name for name in OPERATIONS}


def from_autoaugment(policy: AutoAugmentPolicy | str) -> Policy:
    """See `Policy.from_autoaugment`."""
    try:
        policy = AutoAugmentPolicy(policy)
    except ValueError:
        known = f"an AutoAugmentPolicy or one of {', '.join(each.value for each in AutoAugmentPolicy)}"
        raise ValueError(f"policy should be {known}, but got {policy!r} instead") from None
    rows = [line.split() for line in _AUTOAUGMENT[policy].strip().splitlines()]
    return Policy(
        [[[_autoaugment_candidate(*row[:3])], [_autoaugment_candidate(*row[3:])]] for row in rows],
        name=f"autoaugment-{policy.value}",
        provenance={
            "converted_from": f"AutoAugmentPolicy.{policy.name} of torchvision",
            "differences": [
                f"{_NAMES[name]}: the severest is 0.45 of the size here and 150/331 there"
                for name in ("TranslateX", "TranslateY")
                if any(row[i] == name and row[i + 2] == "9" for row in rows for i in (0, 3))
            ],
        },
    )


def _autoaugment_candidate(name: str, probability: str, magnitude_bin: str) -> dict[str, Any]:
    candidate = {"operation": _NAMES[name], "weight": 1.0, "probability": float(probability)}
    row = OPERATIONS[_NAMES[name]]
    if not row.has_magnitude:
        return candidate
    index = int(magnitude_bin)
    if name == "Solarize":
        # 255 at bin 0, not 256: it is a fraction of the largest value there.
        magnitude = 1 - 255 * _bins(1, 0)[index] / 256
    elif name == "Posterize":
        magnitude = round(index * 4 / 9) / 4
    elif name.startswith("Translate"):
        # In float64: the bins there are pixels, in which a fraction in float32 is not their float32 either.
        magnitude = index / 9 * 150 / 331 / row.severest
    else:
        magnitude = _bins(0, row.severest - row.weakest)[index] / (row.severest - row.weakest)
    return {**candidate, "magnitude": min(magnitude, 1.0)}


def _bins(first: float, last: float) -> list[float]:
    """The ten parameters that torchvision's bins mean, in its float32, so that all pixels are the same."""
    bins: list[float] = torch.linspace(first, last, 10, dtype=torch.float32, device="cpu").tolist()
    return bins


# -------------------------------------------------------------------------------------------------- Fast AutoAugment


def _either_side(name: str) -> Callable[[float], dict[str, Any]]:
    """From -severest to severest, and then mirrored with equal chance: only the distance from the middle counts."""
    return lambda level: {"operation": name, "magnitude": abs(2 * level - 1)}


def _one_side(name: str) -> Callable[[float], dict[str, Any]]:
    """A factor from 0.1 to 1.9, not mirrored."""
    return lambda level: {"operation": name, "magnitude": abs(2 * level - 1), "sign": 1 if level >= 0.5 else -1}


def _without_level(name: str) -> Callable[[float], dict[str, Any]]:
    return lambda level: {"operation": name}


# What a level in [0, 1] of the table in augmentations.py (Lim et al. 2019, kakaobrain/fast-autoaugment) is here.
_FAST_AUTOAUGMENT: dict[str, Callable[[float], dict[str, Any]]] = {
    **{name: _either_side(_NAMES[name]) for name in ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")},
    **{name: _one_side(_NAMES[name]) for name in ("Contrast", "Color", "Brightness", "Sharpness")},
    **{name: _without_level(_NAMES[name]) for name in ("AutoContrast", "Invert", "Equalize", "Flip")},
    "Solarize": lambda level: {"operation": "solarize", "magnitude": 1 - level},  # threshold 256 level
    "Posterize": lambda level: {"operation": "posterize", "magnitude": (8 - int(level * 4 + 4)) / 4},  # bits, truncated
    "Cutout": lambda level: {"operation": "cutout", "magnitude": level},
    "SamplePairing": lambda level: {"operation": "sample_pairing", "magnitude": level},
}
_FAST_AUTOAUGMENT_UNEQUAL = {
    "Posterize2": "it keeps 0 to 4 bits, posterize 4 to 8",
    "TranslateXAbs": "it counts in pixels, translate_x in fractions of the width",
    "TranslateYAbs": "it counts in pixels, translate_y in fractions of the height",
    "CutoutAbs": "it counts in pixels, cutout in fractions of the width",
}
_FAST_AUTOAUGMENT_DIFFERENCES = {
    "translate_x": "truncated to whole pixels here, rounded there",
    "translate_y": "truncated to whole pixels here, rounded there",
    "cutout": "clipped at every border here; there about a pixel larger, and moved inside at the left and top borders",
    "sample_pairing": "the partner is another image of the batch here, any image of the data set there",
}


def from_fast_autoaugment(source: Sequence[Any] | str | os.PathLike[str], function: str | None = None) -> Policy:
    """See `Policy.from_fast_autoaugment`."""
    name, where = function or "fast-autoaugment", "<policy>"
    if isinstance(source, str | os.PathLike):
        where = os.fspath(source)
        name = function or Path(where).stem or name
        source = _python_list(read_text(where), where, function)
    elif function is not None:
        raise TypeError(f"function should be None unless source is a file, but got {function!r} instead")
    if not isinstance(source, list | tuple):
        raise PolicyError(where, "$", shown(source), "a list of sub-policies")
    sub_policies = []
    for i, row in enumerate(source):
        if not isinstance(row, list | tuple):
            raise PolicyError(where, json_path((i,)), shown(row), "a list of (name, probability, level)")
        sub_policies.append([[_fast_candidate(each, where, (i, k))] for k, each in enumerate(row)])
    used = {stage[0]["operation"] for sub_policy in sub_policies for stage in sub_policy}
    provenance = {
        "converted_from": "Fast AutoAugment" + ("" if where == "<policy>" else f", {Path(where).name}"),
        "differences": [f"{key}: {text}" for key, text in _FAST_AUTOAUGMENT_DIFFERENCES.items() if key in used],
    }
    return Policy(sub_policies, name=name, provenance=provenance)


def _fast_candidate(row: Any, source: str, place: tuple[int, ...]) -> dict[str, Any]:
    if not (isinstance(row, list | tuple) and len(row) == 3):
        raise PolicyError(source, json_path(place), shown(row), "(name, probability, level)")
    name, probability, level = row
    if not isinstance(name, str) or name not in _FAST_AUTOAUGMENT:
        expected = f"one of {', '.join(_FAST_AUTOAUGMENT)}"
        if isinstance(name, str) and name in _FAST_AUTOAUGMENT_UNEQUAL:
            expected += f" ({_FAST_AUTOAUGMENT_UNEQUAL[name]})"
        raise PolicyError(source, json_path((*place, 0)), shown(name), expected)
    for k, value in ((1, probability), (2, level)):
        if not _is_number(value) or not 0 <= value <= 1:
            raise PolicyError(source, json_path((*place, k)), shown(value), "a number in [0, 1]")
    return {**_FAST_AUTOAUGMENT[name](level), "weight": 1.0, "probability": float(probability)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _python_list(text: str, source: str, function: str | None) -> Any:
    """The list that a text is, or that one of its functions returns; read from the syntax tree, nothing is executed."""
    if len(text) > _MAX_CHARACTERS:
        raise PolicyError(source, "$", f"{len(text)} characters", f"at most {_MAX_CHARACTERS}")
    try:
        body = ast.parse(text).body
        if function is None:
            functions = [node.name for node in body if isinstance(node, ast.FunctionDef)]
            if functions:
                raise PolicyError(source, "$", f"the functions {', '.join(functions)}", "the name of one as `function`")
            if not (len(body) == 1 and isinstance(body[0], ast.Expr)):
                raise PolicyError(source, "$", f"{len(body)} statements", "one list of sub-policies")
            return ast.literal_eval(body[0].value)
        for node in body:
            if isinstance(node, ast.FunctionDef) and node.name == function:
                return _returned(node, source)
    except PolicyError:
        raise
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise PolicyError(source, "$", f"no list ({shown(str(error))})", "a list of sub-policies") from None
    raise PolicyError(source, "$", f"no function {function}", "the function that returns the policy")


def _returned(function: ast.FunctionDef, source: str) -> Any:
    """What a function returns that does no more than name lists and add them up, as those of archive.py do."""
    if function.decorator_list:  # there: from AutoAugment's levels and pixels to levels in [0, 1]
        raise PolicyError(source, "$", f"a decorated {function.name}", "a function without a decorator")
    names: dict[str, Any] = {}

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Name) and node.id in names:
            return names[node.id]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            total = value(node.left) + value(node.right)
            if len(total) > _MAX_SUB_POLICIES:
                raise ValueError(f"more than {_MAX_SUB_POLICIES} sub-policies")
            return total
        return ast.literal_eval(node)

    for node in function.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = value(node.value)
        elif isinstance(node, ast.Return) and node.value is not None:
            return value(node.value)
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):  # a docstring
            break
    place = f"line {node.lineno}"
    raise PolicyError(source, "$", f"{place} of {function.name}", "lists, named and added up, and a return")


# -------------------------------------------------------------------------------------------------------- AutoAlbument

_Place = tuple[int | str, ...]

_UNEQUAL = {
    "RGBShift": "it shifts single channels",
    "VerticalFlip": "it mirrors top to bottom",
    "ShiftScaleRotate": "it fills what comes from outside with reflections, here it is one colour",
    "CoarseDropout": "its holes are black, lie wholly inside, and may be several",
}


def from_autoalbument(path: str | os.PathLike[str], prune: float = 0.0) -> Policy:
    """See `Policy.from_autoalbument`."""
    if not (_is_number(prune) and 0 <= prune < 1):
        raise ValueError(f"prune should be a number in [0, 1), but got {prune!r} instead")
    source = os.fspath(path)
    return _AutoAlbument(source, prune).policy(read_text(source))


class _AutoAlbument:
    """One file; every method takes the place of what it reads, for the error."""

    def __init__(self, source: str, prune: float) -> None:
        self.source, self.prune = source, prune
        self.largest = 255.0

    def policy(self, text: str) -> Policy:
        try:
            document = from_json(text)
        except ValueError as error:
            raise PolicyError(self.source, "$", str(error), "valid JSON") from None
        place: _Place = ("transform",)
        outer = self.composition(self.field(document, "transform", ()), place, "Compose")
        classes = [self.name(each, (*place, "transforms", i)) for i, each in enumerate(outer)]
        if classes.count("OneOf") != 1:
            raise self.refusal((*place, "transforms"), f"{classes.count('OneOf')} OneOf", "one, the policy")
        index = classes.index("OneOf")
        if "Normalize" in classes:  # 1 if the images were floats
            i = classes.index("Normalize")
            self.largest = self.field(outer[i], "max_pixel_value", (*place, "transforms", i))
            if self.largest not in (1, 255):
                place = (*place, "transforms", i, "max_pixel_value")
                raise self.refusal(place, shown(self.largest), "1 or 255")
        place = (*place, "transforms", index)
        members = self.composition(outer[index], place, "OneOf")
        shares = [self.probability(each, (*place, "transforms", i)) for i, each in enumerate(members)]
        if min(shares) == 0 or not math.isclose(min(shares), max(shares), rel_tol=1e-6):
            found = f"{min(shares):g} to {max(shares):g}"
            raise self.refusal((*place, "transforms"), f"shares from {found}", "equal shares of the sub-policies")
        sub_policies = []
        for i, member in enumerate(members):
            inner = (*place, "transforms", i)
            stages = self.composition(member, inner, "Sequential")
            sub_policies.append([self.stage(stage, (*inner, "transforms", k)) for k, stage in enumerate(stages)])
        return Policy(
            sub_policies,
            name=Path(self.source).stem or "autoalbument",
            provenance={
                "converted_from": f"AutoAlbument, {Path(self.source).name}",
                "left_out": [name for i, name in enumerate(classes) if i != index],
                "pruned_below": self.prune,
            },
        )

    def stage(self, value: Any, place: _Place) -> list[dict[str, Any]]:
        """Operations share the draws; what they and the pruned ones leave is NoOp's, where nothing happens."""
        members = self.composition(value, place, "OneOf")
        places = [(*place, "transforms", i) for i in range(len(members))]
        shares = [self.probability(each, where) for each, where in zip(members, places, strict=True)]
        total = math.fsum(shares)
        if total == 0:
            raise self.refusal(place, "no share above 0", "one at least")
        kept = {
            i: share / total
            for i, share in enumerate(shares)
            if share > 0 and share / total >= self.prune and self.name(members[i], places[i]) != "NoOp"
        }
        if not kept:
            return [{"operation": "flip", "weight": 1.0, "probability": 0.0}]
        applied = min(math.fsum(kept.values()), 1.0)
        return [
            {**self.operation(members[i], places[i]), "weight": share, "probability": applied}
            for i, share in kept.items()
        ]

    def operation(self, value: dict[str, Any], place: _Place) -> dict[str, Any]:
        name = self.name(value, place)
        if name == "HorizontalFlip":
            return {"operation": "flip"}
        if name == "Solarize":
            threshold = self.fixed(value, "threshold", place) * 255 / self.largest
            if not 0 <= threshold <= 256:
                raise self.refusal((*place, "threshold"), f"{threshold:g} of 255", "a threshold in [0, 256]")
            return {"operation": "solarize", "magnitude": 1 - threshold / 256}
        if name == "RandomBrightnessContrast":
            # With brightness 0 it multiplies the pixels, which is what brightness does here (and in Pillow).
            if self.fixed(value, "brightness_limit", place) != 0:
                found = shown(value["brightness_limit"])
                raise self.refusal((*place, "brightness_limit"), found, "0: it adds, brightness here multiplies")
            factor = self.fixed(value, "contrast_limit", place)
            magnitude = abs(factor) / 0.9  # brightness multiplies by 0.1 to 1.9
            if magnitude > 1:
                found = f"a factor of {1 + factor:g}"
                raise self.refusal((*place, "contrast_limit"), found, "a factor in [0.1, 1.9], the range of brightness")
            return {"operation": "brightness", "magnitude": magnitude, "sign": 1 if factor >= 0 else -1}
        reason = f" ({_UNEQUAL[name]})" if name in _UNEQUAL else ""
        raise self.refusal(place, name, f"HorizontalFlip, Solarize, RandomBrightnessContrast or NoOp{reason}")

    def refusal(self, place: _Place, found: str, expected: str) -> PolicyError:
        return PolicyError(self.source, json_path(place), found, expected)

    def field(self, value: Any, key: str, place: _Place) -> Any:
        if not isinstance(value, dict):
            raise self.refusal(place, shown(value), "an object")
        if key not in value:
            raise self.refusal((*place, key), "nothing", "a policy as AutoAlbument saves it")
        return value[key]

    def name(self, value: Any, place: _Place) -> str:
        """The class without its module, which has moved from version to version."""
        found = self.field(value, "__class_fullname__", place)
        if not isinstance(found, str):
            raise self.refusal((*place, "__class_fullname__"), shown(found), "the name of a transform")
        return found.rpartition(".")[2]

    def composition(self, value: Any, place: _Place, name: str) -> list[Any]:
        if self.name(value, place) != name:
            raise self.refusal(place, self.name(value, place), name)
        if name != "Sequential" and self.probability(value, place) != 1:  # a sub-policy's is its share
            raise self.refusal((*place, "p"), shown(value["p"]), "1")
        members = self.field(value, "transforms", place)
        if not isinstance(members, list) or not members:
            raise self.refusal((*place, "transforms"), shown(members), "a non-empty list")
        return members

    def probability(self, value: Any, place: _Place) -> float:
        found = self.field(value, "p", place)
        if not _is_number(found) or not 0 <= found <= 1:
            raise self.refusal((*place, "p"), shown(found), "a number in [0, 1]")
        return float(found)

    def fixed(self, value: dict[str, Any], key: str, place: _Place) -> float:
        """The one number that a range such as [0.3, 0.3] comes down to."""
        found = self.field(value, key, place)
        numbers = isinstance(found, list) and len(found) == 2 and all(_is_number(each) for each in found)
        if not numbers or found[0] != found[1] or not abs(found[0]) <= 1e6:
            raise self.refusal((*place, key), shown(found), "twice the same number")
        return float(found[0])
