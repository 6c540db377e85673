"""What `test_search_distributed.py` does by itself and, started by torchrun, on several ranks.

``search_ranks.py WHAT FOLDER``, where WHAT is everything, or how one of the ranks fails.
"""

import contextlib
import dataclasses
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from helpers import wasserstein
from torch import Tensor, nn

from fasteraa_transforms.relaxed import RelaxedPolicy
from fasteraa_transforms.search import (
    SearchInterrupted,
    Settings,
    TrainingSettings,
    WideResNet,
    compare,
    evaluate,
    parse_augmentations,
    search,
)
from fasteraa_transforms.search.__main__ import main
from fasteraa_transforms.search.algorithm.state import SearchState
from fasteraa_transforms.search.algorithm.wasserstein import Wasserstein
from fasteraa_transforms.search.networks.critic import Critic
from fasteraa_transforms.search.networks.table import make_backbone
from fasteraa_transforms.search.report import plots as pictures
from fasteraa_transforms.search.runtime.world import World, exit_with, join

BACKBONES = ("small", "search_ranks:wide_resnet")
STEPS = 3
HELD = Settings(
    contenders=(),
    epochs=4,
    batch_size=16,
    sub_policies=3,
    stages=2,
    num_images=48,
    padding=1,
    classifier_epochs=1,
    strengths=(1.0, 0.5),
)
PATIENCE = 600
TRAINING = TrainingSettings(model="small", epochs=2, batch_size=8, padding=1, flip=False, cutout=4, train_images=32)
AUGMENTATIONS = "none,cutout,random"


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def wide_resnet(channels: int) -> nn.Module:
    return WideResNet(10, 1, channels=channels)


class Images:
    """Grey images [1, 8, 8] of two classes: bright above or bright below, under noise."""

    def __init__(self, seed: int = 0) -> None:
        self.targets = [index % 2 for index in range(64)]
        self.images = torch.randint(0, 100, (64, 1, 8, 8), dtype=torch.uint8, generator=seeded(seed))
        for image, label in zip(self.images, self.targets, strict=True):
            image[:, 4 * label : 4 * label + 4] += 100

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.targets[index]


def steps(backbone: str, world: World, *, steps: int = STEPS) -> dict[str, Tensor]:
    """All that a few steps change and measure, in float64 and by plain gradient descent, which amplifies no error."""
    torch.manual_seed(7)
    policy = RelaxedPolicy(4, 2, generator=seeded(3)).double()
    critic = Critic(make_backbone(backbone, 2), classes=3, image_shape=(2, 8, 8)).double()
    state = SearchState(
        policy=policy,
        critic=critic,
        policy_optimizer=torch.optim.SGD(policy.parameters(), lr=0.1),
        critic_optimizer=torch.optim.SGD(critic.parameters(), lr=0.01),
        generator=seeded(11),
        multiplier=torch.ones((), dtype=torch.float64),
    )
    objective = wasserstein(
        torch.full((2,), 0.5, dtype=torch.float64),
        torch.full((2,), 0.3, dtype=torch.float64),
        chunk_size=3,  # the shares of two ranks end within a chunk
        target=0.3,
        world=world,
    )
    measured: list[Tensor] = []
    for step in range(steps):
        images = torch.rand(16, 2, 8, 8, dtype=torch.float64, generator=seeded(step))
        images[step::4] /= 4  # shares whose means and classes differ
        labels = torch.randint(0, 3, (16,), generator=seeded(step)).sort().values
        measured += [
            *objective.tools.classify(state, images, labels).values(),
            *objective.step(state, images, labels).values(),
        ]
    tensors = {f"policy.{name}": value for name, value in policy.state_dict().items()}
    tensors |= {f"critic.{name}": value for name, value in critic.state_dict().items()}
    return tensors | {"measured": torch.stack(measured or [torch.zeros(())]), "multiplier": state.multiplier}


