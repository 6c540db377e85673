"""The search on masks: how they are read, that they follow their images, what the critic learns, and whole runs."""

import copy
import dataclasses
import doctest
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import STEP_METRICS, wasserstein
from PIL import Image
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as tv

from fasteraa_transforms import Candidate, FasterAutoAugment, Policy
from fasteraa_transforms.relaxed import RelaxedPolicy
from fasteraa_transforms.search import (
    Digits,
    SearchInterrupted,
    Settings,
    TrainingSettings,
    compare,
    load_images,
    open_dataset,
    parse_augmentations,
    search,
)
from fasteraa_transforms.search.__main__ import main
from fasteraa_transforms.search.algorithm.loop import batches
from fasteraa_transforms.search.algorithm.state import SearchState
from fasteraa_transforms.search.algorithm.wasserstein import Wasserstein
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.data.masks import IGNORED, MaskFolder
from fasteraa_transforms.search.evaluation.affinity import affinity_and_diversity
from fasteraa_transforms.search.networks.backbones import WideResNet
from fasteraa_transforms.search.networks.critic import Critic, gradient_penalty
from fasteraa_transforms.search.networks.fit import Fit, Recipe, fit
from fasteraa_transforms.search.networks.losses import SegmentationCritic, accuracy, chance, class_loss, soft_targets
from fasteraa_transforms.search.networks.table import make_backbone, make_pixel_network
from fasteraa_transforms.search.report import plots as pictures
from fasteraa_transforms.search.runtime.files import read_rows

DOCUMENT = Path(__file__).parents[2] / "docs" / "search-reference.md"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=seeded(seed))


