"""The random subset of a data set: which samples are drawn, in which order."""

import heapq
import operator
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torchvision.datasets import DatasetFolder

from fasteraa_transforms.pipeline.image_files import extent_of
from fasteraa_transforms.search.data.folders import ImageFiles
from fasteraa_transforms.search.data.samples import (
    UNREADABLE,
    Encoded,
    MapDataset,
    Samples,
    extent_of_image,
    is_map_style,
    label_of,
    parts_of,
)
from fasteraa_transforms.search.data.sizing import Extent

PROBED = 32
"""Samples of a dataset in code that are read ahead to see how large its images are."""


class Drawn(NamedTuple):
    """The drawn samples.

    Attributes:
        samples: called with the (height, width) that files may be decoded at, as for `open_image`. Gives names and
            samples in the drawn order; an unreadable sample is replaced by its exception.
        extents: called without arguments. Gives the (height, width) of each image in the drawn order, or None where it
            is not known. Decodes no file.
        surveyed: how many images ``extents`` tells of.
        wanted: how many samples to take.
        available: how many there are to draw from.
    """

    samples: Callable[[Extent | None], Iterator[tuple[str, Any]]]
    extents: Callable[[], Iterator[Extent | None]]
    surveyed: int
    wanted: int
    available: int


def draw(
    dataset: Samples,
    *,
    num_images: int | None,
    num_classes: int | None,
    balanced: bool,
    seed: int,
) -> Drawn:
    """Draw samples without replacement.

    Of a map-style dataset, what follows the wanted samples are those that would be drawn next: they can replace
    samples that turn out to be broken.

    Args:
        dataset: map-style, or one that is gone through once, of which no more than the subset is held.
        num_images: how many; None for all.
        num_classes: from how many classes, themselves drawn at random; None for all.
        balanced: whether to draw evenly from all classes.
        seed: of the draws.

    Raises:
        ValueError: ``num_classes`` of a dataset that is gone through once.
    """
    if is_map_style(dataset):
        return _draw_by_index(dataset, num_images, num_classes, balanced, seed)  # type: ignore[arg-type]
    if num_classes is not None:
        raise ValueError("num_classes should be None for a dataset that is gone through once: classes come up late")
    return _draw_in_one_pass(dataset, num_images, balanced, seed)  # type: ignore[arg-type]


def known_labels(dataset: MapDataset) -> list[int] | None:
    """All labels without loading an image, where the dataset tells them as whole numbers."""
    columns = getattr(dataset, "column_names", None)  # a dataset of Hugging Face
    for name in ("targets", "labels", "label", "fine_label"):
        labels = dataset[name] if isinstance(columns, list) and name in columns else getattr(dataset, name, None)  # type: ignore[index]
        try:
            if labels is not None and len(labels) == len(dataset):
                return [operator.index(label) for label in labels]
        except TypeError:  # names of classes, or several labels each
            continue
    return None


def _draw_by_index(
    dataset: MapDataset,
    num_images: int | None,
    num_classes: int | None,
    balanced: bool,
    seed: int,
) -> Drawn:
    """The drawn samples of a map-style dataset."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(dataset), generator=generator).tolist()
    if num_classes is not None or balanced:
        labels = known_labels(dataset)
        if labels is None:
            setting = "balanced" if balanced else "num_classes"
            labels = [label_of(_read(dataset, i), _name(dataset, i), setting) for i in range(len(dataset))]
        if num_classes is not None:
            present = sorted(set(labels))
            chosen = torch.randperm(len(present), generator=generator)[:num_classes].tolist()
            kept = {present[i] for i in chosen}
            order = [index for index in order if labels[index] in kept]
        if balanced:
            seen: Counter[int] = Counter()
            turn = {}  # the first image of each class, then the second of each, …
            for index in order:
                turn[index] = seen[labels[index]]
                seen[labels[index]] += 1
            order.sort(key=turn.__getitem__)

    def samples(at_least: Extent | None) -> Iterator[tuple[str, Any]]:
        for index in order:
            try:
                sample = _read(dataset, index, at_least)
            except UNREADABLE as error:
                sample = error
            yield _name(dataset, index), sample

    wanted = len(order) if num_images is None else min(num_images, len(order))
    # Files tell their size by a few bytes, and a list has its images already; other datasets may decode each of theirs.
    surveyed = wanted if isinstance(dataset, ImageFiles | list | tuple) else min(wanted, PROBED)

    def extents() -> Iterator[Extent | None]:
        for index in order[:surveyed]:
            yield _extent(dataset, index)

    return Drawn(samples, extents, surveyed, wanted, len(dataset))


def _read(dataset: MapDataset, index: int, at_least: tuple[int, int] | None = None) -> Any:
    """One sample; image files may be decoded at a smaller size, if that is enough."""
    try:
        return dataset.read(index, at_least=at_least) if isinstance(dataset, ImageFiles) else dataset[index]
    except Exception as error:
        error.add_note(f"while reading {_name(dataset, index)}")
        raise


def _extent(dataset: MapDataset, index: int) -> Extent | None:
    """(height, width) of an image; None where it is not known, as of a broken file."""
    try:
        if isinstance(dataset, ImageFiles):
            return extent_of(dataset.samples[index][0])
        return extent_of_image(parts_of(_read(dataset, index), _name(dataset, index))[0])
    except UNREADABLE:  # whoever loads it says why
        return None


def _name(dataset: MapDataset, index: int) -> str:
    """What a message calls a sample: its file, where the dataset is a folder that tells it."""
    files = dataset.samples if isinstance(dataset, ImageFiles | DatasetFolder) else None
    return str(files[index][0]) if files else f"sample {index}"


def _draw_in_one_pass(dataset: Iterable[Any], num_images: int | None, balanced: bool, seed: int) -> Drawn:
    """The drawn samples of an iterable dataset.

    Reservoir sampling by random keys: each sample draws a key, and those of the smallest keys are kept (Vitter 1985;
    with keys: Efraimidis and Spirakis 2006, of equal weights). Balanced, each class has a reservoir of its own, and the
    fullest one gives up a sample.
    """
    generator = random.Random(seed)
    reservoirs: dict[int, list[tuple[float, int, Any]]] = {}  # heaps, the largest key first
    held = available = 0
    for index, sample in enumerate(dataset):
        available += 1
        parts_of(sample, f"sample {index}")
        key = label_of(sample, f"sample {index}", "balanced") if balanced else 0
        heapq.heappush(reservoirs.setdefault(key, []), (-generator.random(), index, sample))
        held += 1
        if num_images is not None and held > num_images:
            heapq.heappop(max(reservoirs.values(), key=len))
            held -= 1
    kept = sorted((entry for heap in reservoirs.values() for entry in heap), key=lambda entry: -entry[0])
    kept.reverse()
    reservoirs.clear()

    def samples(at_least: Extent | None) -> Iterator[tuple[str, Any]]:
        while kept:  # let go of each, so that no image is held twice
            _, index, sample = kept.pop()
            image, _ = parts_of(sample, f"sample {index}")
            yield image.name if isinstance(image, Encoded) else f"sample {index}", sample

    def extents() -> Iterator[Extent | None]:
        for _, index, sample in reversed(kept):
            try:
                yield extent_of_image(parts_of(sample, f"sample {index}")[0])
            except UNREADABLE:
                yield None

    return Drawn(samples, extents, held, held, available)
