"""The policies that a search compares, and how it compares them.

A contender is a policy with a name and where it comes from. Each kind is one module here.
"""

from dataclasses import dataclass

from fasteraa_transforms.policy import Policy


@dataclass(frozen=True)
class Contender:
    """A policy that takes part in a race.

    Attributes:
        name: what tables and charts call it.
        policy: what it does to images; None for no augmentation.
        origin: where it comes from, in a few words.
        searched: whether it was made from the user's images.
    """

    name: str
    policy: Policy | None
    origin: str
    searched: bool = False