def whole(low: int, high: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(low, high, shape, dtype=torch.uint8, generator=seeded(seed))


def always(operation: str, **values: Any) -> Policy:
    return Policy([[[Candidate(operation=operation, weight=1, probability=1, **values)]]])


class DigitMasks:
    """Digits at ``side``: the ink has class 1 to 10, by its digit, the background 0, and the lowest rows none."""

    def __init__(self, side: int = 16) -> None:
        self.digits, self.side = Digits(), side

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self.digits[index]
        image = tv.resize(image, [self.side, self.side])
        mask = torch.where(image[0] > 100, label + 1, 0)
        mask[-2:] = 255
        return image, mask


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load_images(DigitMasks(), num_images=240)


# --- reading ----------------------------------------------------------------------------------------------------------

IMAGES = whole(0, 256, 4, 3, 6, 7)
MASKS = whole(0, 3, 4, 6, 7, seed=1)
MASKS[:, 0] = 255

KINDS: dict[str, Callable[[Tensor], Any]] = {
    "uint8": lambda mask: mask,
    "int64": Tensor.long,
    "int16": lambda mask: mask.to(torch.int16),
    "uint16": lambda mask: mask.to(torch.uint16),
    "[1, H, W]": lambda mask: mask[None],
    "tv_tensor": tv_tensors.Mask,
    "array": lambda mask: mask.numpy(),
    "uint32 array": lambda mask: mask.numpy().astype(np.uint32),
    "PIL L": lambda mask: Image.fromarray(mask.numpy()),
    "PIL P": lambda mask: as_palette(mask),
    "PIL I": lambda mask: Image.fromarray(mask.numpy().astype(np.int32)),
    "PIL I;16": lambda mask: Image.fromarray(mask.numpy().astype(np.uint16)),
}


def as_palette(mask: Tensor) -> Image.Image:
    image = Image.fromarray(mask.numpy())
    image.putpalette([200, 0, 0] * 256)  # the indices are the classes, not the colours
    return image


def in_order(loaded: ImageSet) -> Tensor:
    """The masks in the order of `IMAGES`."""
    return loaded.labels[
        [next(i for i, each in enumerate(loaded.images) if torch.equal(each, image)) for image in IMAGES]
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("once", [False, True], ids=["map-style", "iterable"])
def test_masks_of_every_kind_keep_their_classes(kind: str, once: bool) -> None:
    samples = [(image, KINDS[kind](mask)) for image, mask in zip(IMAGES, MASKS, strict=True)]
    loaded = load_images(iter(samples) if once else samples)
    assert loaded.has_masks
    assert (loaded.classes, loaded.labels.dtype) == (3, torch.uint8)
    assert torch.equal(in_order(loaded), MASKS)


def test_masks_of_two_values() -> None:
    for kind in (torch.bool, "PIL 1"):
        masks = [mask == 1 for mask in MASKS]
        given = [Image.fromarray(mask.numpy()) if kind == "PIL 1" else mask for mask in masks]
        loaded = load_images(list(zip(IMAGES, given, strict=True)))
        assert loaded.classes == 2
        assert torch.equal(in_order(loaded), torch.stack(masks).byte())


def test_classes_are_numbered_as_they_occur() -> None:
    table = torch.tensor([300, 7, 40])
    masks = [torch.where(mask == 255, -1, table[mask.long() % 3]) for mask in MASKS]
    loaded = load_images(list(zip(IMAGES, masks, strict=True)), ignore_label=-1)
    assert loaded.classes == 3
    assert torch.equal(
        in_order(loaded), torch.where(MASKS == 255, 255, torch.tensor([2, 0, 1])[MASKS.long() % 3]).byte()
    )


OUTSIDE = "the mask of sample 0 should have classes from 0 to 65534, but got"
CLASSES = "masks should hold from 2 to 255 classes, but got"
REFUSED: dict[str, tuple[Any, str]] = {
    "size": (
        torch.zeros(6, 8, dtype=torch.uint8),
        "the mask of sample 0 should have the height and width of its image, (6, 7), but got (6, 8) instead",
    ),
    "float": (torch.zeros(6, 7), "the mask of sample 0 should hold whole numbers, but got float32 instead"),
    "axes": (
        torch.zeros(2, 6, 7, dtype=torch.uint8),
        "the mask of sample 0 should have the shape [H, W], but got [2, 6, 7] instead",
    ),
    "negative": (
        torch.full((6, 7), -1),
        f"{OUTSIDE} -1 instead; ignore_label (now 255) says which value is no class",
    ),
    "large": (torch.full((6, 7), 70000), f"{OUTSIDE} 70000 instead; ignore_label (now 255)"),
    "RGB": (
        Image.new("RGB", (7, 6)),
        "the mask of sample 0 should hold classes (a PIL image of mode 1, L, P, I, I;16), "
        "but got one of mode RGB instead",
    ),
    "one class": (
        torch.zeros(6, 7, dtype=torch.uint8),
        f"{CLASSES} only class 0 instead; the value 255 (ignore_label) is no class",
    ),
    "all ignored": (torch.full((6, 7), 255, dtype=torch.uint8), f"{CLASSES} 0 in 1 masks instead"),
}


@pytest.mark.parametrize(("mask", "message"), REFUSED.values(), ids=REFUSED)
def test_masks_that_are_refused(mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        load_images([(IMAGES[0], mask)])


def test_more_classes_than_a_byte_holds() -> None:
    mask = torch.arange(256).reshape(16, 16) + 1000
    samples = [(torch.zeros(1, 16, 16, dtype=torch.uint8), mask)]
    with pytest.raises(ValueError, match=r"^masks should hold from 2 to 255 classes, but got 256 in 1 masks instead"):
        load_images(samples)
    mask[0, 0] = 255
    assert load_images(samples).classes == 255


def test_masks_among_labels() -> None:
    samples = [(IMAGES[0], MASKS[0]), (IMAGES[1], 1), (IMAGES[2], MASKS[2])]
    with pytest.raises(ValueError, match=r"^samples should all have masks, or all labels, but 2 of 3 have masks$"):
        load_images(samples)


@pytest.mark.parametrize("once", [False, True], ids=["map-style", "iterable"])
def test_masks_cannot_be_balanced(once: bool) -> None:
    samples = list(zip(IMAGES, MASKS, strict=True))
    with pytest.raises(
        ValueError, match=r"^balanced takes a label for each image, but sample \d has a mask; leave it out$"
    ):
        load_images(iter(samples) if once else samples, num_images=2, balanced=True)
    with pytest.raises(ValueError, match=r"^num_classes takes a label for each image, but sample 0 has a mask"):
        load_images(samples, num_classes=2)


@pytest.mark.parametrize(("shape", "size"), [((64, 48), (16, 16)), ((20, 30), (15, 10)), ((8, 8), (24, 32))])
def test_a_mask_is_resized_and_cropped_with_its_image(shape: tuple[int, int], size: tuple[int, int]) -> None:
    rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, extent) for extent in shape), indexing="ij")
    mask = ((rows - 0.2) ** 2 + (columns + 0.1) ** 2 < 0.3).byte()
    loaded = load_images([(mask[None] * 255, mask * 9)], size=size)
    assert loaded.labels.shape == (1, *size)
    assert loaded.labels.unique().tolist() == [0, 1]
    # Where the image is not blurred, the mask has the class of the image's pixel; where it is, the nearer one mostly.
    image = loaded.images[0, 0]
    assert torch.equal(loaded.labels[0][image == 255], torch.ones_like(loaded.labels[0][image == 255]))
    assert (loaded.labels[0][image == 0] == 0).all()
    assert ((image > 127) == (loaded.labels[0] == 1)).float().mean() > 0.97


