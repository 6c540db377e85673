"""The policy as a torchvision transform: what it takes and returns, how it draws, copies, workers, refusals."""

import copy
import functools
import importlib
import pickle
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_flatten
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from fasteraa_transforms import OPERATIONS, Epilogue, FasterAutoAugment, Policy, PolicyError, apply

NAMES = list(OPERATIONS)
SHIPPED = sorted(
    entry.name.removesuffix(".json")
    for entry in (files("fasteraa_transforms") / "policies").iterdir()
    if entry.name.endswith(".json")
)
BILINEAR = InterpolationMode.BILINEAR


def every_operation() -> Policy:
    """17 sub-policies of two stages, each operation once in each stage; applied three times in four."""
    candidates = [
        {"operation": name, "weight": 1, "probability": 0.75, "magnitude": 0.7 if operation.has_magnitude else None}
        for name, operation in OPERATIONS.items()
    ]
    return Policy([[[candidates[n]], [candidates[n - 5]]] for n in range(len(NAMES))], name="everything")


POLICY = every_operation()
# On a black image, the place of two squares of 13 × 13: as good as a number that says which draw it was.
SQUARES = Policy([[[{"operation": "cutout", "weight": 1, "probability": 1, "magnitude": 1}]] * 2], name="squares")


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Pieces of a photograph, uint8 [48, 3, 20, 24]."""
    from sklearn.datasets import load_sample_images

    photograph = torch.from_numpy(load_sample_images().images[0].copy()).permute(2, 0, 1)
    return photograph[:, :320, :288].reshape(3, 16, 20, 12, 24)[:, :4].permute(1, 3, 0, 2, 4).reshape(48, 3, 20, 24)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def expected(images: Any, count: int, seed: int = 3, **options: Any) -> Any:
    """What the transform gives on its first call with the generator of this seed."""
    return apply(images, POLICY.sample(count, seeded(seed)), **options)


def augment(sample: Any, seed: int = 3, **options: Any) -> Any:
    return FasterAutoAugment(POLICY, generator=seeded(seed), **options)(sample)


# --- what it takes and returns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", [None, tv_tensors.Image, torch.nn.Parameter])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
@pytest.mark.parametrize("leading", [(), (48,), (6, 8), (1,), (0,)])
def test_tensors(images: Tensor, leading: tuple[int, ...], dtype: torch.dtype, wrapper: Any) -> None:
    if wrapper is torch.nn.Parameter and dtype == torch.uint8:
        return  # parameters are floats
    count = int(np.prod(leading))
    batch = images[:count] if dtype == torch.uint8 else (images[:count] / 255).to(dtype)
    batch = batch.reshape(*leading, 3, 20, 24)
    given = batch if wrapper is None else wrapper(batch)
    before = batch.clone()
    result = augment(given)
    assert type(result) is (tv_tensors.Image if wrapper is tv_tensors.Image else Tensor)
    assert (result.shape, result.dtype, result.device) == (batch.shape, batch.dtype, batch.device)
    assert torch.equal(result.detach().as_subclass(Tensor), expected(batch, count))
    assert torch.equal(batch, before)
    assert count < 2 or not torch.equal(result, batch)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_pil(images: Tensor, mode: str) -> None:
    changed = 0
    for seed in range(12):
        image = to_pil_image(images[seed]).convert("L" if mode == "I;16" else mode)
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
        before = image.tobytes()
        result = augment(image, seed)
        assert isinstance(result, Image.Image)
        assert (result.mode, result.size) == (mode, image.size)
        assert result.tobytes() == expected(image, 1, seed).tobytes()
        assert image.tobytes() == before
        changed += result.tobytes() != before
    assert changed > 6


@pytest.mark.parametrize("channels", [1, 3])
def test_same_seed_gives_the_same_pixels_on_pil_and_tensor(images: Tensor, channels: int) -> None:
    transform = FasterAutoAugment(POLICY, fill=100)
    for seed in range(24):
        tensor = images[seed, :channels]
        results = []
        for image in (to_pil_image(tensor), tensor, tv_tensors.Image(tensor), tensor[None]):
            torch.manual_seed(seed)
            result = transform(image)
            results.append(pil_to_tensor(result) if isinstance(result, Image.Image) else result.reshape(tensor.shape))
        for result in results[1:]:
            assert torch.equal(results[0], result)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_frames_of_a_video_share_one_draw(images: Tensor, dtype: torch.dtype) -> None:
    frames = images if dtype == torch.uint8 else images / 255
    for seed in range(8):
        video = tv_tensors.Video(frames[:6])
        result = augment(video, seed)
        assert type(result) is tv_tensors.Video
        assert (result.shape, result.dtype) == (video.shape, video.dtype)
        for before, after in zip(frames[:6], result, strict=True):
            assert torch.equal(after, expected(before, 1, seed))

    # A batch of eight videos: the frames at one time are a batch of images, and partners are taken from it.
    videos = frames.reshape(2, 4, 6, 3, 20, 24)
    result = augment(tv_tensors.Video(videos))
    assert type(result) is tv_tensors.Video
    for time in range(6):
        assert torch.equal(result[:, :, time], expected(videos[:, :, time], 8))
    assert augment(tv_tensors.Video(videos[:0])).shape == (0, 4, 6, 3, 20, 24)
    assert augment(tv_tensors.Video(videos[:, :, :0])).shape == (2, 4, 0, 3, 20, 24)


def test_a_partner_is_never_another_frame() -> None:
    pairing = {"operation": "sample_pairing", "weight": 1, "probability": 1, "magnitude": 1}
    transform = FasterAutoAugment(Policy([[[pairing]]]))
    video = torch.rand(5, 3, 4, 4)
    assert torch.equal(transform(tv_tensors.Video(video)), video)
    batch = torch.rand(5, 3, 4, 4)
    sample = {"video": tv_tensors.Video(video), "images": tv_tensors.Image(batch)}
    result = transform(sample)
    assert torch.equal(result["video"], video)
    assert not torch.equal(result["images"], batch)


@pytest.mark.parametrize("compose", [v1.Compose, v2.Compose])
def test_in_a_pipeline(images: Tensor, compose: Any) -> None:
    to_tensor = v1.ToTensor() if compose is v1.Compose else v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, True)])
    pipeline = compose([FasterAutoAugment(POLICY, generator=seeded()), v2.RandomHorizontalFlip(p=1), to_tensor])
    image = to_pil_image(images[0])
    result = pipeline(image)
    torch.testing.assert_close(result.as_subclass(Tensor), pil_to_tensor(expected(image, 1)).flip(-1) / 255)

    pipeline = compose([v2.RandomHorizontalFlip(p=1), FasterAutoAugment(POLICY, generator=seeded())])
    assert torch.equal(pipeline(images), expected(images.flip(-1), 48))


def test_nested_sample_with_labels(images: Tensor) -> None:
    label, extra = torch.tensor([3, 4]), object()
    sample = {"a": [tv_tensors.Image(images[:2]), {"label": label}], "b": ("text", 1.5, None, extra)}
    result = augment(sample)
    assert torch.equal(result["a"][0], expected(images[:2], 2))
    assert result["a"][1]["label"] is label
    assert result["b"] == sample["b"]
    image, number = FasterAutoAugment(POLICY, generator=seeded())(to_pil_image(images[0]), 7)
    assert image.tobytes() == expected(to_pil_image(images[0]), 1).tobytes()
    assert number == 7


def test_only_the_first_plain_tensor_is_an_image(images: Tensor) -> None:
    result, second = FasterAutoAugment(POLICY, generator=seeded())(images, images)
    assert torch.equal(result, expected(images, 48))
    assert second is images
    _, plain = augment((tv_tensors.Image(images), images))
    assert plain is images


class Label(tv_tensors.TVTensor):
    """A tv_tensor of somebody else's."""


