"""Batches on a device: collating, the loader that runs ahead, its random numbers, errors, workers and streams."""

import copy
import gc
import pickle
import re
import weakref
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

from fasteraa_transforms import AugmentCollate, DeviceLoader, FasterAutoAugment, Policy, apply, augment_each

# On a black image, the place of two squares of 13 × 13: as good as a number that says which draw it was.
SQUARES = Policy([[[{"operation": "cutout", "weight": 1, "probability": 1, "magnitude": 1}]] * 2], name="squares")
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

Sample = namedtuple("Sample", ["image", "label"])


def identity(batch: Any) -> Any:
    return batch


def double(batch: Any) -> Any:
    return [batch[0] * 2, *batch[1:]]


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Black(Dataset[tuple[Any, int]]):
    """Black images and their numbers; errors at the numbers given."""

    def __init__(self, count: int = 10, *, errors: tuple[int, ...] = ()) -> None:
        self.count, self.errors = count, errors

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if index in self.errors:
            raise ValueError(f"no image {index}")
        return tv_tensors.Image(torch.zeros(1, 64, 64, dtype=torch.uint8)), index


class Nested(Dataset[Any]):
    """Samples of every kind of container and leaf."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        corners = torch.tensor([0, 0, index, 2]).expand(index, 4)
        boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(4, 5))
        return {
            "label": index,
            "pair": (tv_tensors.Image(torch.full((3, 4, 5), index, dtype=torch.uint8)), index / 2),
            "list": [tv_tensors.Mask(torch.full((4, 5), index)), np.full(2, index)],
            "sample": Sample(tv_tensors.Video(torch.full((2, 3, 4, 5), index, dtype=torch.uint8)), torch.tensor(index)),
            "ordered": OrderedDict(boxes=boxes, name=f"image {index}"),
        }


def check_nested(batch: Any, rows: list[int], device: str = "cpu") -> None:
    """That the batch is that of these samples of `Nested`."""
    assert list(batch) == ["label", "pair", "list", "sample", "ordered"]
    assert [type(batch[name]) for name in ("pair", "list", "sample", "ordered")] == [tuple, list, Sample, OrderedDict]
    assert [type(leaf) for leaf in tree_leaves(batch)] == [
        Tensor,
        tv_tensors.Image,
        Tensor,
        tv_tensors.Mask,
        Tensor,
        tv_tensors.Video,
        Tensor,
        *[tv_tensors.BoundingBoxes] * len(rows),
        *[str] * len(rows),
    ]
    for box in batch["ordered"]["boxes"]:
        assert (box.format, box.canvas_size) == (tv_tensors.BoundingBoxFormat.XYXY, (4, 5))
    assert batch["ordered"]["name"] == [f"image {row}" for row in rows]
    assert all(leaf.device.type == device for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))
    assert list(batch["pair"][0].shape) == [len(rows), 3, 4, 5]
    assert list(batch["sample"].image.shape) == [len(rows), 2, 3, 4, 5]
    assert [len(box) for box in batch["ordered"]["boxes"]] == rows
    if device != "meta":
        assert batch["label"].tolist() == batch["sample"].label.tolist() == rows
        assert batch["pair"][0][:, 0, 0, 0].tolist() == batch["sample"].image[:, 1, 2, 3, 4].tolist() == rows
        assert batch["pair"][1].tolist() == [row / 2 for row in rows]
        assert batch["list"][0][:, 3, 4].tolist() == batch["list"][1][:, 1].tolist() == rows
        assert [box.tolist() for box in batch["ordered"]["boxes"]] == [[[0, 0, row, 2]] * row for row in rows]


def content(batches: Any) -> list[tuple[list[bytes], list[int]]]:
    """What is in batches of images and labels, to compare."""
    return [([bytes(image.cpu().numpy()) for image in images], labels.tolist()) for images, labels in batches]


# --- AugmentCollate ---------------------------------------------------------------------------------------------------


def test_collates_and_keeps_types() -> None:
    check_nested(AugmentCollate(identity)([Nested()[index] for index in (4, 0, 2)]), [4, 0, 2])


def test_collates_leaves_as_pytorch_does() -> None:
    samples = [{"a": index, "b": [torch.rand(3), "text", 1.5, np.float32(2), b"bytes"]} for index in range(4)]
    ours, theirs = AugmentCollate(identity)(samples), default_collate(samples)
    for mine, their in zip(tree_leaves(ours), tree_leaves(theirs), strict=True):
        assert type(mine) is type(their)
        assert torch.equal(mine, their) if isinstance(mine, Tensor) else mine == their
    assert torch.equal(AugmentCollate(identity)([1, 2]), torch.tensor([1, 2]))


def test_collates_dicts_by_their_keys() -> None:
    batch = AugmentCollate(identity)([{"a": 1, "b": 2}, {"b": 4, "a": 3}])
    assert {key: values.tolist() for key, values in batch.items()} == {"a": [1, 3], "b": [2, 4]}


@pytest.mark.parametrize("samples", [[(1, 2), (1, 2, 3)], [{"a": 1}, {"b": 1}], [(1, 2), [1, 2]]])
def test_samples_that_differ_are_refused(samples: list[Any]) -> None:
    with pytest.raises(ValueError, match="mismatch"):
        AugmentCollate(identity)(samples)


def test_a_missing_key_is_named() -> None:
    samples = [{"image": 0, "target": {"boxes": 1, "masks": 2}}, {"image": 0, "target": {"boxes": 1}}]
    with pytest.raises(ValueError, match="mismatch") as caught:
        AugmentCollate(identity)(samples)
    assert str(caught.value) == (
        "samples of a batch should be nested alike, but got a mismatch at ['target']: sample 1 has no key 'masks', "
        "which sample 0 has"
    )


class Detections(Dataset[Any]):
    """Squares as objects: in the image, in a mask each, in a box each, and as a point each."""

    def __init__(self, counts: tuple[int, ...] = (2, 1, 0, 3)) -> None:
        self.counts = counts

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        count, size = self.counts[index], (48, 64)
        masks = torch.zeros(count, *size, dtype=torch.uint8)
        corners = torch.tensor([[20 + 8 * n, 16 + 4 * n, 27 + 8 * n, 24 + 4 * n] for n in range(count)]).reshape(-1, 4)
        for mask, (left, top, right, bottom) in zip(masks, corners.tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        image = masks.amax(0, keepdim=True) if count else torch.zeros(1, *size, dtype=torch.uint8)
        return {
            "labels": np.arange(count),
            "image": tv_tensors.Image(image),
            "boxes": tv_tensors.BoundingBoxes(corners.double(), format="XYXY", canvas_size=size),
            "masks": tv_tensors.Mask(masks),
            "points": tv_tensors.KeyPoints(corners[:, :2].double(), canvas_size=size),
            "areas": torch.full((count,), 56.0),
            "classes": [f"square {n}" for n in range(count)],
            "image_id": np.int64(index),
        }


@pytest.mark.parametrize("workers", [0, 2])
def test_detection_samples_collate_and_are_augmented_with_their_boxes(workers: int) -> None:
    names = ("rotate", "translate_x", "flip", "shear_y")
    stage = [{"operation": name, "weight": 1, "probability": 1} for name in names]
    for candidate in stage:
        candidate["magnitude"] = None if candidate["operation"] == "flip" else 0.4
    augment = FasterAutoAugment(Policy([[stage, stage]]), generator=seeded())
    loader = DataLoader(Detections(), 4, num_workers=workers, collate_fn=AugmentCollate(augment))
    (batch,) = loader
    assert isinstance(batch["image"], tv_tensors.Image)
    assert batch["image"].shape == (4, 1, 48, 64)
    assert batch["image_id"].tolist() == [0, 1, 2, 3]
    ragged = ("labels", "boxes", "masks", "points", "areas", "classes")
    assert [type(batch[name]) for name in ragged] == [list] * 6
    for n, count in enumerate(Detections().counts):
        assert [len(batch[name][n]) for name in ragged] == [count] * 6
        assert batch["labels"][n].tolist() == list(range(count))
        found = (batch["masks"][n].amax(0) if count else torch.zeros(48, 64)).as_subclass(Tensor)
        assert torch.equal(found > 0, batch["image"][n, 0].as_subclass(Tensor) > 0)
        for mask, box in zip(batch["masks"][n], batch["boxes"][n].tolist(), strict=True):
            rows, columns = mask.nonzero().T
            seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert max(abs(int(edge) - side) for edge, side in zip(seen, box, strict=True)) <= 1.5
    # With as many objects in each image, all but the boxes are one tensor, and move as well.
    (batch,) = DataLoader(Detections((2, 2)), 2, collate_fn=AugmentCollate(augment))
    assert (batch["masks"].shape, batch["points"].shape, batch["labels"].shape) == ((2, 2, 48, 64), (2, 2, 2), (2, 2))
    assert [len(boxes) for boxes in batch["boxes"]] == [2, 2]


def test_detection_samples_as_pairs_collate() -> None:
    samples = [(sample.pop("image"), sample) for sample in map(Detections().__getitem__, range(4))]
    images, targets = AugmentCollate(FasterAutoAugment(SQUARES), device="cpu")(samples)
    assert images.shape == (4, 1, 48, 64)
    assert [len(boxes) for boxes in targets["boxes"]] == [2, 1, 0, 3]


def test_what_is_ragged_becomes_a_list_of_what_it_was() -> None:
    samples = [{"a": [1, 2], "b": np.ones(2), "c": torch.ones(1)}, {"a": [1], "b": np.ones(3), "c": torch.ones(0)}]
    batch = AugmentCollate(identity)(samples)
    assert batch["a"] == [[1, 2], [1]]
    assert [[type(value) for value in batch[name]] for name in "bc"] == [[Tensor] * 2] * 2
    assert [[len(value) for value in batch[name]] for name in "bc"] == [[2, 3], [1, 0]]


@pytest.mark.parametrize("wrapper", [tv_tensors.Image, tv_tensors.Video, torch.Tensor.clone])
def test_images_that_differ_in_size_are_refused(wrapper: Any) -> None:
    samples = [{"image": wrapper(torch.zeros(2, 3, 4, width)), "label": 1} for width in (5, 6)]
    with pytest.raises(ValueError, match="one shape") as caught:
        AugmentCollate(identity)(samples)
    assert str(caught.value) == (
        "the images of a batch should have one shape, but got (2, 3, 4, 5), (2, 3, 4, 6) instead; resize them or "
        "augment them in the data set"
    )


def test_labels_of_every_kind_collate() -> None:
    kinds = [np.int64, np.int32, np.float32, np.uint8, int, float, bool, torch.tensor, lambda n: np.array([n])]
    for kind in kinds:
        samples = [{"image": tv_tensors.Image(torch.zeros(1, 8, 8)), "label": kind(n)} for n in range(2)]
        batch = AugmentCollate(FasterAutoAugment(SQUARES))(samples)
        assert batch["label"].flatten().tolist() == [0, 1]


# --- a dict of lists --------------------------------------------------------------------------------------------------


class Columns:
    """A data set with the two methods of Hugging Face's that matter here."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self.columns, self.transform = columns, identity

    def set_transform(self, transform: Any) -> None:
        self.transform = transform

    def __getitem__(self, rows: Any) -> dict[str, Any]:
        if isinstance(rows, int):
            return {name: values[0] for name, values in self[rows : rows + 1].items()}
        return self.transform({name: values[rows] for name, values in self.columns.items()})

    def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
        batch = self.transform({name: [values[row] for row in rows] for name, values in self.columns.items()})
        return [{name: values[n] for name, values in batch.items()} for n in range(len(rows))]

    def __len__(self) -> int:
        return len(self.columns["label"])


