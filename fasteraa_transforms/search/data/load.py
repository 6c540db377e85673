"""Images loaded: a random subset of a data set, read one by one into one tensor."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from fasteraa_transforms.search.data.held import Held
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.data.masks import extent_of_mask, hold_masks, is_mask, read_mask
from fasteraa_transforms.search.data.samples import UNREADABLE, Samples, decode, parts_of, to_uint8
from fasteraa_transforms.search.data.sizing import Extent, Size, fitting_size, sizing_in_words
from fasteraa_transforms.search.data.subset import Drawn, draw
from fasteraa_transforms.search.runtime.output import in_a_line, readable

_NAMED = 10  # unreadable images that a message names

Watch = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Shows progress. It takes an iterable, a name for it and its length, and returns an iterable of the same items."""


def load_images(
    dataset: Samples,
    *,
    num_images: int | None = None,
    num_classes: int | None = None,
    balanced: bool = False,
    size: Size = None,
    seed: int = 0,
    ignore_label: int = 255,
    skip_broken: bool = False,
    tell: Callable[[str], object] | None = None,
    watch: Watch | None = None,
) -> ImageSet:
    """Draw a random subset of ``dataset`` and load it. Loading takes little more memory than the loaded images.

    Args:
        dataset: samples as `parts_of` takes them, with images as `to_uint8` and masks as `read_mask` take them. A
            dataset that can only be iterated is read once, and only the subset is held.
        num_images: how many, drawn without replacement; all if None or if there are fewer.
        num_classes: draw from this many classes, themselves drawn at random; all if None.
        balanced: draw ``num_images`` evenly from all classes. A class with too few images gives all of them; the others
            give more.
        size: (height, width) to resize to, on the shorter side, then to crop at the centre; None keeps the images'
            size. "auto" keeps it where all are small and of one size, and else resizes to a square, as
            `data.sizing.fitting_size` says. Masks are resized to the nearest pixel.
        seed: of the draws.
        ignore_label: value of a mask's pixels without a class.
        skip_broken: whether images that cannot be read are left out, and listed in the notes. Of a map-style dataset,
            the images that would have been drawn next replace them.
        tell: called with a line that says which size was chosen, or that warns of large images which are not resized,
            before they take much memory.
        watch: goes through the images, to show how far loading is.

    Returns:
        The images in the drawn order. Grey images among colour ones become RGB; transparency is left out.

    Raises:
        ValueError: the dataset has no image, a single class, images of several sizes without ``size``, unreadable
            images (all are named), a sample of another kind, a mask that `read_mask` refuses, or labels among masks. Or
            ``balanced`` is used for masks or without ``num_images``. Or the images do not fit into the machine's
            memory.

    Example:
        >>> from fasteraa_transforms.search import Digits
        >>> subset = load_images(Digits(), num_images=100, balanced=True)
        >>> subset.images.shape, subset.labels.bincount().tolist()
        (torch.Size([100, 1, 8, 8]), [10, 10, 10, 10, 10, 10, 10, 10, 10, 10])
    """
    if balanced and num_images is None:
        raise ValueError("num_images should be given for a balanced subset, but got None instead")
    tell, watch = tell or (lambda line: None), watch or (lambda items, name, count: items)
    drawn = draw(dataset, num_images=num_images, num_classes=num_classes, balanced=balanced, seed=seed)
    automatic, complete = size == "auto", drawn.surveyed == drawn.wanted
    if size == "auto":
        known = _survey(drawn, watch)
        size = fitting_size(known)
        if size is not None and complete:
            tell(sizing_in_words(known, size))
    held = Held(drawn.wanted, size, automatic=automatic, tell=tell)
    broken: list[str] = []
    for name, sample in watch(drawn.samples(size), "loading", drawn.wanted):
        try:
            image, target = _decoded(sample, name, held.size)
        except _Broken as error:
            broken.append(str(error))
        else:
            image = to_uint8(image, name)
            if is_mask(target):
                target = read_mask(target, name, size=(image.shape[1], image.shape[2]), ignore_label=ignore_label)
            held.add(image, target, name)
        if len(held) + (0 if skip_broken else len(broken)) == drawn.wanted:
            break
    if automatic and held.size is not None and not complete:
        tell(sizing_in_words(held.extents, held.size))
    notes = list(getattr(dataset, "notes", ()))
    if broken:
        notes.append(_check_broken(broken, len(held), skip_broken))
    images = held.images()
    labels, values = _labels(held.targets, ignore_label)
    return ImageSet(images, labels, len(values), _names(dataset, values), drawn.available, tuple(notes))


def _survey(drawn: Drawn, watch: Watch) -> Counter[Extent]:
    """How many of the drawn images have each size, as far as that is known before they are loaded."""
    with torch.random.fork_rng(devices=[]):  # what samples draw is the same if their sizes are not looked at
        return Counter(extent for extent in watch(drawn.extents(), "sizes", drawn.surveyed) if extent is not None)


class _Broken(Exception):
    """An image that cannot be read: its name and the reason."""


def _decoded(sample: Any, name: str, size: Extent | None) -> tuple[Any, Any]:
    """Image and target of a drawn sample, decoded.

    Raises:
        _Broken: one of them cannot be read.
    """
    if isinstance(sample, Exception):
        raise _Broken(in_a_line(f"{name} ({sample})")) from sample
    image, target = parts_of(sample, name)
    try:
        if not is_mask(target):
            return decode(image, at_least=size), target
        target = decode(target)
        return decode(image, beside=extent_of_mask(target)), target
    except UNREADABLE as error:
        raise _Broken(in_a_line(f"{name} ({error})")) from error


def _check_broken(broken: list[str], read: int, skip: bool) -> str:
    """A note of the images that cannot be read.

    Raises:
        ValueError: they are not to be skipped.
    """
    lines = "\n".join(f"    {line}" for line in broken[:_NAMED]) + ("\n    …" if len(broken) > _NAMED else "")
    count = f"{len(broken)} of {len(broken) + read} images cannot be read"
    if not skip:
        raise ValueError(f"{count}; repair or remove them:\n{lines}")
    return f"{count} and are left out:\n{lines}"


def _labels(targets: list[Any], ignore_label: int) -> tuple[Tensor, list[int]]:
    """Labels int64 [N] or masks uint8 [N, H, W], numbered from 0, and the class of the data for each number."""
    masks = [target for target in targets if isinstance(target, Tensor)]
    if masks:
        if len(masks) < len(targets):
            raise ValueError(
                f"samples should all have masks, or all labels, but {len(masks)} of {len(targets)} have masks"
            )
        return hold_masks(masks, ignore_label=ignore_label)
    values = sorted(set(targets))
    if len(values) < 2:
        raise ValueError(f"images of at least 2 classes are needed, but got {len(targets)} images of {len(values)}")
    position = {label: i for i, label in enumerate(values)}
    return torch.tensor([position[label] for label in targets]), values


def _names(dataset: Samples, values: list[int]) -> tuple[str, ...]:
    """What the classes of these numbers are called: by the dataset if it says so, else by their numbers."""
    names = getattr(dataset, "classes", None)
    if names is None:
        for feature in (getattr(dataset, "features", None) or {}).values():  # of a dataset of Hugging Face
            names = names or getattr(feature, "names", None)
    if isinstance(names, list | tuple) and min(values) >= 0 and max(values) < len(names):
        # ImageNet's classes have several names each.
        texts = (", ".join(name) if isinstance(name := names[value], tuple) else str(name) for value in values)
        return tuple(map(readable, texts))
    return tuple(map(str, values))
