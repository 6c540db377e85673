"""Time the trainings of a race: float32 against bfloat16, and side by side against one after the other.

    python benchmarks/race.py [--rounds 7] [--networks resnet9-16,resnet9-8:grey] [--json FILE]

For each network two numbers, medians of rounds in which the two take turns, with the smallest and the largest ratio:

- precision: images a second that one thread trains on in bfloat16, over those in float32, by CPU time;
- side by side: images a second that two processes of one thread each train on together, over those of one process with
  two threads, by the clock. It needs two cores without other work.

A network is trained as in a race, on 320 images made up, 32×32 colour or, after ``:grey``, 28×28 grey.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
from search_step import hardware

from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.networks.fit import Fit, Recipe
from fasteraa_transforms.search.networks.table import bfloat16_pays, make_network

IMAGES = 320


def training(network: str, *, bfloat16: bool) -> Fit:
    """A training that has begun: its first epoch, which sets up what stays, is over."""
    name, _, kind = network.partition(":")
    channels, side = (1, 28) if kind == "grey" else (3, 32)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, channels, side, side), dtype=torch.uint8)
    fit = Fit(
        ImageSet(images, torch.arange(IMAGES) % 10, 10),
        lambda: make_network(name, channels=channels, classes=10),
        Recipe(epochs=10**6, batch_size=32, bfloat16=bfloat16),
        Crop((side, side), 4),
    )
    fit.train_epoch()
    return fit


def rate(fit: Fit, epochs: int, clock: Callable[[], float]) -> float:
    """Images a second of some epochs."""
    began = clock()
    for _ in range(epochs):
        fit.train_epoch()
    return epochs * fit.steps_per_epoch * fit.batch_size / (clock() - began)


def serve(network: str, bfloat16: bool, threads: int, connection: Connection) -> None:
    """Train when told to, and say how fast."""
    torch.set_num_threads(threads)
    fit = training(network, bfloat16=bfloat16)
    connection.send(0.0)
    while (epochs := connection.recv()) is not None:
        connection.send(rate(fit, epochs, time.perf_counter))


def side_by_side(network: str, rounds: int, epochs: int, *, bfloat16: bool) -> tuple[list[float], list[float]]:
    """Images a second of two processes together, and of one with two threads, round by round."""
    context = multiprocessing.get_context("spawn")
    ends, processes = [], []
    for threads in (1, 1, 2):
        mine, its = context.Pipe()
        process = context.Process(target=serve, args=(network, bfloat16, threads, its), daemon=True)
        process.start()
        ends.append(mine)
        processes.append(process)
    for end in ends:
        end.recv()
    together, alone = [], []
    for _ in range(rounds):
        for end in ends[:2]:
            end.send(epochs)
        together.append(sum(end.recv() for end in ends[:2]))
        ends[2].send(2 * epochs)
        alone.append(ends[2].recv())
    for end in ends:
        end.send(None)
    for process in processes:
        process.join()
    return together, alone


def compared(name: str, these: list[float], those: list[float]) -> dict[str, float | str]:
    """Medians, and their ratio with its smallest and largest value over the rounds."""
    ratios = [a / b for a, b in zip(these, those, strict=True)]
    row: dict[str, float | str] = {
        "what": name,
        "images_per_second": statistics.median(these),
        "of_the_other": statistics.median(those),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
    }
    print(
        f"{name:44} {row['images_per_second']:8.0f} images/s against {row['of_the_other']:8.0f}: "
        f"{row['ratio']:.2f} times ({row['least']:.2f} to {row['most']:.2f})",
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default="resnet9-16,resnet9-24,resnet9-8:grey,resnet9-16:grey")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=2, help="of each timing")
    parser.add_argument("--json", help="file to write the table to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    print(f"torch {torch.__version__}, {hardware(cpu)}; {arguments.rounds} rounds")
    rows = []
    for network in arguments.networks.split(","):
        fits = [training(network, bfloat16=fast) for fast in (True, False)]
        rates: tuple[list[float], list[float]] = ([], [])
        for _ in range(arguments.rounds):
            for fit, found in zip(fits, rates, strict=True):
                found.append(rate(fit, arguments.epochs, time.process_time))
        rows.append(compared(f"{network}, bfloat16 over float32", *rates))
        fast = bfloat16_pays(network.partition(":")[0], cpu)
        together, alone = side_by_side(network, arguments.rounds, arguments.epochs, bfloat16=fast)
        rows.append(compared(f"{network}, two of one thread over one of two", together, alone))
    if arguments.json:
        with open(arguments.json, "w") as file:
            document = {"torch": torch.__version__, "hardware": hardware(cpu), "rounds": arguments.rounds}
            json.dump({**document, "rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()
