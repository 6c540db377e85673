"""Time a policy on batches that lie on a GPU, beside a plain copy of the batch and the other libraries.

    python cuda/bench.py [--json cuda/results.json] [--repeats 200] [--only NAME ...]

Each variant is timed with CUDA events around single calls, in rounds in which all variants take turns, after a warm-up;
the median counts. Inputs rotate through as many batches as it takes to exceed the L2 cache twice, so that no variant
reads what the one before left there. "graph" is the same call captured in a CUDA graph: what the GPU needs without the
host. A host that is slower than the GPU shows in the difference.

"predicted" is a floor, computed from what was measured in the same run: bytes that have to be read and written, at the
rate of the plain copy, plus the number of launches, at the time an empty kernel takes in a graph.

The policy is that of a random start: 10 sub-policies of 2 stages, all 17 operations with equal weight in each stage,
probability 0.5, magnitudes spread over [0, 1].

Without a GPU, --smoke runs everything once on tiny batches in Triton's interpreter and prints no times.
"""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

if "--smoke" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"

import torch
from torch import Tensor
from torchvision.transforms import v2

from fasteraa_transforms import OPERATIONS, Epilogue, FasterAutoAugment, Policy, apply

SHAPES = ((128, 3, 32, 32), (1024, 3, 32, 32), (64, 3, 224, 224), (1024, 3, 224, 224))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STATISTICS = ("contrast", "auto_contrast", "equalize")
PROBABILITY = 0.5
Call = Callable[[Tensor], object]


def random_start(stages: int = 2) -> Policy:
    """10 sub-policies of so many stages, every operation equally likely."""
    sub_policies = []
    for i in range(10):
        stage = [
            {"operation": name, "weight": 1.0, "probability": PROBABILITY}
            | ({"magnitude": ((7 * i + j) % 17) / 16} if row.has_magnitude else {})
            for j, (name, row) in enumerate(OPERATIONS.items())
        ]
        sub_policies.append([stage] * stages)
    return Policy(sub_policies, name="random start")


def graphed(call: Call, images: Tensor, generator: torch.Generator | None = None) -> Call:
    """The call as a CUDA graph over a fixed input, into which each batch is not copied: it is replayed as it is."""
    for _ in range(3):
        call(images)
    graph = torch.cuda.CUDAGraph()
    if generator is not None:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        call(images)
    return lambda _: graph.replay()


def torchvision_loop(images: Tensor, transform: Any) -> Tensor:
    return torch.stack([transform(image) for image in images])


def own_variants(images: Tensor, graphs: bool) -> dict[str, Call]:
    """This package in its different uses."""
    device = images.device
    policy = random_start()
    plan = policy.sample(len(images)).to(device)
    drawn = FasterAutoAugment(policy, generator=torch.Generator(device).manual_seed(0))
    from_cpu = FasterAutoAugment(policy, generator=torch.Generator().manual_seed(0))
    epilogue = Epilogue(dtype=torch.float16, mean=MEAN, std=STD)
    separate = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD), v2.ToDtype(torch.float16)])
    variants: dict[str, Call] = {
        "ours, plan given": lambda batch: apply(batch, plan),
        "ours, plan drawn on the GPU": drawn,
        "ours, plan drawn on the CPU": from_cpu,
        "ours, plan given, bilinear": lambda batch: apply(batch, plan, interpolation="bilinear"),
        "ours, plan given, normalised float16 in the last kernel": lambda batch: apply(batch, plan, epilogue=epilogue),
        "ours, plan given, normalised float16 by torchvision": lambda batch: separate(apply(batch, plan)),
    }
    if graphs:
        variants["ours, plan given, graph"] = graphed(variants["ours, plan given"], images)
        variants["ours, plan drawn on the GPU, graph"] = graphed(drawn, images, drawn.generator)
    return variants


def other_variants(images: Tensor) -> tuple[dict[str, Call], dict[str, str]]:
    """The other libraries, and why those that are left out are."""
    variants: dict[str, Call] = {}
    missing: dict[str, str] = {}
    automatic = v2.AutoAugment()
    variants["torchvision v2 AutoAugment, loop over images"] = lambda batch: torchvision_loop(batch, automatic)
    variants["torchvision v2 AutoAugment, one draw for the batch"] = automatic
    try:
        from kornia.augmentation.auto import AutoAugment
    except ImportError as error:
        missing["kornia AutoAugment"] = f"not installed ({error})"
    else:
        kornia = AutoAugment("imagenet").to(images.device)
        variants["kornia AutoAugment, float32, conversion included"] = lambda batch: kornia(batch.float().div_(255))
    try:
        variants["DALI AutoAugment"] = dali(images)
    except (ImportError, RuntimeError) as error:
        missing["DALI AutoAugment"] = f"not run ({error})"
    return variants, missing


def dali(images: Tensor) -> Call:
    """DALI's AutoAugment for ImageNet on images that are on the GPU already; one run of its pipeline is a batch."""
    from nvidia.dali import fn, pipeline_def
    from nvidia.dali.auto_aug import auto_augment

    batch, _, height, width = images.shape
    source = [image.permute(1, 2, 0).contiguous() for image in images]

    @pipeline_def(enable_conditionals=True, batch_size=batch, num_threads=2, device_id=images.device.index or 0)
    def pipeline() -> Any:
        data = fn.external_source(lambda: source, device="gpu", layout="HWC")
        return auto_augment.auto_augment_image_net(data, shape=(height, width, 3))

    built = pipeline()
    built.build()
    return lambda _: built.run()


def bytes_moved(images: Tensor, stages: int = 2) -> float:
    """Bytes that the kernels read and write: the batch once each way, and once more for those that need statistics."""
    share = PROBABILITY * len(STATISTICS) / len(OPERATIONS)
    return images.numel() * (2 + stages * share)


