"""Processes, folders and devices of a run."""