def test_foreign_tv_tensors_pass_through(images: Tensor) -> None:
    label = torch.zeros(3, 4, 4, dtype=torch.int64).as_subclass(Label)
    image, passed = augment((images, label))
    assert passed is label
    assert torch.equal(image, expected(images, 48))


def test_images_of_a_sample_share_their_draws(images: Tensor) -> None:
    for seed in range(6):
        image = to_pil_image(images[0])
        sample = {"pil": image, "one": tv_tensors.Image(images[0]), "batch": tv_tensors.Image(images[:5])}
        sample |= {"other": tv_tensors.Image(images[5:10, :1] / 255), "video": tv_tensors.Video(images[:6])}
        result = augment(sample, seed)
        plan = POLICY.sample(5, seeded(seed))
        assert torch.equal(result["batch"], apply(images[:5], plan))
        assert torch.equal(result["other"], apply(images[5:10, :1] / 255, plan))
        # The single ones take the draw of the first.
        assert torch.equal(result["one"], apply(images[0], plan[0]))
        assert result["pil"].tobytes() == apply(image, plan[0]).tobytes()
        assert torch.equal(result["video"][4], apply(images[4], plan[0]))


def test_options_arrive(images: Tensor) -> None:
    options: dict[str, Any] = {"interpolation": BILINEAR, "fill": (1, 2, 3)}
    assert torch.equal(augment(images, **options), expected(images, 48, **options))
    assert not torch.equal(augment(images, **options), augment(images))
    assert torch.equal(augment(images, interpolation="bilinear"), expected(images, 48, interpolation=BILINEAR))


def test_repr() -> None:
    assert repr(FasterAutoAugment(POLICY, interpolation="bilinear", fill=(1, 2, 3))) == (
        "FasterAutoAugment(policy='everything', sub_policies=17, stages=2, interpolation=bilinear, fill=(1, 2, 3))"
    )


# --- one image takes a shorter way ------------------------------------------------------------------------------------


class General(FasterAutoAugment):
    """Takes the general way through pytrees and a plan, as every subclass does."""


