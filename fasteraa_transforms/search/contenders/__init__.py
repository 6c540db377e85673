"""The policies that a search compares, and how it compares them."""