def test_a_crop_cuts_and_flips_images_and_masks_alike() -> None:
    images = whole(0, 256, 40, 1, 9, 11)
    crop = Crop((8, 10), padding=3, flip=True)
    cropped, masks = crop.samples(images, images[:, 0], generator=seeded(4))
    assert torch.equal(cropped, crop(images, generator=seeded(4)))
    outside = crop(torch.ones_like(images), generator=seeded(4))[:, 0] == 0
    assert outside.any()
    assert torch.equal(masks, torch.where(outside, IGNORED, cropped[:, 0]))
    labels = torch.arange(40)
    assert crop.samples(images, labels)[1] is labels


# --- a folder of images and masks -------------------------------------------------------------------------------------


def write_folder(root: Path, names: list[str]) -> None:
    for name, image, mask in zip(names, IMAGES, MASKS, strict=False):
        for part, array, ending in (("images", image.permute(1, 2, 0), "png"), ("masks", mask, "tif")):
            path = root / part / f"{name}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.numpy()).save(path)


def test_a_folder_of_images_and_masks(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a", "b", "more/a", "more/c.d"])
    (tmp_path / "images" / "notes.txt").write_text("no image")
    dataset = open_dataset(str(tmp_path))
    assert isinstance(dataset, MaskFolder)
    assert len(dataset) == 4
    loaded = load_images(dataset)
    assert torch.equal(in_order(loaded), MASKS)


def without_an_image(root: Path) -> None:
    for path in (root / "images").iterdir():
        path.unlink()
    for path in (root / "masks").iterdir():
        path.unlink()


ALONE = "should have its other half, but 1 have none, such as"
UNUSABLE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no mask": (lambda root: (root / "masks" / "b.tif").unlink(), f"{ALONE} 'b' of images/$"),
    "no image": (lambda root: (root / "images" / "a.png").unlink(), f"{ALONE} 'a' of masks/$"),
    "two of a name": (
        lambda root: (root / "images" / "a.jpg").touch(),
        r"images' should differ, but got a\.jpg and a\.png$",
    ),
    "empty": (without_an_image, "^images/ of .* should hold images, but got none$"),
}


