"""Search for a policy on images: ``fasteraa search``, or `search` from Python.

Whether it helps: ``fasteraa evaluate``, or `compare`.
"""

from fasteraa_transforms.search.data.load import load_images
from fasteraa_transforms.search.data.opening import open_dataset
from fasteraa_transforms.search.data.shards import Shards
from fasteraa_transforms.search.data.table import Digits
from fasteraa_transforms.search.evaluation.compare import compare
from fasteraa_transforms.search.evaluation.controls import parse_augmentations
from fasteraa_transforms.search.evaluation.settings import TrainingSettings
from fasteraa_transforms.search.networks.backbones import WideResNet
from fasteraa_transforms.search.networks.critic import Critic, gradient_penalty
from fasteraa_transforms.search.run import search
from fasteraa_transforms.search.runtime.failures import SearchFailed, SearchInterrupted
from fasteraa_transforms.search.settings import Settings

__all__ = [
    "Critic",
    "Digits",
    "SearchFailed",
    "SearchInterrupted",
    "Settings",
    "Shards",
    "TrainingSettings",
    "WideResNet",
    "compare",
    "gradient_penalty",
    "load_images",
    "open_dataset",
    "parse_augmentations",
    "search",
]
