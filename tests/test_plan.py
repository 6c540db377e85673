import copy
import dataclasses
import pickle

import pytest
import torch

from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.plan import Plan
from fasteraa_transforms.policy.policy import Policy

FIELDS = ("operation", "parameter", "applied", "centre", "partner", "sub_policy")
NAMES = list(OPERATIONS)


def tensors(images: int = 4, stages: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (images, stages)
    return {
        "operation": torch.randint(len(NAMES), shape, generator=generator),
        "parameter": torch.randn(shape, dtype=torch.float64, generator=generator),
        "applied": torch.rand(shape, generator=generator) < 0.5,
        "centre": torch.rand(*shape, 2, dtype=torch.float64, generator=generator),
        "partner": torch.randint(max(images, 1), shape, generator=generator),
        "sub_policy": torch.randint(5, (images,), generator=generator),
    }


def test_sizes() -> None:
    plan = Plan(**tensors(4, 3))
    assert len(plan) == 4
    assert plan.stages == 3
    assert len(Plan(**tensors(0, 2))) == 0


@pytest.mark.parametrize("name", FIELDS)
def test_refuses_a_wrong_dtype(name: str) -> None:
    values = tensors()
    values[name] = values[name].to(torch.float32)
    with pytest.raises(ValueError, match=rf"^{name} should be torch.* \[4.*\] on cpu, but is torch.float32 \[4"):
        Plan(**values)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("change", [lambda t: t[:-1], lambda t: t[..., None], lambda t: t.flatten()[0]])
def test_refuses_a_wrong_shape(name: str, change: object) -> None:
    values = tensors()
    values[name] = change(values[name])  # type: ignore[operator]
    with pytest.raises(ValueError, match="should be"):
        Plan(**values)


def test_refuses_mixed_devices() -> None:
    values = tensors()
    values["centre"] = values["centre"].to("meta")
    with pytest.raises(ValueError, match=r"centre should be .* on cpu, but is .* on meta"):
        Plan(**values)


def test_does_not_look_at_values() -> None:
    # A meta tensor has no values, so anything that would wait for a device fails on it.
    plan = Plan(**{name: tensor.to("meta") for name, tensor in tensors().items()})
    assert len(plan[1:3]) == 2


def test_is_immutable() -> None:
    plan = Plan(**tensors())
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.operation = plan.operation + 1  # type: ignore[misc]
    with pytest.raises(TypeError, match="unhashable"):
        hash(plan)


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (0, [0]),
        (-1, [3]),
        (torch.tensor(2), [2]),
        (slice(1, 3), [1, 2]),
        (slice(None, None, 2), [0, 2]),
        (slice(4, None), []),
        (torch.tensor([3, 0, 3]), [3, 0, 3]),
        (torch.tensor([], dtype=torch.int64), []),
        (torch.tensor([True, False, False, True]), [0, 3]),
    ],
)
def test_rows(index: int | slice | torch.Tensor, rows: list[int]) -> None:
    values = tensors()
    part = Plan(**values)[index]
    assert len(part) == len(rows)
    for name in FIELDS:  # the partners too: they go on counting in the whole batch
        assert torch.equal(getattr(part, name), values[name][rows]), name


@pytest.mark.parametrize("index", [4, -5])
def test_refuses_an_image_outside(index: int) -> None:
    with pytest.raises(IndexError, match=f"image {index} of a plan of 4 images"):
        Plan(**tensors())[index]


def test_refuses_an_index_of_another_type() -> None:
    with pytest.raises(TypeError):
        Plan(**tensors())["operation"]  # type: ignore[index]


def test_iterates_over_images() -> None:
    plan = Plan(**tensors())
    assert [part.sub_policy.item() for part in plan] == plan.sub_policy.tolist()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", FIELDS)
def test_equality_looks_at_every_tensor(name: str) -> None:
    values = tensors()
    plan = Plan(**values)
    assert plan == Plan(**{key: tensor.clone() for key, tensor in values.items()})
    changed = values[name].clone()
    last = (-1,) * changed.ndim
    changed[last] = ~changed[last] if changed.dtype == torch.bool else changed[last] + 1
    assert plan != Plan(**{**values, name: changed})


def test_equality_with_other_sizes_and_types() -> None:
    assert Plan(**tensors(3)) != Plan(**tensors(4))
    assert Plan(**tensors()) != "plan"


