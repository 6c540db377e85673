"""The images of a search: what is read, how the subset is drawn, and the baseline crop and flip."""

import io
import re
import sys
import tarfile
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, Subset
from torchvision import tv_tensors

from fasteraa_transforms.search import Digits, Shards, load_images, open_dataset
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.data.samples import Encoded
from fasteraa_transforms.search.data.subset import known_labels
from fasteraa_transforms.search.data.table import DATASETS, OWN


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(seed))


class Samples:
    """A map-style dataset of what it is given, that counts how often it is asked."""

    def __init__(self, *samples: Any) -> None:
        self.samples = samples
        self.asked: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        self.asked[index] += 1
        return self.samples[index]


def in_order(loaded: ImageSet, originals: Tensor) -> Tensor:
    """The images in the order of ``originals``, with which they have to agree as sets."""
    order = [next(i for i, image in enumerate(loaded.images) if torch.equal(image, original)) for original in originals]
    assert sorted(order) == list(range(len(loaded.images)))
    return loaded.images[order]


# --- load_images ------------------------------------------------------------------------------------------------------

RGB = pixels(4, 3, 5, 6)
GREY = pixels(4, 1, 5, 6, seed=1)


def as_pil(image: Tensor) -> Image.Image:
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


KINDS: dict[str, Any] = {
    "PIL": as_pil,
    "array": lambda image: image.permute(1, 2, 0).numpy(),
    "float64 array": lambda image: image.permute(1, 2, 0).numpy() / 255,
    "tensor": lambda image: image,
    "tv_tensor": tv_tensors.Image,
    "float32": lambda image: image.float() / 255,
    "float64": lambda image: image.double() / 255,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("images", [RGB, GREY], ids=["RGB", "grey"])
def test_images_of_every_kind_keep_their_bytes(kind: str, images: Tensor) -> None:
    dataset = Samples(*((KINDS[kind](image), i % 2) for i, image in enumerate(images)))
    loaded = load_images(dataset)
    assert loaded.images.dtype == torch.uint8
    assert type(loaded.images) is Tensor
    assert loaded.labels.dtype == torch.int64
    torch.testing.assert_close(in_order(loaded, images), images, rtol=0, atol=0)


def test_every_level_of_a_float_image_is_kept() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    expected = torch.stack([levels, 255 - levels])
    loaded = load_images(Samples(*((image.float() / 255, i) for i, image in enumerate(expected))))
    torch.testing.assert_close(in_order(loaded, expected), expected, rtol=0, atol=0)


def test_grey_arrays_may_leave_out_the_channels() -> None:
    loaded = load_images(Samples(*((image[0].numpy(), i % 2) for i, image in enumerate(GREY))))
    torch.testing.assert_close(in_order(loaded, GREY), GREY, rtol=0, atol=0)


def test_arrays_may_be_views_and_read_only() -> None:
    array = RGB[0].permute(1, 2, 0).numpy().copy()
    array.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_images(Samples((array, 0), (array[:, ::-1], 1)))
    expected = torch.stack([RGB[0], RGB[0].flip(2)])
    torch.testing.assert_close(in_order(loaded, expected), expected, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "1"])
def test_pil_images_of_other_modes_become_rgb(mode: str) -> None:
    images = [as_pil(image).convert(mode) for image in RGB[:2]]
    loaded = load_images(Samples((images[0], 0), (images[1], 1)))
    expected = torch.stack([torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) for image in images])
    torch.testing.assert_close(in_order(loaded, expected), expected, rtol=0, atol=0)


def test_grey_pil_images_with_transparency_become_grey() -> None:
    images = [as_pil(image).convert("LA") for image in GREY[:2]]
    loaded = load_images(Samples((images[0], 0), (images[1], 1)))
    torch.testing.assert_close(in_order(loaded, GREY[:2]), GREY[:2], rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["PIL", "array", "tensor"])
