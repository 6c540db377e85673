"""The task of a search: which images, prepared how, judged by which network, on which device."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

import fasteraa_transforms
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.data.load import Watch, load_images
from fasteraa_transforms.search.data.samples import Samples
from fasteraa_transforms.search.data.sizing import Size
from fasteraa_transforms.search.data.source import without_places
from fasteraa_transforms.search.data.table import DATASETS, Preparation, find_dataset
from fasteraa_transforms.search.networks.losses import chance
from fasteraa_transforms.search.networks.table import bfloat16_pays, find_network, fitting_critic
from fasteraa_transforms.search.runtime.files import plain
from fasteraa_transforms.search.runtime.hardware import device_name
from fasteraa_transforms.search.runtime.world import World
from fasteraa_transforms.search.settings import Settings

PROBE_IMAGES = 512
"""Images whose displacement is the strength of a policy."""


@dataclass(frozen=True)
class Task:
    """What is searched on, as loaded.

    Attributes:
        name: of the data set, and of the policy.
        data: the images, on the device.
        crop: the preprocessing that all images have.
        critic: name of the critic's backbone.
        preparation: how the images were drawn and prepared.
        chance: accuracy of guessing; of pixels, the share of the most frequent class.
        precision: dtype of the critic's arithmetic.
        world: the processes that share each batch.
        source: how the data set was opened.
    """

    name: str
    data: ImageSet
    crop: Crop
    critic: str
    preparation: Preparation
    chance: float
    precision: torch.dtype = torch.float32
    world: World = field(default_factory=World)
    source: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the search runs."""
        return self.data.images.device

    @property
    def probe(self) -> Tensor:
        """The first images, uint8 [N, C, *crop.size], on the CPU; their displacement is the strength of a policy."""
        height, width = self.crop.size
        return self.data.images[:PROBE_IMAGES, :, :height, :width].cpu()

    @property
    def counted(self) -> str:
        """What accuracies and errors count: "images", or the "pixels" of masks."""
        return "pixels" if self.data.has_masks else "images"

    def about(self, settings: Settings) -> dict[str, Any]:
        """How the search was started, as its folder keeps it."""
        return {
            "settings": dataclasses.asdict(settings),
            "recipe": dataclasses.asdict(self.preparation),
            "dataset": self.name,
            "source": dict(self.source),
            "precision": str(self.precision),
            "device": str(self.device),
        }

    def provenance(self, settings: Settings) -> dict[str, Any]:
        """What a policy that is found here says of where it comes from."""
        return {
            "dataset": self.name,
            "source": without_places(self.source),
            "images": len(self.data),
            "images_available": self.data.available,
            "image_size": list(self.crop.size),
            "classes": self.data.classes,
            "settings": plain(settings),
            "recipe": plain(self.preparation),
            "precision": str(self.precision).removeprefix("torch."),
            "hardware": device_name(self.device),
            "threads": torch.get_num_threads(),
            "processes": self.world.size,
            "versions": {
                "fasteraa_transforms": fasteraa_transforms.__version__,
                **{name: version(name) for name in ("torch", "torchvision", "pillow", "numpy")},
            },
        }


def load_task(
    dataset: Samples,
    settings: Settings,
    *,
    name: str,
    source: Mapping[str, Any] | None = None,
    world: World | None = None,
    kept: Mapping[str, Any] | None = None,
    tell: Callable[[str], object] | None = None,
    watch: Watch | None = None,
) -> Task:
    """Load the images of a search, and decide what the settings leave open.

    Args:
        dataset: as for `search`.
        settings: of the search.
        name: of the policy. The name of a known data set also sets the default preparation.
        source: how the data set was opened.
        world: the processes of the search; this one alone if None.
        kept: the preparation that the folder of a run keeps, where the run goes on; images get the size that it has.
        tell: called with a line about the size of the images, where it is chosen or takes much memory.
        watch: goes through the images, to show how far loading is; see `load_images`.

    Raises:
        ValueError: unusable images or settings; or, of several processes, not all have the same images.

    Example:
        >>> from fasteraa_transforms.search import Digits
        >>> task = load_task(Digits(), Settings(num_images=256, device="cpu"), name="digits")
        >>> task.crop, task.critic, len(task.data), task.chance
        (Crop(size=(32, 32), padding=4, flip=False), 'small', 256, 0.1)
    """
    world = world or World()
    if settings.batch_size % (2 * world.size):
        raise ValueError(
            f"batch_size should be a multiple of {2 * world.size}, two halves for each of {world.size} processes, "
            f"but got {settings.batch_size} instead"
        )
    device = world.device(settings.device)
    if settings.graphs == "on" and device.type != "cuda":
        raise ValueError(f"graphs should be auto or off where the device is {device}, but got on instead")
    preparation = prepared(name, settings)
    data = load_images(
        dataset,
        num_images=preparation.num_images,
        num_classes=preparation.num_classes,
        balanced=settings.balanced,
        size=_held_size(preparation, kept),
        seed=settings.seed,
        ignore_label=settings.ignore_label,
        skip_broken=settings.skip_broken,
        tell=tell,
        watch=watch,
    )
    if settings.adversarial and len(data) < settings.batch_size:
        raise ValueError(f"batch_size is {settings.batch_size}, but there are {len(data)} images; lower it")
    if world.size > 1 and data.has_masks:  # the mean over pixels that are not ignored is no mean of the ranks' means
        raise ValueError(f"masks should be searched on by one process, but got {world.size} instead")
    if world.size > 1:
        world.agree("the checksum of the images", data.checksum())
        # What a GPU draws depends on its model too.
        world.agree("the device", device_name(device) if device.type == "cuda" else device.type)
    height, width = data.images.shape[2:]
    if preparation.choose_size:
        preparation = dataclasses.replace(preparation, image_size=(height, width))
    crop = preparation.crop((height, width))
    critic = preparation.critic or fitting_critic(crop.size)
    return Task(
        name=name,
        data=data.to(device),
        crop=crop,
        critic=critic,
        preparation=dataclasses.replace(preparation, critic=critic),
        chance=chance(data.labels) if data.has_masks else 1 / data.classes,
        precision=_precision(settings.precision, critic, device),
        world=world,
        source=dict(source or {}),
    )


def prepared(name: str, settings: Settings) -> Preparation:
    """How the images of a data set are prepared: as its row has it, but for what ``settings`` says otherwise.

    The paper's search, without contenders, takes images of one's own at their size.
    """
    size = settings.image_size
    if name not in DATASETS and size is None and not settings.contenders:
        size = "own"
    return find_dataset(name).preparation.changed(
        image_size=size,
        num_images=settings.num_images,
        padding=settings.padding,
        flip=settings.flip,
        critic=settings.critic,
    )


def _held_size(preparation: Preparation, kept: Mapping[str, Any] | None) -> Size:
    """The size that images are loaded at: the one that was chosen before, where a run goes on."""
    size = (kept or {}).get("image_size")
    if preparation.choose_size and isinstance(size, list) and len(size) == 2:
        height, width = (max(1, int(side)) for side in size)
        return height, width
    return preparation.held_size


def _precision(asked: str, critic: str, device: torch.device) -> torch.dtype:
    """The dtype of the critic's arithmetic; auto: bfloat16 for large networks where the hardware computes in it."""
    pays = find_network(critic) is not None and bfloat16_pays(critic, device)
    return torch.bfloat16 if asked == "bfloat16" or (asked == "auto" and pays) else torch.float32


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Give PyTorch's default generators a seed, of the CPU and of ``device``; the caller's draws stay its own."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed all devices, for good
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