@pytest.mark.parametrize(("change", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_folder_of_masks(tmp_path: Path, change: Callable[[Path], Any], message: str) -> None:
    write_folder(tmp_path, ["a", "b"])
    change(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_dataset(str(tmp_path))


def test_a_torn_mask_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a", "b", "c"])
    (tmp_path / "masks" / "b.tif").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"^1 of 3 images cannot be read; repair or remove them:\n.*images/b\.png \("):
        load_images(open_dataset(str(tmp_path)))


# --- loss and accuracy ------------------------------------------------------------------------------------------------


def test_the_loss_of_masks_is_cross_entropy_without_ignored_pixels() -> None:
    masks, logits = whole(0, 4, 3, 6, 7), noise(3, 4, 6, 7).requires_grad_()
    masks[:, :2] = IGNORED
    targets = soft_targets(masks, 4)
    loss = class_loss(logits, targets)
    torch.testing.assert_close(loss, F.cross_entropy(logits, masks.long(), ignore_index=IGNORED))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[:, :, :2] == 0).all()
    assert (gradient[:, :, 2:] != 0).all()
    right = (logits.argmax(1) == masks)[:, 2:].float().mean()
    torch.testing.assert_close(accuracy(logits, targets), right)
    other = logits.detach().clone()
    other[:, :, :2] = 100 * noise(3, 4, 2, 7, seed=1)
    assert class_loss(other, targets) == loss
    assert accuracy(other, targets) == right


def test_the_loss_of_soft_masks_by_hand() -> None:
    logits = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])
    targets = torch.tensor([[[[0.5, 0.1]], [[0.5, 0.3]]]])  # of the second pixel 0.6 is ignored
    log_p = logits.log_softmax(1)[0, :, 0]
    expected = -(0.5 * log_p[0, 0] + 0.5 * log_p[1, 0] + 0.1 * log_p[0, 1] + 0.3 * log_p[1, 1]) / 1.4
    torch.testing.assert_close(class_loss(logits, targets), expected)
    torch.testing.assert_close(accuracy(logits, targets), torch.tensor(1.0))


def test_a_batch_without_any_class_has_loss_0() -> None:
    logits = noise(2, 3, 4, 4).requires_grad_()
    targets = soft_targets(torch.full((2, 4, 4), IGNORED, dtype=torch.uint8), 3)
    loss = class_loss(logits, targets)
    assert loss == 0
    assert (torch.autograd.grad(loss, logits)[0] == 0).all()
    assert accuracy(logits, targets) == 0


def test_labels_of_images_have_the_loss_they_had() -> None:
    logits, labels = noise(5, 300), torch.tensor([255, 0, 3, 299, 255])  # of images, 255 is a class
    assert torch.equal(soft_targets(labels, 300), labels)
    assert class_loss(logits, labels) == F.cross_entropy(logits, labels)
    assert accuracy(logits, labels) == (logits.argmax(1) == labels).float().mean()


def test_chance_is_the_share_of_the_most_frequent_class() -> None:
    masks = torch.tensor([[[0, 1, 1, 255]], [[2, 1, 1, 255]]], dtype=torch.uint8)
    assert chance(masks) == pytest.approx(4 / 6)


# --- the critic -------------------------------------------------------------------------------------------------------


def with_batch_norm(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.LeakyReLU(0.2))


@pytest.mark.parametrize(
    ("name", "shape", "features"),
    [
        ("small", (1, 32, 32), (64, 8, 8)),
        ("small", (2, 21, 33), (64, 6, 9)),
        ("compact", (1, 32, 24), (128, 8, 6)),
        ("resnet9", (1, 32, 24), (256, 8, 6)),
        ("wrn40_2", (3, 32, 24), (128, 8, 6)),
        ("resnet50", (3, 64, 64), (2048, 8, 8)),
        ("resnet50", (4, 64, 64), (2048, 8, 8)),
        (f"{__name__}:with_batch_norm", (2, 9, 11), (8, 7, 9)),
    ],
)
def test_every_backbone_has_a_feature_map(
    name: str, shape: tuple[int, int, int], features: tuple[int, int, int]
) -> None:
    backbone = make_backbone(name, shape[0], feature_map=True).eval()
    images = noise(2, *shape)
    with torch.no_grad():
        assert backbone(images).shape == (2, *features)
        score, logits = SegmentationCritic(backbone, classes=5, image_shape=shape)(images)
    assert score.shape == (2,)
    assert logits.shape == (2, 5, *shape[1:])