def test_images_of_16_bits_are_scaled(kind: str) -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    images = [levels * 257, (255 - levels) * 257]
    make: Any = {"PIL": Image.fromarray, "array": np.asarray, "tensor": lambda array: torch.from_numpy(array)[None]}
    loaded = load_images(Samples(*((make[kind](image), i) for i, image in enumerate(images))))
    expected = torch.stack([torch.from_numpy((image // 257).astype(np.uint8))[None] for image in images])
    torch.testing.assert_close(in_order(loaded, expected), expected, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pil_images_of_unknown_range_are_refused(mode: str) -> None:
    dataset = Samples((as_pil(GREY[0]).convert(mode), 0), (as_pil(GREY[1]), 1))
    message = rf"^sample 0 should be of 8 or 16 bits a channel, but got a PIL image of mode {mode}$"
    with pytest.raises(ValueError, match=message):
        load_images(dataset)


def test_an_image_without_pixels_is_refused() -> None:
    message = r"^sample 1 should hold pixels, but got an image of shape \[3, 0, 6\] instead$"
    with pytest.raises(ValueError, match=message):
        load_images(Samples((RGB[0], 0), (RGB[1, :, :0], 1)))


def test_grey_images_among_colour_ones_become_rgb() -> None:
    loaded = load_images(Samples((as_pil(GREY[0]), 0), (as_pil(RGB[0]), 1), (GREY[1], 0)))
    expected = torch.stack([GREY[0].expand(3, -1, -1), RGB[0], GREY[1].expand(3, -1, -1)])
    torch.testing.assert_close(in_order(loaded, expected), expected, rtol=0, atol=0)


def test_the_images_are_copies() -> None:
    images = RGB[:2].clone()
    loaded = load_images(Samples((images[0], 0), (images[1].permute(1, 2, 0).numpy(), 1)))
    loaded.images.zero_()
    torch.testing.assert_close(images, RGB[:2], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (torch.zeros(3, 5, 6, dtype=torch.int32), r"torch.int32 \[3, 5, 6\]"),
        (torch.zeros(5, 6, dtype=torch.uint8), r"torch.uint8 \[5, 6\]"),
        (torch.zeros(2, 3, 5, 6), r"torch.float32 \[2, 3, 5, 6\]"),
        (np.zeros((5, 6, 3), np.int64), r"torch.int64 \[3, 5, 6\]"),
        (np.zeros((2, 5, 6, 3), np.uint8), r"torch.uint8 \[2, 5, 6, 3\]"),
        ("image.png", "str"),
        (None, "NoneType"),
    ],
    ids=str,
)
def test_refuses_samples_of_another_kind(image: Any, found: str) -> None:
    expected = (
        rf"^sample 1 should hold a PIL image, an array \[H, W, C\], or a uint8, uint16 or float .* but holds {found}$"
    )
    with pytest.raises(ValueError, match=expected):
        load_images(Samples((RGB[0], 0), (image, 1)))


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (torch.linspace(-1, 0.5, 90).view(3, 5, 6), r"\[-1, 0.5\]"),
        (RGB[0].float(), r"\[\d, 25\d\]"),
        (RGB[0].permute(1, 2, 0).numpy().astype(np.float32), r"\[\d, 25\d\]"),
        (torch.full((3, 5, 6), torch.nan), r"\[nan, nan\]"),
    ],
    ids=["normalised", "in 0..255", "array in 0..255", "nan"],
)
def test_refuses_float_images_outside_of_0_to_1(image: Any, found: str) -> None:
    # As uint8 they would wrap around, and nobody would notice.
    with pytest.raises(
        ValueError, match=rf"^the float image of sample 0 should .* in \[0, 1\], but they lie in {found}"
    ):
        load_images(Samples((image, 0), (RGB[0], 1)))


def test_refuses_several_shapes_without_a_size() -> None:
    dataset = Samples((pixels(3, 5, 6), 0), (pixels(3, 6, 5), 1))
    message = r"^images should have one size, but got sample (0|1) of (5×6|6×5) and .* pixels; give an image size$"
    with pytest.raises(ValueError, match=message) as caught:
        load_images(dataset)
    assert "sample 0 of 5×6" in str(caught.value)
    assert "sample 1 of 6×5" in str(caught.value)


def test_images_of_several_sizes_are_refused_before_all_are_in_memory() -> None:
    dataset = Samples(*((pixels(3, 4 + i, 4), i % 2) for i in range(50)))
    with pytest.raises(ValueError, match="one size"):
        load_images(dataset)
    assert sum(dataset.asked.values()) == 2


def test_images_of_several_numbers_of_channels_are_refused() -> None:
    dataset = Samples((pixels(2, 4, 4), 0), (pixels(2, 4, 4), 1), (pixels(4, 4, 4), 1))
    message = r"^images should have the same number of channels, but got 2 of 2, 1 of 4 instead$"
    with pytest.raises(ValueError, match=message):
        load_images(dataset)


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (6, 10), (5, 6)])
def test_images_of_several_sizes_are_resized_and_cropped_at_the_centre(size: tuple[int, int]) -> None:
    shapes = [(5, 6), (6, 5), (20, 7), (3, 30), size]
    dataset = Samples(*((pixels(3, *shape), i % 2) for i, shape in enumerate(shapes)))
    loaded = load_images(dataset, size=size)
    assert loaded.images.shape == (5, 3, *size)
    same = pixels(3, *size)
    assert any(torch.equal(image, same) for image in loaded.images)  # one that fits is not resampled


