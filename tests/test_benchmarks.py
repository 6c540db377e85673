"""The benchmark of the search step times two implementations of the same step."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fasteraa_transforms.relaxed import Draw, RelaxedPolicy
from fasteraa_transforms.search.critic import Critic, WideResNet
from fasteraa_transforms.search.loop import STEP_METRICS, Objective, SearchState

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "search_step.py"


@pytest.fixture(scope="module")
def benchmark_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("search_step", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def states(module: ModuleType) -> tuple[SearchState, SearchState]:
    """Two equal states, one of them with PyTorch's own layers."""
    result = []
    for plain in (False, True):
        torch.manual_seed(0)
        policy = RelaxedPolicy(2, 2)
        critic = Critic(WideResNet(10, 1), classes=10, image_shape=(3, 16, 16))
        critic = module.plain_layers(critic) if plain else critic
        adam = [torch.optim.Adam(part.parameters(), 1e-3, (0.0, 0.999)) for part in (policy, critic)]
        result.append(SearchState(policy, critic, *adam, torch.Generator().manual_seed(0)))
    return result[0], result[1]


def test_the_straightforward_step_computes_the_same_losses(
    benchmark_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, plain = states(benchmark_module)
    chunk, half = benchmark_module.CHUNK, 16
    images, labels = torch.rand(2 * half, 3, 16, 16), torch.randint(10, (2 * half,))
    draws = [ours.policy.draw(chunk) for _ in range(half // chunk)]
    draws = [draw._replace(sub_policy=draw.sub_policy[:1].expand(chunk)) for draw in draws]
    whole = Draw(*(torch.cat(parts) for parts in zip(*draws, strict=True)))
    # A chunk knows only its own images as partners; in the whole batch they lie further on.
    whole = whole._replace(partner=torch.cat([draw.partner + i * chunk for i, draw in enumerate(draws)]))
    monkeypatch.setattr(ours.policy, "draw", lambda *_, **__: whole)
    mix = torch.rand(half, generator=torch.Generator().manual_seed(0))
    objective = Objective(torch.full((3,), 0.5), torch.full((3,), 0.25))

    measured = dict(zip(STEP_METRICS, objective.step(ours, images, labels), strict=True))
    wasserstein, penalty, class_loss, augmented_loss = benchmark_module.straightforward_step(
        objective, plain, images, labels, draws=draws, mix=mix
    )

    torch.testing.assert_close(measured["wasserstein"], wasserstein, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(measured["gradient_penalty"], penalty, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(measured["class_loss_real"], class_loss, rtol=1e-4, atol=1e-5)
    # After a step of Adam, whose first step is the sign of each gradient, rounding may turn single weights.
    torch.testing.assert_close(measured["class_loss_augmented"], augmented_loss, rtol=2e-2, atol=1e-2)


def test_halves_apart_is_another_objective(benchmark_module: ModuleType) -> None:
    """Batch norm takes each half's own mean away, so the estimates cannot agree."""
    torch.manual_seed(1)
    images, labels = torch.rand(32, 3, 16, 16), torch.randint(10, (32,))
    images[:16] *= 0.5  # the half that is augmented is darker: a difference that any critic should see
    objective = Objective(torch.full((3,), 0.5), torch.full((3,), 0.25))
    together, apart = states(benchmark_module)
    benchmark_module.plain_layers(together.critic)
    estimate = [
        benchmark_module.straightforward_step(objective, state, images, labels, separate=separate)[0].abs()
        for state, separate in ((together, False), (apart, True))
    ]
    assert estimate[1] < estimate[0]


def test_it_runs(benchmark_module: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["search_step.py", "--rounds", "1", "--depth", "10", "--batch", "16"])
    benchmark_module.main()
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr().out
    assert "median of 1 interleaved steps" in printed
    assert printed.count("this package takes") == 3
