"""A search and an evaluation find the same, whatever their caller has changed of PyTorch for the whole process."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

from fasteraa_transforms import Policy
from fasteraa_transforms.search import Digits, Settings, TrainingSettings, compare, parse_augmentations, search

RACE = Settings(
    contenders=("none", "uniform", "calibrated"),
    num_images=60,
    network="resnet9-4",
    race_epochs=1,
    race_images=30,
    trainings=4,
    replicates=1,
    processes=1,
    device="cpu",
)
PAPER = Settings.paper(epochs=1, num_images=64, batch_size=32, sub_policies=2, strengths=(1.0,), device="cpu")
TRAINING = TrainingSettings(epochs=1, train_images=64, model="small", device="cpu")


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


CHANGED: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "another device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def found() -> tuple[Policy, Policy, list[tuple[float, float]]]:
    """What a race, the paper's search and an evaluation find."""
    rows = compare(Digits(), parse_augmentations("none,random"), TRAINING, seeds=1, progress=False)
    policies = (search(Digits(), settings, progress=False) for settings in (RACE, PAPER))
    return *policies, [(row["error"], row["loss"]) for row in rows]  # type: ignore[return-value]


@pytest.fixture(scope="module")
def usual() -> tuple[Policy, Policy, list[tuple[float, float]]]:
    return found()


@pytest.mark.parametrize("what", CHANGED)
def test_what_is_found_is_the_same(what: str, usual: tuple[Policy, Policy, list[tuple[float, float]]]) -> None:
    def state() -> tuple[Any, ...]:
        return (
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
        )

    with CHANGED[what]():
        before = state()
        assert found() == usual
        assert state() == before