def test_resizing_keeps_proportions_and_centre() -> None:
    # A disc in the middle of a wide image stays a disc in the middle.
    y, x = torch.meshgrid(torch.arange(40) - 19.5, torch.arange(100) - 49.5, indexing="ij")
    disc = (255 * (x.square() + y.square() < 15**2)).to(torch.uint8)[None]
    loaded = load_images(Samples((disc, 0), (disc, 1)), size=(20, 20))
    small = loaded.images[0, 0].float() / 255
    assert small.sum().item() == pytest.approx(3.1416 * 7.5**2, rel=0.02)
    torch.testing.assert_close(small, small.flip(0), rtol=0, atol=0.01)
    torch.testing.assert_close(small, small.flip(1), rtol=0, atol=0.01)
    torch.testing.assert_close(small, small.T, rtol=0, atol=0.05)


def test_labels_become_contiguous_and_stay_with_their_images() -> None:
    labels = [7, 3, 100, 3, 7, -2]
    images = pixels(6, 1, 4, 4)
    loaded = load_images(Samples(*zip(images, labels, strict=True)))
    assert loaded.classes == 4
    expected = {3: 1, 7: 2, 100: 3, -2: 0}
    for image, label in zip(loaded.images, loaded.labels.tolist(), strict=True):
        index = next(i for i in range(6) if torch.equal(images[i], image))
        assert label == expected[labels[index]]


def test_labels_may_be_tensors_and_samples_may_hold_more() -> None:
    loaded = load_images(Samples((GREY[0], torch.tensor(4), "left"), (GREY[1], np.int64(9), "right")))
    assert sorted(loaded.labels.tolist()) == [0, 1]


@pytest.mark.parametrize(
    ("labels", "found"), [([5, 5, 5], "3 images of 1"), ([1], "1 images of 1"), ([], "0 images of 0")]
)
def test_refuses_less_than_two_classes(labels: list[int], found: str) -> None:
    dataset = Samples(*((GREY[0], label) for label in labels))
    with pytest.raises(ValueError, match=rf"^images of at least 2 classes are needed, but got {found}$"):
        load_images(dataset)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ((GREY[1], "cat"), "the label of sample 1 should be a whole number, but got 'cat' instead"),
        ((GREY[1], 1.5), "the label of sample 1 should be a whole number, but got 1.5 instead"),
        ((GREY[1], torch.zeros(5)), "the label of sample 1 should be a whole number, but got tensor"),
        ((GREY[1], torch.zeros(5, 6)), "the mask of sample 1 should hold whole numbers, but got float32 instead"),
        (
            {"picture": GREY[1], "label": 1},
            "sample 1 should have an image under one of image, img, pixel_values, but has",
        ),
        (
            {"image": GREY[1], "labels": 1, "mask": 2},
            "sample 1 should have a label or a mask under one of label, labels",
        ),
        ((GREY[1],), "sample 1 should be (image, label), but got tuple instead"),
        (GREY[1], "sample 1 should be (image, label), but got Tensor instead"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
@pytest.mark.parametrize("once", [False, True], ids=["map-style", "iterable"])
def test_refuses_samples_without_a_label(sample: Any, message: str, once: bool) -> None:
    samples = [(GREY[0], 0), sample]
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        load_images(iter(samples) if once else Samples(*samples))


def test_an_error_of_the_dataset_says_at_which_sample() -> None:
    class Broken(Samples):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index) if index != 2 else {}["left"]

    with pytest.raises(KeyError) as caught:
        load_images(Broken(*((image, i % 2) for i, image in enumerate(RGB))))
    assert caught.value.__notes__ == ["while reading sample 2"]


def png(image: Tensor) -> bytes:
    file = io.BytesIO()
    as_pil(image).save(file, "PNG")
    return file.getvalue()


def write_folder(folder: Path, names: list[str], images: Tensor) -> list[Path]:
    """A folder with one folder of images a class; the files."""
    paths = [folder / name / f"{i}.png" for i, name in enumerate(names)]
    for path, image in zip(paths, images, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    return paths


def test_files_that_cannot_be_read_are_all_named(tmp_path: Path) -> None:
    paths = write_folder(tmp_path, ["cat", "dog"] * 4, pixels(8, 3, 20, 20))
    paths[1].write_bytes(b"no image")
    paths[4].write_bytes(paths[4].read_bytes()[:200])
    paths[6].write_bytes(b"")
    with pytest.raises(ValueError, match=r"^3 of 8 images cannot be read; repair or remove them:\n") as caught:
        load_images(open_dataset(str(tmp_path)))
    named = {line.split(" (")[0].strip() for line in str(caught.value).splitlines()[1:]}
    assert named == {str(paths[i]) for i in (1, 4, 6)}


def test_of_many_unreadable_files_some_are_named(tmp_path: Path) -> None:
    paths = write_folder(tmp_path, ["cat", "dog"] * 8, pixels(16, 3, 4, 4))
    for path in paths[:14]:
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"^14 of 16 images cannot be read") as caught:
        load_images(open_dataset(str(tmp_path)))
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 10 + 1
    assert lines[-1].strip() == "…"


