"""Augmentations compared by training networks with them."""
