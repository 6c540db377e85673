"""The policy: what it is, its file, its draws, and its exchange with other libraries."""

from fasteraa_transforms.policy.policy import Candidate, Policy, PolicyError

__all__ = ["Candidate", "Policy", "PolicyError"]
