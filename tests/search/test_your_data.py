"""Images of one's own: what is taken, scaled, left out, refused, and that a run can tell them from others."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as tv

from fasteraa_transforms.__main__ import main
from fasteraa_transforms.backends.options import check_image
from fasteraa_transforms.pipeline import image_files
from fasteraa_transforms.pipeline.image_files import open_image
from fasteraa_transforms.search import Settings, TrainingSettings, evaluate, load_images, open_dataset
from fasteraa_transforms.search import __main__ as search_cli
from fasteraa_transforms.search.data import held, table
from fasteraa_transforms.search.data.folders import ClassFolder, find_splits
from fasteraa_transforms.search.data.folders import image_files as files_in
from fasteraa_transforms.search.data.images import ImageSet, check_same
from fasteraa_transforms.search.data.masks import MaskFolder
from fasteraa_transforms.search.data.opening import open_splits
from fasteraa_transforms.search.data.samples import Encoded
from fasteraa_transforms.search.data.source import (
    absolute,
    check_consent,
    commands_in,
    make_source,
    moved,
    name_of,
    open_source,
    without_places,
)
from fasteraa_transforms.search.data.table import DATASETS, OWN, Dataset, Preparation, defaults, find_dataset


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(seed))


def write(path: Path, seed: int = 0, side: int = 6) -> Path:
    """An RGB image at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(side, side, 3, seed=seed).numpy()).save(path)
    return path


def write_classes(root: Path, *names: str, count: int = 2) -> Path:
    """A folder with one folder of images a class."""
    for i, name in enumerate(names):
        for j in range(count):
            write(root / name / f"{j}.png", seed=10 * i + j)
    return root


# --- the table --------------------------------------------------------------------------------------------------------


def test_adding_a_data_set_is_adding_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def opener(split: str) -> table.Opener:
        def opened(root: str, download: bool) -> Any:
            asked.append((split, root, download))
            return [(image, i % 3) for i, image in enumerate(pixels(9, 1, 6, 6))]

        return opened

    row = Dataset("nine images", opener("train"), opener("test"), Preparation(5, image_size=(4, 4), margin=2), cutout=2)
    monkeypatch.setitem(DATASETS, "nine", row)
    train, test = open_splits("nine", data_dir=tmp_path, download=True)
    assert asked == [("train", str(tmp_path), True), ("test", str(tmp_path), True)]
    assert (len(train), len(test or ())) == (9, 9)
    assert find_dataset("nine") is row
    preparation = find_dataset("nine").preparation
    loaded = load_images(train, num_images=preparation.num_images, size=preparation.held_size)
    assert loaded.images.shape == (5, 1, 6, 6)
    assert preparation.crop((6, 6)).size == (4, 4)
    assert "nine 5" in defaults("num_images")
    assert "nine 2" in defaults("cutout")
    assert name_of(make_source("nine")) == "nine"
    with pytest.raises(ValueError, match=r"^dataset should be one of digits, .*, imagenet, nine, a folder of images"):
        open_dataset("no such data set")


def test_the_rows_are_what_they_were() -> None:
    """The sizes, crops and networks that searches and evaluations were published with."""
    rows = {name: row.preparation for name, row in {**DATASETS, "pets": OWN}.items()}
    assert {name: (row.padding, row.margin, row.flip, row.held_size) for name, row in rows.items()} == {
        "digits": (4, 0, False, (32, 32)),
        "cifar10": (4, 0, True, None),
        "cifar100": (4, 0, True, None),
        "svhn": (4, 0, True, None),
        "imagenet": (0, 32, True, (256, 256)),
        "pets": (4, 0, True, "auto"),
    }
    assert {name: (row.cutout, row.autoaugment) for name, row in DATASETS.items()} == {
        "digits": (16, "CIFAR10"),
        "cifar10": (16, "CIFAR10"),
        "cifar100": (16, "CIFAR10"),
        "svhn": (20, "SVHN"),
        "imagenet": (0, "IMAGENET"),
    }


# --- 16 bits ----------------------------------------------------------------------------------------------------------

LEVELS = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
GREY = torch.arange(256, dtype=torch.uint8).view(16, 16)