def test_an_unreadable_file_that_is_not_drawn_is_no_obstacle(tmp_path: Path) -> None:
    paths = write_folder(tmp_path, ["cat", "dog"] * 10, pixels(20, 3, 4, 4))
    paths[0].write_bytes(b"no image")
    seeds = [seed for seed in range(20) if 0 not in torch.randperm(20, generator=seeded(seed))[:8]]
    assert seeds
    assert len(load_images(open_dataset(str(tmp_path)), num_images=8, seed=seeds[0]).images) == 8


# --- subsets of as many images of each class --------------------------------------------------------------------------


class Once:
    """An iterable dataset, that counts its passes."""

    def __init__(self, *samples: Any) -> None:
        self.samples = samples
        self.passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return iter(self.samples)


UNEVEN = [0] * 100 + [1] * 30 + [2] * 5


@pytest.mark.parametrize("kind", [Samples, Once])
@pytest.mark.parametrize(
    ("num_images", "expected"),
    [(12, [4, 4, 4]), (14, [5, 5, 4]), (15, [5, 5, 5]), (25, [10, 10, 5]), (80, [45, 30, 5]), (1000, [100, 30, 5])],
)
def test_a_balanced_subset(kind: Any, num_images: int, expected: list[int]) -> None:
    dataset = kind(*((image, label) for image, label in zip(pixels(135, 1, 2, 2), UNEVEN, strict=True)))
    found = load_images(dataset, num_images=num_images, balanced=True).labels.bincount().tolist()
    assert sorted(found, reverse=True) == expected
    assert sum(found) == min(num_images, 135)


@pytest.mark.parametrize("kind", [Samples, Once])
def test_each_image_of_a_class_is_as_likely_in_a_balanced_subset(kind: Any) -> None:
    images = torch.arange(135, dtype=torch.uint8).view(135, 1, 1, 1)
    dataset = kind(*zip(images, UNEVEN, strict=True))
    drawn = Counter(
        number
        for seed in range(400)
        for number in load_images(dataset, num_images=30, balanced=True, seed=seed).images.flatten().tolist()
    )
    counts = torch.tensor([drawn[i] for i in range(135)], dtype=torch.float)
    assert counts[130:].tolist() == [400] * 5
    for part, chance in ((counts[:100], 0.125), (counts[100:130], 12.5 / 30)):
        deviation = (400 * chance * (1 - chance)) ** 0.5
        assert (part - 400 * chance).abs().max() < 4.5 * deviation
        assert part.std() == pytest.approx(deviation, rel=0.35)


def test_a_balanced_subset_loads_no_other_images_where_labels_are_told() -> None:
    dataset = Samples(*((image, label) for image, label in zip(pixels(135, 1, 2, 2), UNEVEN, strict=True)))
    dataset.targets = UNEVEN  # type: ignore[attr-defined]
    load_images(dataset, num_images=12, balanced=True)
    assert sum(dataset.asked.values()) == 12


def test_a_balanced_subset_needs_a_size() -> None:
    message = "^num_images should be given for a balanced subset, but got None instead$"
    with pytest.raises(ValueError, match=message):
        load_images(Digits(), balanced=True)


# --- datasets that can only be iterated -------------------------------------------------------------------------------


def test_an_iterable_dataset_is_gone_through_once() -> None:
    images = torch.arange(200, dtype=torch.uint8).view(200, 1, 1, 1)
    dataset = Once(*((image, i % 2) for i, image in enumerate(images)))

    def draw(seed: int, num_images: int | None = 50) -> list[int]:
        return load_images(dataset, num_images=num_images, seed=seed).images.flatten().tolist()

    first = draw(0)
    assert dataset.passes == 1
    assert len(set(first)) == 50
    assert draw(0) == first
    assert draw(1) != first
    assert first != sorted(first)  # in the order of the draw, so that classes that come one after another are mixed
    assert sorted(draw(0, None)) == sorted(draw(0, 1000)) == list(range(200))
    counts = Counter(number for seed in range(400) for number in draw(seed))
    deviation = (400 * 0.25 * 0.75) ** 0.5
    assert max(abs(counts[i] - 100) for i in range(200)) < 4.5 * deviation


