"""What fits into the minutes that a search may take: the plan that it says first, and keeps to.

The time of a training step is measured, not guessed. From it follow the width of the network, the number of images that
each network is trained on, and how many networks are trained in all. The plan is kept in the folder of the run: whoever
resumes it trains the same networks, however long the break was.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from fasteraa_transforms.search.contenders.trial import Arena
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.networks.fit import Fit, Recipe
from fasteraa_transforms.search.networks.table import bfloat16_pays, make_network, make_pixel_network

MINUTES = {"cpu": 10.0, "cuda": 5.0}
"""What a search takes by default, on each kind of device."""

LENGTHS = (8, 16, 32, 64, 128, 256)
"""Epochs that are tried, one after the other, until a network without augmentation has fitted its images."""

FITTED = 0.99
"""Training accuracy from which a network has fitted its images."""

MULTIPLE = 3
"""The trainings of a race are so many times as long as it takes to fit the images without augmentation."""

AUGMENTING = 0.1
"""Share of a training's time that augmentation takes, about, with the smallest networks."""

TRAINED = 0.6
"""Of the images, at most this share is trained on: the others judge, and few of them would judge badly."""

REPLICATES = 16
"""Networks that one contender gets at most, unless the settings say otherwise."""

ROUNDS = 1.5
"""Trainings for each contender, on average: all race once, the best of them again."""

FEWEST_IMAGES = 120
"""Fewer images than this are not trained on, even where the networks then cannot fit them in time."""

# A network fits its images without augmentation within about so many epochs (350 images of CIFAR-10: 58, 500 of
# CIFAR-100: 56, 600 silhouettes: 26; rows of search/experiments/suite), and hardly within fewer steps than these.
_USUAL_LENGTH = {"colour": 64, "grey": 32}
_LEAST_STEPS = 300

# Images to train on, and the width of the network for colour images; from cheap to dear. Grey ones take half the width.
_LADDER = (
    (120, 8), (180, 12), (250, 16), (350, 16), (500, 16), (750, 16), (1000, 16), (1000, 24), (1500, 24), (2000, 24),
    (2000, 32), (3000, 32), (4000, 32),
)  # fmt: skip
_LEAST_RATE_SECONDS = 0.4  # how long the steps of one network are timed


@dataclass(frozen=True)
class RacePlan:
    """What a search trains.

    Attributes:
        network: name, as `make_network` takes it.
        size: (height, width) that the networks of the race see.
        train_images: how many images each is trained on.
        held_out: how many of the others judge it.
        batch_size: images a step.
        epochs: of every training; 0 until the length is known.
        trainings: how many networks the race may train in all.
        replicates: at most so many for one contender.
        processes: how many are trained side by side.
        rate: images a second of one process, as timed.
        bfloat16: whether networks compute in bfloat16.
        fitted: whether a network without augmentation fits its images in a third of ``epochs``; None until known.
    """

    network: str
    size: tuple[int, int]
    train_images: int
    held_out: int
    batch_size: int
    epochs: int
    trainings: int
    replicates: int
    processes: int
    rate: float
    bfloat16: bool = False
    fitted: bool | None = None

    def training_seconds(self, epochs: int | None = None) -> float:
        """How long one training takes of the whole machine, judging included."""
        passes = (self.epochs if epochs is None else epochs) * self.train_images + self.held_out / 3
        return passes / (self.rate * self.processes)

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "RacePlan":
        """What `to_json` gave."""
        return cls(**{**value, "size": tuple(value["size"])})


def seconds_of(minutes: float | None, device: torch.device) -> float:
    """What a search may take: ``minutes``, or what is usual on the device.

    Example:
        >>> seconds_of(None, torch.device("cpu")), seconds_of(0.5, torch.device("cpu"))
        (600.0, 30.0)
    """
    return 60 * (MINUTES.get(device.type, MINUTES["cpu"]) if minutes is None else minutes)


def processes_for(device: torch.device) -> int:
    """How many trainings go side by side: one on an accelerator, else one for each thread of PyTorch's."""
    return 1 if device.type != "cpu" else max(1, min(torch.get_num_threads(), os.cpu_count() or 1))


