"""Time the transform against those of other libraries, on one thread, side by side.

    python benchmarks/augment.py [--rounds 15] [--only 32] [--json benchmarks/augment.json]

Needs ``pip install -e ".[bench]"``; a library that is not installed is left out. Blocks of calls of all libraries take
turns, so that what else the machine does hits them alike, and a ratio is the median over the rounds of the ratio within
a round. `python benchmarks/report.py` writes docs/benchmarks.md from the JSON.
"""

import os

# Before numpy, torch and OpenCV are imported, which read it then.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import argparse
import gc
import importlib.util
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.transforms import AutoAugmentPolicy, v2
from torchvision.transforms.v2.functional import to_pil_image

from fasteraa_transforms import OPERATIONS, FasterAutoAugment, Policy

OURS, BASE = "fasteraa_transforms", "torchvision AutoAugment"
HARDER = f"{OURS}, 20 magnitudes"
BLOCK_SECONDS = 0.02
DISTINCT = {32: 200, 224: 48}  # images that calls cycle through, so that no statistics of one image stay in a cache


@dataclass(frozen=True)
class Row:
    """One kind of work.

    Attributes:
        size: height and width in pixels.
        kind: "tensor", "PIL" or "batch" (a uint8 tensor).
        images: images a call.
        target: the highest ratio to torchvision that the package holds itself to.
        harder: the same, for the policy of 20 magnitudes.
    """

    size: int
    kind: str
    images: int
    target: float
    harder: float

    @property
    def name(self) -> str:
        shape = f"{self.size}×{self.size}"
        return f"batch {self.images}×3×{shape}" if self.kind == "batch" else f"{shape} {self.kind}"


ROWS = (
    Row(32, "tensor", 1, 0.20, 0.20),
    Row(32, "PIL", 1, 0.30, 0.22),
    Row(224, "tensor", 1, 0.25, 0.18),
    Row(224, "PIL", 1, 0.70, 0.40),
    Row(32, "batch", 128, 0.08, 0.08),
    Row(224, "batch", 64, 0.25, 0.18),
)

Call = Callable[[Any], object]


def policy(*, harder: bool = False) -> Policy:
    """Ten sub-policies of two operations: each of the 16 that need no other image, four of them once more.

    Each is applied with probability 0.6, as often as those of torchvision's policies are on average (0.53 for CIFAR-10,
    0.62 for ImageNet). All have the magnitude 0.6; in the harder one, each of the 20 has another magnitude, as in a
    policy that was searched, so that few images of a batch have the same operation at the same magnitude.
    """
    names = [name for name in OPERATIONS if name != "sample_pairing"] + ["shear_x", "rotate", "color", "equalize"]
    candidates = [
        {
            "operation": name,
            "weight": 1,
            "probability": 0.6,
            "magnitude": (_spread(n, len(names)) if harder else 0.6) if OPERATIONS[name].has_magnitude else None,
        }
        for n, name in enumerate(names)
    ]
    name = "20 magnitudes" if harder else "benchmark"
    return Policy([[[candidates[n]], [candidates[n + 10]]] for n in range(10)], name=name)


def _spread(n: int, count: int) -> float:
    """The n-th of so many different magnitudes in (0, 1); those beside each other lie far apart."""
    return (7 * n % count + 0.5) / count


# --- what takes part: for each a function of the row that gives the call, or None where it does not apply -------------


def loop(call: Call, row: Row) -> Call:
    """A call on a batch for a transform that draws once for all images of it."""
    return (lambda batch: torch.stack([call(image) for image in batch])) if row.kind == "batch" else call


def ours(row: Row) -> Call:
    return FasterAutoAugment(policy())


def ours_harder(row: Row) -> Call:
    return FasterAutoAugment(policy(harder=True))


def shipped(row: Row) -> Call:
    return FasterAutoAugment.from_pretrained("cifar10-paper")


def torchvision_autoaugment(row: Row) -> Call:
    return loop(v2.AutoAugment(AutoAugmentPolicy.CIFAR10 if row.size == 32 else AutoAugmentPolicy.IMAGENET), row)