def save_16(path: Path, levels: np.ndarray = LEVELS, *, big_endian: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if big_endian:
        Image.frombytes("I;16B", levels.shape[::-1], levels.astype(">u2").tobytes()).save(path)
    else:
        Image.fromarray(levels).save(path)
    return path


SIXTEEN: dict[str, Callable[[Path], Path]] = {
    "png": lambda folder: save_16(folder / "a.png"),
    "tiff": lambda folder: save_16(folder / "a.tiff"),
    "big-endian tiff": lambda folder: save_16(folder / "a.tif", big_endian=True),
    "pgm": lambda folder: save_16(folder / "a.pgm"),
}


@pytest.mark.parametrize("kind", SIXTEEN)
def test_a_file_of_16_bits_is_scaled_to_8(kind: str, tmp_path: Path) -> None:
    path = SIXTEEN[kind](tmp_path)
    image = open_image(path)
    assert image.mode == "L"
    assert torch.equal(tv.pil_to_tensor(image)[0], GREY)
    with path.open("rb") as file:
        assert torch.equal(tv.pil_to_tensor(open_image(file, upright=True))[0], GREY)


@pytest.mark.parametrize("kind", SIXTEEN)
def test_16_bits_in_class_folders_and_beside_masks(kind: str, tmp_path: Path) -> None:
    SIXTEEN[kind](tmp_path / "classes" / "cat")
    write(tmp_path / "classes" / "dog" / "b.png", side=16)
    loaded = load_images(open_dataset(str(tmp_path / "classes")))
    assert any(torch.equal(image, GREY.expand(3, 16, 16)) for image in loaded.images)

    SIXTEEN[kind](tmp_path / "scenes" / "images")
    mask = tmp_path / "scenes" / "masks" / "a.png"
    mask.parent.mkdir(parents=True)
    Image.fromarray((GREY > 99).byte().numpy()).save(mask)
    loaded = load_images(open_dataset(str(tmp_path / "scenes")))
    assert torch.equal(loaded.images[0], GREY.expand(3, 16, 16))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_16_bits_in_datasets_and_masks(mode: str) -> None:
    data = LEVELS.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
    image = Image.frombytes(mode, (16, 16), data)
    loaded = load_images([(image, 0), (image, 1)])
    assert torch.equal(loaded.images[0, 0], GREY)
    masks = load_images([(GREY[None], image)], ignore_label=65535)
    assert masks.classes == 255
    assert masks.names[:3] == ("0", "257", "514")  # classes are not scaled


def test_arrays_of_another_order_of_bytes_are_taken() -> None:
    loaded = load_images([(LEVELS.astype(">u2"), 0), (LEVELS, 1)])
    assert torch.equal(loaded.images[0], loaded.images[1])


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_file_of_unknown_range_is_named(mode: str, tmp_path: Path) -> None:
    write_classes(tmp_path, "cat", "dog")
    path = tmp_path / "cat" / "0.tiff"
    Image.new(mode, (6, 6), 3000).save(path)
    message = rf"^1 of 5 images cannot be read; .*\n +{path} \(.*of 8 or 16 bits a channel, but got .* mode {mode} "
    with pytest.raises(ValueError, match=message):
        load_images(open_dataset(str(tmp_path)))


def test_no_image_is_opened_elsewhere() -> None:
    """Every file goes through `open_image`, so that no levels are cut off by ``convert("RGB")``."""
    root = Path(image_files.__file__).parents[1]
    opened = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if re.search(r"\bImage\.open\(", path.read_text(encoding="utf-8"))
    }
    assert opened == {"pipeline/image_files.py", "search/data/masks.py"}  # which reads masks itself


@pytest.mark.parametrize("kind", SIXTEEN)
def test_show_takes_16_bits(kind: str, tmp_path: Path) -> None:
    path = SIXTEEN[kind](tmp_path)
    assert main(["show", "cifar10", str(path), "--out", str(tmp_path / "a.png"), "--samples", "1", "--limit", "1"]) == 0
    Image.fromarray(GREY.numpy()).save(path := tmp_path / "grey.png")
    assert main(["show", "cifar10", str(path), "--out", str(tmp_path / "b.png"), "--samples", "1", "--limit", "1"]) == 0
    sheets = [np.asarray(open_image(tmp_path / name)) for name in ("a.png", "b.png")]
    assert np.array_equal(*sheets)


def test_show_names_a_file_of_unknown_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("F", (6, 6)).save(tmp_path / "a.tiff")
    assert main(["show", "cifar10", str(tmp_path / "a.tiff"), "--out", str(tmp_path / "a.png")]) == 2
    assert re.match(rf"error: {tmp_path / 'a.tiff'}: an image should be of 8 or 16 bits", capsys.readouterr().err)


