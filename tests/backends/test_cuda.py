"""The kernels against Pillow and the CPU: in Triton's interpreter, and compiled where there is a GPU."""

import importlib
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from fasteraa_transforms import OPERATIONS, Epilogue, FasterAutoAugment, Plan, Policy, apply
from fasteraa_transforms.operations import Extras
from fasteraa_transforms.operations.geometry import FIXED_POINT_LIMIT, Affine, Term
from fasteraa_transforms.operations.table import Levels, Operation
from fasteraa_transforms.policy.sampling import tables_of

triton = pytest.importorskip("triton")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no GPU, and Triton was imported without TRITON_INTERPRET=1", allow_module_level=True)

kernels = importlib.import_module("fasteraa_transforms.backends.cuda")
launch = importlib.import_module("fasteraa_transforms.backends.cuda.launch")

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
INTERPRETED = not torch.cuda.is_available()  # some 100 ms a program: fewer images, then
NAMES = list(OPERATIONS)
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _poisoned(_seed: None) -> "object":
    # With deterministic algorithms torch.empty is filled: NaN, or the largest integer.
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what takes the interpreter half its time: it patches Triton's language in every call of a function.

    The launch has done that before, for all functions of this package that a kernel calls.
    """
    if not INTERPRETED:
        return
    function = importlib.import_module("triton.runtime.interpreter").InterpretedFunction
    call = function.__call__

    def call_own(self: object, *arguments: object, **keywords: object) -> object:
        own = self.fn.__module__.startswith("fasteraa_transforms")
        return self.rewrite()(*arguments, **keywords) if own else call(self, *arguments, **keywords)

    monkeypatch.setattr(function, "__call__", call_own)


@pytest.fixture(params=["small", "large"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to make an image, whatever its size; the large one in several chunks."""
    if request.param == "large":
        monkeypatch.setattr(launch, "_SMALL", 0)
        for name in ("_CHUNK", "_BLOCK", "_PLAIN_BLOCK"):
            monkeypatch.setattr(launch, name, 64)
    return request.param


def _images(batch: int, channels: int, height: int, width: int) -> Tensor:
    """Noise in a range of its own for each image and channel, so that statistics differ."""
    low = torch.randint(0, 100, (batch, channels, 1, 1))
    high = torch.randint(101, 257, (batch, channels, 1, 1))
    return (low + torch.rand(batch, channels, height, width) * (high - low)).to(torch.uint8)


def _plan(operations: Tensor, applied: float = 1.0) -> Plan:
    """A plan of operations [B, K] with random parameters of their range."""
    batch, stages = operations.shape
    rows = list(OPERATIONS.values())
    parameter = torch.zeros(batch, stages, dtype=torch.float64)
    for i, k in itertools.product(range(batch), range(stages)):
        row = rows[int(operations[i, k])]
        sign = -1 if row.signed and torch.rand(()) < 0.5 else 1
        parameter[i, k] = row.parameter(sign * torch.rand((), dtype=torch.float64))
    return Plan(
        operation=operations,
        parameter=parameter,
        applied=torch.rand(batch, stages) < applied,
        centre=torch.rand(batch, stages, 2, dtype=torch.float64),
        partner=torch.randint(max(batch, 1), (batch, stages)),
        sub_policy=torch.zeros(batch, dtype=torch.int64),
    )


def _on_device(images: Tensor, plan: Plan, **options: object) -> Tensor:
    return kernels.apply_plan(images.to(DEVICE), plan.to(DEVICE), **options).cpu()


def _pillow(images: Tensor, plan: Plan) -> Tensor:
    """One stage, one image after another, by the functions on PIL images."""
    results = []
    for i, image in enumerate(images):
        row = OPERATIONS[NAMES[int(plan.operation[i, 0])]]
        partner = _to_pil(images[int(plan.partner[i, 0])])
        extras = Extras(centre=tuple(plan.centre[i, 0].tolist()), partner=partner)
        result = np.asarray(row.pillow(_to_pil(image), float(plan.parameter[i, 0]), extras))
        results.append(torch.from_numpy(result.reshape(*image.shape[1:], -1).copy()).permute(2, 0, 1))
    return torch.stack(results)


def _to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy())


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_operation_equals_pillow(name: str, channels: int, path: str) -> None:
    batch = 2 if INTERPRETED else 64
    for height, width in ((13, 9), (8, 32)):
        images = _images(batch, channels, height, width)
        plan = _plan(torch.full((batch, 1), NAMES.index(name)))
        assert torch.equal(_on_device(images, plan), _pillow(images, plan)), (height, width)


