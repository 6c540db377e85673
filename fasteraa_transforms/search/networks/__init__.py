"""The networks of a search, and how they are trained."""