@pytest.mark.parametrize("wrap", [identity, copy.deepcopy, lambda function: pickle.loads(pickle.dumps(function))])
def test_augment_each_draws_for_each_image(wrap: Any) -> None:
    black = [Image.new("L", (64, 64)) for _ in range(6)]
    dataset = Columns({"image": black, "label": list(range(6))})
    dataset.set_transform(wrap(augment_each(FasterAutoAugment(SQUARES, generator=seeded()))))
    batch = dataset[:6]
    generator = seeded()
    expected = [apply(image, SQUARES.sample(1, generator)).tobytes() for image in black]
    assert [image.tobytes() for image in batch["image"]] == expected
    assert len(set(expected)) == 6
    assert batch["label"] == list(range(6))
    assert dataset[2]["label"] == 2
    # In a pipeline, and through a DataLoader.
    dataset.set_transform(augment_each(v2.Compose([FasterAutoAugment(SQUARES), v2.PILToTensor()])))
    (batch,) = DataLoader(dataset, batch_size=6)
    assert len({bytes(image.numpy()) for image in batch["image"]}) == 6


def test_augment_each_refuses() -> None:
    with pytest.raises(TypeError, match="transform should be callable, but got 3 instead"):
        augment_each(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"should have one length, but got \{'a': 1, 'b': 2\} instead"):
        augment_each(identity)({"a": [1], "b": [1, 2]})
    assert augment_each(identity)({"a": [], "b": []}) == {"a": [], "b": []}