def test_the_heads_by_hand() -> None:
    critic = SegmentationCritic(make_backbone("small", 1, feature_map=True), classes=3, image_shape=(1, 16, 16))
    images = noise(2, 1, 16, 16)
    features = critic.backbone(images)
    head = torch.einsum("bfhw,cf->bchw", features, critic.class_head.weight[:, :, 0, 0])
    head = head + critic.class_head.bias[:, None, None]
    score, logits = critic(images)
    torch.testing.assert_close(logits, F.interpolate(head, (16, 16), mode="bilinear"))
    torch.testing.assert_close(score, critic.critic_head(features.mean((2, 3)))[:, 0])


def test_backbones_of_the_other_kind_are_refused() -> None:
    message = r"^for masks the backbone should give a feature map \[B, F, h, w\], but gave \[1, 256\] instead$"
    with pytest.raises(ValueError, match=message):
        SegmentationCritic(make_backbone("small", 1), classes=3, image_shape=(1, 16, 16))
    with pytest.raises(
        ValueError, match=r"^the backbone should give features \[B, F\], but gave \[1, 64, 4, 4\] instead$"
    ):
        Critic(make_backbone("small", 1, feature_map=True), classes=3, image_shape=(1, 16, 16))


@pytest.mark.parametrize("name", ["small", "wrn"])
def test_the_critic_has_the_derivatives_of_torchs(name: str) -> None:
    torch.manual_seed(0)
    backbone = (
        WideResNet(10, 1, channels=2, feature_map=True) if name == "wrn" else make_backbone(name, 2, feature_map=True)
    )
    critic = SegmentationCritic(backbone, classes=3, image_shape=(2, 12, 12)).double()
    plain = copy.deepcopy(critic)
    for module in plain.modules():
        for kind in (nn.Conv2d, nn.BatchNorm2d):
            if isinstance(module, kind):
                module.__class__ = kind
    real, augmented = noise(4, 2, 12, 12).double(), noise(4, 2, 12, 12, seed=1).double()
    targets = soft_targets(whole(0, 3, 4, 12, 12), 3, torch.float64)

    def gradients(network: nn.Module) -> tuple[Tensor, ...]:
        penalty = gradient_penalty(lambda x: network(x)[0], real, augmented, noise(4).double())
        scores, logits = network(real)
        loss = penalty + scores.mean() + class_loss(logits, targets)
        return torch.autograd.grad(loss, list(network.parameters()))

    for mine, reference in zip(gradients(critic), gradients(plain), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-8, atol=1e-10)


# --- the policy on masks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("magnitude", [0.12, 0.35, 0.6, 1.0])
@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate", "flip"])
def test_the_relaxed_mask_is_that_of_the_exported_transform(name: str, magnitude: float) -> None:
    images, masks = whole(0, 256, 2, 3, 20, 26), whole(0, 4, 2, 20, 26)
    policy = RelaxedPolicy(1, 1, operations=(name,))
    with torch.no_grad():
        policy.probabilities.fill_(1)
        policy.magnitudes.fill_(magnitude)
    magnitude = policy.magnitudes.item()  # as a float32
    draw = policy.draw(2)
    for sign in (1, -1):
        draw = draw._replace(gate=torch.full_like(draw.gate, 0.5), sign=torch.full_like(draw.sign, sign))
        rest = {} if name == "flip" else {"magnitude": magnitude, "sign": sign}
        transform = FasterAutoAugment(always(name, **rest), fill={tv_tensors.Mask: IGNORED, "others": 0})
        moved_images, moved_masks = transform(images, tv_tensors.Mask(masks))
        found = policy.move_masks(soft_targets(masks, 4), draw).round()
        assert torch.equal(torch.where(found.sum(1) > 0, found.argmax(1), IGNORED), moved_masks.long())
        assert torch.equal((policy(images / 255, draw) * 255).round().byte(), moved_images)
        assert (moved_masks != masks).any()