def torchvision_trivialaugment(row: Row) -> Call:
    return loop(v2.TrivialAugmentWide(), row)


def kornia_autoaugment(row: Row) -> Call | None:
    if row.kind == "PIL":
        return None
    from kornia.augmentation.auto import AutoAugment

    return AutoAugment("cifar10" if row.size == 32 else "imagenet")  # draws once for each image of the batch


def albumentations_trivialaugment(row: Row) -> Call:
    """TrivialAugment from albumentations' operations; it ships no policy of its own."""
    import albumentations as A

    one_of = A.OneOf(
        [
            A.NoOp(),
            A.Affine(shear={"x": (-45, 45)}, p=1),
            A.Affine(shear={"y": (-45, 45)}, p=1),
            A.Affine(translate_percent={"x": (-0.45, 0.45)}, p=1),
            A.Affine(translate_percent={"y": (-0.45, 0.45)}, p=1),
            A.Rotate((-135, 135), p=1),
            A.ColorJitter((0.1, 1.9), (1, 1), (1, 1), (0, 0), p=1),
            A.ColorJitter((1, 1), (0.1, 1.9), (1, 1), (0, 0), p=1),
            A.ColorJitter((1, 1), (1, 1), (0.1, 1.9), (0, 0), p=1),
            A.Sharpen(p=1),
            A.Posterize((2, 8), p=1),
            A.Solarize((0, 1), p=1),
            A.AutoContrast(p=1),
            A.Equalize(p=1),
        ],
        p=1,
    )
    transform = A.Compose([one_of])
    if row.kind == "batch":
        return lambda batch: np.stack([transform(image=image)["image"] for image in batch])
    return lambda image: transform(image=image)["image"]


def timm_autoaugment(row: Row) -> Call | None:
    if row.kind != "PIL":
        return None
    from timm.data.auto_augment import auto_augment_transform

    return auto_augment_transform("original", {"translate_const": round(row.size * 0.45), "img_mean": (124, 116, 104)})


COMPETITORS: dict[str, tuple[str, Callable[[Row], Call | None]]] = {
    OURS: ("fasteraa_transforms", ours),
    HARDER: ("fasteraa_transforms", ours_harder),
    "fasteraa_transforms, shipped cifar10-paper policy": ("fasteraa_transforms", shipped),
    BASE: ("torchvision", torchvision_autoaugment),
    "torchvision TrivialAugment": ("torchvision", torchvision_trivialaugment),
    "kornia AutoAugment": ("kornia", kornia_autoaugment),
    "albumentations, as TrivialAugment": ("albumentations", albumentations_trivialaugment),
    "timm AutoAugment": ("timm", timm_autoaugment),
}


def calls(row: Row) -> dict[str, Call]:
    """The calls that take part in a row, by name."""
    found = {
        name: make(row) for name, (module, make) in COMPETITORS.items() if importlib.util.find_spec(module) is not None
    }
    return {name: call for name, call in found.items() if call is not None}


# --- images -----------------------------------------------------------------------------------------------------------


def photographs(size: int, count: int) -> Tensor:
    """Pieces of the two photographs of scikit-learn, uint8 [count, 3, size, size]."""
    rng = np.random.default_rng(0)
    pieces = []
    for photograph in itertools.islice(itertools.cycle(load_sample_images().images), count):
        step = int(rng.integers(1, 2 if size > 200 else 5))
        top, left = (int(rng.integers(0, length - step * size + 1)) for length in photograph.shape[:2])
        pieces.append(photograph[top : top + step * size : step, left : left + step * size : step])
    return torch.from_numpy(np.stack(pieces).transpose(0, 3, 1, 2).copy())