# --- where there is no GPU --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda", "cuda:97", torch.device("cuda", 97)])
def test_a_gpu_that_is_not_there_is_named(device: Any) -> None:
    if torch.cuda.is_available() and device == "cuda":
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    finds = f"finds {count} of them, counted from 0" if count else "finds no CUDA device"
    for name, run in [
        ("DeviceLoader", lambda: iter(DeviceLoader([torch.zeros(1)], device=device))),
        ("AugmentCollate", lambda: AugmentCollate(identity, device=device)([torch.zeros(1)])),
    ]:
        with pytest.raises(RuntimeError, match="should run on cuda") as caught:
            run()
        message = f'{name} should run on {device}, but PyTorch {finds}; without a GPU, pass device="cpu"'
        assert str(caught.value) == message


def test_other_errors_of_the_transfer_are_what_they_were() -> None:
    with pytest.raises(NotImplementedError):
        AugmentCollate(identity, device="cpu", collate=lambda _: torch.empty(2, device="meta"))([1])


def test_collate_moves_then_transforms_the_whole_batch() -> None:
    seen = []
    samples = [Nested()[index] for index in range(3)]
    AugmentCollate(seen.append, device="meta")(samples)
    (batch,) = seen
    check_nested(batch, [0, 1, 2], "meta")