def test_of_an_iterable_dataset_no_more_than_the_subset_is_held() -> None:
    alive = most = 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def samples() -> Iterator[Any]:
        nonlocal alive, most
        for i in range(300):
            image = np.full((2, 2), i % 256, np.uint8)
            weakref.finalize(image, gone)
            alive += 1
            most = max(most, alive)
            yield image, i % 3

    load_images(samples(), num_images=20, balanced=True)
    assert 20 <= most <= 24


def test_torchs_iterable_dataset() -> None:
    class Stream(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[Any]:
            return ((image, i % 2) for i, image in enumerate(RGB))

    loaded = load_images(Stream())  # its __getitem__ only raises
    torch.testing.assert_close(in_order(loaded, RGB), RGB, rtol=0, atol=0)


def test_classes_of_an_iterable_dataset_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match=r"^num_classes should be None for a dataset that is gone through once"):
        load_images(Once(), num_classes=3)


def test_encoded_images_are_decoded_if_they_are_drawn() -> None:
    good = [(Encoded(png(image), f"{i}.png"), i % 2) for i, image in enumerate(RGB)]
    loaded = load_images(Once(*good))
    torch.testing.assert_close(in_order(loaded, RGB), RGB, rtol=0, atol=0)
    broken = (Encoded(b"no image", "torn.png"), 0)
    with pytest.raises(
        ValueError, match=r"^1 of 5 images cannot be read; repair or remove them:\n    torn.png \(cannot"
    ):
        load_images(Once(*good, broken))
    outcomes = set()
    for seed in range(10):
        try:
            load_images(Once(*good, broken), num_images=3, seed=seed)
            outcomes.add("fine")
        except ValueError as error:
            outcomes.add("torn.png" if "torn.png" in str(error) else "classes")
    assert outcomes >= {"fine", "torn.png"}


# --- shards -----------------------------------------------------------------------------------------------------------


def write_shard(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    pytest.importorskip("webdataset")
    for shard in range(2):
        samples = {
            f"{i}.{ending}": content
            for i in range(2 * shard, 2 * shard + 2)
            for ending, content in (("png", png(RGB[i])), ("cls", str(5 + i % 2).encode()), ("json", b"{}"))
        }
        write_shard(tmp_path / f"train-{shard}.tar", samples)
    return tmp_path


@pytest.mark.parametrize("kind", ["braces", "list"])
def test_shards(shards: Path, kind: str) -> None:
    urls = {"braces": f"{shards}/train-{{0..1}}.tar", "list": [f"{shards}/train-0.tar", f"{shards}/train-1.tar"]}
    dataset = Shards(urls[kind])
    assert dataset.urls == urls["list"]
    found = list(dataset)
    assert [label for _, label in found] == [5, 6, 5, 6]
    assert found[2][0].name == f"{shards}/train-1.tar:2.png"
    loaded = load_images(dataset, num_images=100)
    torch.testing.assert_close(in_order(loaded, RGB), RGB, rtol=0, atol=0)
    assert loaded.classes == 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"0.cls": b"1"}, r"sample .*bad.tar:0 should have an image \(.jpg, .*\) and .cls, but has .cls$"),
        ({"0.png": b"", "0.txt": b""}, r"sample .*bad.tar:0 should have an image .* and .cls, but has .png, .txt$"),
        (
            {"0.png": b"", "0.cls": b"cat"},
            r".cls of sample .*bad.tar:0 should be a whole number, but got b'cat' instead",
        ),
    ],
    ids=["no image", "no label", "a name"],
)
def test_shards_of_other_samples(shards: Path, files: dict[str, bytes], message: str) -> None:
    path = write_shard(shards / "bad.tar", files)
    with pytest.raises(ValueError, match="^" + message):
        list(Shards(str(path)))


def test_a_torn_shard(shards: Path) -> None:
    path = shards / "train-0.tar"
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ValueError, match=rf"^shard {path} should be a whole tar file, but was not \([a-z ]+\)$"):
        list(Shards(str(path)))
    path.write_bytes(b"no tar" * 200)
    with pytest.raises(ValueError, match=rf"^shard {path} should be a whole tar file, but was not \([a-z ]+\)$"):
        list(Shards(str(path)))


def test_a_missing_shard(shards: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train-7\.tar"):
        list(Shards(f"{shards}/train-7.tar"))


def test_shards_without_webdataset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "webdataset.shardlists", None)
    with pytest.raises(ImportError, match=r'shards need: pip install "fasteraa_transforms\[webdataset\]"$'):
        Shards("train.tar")