@pytest.mark.parametrize("mode", ["I", "F", "I;16B"])
def test_nobody_is_told_to_convert_more_than_8_bits_to_rgb(mode: str) -> None:
    with pytest.raises(
        TypeError, match=r"scaling its levels to 8 bits, as all above 255 become white with image.convert"
    ):
        check_image(Image.new(mode, (2, 2)))


# --- splits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "tests", "taken"),
    [
        ("train", ["val"], "val"),
        ("Train", ["Test", "val"], "Test"),
        ("training", ["validation"], "validation"),
        ("TRAIN", ["valid"], "valid"),
        ("train", [], None),
    ],
)
def test_of_a_folder_with_splits_the_training_split_is_taken(
    tmp_path: Path, train: str, tests: list[str], taken: str | None
) -> None:
    write_classes(tmp_path / train, "cat", "dog", count=3)
    for name in tests:
        write_classes(tmp_path / name, "cat", "dog", count=1)
    loaded = load_images(open_dataset(str(tmp_path)))
    assert (len(loaded), loaded.names) == (6, ("cat", "dog"))
    assert loaded.describe().splitlines()[1].startswith(f"took {train}/ of {tmp_path}")
    split, test = open_splits(str(tmp_path))
    assert len(split) == 6
    if taken is None:
        assert test is None
    else:
        assert isinstance(test, ClassFolder)
        assert Path(test.samples[0][0]).parents[1] == tmp_path / taken


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (["train/cat", "train/dog", "cat", "dog"], r"holds train/, as splits are called, and cat/, dog/ beside them"),
        (
            ["test/cat", "test/dog", "val/cat"],
            r"should hold one folder to train on \(train or training\), but got test/",
        ),
        (["train/cat", "training/cat", "val/cat"], r"should hold one folder to train on .* but got train/, training/"),
        (["train", "val"], r"holds train/, val/, which should each hold a folder a class, but hold images"),
    ],
)
def test_a_layout_that_cannot_be_told_apart_is_refused(tmp_path: Path, made: list[str], message: str) -> None:
    write_classes(tmp_path, *made)
    for opened in (open_dataset, open_splits):
        with pytest.raises(ValueError, match=message) as caught:
            opened(str(tmp_path))
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("names", [["bus", "train"], ["car", "plane", "test"]])
def test_a_class_may_be_called_as_a_split_is(tmp_path: Path, names: list[str]) -> None:
    write_classes(tmp_path, *names)
    assert find_splits(tmp_path) is None
    assert load_images(open_dataset(str(tmp_path))).names == tuple(names)


@pytest.mark.parametrize("layout", ["{split}/{part}", "{part}/{split}"])
def test_splits_of_images_and_masks(tmp_path: Path, layout: str) -> None:
    for split, count in (("train", 3), ("val", 2)):
        for i in range(count):
            place = {part: tmp_path / layout.format(split=split, part=part) for part in ("images", "masks")}
            write(place["images"] / f"{split}{i}.png", seed=i)
            place["masks"].mkdir(parents=True, exist_ok=True)
            Image.fromarray((GREY[:6, :6] % 2).numpy()).save(place["masks"] / f"{split}{i}.png")
    dataset = open_dataset(str(tmp_path))
    assert isinstance(dataset, MaskFolder)
    assert [Path(image).stem for image, _ in dataset.samples] == ["train0", "train1", "train2"]
    assert "val" in load_images(dataset).describe()


# --- what is left out -------------------------------------------------------------------------------------------------


def test_what_systems_and_tools_leave_in_folders_is_left_out(tmp_path: Path) -> None:
    write_classes(tmp_path, "cat", "dog")
    before = ImageFolder(str(tmp_path)).samples
    for place in (".ipynb_checkpoints/a.png", "__MACOSX/cat/._0.png", ".git/a.png", "@eaDir/a.png"):
        write(tmp_path / place)
    for place in ("._0.png", ".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/x.png"):
        write(tmp_path / "cat" / place)
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"")
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"")
    dataset = open_dataset(str(tmp_path))
    assert isinstance(dataset, ClassFolder)
    assert dataset.classes == ["cat", "dog"]
    assert dataset.samples == before
    (note,) = load_images(dataset).notes
    assert note.startswith(f"left out of {tmp_path}: .git, .ipynb_checkpoints, @eaDir, __MACOSX, ")
    for name in ("._0.png", ".ipynb_checkpoints", "__MACOSX"):
        assert os.path.join("cat", name) in note
    assert "Thumbs" not in note
    assert "DS_Store" not in note


