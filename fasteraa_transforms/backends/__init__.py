"""How a plan becomes pixels, for each kind of images."""

from fasteraa_transforms.backends.run import apply

__all__ = ["apply"]