def interrupted(folder: Path, settings: Settings = HELD, *, at: int = 8) -> str:
    """A search that gets Ctrl-C, on all ranks, in the step ``at``, counted from 1; its message."""
    step, calls = Wasserstein.step, []

    def stopped(self: Wasserstein, *args: Any) -> dict[str, Tensor]:
        calls.append(None)
        if len(calls) == at:
            raise KeyboardInterrupt
        return step(self, *args)

    Wasserstein.step = stopped  # type: ignore[method-assign]
    try:
        search(Images(), settings, out=folder, progress=False)
    except SearchInterrupted as interrupt:
        return str(interrupt)
    finally:
        Wasserstein.step = step  # type: ignore[method-assign]
    raise AssertionError("not interrupted")


def evaluated(folder: Path, seeds: int = 2) -> list[dict[str, Any]]:
    augmentations = parse_augmentations(AUGMENTATIONS)
    return compare(Images(), augmentations, TRAINING, out=folder, seeds=seeds, name="images", progress=False)


def refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    raise AssertionError("not refused")


def everything(folder: Path) -> int:
    """All that needs several ranks and ends well. ``folder`` has a search that one process left, for resuming."""
    world = join()
    results: dict[str, Any] = {f"steps, {name}": steps(name, world) for name in BACKBONES}

    policy = search(Images(), HELD, out=folder / "search", progress=False)
    results["policy"] = json.loads(policy.to_json())
    with_batch_norm = dataclasses.replace(HELD, critic=BACKBONES[1], epochs=2, strengths=(1.0,), guard="own")
    found = search(Images(), with_batch_norm, progress=False)
    results["policy, batch norm"] = json.loads(found.to_json())
    results["resumed"] = json.loads(search(Images(), HELD, out=folder / "left", resume=True, progress=False).to_json())
    results["interrupted"] = interrupted(folder / "interrupted")
    results["rows"] = evaluated(folder / "evaluation")
    results["rows after one process"] = evaluated(folder / "evaluation-left")

    printed = io.StringIO()
    options = "--seeds 1 --model small --epochs 1 --train-images 64 --batch-size 32 --cutout 0"
    with contextlib.redirect_stdout(printed):
        arguments = ["digits", "--policies", "none", *options.split(), "--out", str(folder / "command line")]
        results["status"] = evaluate.main(arguments)
    results["printed"] = printed.getvalue()

    results["refused"] = [
        refusal(lambda: search(Images(), dataclasses.replace(HELD, batch_size=18), progress=False)),
        refusal(lambda: search(Images(world.rank), HELD, progress=False)),
        refusal(lambda: compare(Images(), parse_augmentations("none"), TRAINING, progress=False)),
    ]
    torch.save(results, folder / f"rank{world.rank}.pt")
    return 0


def fails(how: str, folder: Path) -> int:
    """A search of the command line of which one rank fails in the fifth step, the second of its second epoch."""
    step, calls = Wasserstein.step, []

    def disturbed(self: Wasserstein, *args: Any) -> dict[str, Tensor]:
        calls.append(None)
        if len(calls) == 5 and self.tools.world.rank == 1:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.25 GiB.")
        if len(calls) == 5 and how == "killed":
            time.sleep(PATIENCE)  # as if for a device that waits for the others
        return step(self, *args)

    Wasserstein.step = disturbed  # type: ignore[method-assign]
    sizes = "--epochs 3 --num-images 48 --batch-size 16 --sub-policies 3 --stages 1 --image-size 8 --padding 1"
    return main(["digits", "--preset=paper", *sizes.split(), "--out", str(folder)])


if __name__ == "__main__":
    torch.set_num_threads(1)
    pictures.curves = lambda *args: None  # matplotlib takes longer than the runs
    pictures.curve_svg = lambda *args: ""
    sys.modules["search_ranks"] = sys.modules["__main__"]
    what, out = sys.argv[1], Path(sys.argv[2])
    exit_with((lambda: everything(out)) if what == "everything" else (lambda: fails(what, out)))
