import os
from pathlib import Path

if not any(Path("/dev").glob("nvidia[0-9]*")):
    # Without a GPU the kernels run in Triton's interpreter, which has to be asked for before Triton is imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks PyPI for its newest version otherwise

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import settings
from sklearn.datasets import load_sample_images

settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")


# The tensors of the tests are small: more threads take longer, many times so where the cores are shared.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def photographs() -> list[npt.NDArray[np.uint8]]:
    """The two photographs that scikit-learn ships, uint8 [H, W, 3]. Shared by all tests: copy before writing."""
    return list(load_sample_images().images)


@pytest.fixture(scope="session")
def cifar10_root() -> Path:
    """The `root` for `torchvision.datasets.CIFAR10`; skips the test where CIFAR-10 is absent."""
    root = Path(os.environ.get("FASTERAA_CIFAR10") or Path(__file__).parents[1] / "data")
    if not (root / "cifar-10-batches-py" / "data_batch_1").is_file():
        pytest.skip(f"no cifar-10-batches-py in {root}; FASTERAA_CIFAR10 should name the folder that holds it")
    return root
