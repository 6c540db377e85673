"""What the steps of the search and of an evaluation ask of their device: nothing waits for it, nothing is copied to it.

There need be no GPU. A mode sees every operation that is dispatched; meta tensors, which have no values, are the second
device: what needs a value raises, and what is made on the host shows.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers import wasserstein
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fasteraa_transforms import FasterAutoAugment
from fasteraa_transforms.relaxed import RelaxedPolicy
from fasteraa_transforms.search import load_images
from fasteraa_transforms.search.algorithm.loop import batches
from fasteraa_transforms.search.algorithm.state import SearchState, adam
from fasteraa_transforms.search.algorithm.tools import Tools
from fasteraa_transforms.search.algorithm.wasserstein import Wasserstein
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.networks import table
from fasteraa_transforms.search.networks.backbones import WideResNet
from fasteraa_transforms.search.networks.critic import Critic
from fasteraa_transforms.search.networks.fit import Fit, Recipe

# What reads a value, or has a shape that depends on values.
READS = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "histc",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
}


class HostMode(TorchDispatchMode):
    """Notes, in ``found``, each operation for which a host would wait for ``device``."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        inputs = [each for each in tree_leaves((args, kwargs or {})) if isinstance(each, Tensor)]
        if name in READS:
            self.found.append(name)
        if name.startswith("lift"):
            self.found.append("a tensor of Python data")
        if name in ("index", "index_put", "index_put_", "_unsafe_index") and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        ):
            self.found.append(f"{name} by a mask")
        result = func(*args, **(kwargs or {}))
        for each in (*inputs, *(each for each in tree_leaves(result) if isinstance(each, Tensor))):
            # A CPU tensor of no dimensions is what a Python number becomes; it goes to a kernel as an argument.
            if each.device.type != self.device and (each.ndim or name in ("copy_", "_to_copy")):
                self.found.append(f"{name} with a tensor on {each.device}")
        return result


def host_waits(device: str, function: Callable[[], object]) -> list[str]:
    mode = HostMode(device)
    try:
        with mode:
            function()
    except (RuntimeError, NotImplementedError) as error:  # of a meta tensor whose value is asked for
        mode.found.append(str(error).splitlines()[0])
    return mode.found


# --- the check itself -------------------------------------------------------------------------------------------------

WAITS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "truth": lambda x: bool((x > 0).any()),
    "mask": lambda x: x[x > 0],
    "mask in a list": lambda x: x[:, x[0] > 0],
    "assignment by a mask": lambda x: x.clone().__setitem__(x > 0, x.sum()),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "bincount": lambda x: x.flatten().long().bincount(),
    "repeat_interleave": lambda x: x.repeat_interleave(x[:, 0].long(), 0),
    "tensor": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "as_tensor": lambda x: torch.as_tensor(0.5, device=x.device),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "list as an index": lambda x: x[[0, 1]],
    "slice set from a list": lambda x: x.clone()[0].copy_(torch.tensor([1.0, 2.0])),
}


FROM_PYTHON = {"tensor", "as_tensor", "new_tensor", "list as an index"}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", WAITS)
def test_the_check_finds_what_waits(name: str, device: str) -> None:
    if name in FROM_PYTHON and device == "meta" and not host_waits("meta", lambda: torch.tensor([1.0], device="meta")):
        pytest.skip("this PyTorch makes a meta tensor of Python data without an operation that is dispatched")
    assert host_waits(device, lambda: WAITS[name](torch.ones(2, 2, device=device)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: x + torch.ones(2, 2),
        lambda x: x[torch.zeros(2, dtype=torch.long)],
        lambda x: torch.from_numpy(np.ones(3)).to(x.device),
        lambda x: x.copy_(torch.ones(2, 2)),
        lambda x: torch.ones(()).to(x.device),
    ],
)
def test_the_check_finds_copies(function: Callable[[Tensor], object]) -> None:
    assert host_waits("meta", lambda: function(torch.ones(2, 2, device="meta")))


def test_the_check_lets_the_rest_pass() -> None:
    def function() -> None:
        x = torch.rand(2, 2, device="meta", requires_grad=True)
        y = torch.where(x > 0, x, 0.0) * 2 + torch.full((2,), 3.0, device="meta")
        y[torch.arange(2, device="meta")].sum().backward()

    assert host_waits("meta", function) == []


# --- the search -------------------------------------------------------------------------------------------------------