def test_a_magnitude_learns_from_masks_how_far_to_move_them() -> None:
    # The classes are known to lie 6 pixels further left than the mask has them: 0.45 × 32 × 5 / 12.
    masks = torch.zeros(1, 32, 32, dtype=torch.uint8)
    masks[:, 8:24, 10:26] = 1
    known = 6 * soft_targets(masks.roll(-6, 2), 2)
    policy = RelaxedPolicy(1, 1, operations=("translate_x",))
    with torch.no_grad():
        policy.probabilities.fill_(1)
        policy.magnitudes.fill_(0.05)
    draw = policy.draw(1)._replace(gate=torch.full((1, 1, 1), 0.5), sign=torch.ones(1, 1, 1))
    optimizer = torch.optim.Adam([policy.magnitudes], lr=0.02)
    for _ in range(40):
        loss = class_loss(known, policy.move_masks(soft_targets(masks, 2), draw))
        optimizer.zero_grad()
        loss.backward()
        assert policy.magnitudes.grad.isfinite().all()
        optimizer.step()
    assert policy.magnitudes.item() == pytest.approx(5 / 12, abs=0.08)


def make_state(classes: int = 3) -> SearchState:
    torch.manual_seed(7)
    policy = RelaxedPolicy(4, 2, sample_selection=True, generator=seeded(3))
    critic = SegmentationCritic(make_backbone("small", 2, feature_map=True), classes=classes, image_shape=(2, 12, 12))
    optimizers = (torch.optim.SGD(part.parameters(), lr=0.1) for part in (policy, critic))
    return SearchState(policy, critic, *optimizers, seeded(11))


def test_a_step_takes_masks() -> None:
    objective = wasserstein(torch.tensor([0.4, 0.6]), torch.tensor([0.2, 0.5]), classification_weight=0.7)
    state, images, masks = make_state(), noise(12, 2, 12, 12), whole(0, 3, 12, 12, 12)
    masks[:, :3] = IGNORED
    before = copy.deepcopy(state)
    measured = {name: value.item() for name, value in objective.step(state, images, masks).items()}
    draw = before.policy.draw(6, generator=before.generator)
    augmented = objective.tools.normalise(before.policy(images[:6], draw))
    real_logits = before.critic(objective.tools.normalise(images[6:]))[1]
    expected = F.cross_entropy(real_logits, masks[6:].long(), ignore_index=IGNORED).item()
    assert measured["class_loss_real"] == pytest.approx(expected, rel=1e-5)
    moved = before.policy.move_masks(soft_targets(masks[:6], 3), draw)
    logits = state.critic(augmented)[1]  # after its step
    assert measured["class_loss_augmented"] == pytest.approx(class_loss(logits, moved).item(), rel=1e-4)
    assert measured["accuracy_augmented"] == pytest.approx(accuracy(logits, moved).item(), abs=1e-6)


def test_of_a_real_image_the_classes_of_ignored_pixels_change_nothing() -> None:
    objective = wasserstein(torch.tensor([0.4, 0.6]), torch.tensor([0.2, 0.5]))
    images, masks = noise(8, 2, 12, 12), whole(0, 3, 8, 12, 12)
    results = []
    for below in (IGNORED, 7):  # no class of the critic's either
        each = masks.clone()
        each[:, 5:] = below
        state = make_state()
        results.append((objective.step(state, images, each), state.critic.class_head.weight.detach()))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    other = masks.clone()
    other[:, 5:] = 0
    assert objective.step(make_state(), images, other) != results[0][0]


def test_a_critic_learns_the_digits_pixels(digits: ImageSet) -> None:
    torch.manual_seed(0)
    critic = SegmentationCritic(make_backbone("small", 1, feature_map=True), classes=11, image_shape=(1, 16, 16))
    state = dataclasses.replace(
        make_state(), critic=critic, critic_optimizer=torch.optim.Adam(critic.parameters(), 5e-3)
    )
    objective = wasserstein(torch.tensor([0.3]), torch.tensor([0.35]))
    for _ in range(40):
        pairs = batches(digits, 60, Crop((16, 16)), generator=state.generator)
        measured = [objective.tools.classify(state, *pair)["accuracy"] for pair in pairs]
    assert torch.stack(measured).mean() > chance(digits.labels) + 0.15


