"""The recipes for other libraries run, and augment what they should; each is skipped where its library is absent."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from fasteraa_transforms import FasterAutoAugment, Policy

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
ALWAYS = {"operation": "flip", "weight": 1, "probability": 1.0}


def example(name: str, *libraries: str) -> ModuleType:
    """The module of an example."""
    for library in libraries:
        pytest.importorskip(library, reason="the recipes need the extra recipes")
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def distinct(images: torch.Tensor) -> int:
    return len({image.numpy().tobytes() for image in images})


def test_lightning_augments_in_training_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = example("lightning_module", "lightning")
    import lightning

    class Watched(module.Classifier):  # type: ignore[name-defined, misc]
        seen: dict[str, torch.Tensor] = {}  # noqa: RUF012

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
            self.seen["training"] = batch[0]
            return super().training_step(batch, batch_idx)  # type: ignore[no-any-return]

        def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
            self.seen["validation"] = batch[0]
            super().validation_step(batch, batch_idx)

    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    images = image.expand(32, -1, -1, -1).clone()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, torch.zeros(32, dtype=torch.int64)), batch_size=32
    )
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
    watched = Watched(network)
    lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(watched, loader, loader)
    assert torch.equal(Watched.seen["validation"], watched.normalise(images))
    assert distinct(Watched.seen["training"]) > 5  # the same image, each time drawn anew
    assert set(module.main()) == {"loss", "accuracy"}


def test_hugging_face_draws_for_each_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    module = example("hugging_face", "datasets")
    batch = module.main()
    assert batch["pixel_values"].shape == (8, 3, 32, 32)
    assert batch["labels"].tolist() == list(range(8))
    import datasets

    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    dataset = datasets.Dataset.from_dict({"image": [noise] * 16, "label": [0] * 16}, features=features)
    dataset.set_transform(module.augment_each(module.transform))
    assert distinct(module.collate([dataset[i] for i in range(16)])["pixel_values"]) > 3
    whole = dataset[:16]  # one call for all: a dict of lists
    assert distinct(torch.stack(whole["image"])) > 3


def test_timm_keeps_its_order() -> None:
    module = example("timm_transform", "timm")
    crop, policy, ready = module.training_transform(64).transforms
    assert isinstance(policy, FasterAutoAugment)
    assert "RandomResizedCrop" in repr(crop)
    assert "Normalize" in repr(ready)
    assert "RandomErasing" in repr(ready)
    assert module.main().shape == (3, 64, 64)


def test_torchvisions_preset() -> None:
    module = example("torchvision_reference")
    names = [type(each).__name__ for each in module.preset(64).transforms]
    assert names[1:4] == ["RandomHorizontalFlip", "FasterAutoAugment", "PILToTensor"]
    images, labels = module.main()
    assert images.shape == (8, 3, 64, 64)
    assert labels.shape == (8, 10)
    assert labels.sum(1) == pytest.approx([1.0] * 8, abs=1e-5)


def test_webdataset_augments_in_its_pipeline(tmp_path: Path) -> None:
    module = example("webdataset_shards", "webdataset")
    images, labels = module.main()
    assert images.shape == (8, 3, 48, 48)
    assert images.dtype == torch.float32
    assert sorted(labels.tolist()) == list(range(8))


def test_ultralytics_moves_boxes_with_their_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    module = example("ultralytics_detector", "ultralytics", "albumentations")
    assert module.main()["instances"].bboxes.shape[1] == 4
    made = Policy([[[ALWAYS]]]).to_albumentations((64, 64))
    transform = module.Albumentations(p=1.0, transforms=list(made.transforms))
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    boxes = module.Instances(
        np.array([[0.25, 0.5, 0.2, 0.4]], dtype=np.float32),
        np.zeros((0, 1000, 2), dtype=np.float32),
        bbox_format="xywh",
        normalized=True,
    )
    found = transform({"img": picture, "cls": np.array([[0.0]]), "instances": boxes})
    assert np.array_equal(found["img"], picture[:, ::-1])
    found["instances"].convert_bbox("xywh")
    assert found["instances"].bboxes[0] == pytest.approx([0.75, 0.5, 0.2, 0.4], abs=1e-5)


def test_every_example_is_on_the_page_of_recipes() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    shown = re.findall(r"^```\{literalinclude\} \.\./examples/(\w+)\.py$", page, re.MULTILINE)
    assert sorted(shown) == sorted(path.stem for path in EXAMPLES.glob("*.py"))
    for path in EXAMPLES.glob("*.py"):
        assert f"(../examples/{path.name})" in page
        assert max(map(len, path.read_text("utf-8").splitlines())) <= 84, path.name
        compile(path.read_text("utf-8"), str(path), "exec")
