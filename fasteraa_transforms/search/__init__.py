"""Search for a policy on images: ``python -m fasteraa_transforms.search``, or `search` from Python."""

from fasteraa_transforms.search.critic import Critic, WideResNet, gradient_penalty
from fasteraa_transforms.search.data import Digits, load_images, open_dataset
from fasteraa_transforms.search.run import SearchFailed, SearchInterrupted, search
from fasteraa_transforms.search.settings import Settings
from fasteraa_transforms.search.shards import Shards

__all__ = [
    "Critic",
    "Digits",
    "SearchFailed",
    "SearchInterrupted",
    "Settings",
    "Shards",
    "WideResNet",
    "gradient_penalty",
    "load_images",
    "open_dataset",
    "search",
]