def test_hidden_files_beside_masks_are_left_out(tmp_path: Path) -> None:
    for part in ("images", "masks"):
        write(tmp_path / part / "a.png")
    write(tmp_path / "images" / "._a.png")
    write(tmp_path / "images" / ".ipynb_checkpoints" / "a-checkpoint.png")
    dataset = open_dataset(str(tmp_path))
    assert isinstance(dataset, MaskFolder)
    assert len(dataset) == 1
    assert "._a.png" in dataset.notes[0]


@pytest.mark.parametrize("name", ["checkpoint.pt", "rows.jsonl", "metrics.jsonl", "policy.json"])
def test_runs_within_the_data_are_no_class(tmp_path: Path, name: str) -> None:
    write_classes(tmp_path, "cat", "dog")
    for run in (tmp_path / "runs" / "pets", tmp_path / "here"):
        write(run / "curves.png")
        (run / "settings.json").write_text("{}")
        (run / name).write_text("")
    dataset = open_dataset(str(tmp_path))
    assert isinstance(dataset, ClassFolder)
    assert dataset.classes == ["cat", "dog"]
    assert dataset.notes == [
        f"left out of {tmp_path}: here (runs of a search or an evaluation), runs (runs of a search or an evaluation)"
    ]


def test_a_class_with_a_settings_file_of_its_own_is_a_class(tmp_path: Path) -> None:
    write_classes(tmp_path, "cat", "dog")
    (tmp_path / "cat" / "settings.json").write_text("{}")
    assert load_images(open_dataset(str(tmp_path))).names == ("cat", "dog")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no FIFOs")
def test_files_that_are_none(tmp_path: Path) -> None:
    write_classes(tmp_path, "cat", "dog")
    os.mkfifo(tmp_path / "cat" / "pipe.png")  # reading it would wait for ever
    (tmp_path / "cat" / "folder.png").mkdir()
    (tmp_path / "cat" / "loop").symlink_to(tmp_path / "cat")
    write(tmp_path / "beside.png")
    loaded = load_images(open_dataset(str(tmp_path)))
    assert len(loaded) == 4
    assert loaded.notes == (
        f"left out of {tmp_path}: {os.path.join('cat', 'pipe.png')} (no file), 1 images beside the folders",
    )
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"1 of 5 images cannot be read.*\n.*gone\.png"):
        load_images(open_dataset(str(tmp_path)))


def test_files_come_in_the_order_of_torchvision(tmp_path: Path) -> None:
    for name in ("b/x.png", "b/a/y.PNG", "b/a-1/z.jpg", "b/a/b/w.bmp", "a/1.webp", "a/10.png", "a/2.png"):
        write(tmp_path / name)
    (tmp_path / "a" / "link").symlink_to(tmp_path / "b" / "a")
    expected = [path for path, _ in ImageFolder(str(tmp_path)).samples]
    dataset = ClassFolder(tmp_path)
    assert [path for path, _ in dataset.samples] == expected
    assert dataset.class_to_idx == ImageFolder(str(tmp_path)).class_to_idx
    assert list(files_in(tmp_path / "a", [])) == [
        path for path in expected if f"{os.sep}a{os.sep}" in path[: len(str(tmp_path)) + 3]
    ]


# --- paths and names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [r"C:\data\pets", "C:/data/pets", r"D:\pets", "/no/such:folder"])
def test_a_mistyped_path_is_no_module(name: str) -> None:
    with pytest.raises(ValueError, match="there is no such folder") as caught:
        open_dataset(name)
    assert name in str(caught.value)
    assert "module named" not in str(caught.value)


def test_a_source_keeps_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path / "pets", "cat", "dog")
    monkeypatch.chdir(tmp_path)
    source = absolute(make_source("pets", data_dir="data", description="two pets"))
    assert source == {"dataset": str(tmp_path / "pets"), "data_dir": str(tmp_path / "data"), "description": "two pets"}
    assert absolute(make_source(shards=["a-{0..2}.tar"])) == {"shards": [str(tmp_path / "a-{0..2}.tar")]}
    assert absolute(make_source("own:pets"))["dataset"] == "own:pets"
    assert name_of(make_source(".")) == tmp_path.name
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(open_source(source)) == 4  # type: ignore[arg-type]
    assert name_of(source) == "pets"
    assert without_places(source) == {"dataset": "pets", "description": "two pets"}