def test_collate_augments_each_image_with_its_own_draw() -> None:
    samples = [Black()[index] for index in range(8)]
    torch.manual_seed(1)
    images, labels = AugmentCollate(FasterAutoAugment(SQUARES), device="cpu")(samples)
    torch.manual_seed(1)
    assert torch.equal(images, apply(torch.zeros(8, 1, 64, 64, dtype=torch.uint8), SQUARES.sample(8)))
    assert isinstance(images, tv_tensors.Image)
    assert len({bytes(image.numpy()) for image in images}) == 8
    assert labels.tolist() == list(range(8))


def test_own_collate_function() -> None:
    collate = AugmentCollate(double, device="cpu", collate=lambda samples: [torch.tensor(samples), "kept"])
    images, text = collate([1, 2])
    assert images.tolist() == [2, 4]
    assert text == "kept"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_collate_in_workers_on_the_cpu(method: str) -> None:
    collate = AugmentCollate(FasterAutoAugment(SQUARES), device="cpu")
    # A spawned worker imports PyTorch, which takes seconds, so one has to do.
    workers = 2 if method == "fork" else 1
    loader = DataLoader(Black(), batch_size=4, num_workers=workers, multiprocessing_context=method, collate_fn=collate)
    torch.manual_seed(0)
    batches = list(loader)
    assert all(isinstance(images, tv_tensors.Image) for images, _ in batches)
    images = [image for images, _ in content(batches) for image in images]
    assert len(set(images)) == 10
    assert [labels for _, labels in content(batches)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


REFUSAL = (
    "AugmentCollate on cuda:1 should be called in the main process (num_workers=0), but got called in DataLoader "
    "worker 7 instead; to augment on cuda:1 with workers, leave collate_fn as it is and use DeviceLoader(loader, "
    "transform, device='cuda:1')"
)


def test_collate_refuses_a_gpu_in_a_worker_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise AssertionError("called")

    monkeypatch.setattr("fasteraa_transforms.pipeline.collate.get_worker_info", lambda: SimpleNamespace(id=7))
    monkeypatch.setattr(torch.cuda, "_lazy_init", fail)
    monkeypatch.setattr(torch.cuda, "is_available", fail)
    with pytest.raises(RuntimeError) as caught:
        AugmentCollate(fail, device="cuda:1", collate=fail)([])
    assert str(caught.value) == REFUSAL
    assert AugmentCollate(identity, device="cpu")([1]).tolist() == [1]
    assert AugmentCollate(identity)([1]).tolist() == [1]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_collate_refuses_a_gpu_in_real_workers(method: str) -> None:
    collate = AugmentCollate(identity, device="cuda:1")
    loader = DataLoader(Black(), num_workers=1, multiprocessing_context=method, collate_fn=collate)
    with pytest.raises(RuntimeError, match=re.escape(REFUSAL.replace("worker 7", "worker 0"))):
        next(iter(loader))


def test_refused_arguments() -> None:
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: AugmentCollate("flip"), TypeError, "transform should be callable, but got 'flip' instead"),  # type: ignore[arg-type]
        (lambda: AugmentCollate(identity, collate=3), TypeError, "collate should be callable, but got 3 instead"),  # type: ignore[arg-type]
        (lambda: DeviceLoader([], "flip"), TypeError, "transform should be callable, but got 'flip' instead"),  # type: ignore[arg-type]
        (
            lambda: DeviceLoader(3),  # type: ignore[arg-type]
            TypeError,
            "loader should be a DataLoader or another iterable of batches, but got 3 instead",
        ),
    ]
    for ahead in (-1, 1.0, None):
        message = f"ahead should be a whole number of batches, 0 or more, but got {ahead!r} instead"
        cases.append((lambda ahead=ahead: DeviceLoader([], ahead=ahead), ValueError, message))
    for call, error, message in cases:
        with pytest.raises(error) as caught:
            call()
        assert str(caught.value) == message


# --- DeviceLoader: what comes out -------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_moves_everything_and_keeps_types(device: str) -> None:
    loader = DataLoader(Nested(), batch_size=4, collate_fn=AugmentCollate(identity))
    first, second = DeviceLoader(loader, device=device)
    check_nested(first, [0, 1, 2, 3], device)
    check_nested(second, [4, 5], device)


