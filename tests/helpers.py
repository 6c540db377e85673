"""What several test modules make in the same way."""

import copy
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from torch import Tensor

from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.policy import Policy
from fasteraa_transforms.search.algorithm.strength import Strength
from fasteraa_transforms.search.algorithm.tools import Tools
from fasteraa_transforms.search.algorithm.wasserstein import Wasserstein

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""Chromium's command; None where it is not installed."""

STEP_METRICS = (
    "critic_loss",
    "wasserstein",
    "gradient_penalty",
    "class_loss_real",
    "accuracy_real",
    "policy_loss",
    "class_loss_augmented",
    "accuracy_augmented",
    "displacement",
    "multiplier",
)
"""What a step of the paper's objective measures, in this order."""


def wasserstein(
    mean: Tensor, std: Tensor, *, target: float | Tensor | None = None, multiplier_rate: float = 0.05, **options: Any
) -> Wasserstein:
    """The paper's objective, its strength held at ``target``; ``options`` of `Wasserstein` or of its tools."""
    weights = {name: options.pop(name) for name in Wasserstein.__dataclass_fields__ if name in options}
    strength = None if target is None else Strength(target, multiplier_rate)
    return Wasserstein(Tools(mean, std, strength=strength, **options), **weights)


def candidate(operation: str = "rotate", weight: Any = 1.0, probability: Any = 0.5, **magnitude: Any) -> dict[str, Any]:
    """A candidate of a policy; with a magnitude of 0.4 if it has one and none is given."""
    if OPERATIONS[operation].has_magnitude:
        magnitude.setdefault("magnitude", 0.4)
    return {"operation": operation, "weight": weight, "probability": probability, **magnitude}


def document(**changes: Any) -> dict[str, Any]:
    """A valid policy file of 2 sub-policies, 2 stages, 2 candidates."""
    stages = [
        [candidate("rotate", 0.83, 0.61, magnitude=0.44), candidate("flip", 0.17, 0.5)],
        [candidate("solarize", 0.5, 1.0), candidate("cutout", 0.5, 0.0)],
    ]
    content = {
        "format": "fasteraa-policy",
        "version": 1,
        "name": "cifar10",
        "sub_policies": [stages, copy.deepcopy(stages)],
        "provenance": {"seed": 3, "hardware": None, "losses": [0.1, 0.2]},
    }
    return {**content, **changes}


def example() -> Policy:
    """A policy of 2 sub-policies, 2 stages, unequal numbers of candidates."""
    return Policy(
        [
            [
                [candidate("rotate", 5, 0.3), candidate("flip", 3, 0.9), candidate("posterize", 2, 0.6)],
                [candidate("cutout", 1, 1.0)],
            ],
            [
                [candidate("solarize", 1, 0.0), candidate("brightness", 9, 0.5, magnitude=1.0)],
                [candidate("sample_pairing", 1, 0.5), candidate("invert", 1, 0.5)],
            ],
        ],
        name="example",
        provenance={"seed": 1},
    )


def dump_dom(page: str, width: int, folder: Path, *options: str) -> tuple[str, list[str]]:
    """The elements of a page after its scripts have run, and what the browser wrote to its console.

    Args:
        page: HTML.
        width: of the page, in pixels.
        folder: for files of the browser.
        options: more of them for the browser.
    """
    assert BROWSER is not None
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    command = [
        BROWSER,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width + 200},900",
        *options,
        "--dump-dom",
        file.as_uri(),
    ]
    environment = os.environ | {"HOME": str(folder)}
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    return result.stdout, re.findall(r"^.*:CONSOLE.*$", result.stderr, re.MULTILINE)


# --- damaged files ----------------------------------------------------------------------------------------------------


def flipped(data: bytes, place: float, bit: int) -> bytes:
    """``data`` with one bit of the byte at ``place``, in [0, 1] of the length, the other way round."""
    changed = bytearray(data)
    changed[int(place * (len(data) - 1))] ^= 1 << bit
    return bytes(changed)


DAMAGE = st.one_of(
    st.builds(lambda place: lambda data: data[: int(place * len(data))], st.floats(0, 1, exclude_max=True)),
    st.builds(lambda place, bit: lambda data: flipped(data, place, bit), st.floats(0, 1), st.integers(0, 7)),
    st.builds(lambda place: lambda data: data[: int(place * len(data))].ljust(len(data), b"\0"), st.floats(0, 0.99)),
    st.builds(lambda more: lambda data: data + more, st.binary(min_size=1, max_size=80)),
    st.builds(lambda other: lambda data: other, st.binary(max_size=200)),
    st.builds(
        lambda a, b: lambda data: data[: int(a * len(data))] + data[int(b * len(data)) :], *[st.floats(0, 1)] * 2
    ),
)
"""What happens to the bytes of files: cut off, flipped, zeroed, something behind, replaced, a part lost or twice."""


def attempt(do: Callable[[], Any], kind: type[Exception]) -> tuple[Any, str]:
    """What ``do`` returns, or what its error of this kind says."""
    try:
        return do(), ""
    except kind as error:
        return None, str(error)
