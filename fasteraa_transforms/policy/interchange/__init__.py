"""Policies of other libraries, in and out."""