def test_leaves_other_objects_alone() -> None:
    thing = object()
    ((moved, same, text, none),) = DeviceLoader([(torch.ones(1), thing, "text", None)], device="meta")
    assert moved.device.type == "meta"
    assert (same, text, none) == (thing, "text", None)


@pytest.mark.parametrize("ahead", [0, 1, 2, 50])
def test_batches_are_those_of_a_plain_loop(ahead: int) -> None:
    loader = DataLoader(Black(10), batch_size=4, shuffle=True, generator=seeded(7))
    transform = FasterAutoAugment(SQUARES, generator=seeded())
    plain = content((transform(images), labels) for images, labels in loader)

    loader = DataLoader(Black(10), batch_size=4, shuffle=True, generator=seeded(7))
    wrapped = DeviceLoader(loader, FasterAutoAugment(SQUARES, generator=seeded()), "cpu", ahead)
    assert content(wrapped) == plain
    assert [len(labels) for _, labels in plain] == [4, 4, 2]


@pytest.mark.parametrize(("method", "persistent"), [("fork", False), ("fork", True), ("spawn", True)])
def test_workers(method: str, persistent: bool) -> None:
    loader = DataLoader(
        Nested(),
        batch_size=4,
        num_workers=2 if method == "fork" else 1,  # a spawned worker imports PyTorch, which takes seconds
        multiprocessing_context=method,
        persistent_workers=persistent,
        collate_fn=AugmentCollate(identity),
    )
    wrapped = DeviceLoader(loader, device="cpu", ahead=2)
    for _ in range(2):
        first, second = wrapped
        check_nested(first, [0, 1, 2, 3])
        check_nested(second, [4, 5])


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_runs_ahead_so_far_and_no_further(ahead: int) -> None:
    taken = []

    def source() -> Iterator[Tensor]:
        for index in range(6):
            taken.append(index)
            yield torch.tensor(index)

    for index, batch in enumerate(DeviceLoader(source(), device="cpu", ahead=ahead)):
        assert batch == index
        assert len(taken) == min(index + 1 + ahead, 6)
    assert len(taken) == 6


def test_without_batches() -> None:
    assert list(DeviceLoader([], device="cpu")) == []
    batches = iter(DeviceLoader([], device="cpu"))
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(batches)


# --- DeviceLoader: random numbers -------------------------------------------------------------------------------------


def train(ahead: int, *, workers: int = 0, draws: int = 5, stop: int = 99) -> tuple[Any, Any]:
    """Two epochs with a step that draws too; the batches, and what the step drew."""
    torch.manual_seed(4)
    loader = DataLoader(Black(10), batch_size=3, shuffle=True, num_workers=workers)
    loader = DeviceLoader(loader, FasterAutoAugment(SQUARES), "cpu", ahead)
    batches, drawn = [], []
    for _ in range(2):
        for index, batch in enumerate(loader):
            batches += content([batch])
            drawn.append(torch.rand(draws).tolist())
            if index == stop:
                break
    return batches, [*drawn, torch.rand(3).tolist()]


@pytest.mark.parametrize("workers", [0, 2])
def test_running_ahead_changes_neither_batches_nor_draws_of_the_step(workers: int) -> None:
    batches, drawn = train(0, workers=workers)
    assert len({bytes(image) for images, _ in batches for image in images}) == 20
    assert sorted(number for _, labels in batches[:4] for number in labels) == list(range(10))
    assert [labels for _, labels in batches[:4]] != [labels for _, labels in batches[4:]]
    for ahead in (1, 3):
        assert train(ahead, workers=workers) == (batches, drawn)
        assert train(ahead, workers=workers, draws=1)[0][:4] == batches[:4]


@pytest.mark.parametrize("ahead", [1, 3])
def test_leaving_early_changes_neither(ahead: int) -> None:
    assert train(ahead, stop=1) == train(0, stop=1)


def test_takes_one_number_from_the_default_generator() -> None:
    loader = DeviceLoader(DataLoader(Black(), shuffle=True), FasterAutoAugment(SQUARES), "cpu")
    state = torch.get_rng_state()
    assert len(list(loader)) == 10
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    torch.randint(2**63 - 1, ())
    assert torch.equal(torch.get_rng_state(), after)


def test_an_error_leaves_the_default_generator_alone() -> None:
    def fail(batch: Any) -> Any:
        torch.rand(3)
        raise ValueError

    batches = iter(DeviceLoader([1], fail, "cpu"))
    state = torch.get_rng_state()
    with pytest.raises(ValueError):  # noqa: PT011
        next(batches)
    assert torch.equal(torch.get_rng_state(), state)


def test_two_passes_at_once_do_not_disturb_each_other() -> None:
    loader = DeviceLoader(DataLoader(Black(), shuffle=True), FasterAutoAugment(SQUARES), "cpu")
    torch.manual_seed(1)
    first, second = content(loader), content(loader)
    torch.manual_seed(1)
    together = list(zip(loader, loader, strict=True))
    assert content(one for one, _ in together) == first
    assert content(other for _, other in together) == second
    assert first != second