# --- networks that judge ----------------------------------------------------------------------------------------------


def trained(data: ImageSet, *, epochs: int, augment: Policy | None = None) -> Fit:
    training = Fit(
        data,
        lambda: make_pixel_network("resnet9-4", channels=1, classes=data.classes),
        Recipe(epochs=epochs, batch_size=20),
        Crop((16, 16), padding=1),
        augment=augment,
    )
    fit(training)
    return training


def test_a_trained_network_knows_the_pixels(digits: ImageSet) -> None:
    part = ImageSet(digits.images[:180], digits.labels[:180], 11)
    unseen = ImageSet(digits.images[180:], digits.labels[180:], 11)
    training = trained(part, epochs=8)
    assert training.logits(digits.images[:2]).shape == (2, 11, 16, 16)
    error, loss = training.test(unseen)
    assert error < 1 - chance(unseen.labels) - 0.1
    logits, labels = training.logits(unseen.images), unseen.labels.long()
    labelled = labels != IGNORED
    assert error == pytest.approx((logits.argmax(1) != labels)[labelled].double().mean().item(), abs=1e-6)
    assert loss == pytest.approx(F.cross_entropy(logits, labels, ignore_index=IGNORED).item(), rel=1e-4)
    larger = ImageSet(F.pad(unseen.images, (3, 3, 3, 3)), F.pad(unseen.labels, (3, 3, 3, 3)), 11)
    assert training.test(larger) == pytest.approx((error, loss), abs=1e-6)