def measure(variants: dict[str, Call], batches: list[Tensor], repeats: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each call, all variants in turn; a slow variant is called less often, ten times at least."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    counts = {}
    for name, call in variants.items():
        call(batches[0])
        torch.cuda.synchronize()
        start = time.perf_counter()
        call(batches[0])
        torch.cuda.synchronize()
        counts[name] = max(10, min(repeats, int(seconds / (time.perf_counter() - start))))
    for i in range(max(counts.values())):
        for name, call in variants.items():
            if i >= counts[name]:
                continue
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            begin.record()
            call(batches[i % len(batches)])
            end.record()
            end.synchronize()
            times[name].append(begin.elapsed_time(end))
    return times


def launch_time() -> float:
    """Milliseconds that a kernel with nothing to do takes in a graph of a thousand."""
    nothing = torch.zeros(1, device="cuda")
    nothing.add_(1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(1000):
            nothing.add_(1)
    samples = measure({"empty": lambda _: graph.replay()}, [nothing], 20, 1.0)["empty"]
    return statistics.median(samples) / 1000


def kernel_times(images: Tensor) -> dict[str, float]:
    """Milliseconds of each kernel of one call, from the profiler."""
    plan = random_start().sample(len(images)).to(images.device)
    apply(images, plan)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(10):
            apply(images, plan)
        torch.cuda.synchronize()
    return {
        event.key: event.device_time_total / 1000 / 10 for event in profile.key_averages() if event.device_time_total
    }


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def bench(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that was measured, as it goes into the JSON file."""
    properties = torch.cuda.get_device_properties(0)
    packages = ("torch", "torchvision", "triton", "kornia", "nvidia-dali-cuda120")
    result: dict[str, Any] = {
        "device": properties.name,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in packages},
        "launch_us": 1000 * launch_time(),
        "shapes": [],
    }
    for shape in SHAPES:
        size = math.prod(shape)
        rotation = max(2, math.ceil(2 * properties.L2_cache_size / size))
        batches = [torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda") for _ in range(rotation)]
        others, missing = other_variants(batches[0])
        variants = {"copy": lambda batch: batch.clone(), **own_variants(batches[0], graphs=True), **others}
        if arguments.only:
            variants = {n: v for n, v in variants.items() if n == "copy" or any(part in n for part in arguments.only)}
        times = measure(variants, batches, arguments.repeats, arguments.seconds)
        medians = {name: statistics.median(samples) for name, samples in times.items()}
        launches = 2 if shape[-1] * shape[-2] <= 4096 else 7
        rate = 2 * size / medians["copy"]  # bytes a millisecond
        row = {
            "shape": shape,
            "copy_gb_per_s": rate / 1e6,
            "predicted_ms": bytes_moved(batches[0]) / rate + launches * result["launch_us"] / 1000,
            "kernels_ms": kernel_times(batches[0]),
            "missing": missing,
            "variants": {
                name: {
                    "median_ms": medians[name],
                    "quartiles_ms": statistics.quantiles(samples, n=4),
                    "n": len(samples),
                    "of_copy": medians[name] / medians["copy"],
                }
                for name, samples in times.items()
            },
        }
        result["shapes"].append(row)
        print(table(row))
        del batches, variants
        torch.cuda.empty_cache()
    return result


def table(row: dict[str, Any]) -> str:
    """One shape as Markdown."""
    batch, channels, height, width = row["shape"]
    lines = [
        f"\n### {batch} × {channels} × {height} × {width}, uint8",
        f"\nCopy at {row['copy_gb_per_s']:.0f} GB/s (read and written). Predicted floor of ours: "
        f"{1000 * row['predicted_ms']:.1f} µs.\n",
        "| variant | median, µs | quartiles, µs | of a copy | n |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, values in row["variants"].items():
        low, _, high = values["quartiles_ms"]
        lines.append(
            f"| {name} | {1000 * values['median_ms']:.1f} | {1000 * low:.1f} to {1000 * high:.1f} | "
            f"{values['of_copy']:.2f} | {values['n']} |"
        )
    lines += [f"| {name} | {reason} | | | |" for name, reason in row["missing"].items()]
    lines += ["\n| kernel | µs of one call |", "|---|---:|"]
    lines += [f"| `{name}` | {1000 * value:.1f} |" for name, value in row["kernels_ms"].items()]
    return "\n".join(lines)


def smoke() -> None:
    """Run every variant once, on the CPU in the interpreter."""
    images = torch.randint(0, 256, (3, 3, 6, 6), dtype=torch.uint8)
    sys.modules["fasteraa_transforms.backends.device"].runs_kernels = lambda _: True  # type: ignore[attr-defined]
    others, missing = other_variants(images)
    for name, call in {**own_variants(images, graphs=False), **others}.items():
        call(images)
        print("ran", name)
    for name, reason in missing.items():
        print("left out", name, reason)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_name("results.json"), help="where to write")
    parser.add_argument("--repeats", type=int, default=200, help="calls of each variant at most")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each variant and shape, about")
    parser.add_argument("--only", nargs="+", default=[], help="parts of the names of the variants to run")
    parser.add_argument("--smoke", action="store_true", help="run everything once without a GPU, no times")
    arguments = parser.parse_args()
    if arguments.smoke:
        smoke()
        return
    if not torch.cuda.is_available():
        parser.error("there is no GPU; --smoke runs the code without one")
    result = bench(arguments)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{result['device']}, CUDA {result['cuda']}, {result['packages']}; written to {arguments.json}")


if __name__ == "__main__":
    main()