def samples(row: Row, name: str) -> Iterator[Any]:
    """What a library takes for a row, without end: for albumentations arrays, for kornia floats."""
    images = photographs(row.size, max(DISTINCT[row.size], row.images))
    if name.startswith("albumentations"):
        values: Any = images.permute(0, 2, 3, 1).contiguous().numpy()
    else:
        values = images / 255 if name.startswith("kornia") else images
    if row.kind == "batch":
        return itertools.repeat(values[: row.images])
    if row.kind == "PIL" and not name.startswith("albumentations"):
        return itertools.cycle([to_pil_image(image) for image in values])
    return itertools.cycle([value[None] if name.startswith("kornia") else value for value in values])


# --- measuring --------------------------------------------------------------------------------------------------------


def seconds_of_block(call: Call, inputs: Iterator[Any], count: int) -> float:
    block = list(itertools.islice(inputs, count))
    began = time.process_time()  # of one thread: what else the machine does is not counted
    for sample in block:
        call(sample)
    return time.process_time() - began


def measure(row: Row, rounds: int, library: str = "") -> dict[str, dict[str, float]]:
    """Microseconds an image (median and quartiles over the rounds) and the ratio to torchvision, of each library."""
    taking_part = {name: call for name, call in calls(row).items() if library in name or name == BASE}
    inputs = {name: samples(row, name) for name in taking_part}
    torch.manual_seed(0)
    gc.collect()
    gc.disable()  # as timeit does: the time of a collection depends on what else the process holds
    counts = {}
    for name, call in taking_part.items():  # warms up as well
        several = DISTINCT[row.size] // row.images + 1
        seconds_of_block(call, inputs[name], several)
        once = seconds_of_block(call, inputs[name], several) / several
        counts[name] = max(1, round(BLOCK_SECONDS / once))
    micros: dict[str, list[float]] = {name: [] for name in taking_part}
    for _ in range(rounds):
        for name, call in taking_part.items():
            seconds = seconds_of_block(call, inputs[name], counts[name])
            micros[name].append(seconds / counts[name] / row.images * 1e6)
    gc.enable()
    result = {}
    for name, values in micros.items():
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        ratio = statistics.median(value / base for value, base in zip(values, micros[BASE], strict=True))
        result[name] = {"median": median, "low": low, "high": high, "ratio": ratio}
    return result


def processor() -> str:
    """Its name, as the system knows it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def setting() -> dict[str, Any]:
    """Hardware and versions."""
    packages = ["torch", "torchvision", "pillow", "numpy", "kornia", "albumentations", "timm"]
    installed = {name: version(name) for name in packages if importlib.util.find_spec(name.replace("pillow", "PIL"))}
    return {
        "processor": processor(),
        "vector_extensions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "versions": installed,
    }


def one_thread() -> None:
    torch.set_num_threads(1)
    if importlib.util.find_spec("cv2"):
        import cv2

        cv2.setNumThreads(1)


def table(row: Row, results: dict[str, dict[str, float]]) -> str:
    lines = [f"{row.name}: µs an image, ratio to {BASE} (hold to {row.target:.2f}, 20 magnitudes to {row.harder:.2f})"]
    lines += [f"  {name:45} {value['median']:9.1f} {value['ratio']:8.3f}" for name, value in results.items()]
    return "\n".join(lines)


def keep(path: Path, document: dict[str, Any]) -> None:
    """Write a document to a list of them, in the place of the one of the same processor."""
    documents = json.loads(path.read_text("utf-8")) if path.exists() else []
    names = ("processor", "vector_extensions")
    others = [each for each in documents if any(each["setting"][n] != document["setting"][n] for n in names)]
    path.write_text(json.dumps([*others, document], indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="measure only rows with this in their name")
    parser.add_argument("--library", default="", help="measure only libraries with this in their name, and torchvision")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()
    one_thread()
    rows = []
    for row in ROWS:
        if arguments.only in row.name:
            results = measure(row, arguments.rounds, arguments.library)
            rows.append({"name": row.name, "target": row.target, "harder": row.harder, "results": results})
            print(table(row, results), flush=True)
    if arguments.json:
        keep(arguments.json, {"setting": setting(), "rounds": arguments.rounds, "rows": rows})


if __name__ == "__main__":
    main()