def test_data_that_moved_can_be_named_anew(tmp_path: Path) -> None:
    saved = {"dataset": "/gone/pets", "data_dir": "/gone/data", "description": "pets"}
    assert moved(saved) == saved
    assert moved(saved, dataset=str(tmp_path)) == {**saved, "dataset": str(tmp_path)}
    assert moved(saved, data_dir=tmp_path) == {**saved, "data_dir": str(tmp_path)}
    assert moved({"dataset": "digits", "data_dir": "/gone"}, dataset="cifar10")["dataset"] == "digits"
    assert moved({"shards": ["/gone/a.tar"]}, shards=["/here/a.tar"]) == {"shards": ["/here/a.tar"]}


# --- nothing in a folder executes anything ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "settings"),
    [
        ({"shards": ["pipe:touch x"]}, {}),
        ({"shards": ["a.tar", " pipe:touch x"]}, {}),
        ({"shards": ["a.tar::pipe:touch x"]}, {}),
        ({"shards": ["{a,pipe:touch x}"]}, {}),
        ({"shards": ["http://x/'; touch x; '.tar"]}, {}),
        ({"shards": ["${WDS_X}"]}, {}),
        ({"dataset": "their:pets"}, {}),
        ({"dataset": "digits"}, {"critic": "their:net"}),
        ({"dataset": "digits"}, {"critic": " their : net"}),
        ({"dataset": "digits"}, {"contenders": ["uniform", "their:own"]}),
    ],
)
def test_what_a_folder_would_execute_has_to_be_given_again(source: dict[str, Any], settings: dict[str, Any]) -> None:
    names = commands_in(source, settings)
    assert len(names) == 1
    with pytest.raises(ValueError, match=r"^runs/a names code that it would run: --") as caught:
        check_consent("runs/a", source, settings, {})
    assert "--resume runs/a --" in str(caught.value)
    check_consent("runs/a", source, settings, {**source, **settings})
    for flag, value in names.items():
        other = [*value, "more"] if isinstance(value, list) else f"{value}s"
        with pytest.raises(ValueError, match="names code"):
            check_consent("runs/a", source, settings, {flag: other})


@pytest.mark.parametrize(
    ("source", "settings"),
    [
        ({"dataset": "digits", "data_dir": "data"}, {"critic": "small", "device": "cuda:1", "epochs": 3}),
        ({"dataset": "/home/me/a:b"}, {"critic": None, "strengths": [1.0]}),
        ({"shards": ["/data/train-{000..146}.tar"]}, {}),
    ],
)
def test_what_executes_nothing_need_not_be_given_again(source: dict[str, Any], settings: dict[str, Any]) -> None:
    check_consent("runs/a", source, settings, {})


# --- samples of other libraries ---------------------------------------------------------------------------------------


class HuggingFace:
    """A map-style dataset as the library `datasets` has it: samples are dicts, columns are asked for by name."""

    def __init__(self, count: int = 12) -> None:
        self.column_names = ["image", "label"]
        self.features = {"image": object(), "label": SimpleNamespace(names=["cat", "dog", "owl"])}
        self.images = pixels(count, 6, 6, 3)
        self.labels = [i % 3 for i in range(count)]
        self.decoded = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.labels if key == "label" else [Image.fromarray(image.numpy()) for image in self.images]
        self.decoded += 1
        return {"image": Image.fromarray(self.images[key].numpy()), "label": self.labels[key]}


def test_a_dataset_of_hugging_face() -> None:
    dataset = HuggingFace()
    loaded = load_images(dataset, num_images=6, balanced=True)
    assert loaded.labels.bincount().tolist() == [2, 2, 2]
    assert dataset.decoded == 6  # labels were asked for as a column
    assert loaded.names == ("cat", "dog", "owl")
    for image, label in zip(loaded.images, loaded.labels.tolist(), strict=True):
        (index,) = [i for i, own in enumerate(dataset.images) if torch.equal(own.permute(2, 0, 1), image)]
        assert dataset.labels[index] == label