def test_the_subset_is_drawn_without_replacement_by_seed() -> None:
    images = torch.arange(200, dtype=torch.uint8).view(200, 1, 1, 1)
    dataset = Samples(*((image, i % 2) for i, image in enumerate(images)))

    def draw(seed: int, num_images: int | None = 50) -> list[int]:
        return load_images(dataset, num_images=num_images, seed=seed).images.flatten().tolist()

    first = draw(0)
    assert len(set(first)) == 50
    assert draw(0) == first
    assert draw(1) != first
    assert draw(0, 20) == first[:20]
    assert sorted(draw(0, None)) == sorted(draw(0, 1000)) == list(range(200))
    drawn = Counter(number for seed in range(40) for number in draw(seed))
    assert len(drawn) == 200  # each is left out of 40 draws with a chance of 0.75 ** 40, some 1e-5


def test_loading_leaves_the_callers_random_state() -> None:
    before = torch.get_rng_state()
    load_images(Digits(), num_images=20, num_classes=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_only_drawn_images_are_loaded() -> None:
    dataset = Samples(*((image, i % 2) for i, image in enumerate(pixels(100, 1, 2, 2))))
    load_images(dataset, num_images=10)
    assert len(dataset.asked) == 10
    assert set(dataset.asked.values()) == {1}


@pytest.mark.parametrize("attribute", ["targets", "labels"])
def test_classes_are_drawn_by_the_labels_that_the_dataset_tells(attribute: str) -> None:
    labels = [i % 10 for i in range(100)]
    dataset = Samples(*zip(pixels(100, 1, 2, 2), labels, strict=True))
    setattr(dataset, attribute, np.array(labels))
    loaded = load_images(dataset, num_images=30, num_classes=4)
    assert loaded.classes == 4
    assert sum(dataset.asked.values()) == len(loaded.images) == 30


def test_classes_are_drawn_without_such_an_attribute() -> None:
    digits = Digits()
    subset = Subset(digits, list(range(300)))  # type: ignore[arg-type]
    one = load_images(subset, num_classes=3, seed=4)
    assert one.classes == 3
    counts = Counter(digits.targets[:300])
    assert all(count in counts.values() for count in one.labels.bincount().tolist())  # whole classes
    assert len(one.images) < 300
    again = load_images(subset, num_classes=3, seed=4)
    assert torch.equal(one.images, again.images)
    others = [load_images(subset, num_classes=3, seed=seed).labels.bincount().tolist() for seed in range(5)]
    assert len({tuple(other) for other in others}) > 1
    assert load_images(subset, num_classes=99).classes == 10


def test_class_names_as_labels_of_the_dataset_are_no_obstacle() -> None:
    dataset = Samples((GREY[0], 0), (GREY[1], 1))
    dataset.labels = ["cat", "dog"]  # type: ignore[attr-defined]
    assert load_images(dataset).classes == 2


# --- open_dataset -----------------------------------------------------------------------------------------------------


def test_digits() -> None:
    digits = open_dataset("digits")
    assert len(digits) == 1797
    image, label = digits[0]
    assert image.dtype == torch.uint8
    assert image.shape == (1, 8, 8)
    assert label == 0
    loaded = load_images(digits)
    assert loaded.classes == 10
    assert loaded.images.min() == 0
    assert loaded.images.max() == 255  # their 16 is white
    assert torch.equal(loaded.labels.bincount(), torch.tensor([178, 182, 177, 183, 181, 182, 181, 179, 174, 180]))


@pytest.mark.parametrize("name", ["mnist", "", "no/such/folder", "CIFAR10"])
def test_unknown_names(name: str) -> None:
    message = (
        "dataset should be one of digits, cifar10, cifar100, svhn, imagenet, a folder of images, or module:callable, "
        f"but got {name!r} instead"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        open_dataset(name)


def own() -> list[Any]:
    return [(image, i % 2) for i, image in enumerate(RGB)]


def own_stream() -> Iterator[Any]:
    yield from own()


def nothing() -> None:
    return None


@pytest.mark.parametrize("name", ["own", "own_stream"])
def test_a_dataset_of_ones_own(name: str) -> None:
    dataset = open_dataset(f"{__name__}:{name}")
    loaded = load_images(dataset)
    torch.testing.assert_close(in_order(loaded, RGB), RGB, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:own", "was not found: No module named 'no_such_module'"),
        ("{}:no_such_thing", "was not found: module '{}' has no attribute 'no_such_thing'"),
        ("{}:", "was not found: module '{}' has no attribute ''"),
        (":own", "was not found: Empty module name"),
        ("{}:RGB", "should be callable, but got Tensor instead"),
        ("{}:nothing", "should return a map-style or an iterable dataset, but got NoneType instead"),
    ],
)
def test_an_unusable_dataset_of_ones_own(name: str, message: str) -> None:
    name = name.format(__name__)
    with pytest.raises(ValueError, match=f"^dataset {re.escape(repr(name))} {re.escape(message.format(__name__))}$"):
        open_dataset(name)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "imagenet"])