def both_ways(image: Any, seed: int, **options: Any) -> tuple[Any, Any]:
    transforms = [kind(POLICY, generator=seeded(seed), **options) for kind in (FasterAutoAugment, General)]
    results = [transform(image) for transform in transforms]
    assert torch.equal(transforms[0].generator.get_state(), transforms[1].generator.get_state())
    assert type(results[0]) is type(results[1])
    return results[0], results[1]


@pytest.mark.filterwarnings("ignore:images of the shape")  # 13 channels and 3 columns
@pytest.mark.parametrize("options", [{}, {"interpolation": "bilinear", "fill": 255}, {"fill": 7.5}])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (3, 3), (20, 24)])
def test_one_tensor_takes_a_shorter_way_to_the_same(
    images: Tensor, height: int, width: int, channels: int, options: dict[str, Any]
) -> None:
    for seed in range(40):
        image = images[seed : seed + 5].reshape(15, 20, 24)[:channels, :height, :width]
        before = image.clone()
        for given in (image, image.contiguous(), image.transpose(1, 2), tv_tensors.Image(image)):
            short, general = both_ways(given, seed, **options)
            assert torch.equal(short, general)
            assert short.is_contiguous()
            short.fill_(1)
            assert torch.equal(image, before)


@pytest.mark.parametrize("options", [{}, {"interpolation": "bilinear", "fill": 255}])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (5, 2), (3, 3), (24, 20), (0, 4)])
def test_one_pil_image_takes_a_shorter_way_to_the_same(
    images: Tensor, size: tuple[int, int], mode: str, options: dict[str, Any]
) -> None:
    for seed in range(40):
        image = to_pil_image(images[seed]).convert(mode).crop((0, 0, *size))
        before = image.tobytes()
        short, general = both_ways(image, seed, **options)
        assert (short.mode, short.size, short.tobytes()) == (general.mode, general.size, general.tobytes())
        short.paste(1, (0, 0, *size))
        assert image.tobytes() == before


@pytest.mark.parametrize("kind", [FasterAutoAugment, General])
def test_both_ways_refuse_alike(images: Tensor, kind: type[FasterAutoAugment]) -> None:
    with pytest.raises(ValueError, match=r"fill should be one number or one for each of 3 channels, but got \(1, 2\)"):
        kind(POLICY, fill=(1, 2))(images[0])
    with pytest.raises(ValueError, match=r"fill should be in \[0, 255\], the range of the images, but got \(256,\)"):
        kind(POLICY, fill=256)(to_pil_image(images[0]))
    with pytest.raises(TypeError, match=r"image mode should be one of .*, but got P instead"):
        kind(POLICY)(Image.new("P", (8, 8)))


def test_forward_hooks_are_called_on_the_shorter_way(images: Tensor) -> None:
    transform = FasterAutoAugment(POLICY)
    seen: list[Any] = []
    transform.register_forward_hook(lambda module, inputs, output: seen.append(output))
    result = transform(images[0])
    assert seen[0] is result


def test_threads_share_a_policy(images: Tensor) -> None:
    policy = Policy(POLICY.sub_policies)  # without tables yet

    def augmented(seed: int) -> Tensor:
        return FasterAutoAugment(policy, generator=seeded(seed))(images[seed % 48])

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(augmented, range(200)))
    for seed, result in enumerate(results):
        assert torch.equal(result, expected(images[seed % 48], 1, seed))


# --- warnings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(32, 28, 3), (8, 32, 28, 1), (2, 4, 32, 28, 4)])
@pytest.mark.parametrize("wrapper", [None, tv_tensors.Image, tv_tensors.Video])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_channels_in_the_last_axis_are_warned_of_once(shape: Any, wrapper: Any, dtype: torch.dtype) -> None:
    transform = FasterAutoAugment(POLICY)
    if wrapper is tv_tensors.Video and len(shape) == 3:
        return
    batch = torch.zeros(shape, dtype=dtype)
    given = batch if wrapper is None else wrapper(batch)
    channels, height, width = shape[-3:]
    with pytest.warns(UserWarning, match="are taken for") as caught:
        transform(given)
    assert [str(warning.message) for warning in caught] == [
        f"images of the shape {list(shape)} are taken for {channels} channels of {height}×{width} pixels, "
        "[..., C, H, W]; if the last axis holds the channels, give images.movedim(-1, -3)"
    ]
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transform(given)
        FasterAutoAugment(POLICY)(batch.movedim(-1, -3))
        FasterAutoAugment(POLICY)(torch.zeros(3, 2, 2))  # small, not channels last
        FasterAutoAugment(POLICY)(torch.zeros(0, 32, 28, 3))