# --- DeviceLoader: errors and leaving early ---------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [0, 1, 5])
@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_the_loader_come_in_their_place(ahead: int, workers: int) -> None:
    loader = DataLoader(Black(10, errors=(5,)), batch_size=2, num_workers=workers)
    batches = iter(DeviceLoader(loader, device="cpu", ahead=ahead))
    assert [next(batches)[1].tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="no image 5"):
        next(batches)
    # And goes on as a DataLoader does.
    assert [labels.tolist() for _, labels in batches] == [[6, 7], [8, 9]]


@pytest.mark.parametrize("ahead", [0, 2])
def test_errors_of_the_transform_come_in_their_place(ahead: int) -> None:
    def transform(batch: Tensor) -> Tensor:
        if batch == 2:
            raise KeyError("two")
        return batch

    batches = iter(DeviceLoader([torch.tensor(index) for index in range(4)], transform, "cpu", ahead))
    assert [int(next(batches)) for _ in range(2)] == [0, 1]
    with pytest.raises(KeyError, match="two"):
        next(batches)
    assert [int(batch) for batch in batches] == [3]


def test_an_interrupt_comes_at_once() -> None:
    def source() -> Iterator[Tensor]:
        yield torch.tensor(0)
        raise KeyboardInterrupt

    batches = iter(DeviceLoader(source(), device="cpu"))
    with pytest.raises(KeyboardInterrupt):
        next(batches)


def test_an_error_of_iter_comes_from_iter() -> None:
    class Unready(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            raise OSError("not mounted")

    with pytest.raises(OSError, match="not mounted"):
        iter(DeviceLoader(Unready(), device="cpu"))


@pytest.mark.parametrize("end", ["break", "error", "exhausted"])
def test_nothing_is_left_behind(end: str) -> None:
    closed, prepared = [], []

    def source() -> Iterator[Tensor]:
        try:
            for index in range(4):
                if end == "error" and index == 2:
                    raise ValueError
                yield torch.tensor(index)
        finally:
            closed.append(True)

    def transform(batch: Tensor) -> Tensor:
        prepared.append(weakref.ref(batch))
        return batch

    gc.collect()
    gc.disable()  # by counting references alone, at once
    try:
        loader = DeviceLoader(source(), transform, "cpu", ahead=2)
        try:
            for batch in loader:
                if end == "break" and batch == 0:
                    break
        except ValueError:
            pass
        del batch
        assert len(prepared) == {"break": 3, "error": 2, "exhausted": 4}[end]
        assert [each() for each in prepared] == [None] * len(prepared)
        del loader
        assert closed == [True]
    finally:
        gc.enable()


def test_leaving_early_ends_the_workers() -> None:
    loader = DeviceLoader(DataLoader(Black(40), num_workers=2, multiprocessing_context="fork"), device="cpu")
    for _ in range(2):
        batches = iter(loader)
        next(batches)
        workers = batches._batches._workers  # type: ignore[attr-defined]
        assert all(worker.is_alive() for worker in workers)
        del batches
        assert not any(worker.is_alive() for worker in workers)


# --- DeviceLoader: the loader behind it -------------------------------------------------------------------------------


def test_attributes_are_those_of_the_loader() -> None:
    dataset = Black(10)
    sampler = DistributedSampler(dataset, num_replicas=2, rank=0)
    loader = DeviceLoader(DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=0), device="cpu")
    assert len(loader) == 3
    assert (loader.dataset, loader.sampler, loader.batch_size, loader.num_workers) == (dataset, sampler, 2, 0)
    orders = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        orders.append([number for _, labels in loader for number in labels.tolist()])
    assert orders[0] == orders[2] != orders[1]
    with pytest.raises(AttributeError, match="'DataLoader' object has no attribute 'nothing'"):
        _ = loader.nothing


def test_length_is_that_of_the_loader() -> None:
    loader = DeviceLoader((torch.tensor(index) for index in range(3)), device="cpu")
    with pytest.raises(TypeError, match="no len"):
        len(loader)
    assert [int(batch) for batch in loader] == [0, 1, 2]


