"""Shake-Shake, which lies beside its recipe and not in the package."""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fasteraa_transforms.search.networks.table import make_network

FOLDER = Path(__file__).parents[2] / "search" / "experiments" / "shake_shake"


@pytest.fixture
def module() -> Iterator[ModuleType]:
    """The file as the module that ``--model shake_shake:…`` imports."""
    spec = importlib.util.spec_from_file_location("shake_shake", FOLDER / "shake_shake.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["shake_shake"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["shake_shake"]


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("shake26_2x32d", 2.9),  # Gastaldi 2017, table 1
        ("shake26_2x96d", 26.2),
        ("shake26_2x112d", 35.6),  # by the width: 26.2 (112 / 96)²
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, millions: float) -> None:
    with torch.device("meta"):
        network = make_network(f"shake_shake:{name}", classes=10)
    assert round(sum(each.numel() for each in network.parameters()) / 1e6, 1) == millions


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("channels", [1, 3])
def test_it_gives_logits(channels: int) -> None:
    network = make_network("shake_shake:shake26_2x32d", channels=channels, classes=7).eval()
    images = torch.rand(2, channels, 32, 32)
    logits = network(images)
    assert logits.shape == (2, 7)
    torch.testing.assert_close(network(images[1:]), logits[1:], rtol=1e-4, atol=1e-5)


def test_it_mixes_each_image_by_its_own_draw_and_anew_backward(module: ModuleType) -> None:
    x, y = torch.ones(64, 1, 2, 2, requires_grad=True), torch.zeros(64, 1, 2, 2, requires_grad=True)
    mixed = module.Shake.apply(x, y)
    alpha = mixed[:, 0, 0, 0]
    assert torch.equal(mixed, alpha[:, None, None, None].expand_as(mixed))
    assert 0 <= alpha.min() < 0.2
    assert 0.8 < alpha.max() <= 1
    mixed.sum().backward()
    beta = x.grad[:, 0, 0, 0]
    torch.testing.assert_close(x.grad + y.grad, torch.ones_like(x))
    assert beta.std() > 0.2
    assert abs(torch.corrcoef(torch.stack([alpha.detach(), beta]))[0, 1]) < 0.5


def test_it_draws_in_training_only(module: ModuleType) -> None:
    network, images = module.ShakeShake(4), torch.rand(2, 3, 8, 8)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


def test_the_command_of_its_readme_names_a_network_that_is_there(module: ModuleType) -> None:
    (name,) = re.findall(r"--model shake_shake:(\w+)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert callable(getattr(module, name))
