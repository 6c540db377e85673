"""How many networks a round of the race should take: races of contenders whose true losses are known.

    python search/experiments/rounds/run.py [--races 300]

Trains nothing. Each race has ten contenders. Their true losses are drawn from the positive half of a normal
distribution of deviation `spread`; each network adds normal noise of deviation 1 to the loss of its contender. The race
is that of the search. What is counted is the regret: the true loss of the contender that the race keeps minus the
smallest one, in units of the noise. The mean regrets are printed and kept in rows.jsonl.
"""

import argparse
import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from fasteraa_transforms.search.contenders import Contender
from fasteraa_transforms.search.contenders import race as module

ROWS = Path(__file__).parent / "rows.jsonl"
CONTENDERS = 10
IMAGES = 16
SPREADS = (0.5, 1.0, 2.0)
NETWORKS = (15, 18, 28, 80)
SHARES = {"all that are not clearly behind": 1.0, "at most half of the networks left": 0.5}


class MadeUp:
    """Trainings whose results are drawn."""

    def __init__(self, losses: Mapping[str, float], rng: np.random.Generator) -> None:
        self.losses, self.rng = losses, rng
        self.splits = rng.normal(0, 1, 64)
        self.rows: list[dict[str, Any]] = []
        # The images say that a network has about the noise that it has.
        self.images = np.random.default_rng(0).normal(0, 1, (CONTENDERS, IMAGES)) * np.sqrt(IMAGES / 4)

    def train(self, contenders: Iterable[Contender], replicate: int) -> None:
        for each in contenders:
            loss = 10 + self.losses[each.name] + self.splits[replicate] + self.rng.normal()
            losses = base64.b64encode((loss + self.images[int(each.name)]).astype(np.float16).tobytes()).decode()
            self.rows.append(
                {
                    "contender": each.name, "replicate": replicate,
                    "loss": loss, "error": loss / 20, "losses": losses, "errors": losses,
                }
            )  # fmt: skip

    def of(self, names: Iterable[str]) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["contender"] in set(names)]


def regret(spread: float, networks: int, share: float, seed: int) -> tuple[float, int]:
    """Regret of one race, and how many networks it took. The same seed is the same contenders for every share."""
    rng = np.random.default_rng(seed)
    losses = {str(index): float(loss) for index, loss in enumerate(np.abs(rng.normal(0, spread, CONTENDERS)))}
    trainings = MadeUp(losses, rng)
    with mock.patch.object(module, "_SHARE", share):
        result = module.race(
            trainings,  # type: ignore[arg-type]
            [Contender(name, None, "") for name in losses],
            most=networks,
            replicates=16,
        )
    return losses[result[0].contender] - min(losses.values()), len(trainings.rows)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Mean regret by spread, networks and how many a round takes, with the 95 % interval of the difference."""
    lines = ["| spread | networks | " + " | ".join(SHARES) + " | difference |", "|---:|---:|---:|---:|---:|"]
    lines += [
        f"| {row['spread']:g} | {row['networks']} | {' | '.join(f'{each:.3f}' for each in row['regrets'])} "
        f"| {row['difference']:+.3f} ± {row['half_width']:.3f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Run all races, keep and print the mean regrets."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--races", type=int, default=300, help="of each cell")
    options = parser.parse_args()
    rows = []
    for spread in SPREADS:
        for networks in NETWORKS:
            found = np.array(
                [
                    [regret(spread, networks, share, seed)[0] for share in SHARES.values()]
                    for seed in range(options.races)
                ]
            )
            difference = found[:, 1] - found[:, 0]
            rows.append(
                {
                    "spread": spread,
                    "networks": networks,
                    "races": options.races,
                    "regrets": [float(each) for each in found.mean(0)],
                    "difference": float(difference.mean()),
                    "half_width": float(1.96 * difference.std(ddof=1) / np.sqrt(options.races)),
                }
            )
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    ROWS.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