def time_network(
    name: str, data: ImageSet, crop: Crop, batch_size: int, *, seconds: float, bfloat16: bool = False
) -> float:
    """Images a second that one thread trains on, augmentation left out.

    Args:
        name: of the network.
        data: images to train on.
        crop: of the race.
        batch_size: images a step.
        seconds: how long to look.
        bfloat16: whether the network computes in it.
    """
    few = data.subset(torch.arange(min(len(data), 4 * batch_size)))
    make = make_pixel_network if data.has_masks else make_network
    threads = torch.get_num_threads()
    if few.images.device.type == "cpu":
        torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[few.images.device] if few.images.is_cuda else []):
            training = Fit(
                few,
                lambda: make(name, channels=few.images.shape[1], classes=few.classes),
                Recipe(epochs=10**6, batch_size=batch_size, bfloat16=bfloat16),
                crop,
            )
            training.train_epoch()  # sets up what stays
            began, images = time.perf_counter(), 0
            while (passed := time.perf_counter() - began) < seconds:
                training.train_epoch()
                images += training.steps_per_epoch * training.batch_size
    finally:
        torch.set_num_threads(threads)
    return images / passed


def make_plan(
    data: ImageSet,
    crop: Crop,
    *,
    seconds: float,
    contenders: int,
    network: str | None = None,
    processes: int | None = None,
    train_images: int | None = None,
) -> RacePlan:
    """The largest race that fits into ``seconds``.

    Args:
        data: the images of the search, on the device to train on.
        crop: of the race.
        seconds: for length, guards and race together.
        contenders: how many will race.
        network: its name, where the user names one.
        processes: how many trainings side by side; None: as fits the device.
        train_images: for each network, where the user says so; at most `TRAINED` of all.

    Returns:
        A plan whose ``epochs`` are a guess, which `with_length` replaces.
    """
    device = data.images.device
    side_by_side = processes_for(device) if processes is None else processes
    room = max(2, int(len(data) * TRAINED))
    grey = data.images.shape[1] == 1
    ladder = [(min(train_images or images, room), width // 2 if grey else width) for images, width in _LADDER]
    rates: dict[str, float] = {}
    best: RacePlan | None = None
    for images, width in dict.fromkeys(ladder):
        name = network or f"resnet9-{max(width, 4)}"
        batch_size = _batch_size(images)
        if name not in rates:
            fast = bfloat16_pays(name, device)
            rates[name] = time_network(name, data, crop, batch_size, seconds=_LEAST_RATE_SECONDS, bfloat16=fast)
        plan = RacePlan(
            network=name,
            size=crop.size,
            train_images=images,
            held_out=min(len(data) - images, 2500),
            batch_size=batch_size,
            epochs=MULTIPLE * _guessed_length(images, data),
            trainings=math.ceil(ROUNDS * contenders),
            replicates=REPLICATES,
            processes=side_by_side,
            rate=rates[name],
            bfloat16=bfloat16_pays(name, device),
        )
        if best is not None and _total(plan) > seconds:
            break
        best = plan
    assert best is not None
    return best


def changed(plan: RacePlan, **changes: Any) -> RacePlan:
    """The plan with some fields changed."""
    return replace(plan, **changes)


def _batch_size(images: int) -> int:
    """Small enough for some steps an epoch."""
    return 32 if images < 1500 else 64


def _guessed_length(images: int, data: ImageSet) -> int:
    """Epochs to fit so many images; `find_length` refines it."""
    usual = _USUAL_LENGTH["grey" if data.images.shape[1] == 1 else "colour"]
    return max(usual, math.ceil(_LEAST_STEPS / max(1, images // _batch_size(images))))


def _total(plan: RacePlan) -> float:
    """Seconds of length and race. Finding the length takes some two times the epochs that it finds."""
    length = 2 * plan.training_seconds(plan.epochs // MULTIPLE)
    return length + plan.trainings * plan.training_seconds()


def affordable_length(plan: RacePlan, *, seconds: float, contenders: int) -> int:
    """The longest length for which every contender can be trained once, and the best of them again, in ``seconds``."""
    one = seconds / math.ceil(ROUNDS * contenders) * plan.rate * plan.processes - plan.held_out / 3
    return max(LENGTHS[0], int(one / plan.train_images / MULTIPLE))


def fewer_images(plan: RacePlan, *, images: int) -> RacePlan | None:
    """The plan with half the images to train on, or None where they are few already.

    Networks that cannot fit their images in the time there is get fewer images, not shorter trainings: short ones
    favour weak augmentation. On 350 images of CIFAR-10 the contenders that lead are those that lead on 2,000
    (search/experiments/suite).

    Args:
        plan: whose networks did not fit their images.
        images: of the data set.
    """
    half = max(plan.train_images // 2, FEWEST_IMAGES)
    if half >= plan.train_images:
        return None
    return replace(
        plan, train_images=half, batch_size=_batch_size(half), held_out=min(images - half, plan.held_out + half)
    )


def find_length(fit_in: Callable[[Sequence[int]], Sequence[float]], *, most: int, at_once: int = 1) -> tuple[int, bool]:
    """Epochs after which a network without augmentation has fitted its images, and whether it has.

    Between the last length that is too short and the first that is long enough, the training error is taken to fall as
    a power of the length; and beyond the last one that is tried, up to ``most``.

    Args:
        fit_in: the training accuracy in the last epoch of trainings of so many epochs each.
        most: epochs that are tried at most, and that a length which is not tried may have.
        at_once: lengths that are tried side by side.

    Example:
        >>> find_length(lambda tried: [1 - 1 / epochs for epochs in tried], most=64)
        (64, False)
        >>> find_length(lambda tried: [1 - 1 / epochs for epochs in tried], most=110)
        (100, True)
    """
    tried = [epochs for epochs in LENGTHS if epochs <= most] or [LENGTHS[0]]
    before: list[tuple[int, float]] = []
    for start in range(0, len(tried), at_once):
        part = tried[start : start + at_once]
        for epochs, accuracy in zip(part, fit_in(part), strict=True):
            if accuracy >= FITTED:
                return min(epochs, _on_line(before[-1], (epochs, accuracy))) if before else epochs, True
            before.append((epochs, accuracy))
    beyond = _on_line(*before[-2:]) if len(before) > 1 else most + 1
    return (max(beyond, tried[-1]), True) if beyond <= most else (tried[-1], False)


def _on_line(short: tuple[int, float], long: tuple[int, float]) -> int:
    """The length at which the training error is 1 - `FITTED`, on the line through two points of a log-log plot."""
    (few, low), (many, high) = short, long
    wrong = [math.log(max(1 - accuracy, 1e-4)) for accuracy in (low, high)]
    part = (wrong[0] - math.log(1 - FITTED)) / max(wrong[0] - wrong[1], 1e-9)
    return math.ceil(few * (many / few) ** min(max(part, 0.0), 20.0) - 1e-6)


def with_rate(plan: RacePlan, epochs: int, seconds: float) -> RacePlan:
    """The plan with the rate of a whole training, which counts what a few steps do not show.

    Args:
        plan: of `make_plan`.
        epochs: of a training without augmentation.
        seconds: that it took, judging included.
    """
    passes = epochs * plan.train_images + plan.held_out / 3
    return replace(plan, rate=passes / seconds * (1 - AUGMENTING))


def with_length(plan: RacePlan, length: int, fitted: bool, *, seconds: float, contenders: int) -> RacePlan:
    """The plan once the length is known: epochs, and the trainings that fit into ``seconds``.

    A race needs every contender once. Where even that does not fit, trainings become shorter, and
    `RacePlan.fitted` says so.

    Args:
        plan: of `make_plan`.
        length: epochs to fit the images.
        fitted: whether they were fitted.
        seconds: that are left.
        contenders: how many race.
    """
    longer = replace(plan, epochs=MULTIPLE * length, fitted=fitted)
    affordable = int(seconds / longer.training_seconds())
    least = math.ceil(1.2 * contenders)
    if affordable >= least:
        return replace(longer, trainings=min(affordable, plan.replicates * contenders))
    one = (seconds / least) * plan.rate * plan.processes - plan.held_out / 3
    epochs = max(LENGTHS[0], int(one / plan.train_images))
    # A network that was trained to find the length is not one of the race: it did not look at operations as a guard.
    epochs += epochs in LENGTHS
    return replace(
        plan, epochs=min(epochs, MULTIPLE * length), trainings=least, fitted=fitted and epochs >= MULTIPLE * length
    )


def arena_of(plan: RacePlan, data: ImageSet, crop: Crop, seed: int) -> Arena:
    """What the trainings of the plan share."""
    recipe = Recipe(epochs=plan.epochs, batch_size=plan.batch_size, learning_rate=0.05, bfloat16=plan.bfloat16)
    return Arena(data, crop, plan.network, recipe, plan.train_images, plan.held_out, seed)


def duration(seconds: float) -> str:
    """Seconds in words.

    Example:
        >>> duration(20), duration(100), duration(7300)
        ('20 s', '2 min', '2 h 2 min')
    """
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def sentence(parts: Sequence[tuple[str, float]]) -> str:
    """Parts of a plan and their seconds, such as "length 20 s, race of 9 contenders 6 min"."""
    return ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts)