@pytest.mark.parametrize(
    ("scale", "shift", "advice"),
    [
        (4.0, -2.0, "augment images before they are normalised"),
        (255.0, 0.0, "keep images uint8, or divide them by 255"),
        (2.0, 0.0, "augment images before they are normalised"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_outside_of_their_range_are_warned_of_once(
    scale: float, shift: float, advice: str, dtype: torch.dtype
) -> None:
    images = torch.linspace(0, 1, 192, dtype=torch.float64).reshape(1, 3, 8, 8).repeat(2, 1, 1, 1).to(dtype)
    transform = v2.Compose([FasterAutoAugment(POLICY)])
    wrong = (images * scale + shift).requires_grad_()
    with pytest.warns(UserWarning, match=r"float images should have values in \[0, 1\], but got") as caught:
        transform(wrong)
    assert len(caught) == 1
    assert str(caught[0].message).endswith(f"to {scale + shift:.3g} instead, which the operations clamp; {advice}")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transform(wrong)
        FasterAutoAugment(POLICY)(images)
        FasterAutoAugment(POLICY)(images * 1.04 - 0.02)  # as resizing leaves them
        FasterAutoAugment(POLICY)(tv_tensors.Image(images * torch.nan))


def test_values_of_floats_are_looked_at_a_few_times_only(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    aminmax = Tensor.aminmax
    monkeypatch.setattr(Tensor, "aminmax", lambda tensor: looked.append(1) or aminmax(tensor))
    transform = FasterAutoAugment(POLICY)
    for _ in range(20):
        transform(images[0] / 255)
    assert len(looked) == 8


def test_one_of_several_workers_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("fasteraa_transforms.pipeline.checks")
    for worker in (1, 2):
        monkeypatch.setattr(module, "get_worker_info", lambda worker=worker: SimpleNamespace(id=worker))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            FasterAutoAugment(POLICY)(torch.zeros(32, 32, 3))
    monkeypatch.setattr(module, "get_worker_info", lambda: SimpleNamespace(id=0))
    with pytest.warns(UserWarning, match="channels"):
        FasterAutoAugment(POLICY)(torch.zeros(32, 32, 3))


def test_compiled_transforms_warn_too(compiler: Any) -> None:
    with pytest.warns(UserWarning, match="channels"):
        compiler(FasterAutoAugment(POLICY))(torch.zeros(32, 32, 3))


# --- gradients and modes ----------------------------------------------------------------------------------------------


def test_gradients_flow(images: Tensor) -> None:
    leaf = (images / 255).requires_grad_()
    augment(tv_tensors.wrap(leaf, like=tv_tensors.Image(leaf))).sum().backward()
    plain = (images / 255).requires_grad_()
    expected(plain, 48).sum().backward()
    assert torch.equal(leaf.grad, plain.grad)
    assert leaf.grad.abs().sum() > 0


def test_modes_change_nothing(images: Tensor) -> None:
    for given in (images, images / 255):
        result = expected(given, 48)
        transform = FasterAutoAugment(Policy(POLICY.sub_policies), generator=seeded())
        with torch.inference_mode():
            assert torch.equal(transform(given), result)
        transform.generator.manual_seed(3)
        with torch.no_grad():
            assert torch.equal(transform.eval()(given), result)
        # And what inference mode has left behind does not keep gradients from flowing.
        transform.generator.manual_seed(3)
        leaf = (images / 255).requires_grad_()
        transform.train()(leaf).sum().backward()
        assert leaf.grad.abs().sum() > 0


def test_has_no_state() -> None:
    assert list(FasterAutoAugment(POLICY, generator=seeded()).state_dict()) == []


# --- draws ------------------------------------------------------------------------------------------------------------


def test_images_of_a_batch_draw_independently() -> None:
    result = FasterAutoAugment(SQUARES)(torch.zeros(16, 3, 64, 64, dtype=torch.uint8))
    assert len({image.numpy().tobytes() for image in result}) == 16


def test_default_generator_makes_it_reproducible(images: Tensor) -> None:
    transform = FasterAutoAugment(POLICY)
    torch.manual_seed(5)
    first, second = transform(images), transform(images)
    torch.manual_seed(5)
    assert torch.equal(transform(images), first)
    assert torch.equal(transform(images), second)
    assert not torch.equal(first, second)


def test_own_generator_makes_it_reproducible(images: Tensor) -> None:
    generator = seeded()
    transform = FasterAutoAugment(POLICY, generator=generator)
    before = torch.get_rng_state()
    first, second = transform(images), transform(images)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(augment(images), first)
    assert not torch.equal(first, second)
    generator.manual_seed(3)
    assert torch.equal(transform(images), first)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_go_on_alike(images: Tensor, duplicate: Any) -> None:
    transform = FasterAutoAugment(POLICY, generator=seeded(), fill=(1, 2, 3), interpolation="bilinear")
    transform(images)
    twin = duplicate(transform)
    assert repr(twin) == repr(transform)
    assert twin.policy == transform.policy
    assert twin.generator is not transform.generator
    assert twin.generator.initial_seed() == 3
    assert torch.equal(twin(images), transform(images))
    transform(images)  # leaves the other's draws alone
    third = duplicate(twin)
    assert torch.equal(twin(images), third(images))

    plain = duplicate(FasterAutoAugment(POLICY))
    assert plain.generator is None
    torch.manual_seed(3)
    assert torch.equal(plain(images), expected(images, 48))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_generator_on_a_gpu(images: Tensor) -> None:
    transform = FasterAutoAugment(POLICY, generator=torch.Generator("cuda").manual_seed(3))
    twin = pickle.loads(pickle.dumps(transform))
    assert twin.generator.device.type == "cuda"
    result = transform(images.cuda())
    assert result.device.type == "cuda"
    assert torch.equal(twin(images), result.cpu())


# --- as torchvision's own ---------------------------------------------------------------------------------------------


def test_a_sample_of_everything(images: Tensor, tmp_path: Path) -> None:
    """After the sample that torchvision's own tests give to each of its transforms."""
    image = tv_tensors.Image(images[0])
    others = {"path": tmp_path, "int": 3, "float": 0.5, "bool": True, "none": None, "str": "str", "object": object()}
    others |= {"array": np.ones(3), "tensor": torch.ones(3), "type": Image.Image, "function": seeded}
    sequence = ("text", image, [tv_tensors.Mask(images[0, 0]), {"deeper": others}])
    sample = {"sequence": sequence, "mapping": {"image": image, **others}, "pil": to_pil_image(images[0]), **others}
    flat, spec = tree_flatten(sample)
    flat_result, result_spec = tree_flatten(augment(sample))
    assert result_spec == spec
    transformed = (tv_tensors.TVTensor, Image.Image)
    for before, after in zip(flat, flat_result, strict=True):
        assert type(after) is type(before)
        assert (after is not before) if isinstance(before, transformed) else (after is before)


class Labelled(tv_tensors.Image):
    """An image of somebody else's, with metadata."""

    label: int

    @classmethod
    def wrap(cls, tensor: Tensor, like: "Labelled", **kwargs: Any) -> "Labelled":
        result = tensor.as_subclass(cls)
        result.label = like.label
        return result


def test_subclasses_of_tv_tensors_stay_what_they_are(images: Tensor) -> None:
    image = Labelled(images[0])
    image.label = 7
    result = augment(image)
    assert type(result) is Labelled
    assert torch.equal(result.as_subclass(Tensor), expected(images[0], 1))
    if hasattr(tv_tensors.TVTensor, "wrap"):  # torchvision 0.29 asks the class
        assert result.label == 7


@pytest.mark.parametrize(
    "wrap",
    [
        lambda transform: v2.RandomApply([transform], p=1.0),
        lambda transform: v2.RandomChoice([transform]),
        lambda transform: v2.RandomOrder([transform]),
        lambda transform: v2.Compose([transform]),
        lambda transform: v2.Lambda(transform, tv_tensors.Image),
        lambda transform: v1.Lambda(transform),
        lambda transform: torch.nn.Sequential(transform),
        lambda transform: functools.partial(transform),
        lambda transform: functools.partial(FasterAutoAugment, POLICY)(generator=transform.generator),
    ],
)
def test_inside_of_other_transforms(images: Tensor, wrap: Any) -> None:
    image = tv_tensors.Image(images[0])
    result = wrap(FasterAutoAugment(POLICY, generator=seeded()))(image)
    assert type(result) is tv_tensors.Image
    assert torch.equal(result.as_subclass(Tensor), expected(images[0], 1))


def test_random_apply_leaves_the_others_alone(images: Tensor) -> None:
    sample = {"image": tv_tensors.Image(images[0]), "mask": tv_tensors.Mask(images[0, 0])}
    pipeline = v2.RandomApply([FasterAutoAugment(POLICY)], p=0.5)
    untouched = [pipeline(sample)["image"] is sample["image"] for _ in range(40)]
    assert 8 < sum(untouched) < 32


def test_scripting_is_refused() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.jit.script(FasterAutoAugment(POLICY))
    assert str(caught.value) == (
        "FasterAutoAugment cannot be scripted: what it draws decides what it runs; torch.compile takes it"
    )


@pytest.fixture
def compiler() -> Iterator[Any]:
    """`torch.compile` with nothing left over from other tests."""
    torch._dynamo.reset()
    yield functools.partial(torch.compile, fullgraph=True, backend="aot_eager")
    torch._dynamo.reset()


def alike(function: Any, other: Any, sample: Any) -> bool:
    """Whether both give the same on the same seed, in values, types and strides, twice."""
    for seed in (1, 2):
        results = []
        for one in (function, other):
            torch.manual_seed(seed)
            results.append(tree_flatten(one(sample))[0])
        for a, b in zip(*results, strict=True):
            if type(a) is not type(b):
                return False
            if isinstance(a, Tensor) and not (torch.equal(a, b) and a.stride() == b.stride()):
                return False
            if not isinstance(a, Tensor) and a != b:
                return False
    return True


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float16, torch.float32])
def test_compiles_to_one_graph(images: Tensor, dtype: torch.dtype, compiler: Any) -> None:
    transform = FasterAutoAugment(POLICY, fill={Tensor: 1}, interpolation="bilinear")
    compiled = compiler(transform)
    batch = (images / 255).to(dtype) if dtype.is_floating_point else images.to(dtype)
    for given in (batch, batch[0], batch[:7], batch[None, :3], batch[..., :17].to(memory_format=torch.channels_last)):
        assert alike(compiled, transform, given)
    assert alike(compiled, transform, {"image": batch, "label": 3, "text": ["a"]})


def test_compiled_draws_are_drawn_each_time(images: Tensor, compiler: Any) -> None:
    transform, other = FasterAutoAugment(POLICY, generator=seeded()), FasterAutoAugment(POLICY, generator=seeded(4))

    @compiler
    def thrice(images: Tensor) -> tuple[Tensor, ...]:
        return transform(images), transform(images) / 255, other(images)

    first, second, third = thrice(images)
    generator = seeded()
    assert torch.equal(first, apply(images, POLICY.sample(48, generator)))
    assert torch.equal(second, apply(images, POLICY.sample(48, generator)) / 255)
    assert torch.equal(third, expected(images, 48, 4))
    # A copy is another transform, with draws of its own.
    twin = compiler(pickle.loads(pickle.dumps(transform)))
    assert torch.equal(twin(images), apply(images, POLICY.sample(48, generator)))


@pytest.mark.parametrize("kind", ["tv_tensors", "pil", "gradient"])
def test_what_breaks_the_graph_runs_outside_of_it(images: Tensor, kind: str, compiler: Any) -> None:
    sample: Any = {
        "tv_tensors": {"image": tv_tensors.Image(images[0]), "mask": tv_tensors.Mask(images[0, 0]), "label": 3},
        "pil": to_pil_image(images[0]),
        "gradient": (images[0] / 255).requires_grad_(),
    }[kind]
    transform = FasterAutoAugment(POLICY)
    assert alike(torch.compile(transform, backend="aot_eager"), transform, sample)
    if kind == "gradient":
        torch.manual_seed(0)
        torch.compile(lambda image: transform(image * 1).sum(), backend="aot_eager")(sample).backward()
        assert sample.grad.abs().sum() > 0
    if kind != "pil":
        with pytest.raises(torch._dynamo.exc.Unsupported, match="plain tensors that require no gradient"):
            compiler(lambda sample: transform(sample))(sample)


def test_any_number_of_transforms_share_one_piece_of_compiled_code(images: Tensor) -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    for n in range(20):
        candidates = [[{"operation": NAMES[(n + k) % 6], "weight": 1, "probability": 0.7}] for k in range(1 + n % 4)]
        for (candidate,) in candidates:
            candidate["magnitude"] = 0.5 if OPERATIONS[candidate["operation"]].has_magnitude else None
        transform = FasterAutoAugment(
            Policy([candidates] * (1 + n % 3), name=f"policy {n}"),
            fill=n,
            interpolation=("nearest", "bilinear")[n % 2],
            generator=seeded(n) if n % 3 else None,
            epilogue=Epilogue(mean=(n / 40,) * 3, std=(0.2,) * 3) if n % 5 == 0 else None,
        )
        results = []
        for one in (torch.compile(transform, fullgraph=True, backend=counter), transform):
            torch.manual_seed(n)
            if transform.generator is not None:
                transform.generator.manual_seed(n)
            results.append(one(images))
        assert torch.equal(results[0], results[1])
    assert counter.frame_count <= 2  # with an epilogue and without
    torch._dynamo.reset()


@pytest.mark.parametrize("epilogue", [None, Epilogue(dtype=torch.float16, memory_format=torch.channels_last)])
def test_compiles_with_an_epilogue(images: Tensor, epilogue: Epilogue | None, compiler: Any) -> None:
    transform = FasterAutoAugment(POLICY, epilogue=epilogue)
    for given in (images, images[:5]):
        assert alike(compiler(transform), transform, given)


@pytest.mark.parametrize("strict", [False, True])
def test_exports(images: Tensor, strict: bool) -> None:
    transform = FasterAutoAugment(POLICY)
    assert alike(torch.export.export(transform, (images,), strict=strict).module(), transform, images)


def test_a_graph_that_outlives_its_transform_says_so(images: Tensor) -> None:
    number = FasterAutoAugment(POLICY)._number
    with pytest.raises(RuntimeError, match="the transform of this graph is gone"):
        torch.ops.fasteraa_transforms.augment(number, images, torch.uint8, False)


@pytest.mark.slow  # generates and compiles code
def test_compiles_with_the_default_backend(images: Tensor, compiler: Any) -> None:
    transform = FasterAutoAugment(POLICY)

    def step(images: Tensor) -> tuple[Tensor, Tensor]:
        return transform(images).float().mean((-1, -2)), transform(images).float() * 2

    assert alike(compiler(step, backend="inductor"), step, images)


# --- DataLoader workers -----------------------------------------------------------------------------------------------


class Squares(Dataset[NDArray[np.uint8]]):
    """Black images, augmented; as arrays, which travel between processes without shared memory."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.transform = FasterAutoAugment(SQUARES, generator=generator)

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.transform(torch.zeros(1, 64, 64, dtype=torch.uint8)).numpy()


def epochs(dataset: Squares, start: str, *, base_seed: int = 0, **options: Any) -> list[list[bytes]]:
    """Two epochs of two workers; one entry for each draw."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=2,
        multiprocessing_context=start,
        generator=torch.Generator().manual_seed(base_seed),
        **options,
    )
    return [[bytes(np.asarray(image)) for image in loader] for _ in range(2)]


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_workers_do_not_repeat_each_other(own: bool, persistent: bool) -> None:
    def draws(seed: int, base_seed: int) -> list[list[bytes]]:
        dataset = Squares(seeded(seed) if own else None)
        return epochs(dataset, "fork", base_seed=base_seed, persistent_workers=persistent)

    first = draws(3, 0)
    assert len({*first[0], *first[1]}) == 12
    assert draws(3, 0) == first
    assert not {*draws(3, 1)[0]} & {*first[0]}
    if own:
        assert not {*draws(4, 0)[0]} & {*first[0]}


@pytest.mark.slow  # each worker imports PyTorch
def test_spawned_workers_draw_as_forked_ones() -> None:
    first = epochs(Squares(seeded()), "fork", persistent_workers=True)
    assert epochs(Squares(seeded()), "spawn", persistent_workers=True) == first


@pytest.mark.parametrize("own", [False, True])
def test_ranks_of_a_distributed_run_do_not_repeat_each_other(own: bool) -> None:
    """Each rank with a seed of its own, its share of the data by DistributedSampler, and two persistent workers."""

    def draws(rank: int, seed: int) -> list[list[bytes]]:
        dataset = Squares(seeded(3 + rank) if own else None)
        sampler = DistributedSampler(dataset, num_replicas=2, rank=rank, shuffle=True, seed=0)
        results = []
        torch.manual_seed(seed + rank)
        loader = DataLoader(dataset, batch_size=None, sampler=sampler, num_workers=2, persistent_workers=True)
        for epoch in range(2):
            sampler.set_epoch(epoch)
            results.append([bytes(np.asarray(image)) for image in loader])
        return results

    ranks = [draws(rank, 10) for rank in (0, 1)]
    assert len({image for rank in ranks for epoch in rank for image in epoch}) == 12
    assert [draws(rank, 10) for rank in (0, 1)] == ranks


class Detections(Dataset[Any]):
    """A square that is image, mask and box at once, moved by the same draw in a worker."""

    transform = FasterAutoAugment(
        Policy([[[{"operation": "translate_x", "weight": 1, "probability": 1, "magnitude": 1}]]])
    )

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[NDArray[Any], ...]:
        pixels = torch.zeros(1, 40, 100, dtype=torch.uint8)
        pixels[:, 10:20, 47:53] = 1
        boxes = tv_tensors.BoundingBoxes([[47, 10, 53, 20]], format="XYXY", canvas_size=(40, 100))
        sample = self.transform(tv_tensors.Image(pixels), tv_tensors.Mask(pixels[0]), boxes)
        return tuple(value.numpy() for value in sample)


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_targets_in_workers(start: str) -> None:
    loader = DataLoader(Detections(), batch_size=None, num_workers=2, multiprocessing_context=start)
    lefts = set()
    for image, mask, boxes in loader:
        assert np.array_equal(image[0], mask)
        rows, columns = np.nonzero(np.asarray(mask))
        assert boxes.tolist() == [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
        lefts.add(int(columns.min()))
    assert lefts == {2, 92}


def test_a_worker_seeds_its_generator_once(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("fasteraa_transforms.pipeline.generators")
    monkeypatch.setattr(module, "get_worker_info", lambda: SimpleNamespace(seed=5))
    transform = FasterAutoAugment(POLICY, generator=seeded())
    results = [transform(images) for _ in range(3)]

    generator = seeded()
    shared = int(torch.randint(2**63 - 1, (), generator=generator))
    generator.manual_seed((shared * 0x9E3779B97F4A7C15 + 5) % 2**63)
    for result in results:
        assert torch.equal(result, apply(images, POLICY.sample(48, generator)))


def test_without_workers_the_generator_is_left_as_it_is() -> None:
    dataset = Squares(seeded())
    once = [bytes(np.asarray(image)) for image in DataLoader(dataset, batch_size=None)]
    generator = seeded()
    black = torch.zeros(1, 64, 64, dtype=torch.uint8)
    assert once == [bytes(apply(black, SQUARES.sample(1, generator)).numpy()) for _ in range(6)]


# --- policies by name and file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_policies(name: str, images: Tensor) -> None:
    transform = FasterAutoAugment.from_pretrained(name, generator=seeded(), fill=3, interpolation="bilinear")
    assert transform.policy == Policy.load(str(files("fasteraa_transforms") / "policies" / f"{name}.json"))
    assert (transform.fill, transform.interpolation) == (3, BILINEAR)
    result = transform(images)
    assert torch.equal(
        result, apply(images, transform.policy.sample(48, seeded()), fill=3, interpolation=InterpolationMode.BILINEAR)
    )
    assert not torch.equal(result, images)


def test_policy_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    POLICY.save(tmp_path / "mine.json")
    (tmp_path / "mine").write_bytes((tmp_path / "mine.json").read_bytes())
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "mine.json", str(tmp_path / "mine.json"), "mine.json", "mine", Path("mine"), "./mine"):
        transform = FasterAutoAugment.from_pretrained(path, fill=9)
        assert transform.policy == POLICY
        assert transform.policy.name == "everything"
        assert transform.fill == 9


@pytest.mark.parametrize("path", ["missing.json", "folder/missing", Path("missing")])
def test_missing_files_are_named(path: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolicyError, match="missing") as caught:
        FasterAutoAugment.from_pretrained(path)
    assert caught.value.source == str(path)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown policy") as caught:
        FasterAutoAugment.from_pretrained("cifar-10")
    known = ", ".join(SHIPPED) or "none"
    assert str(caught.value) == f"unknown policy 'cifar-10'; known: {known}; or give the path of a policy file"


def test_subclasses_load_as_themselves(tmp_path: Path) -> None:
    class Mine(FasterAutoAugment):
        pass

    POLICY.save(tmp_path / "mine.json")
    assert type(Mine.from_pretrained(tmp_path / "mine.json")) is Mine


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"policy": "cifar10"},
            TypeError,
            "policy should be a Policy, but got 'cifar10' of type str instead; for the name or the file of one, use "
            "FasterAutoAugment.from_pretrained",
        ),
        (
            {"interpolation": InterpolationMode.BICUBIC},
            ValueError,
            "interpolation should be InterpolationMode.NEAREST or InterpolationMode.BILINEAR, but got "
            "<InterpolationMode.BICUBIC: 'bicubic'> instead",
        ),
        (
            {"fill": {tv_tensors.Image: 0, "others": "grey"}},
            TypeError,
            "fill should be a number or a sequence with one number per channel, but got 'grey' instead",
        ),
        ({"generator": 3}, TypeError, "generator should be a torch.Generator or None, but got 3 instead"),
    ],
)
def test_refused_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        FasterAutoAugment(**{"policy": POLICY, **options})
    assert str(caught.value) == message