def test_copies() -> None:
    loader = DeviceLoader(DataLoader(Black(4), batch_size=2), FasterAutoAugment(SQUARES), "cpu", 2)
    for twin in (copy.copy(loader), copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        assert (len(twin), twin.device, twin.ahead) == (2, torch.device("cpu"), 2)
        torch.manual_seed(0)
        expected = content(loader)
        torch.manual_seed(0)
        assert content(twin) == expected


# --- streams, on a GPU that only keeps account ------------------------------------------------------------------------


class FakeGPU:
    """What each stream, and the host, knows to be done: all that was ordered before it. Work itself is only a name."""

    def __init__(self) -> None:
        self.host: set[str] = set()
        self.streams: list[FakeStream] = []
        self.caller = FakeStream(self)
        self.streams.clear()
        self.current = self.caller

    @contextmanager
    def stream(self, stream: "FakeStream") -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before


class FakeEvent:
    gpu: FakeGPU

    def __init__(self, blocking: bool = False) -> None:
        self.done: set[str] = set()

    def record(self, stream: "FakeStream") -> None:
        self.done = set(stream.done)

    def synchronize(self) -> None:
        self.gpu.host |= self.done


class FakeStream:
    def __init__(self, gpu: FakeGPU) -> None:
        self.device = torch.device("cuda:0")
        self.done: set[str] = set()
        gpu.streams.append(self)

    def wait_stream(self, other: "FakeStream") -> None:
        self.done |= other.done

    def wait_event(self, event: FakeEvent) -> None:
        self.done |= event.done

    def record_event(self) -> FakeEvent:
        event = FakeEvent()
        event.record(self)
        return event


class FakeCUDATensor(Tensor):
    """A tensor that tells the fake GPU what is done with it; `pinned` and `is_cuda` say where it is."""

    gpu: FakeGPU
    name = ""
    pinned = is_cuda = False  # type: ignore[assignment]

    def pin_memory(self) -> "FakeCUDATensor":  # type: ignore[override]
        self.pinned = True
        return self

    def to(self, device: torch.device, non_blocking: bool) -> "FakeCUDATensor":  # type: ignore[override]
        assert device == torch.device("cuda:0")
        assert self.pinned
        assert non_blocking
        self.is_cuda, self.recorded = True, []  # type: ignore[misc]
        self.gpu.current.done.add(f"copy {self.name}")
        self.copied_on = self.gpu.current
        return self

    def record_stream(self, stream: FakeStream) -> None:  # type: ignore[override]
        self.recorded.append(stream)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGPU:
    gpu = FakeGPU()
    monkeypatch.setattr(FakeEvent, "gpu", gpu, raising=False)
    monkeypatch.setattr(FakeCUDATensor, "gpu", gpu, raising=False)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream(gpu))
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "stream", gpu.stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: gpu.current)
    monkeypatch.setattr(torch.cuda, "default_generators", (torch.Generator(),))
    return gpu


def fake_batch(index: int) -> dict[str, Any]:
    images, labels = (torch.zeros(1).as_subclass(FakeCUDATensor) for _ in range(2))
    images.name, labels.name = f"images {index}", f"labels {index}"
    return {"index": index, "nested": [images, labels]}


@pytest.mark.parametrize("ahead", [0, 1, 2, 4])
def test_streams(gpu: FakeGPU, ahead: int) -> None:
    loaded: list[int] = []
    in_memory: list[int] = []  # at each copy, batches that were copied and whose step the host has not seen end

    def source() -> Iterator[Any]:
        for index in range(12):
            assert gpu.current is not gpu.caller  # what a loader does on the GPU is not behind the training step
            loaded.append(index)
            in_memory.append(sum(f"step {each}" not in gpu.host for each in loaded))
            yield fake_batch(index)

    def transform(batch: Any) -> Any:
        assert gpu.current is not gpu.caller
        gpu.current.done.add(f"transform {batch['index']}")
        return batch

    gpu.caller.done.add("parameters of the transform")
    other = FakeStream(gpu)
    gpu.streams.clear()
    loader = DeviceLoader(source(), transform, "cuda", ahead)
    batches = iter(loader)
    for index in range(12):
        if index == 5:  # whichever stream is current takes it
            other.wait_stream(gpu.caller)
            gpu.current = other
        batch = next(batches)
        assert batch["index"] == index
        assert {f"copy images {index}", f"copy labels {index}", f"transform {index}"} <= gpu.current.done
        (side,) = gpu.streams
        assert "parameters of the transform" in side.done
        assert not any(name.startswith("step") for name in side.done)  # it never waits for the training
        assert [tensor.recorded for tensor in batch["nested"]] == [[gpu.current]] * 2
        assert [tensor.copied_on for tensor in batch["nested"]] == [side] * 2
        # The host is behind the GPU by no more than it has to be: the step before is still running.
        assert f"step {index - 1}" not in gpu.host
        gpu.current.done.add(f"step {index}")
        if index == 5:
            gpu.caller.wait_stream(other)
            gpu.current = gpu.caller
    with pytest.raises(StopIteration):
        next(batches)
    assert max(in_memory) == (2 * ahead + 1 if ahead else 2)