def test_samples_that_are_dicts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", side=6)
    stored = [{"bytes": path.read_bytes(), "path": None}, {"bytes": None, "path": str(path)}]
    samples: list[Any] = [
        {"img": pixels(3, 6, 6), "fine_label": 2, "coarse_label": 9},
        {"image": pixels(6, 6, 3).numpy(), "label": np.int64(4), "id": "x"},
        *({"image": image, "labels": i} for i, image in enumerate(stored)),
    ]
    for given in (samples, iter(samples)):
        loaded = load_images(given)
        assert loaded.names == ("0", "1", "2", "4")
    masks = load_images([{"image": pixels(3, 6, 6), "annotation": Image.fromarray((GREY[:6, :6] % 2).numpy())}])
    assert masks.has_masks


@pytest.mark.parametrize(
    "label",
    [
        3,
        np.int64(3),
        np.uint8(3),
        np.array(3),
        np.array([3]),
        np.array([[3]]),
        torch.tensor(3),
        torch.tensor([3], dtype=torch.uint8),
    ],
    ids=repr,
)
def test_labels_of_other_libraries(label: Any) -> None:
    loaded = load_images([(pixels(3, 6, 6), label), (pixels(3, 6, 6), 5)])
    assert loaded.names == ("3", "5")
    assert loaded.labels.dtype == torch.int64


@pytest.mark.parametrize(
    "label", [np.array([1, 2]), np.array([1.5]), torch.tensor([0.0]), [3], None, {"id": 3}], ids=repr
)
def test_labels_that_are_no_whole_number(label: Any) -> None:
    with pytest.raises(ValueError, match=r"^the label of sample \d should be a whole number, but got"):
        load_images([(pixels(3, 6, 6), label), (pixels(3, 6, 6), label)])


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (4, 64, 48)])
def test_an_array_of_channels_first_is_refused(shape: tuple[int, ...]) -> None:
    array = pixels(*shape).numpy()
    found = re.escape(str(list(shape)))
    message = rf"^the array of sample \d should be \[H, W, C\], but its shape {found} looks like \[C, H, W\]"
    with pytest.raises(ValueError, match=message):
        load_images([(array, 0), (array, 1)])
    assert load_images([(torch.from_numpy(array), 0), (array.transpose(1, 2, 0), 1)]).images.shape[1:] == shape


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (48, 64, 4)])
def test_a_tensor_of_channels_last_is_refused(shape: tuple[int, ...]) -> None:
    image = pixels(*shape)
    found = re.escape(str(list(shape)))
    message = rf"^the tensor of sample \d should be \[C, H, W\], but its shape {found} looks like \[H, W, C\]"
    with pytest.raises(ValueError, match=message):
        load_images([(image, 0), (image, 1)])
    load_images([(image.permute(2, 0, 1), 0), (image.numpy(), 1)])


@pytest.mark.parametrize(
    ("image", "channels"), [(pixels(3, 4, 3), 3), (pixels(9, 7, 3).numpy()[..., :1], 1), (pixels(12, 9, 8), 12)]
)
def test_what_is_not_ambiguous_is_taken(image: Any, channels: int) -> None:
    assert load_images([(image, 0), (image, 1)]).images.shape[1] == channels


# --- broken files -----------------------------------------------------------------------------------------------------


def test_broken_files_can_be_skipped(tmp_path: Path) -> None:
    write_classes(tmp_path, "cat", "dog", count=10)
    broken = [tmp_path / "cat" / "3.png", tmp_path / "dog" / "4.png"]
    for path in broken:
        path.write_bytes(b"no image")
    dataset = open_dataset(str(tmp_path))
    with pytest.raises(ValueError, match=r"^2 of 20 images cannot be read; repair or remove them:"):
        load_images(dataset)
    loaded = load_images(dataset, skip_broken=True)
    assert len(loaded) == 18
    (note,) = loaded.notes
    assert note.startswith("2 of 20 images cannot be read and are left out:\n")
    assert all(str(path) in note for path in broken)
    assert note in loaded.describe()
    for seed in range(4):  # others are drawn in their place
        assert len(load_images(dataset, num_images=16, balanced=True, seed=seed, skip_broken=True)) == 16


def test_broken_images_of_a_stream_can_be_skipped(tmp_path: Path) -> None:
    data = write(tmp_path / "a.png").read_bytes()

    def stream() -> Iterator[Any]:
        for i in range(6):
            yield Encoded(data if i != 2 else b"no image", f"{i}.png"), i % 2

    loaded = load_images(stream(), skip_broken=True)
    assert len(loaded) == 5
    assert "2.png" in loaded.notes[0]


# --- what was loaded, and whether it is the same ----------------------------------------------------------------------