def test_a_sample_without_an_image_is_refused() -> None:
    with pytest.raises(TypeError) as caught:
        FasterAutoAugment(POLICY)({"image": np.zeros((8, 8, 3), dtype=np.uint8), "label": 3})
    assert str(caught.value) == ("the sample should have an image (a PIL image or a tensor), but has only int, ndarray")


def test_no_parameters_without_inputs(images: Tensor) -> None:
    transform = FasterAutoAugment(POLICY)
    assert transform.make_params([]) == {}
    with pytest.raises(ValueError, match="targets should come with the image that they lie on"):
        transform.make_params([tv_tensors.Mask(images[0, 0])])


def test_images_that_cannot_share_their_draws_are_refused(images: Tensor) -> None:
    sample = [tv_tensors.Image(images[:n]) for n in (1, 4, 5, 5)]
    with pytest.raises(ValueError, match="share") as caught:
        FasterAutoAugment(POLICY)(sample)
    assert str(caught.value) == (
        "the images of one sample share their draws, so there should be as many in each batch, or one, but got batches "
        "of 1, 4, 5 images"
    )


def test_what_apply_refuses_is_refused(images: Tensor) -> None:
    with pytest.raises(TypeError, match=r"one of torch\.uint8, .* but got torch\.int64 instead"):
        FasterAutoAugment(POLICY)(images.long())
    with pytest.raises(TypeError, match="one of L, LA, RGB, RGBA, I;16, but got CMYK instead"):
        FasterAutoAugment(POLICY)(Image.new("CMYK", (8, 8)))
    with pytest.raises(ValueError, match=r"\[\.\.\., C, H, W\], but got \[\] instead"):
        FasterAutoAugment(POLICY)(torch.tensor(3.0))


def test_the_policy_of_the_papers_settings_is_a_whole_search() -> None:
    transform = FasterAutoAugment.from_pretrained("cifar10-paper")
    provenance = transform.policy.provenance
    assert (len(transform.policy), transform.policy.stages) == (10, 2)
    assert (provenance["dataset"], provenance["images"], provenance["epochs"]) == ("cifar10", 4000, 20)
    assert provenance["settings"]["batch_size"] == 128
    assert provenance["diagnosis"]["strength_start"] > 0


def test_the_flip_of_an_image_one_pixel_wide_shares_no_memory_with_it() -> None:
    image = torch.zeros(3, 2, 1, dtype=torch.uint8)
    mirror = FasterAutoAugment(Policy([[[{"operation": "flip", "weight": 1, "probability": 1}]]]))
    mirror(image).fill_(1)
    assert image.sum() == 0
