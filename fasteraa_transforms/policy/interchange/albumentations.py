"""The policy as transforms of albumentations. The public name is `Policy.to_albumentations`.

albumentations is imported on the call, and only there.
"""

import importlib
import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torchvision.transforms import InterpolationMode

from fasteraa_transforms.backends.options import check_interpolation
from fasteraa_transforms.operations import geometry as _geometry
from fasteraa_transforms.operations import pillow as _pillow
from fasteraa_transforms.operations.geometry import Affine
from fasteraa_transforms.operations.kinds import Kind
from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.policy.errors import PolicyError
from fasteraa_transforms.policy.text import SubPolicies

if TYPE_CHECKING:  # it needs pydantic
    from fasteraa_transforms.policy.schema import Candidate

_BORDER_CONSTANT = 0  # cv2.BORDER_CONSTANT, cv2.INTER_NEAREST and cv2.INTER_LINEAR
_INTERPOLATION = {InterpolationMode.NEAREST: 0, InterpolationMode.BILINEAR: 1}


def export(
    sub_policies: SubPolicies,
    size: tuple[int, int],
    *,
    interpolation: InterpolationMode,
    fill: float | Sequence[float],
    leave_out: Collection[str],
) -> Any:
    """See `Policy.to_albumentations`."""
    height, width = size
    if not (isinstance(height, int) and isinstance(width, int) and min(size) > 0):
        raise ValueError(f"size should be a positive height and width, but got {size!r} instead")
    check_interpolation(interpolation)
    unknown = sorted(set(leave_out) - set(OPERATIONS))
    if unknown:
        raise ValueError(f"leave_out should hold names of operations, but got {unknown} instead")
    exporter = _Exporter(_library(), height, width, _INTERPOLATION[interpolation], fill, leave_out)
    return exporter.policy(sub_policies)


def _library() -> Any:
    try:
        library = importlib.import_module("albumentations")
    except ImportError as error:
        hint = 'pip install "fasteraa_transforms[albumentations]"'
        raise ImportError(f"the export needs albumentations ({error}): {hint}") from error
    if int(library.__version__.split(".")[0]) < 2:  # which only warns of parameters that it does not know
        raise ImportError(f"albumentations should be 2 or newer, but is {library.__version__}")
    return library


class _Exporter:
    def __init__(
        self,
        library: Any,
        height: int,
        width: int,
        interpolation: int,
        fill: float | Sequence[float],
        leave_out: Collection[str],
    ) -> None:
        self.module, self.height, self.width, self.leave_out = library, height, width, leave_out
        self.border = {
            "interpolation": interpolation,
            "border_mode": _BORDER_CONSTANT,
            "fill": tuple(fill) if isinstance(fill, Sequence) else fill,
        }

    def policy(self, sub_policies: SubPolicies) -> Any:
        choices = [
            self.module.Sequential(
                [self.stage(stage, f"$.sub_policies[{i}][{k}]") for k, stage in enumerate(sub_policy)], p=1
            )
            for i, sub_policy in enumerate(sub_policies)
        ]
        return self.module.Compose([self.module.OneOf(choices, p=1)])

    def stage(self, stage: "tuple[Candidate, ...]", place: str) -> Any:
        """One of the candidates, each with its share of the draws; what they leave is NoOp's."""
        transforms = []
        for i, candidate in enumerate(stage):
            operation = OPERATIONS[candidate.operation]
            drawn = operation.signed and candidate.sign is None
            signs = (1, -1) if drawn else (candidate.sign or 1,)
            share = candidate.weight * candidate.probability / len(signs)
            if share == 0 or candidate.operation in self.leave_out:
                continue
            for sign in signs:
                magnitude = torch.tensor(sign * (candidate.magnitude or 0.0), dtype=torch.float64)
                name, arguments = self.transform(candidate.operation, operation.parameter(magnitude).item(), place, i)
                if name != "NoOp":
                    transforms.append(getattr(self.module, name)(**arguments, p=share))
        rest = 1 - math.fsum(transform.p for transform in transforms)
        if rest > 0:
            transforms.append(self.module.NoOp(p=min(rest, 1.0)))
        return self.module.OneOf(transforms, p=1)

    def transform(self, name: str, parameter: float, place: str, index: int) -> tuple[str, dict[str, Any]]:
        """Name and arguments of the transform that does what an operation does at one parameter."""
        nothing: tuple[str, dict[str, Any]] = ("NoOp", {})
        height, width = self.height, self.width
        match name:
            case "rotate":
                return "Rotate", {"limit": (parameter, parameter), **self.border}
            case "flip":
                return "HorizontalFlip", {}
            case "solarize":
                threshold = math.ceil(parameter)  # of whole numbers, as many lie at or above the one as the other
                return ("Solarize", {"threshold_range": (threshold / 255,) * 2}) if threshold <= 255 else nothing
            case "posterize":
                return ("Posterize", {"num_bits": int(parameter)}) if parameter < 8 else nothing
            case "invert":
                return "InvertImg", {}
            case "contrast" | "color" | "brightness":
                same = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)}
                return "ColorJitter", {**same, "saturation" if name == "color" else name: (parameter, parameter)}
            case "sharpness" if parameter >= 1:
                # x + (f - 1) (x - smooth(x)), with Pillow's smooth: weight 5 in the middle, 1 around it, of 13.
                alpha = (parameter - 1) / 13
                return "Sharpen", {"alpha": (alpha, alpha), "lightness": (1, 1), "method": "kernel"}
            case "auto_contrast":
                return "AutoContrast", {"cutoff": 0, "method": "pil"}
            case "equalize":
                return "Equalize", {"mode": "pil", "by_channels": True}
            case "cutout":
                left, top, right, bottom = _geometry.cutout_box(parameter, (0.5, 0.5), height, width)
                holes = {"hole_height_range": (bottom - top,) * 2, "hole_width_range": (right - left,) * 2}
                hole = {"num_holes_range": (1, 1), **holes, "fill": _pillow.CUTOUT_RGB}
                return ("CoarseDropout", hole) if right > left and bottom > top else nothing
            case "sample_pairing":  # an image alone has no partner
                return nothing
            case _ if (affine := self.affine(OPERATIONS[name].kind, parameter)) is not None:
                return affine
            case _:  # sharpness below 1: it softens in other ways
                expected = f"what albumentations has too, or {name} in leave_out"
                raise PolicyError("<policy>", f"{place}[{index}]", f"{name} at {parameter:g}", expected)

    def affine(self, kind: Kind, parameter: float) -> tuple[str, dict[str, Any]] | None:
        """An affine map as albumentations has it; None if it does more than shear along one axis and translate."""
        if not isinstance(kind, Affine):
            return None
        a, b, c, d, e, f = kind.matrix(parameter, self.height, self.width)
        if a != 1 or e != 1 or b * d != 0:
            return None
        # Shears are about the centre there, and translations the other way round, in whole pixels.
        x, y = round(-(c + b * self.height / 2)), round(-(f + d * self.width / 2))
        arguments: dict[str, Any] = {"translate_px": {"x": (x, x), "y": (y, y)}, **self.border}
        if b or d:
            along_x, along_y = (math.degrees(math.atan(shear)) for shear in (b, d))
            arguments["shear"] = {"x": (along_x, along_x), "y": (along_y, along_y)}
        return "Affine", arguments
