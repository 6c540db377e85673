"""The guard: what each operation, at each magnitude, does to images and to a network's accuracy on them.

A network that was trained on some of the images meets the others, augmented by one operation at one magnitude. An
operation that leaves the accuracy high does not break the classes. An operation that hardly changes images is not worth
a stage.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision import tv_tensors

from fasteraa_transforms.operations import OPERATIONS
from fasteraa_transforms.pipeline.transform import FasterAutoAugment
from fasteraa_transforms.policy import Policy
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.data.masks import IGNORED
from fasteraa_transforms.search.networks.fit import judged_at_once

LOOKED_AT = (0.1, 0.25, 0.4, 0.6, 0.8, 1.0)
"""Magnitudes at which every operation is looked at."""

STILL = 0.01
"""An operation that displaces images by less, on average over pixels in [0, 1], changes nothing here."""


@dataclass(frozen=True)
class Point:
    """One operation at one magnitude.

    Attributes:
        magnitude: in [0, 1]; None for an operation without one.
        accuracy: of networks that have not seen the images, in [0, 1].
        displacement: mean |augmented - original| over pixels in [0, 1].
    """

    magnitude: float | None
    accuracy: float
    displacement: float


@dataclass(frozen=True)
class Curves:
    """What the guard saw: accuracy against magnitude for every operation.

    Attributes:
        clean: accuracy on the images as they are, in [0, 1].
        points: of each operation, in the order of the magnitudes.
        images: how many images were looked at.
    """

    clean: float
    points: dict[str, tuple[Point, ...]]
    images: int

    def still(self, operation: str) -> bool:
        """Whether the operation changes nothing here, whatever its magnitude."""
        return max(point.displacement for point in self.points[operation]) < STILL

    def largest(self, operation: str, tolerance: float) -> float | None:
        """The largest magnitude up to which the operation loses at most ``tolerance`` of the clean accuracy.

        Linear between the magnitudes that were looked at. 1.0 for an operation without a magnitude that loses no more;
        None where even the weakest loses more.

        Args:
            operation: a name in `OPERATIONS`.
            tolerance: fraction of the clean accuracy, in [0, 1].
        """
        floor = self.clean * (1 - tolerance)
        points = self.points[operation]
        if points[0].magnitude is None:
            return 1.0 if points[0].accuracy >= floor else None
        before, kept = (0.0, self.clean), None
        for point in points:
            here = (float(point.magnitude or 0.0), point.accuracy)
            if here[1] < floor:
                if before[1] > here[1] and before[1] >= floor:
                    part = (before[1] - floor) / (before[1] - here[1])
                    reached = before[0] + part * (here[0] - before[0])
                    kept = max(kept or 0.0, reached)
                break
            before, kept = here, here[0]
        return kept or None

    def words(self, operation: str, tolerance: float) -> str:
        """What the operation does here: one of three phrases."""
        if self.still(operation):
            return "changes nothing here"
        reached = self.largest(operation, tolerance)
        if reached is None or reached < points_of(operation)[0]:
            return "breaks the classes"
        if not OPERATIONS[operation].has_magnitude or reached >= 1:
            return "keeps the classes"
        return f"keeps the classes up to magnitude {reached:.2f}"

    def only(self, operations: Iterable[str]) -> "Curves":
        """The curves of some operations."""
        kept = set(operations)
        return Curves(self.clean, {name: row for name, row in self.points.items() if name in kept}, self.images)

    def to_json(self) -> dict[str, object]:
        """For a file; `from_json` reads it."""
        return {
            "clean": self.clean,
            "images": self.images,
            "points": {
                name: [
                    {"magnitude": p.magnitude, "accuracy": p.accuracy, "displacement": p.displacement} for p in points
                ]
                for name, points in self.points.items()
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> "Curves":
        """What `to_json` gave."""
        points: Mapping[str, Sequence[Mapping[str, float]]] = value["points"]  # type: ignore[assignment]
        return cls(
            clean=float(value["clean"]),  # type: ignore[arg-type]
            points={name: tuple(Point(**point) for point in row) for name, row in points.items()},
            images=int(value["images"]),  # type: ignore[call-overload]
        )

    @classmethod
    def mean(cls, curves: Sequence["Curves"]) -> "Curves":
        """The mean over several networks, weighted by the number of images that each looked at."""
        total = sum(each.images for each in curves)
        share = [each.images / total for each in curves]

        def average(name: str, index: int, field: str) -> float:
            parts = zip(share, curves, strict=True)
            return sum(weight * getattr(each.points[name][index], field) for weight, each in parts)

        points = {
            name: tuple(
                Point(row[i].magnitude, average(name, i, "accuracy"), average(name, i, "displacement"))
                for i in range(len(row))
            )
            for name, row in curves[0].points.items()
        }
        clean = sum(weight * each.clean for weight, each in zip(share, curves, strict=True))
        return cls(clean, points, total)


def points_of(operation: str) -> tuple[float, ...]:
    """The magnitudes at which an operation is measured; (1.0,) for an operation without a magnitude."""
    return LOOKED_AT if OPERATIONS[operation].has_magnitude else (1.0,)


@torch.no_grad()
def measure_curves(
    network: nn.Module,
    data: ImageSet,
    *,
    crop: Crop,
    normalise: nn.Module | object,
    operations: Iterable[str],
    seed: int = 0,
) -> Curves:
    """Measure every operation, at every magnitude, on images that ``network`` has not seen.

    Args:
        network: in evaluation mode, normalised float [B, C, *crop.size] -> logits.
        data: the images, uint8 [N, C, H, W].
        crop: whose centre is looked at.
        normalise: uint8 -> what the network takes.
        operations: names in `OPERATIONS`.
        seed: of directions, cutout's centres and partners.
    """
    fill, at_once = {tv_tensors.Mask: IGNORED, "others": 0}, judged_at_once(data, crop)

    def right(images: Tensor, labels: Tensor) -> float:
        shown = [network(normalise(part)) for part in crop.centre(images).split(at_once)]  # type: ignore[operator]
        answers = torch.cat([part.argmax(1) for part in shown])
        labels = crop.centre(labels) if labels.ndim == 3 else labels
        kept = labels != (IGNORED if labels.ndim == 3 else -1)
        return (((answers == labels) & kept).sum() / kept.sum().clamp(min=1)).item()

    clean = right(data.images, data.labels)
    points: dict[str, tuple[Point, ...]] = {}
    for name in operations:
        row = []
        for magnitude in points_of(name):
            value = magnitude if OPERATIONS[name].has_magnitude else None
            candidate = {"operation": name, "weight": 1, "probability": 1, "magnitude": value}
            augment = FasterAutoAugment(
                Policy([[[candidate]]]), fill=fill, generator=torch.Generator().manual_seed(seed)
            )
            labels = data.labels
            if data.has_masks:
                images, labels = augment(data.images, tv_tensors.Mask(labels))
                labels = labels.as_subclass(Tensor)
            else:
                images = augment(data.images)
            pairs = zip(images.split(at_once), data.images.split(at_once), strict=True)
            moved = sum((a.short() - b.short()).abs().sum().item() for a, b in pairs) / images.numel() / 255
            row.append(Point(value, right(images, labels), moved))
        points[name] = tuple(row)
    return Curves(clean, points, len(data))
