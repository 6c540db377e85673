"""Policies that AutoAlbument searched. The public name is `Policy.from_autoalbument`."""

import math
import os
from pathlib import Path
from typing import Any

from fasteraa_transforms.policy.errors import PolicyError, json_path, shown
from fasteraa_transforms.policy.files import read_text
from fasteraa_transforms.policy.interchange import Converted, is_number

_Place = tuple[int | str, ...]

_UNEQUAL = {
    "RGBShift": "it shifts single channels",
    "VerticalFlip": "it mirrors top to bottom",
    "ShiftScaleRotate": "it fills what comes from outside with reflections, here it is one colour",
    "CoarseDropout": "its holes are black, lie wholly inside, and may be several",
}


def convert(path: str | os.PathLike[str], prune: float = 0.0) -> Converted:
    """See `Policy.from_autoalbument`."""
    if not (is_number(prune) and 0 <= prune < 1):
        raise ValueError(f"prune should be a number in [0, 1), but got {prune!r} instead")
    source = os.fspath(path)
    return _AutoAlbument(source, prune).policy(read_text(source))


class _AutoAlbument:
    """One file; every method takes the place of what it reads, for the error."""

    def __init__(self, source: str, prune: float) -> None:
        self.source, self.prune = source, prune
        self.largest = 255.0

    def policy(self, text: str) -> Converted:
        from pydantic_core import from_json

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
        return Converted(
            sub_policies=sub_policies,
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
