"""The size of images where nobody gives one: when it is chosen, which one it is, what is said, what is kept."""

import dataclasses
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from fasteraa_transforms import Policy
from fasteraa_transforms.pipeline.image_files import extent_of, open_image
from fasteraa_transforms.search import (
    Settings,
    TrainingSettings,
    compare,
    load_images,
    open_dataset,
    parse_augmentations,
    search,
)
from fasteraa_transforms.search.__main__ import main
from fasteraa_transforms.search.data import sizing
from fasteraa_transforms.search.data.folders import ClassFolder
from fasteraa_transforms.search.data.samples import Encoded
from fasteraa_transforms.search.data.sizing import fitting_size, sizing_in_words
from fasteraa_transforms.search.operations import main as look
from fasteraa_transforms.search.runtime import recorder
from fasteraa_transforms.search.runtime.output import Output
from fasteraa_transforms.search.runtime.recorder import Recorder
from fasteraa_transforms.search.task import load_task, prepared

MIXED = [(48, 64), (300, 400), (120, 160), (100, 100)]  # (height, width)
LINE = "images of 64×48 to 400×300 (width×height): resized to 64×64; --image-size chooses another"
TINY = Settings(
    contenders=("none", "uniform"),
    network="resnet9-4",
    race_epochs=1,
    trainings=2,
    replicates=1,
    processes=1,
    device="cpu",
)


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def as_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def encoded(height: int, width: int, seed: int = 0, kind: str = "PNG", orientation: int = 1) -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    as_pil(pixels(3, height, width, seed=seed)).save(file, kind, exif=exif.tobytes())
    return file.getvalue()


def write_folder(root: Path, extents: list[tuple[int, int]], count: int = 12) -> Path:
    """A folder of two classes, its images of these sizes in turn."""
    for i in range(count):
        path = root / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(*extents[i % len(extents)], seed=i))
    return root


class OneByOne:
    """A dataset whose images are known only once they are read."""

    def __init__(self, *extents: tuple[int, int]) -> None:
        self.extents = extents
        self.read: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self.extents)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        self.read[index] += 1
        return pixels(3, *self.extents[index], seed=index), index % 2


# --- the choice -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extents", "size"),
    [
        ({}, None),
        ({(32, 32): 5}, None),
        ({(96, 96): 5}, None),
        ({(20, 400): 5}, None),  # fewer pixels than 96×96
        ({(96, 97): 5}, (64, 64)),
        ({(224, 224): 5}, (64, 64)),
        ({(40, 400): 5}, (32, 32)),
        ({(28, 28): 5, (28, 29): 1}, (32, 32)),
        ({(63, 500): 5, (500, 63): 4, (64, 64): 8}, (32, 32)),
        ({(63, 500): 4, (500, 63): 4, (64, 64): 9}, (64, 64)),
        ({(8, 8): 1, (3000, 4000): 2}, (64, 64)),
    ],
)
def test_which_size_fits(extents: dict[tuple[int, int], int], size: tuple[int, int] | None) -> None:
    assert fitting_size(Counter(extents)) == size


def test_the_line_names_the_smallest_and_the_largest() -> None:
    found = Counter({(480, 640): 2, (3000, 4000): 1, (4000, 3000): 1, (700, 700): 1})
    assert sizing_in_words(found, (64, 64)) == (
        "images of 640×480 to 3000×4000 (width×height): resized to 64×64; --image-size chooses another"
    )
    assert sizing_in_words(Counter({(224, 224): 9}), (64, 64)).startswith("images of 224×224 (width×height): ")


KINDS: dict[str, Any] = {
    "tensors": lambda image: image,
    "arrays": lambda image: image.permute(1, 2, 0).numpy(),
    "PIL": as_pil,
    "encoded": lambda image: Encoded(encoded_of(image), "x.png"),
    "bytes": lambda image: {"bytes": encoded_of(image), "path": None},
}


def encoded_of(image: Tensor) -> bytes:
    file = io.BytesIO()
    as_pil(image).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("once", [False, True], ids=["map-style", "iterable"])
