"""Samples that become a batch, and batches that are transformed sample by sample."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import default_collate, get_worker_info
from torchvision import tv_tensors

from fasteraa_transforms.pipeline.targets import KEY_POINTS
from fasteraa_transforms.pipeline.transfer import check_callable, move

_SHAPES_DIFFER = (
    "the images of a batch should have one shape, but got {} instead; resize them or augment them in the data set"
)


class AugmentCollate:
    """Collate samples, move the batch to a device, and transform it there as a whole.

    For DataLoader's ``collate_fn``. A GPU needs ``num_workers=0``: a forked worker cannot use CUDA, and a spawned one
    would hold a CUDA context of its own. With workers, `DeviceLoader` does the same outside of them. With
    ``device="cuda"``, DataLoader's own ``pin_memory`` has to stay False: it refuses batches that are on the GPU.

    Samples may be nested (dicts, lists, tuples, named tuples); the batch is nested alike. Tensors, arrays and numbers
    become one tensor, as in `torch.utils.data.default_collate`. Tensors that differ in shape between samples, such as
    the masks of objects, become a list with an entry for each sample. Bounding boxes always do. `FasterAutoAugment`
    moves the boxes, masks and key points of such a list each with its image. Unlike in default_collate, tv_tensors and
    tuples keep their type.

    Collated labels are plain tensors. A v2 transform takes the *first* plain tensor for the image, unless the batch has
    a ``tv_tensors.Image``. So images should come first, or be tv_tensors.

    Args:
        transform: takes and returns a batch: `FasterAutoAugment`, any v2 transform, any function.
        device: where the batch is moved to before the transform; where it was collated if None.
        collate: makes a batch of a list of samples; the above if None.

    Raises:
        TypeError: ``transform`` or ``collate`` cannot be called.
        ValueError: when called, if samples are not nested alike, or their images differ in size.
        RuntimeError: when called, if ``device`` is a GPU and this is a DataLoader worker, or no such GPU is found.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> from fasteraa_transforms import FasterAutoAugment
        >>> samples = [(tv_tensors.Image(torch.zeros(3, 32, 32, dtype=torch.uint8)), label) for label in range(6)]
        >>> collate = AugmentCollate(FasterAutoAugment.from_pretrained("cifar10"), device="cpu")
        >>> for images, labels in DataLoader(samples, batch_size=4, collate_fn=collate):
        ...     print(type(images).__name__, list(images.shape), labels.tolist())
        Image [4, 3, 32, 32] [0, 1, 2, 3]
        Image [2, 3, 32, 32] [4, 5]
    """

    def __init__(
        self,
        transform: Callable[[Any], Any],
        *,
        device: torch.device | str | int | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        check_callable("transform", transform)
        if collate is not None:
            check_callable("collate", collate)
        self.transform = transform
        self.device = None if device is None else torch.device(device)
        self.collate = collate_samples if collate is None else collate

    def __call__(self, samples: list[Any]) -> Any:
        """The transformed batch."""
        worker = get_worker_info()
        if worker is not None and self.device is not None and self.device.type != "cpu":
            raise RuntimeError(
                f"AugmentCollate on {self.device} should be called in the main process (num_workers=0), but got called "
                f"in DataLoader worker {worker.id} instead; to augment on {self.device} with workers, leave collate_fn "
                f"as it is and use DeviceLoader(loader, transform, device={str(self.device)!r})"
            )
        batch = self.collate(samples)
        return self.transform(batch if self.device is None else move(batch, self.device, "AugmentCollate"))


def augment_each(transform: Callable[[Any], Any]) -> Callable[[Mapping[str, Sequence[Any]]], dict[str, list[Any]]]:
    """A function that transforms a dict of lists entry by entry, each entry with draws of its own.

    For ``set_transform`` of the data sets of Hugging Face, which hands over a dict of lists: one list for each column.
    A v2 transform takes the dict for one sample, whose images share their draws.

    Args:
        transform: takes and returns a sample, as a dict: `FasterAutoAugment`, any v2 transform, any function.

    Returns:
        A function of a dict of lists, which returns one. It can be pickled if ``transform`` can.

    Raises:
        TypeError: ``transform`` cannot be called.
        ValueError: when called, if the lists differ in length.

    Example:
        >>> from fasteraa_transforms import FasterAutoAugment
        >>> augment = augment_each(FasterAutoAugment.from_pretrained("cifar10"))
        >>> images = [torch.zeros(3, 32, 32, dtype=torch.uint8) for _ in range(2)]
        >>> batch = augment({"image": images, "label": [3, 7]})  # dataset.set_transform(augment)
        >>> len(batch["image"]), batch["label"]
        (2, [3, 7])
    """
    check_callable("transform", transform)
    return partial(_transform_entries, transform)


def _transform_entries(transform: Callable[[Any], Any], batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    lengths = {name: len(values) for name, values in batch.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the lists of a batch should have one length, but got {lengths} instead")
    entries = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    results = [transform(entry) for entry in entries]
    return {name: [result[name] for result in results] for name in (results[0] if results else batch)}


def collate_samples(samples: Sequence[Any]) -> Any:
    """A batch of samples, at least one, as `AugmentCollate` describes it.

    Raises:
        ValueError: the samples are not nested alike, or their images differ in shape.

    Example:
        >>> collate_samples([{"label": 3, "areas": torch.ones(1)}, {"label": 7, "areas": torch.ones(2)}])
        {'label': tensor([3, 7]), 'areas': [tensor([1.]), tensor([1., 1.])]}
    """
    # Without tv_tensors, v2 takes the first plain tensor for the image. Of a list it would augment the first alone.
    shapes = {tuple(image.shape) for image in map(_first_plain_image, samples) if image is not None}
    if len(shapes) > 1:
        raise ValueError(_SHAPES_DIFFER.format(", ".join(map(str, sorted(shapes)))))
    return _collate(samples, "")


def _first_plain_image(sample: Any) -> Tensor | None:
    leaves = tree_leaves(sample)
    if any(isinstance(leaf, (tv_tensors.Image, tv_tensors.Video)) for leaf in leaves):
        return None
    first = next((leaf for leaf in leaves if type(leaf) is Tensor), None)
    return first if first is not None and first.ndim >= 3 else None


def _collate(samples: Sequence[Any], path: str) -> Any:
    """`collate_samples` of what stands at a path in larger samples."""
    first = samples[0]
    if not isinstance(first, (dict, list, tuple)):
        return _collate_leaves(samples)
    for index, sample in enumerate(samples):
        if type(sample) is not type(first):
            found = f"sample 0 has a {type(first).__name__}, sample {index} a {type(sample).__name__}"
            raise _mismatch(path, found)
    if isinstance(first, dict):
        return _collate_dicts(samples, path)
    lengths = [len(sample) for sample in samples]
    if len(set(lengths)) > 1:
        if isinstance(first, list):
            return list(samples)
        raise _mismatch(path, f"tuples of the lengths {', '.join(map(str, sorted(set(lengths))))}")
    batches = [_collate(values, f"{path}[{index}]") for index, values in enumerate(zip(*samples, strict=True))]
    if isinstance(first, list):
        return batches
    return type(first)(*batches) if hasattr(first, "_fields") else tuple(batches)


def _collate_dicts(samples: Sequence[Any], path: str) -> Any:
    everything = {key: None for sample in samples for key in sample}  # in order, as a set is not
    for index, sample in enumerate(samples):
        for key in everything:
            if key not in sample:
                where = next(number for number, other in enumerate(samples) if key in other)
                raise _mismatch(path, f"sample {index} has no key {key!r}, which sample {where} has")
    result = samples[0].copy()  # keeps the type, and what else it holds
    for key in samples[0]:
        result[key] = _collate([sample[key] for sample in samples], f"{path}[{key!r}]")
    return result


def _mismatch(path: str, found: str) -> ValueError:
    place = f" at {path}" if path else ""
    return ValueError(f"samples of a batch should be nested alike, but got a mismatch{place}: {found}")


def _collate_leaves(leaves: Sequence[Any]) -> Any:
    first = leaves[0]
    if isinstance(first, tv_tensors.BoundingBoxes):
        return list(leaves)
    shapes = {tuple(leaf.shape) if isinstance(leaf, (Tensor, np.ndarray, np.generic)) else () for leaf in leaves}
    sizes = {leaf.canvas_size for leaf in leaves if isinstance(leaf, KEY_POINTS)}
    if len(shapes) > 1 or len(sizes) > 1:
        if isinstance(first, (tv_tensors.Image, tv_tensors.Video)):
            raise ValueError(_SHAPES_DIFFER.format(", ".join(map(str, sorted(shapes)))))
        return [torch.as_tensor(leaf) if _is_numbers(leaf) else leaf for leaf in leaves]
    batch = default_collate(list(leaves))  # in a worker, it stacks right into shared memory
    return tv_tensors.wrap(batch, like=first) if isinstance(first, tv_tensors.TVTensor) else batch


def _is_numbers(leaf: Any) -> bool:
    """Whether it is an array that a tensor can hold, and default_collate would make one of."""
    return isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc"
