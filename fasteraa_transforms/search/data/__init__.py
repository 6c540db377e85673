"""The images of a search."""
