"""Policies that AutoAlbument searched. The public name is `Policy.from_autoalbument`."""

import math
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.policy import files
from fasteraa_transforms.policy.errors import PolicyError, json_path, shown
from fasteraa_transforms.policy.interchange import Converted, is_number
from fasteraa_transforms.policy.json_text import JsonText

_MOST_VALUES = 250_000  # in a file; the largest published one has 30,000

_Place = tuple[int | str, ...]

_EQUAL = "HorizontalFlip, Solarize, RandomBrightnessContrast, ShiftScaleRotate or NoOp"
_UNEQUAL = {
    "RGBShift": "it shifts single channels",
    "VerticalFlip": "it mirrors top to bottom",
    "CoarseDropout": "its holes are black, lie wholly inside, and may be several",
}
_MOVED = "what comes from outside of the image is one colour here and reflected there; bilinear there"
_DIFFERENCES = dict.fromkeys(("rotate", "translate_x", "translate_y"), _MOVED)
# The operation that each limit of ShiftScaleRotate is, and the sign of a positive one. Both rotate counter-clockwise. A
# positive shift moves the image there; here it is the distance from which pixels come.
_MOVEMENTS = {"rotate_limit": ("rotate", 1), "shift_limit_x": ("translate_x", -1), "shift_limit_y": ("translate_y", -1)}


def convert(path: str | os.PathLike[str], prune: float = 0.0, leave_out: Collection[str] = ()) -> Converted:
    """See `Policy.from_autoalbument`."""
    if not (is_number(prune) and 0 <= prune < 1):
        raise ValueError(f"prune should be a number in [0, 1), but got {prune!r} instead")
    if isinstance(leave_out, str) or not all(isinstance(name, str) for name in leave_out):
        raise ValueError(f"leave_out should hold names of transforms, but got {leave_out!r} instead")
    source = os.fspath(path)
    return _AutoAlbument(source, prune, frozenset(leave_out)).policy(files.read(source))


class _AutoAlbument:
    """One file; every method takes the place of what it reads, for the error."""

    def __init__(self, source: str, prune: float, leave_out: frozenset[str]) -> None:
        self.source, self.prune, self.leave_out = source, prune, leave_out
        self.largest = 255.0
        self.left_out: dict[str, float] = {}  # shares of the stages, added up

    def policy(self, data: bytes) -> Converted:
        document = self.parsed(data)
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
        return Converted(
            sub_policies=sub_policies,
            name=Path(self.source).stem or "autoalbument",
            provenance={
                "converted_from": f"AutoAlbument, {Path(self.source).name}",
                "left_out": [name for i, name in enumerate(classes) if i != index],
                "pruned_below": self.prune,
                **self.remarks(sub_policies),
            },
        )

    def parsed(self, data: bytes) -> Any:
        """The document, if it has no more values than any that AutoAlbument saves."""
        from pydantic_core import from_json

        text = JsonText(data, self.source)
        text.skip()
        text.end()
        if text.is_long(0, len(data), _MOST_VALUES):
            raise PolicyError(self.source, "$", f"more than {_MOST_VALUES} values", f"at most {_MOST_VALUES}")
        return from_json(data)

    def remarks(self, sub_policies: list[list[list[dict[str, Any]]]]) -> dict[str, Any]:
        """What the provenance says of operations that differ, and of those that were left out."""
        stages = [stage for sub_policy in sub_policies for stage in sub_policy]
        used = {candidate["operation"] for stage in stages for candidate in stage}
        differences = [f"{name}: {text}" for name, text in _DIFFERENCES.items() if name in used]
        ranked = sorted(self.left_out.items(), key=lambda item: -item[1])
        shares = {name: total / len(stages) for name, total in ranked}
        return ({"differences": differences} if differences else {}) | ({"shares_left_out": shares} if shares else {})

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
        candidates = []
        for i, share in kept.items():
            name = self.name(members[i], places[i])
            try:
                candidates.append({**self.operation(members[i], name, places[i]), "weight": share})
            except PolicyError as error:
                if name not in self.leave_out:
                    expected = f"{error.expected}; or {name} in leave_out"
                    raise PolicyError(self.source, error.path, error.found, expected) from None
                self.left_out[name] = self.left_out.get(name, 0.0) + share
        if not candidates:
            return [{"operation": "flip", "weight": 1.0, "probability": 0.0}]
        applied = min(math.fsum(candidate["weight"] for candidate in candidates), 1.0)
        return [{**candidate, "probability": applied} for candidate in candidates]

    def operation(self, value: dict[str, Any], name: str, place: _Place) -> dict[str, Any]:
        """The candidate, without weight and probability, that does what a transform does."""
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
        if name == "ShiftScaleRotate":
            return self.movement(value, place)
        reason = f" ({_UNEQUAL[name]})" if name in _UNEQUAL else ""
        raise self.refusal(place, name, f"{_EQUAL}{reason}")

    def movement(self, value: dict[str, Any], place: _Place) -> dict[str, Any]:
        """The rotation or the shift that a ShiftScaleRotate is; AutoAlbument's are one of them each."""
        if self.fixed(value, "scale_limit", place) != 0:
            raise self.refusal((*place, "scale_limit"), shown(value["scale_limit"]), "0: nothing here scales")
        amounts = {key: self.fixed(value, key, place) for key in _MOVEMENTS}
        moved = [key for key, amount in amounts.items() if amount]
        if len(moved) > 1:
            raise self.refusal(place, f"{' and '.join(moved)}", "one of them: each operation here is one movement")
        key = moved[0] if moved else "rotate_limit"
        name, side = _MOVEMENTS[key]
        magnitude = abs(amounts[key]) / OPERATIONS[name].severest
        if magnitude > 1:
            found = f"{amounts[key]:g}"
            raise self.refusal((*place, key), found, f"at most {OPERATIONS[name].severest:g}, the severest {name}")
        return {"operation": name, "magnitude": magnitude, "sign": side if amounts[key] >= 0 else -side}

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
        if not is_number(found) or not 0 <= found <= 1:
            raise self.refusal((*place, "p"), shown(found), "a number in [0, 1]")
        return float(found)

    def fixed(self, value: dict[str, Any], key: str, place: _Place) -> float:
        """The one number that a range such as [0.3, 0.3] comes down to."""
        found = self.field(value, key, place)
        numbers = isinstance(found, list) and len(found) == 2 and all(is_number(each) for each in found)
        if not numbers or found[0] != found[1] or not abs(found[0]) <= 1e6:
            raise self.refusal((*place, key), shown(found), "twice the same number")
        return float(found[0])