@pytest.mark.parametrize(
    ("channels", "height", "width"), [(5, 9, 13), (3, 1, 1), (3, 2, 5), (2, 3, 3), (1, 1, 17), (3, 40, 1), (13, 4, 6)]
)
def test_odd_shapes_and_channels_equal_the_cpu(channels: int, height: int, width: int, path: str) -> None:
    images = _images(2 * len(NAMES), channels, height, width)
    plan = _plan(torch.arange(len(NAMES)).repeat(2)[:, None])
    torch.testing.assert_close(_on_device(images, plan), apply(images, plan), rtol=0, atol=0)


@pytest.mark.parametrize("stages", [2, 3, 5])
def test_mixed_batch_equals_the_cpu(stages: int, path: str) -> None:
    batch = 12 if INTERPRETED else 300
    images = _images(batch, 3, 11, 14)
    plan = _plan(torch.randint(len(NAMES), (batch, stages)), applied=0.8)
    assert torch.equal(_on_device(images, plan, fill=(1, 2, 3)), apply(images, plan, fill=(1, 2, 3)))


def test_pairs_of_operations_equal_the_cpu() -> None:
    pairs = torch.cartesian_prod(torch.arange(len(NAMES)), torch.arange(len(NAMES)))
    if INTERPRETED:
        pairs = pairs[torch.randperm(len(pairs))[:60]]
    images = _images(len(pairs), 3, 6, 7)
    plan = _plan(pairs)
    result, expected = _on_device(images, plan), apply(images, plan)
    differ = (result != expected).flatten(1).any(1)
    assert not differ.any(), [[NAMES[code] for code in pair] for pair in pairs[differ].tolist()]


@pytest.mark.parametrize(("height", "width"), [(65, 70), (224, 50)])
def test_larger_images_in_several_chunks(height: int, width: int) -> None:
    chosen = ["contrast", "sharpness"] if INTERPRETED else NAMES
    images = _images(len(chosen), 3, height, width)
    operations = torch.tensor([[NAMES.index(name) for name in (name, "equalize")] for name in chosen])
    plan = _plan(operations)
    assert height * width > launch._SMALL
    assert torch.equal(_on_device(images, plan), apply(images, plan))


@pytest.mark.parametrize("path", ["small"], indirect=True)
@pytest.mark.parametrize(
    "view",
    [
        lambda images: images.contiguous(memory_format=torch.channels_last),
        lambda images: images[:, :, 2:-3, 1:-1],
        lambda images: images.transpose(2, 3),
        lambda images: images[::2, ::2],
        lambda images: images[:, :1].expand(-1, 3, -1, -1),
    ],
    ids=["channels-last", "crop", "transposed", "every other", "expanded"],
)
def test_any_strides(view: "object", path: str) -> None:
    images = view(_images(12, 3, 12, 14).to(DEVICE))
    plan = _plan(torch.randint(len(NAMES), (len(images), 2)))
    before = images.clone()
    result = kernels.apply_plan(images, plan.to(DEVICE))
    assert result.is_contiguous()
    assert torch.equal(result.cpu(), apply(before.cpu().contiguous(), plan))
    assert torch.equal(images, before)


def test_bilinear_equals_the_cpu(path: str) -> None:
    affine = ["shear_x", "shear_y", "translate_x", "translate_y", "rotate", "flip"]
    first = torch.tensor([NAMES.index(name) for name in affine]).repeat(1 if INTERPRETED else 50)
    second = torch.randint(len(NAMES), (len(first),))
    images, plan = _images(len(first), 3, 9, 12), _plan(torch.stack((first, second), 1))
    options = {"interpolation": InterpolationMode.BILINEAR, "fill": (9,)}
    assert torch.equal(_on_device(images, plan, **options), apply(images, plan, **options))


def test_slices_of_a_batch_share_its_partners(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    images = _images(7, 3, 5, 6)
    plan = _plan(torch.full((7, 2), NAMES.index("sample_pairing")))
    expected = apply(images, plan)
    monkeypatch.setattr(launch, "_SCRATCH", 2 * 2 * 3 * 256 * (5 if path == "large" else 1))  # two images
    assert torch.equal(_on_device(images, plan), expected)


def test_values_that_do_not_exist_stay_within_the_batch() -> None:
    images = _images(3, 3, 5, 5)
    plan = _plan(torch.full((3, 1), NAMES.index("sample_pairing")))
    plan.partner[:] = torch.tensor([[1_000_000], [0], [0]])
    plan.operation[1:] = torch.tensor([[99], [-1]])
    result = _on_device(images, plan)
    plan.partner[0], plan.operation[1:], plan.applied[1:] = 2, 0, False
    assert torch.equal(result, apply(images, plan))


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)])
def test_empty_batches(shape: tuple[int, ...]) -> None:
    images = torch.zeros(shape, dtype=torch.uint8)
    assert _on_device(images, _plan(torch.zeros(shape[0], 1, dtype=torch.int64))).shape == shape


