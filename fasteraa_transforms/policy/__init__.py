"""The policy: what it is, its file, its draws, and its exchange with other libraries."""

from typing import TYPE_CHECKING, Any

from fasteraa_transforms.policy.errors import PolicyError
from fasteraa_transforms.policy.policy import Policy

if TYPE_CHECKING:
    from fasteraa_transforms.policy.schema import Candidate

__all__ = ["Candidate", "Policy", "PolicyError"]


def __getattr__(name: str) -> Any:
    if name == "Candidate":  # on first use: it needs pydantic, whose import takes a while
        from fasteraa_transforms.policy.schema import Candidate

        return Candidate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
