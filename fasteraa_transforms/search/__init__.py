"""Search for a policy on images: ``python -m fasteraa_transforms.search``, or `search` from Python."""

from fasteraa_transforms.search.critic import Critic, WideResNet, gradient_penalty
from fasteraa_transforms.search.data import Digits, load_images, open_dataset
from fasteraa_transforms.search.run import SearchInterrupted, search
from fasteraa_transforms.search.settings import Settings

__all__ = [
    "Critic",
    "Digits",
    "SearchInterrupted",
    "Settings",
    "WideResNet",
    "gradient_penalty",
    "load_images",
    "open_dataset",
    "search",
]