def test_masks_are_augmented_with_their_images(digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    call = FasterAutoAugment.forward

    def watched(self: FasterAutoAugment, *inputs: Any) -> Any:
        seen.append(call(self, *inputs))
        return seen[-1]

    monkeypatch.setattr(FasterAutoAugment, "forward", watched)
    both = ImageSet(digits.labels[:60, None].clamp(max=11), digits.labels[:60].clamp(max=11), 12)
    rotate = always("rotate", magnitude=1.0)
    first = trained(both, epochs=3, augment=rotate)
    assert len(seen) == 3
    for images, masks in seen:
        moved_in = masks == IGNORED
        assert moved_in.any()
        assert torch.equal(masks.masked_fill(moved_in, 0), images[:, 0])
    assert trained(both, epochs=3, augment=rotate).test(both) == first.test(both)


# --- whole runs -------------------------------------------------------------------------------------------------------

TINY = Settings(
    contenders=(),
    epochs=2,
    num_images=48,
    batch_size=16,
    sub_policies=3,
    stages=1,
    padding=1,
    flip=False,
    critic="small",
    classifier_epochs=1,
    strengths=(1.0,),
)


@pytest.fixture
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib takes longer than the runs of some tests."""
    monkeypatch.setattr(pictures, "curves", lambda *args: None)
    monkeypatch.setattr(pictures, "curve_svg", lambda *args: "")


def without_time(provenance: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in provenance.items() if key != "seconds"}


def test_a_run_on_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = search(DigitMasks(), TINY, out=tmp_path / "run")
    said = capsys.readouterr().out
    assert re.search(r"\d+% of the pixels of clean images right \(chance \d+%\)", said)
    assert Policy.load(tmp_path / "run" / "policy.json") == policy
    found = json.loads((tmp_path / "run" / "diagnosis.json").read_text())
    subset = load_images(DigitMasks(), num_images=48)
    assert found["chance"] == pytest.approx(chance(subset.labels))
    assert found["of"] == "pixels"
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    steps = [row for row in rows if row["kind"] == "step"]
    assert len(steps) == 6
    assert all(np.isfinite(row[name]) for row in steps for name in STEP_METRICS)
    assert "Sub-policy 2" in (tmp_path / "run" / "report.html").read_text()
    again = search(DigitMasks(), TINY, progress=False)
    assert again == policy
    assert without_time(again.provenance) == without_time(policy.provenance)


@pytest.mark.usefixtures("_no_curves")
def test_a_resumed_run_on_masks_is_the_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = search(DigitMasks(), TINY, progress=False)
    step, calls = Wasserstein.step, []

    def interrupted(self: Wasserstein, *args: Any) -> dict[str, Tensor]:
        calls.append(None)
        if len(calls) == 5:  # in the second epoch
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(Wasserstein, "step", interrupted)
    with pytest.raises(SearchInterrupted, match="in epoch 2 of 2"):
        search(DigitMasks(), TINY, out=tmp_path, progress=False)
    found = search(DigitMasks(), TINY, out=tmp_path, resume=True, progress=False)
    assert found == expected
    assert without_time(found.provenance) == without_time(expected.provenance)


@pytest.mark.parametrize("critic", ["wrn40_2", f"{__name__}:with_batch_norm"])
def test_other_critics_take_masks(critic: str) -> None:
    settings = dataclasses.replace(TINY, epochs=1, critic=critic, num_images=16, batch_size=8, strengths=(1.0,))
    policy = search(DigitMasks(), settings, progress=False)
    assert all(np.isfinite(value) for value in policy.provenance["last_epoch"].values())


@pytest.mark.parametrize("given", [None, True, False])
def test_the_selection_is_sampled_for_masks(given: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    sampled = []
    draw = RelaxedPolicy.draw
    monkeypatch.setattr(
        RelaxedPolicy,
        "draw",
        lambda self, *args, **keys: sampled.append(self.sample_selection) or draw(self, *args, **keys),
    )
    settings = dataclasses.replace(TINY, epochs=1, num_images=16, strengths=(), sample_selection=given)
    search(DigitMasks(), settings, progress=False)
    assert sampled == [given is not False]
    search(Digits(), dataclasses.replace(settings, image_size=16), progress=False)
    assert sampled[1:] == [given is True]


@pytest.mark.usefixtures("_no_curves")
def test_a_folder_of_masks_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(8):
        image = whole(0, 256, 12, 10 + i, 3, seed=i)
        for part, array in (("images", image), ("masks", (image[..., 0] > 127).byte() * 200)):
            (tmp_path / "spots" / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.numpy()).save(tmp_path / "spots" / part / f"{i}.png")
    arguments = ["--preset", "paper", "--epochs", "1", "--batch-size", "8", "--stages", "1", "--image-size", "12"]
    out = tmp_path / "run"
    command = [str(tmp_path / "spots"), *arguments, "--out", str(out)]
    assert main([*command, "--ignore-label", "200"]) == 2
    assert "masks should hold from 2 to 255 classes, but got only class 0 instead" in capsys.readouterr().err
    assert main(command) == 0
    policy = Policy.load(out / "policy.json")
    assert (policy.name, policy.provenance["images"]) == ("spots", 8)


def test_the_example_of_the_documentation() -> None:
    failed, attempted = doctest.testfile(str(DOCUMENT), module_relative=False)
    assert failed == 0
    assert attempted >= 6


# --- what takes labels only -------------------------------------------------------------------------------------------


def test_affinity_and_diversity_refuse_masks(digits: ImageSet) -> None:
    with pytest.raises(ValueError, match=r"^affinity_diversity should be False for masks, but got True instead$"):
        search(DigitMasks(), TINY, affinity_diversity=True, progress=False)
    with pytest.raises(ValueError, match=r"^data should have a label for each image, but got masks instead$"):
        affinity_and_diversity(always("flip"), digits)


def test_an_evaluation_refuses_masks() -> None:
    settings = TrainingSettings(epochs=1, train_images=16)
    with pytest.raises(ValueError, match=r"^an evaluation takes a label for each image, but the dataset has masks$"):
        compare(DigitMasks(), parse_augmentations("none"), settings, progress=False)