def test_all_passes_use_one_stream(gpu: FakeGPU) -> None:
    loader = DeviceLoader([fake_batch(index) for index in range(3)])
    assert gpu.streams == []  # constructing it touches no GPU
    for _ in range(3):
        assert [batch["index"] for batch in loader] == [0, 1, 2]
    assert len(gpu.streams) == 1


def test_the_gpu_generator_is_kept_apart_as_well(gpu: FakeGPU) -> None:
    (generator,) = torch.cuda.default_generators

    def run(ahead: int) -> tuple[list[float], list[float]]:
        torch.manual_seed(0)
        generator.manual_seed(0)
        loader = DeviceLoader(range(6), lambda _: float(torch.rand((), generator=generator)), "cuda", ahead)
        batches, drawn = [], []
        for batch in loader:
            batches.append(batch)
            drawn.append(float(torch.rand((), generator=generator)))
        return batches, drawn

    batches, drawn = run(0)
    assert len({*batches, *drawn}) == 12
    assert run(1) == run(3) == (batches, drawn)
    generator.manual_seed(0)
    assert drawn == [float(torch.rand((), generator=generator)) for _ in range(6)]


def test_collate_copies_from_pinned_memory_on_the_current_stream(gpu: FakeGPU) -> None:
    collate = AugmentCollate(identity, device="cuda:0", collate=lambda samples: fake_batch(samples[0]))
    for tensor in collate([3])["nested"]:
        assert tensor.is_cuda
        assert tensor.copied_on is gpu.caller


def test_pinning_keeps_tv_tensors(gpu: FakeGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tensor.pin_memory makes plain tensors of them, here as well.
    boxes = tv_tensors.BoundingBoxes([[0, 0, 1, 2]], format="XYXY", canvas_size=(4, 5))
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "pin_memory", lambda tensor: tensor.as_subclass(Tensor).clone())
        patch.setattr(Tensor, "to", lambda tensor, device, non_blocking: tensor.clone())
        ((image, moved, label),) = DeviceLoader([(tv_tensors.Image(torch.ones(3, 4, 5)), boxes, torch.ones(1))])
    assert [type(tensor) for tensor in (image, moved, label)] == [tv_tensors.Image, tv_tensors.BoundingBoxes, Tensor]
    assert (moved.format, moved.canvas_size) == (boxes.format, boxes.canvas_size)


# --- a GPU ------------------------------------------------------------------------------------------------------------


@NEEDS_GPU
def test_batches_on_the_gpu_are_those_of_the_cpu() -> None:
    def run(device: str, workers: int) -> list[Any]:
        torch.manual_seed(2)
        loader = DataLoader(Black(10), 4, shuffle=True, num_workers=workers, collate_fn=AugmentCollate(identity))
        batches = list(DeviceLoader(loader, FasterAutoAugment(SQUARES), device))
        for images, labels in batches:
            assert isinstance(images, tv_tensors.Image)
            assert images.device.type == labels.device.type == device
        return content(batches)

    for workers in (0, 2):
        assert run("cuda", workers) == run("cpu", workers)


@NEEDS_GPU
def test_collate_on_the_gpu() -> None:
    collate = AugmentCollate(FasterAutoAugment(SQUARES, generator=seeded()), device="cuda")
    for images, labels in DataLoader(Black(10), batch_size=5, collate_fn=collate):
        assert images.is_cuda
        assert labels.is_cuda
        assert isinstance(images, tv_tensors.Image)


@NEEDS_GPU
@pytest.mark.parametrize("slow", ["transform", "step"])
def test_streams_on_the_gpu(slow: str) -> None:
    def transform(images: Tensor) -> Tensor:
        if slow == "transform":
            torch.cuda._sleep(20_000_000)
        return images + 1

    size, before = 2**20, torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    sums = []
    for images in DeviceLoader((torch.full((size,), float(index)) for index in range(20)), transform, "cuda"):
        if slow == "step":
            torch.cuda._sleep(20_000_000)
        sums.append((images / size).sum())
    assert torch.stack(sums).tolist() == [float(index + 1) for index in range(20)]
    # Three batches, the copy that the transform started from, the quotient of the step and what waits to be reused.
    assert torch.cuda.max_memory_allocated() - before < 10 * 4 * size


@NEEDS_GPU
def test_draws_on_the_gpu_are_kept_apart() -> None:
    def run(ahead: int) -> tuple[list[float], list[float]]:
        torch.manual_seed(0)
        drawn, batches = [], []
        for batch in DeviceLoader([torch.zeros(1)] * 5, lambda batch: batch + torch.rand_like(batch), "cuda", ahead):
            batches.append(float(batch))
            drawn.append(float(torch.rand((), device="cuda")))
        return batches, drawn

    batches, drawn = run(0)
    assert len({*batches, *drawn}) == 10
    assert run(1) == run(3) == (batches, drawn)