def test_plan_of_no_stages_changes_nothing() -> None:
    images = _images(2, 3, 4, 4)
    assert torch.equal(_on_device(images, _plan(torch.zeros(2, 0, dtype=torch.int64))), images)


def test_plan_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^the plan should have one row for each image, but has 3 for 2$"):
        _on_device(_images(2, 3, 4, 4), _plan(torch.zeros(3, 1, dtype=torch.int64)))


# --- what leads to pixels ---------------------------------------------------------------------------------------------


def test_fixed_point_of_rotations_is_pillows() -> None:
    height, width, count = 37, 224, 400
    degrees = torch.cat(
        [torch.tensor([0.0, 30, -30, 45, 90, -90, 180, 270, 360, -720, 1e-9]), torch.rand(count) * 60 - 30]
    )
    degrees = degrees.double()
    plan = _plan(torch.full((len(degrees), 1), NAMES.index("rotate")))
    plan.parameter[:, 0] = degrees
    # A ramp of the index of each pixel, whole numbers in two channels, shows where each pixel came from.
    index = torch.arange(height * width).reshape(height, width)
    ramp = torch.stack((index % 256, index // 256)).to(torch.uint8)
    rows = torch.arange(0, len(degrees), 160 if INTERPRETED else 1)
    images = ramp.expand(len(rows), -1, -1, -1)
    assert torch.equal(_on_device(images, plan[rows]), apply(images, plan[rows]))

    small = torch.zeros(len(degrees), 1, 1, 1, dtype=torch.uint8, device=DEVICE)
    records = launch._prepare(small, 0, plan.to(DEVICE), True).records[:, 0, [1, 2, 4, 5]].cpu().numpy()
    matrices = np.array([OPERATIONS["rotate"].kind.matrix(angle, 1, 1) for angle in degrees.tolist()])
    assert np.array_equal(records, np.floor(matrices[:, [0, 1, 3, 4]] * 65536 + 0.5))


_MUCH = Affine(
    a=Term(cosine=0.8),
    b=Term(one=0.1, sine=-1),
    d=Term(sine=1, parameter=0.01),
    e=Term(one=0.2, cosine=1),
    shift_x=0.02,
    shift_y=-0.03,
    about_centre=True,
)
# Operations that the table does not have: what the kernels do follows from the row.
NEW = {
    "shear_diagonal": Operation(
        name="shear_diagonal", kind=Affine(b=Term(parameter=1), d=Term(parameter=1)), severest=0.4, signed=True
    ),
    "everything": Operation(name="everything", kind=_MUCH, severest=10.0, signed=True),
}


@pytest.mark.parametrize("interpolation", [InterpolationMode.NEAREST, InterpolationMode.BILINEAR])
@pytest.mark.parametrize("name", NEW)
def test_new_affine_row_needs_no_code_in_the_kernels(
    name: str, interpolation: InterpolationMode, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPERATIONS, name, NEW[name])
    images = _images(4, 3, 9, 11)
    plan = _plan(torch.full((4, 1), len(NAMES)))
    assert kernels.supports(images, plan)
    extras = Extras(interpolation=interpolation, fill=(7,))
    expected = torch.from_numpy(NEW[name].uint8(images.numpy(), plan.parameter[:, 0].tolist(), extras))
    assert torch.equal(_on_device(images, plan, interpolation=interpolation, fill=(7,)), expected)
    assert not torch.equal(expected, images)


def test_parameters_that_the_kernels_are_exact_with() -> None:
    reaches = dict(zip(NAMES, launch._reaches(tuple(NAMES)).tolist(), strict=True))
    assert reaches == dict.fromkeys(NAMES, math.inf) | dict.fromkeys(
        ("shear_x", "shear_y", "translate_x", "translate_y"), pytest.approx(0.99)
    )


terms = st.builds(Term, *[st.floats(-1.2, 1.2)] * 4)


@given(st.builds(Affine, a=terms, b=terms, d=terms, e=terms, shift_x=st.floats(-2, 2), about_centre=st.booleans()))
def test_coordinates_of_those_parameters_stay_in_fixed_point(kind: Affine) -> None:
    reach = launch._reach(Operation(name="new", kind=kind))
    for parameter in (reach, -reach, 0.7 * reach) if 0 <= reach < math.inf else ():
        side = launch._LONGEST
        a, b, c, d, e, f = kind.matrix(parameter, side, side)
        for x, y in itertools.product((0, side), repeat=2):
            assert max(abs(a * x + b * y + c), abs(d * x + e * y + f)) < FIXED_POINT_LIMIT


@pytest.mark.parametrize("kind", [Affine(a=Term(one=1, parameter=1)), Levels(lambda _: bytes(256))])
def test_rows_that_the_kernels_do_not_know_are_not_theirs(
    kind: Affine | Levels, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, known = _images(1, 3, 4, 4), _plan(torch.zeros(1, 1, dtype=torch.int64))
    assert kernels.supports(images, known)
    assert kernels.supports(images, known.to("meta"))
    monkeypatch.setitem(OPERATIONS, "new", Operation(name="new", kind=kind))
    assert kernels.supports(images, known)
    assert not kernels.supports(images, _plan(torch.full((1, 1), len(NAMES))))
    # Nobody looks at what lies on another device.
    assert not kernels.supports(images, known.to("meta"))


@pytest.mark.parametrize("batch", [1, 2, 200])
def test_drawn_plan_equals_that_of_the_cpu(batch: int) -> None:
    rotate = {"operation": "rotate", "weight": 1, "probability": 0.5, "magnitude": 0.7}
    shear = {"operation": "shear_x", "weight": 2, "probability": 0.5, "magnitude": 0.7, "sign": -1}
    posterize = {"operation": "posterize", "weight": 3, "probability": 0.9, "magnitude": 0.4}
    pairing = {"operation": "sample_pairing", "weight": 0.1, "probability": 1, "magnitude": 1.0}
    flip = {"operation": "flip", "weight": 1, "probability": 0.5}
    policy = Policy(
        [[[rotate, posterize, pairing], [flip]], [[flip, rotate], [posterize, shear]], [[pairing], [pairing]]]
    )
    expected = policy.sample(batch, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    uniform = torch.rand(batch, 1 + 6 * 2, dtype=torch.float64, generator=generator).to(DEVICE)
    assert kernels.draw_plan(uniform, vars(tables_of(policy.sub_policies).to(DEVICE))) == expected


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_epilogue_has_the_bits_of_torchvision(
    dtype: torch.dtype, memory_format: torch.memory_format, path: str
) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    epilogue = Epilogue(dtype=dtype, mean=mean, std=std, memory_format=memory_format)
    images, plan = _images(6, 3, 7, 9), _plan(torch.randint(len(NAMES), (6, 3)))
    levels = epilogue.levels(3, DEVICE)
    result = _on_device(images, plan, epilogue=levels, memory_format=memory_format)
    chain = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std), v2.ToDtype(dtype)])
    assert result.is_contiguous(memory_format=memory_format)
    assert result.dtype == dtype
    assert torch.equal(result, chain(apply(images, plan)))
    assert torch.equal(result, apply(images, plan, epilogue=epilogue))


# --- from the transform down ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"epilogue": Epilogue(mean=(0.5,), std=(0.2,))}], ids=["uint8", "epilogue"])
def test_transform_uses_the_kernels_and_gives_the_pixels_of_the_cpu(
    options: dict[str, Epilogue], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = FasterAutoAugment.from_pretrained("cifar10").policy
    images = _images(20, 3, 12, 12)
    expected = FasterAutoAugment(policy, generator=torch.Generator().manual_seed(5), **options)(images)
    calls = []
    apply_plan = kernels.apply_plan
    # What a GPU's would answer; on one the answer is the same.
    monkeypatch.setattr(sys.modules["fasteraa_transforms.backends.device"], "runs_kernels", lambda _: True)
    monkeypatch.setattr(kernels, "apply_plan", lambda *a, **k: calls.append(a) or apply_plan(*a, **k))
    transform = FasterAutoAugment(policy, generator=torch.Generator().manual_seed(5), **options)
    assert torch.equal(transform(images.to(DEVICE)).cpu(), expected)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("name", "parameter", "size"), [("shear_x", 1.5, (8, 9)), ("translate_y", 1.0, (8, 9)), ("flip", 0.0, (1, 16385))]
)
def test_what_leaves_fixed_point_goes_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch, name: str, parameter: float, size: tuple[int, int]
) -> None:
    images = _images(1, 1, *size)
    plan = _plan(torch.tensor([[NAMES.index(name)]]))
    plan.parameter[:] = parameter
    expected = apply(images, plan)
    monkeypatch.setattr(sys.modules["fasteraa_transforms.backends.device"], "runs_kernels", lambda _: True)
    monkeypatch.setattr(kernels, "apply_plan", lambda *_, **__: pytest.fail("the kernels were used"))
    assert torch.equal(apply(images.to(DEVICE), plan).cpu(), expected)