def test_to() -> None:
    plan = Plan(**tensors())
    assert plan.to("cpu") is plan
    assert plan.to("meta").centre.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_to_the_gpu_and_back() -> None:
    plan = Plan(**tensors())
    moved = plan.to("cuda")
    assert all(getattr(moved, name).is_cuda for name in FIELDS)
    assert plan == moved
    assert moved == plan
    assert moved.to("cpu") == plan
    assert plan[1::2].to("cuda") == plan[1::2]
    assert plan[:0].to("cuda") == plan[:0]


@pytest.mark.parametrize("rows", [slice(None), slice(1, None, 2), slice(2, 3), slice(0)])
def test_to_the_gpu_is_one_copy_from_pinned_memory(rows: slice, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
        calls.append("pin")
        return tensor.clone()

    def to(tensor: torch.Tensor, device: str, non_blocking: bool = False) -> torch.Tensor:
        calls.append((device, non_blocking))
        return tensor.clone()

    plan = Plan(**tensors(5, 3))[rows]
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "pin_memory", pin_memory)
        patch.setattr(torch.Tensor, "to", to)
        moved = plan.to("cuda:1")
    assert calls == ["pin", ("cuda:1", True)]
    assert moved is not plan
    assert moved == plan


def test_to_the_gpu_keeps_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    values = tensors()
    values["parameter"].requires_grad_()
    plan = Plan(**values)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", lambda tensor, device: tensor.clone())
        moved = plan.to("cuda")
    moved.parameter.sum().backward()
    assert torch.equal(values["parameter"].grad, torch.ones(4, 3, dtype=torch.float64))


def test_pickle_and_copy() -> None:
    plan = Plan(**tensors())
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert copy.deepcopy(plan) == plan


def steps(rows: list[list[tuple[str, float, bool]]]) -> Plan:
    values = tensors(len(rows), len(rows[0]))
    values["operation"] = torch.tensor([[NAMES.index(name) for name, _, _ in row] for row in rows])
    values["parameter"] = torch.tensor([[value for _, value, _ in row] for row in rows], dtype=torch.float64)
    values["applied"] = torch.tensor([[applied for _, _, applied in row] for row in rows])
    values["partner"] = torch.full_like(values["operation"], 7)
    values["centre"] = torch.full_like(values["centre"], 0.25)
    return Plan(**values)


def test_repr_lists_few_images() -> None:
    plan = steps(
        [
            [("rotate", -12.34, True), ("solarize", 128.0, True)],
            [("rotate", -12.34, False), ("flip", 0.0, True)],
            [("rotate", -12.34, False), ("flip", 0.0, False)],
            [("sample_pairing", 0.2, True), ("cutout", 0.1, True)],
        ]
    )
    assert repr(plan).splitlines() == [
        "Plan(4 images, 2 stages, cpu)",
        "  0: rotate(-12.3 degrees) → solarize(128 level)",
        "  1: flip",
        "  2: unchanged",
        "  3: sample_pairing(0.2 of the partner, image 7) → cutout(0.1 of the width at (0.25, 0.25))",
    ]


def test_repr_counts_many_images() -> None:
    plan = steps([[("flip", 0.0, True), ("invert", 0.0, image % 4 == 0)] for image in range(100)])
    assert repr(plan) == "Plan(100 images, 2 stages, cpu)\n  125 of 200 stages applied: flip 100, invert 25"
    nothing = steps([[("flip", 0.0, False)]] * 100)
    assert repr(nothing) == "Plan(100 images, 1 stage, cpu)\n  0 of 100 stages applied: none"


def test_repr_of_every_operation_and_of_nothing() -> None:
    for name in OPERATIONS:
        assert f"  0: {name}" in repr(steps([[(name, 1.0, True)]]))
    assert repr(Plan(**tensors(0, 1))) == "Plan(0 images, 1 stage, cpu)"


def test_parts_of_a_drawn_plan_make_up_the_whole() -> None:
    policy = Policy([[[{"operation": "rotate", "weight": 1, "probability": 0.5, "magnitude": 1.0}]]])
    plan = policy.sample(10, torch.Generator().manual_seed(0))
    parts = [plan[:3], plan[3:10]]
    whole = Plan(**{name: torch.cat([getattr(part, name) for part in parts]) for name in FIELDS})
    assert whole == plan
