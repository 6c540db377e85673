"""Steps as CUDA graphs. Without a GPU, a stand-in records the operations of a capture and does them again."""

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import wasserstein
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fasteraa_transforms.relaxed import RelaxedPolicy
from fasteraa_transforms.search import Settings, search
from fasteraa_transforms.search.algorithm import loop
from fasteraa_transforms.search.algorithm.loop import batches
from fasteraa_transforms.search.algorithm.state import SearchState, adam
from fasteraa_transforms.search.algorithm.wasserstein import Wasserstein
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.networks.backbones import WideResNet
from fasteraa_transforms.search.networks.critic import Critic
from fasteraa_transforms.search.networks.table import make_backbone
from fasteraa_transforms.search.runtime.graph import CudaCapture, GraphedStep

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Recording(TorchDispatchMode):
    """What a CUDA graph is, in operations of the CPU: done again on the very tensors they were done on, without Python.

    So what a graph would keep for good (numbers, tensors that are replaced) this keeps as well.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        if self.replays == 1:  # unlike a GPU's, this capture has done its work already
            return
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)


class Recorder:
    """`CudaCapture` of the stand-in."""

    def __init__(self, *_: object) -> None:
        self.captures = 0

    @contextlib.contextmanager
    def warm_up(self) -> Iterator[None]:
        yield

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        recording = Recording()
        with recording:
            function()
        return recording.replay


# --- the step itself --------------------------------------------------------------------------------------------------


def test_the_first_calls_run_and_the_others_are_replayed() -> None:
    calls: list[int] = []

    def function(images: Tensor, labels: Tensor) -> Tensor:
        calls.append(0)
        return images.sum(0) + labels

    capture = Recorder()
    step = GraphedStep(function, capture, warm_up=2)
    for value in range(6):
        images = torch.full((3, 2), float(value))
        assert torch.equal(step(images, torch.tensor(1)), torch.full((2,), 3.0 * value + 1))
    assert (len(calls), capture.captures) == (3, 1)


def test_each_kind_of_step_has_its_graph() -> None:
    calls: list[int] = []

    def function(images: Tensor, labels: Tensor) -> Tensor:
        calls.append(len(calls))
        return images * (2 if number % 3 else 5) + labels

    capture = Recorder()
    step = GraphedStep(function, capture, warm_up=1, variant=lambda: number % 3 == 0)
    for number in range(9):
        value = step(torch.full((2,), float(number)), torch.tensor(1))
        assert torch.equal(value, torch.full((2,), number * (2 if number % 3 else 5) + 1.0))
    assert (len(calls), capture.captures) == (4, 2)  # of either kind a warm-up and a capture


def test_the_stand_in_keeps_what_a_graph_keeps() -> None:
    numbers, tensor = iter(range(10)), torch.zeros(())
    step = GraphedStep(lambda images, labels: images.sum() * next(numbers) + tensor, Recorder(), warm_up=1)
    values = []
    for i in range(4):
        tensor.fill_(100 * i)
        values.append(step(torch.ones(1), torch.zeros(1)).item())
    assert values == [0, 101, 201, 301]  # the number stays 1, the tensor is read


def test_a_step_that_cannot_be_captured() -> None:
    def refuse(function: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    refuse.warm_up = contextlib.nullcontext
    wording = r"^the step runs without a CUDA graph, it could not be captured: operation not permitted .* capturing$"
    step = GraphedStep(lambda images, labels: images + labels, refuse, warm_up=1)
    assert step(torch.ones(1), torch.ones(1)).item() == 2
    with pytest.warns(UserWarning, match=wording) as warned:
        values = [step(torch.full((1,), float(i)), torch.ones(1)).item() for i in range(3)]
    assert values == [1, 2, 3]
    assert len(warned) == 1
    step = GraphedStep(lambda images, labels: images + labels, refuse, warm_up=0, required=True)
    with pytest.raises(RuntimeError, match="operation not permitted"):
        step(torch.ones(1), torch.ones(1))


# --- steps of the search ----------------------------------------------------------------------------------------------


def make_search(
    device: str = "cpu", backbone: str = "wide", **options: Any
) -> tuple[Wasserstein, SearchState, ImageSet]:
    torch.manual_seed(0)
    policy = RelaxedPolicy(3, 2).to(device)
    network = WideResNet(10, 1) if backbone == "wide" else make_backbone(backbone, 3)
    critic = Critic(network, classes=4, image_shape=(3, 16, 16)).to(device, memory_format=torch.channels_last)
    optimizers = [adam(part, 1e-2, (0.0, 0.999)) for part in (policy, critic)]
    generator = torch.Generator(device).manual_seed(0)
    state = SearchState(policy, critic, *optimizers, generator, multiplier=torch.zeros((), device=device))
    images = torch.randint(0, 256, (50, 3, 16, 16), dtype=torch.uint8)
    data = ImageSet(images.to(device), torch.randint(0, 4, (50,)).to(device), 4)
    mean, std = torch.full((2, 3), 0.5, device=device)
    return wasserstein(mean, std, target=torch.zeros((), device=device), **options), state, data


Step = Callable[[Tensor, Tensor], dict[str, Tensor]]


def epoch(step: Step, state: SearchState, data: ImageSet) -> dict[str, Tensor]:
    """What the steps of an epoch measured, each [steps]."""
    order = batches(data, 8, Crop((16, 16), padding=2, flip=True), generator=state.generator)
    rows = [{name: value.clone() for name, value in step(*batch).items()} for batch in order]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def tensors(state: SearchState) -> list[Tensor]:
    return [each.detach().clone() for each in tree_leaves(state.state_dict()) if isinstance(each, Tensor)]


@pytest.mark.parametrize(
    ("backbone", "options"),
    [("wide", {}), ("small", {"chunk_size": 2}), ("small", {"precision": torch.bfloat16})],
    ids=["batch norm", "chunks", "bfloat16"],
)
def test_replayed_steps_are_plain_steps(backbone: str, options: dict[str, Any]) -> None:
    """Bit for bit, over two epochs, of which each has its own target."""
    found = []
    for graphed in (False, True):
        objective, state, data = make_search(backbone=backbone, **options)
        classify, step = (functools.partial(each, state) for each in (objective.tools.classify, objective.step))
        if graphed:
            classify, step = GraphedStep(classify, Recorder()), GraphedStep(step, Recorder())
        values = [epoch(classify, state, data)]
        for target in (0.5, 0.01):
            objective.tools.strength.target.fill_(target)
            values.append(epoch(step, state, data))
        found.append((values, tensors(state)))
    (plain_values, plain_state), (values, state) = found
    for one, other in zip(plain_values, values, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(map(torch.equal, plain_state, state))
    multiplier = plain_values[1]["multiplier"]
    assert multiplier[-1] > multiplier[0] > 0  # both targets are felt
    assert plain_values[2]["multiplier"][-1] < multiplier[-1]


def test_a_graph_goes_on_from_a_checkpoint() -> None:
    objective, state, data = make_search(backbone="small")
    objective.tools.strength.target.fill_(0.3)
    step = GraphedStep(functools.partial(objective.step, state), Recorder())
    epoch(step, state, data)
    saved = copy.deepcopy(state.state_dict())
    saved["generator"] = state.generator.get_state().clone()
    last = epoch(step, state, data)

    torch.manual_seed(9)
    objective, other, data = make_search(backbone="small")
    objective.tools.strength.target.fill_(0.3)
    other.load_state_dict(saved)
    again = epoch(GraphedStep(functools.partial(objective.step, other), Recorder()), other, data)
    assert all(torch.equal(again[name], last[name]) for name in last)
    for one, two in zip(tensors(state), tensors(other), strict=True):
        assert torch.equal(one, two)


def test_loading_leaves_the_multiplier_where_it_is_and_the_optimizers_to_their_device() -> None:
    _, state, _ = make_search(backbone="small")
    saved = copy.deepcopy(state.state_dict())
    saved["multiplier"] = torch.tensor(0.7)
    for name in ("policy_optimizer", "critic_optimizer"):
        saved[name]["param_groups"][0]["capturable"] = True  # as on a GPU
    multiplier = state.multiplier
    state.load_state_dict(saved)
    assert state.multiplier is multiplier
    assert multiplier.item() == pytest.approx(0.7)
    assert not state.policy_optimizer.param_groups[0]["capturable"]


@pytest.mark.parametrize(
    ("change", "captures"),
    [({}, 1), ({"penalty_every": 3}, 2), ({"guard": "own"}, 1), ({"objective": "gradient-matching"}, 1)],
    ids=["default", "penalties now and then", "guard of its own", "gradient matching"],
)
def test_a_search_with_graphs_is_that_without(
    change: dict[str, Any], captures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.randint(0, 256, (48, 3, 12, 12), dtype=torch.uint8)
    dataset = [(image, i % 4) for i, image in enumerate(images)]
    settings = Settings(
        contenders=(),
        epochs=4,
        classifier_epochs=2,
        batch_size=8,
        sub_policies=2,
        stages=1,
        strengths=(1.0, 0.5),
    )
    settings = dataclasses.replace(settings, **change)
    plain = search(dataset, settings, progress=False)
    graphed: list[GraphedStep] = []

    def captured(step: Any, state: object, graphs: str, variant: Any = None) -> GraphedStep:
        graphed.append(GraphedStep(step, Recorder(), warm_up=2, variant=variant))
        return graphed[-1]

    monkeypatch.setattr(loop, "graphed", captured)
    assert search(dataset, settings, progress=False).sub_policies == plain.sub_policies
    assert [each.capture.captures for each in graphed] == [1, captures]  # classifier; search, for both strengths


def test_graphs_need_a_gpu() -> None:
    images = [(torch.zeros(3, 8, 8, dtype=torch.uint8), i % 2) for i in range(4)]
    settings = Settings.paper(epochs=1, batch_size=4, device="cpu", graphs="on")
    with pytest.raises(ValueError, match=r"^graphs should be auto or off where the device is cpu, but got on instead$"):
        search(images, settings, progress=False)


# --- on a GPU only ----------------------------------------------------------------------------------------------------


@GPU
def test_a_step_on_a_gpu_waits_for_nothing() -> None:
    objective, state, data = make_search("cuda")
    epoch(functools.partial(objective.step, state), state, data)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in [(data.images[:8].float() / 255, data.labels[:8])] * 2:
            objective.step(state, *batch)
            objective.tools.classify(state, *batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@GPU
@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 2e-2)])
def test_a_captured_step_is_the_plain_one(precision: torch.dtype, tolerance: float) -> None:
    """Each step from the same state twice: of the graph, and plain. Sums by atomics differ in their rounding."""
    objective, state, data = make_search("cuda", precision=precision)
    plain, other, _ = make_search("cuda", precision=precision)
    step = GraphedStep(functools.partial(objective.step, state), CudaCapture(state.generator), required=True)
    batch = data.images[:8].float() / 255, data.labels[:8]
    for i in range(8):  # from the 4th on they are replays
        for each in (objective, plain):
            each.tools.strength.target.fill_(0.3 / (i + 1))
        before = copy.deepcopy(state.state_dict())
        other.load_state_dict(before)
        values, expected = dict(step(*batch)), plain.step(other, *batch)
        # Adam's step is the sign of a gradient, and rounding turns that of single weights of the critic.
        for name in ("policy_loss", "class_loss_augmented", "accuracy_augmented"):
            values[name], expected[name] = values[name] / 100, expected[name] / 100
        torch.testing.assert_close(values, expected, rtol=tolerance, atol=tolerance)
        assert torch.equal(state.generator.get_state(), other.generator.get_state())
        old = before["policy"]
        for name, value in state.policy.state_dict().items():
            moved = (value - old[name]).abs().mean()
            assert moved > 0
            assert (value - other.policy.state_dict()[name]).abs().mean() < 0.2 * moved, name


@GPU
def test_a_capture_that_fails_leaves_the_draws_as_they_were() -> None:
    generator = torch.Generator("cuda").manual_seed(3)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        drawn = torch.rand(4, device="cuda", generator=generator)
        if not torch.cuda.is_current_stream_capturing():
            return drawn
        drawn.sum().item()
        raise AssertionError("a value was read while it was captured")

    graphed = GraphedStep(step, CudaCapture(generator), warm_up=1)
    values = [graphed(torch.ones(1, device="cuda"), torch.ones(1, device="cuda")).clone()]
    with pytest.warns(UserWarning, match="could not be captured"):
        values.append(graphed(torch.ones(1, device="cuda"), torch.ones(1, device="cuda")).clone())
    expected = torch.Generator("cuda").manual_seed(3)
    for value in values:
        assert torch.equal(value, torch.rand(4, device="cuda", generator=expected))
    torch.rand(2, device="cuda")  # the default generator works as well


@GPU
def test_a_search_with_graphs_on_a_gpu() -> None:
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    dataset = [(image, i % 4) for i, image in enumerate(images)]
    settings = Settings.paper(epochs=3, batch_size=8, strengths=(1.0, 0.5), classifier_epochs=1)
    settings = dataclasses.replace(settings, device="cuda", critic="wrn40_2", graphs="on")
    provenance = search(dataset, settings, progress=False).provenance
    assert provenance["steps"] == 24