def test_missing_files_say_what_to_do(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^{name} was not found in '.*'") as caught:
        open_dataset(name, data_dir=tmp_path / "nowhere")
    message = str(caught.value)
    assert str(tmp_path / "nowhere") in message
    assert "--data-dir" in message
    assert "--download" in message
    assert "\n" not in message


def test_every_named_dataset_can_be_opened_by_name() -> None:
    assert set(DATASETS) == {"digits", "cifar10", "cifar100", "svhn", "imagenet"}


def test_download_is_asked_of_torchvision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(
        torchvision.datasets, "CIFAR100", lambda root, **options: asked.append({"root": root, **options})
    )
    monkeypatch.setattr(torchvision.datasets, "SVHN", lambda root, **options: asked.append({"root": root, **options}))
    open_dataset("cifar100", data_dir=tmp_path)
    open_dataset("svhn", data_dir=tmp_path, download=True)
    assert asked == [
        {"root": str(tmp_path), "train": True, "download": False},
        {"root": str(tmp_path), "split": "train", "download": True},
    ]


def test_a_folder_with_a_folder_a_class(tmp_path: Path) -> None:
    for name, image in zip(("cat", "cat", "dog", "owl"), RGB, strict=True):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        as_pil(image).save(folder / f"{len(list(folder.iterdir()))}.png")
    dataset = open_dataset(str(tmp_path))
    loaded = load_images(dataset)
    assert loaded.classes == 3
    torch.testing.assert_close(in_order(loaded, RGB), RGB, rtol=0, atol=0)
    assert sorted(loaded.labels.tolist()) == [0, 0, 1, 2]


def test_a_folder_without_folders(tmp_path: Path) -> None:
    as_pil(RGB[0]).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match=r"is not laid out as one folder of images a class: ") as caught:
        open_dataset(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_a_folder_of_one_class(tmp_path: Path) -> None:
    write_folder(tmp_path, ["cat", "cat"], RGB[:2])
    message = r"should hold a folder for each of 2 or more classes, but got \['cat'\] instead$"
    with pytest.raises(ValueError, match=message):
        open_dataset(str(tmp_path))


def test_a_folder_of_grey_rgba_and_rgb_files_is_read_as_rgb(tmp_path: Path) -> None:
    paths = write_folder(tmp_path, ["cat", "dog", "owl"], RGB[:3])
    Image.open(paths[0]).convert("L").save(paths[0])
    Image.open(paths[1]).convert("RGBA").save(paths[1])
    grey = torch.from_numpy(np.array(Image.open(paths[0]).convert("RGB"))).permute(2, 0, 1)
    loaded = load_images(open_dataset(str(tmp_path)))
    expected = torch.stack([grey, RGB[1], RGB[2]])
    torch.testing.assert_close(in_order(loaded, expected), expected, rtol=0, atol=0)


def test_a_folder_of_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(ValueError, match=r"is not laid out as one folder of images a class: .*cat"):
        open_dataset(str(tmp_path))


def test_cifar10(cifar10_root: Path) -> None:
    dataset = open_dataset("cifar10", data_dir=cifar10_root)
    assert len(dataset) == 50_000
    loaded = load_images(dataset, num_images=DATASETS["cifar10"].preparation.num_images)
    assert loaded.images.shape == (4000, 3, 32, 32)
    assert loaded.classes == 10
    assert (loaded.labels.bincount() > 300).all()
    order = torch.randperm(50_000, generator=seeded(0))[:2]
    for index, image in zip(order.tolist(), loaded.images, strict=False):
        torch.testing.assert_close(image.permute(1, 2, 0).numpy(), np.asarray(dataset[index][0]), rtol=0, atol=0)


def test_the_papers_subsets() -> None:
    rows = {name: row.preparation for name, row in DATASETS.items()}
    sizes = {name: (row.num_images, row.num_classes, row.critic) for name, row in rows.items()}
    assert sizes["cifar10"] == sizes["cifar100"] == (4000, None, "wrn40_2")
    assert sizes["svhn"] == (1000, None, "wrn40_2")
    assert sizes["imagenet"] == (6000, 120, "resnet50")
    assert OWN.preparation.num_images == 4000
    assert not rows["digits"].flip  # a mirrored digit is another sign


# --- crop -------------------------------------------------------------------------------------------------------------


def possible(image: Tensor, size: tuple[int, int], padding: int, flip: bool) -> dict[bytes, tuple[int, int, bool]]:
    """Every crop of the padded image, mirrored or not."""
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=image.dtype)
    padded[:, padding : padding + height, padding : padding + width] = image
    found = {}
    for top in range(padded.shape[1] - size[0] + 1):
        for left in range(padded.shape[2] - size[1] + 1):
            crop = padded[:, top : top + size[0], left : left + size[1]]
            found[crop.numpy().tobytes()] = top, left, False
            if flip:
                found[crop.flip(2).contiguous().numpy().tobytes()] = top, left, True
    return found