def test_samples_of_every_kind_are_resized_alike(kind: str, once: bool) -> None:
    images = [pixels(3, *extent, seed=i) for i, extent in enumerate(MIXED * 3)]
    samples = [(KINDS[kind](image), i % 2) for i, image in enumerate(images)]
    said: list[str] = []
    loaded = load_images(iter(samples) if once else samples, size="auto", tell=said.append)
    given = [(image, i % 2) for i, image in enumerate(images)]
    expected = load_images(iter(given) if once else given, size=(64, 64))
    assert torch.equal(loaded.images, expected.images)
    assert torch.equal(loaded.labels, expected.labels)
    assert said == [LINE]


def test_a_folder_tells_before_it_is_decoded(tmp_path: Path) -> None:
    dataset = open_dataset(str(write_folder(tmp_path, MIXED)))
    order: list[str] = []

    def watch(items: Any, name: str, count: int) -> Iterator[Any]:
        order.append(f"{name} {count}")
        yield from items

    loaded = load_images(dataset, size="auto", tell=order.append, watch=watch)
    assert order == ["sizes 12", LINE, "loading 12"]
    assert torch.equal(loaded.images, load_images(dataset, size=(64, 64)).images)


@pytest.mark.parametrize("extent", [(20, 30), (96, 96)])
def test_small_images_of_one_size_are_left_as_they_are(extent: tuple[int, int]) -> None:
    said: list[str] = []
    dataset = OneByOne(*[extent] * 50)
    loaded = load_images(dataset, size="auto", tell=said.append)
    assert torch.equal(loaded.images, load_images(dataset).images)
    assert said == []


def test_a_dataset_whose_images_are_known_late_is_not_read_twice() -> None:
    dataset = OneByOne(*[(20, 20)] * 99, (30, 20))
    said: list[str] = []
    loaded = load_images(dataset, size="auto", tell=said.append)
    assert sum(dataset.read.values()) == 100 + 32
    assert said == ["images of 20×20 to 20×30 (width×height): resized to 32×32; --image-size chooses another"]
    assert torch.equal(loaded.images, load_images(OneByOne(*dataset.extents), size=(32, 32)).images)


def test_looking_ahead_draws_nothing() -> None:
    class Random(OneByOne):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return torch.randint(0, 256, (3, 200, 200), dtype=torch.uint8), index % 2

    torch.manual_seed(3)
    chosen = load_images(Random(*[(200, 200)] * 9), size="auto")
    torch.manual_seed(3)
    assert torch.equal(chosen.images, load_images(Random(*[(200, 200)] * 9), size=(64, 64)).images)


@pytest.mark.parametrize("late", [False, True])
def test_masks_are_resized_to_the_nearest_pixel(late: bool) -> None:
    extents = [(60, 60)] * 40 + [(40, 70), (90, 60)] if late else [(40, 70), (130, 200), (90, 60)]
    masks = [pixels(*extent, seed=i) % 2 * 7 for i, extent in enumerate(extents)]

    class Masks(OneByOne):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            return (masks[index] * 30).expand(3, -1, -1), masks[index]

    loaded = load_images(Masks(*extents), size="auto")
    assert loaded.images.shape[2:] == loaded.labels.shape[1:]
    assert loaded.names == ("0", "7")
    explicit = load_images(Masks(*extents), size=(loaded.images.shape[2], loaded.images.shape[3]))
    assert torch.equal(loaded.labels, explicit.labels)
    assert torch.equal(loaded.images, explicit.images)


def test_broken_files_do_not_hide_the_sizes_of_the_others(tmp_path: Path) -> None:
    write_folder(tmp_path, MIXED)
    (tmp_path / "cat" / "0.png").write_bytes(b"no image")
    loaded = load_images(open_dataset(str(tmp_path)), size="auto", skip_broken=True)
    assert loaded.images.shape == (11, 3, 64, 64)
    with pytest.raises(ValueError, match=r"^1 of 12 images cannot be read"):
        load_images(open_dataset(str(tmp_path)), size="auto")