def make_search(
    device: str, channels: int, options: dict[str, Any]
) -> tuple[Wasserstein, SearchState, Callable[..., object]]:
    """An objective, a state, and what goes through an epoch of 2 batches of 4 with them."""
    torch.manual_seed(0)
    policy = RelaxedPolicy(3, 1).to(device)
    critic = Critic(WideResNet(10, 1, channels=channels), classes=4, image_shape=(channels, 16, 16))
    critic = critic.to(device, memory_format=torch.channels_last)
    meta = device == "meta"  # has neither the kernel of the optimizer nor generators
    policy_optimizer, critic_optimizer = (
        torch.optim.SGD(part.parameters(), 0.1) if meta else adam(part, 1e-3, (0.0, 0.999)) for part in (policy, critic)
    )
    generator: Any = None if meta else torch.Generator().manual_seed(0)
    state = SearchState(
        policy, critic, policy_optimizer, critic_optimizer, generator, multiplier=torch.zeros((), device=device)
    )
    mean, std = torch.full((2, channels), 0.5, device=device)
    objective = wasserstein(mean, std, **options)
    images = torch.randint(0, 256, (10, channels, 16, 16), dtype=torch.uint8, device=device)
    data = ImageSet(images, torch.randint(0, 4, (10,), device=device), 4)

    def epoch(step: Callable[[SearchState, Tensor, Tensor], dict[str, Tensor]]) -> None:
        for batch in batches(data, 4, Crop((16, 16), padding=2, flip=True), generator=generator):
            step(state, *batch)

    return objective, state, epoch


@pytest.mark.parametrize(
    ("device", "channels", "options"),
    [
        ("cpu", 3, {}),
        ("cpu", 1, {"target": 0.1, "chunk_size": 2, "precision": torch.bfloat16}),
        ("meta", 3, {"target": 0.1, "chunk_size": 2}),
    ],
    ids=["cpu", "cpu, all options", "meta, all options"],
)
def test_nothing_waits_in_an_epoch_of_the_search(
    device: str, channels: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "meta":  # has no autocast
        monkeypatch.setattr(Tools, "autocast", lambda *_: contextlib.nullcontext())
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    # On the CPU, where reading costs nothing, a sum tells that no value is infinite; on a GPU nothing is looked at.
    monkeypatch.setattr("fasteraa_transforms.relaxed.finite", lambda images: images.nan_to_num(0.0, 1.0, 0.0))
    objective, _, epoch = make_search(device, channels, options)
    assert host_waits(device, lambda: epoch(objective.tools.classify)) == []
    assert host_waits(device, lambda: epoch(objective.step)) == []


# --- the training of an evaluation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_one_value_is_waited_for_in_an_epoch_of_an_evaluation(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_images([(torch.full((3, 16, 16), 8 * i, dtype=torch.uint8), i % 2) for i in range(10)])
    monkeypatch.setitem(table.NETWORKS, "wrn10_1", table.Network(table._wide(10, 1), ""))
    recipe = Recipe.of("wrn10_1", epochs=3, batch_size=4, cutout=4, gradient_clip=5.0)
    training = Fit(data, lambda: table.make_network("wrn10_1", classes=2), recipe, Crop((16, 16), 2, True))
    if device == "meta":  # has neither the kernel of the optimizer nor generators nor autocast
        training.data = data.to("meta")
        training.network.to("meta")
        training.optimizer = torch.optim.SGD(training.network.parameters(), 0.1, momentum=0.9, nesterov=True)
        monkeypatch.setattr(training, "_reseed", lambda _: None)
        monkeypatch.setattr(training, "generator", None)
        monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    lists: list[Tensor] = []
    monkeypatch.setattr(Tensor, "tolist", lambda values: lists.append(values) or [0.0, 0.0])
    assert host_waits(device, training.train_epoch) == []
    assert [values.shape for values in lists] == [(2,)]  # the means, at its end


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_an_epoch_of_an_evaluation_waits_once_on_a_gpu() -> None:
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, device="cuda")
    data = ImageSet(images, torch.arange(40, device="cuda") % 2, 2)
    recipe = Recipe.of("wrn40_2", epochs=4, batch_size=8, cutout=16)
    policy = FasterAutoAugment.from_pretrained("cifar10").policy
    make = partial(table.make_network, "wrn40_2", classes=2)
    training = Fit(data, make, recipe, Crop((32, 32), 4, True), augment=policy)
    training.train_epoch()  # compiles the kernels, and copies what is copied once
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchronizing") as warned:
            training.train_epoch()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(warned) == 1
