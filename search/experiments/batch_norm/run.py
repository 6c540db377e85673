"""Show what batch norm does to a critic that sees real and augmented images in separate batches.

    python search/experiments/batch_norm/run.py [--steps 100] [--seeds 2]

Trains a WideResNet-10-1 critic on the digits by the search's own step, with the two halves in one batch and apart, and
prints the mean Wasserstein estimate of the last half of the steps.
"""

import argparse
import sys
from pathlib import Path

import torch

from fasteraa_transforms.search import Digits, load_images
from fasteraa_transforms.search.algorithm.loop import batches
from fasteraa_transforms.search.algorithm.tools import Tools
from fasteraa_transforms.search.algorithm.wasserstein import Wasserstein
from fasteraa_transforms.search.data.crop import Crop

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from search_step import make_state, straightforward_step


def mean_estimate(*, separate: bool, steps: int, seed: int) -> float:
    """Mean Wasserstein estimate of the last half of ``steps`` steps."""
    data = load_images(Digits(), size=(32, 32), seed=seed)
    data = type(data)(data.images.expand(-1, 3, -1, -1), data.labels, data.classes)
    state = make_state(10, width=1, channels_last=False, seed=seed)
    objective = Wasserstein(Tools(torch.full((3,), 0.3), torch.full((3,), 0.35)))
    torch.manual_seed(seed)
    estimates: list[float] = []
    while len(estimates) < steps:
        generator = state.generator.manual_seed(len(estimates))
        for images, labels in batches(data, 128, Crop((32, 32), padding=4), generator=generator):
            wasserstein, *_ = straightforward_step(objective, state, images, labels, separate=separate)
            estimates.append(wasserstein.item())
    return sum(estimates[steps // 2 : steps]) / (steps - steps // 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    for seed in range(arguments.seeds):
        together, apart = (
            mean_estimate(separate=separate, steps=arguments.steps, seed=seed) for separate in (False, True)
        )
        print(
            f"seed {seed}, {arguments.steps} steps: in one batch {together:.3f}, halves apart {apart:.3f}", flush=True
        )


if __name__ == "__main__":
    main()