def test_what_was_loaded_is_said_in_a_line(tmp_path: Path) -> None:
    write_classes(tmp_path, "cat", "dog", count=3)
    loaded = load_images(open_dataset(str(tmp_path)), num_images=4, balanced=True)
    assert loaded.describe() == "4 of 6 images, 3×6×6 (channels, height, width); 2 classes: cat (2), dog (2)"
    masks = load_images([(pixels(3, 6, 6), GREY[:6, :6] % 3)])
    assert masks.describe() == "1 of 1 images, 3×6×6 (channels, height, width); masks of 3 classes: 0, 1, 2"
    many = ImageSet(pixels(30, 1, 4, 4), torch.arange(30), 30)
    assert many.describe().endswith(
        "30 classes: 0 (1), 1 (1), 2 (1), 3 (1), 4 (1), 5 (1), 6 (1), 7 (1), 8 (1), 9 (1) and 20 more"
    )


def base(**changes: Any) -> ImageSet:
    fields = {"images": pixels(6, 3, 5, 5), "labels": torch.arange(6) % 3, "classes": 3, "names": ("a", "b", "c")}
    return ImageSet(**{**fields, "available": 9, **changes})


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"images": pixels(6, 3, 5, 5, seed=1)}, "images were changed or replaced"),
        ({"labels": (torch.arange(6) + 1) % 3}, "their labels or masks were changed"),
        ({"images": pixels(6, 3, 4, 5)}, "their shape was 3×5×5 and is 3×4×5"),
        ({"names": ("a", "b", "d")}, "they have no class c any more"),
        ({"names": ("a", "b", "c", "d"), "classes": 4}, "they have a new class, d"),
        ({"images": pixels(5, 3, 5, 5), "labels": torch.arange(5) % 3}, "they were 6 and are 5"),
        ({"available": 10}, "they were drawn from 9 images and now are from 10"),
    ],
)
def test_a_run_goes_on_with_the_same_images_only(changes: dict[str, Any], difference: str) -> None:
    saved, now = base().identity(), base(**changes).identity()
    check_same(saved, base().identity(), "runs/a")
    check_same(saved, base(notes=("something",)).identity(), "runs/a")
    message = (
        f"the images should be those that runs/a was started with, but {difference}; "
        "give the same data, or start again in another folder"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_same(saved, now, "runs/a")


def test_the_checksum_is_of_images_and_labels() -> None:
    one = base().checksum()
    assert re.fullmatch("[0-9a-f]{16}", one)
    assert base(names=(), available=None).checksum() == one
    assert base(images=pixels(6, 3, 5, 5).flip(0)).checksum() != one
    assert base(labels=torch.tensor([0, 1, 2, 0, 2, 1])).checksum() != one
    strided = base(images=pixels(6, 5, 5, 3).permute(0, 3, 1, 2))
    assert strided.checksum() == base(images=strided.images.contiguous()).checksum()


def test_a_subset_keeps_what_is_known() -> None:
    part = base().subset(torch.tensor([1, 2]))
    assert (part.names, part.available, len(part)) == (("a", "b", "c"), 9, 2)
    assert part.to(torch.device("cpu")).names == part.names


# --- large images -----------------------------------------------------------------------------------------------------


def photograph(height: int, width: int, **options: Any) -> bytes:
    """A JPEG with structure at all scales."""
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    waves = [np.sin(2 * np.pi * f * (x * c + y * (1 - c))) / f for f, c in ((1, 0.3), (5, 0.8), (23, 0.1), (90, 0.6))]
    grey = sum(waves)
    image = np.stack([grey, grey.T[:1, :1] + grey, -grey], 2) if height == width else np.stack([grey, -grey, grey], 2)
    image = ((image - image.min()) / np.ptp(image) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=92, **options)
    return file.getvalue()


@pytest.mark.parametrize(("shape", "size"), [((1200, 1600), (64, 64)), ((700, 600), (32, 48))])
def test_a_large_jpeg_is_decoded_smaller_with_the_same_result(
    shape: tuple[int, int], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photograph(*shape)
    decoded = open_image(io.BytesIO(data), at_least=size)
    assert decoded.height * 2 <= shape[0]
    assert min(decoded.height / size[0], decoded.width / size[1]) >= 4
    sample = Encoded(data, "a.jpg")
    small = load_images([(sample, 0), (sample, 1)], size=size).images[0].int()
    monkeypatch.setattr(image_files, "_GAP", 10_000)  # decoded whole
    exact = load_images([(sample, 0), (sample, 1)], size=size).images[0].int()
    assert (small - exact).abs().float().mean() < 1
    assert (small - exact).abs().max() <= 12


def test_a_jpeg_that_is_not_much_larger_is_decoded_whole() -> None:
    data = photograph(375, 500)
    assert open_image(io.BytesIO(data), at_least=(256, 256)).size == (500, 375)
    assert open_image(io.BytesIO(data)).size == (500, 375)


def test_photographs_without_a_size_are_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = (pixels(3, side, side) for side in (600, 400))
    said: list[str] = []
    load_images([(large, 0), (large, 1)], tell=said.append)
    (line,) = said
    assert line.startswith("2 images of 600×600 pixels take 0.0 GiB, as no image size is given")
    load_images([(large, 0), (large, 1)], size=(32, 32), tell=said.append)
    load_images([(small, 0), (small, 1)], tell=said.append)
    assert len(said) == 1
    monkeypatch.setattr(held, "memory", lambda: 10**6)
    message = (
        r"^2 images of 600×600 pixels take 0.0 GiB, but the machine has 0.0; lower num_images, or give an image size"
    )
    with pytest.raises(ValueError, match=message):
        load_images([(large, 0), (large, 1)])


def test_statistics_are_those_of_all_pixels() -> None:
    images = pixels(7, 3, 300, 400)  # counted in several parts
    images[:, 1] //= 2
    images[:, 2] = 9
    mean, std = ImageSet(images, torch.arange(7) % 2, 2).statistics()
    values = images.transpose(0, 1).flatten(1).double() / 255
    assert mean == pytest.approx(values.mean(1).tolist(), abs=1e-12)
    assert std == pytest.approx([*values[:2].std(1, correction=0).tolist(), 1e-3], abs=1e-9)


# What a process inherits from the one that started it counts in `resource`, not here.
PEAK = """
def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
"""

MEMORY = """
import torch
from fasteraa_transforms.search import load_images

torch.set_num_threads(1)

class Photographs:
    targets = [i % 2 for i in range(400)]
    def __len__(self):
        return 400
    def __getitem__(self, index):
        return torch.full((3, 256, 256), index % 256, dtype=torch.uint8), index % 2

warm = load_images([(torch.zeros(3, 300, 300, dtype=torch.uint8), i) for i in range(2)])
warm.statistics(), warm.identity()
before = peak()
loaded = load_images(Photographs())
loaded.statistics(), loaded.identity(), loaded.describe()
print((peak() - before) / loaded.images.numel())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory otherwise")
def test_loading_takes_at_most_twice_the_memory_of_the_images() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PEAK + MEMORY],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0.9 < float(result.stdout) < 2


PHOTOGRAPHS = """
import sys
import torch
from fasteraa_transforms.search import load_images
from fasteraa_transforms.search.data.samples import Encoded

torch.set_num_threads(1)
data = open(sys.argv[1], "rb").read()
count = int(sys.argv[2])
loaded = load_images([(Encoded(data, f"{i}.jpg"), i % 2) for i in range(count)], size=(64, 64))
loaded.statistics(), loaded.identity()
assert loaded.images.shape == (count, 3, 64, 64)
print(peak() / 2**30)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory otherwise")
@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_photographs_of_12_megapixels_fit_into_a_gigabyte(count: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(photograph(3000, 4000))
    result = subprocess.run(
        [sys.executable, "-c", PEAK + PHOTOGRAPHS, str(path), str(count)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(result.stdout) < 1


def test_the_help_names_every_data_set(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for command in (search_cli.main, evaluate.main):
        with pytest.raises(SystemExit):
            command(["--help"])
        said = capsys.readouterr().out
        assert all(name in said for name in DATASETS)


# --- helps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "field"), [(Settings, "num_images"), (Settings, "padding"), (TrainingSettings, "cutout")]
)
def test_helps_have_the_numbers_of_the_table(owner: type, field: str) -> None:
    source = Path(sys.modules[owner.__module__].__file__ or "").read_text(encoding="utf-8")
    help_text = source.partition(f"    {field}: ")[2].partition('"""')[2].partition('"""')[0].replace("\n", " ")
    for part in defaults(field).split("; "):
        number = part.rpartition(" ")[2]
        assert number in help_text or f"{{defaults({field!r})}}" in source, (part, help_text)
