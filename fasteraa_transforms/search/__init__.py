"""Search for a policy on images: ``python -m fasteraa_transforms.search``, or `search` from Python.

Whether it helps: ``python -m fasteraa_transforms.search.evaluate``, or `compare`.
"""

from fasteraa_transforms.search.comparison import compare, parse_augmentations
from fasteraa_transforms.search.critic import Critic, WideResNet, gradient_penalty
from fasteraa_transforms.search.data import Digits, load_images, open_dataset
from fasteraa_transforms.search.run import SearchFailed, SearchInterrupted, search
from fasteraa_transforms.search.settings import Settings
from fasteraa_transforms.search.shards import Shards
from fasteraa_transforms.search.training import TrainingSettings

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