# --- whose size it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "size"),
    [
        ("pets", Settings(), "auto"),
        ("pets", Settings(image_size="own"), None),
        ("pets", Settings(image_size=40), (40, 40)),
        ("pets", Settings.paper(), None),
        ("pets", Settings.paper(image_size=40), (40, 40)),
        ("digits", Settings(), (32, 32)),
        ("digits", Settings.paper(), (32, 32)),
        ("digits", Settings(image_size="own"), None),
        ("cifar10", Settings(), None),
        ("svhn", Settings.paper(), None),
        ("imagenet", Settings(), (256, 256)),
    ],
)
def test_known_data_sets_keep_their_size(name: str, settings: Settings, size: Any) -> None:
    assert prepared(name, settings).held_size == size


@pytest.mark.parametrize("kind", [Settings, TrainingSettings])
@pytest.mark.parametrize(("size", "found"), [("large", "'large'"), (0, "0"), (-3, "-3"), (1, "1"), (2.5, "2.5")])
def test_other_sizes_are_refused(kind: Any, size: Any, found: str) -> None:
    with pytest.raises(ValueError, match=rf"^image_size should be .*, but got {found} instead$"):
        kind(image_size=size)


def test_images_as_they_are_need_one_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "pets", MIXED)
    for given in (["--image-size", "own"], ["--preset", "paper"]):
        assert main([str(tmp_path / "pets"), *given, "--out", str(tmp_path / "run")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: images should have one size, but got ")
        assert line.endswith("pixels; give an image size")
    large = write_folder(tmp_path / "large", [(100, 120)])
    task = load_task(open_dataset(str(large)), dataclasses.replace(TINY, image_size="own"), name="large")
    assert task.data.images.shape[2:] == (100, 120)
    assert load_task(open_dataset(str(large)), TINY, name="large").data.images.shape[2:] == (64, 64)


def test_a_search_says_and_keeps_the_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pets, out = write_folder(tmp_path / "pets", MIXED, count=24), tmp_path / "run"
    policy = search(open_dataset(str(pets)), TINY, out=out, name="pets")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "24 samples; loading images and searching take up to 10 min"
    assert lines[1] == LINE
    assert lines[2].startswith("24 of 24 images, 3×64×64 (channels, height, width); 2 classes: cat (12), dog (12)")
    about = json.loads((out / "settings.json").read_text("utf-8"))
    assert about["settings"]["image_size"] is None
    assert about["recipe"]["image_size"] == [64, 64]
    assert policy.provenance["image_size"] == [64, 64]
    assert policy.provenance["recipe"]["image_size"] == [64, 64]
    assert policy.provenance["recipe"]["choose_size"] is True

    monkeypatch.setattr(sizing, "SIDES", (16, 48))  # a version that chooses otherwise goes on with what was chosen
    assert search(open_dataset(str(pets)), TINY, out=out, name="pets", resume=True, progress=False) == policy
    again = search(open_dataset(str(pets)), TINY, out=tmp_path / "other", name="pets", progress=False)
    assert again.provenance["image_size"] == [16, 16] or again.provenance["image_size"] == [48, 48]


@pytest.mark.parametrize("terminal", [False, True])
def test_long_loading_shows_how_far_it_is(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Output, "isatty", lambda self: terminal)
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(recorder, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert list(Recorder(progress=True).watch(range(20), "loading", 20)) == list(range(20))
    line = "loading: 1 of 20 images after 4 s, about 76 s left\n"
    assert capsys.readouterr().out == ("" if terminal else line)
    assert list(Recorder(progress=False).watch(range(20), "loading", 20)) == list(range(20))
    assert capsys.readouterr() == ("", "")


def test_a_search_in_python_chooses_as_well(tmp_path: Path) -> None:
    policy = search(OneByOne(*MIXED * 6), TINY, out=tmp_path, progress=False)
    assert policy.provenance["image_size"] == [64, 64]
    assert Policy.load(tmp_path / "policy.json").provenance["recipe"]["image_size"] == [64, 64]


def test_an_evaluation_chooses_as_a_search_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets, other = (write_folder(tmp_path / name, sizes) for name, sizes in (("a", MIXED), ("b", [(30, 40), (20, 20)])))
    settings = TrainingSettings(model="resnet9-4", epochs=1, batch_size=4, device="cpu")
    options: dict[str, Any] = {"seeds": 1, "test": ClassFolder(other), "out": tmp_path / "run"}
    compare(ClassFolder(pets), parse_augmentations("none"), settings, **options)
    assert capsys.readouterr().out.splitlines()[0] == LINE
    about = json.loads((tmp_path / "run" / "settings.json").read_text("utf-8"))
    shapes = {split: images["shape"] for split, images in about["images"].items()}
    assert shapes == {"train": [12, 3, 64, 64], "test": [12, 3, 64, 64]}
    own = dataclasses.replace(settings, image_size="own")
    with pytest.raises(ValueError, match=r"^images should have one size"):
        compare(ClassFolder(pets), parse_augmentations("none"), own, seeds=1, progress=False)


def test_operations_take_the_same_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets = write_folder(tmp_path / "pets", MIXED)
    command = [str(pets), "--out", str(tmp_path / "out"), "--network", "resnet9-4", "--networks", "1", "--epochs", "1"]
    assert look([*command, "--operations", "flip", "--processes", "1", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == LINE
    assert look([*command, "--image-size", "own"]) == 2
    with pytest.raises(SystemExit):
        look([*command, "--image-size", "huge"])
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        error == "error: --image-size should be None, a whole number or own, but got 'huge' instead; --help says more"
    )


# --- orientation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_are_turned_upright(kind: str, orientation: int, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(encoded(12, 20, kind=kind, orientation=orientation))
    stored = tv.pil_to_tensor(open_image(path))
    expected = {
        1: stored,
        2: stored.flip(2),
        3: stored.flip(1, 2),
        4: stored.flip(1),
        5: stored.mT,
        6: stored.mT.flip(2),
        7: stored.mT.flip(1, 2),
        8: stored.mT.flip(1),
    }[orientation]
    assert torch.equal(tv.pil_to_tensor(open_image(path, upright=True)), expected)
    loaded = load_images([(Encoded(path.read_bytes(), "a"), i) for i in range(2)])
    assert torch.equal(loaded.images[0], expected)
    if kind == "JPEG":
        assert extent_of(path) == tuple(expected.shape[1:])


def test_a_folder_of_turned_photographs(tmp_path: Path) -> None:
    for i in range(4):
        path = tmp_path / ("cat", "dog")[i % 2] / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(12, 20, kind="JPEG", orientation=6) if i else encoded(20, 12, kind="JPEG"))
    assert load_images(open_dataset(str(tmp_path))).images.shape == (4, 3, 20, 12)


@pytest.mark.parametrize("damaged", [b"Exif\0\0no tags", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_damaged_exif_is_no_damaged_image(damaged: bytes) -> None:
    file = io.BytesIO()
    as_pil(pixels(3, 12, 20)).save(file, "JPEG", exif=damaged)
    file.seek(0)
    assert extent_of(file) == (12, 20)
    file.seek(0)
    assert open_image(file, upright=True).size == (20, 12)


@pytest.mark.parametrize(("mask", "turned"), [((12, 20), False), ((20, 12), True)])
def test_an_image_is_turned_if_only_so_it_fits_its_mask(mask: tuple[int, int], turned: bool, tmp_path: Path) -> None:
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(encoded(12, 20, kind="JPEG", orientation=6))
    labels = pixels(*mask) % 3
    Image.fromarray(labels.numpy()).save(tmp_path / "masks" / "a.png")
    stored = tv.pil_to_tensor(open_image(tmp_path / "images" / "a.jpg"))
    expected = stored.mT.flip(2) if turned else stored
    sample = (Encoded((tmp_path / "images" / "a.jpg").read_bytes(), "a"), np.asarray(labels))
    for loaded in (load_images(open_dataset(str(tmp_path))), load_images([sample])):
        assert torch.equal(loaded.images[0], expected)
        assert torch.equal(loaded.labels[0], labels)


@pytest.mark.parametrize(("extent", "orientation"), [((12, 12), 6), ((12, 20), 3)])
def test_beside_a_mask_that_fits_either_way_pixels_stay(extent: tuple[int, int], orientation: int) -> None:
    image = encoded(*extent, kind="PNG", orientation=orientation)
    loaded = load_images([(Encoded(image, "a"), pixels(*extent) % 2)])
    assert torch.equal(loaded.images[0], pixels(3, *extent))
