"""The policy as transforms of albumentations. The public name is `Policy.to_albumentations`.

albumentations is imported on the call.
"""

import importlib
import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torchvision.transforms import InterpolationMode

from fasteraa_transforms.backends.options import check_interpolation
from fasteraa_transforms.operations.geometry import Affine
from fasteraa_transforms.operations.kinds import Mix
from fasteraa_transforms.operations.table import OPERATIONS
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
    colours = tuple(fill) if isinstance(fill, Sequence) else fill
    return _Exporter(_library(), height, width, interpolation, colours, leave_out).policy(sub_policies)


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
        interpolation: InterpolationMode,
        fill: float | tuple[float, ...],
        leave_out: Collection[str],
    ) -> None:
        self.module, self.height, self.width, self.leave_out = library, height, width, leave_out
        self.interpolation, self.fill = interpolation, fill

    def policy(self, sub_policies: SubPolicies) -> Any:
        choices = [
            self.module.Sequential([self.stage(stage) for stage in sub_policy], p=1) for sub_policy in sub_policies
        ]
        return self.module.Compose([self.module.OneOf(choices, p=1)])

    def stage(self, stage: "tuple[Candidate, ...]") -> Any:
        """One of the candidates, each with its share of the draws; what they leave is NoOp's."""
        transforms = []
        for candidate in stage:
            operation = OPERATIONS[candidate.operation]
            drawn = operation.signed and candidate.sign is None
            signs = (1, -1) if drawn else (candidate.sign or 1,)
            share = candidate.weight * candidate.probability / len(signs)
            if share == 0 or candidate.operation in self.leave_out:
                continue
            for sign in signs:
                magnitude = torch.tensor(sign * (candidate.magnitude or 0.0), dtype=torch.float64)
                transform = self.transform(candidate.operation, operation.parameter(magnitude).item(), share)
                if transform is not None:
                    transforms.append(transform)
        rest = 1 - math.fsum(transform.p for transform in transforms)
        if rest > 0:
            transforms.append(self.module.NoOp(p=min(rest, 1.0)))
        return self.module.OneOf(transforms, p=1)

    def transform(self, name: str, parameter: float, share: float) -> Any:
        """The transform that does what an operation does at one parameter; None where that is nothing."""
        kind = OPERATIONS[name].kind
        match name:
            case "flip":
                return self.module.HorizontalFlip(p=share)
            case "invert":
                return self.module.InvertImg(p=share)
            case "solarize":
                threshold = math.ceil(parameter)  # of whole numbers, as many lie at or above the one as the other
                if threshold > 255:
                    return None
                return self.module.Solarize(threshold_range=(threshold / 255,) * 2, p=share)
            case "posterize":
                return self.module.Posterize(num_bits=int(parameter), p=share) if parameter < 8 else None
            case "brightness":
                same = {"contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)}
                return self.module.ColorJitter(brightness=(parameter, parameter), **same, p=share)
        if isinstance(kind, Mix):  # an image alone has no partner
            return None
        if isinstance(kind, Affine) and kind.translates:
            return self.translation(kind, parameter, share)
        from fasteraa_transforms.policy.interchange import exact  # it needs albumentations

        if isinstance(kind, Affine):
            return exact.ExactMovement(name, parameter, self.interpolation.value, self.fill, p=share)
        return exact.ExactOperation(name, parameter, p=share)

    def translation(self, kind: Affine, parameter: float, share: float) -> Any:
        """A translation by whole pixels, which go the other way round there: from the input to the output."""
        _, _, right, _, _, down = kind.matrix(parameter, self.height, self.width)
        return self.module.Affine(
            translate_px={"x": (round(-right),) * 2, "y": (round(-down),) * 2},
            interpolation=_INTERPOLATION[self.interpolation],
            border_mode=_BORDER_CONSTANT,
            fill=self.fill,
            p=share,
        )