@pytest.mark.parametrize(("stages", "size", "expected"), [(1, 8, 2), (2, 8, 2), (3, 8, 3), (1, 70, 5), (2, 70, 7)])
def test_number_of_launches(stages: int, size: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    launches = []
    monkeypatch.setattr(launch, "_launch", lambda kernel, *_, **__: launches.append(kernel))
    _on_device(_images(50, 3, size, size), _plan(torch.randint(len(NAMES), (50, stages))))
    assert len(launches) == expected


def test_works_without_triton() -> None:
    code = """
import sys, torch, torchvision.transforms.v2
sys.modules["triton"] = None
from fasteraa_transforms import FasterAutoAugment
from fasteraa_transforms.backends.device import runs_kernels
images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
print(FasterAutoAugment.from_pretrained("cifar10")(images).shape, runs_kernels(images.device))
"""
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "torch.Size([4, 3, 8, 8]) False"


@pytest.mark.slow
def test_kernels_compile_and_round_every_product() -> None:
    # In a process of its own, in which Triton compiles: for a GPU, without one.
    command = [sys.executable, str(ROOT / "tests" / "backends" / "compile_kernels.py"), "90"]
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert process.returncode == 0, process.stderr
    *compiled, (control, *fused_by_default) = [line.split() for line in process.stdout.splitlines()]
    assert {name for name, *_ in compiled} == {"draw", "prepare", "histogram", "look_up_tables", "pixels", "small"}
    for name, *numbers in compiled:
        # Sine, cosine and division in float64 are made of them.
        assert numbers[:2] == ["0", "0"] or name in {"prepare", "look_up_tables", "small"}, name
    assert control == "control"
    assert int(fused_by_default[0]) > 0


@pytest.mark.slow
def test_benchmark_runs() -> None:
    command = [sys.executable, str(ROOT / "cuda" / "bench.py"), "--smoke"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert process.returncode == 0, process.stderr
    assert sum(line.startswith("ran ours") for line in process.stdout.splitlines()) == 6


# --- on a GPU only ----------------------------------------------------------------------------------------------------


@GPU
@pytest.mark.parametrize("size", [32, 224])
def test_nothing_waits_for_the_device(size: int) -> None:
    transform = FasterAutoAugment.from_pretrained("cifar10", generator=torch.Generator("cuda").manual_seed(0))
    images = torch.randint(0, 256, (64, 3, size, size), dtype=torch.uint8, device="cuda")
    transform(images)  # compiles, and copies what is copied once
    plan = transform.policy.sample(64)
    apply(images, plan)
    torch.cuda.set_sync_debug_mode("error")
    try:
        transform(images)
        apply(images, plan)
        apply(images.float() / 255, plan)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@GPU
@pytest.mark.parametrize("size", [32, 224])
def test_can_be_captured_in_a_graph(size: int) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    policy = FasterAutoAugment.from_pretrained("cifar10").policy
    images = torch.randint(0, 256, (64, 3, size, size), dtype=torch.uint8, device="cuda")
    apply(images, policy.sample(64, generator))
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        plan = policy.sample(64, generator)
        result = apply(images, plan)
    plans = []
    for _ in range(2):
        graph.replay()
        assert torch.equal(result.cpu(), apply(images.cpu(), plan.to("cpu")))
        plans.append(plan.to("cpu"))
    assert plans[0] != plans[1]


@GPU
@pytest.mark.slow
def test_batches_beyond_32_bits_and_many_images() -> None:
    plan = _plan(torch.randint(len(NAMES), (65536, 2)))
    images = torch.randint(0, 256, (65536, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(apply(images.cuda(), plan).cpu(), apply(images, plan))
    plan = _plan(torch.randint(len(NAMES), (2600, 2)))
    images = torch.randint(0, 256, (2600, 3, 600, 500), dtype=torch.uint8, device="cuda")  # 2.3e9 values
    result = apply(images, plan)
    rows = torch.tensor([0, 1, 2598, 2599])
    for row in rows.tolist():
        pair = torch.stack((images[row], images[int(plan.partner[row, 0])], images[int(plan.partner[row, 1])])).cpu()
        alone = plan[torch.tensor([row] * 3)]
        alone = Plan(**{**vars(alone), "partner": torch.tensor([[1, 2]] * 3)})
        if (plan.partner[row] == row).any():
            continue
        assert torch.equal(result[row].cpu(), apply(pair, alone)[0])
