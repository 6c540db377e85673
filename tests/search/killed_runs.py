"""Runs that `test_kills` kills, each in a process of its own that is there at once.

A server imports what the runs need, and forks a process for each line that it reads.
"""

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from fasteraa_transforms.search import Digits, Settings, search
from fasteraa_transforms.search.algorithm import loop
from fasteraa_transforms.search.contenders import contest, race
from fasteraa_transforms.search.evaluation.compare import compare
from fasteraa_transforms.search.evaluation.controls import parse_augmentations
from fasteraa_transforms.search.evaluation.settings import TrainingSettings
from fasteraa_transforms.search.networks import fit
from fasteraa_transforms.search.runtime.folder import RunFolder

BEGUN = "KILLED_RUNS_BEGUN"
"""Environment variable: the file with a line for each piece of work that was begun."""

# What is timed must not change what is trained: images, network, length and number of the trainings are given.
SMALL: dict[str, Any] = {
    "num_images": 120,
    "image_size": 8,
    "network": "resnet9-4",
    "race_images": 72,
    "race_epochs": 1,
    "trainings": 6,
    "replicates": 2,
    "processes": 1,
    "device": "cpu",
}
ADVERSARIAL: dict[str, Any] = {
    "epochs": 4,
    "classifier_epochs": 4,
    "batch_size": 40,
    "sub_policies": 2,
    "critic": "small",
}


def _begin(what: str) -> None:
    """Note that a piece of work begins."""
    with open(os.environ[BEGUN], "a", encoding="utf-8") as file:
        file.write(what + "\n")


def counted_work(*arguments: Any) -> Any:
    """A training of a race."""
    _begin("training")
    return race.work(*arguments)


def _counted_batches(batches: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    def counted(*arguments: Any, **options: Any) -> Iterator[Any]:
        _begin("epoch")
        yield from batches(*arguments, **options)

    return counted


def _counted_epoch(train_epoch: Callable[[fit.Fit], Any]) -> Callable[[fit.Fit], Any]:
    def counted(self: fit.Fit) -> Any:
        _begin("epoch")
        return train_epoch(self)

    return counted


def run_search(out: Path, settings: Settings) -> None:
    """A search, started or resumed, that notes every training of its race and every epoch of the adversarial search."""
    contest.work = counted_work  # type: ignore[assignment]
    loop.batches = _counted_batches(loop.batches)
    search(Digits(), settings, out=out, resume=RunFolder(out).can_resume, name="digits", progress=False)


def run_evaluation(out: Path) -> None:
    """An evaluation, started or continued, that notes every epoch."""
    fit.Fit.train_epoch = _counted_epoch(fit.Fit.train_epoch)  # type: ignore[assignment, method-assign]
    settings = TrainingSettings(
        epochs=4, batch_size=32, train_images=96, model="small", padding=1, flip=False, cutout=4, device="cpu"
    )
    compare(Digits(), parse_augmentations("none,cutout,random"), settings, out=out, seeds=2, progress=False)


RUNS: dict[str, Callable[[Path], None]] = {
    "race": lambda out: run_search(out, Settings(contenders=("none", "uniform", "calibrated"), **SMALL)),
    "race of two processes": lambda out: run_search(
        out, Settings(contenders=("none", "uniform", "calibrated"), **SMALL | {"processes": 2})
    ),
    "race with an adversarial search": lambda out: run_search(
        out, Settings(contenders=("none", "adversarial"), strengths=(1.0, 0.5), **SMALL | ADVERSARIAL)
    ),
    "adversarial": lambda out: run_search(
        out, Settings.paper(num_images=120, image_size=8, device="cpu", strengths=(1.0, 0.5), **ADVERSARIAL)
    ),
    "evaluation": run_evaluation,
}


def serve() -> None:
    """Start a run for each line ``{"run": …, "out": …, "temporary": …, "begun": …, "errors": …}`` of standard input.

    Answers with the number of its process, once it leads a session of its own, and with its status when it has ended.
    """
    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        ready, leads = os.pipe()
        process = os.fork()
        if not process:
            os.setsid()
            os.write(leads, b"!")
            os._exit(_run(order))
        os.read(ready, 1)
        os.close(ready)
        os.close(leads)
        os.write(1, b"%d\n" % process)
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


def _run(order: dict[str, str]) -> int:
    """The status of one run."""
    errors = os.open(order["errors"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number, file in ((0, nothing), (1, errors), (2, errors)):
        os.dup2(file, number)
    os.environ["TMPDIR"] = order["temporary"]
    os.environ[BEGUN] = order["begun"]
    tempfile.tempdir = None
    try:
        RUNS[order["run"]](Path(order["out"]))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0