@pytest.mark.parametrize(
    ("shape", "size", "padding"),
    [
        ((3, 5, 6), (5, 6), 1),
        ((1, 4, 4), (4, 4), 2),
        ((2, 6, 7), (4, 3), 0),
        ((3, 4, 5), (6, 6), 1),
        ((1, 5, 5), (5, 5), 0),
    ],
)
@pytest.mark.parametrize("flip", [True, False])
def test_a_crop_is_one_of_the_crops_and_each_of_them_occurs(
    shape: tuple[int, ...], size: tuple[int, int], padding: int, flip: bool
) -> None:
    image = pixels(*shape) | 1  # no zero, so that padding cannot be mistaken for pixels
    crops = possible(image, size, padding, flip)
    rows, columns = (extent + 2 * padding - target + 1 for extent, target in zip(shape[1:], size, strict=True))
    assert len(crops) == rows * columns * (1 + flip)  # all differ
    count = 60 * len(crops)
    batch = image.expand(count, *shape)
    result = Crop(size, padding, flip)(batch, generator=seeded(1))
    assert result.shape == (count, shape[0], *size)
    seen = Counter(crops[output.numpy().tobytes()] for output in result)  # a KeyError if it were another picture
    assert len(seen) == len(crops)
    assert min(seen.values()) > 60 - 5 * 60**0.5
    assert max(seen.values()) < 60 + 5 * 60**0.5


def test_each_image_has_its_own_crop_and_flip() -> None:
    images = pixels(64, 3, 6, 6) | 1
    result = Crop((6, 6), 2, True)(images, generator=seeded(2))
    draws = [
        possible(image, (6, 6), 2, True)[output.numpy().tobytes()] for image, output in zip(images, result, strict=True)
    ]
    assert len(set(draws)) > 30  # of 50
    tops, lefts, flips = (torch.tensor(column, dtype=torch.float) for column in zip(*draws, strict=True))
    for one, other in ((tops, lefts), (tops, flips), (lefts, flips)):
        assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 0.5  # independent of each other


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.int64])
def test_a_crop_keeps_dtype_and_input(dtype: torch.dtype) -> None:
    images = pixels(5, 2, 4, 6).to(dtype)
    before = images.clone()
    result = Crop((4, 4), 1, True)(images, generator=seeded(3))
    assert result.dtype == dtype
    assert result.is_contiguous()
    same = Crop((4, 4), 1, True)(pixels(5, 2, 4, 6), generator=seeded(3))
    torch.testing.assert_close(result.to(torch.uint8), same, rtol=0, atol=0)
    torch.testing.assert_close(images, before, rtol=0, atol=0)


def test_a_crop_draws_from_its_generator_alone() -> None:
    images = pixels(32, 1, 6, 6)
    crop = Crop((6, 6), padding=3, flip=True)
    before = torch.get_rng_state()
    one = crop(images, generator=seeded(5))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, crop(images, generator=seeded(5)))
    assert not torch.equal(one, crop(images, generator=seeded(6)))
    torch.manual_seed(5)
    assert torch.equal(one, crop(images))  # without one, from PyTorch's default


def test_a_crop_of_nothing() -> None:
    assert Crop((4, 4), 1, True)(pixels(0, 3, 4, 4)).shape == (0, 3, 4, 4)


def test_labels_of_another_length_are_not_taken_for_those_of_the_images() -> None:
    dataset = Samples((GREY[0], 0), (GREY[1], 1))
    dataset.targets = [0, 1, 2]  # type: ignore[attr-defined]
    assert known_labels(dataset) is None
    assert load_images(dataset, num_classes=2).classes == 2


def test_names_of_classes_are_not_taken_for_labels() -> None:
    dataset = Samples((GREY[0], 3), (GREY[1], 4))
    dataset.labels = ["cat", "dog"]  # type: ignore[attr-defined]
    assert known_labels(dataset) is None
    assert load_images(dataset, num_images=2, balanced=True).classes == 2
