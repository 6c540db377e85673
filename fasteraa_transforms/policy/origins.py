"""Where a policy comes from: the package, a file, a URL, or a repository of the Hugging Face Hub."""

import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from fasteraa_transforms.policy.errors import printable
from fasteraa_transforms.policy.policy import Policy


class ShippedPolicy(str):
    """The name of a shipped policy. It also says where the policy comes from and what networks gain by it.

    Example:
        >>> next(name for name in list_policies() if name == "cifar10").searched_on
        "2,000 of CIFAR-10's 50,000 training images, 32x32 pixels"
    """

    @property
    def provenance(self) -> dict[str, Any]:
        """What the policy file says of the policy's origin."""
        document = json.loads((_shipped() / f"{self}.json").read_text(encoding="utf-8"))
        provenance: dict[str, Any] = document.get("provenance", {})
        return provenance

    @property
    def searched_on(self) -> str:
        """The images of the search, in words."""
        origin = self.provenance
        described = origin.get("source", {}).get("description")
        images = f"{origin['images']:,} images of " if "images" in origin else ""
        return str(described or f"{images}{origin.get('dataset', 'unknown images')}")

    @property
    def gains(self) -> list[str]:
        """What networks gain by the policy, a line for each augmentation that was measured beside it; [] if unmeasured.

        A line has the mean error on test images, half the width of its interval over several seeds, and their number.
        """
        rows = self.provenance.get("controls", [])
        names = [str(self) if row["augmentation"] == "searched" else row["augmentation"] for row in rows]
        wide = max(map(len, names), default=0)
        return [
            f"{name:{wide}}  {row['error']:.2f}{_interval(row.get('half_width'))} % error, {_seeds(row['seeds'])}"
            for name, row in zip(names, rows, strict=True)
        ]


def _interval(half_width: float | None) -> str:
    return "" if half_width is None else f" ± {half_width:.2f}"


def _seeds(seeds: int | list[int]) -> str:
    count = seeds if isinstance(seeds, int) else len(seeds)
    return f"{count} seed{'s' * (count != 1)}"


def list_policies() -> list[ShippedPolicy]:
    """The names of the policies that come with the package, as `FasterAutoAugment.from_pretrained` takes them.

    Returns:
        The names in alphabetical order. Each is a string that also has ``searched_on``, ``gains`` and ``provenance``.

    Example:
        >>> "cifar10" in list_policies()
        True
    """
    entries = (entry.name for entry in _shipped().iterdir())
    return sorted(ShippedPolicy(name.removesuffix(".json")) for name in entries if name.endswith(".json"))


def find(source: str | os.PathLike[str]) -> Policy:
    """The policy of a source.

    Args:
        source: as `FasterAutoAugment.from_pretrained` takes it.

    Raises:
        ImportError: the source is a URL, and huggingface_hub is not installed.
        PolicyError: the policy cannot be read or is refused.
        ValueError: no policy has this name, or the URL is of another kind.
    """
    names = list_policies()
    if isinstance(source, str) and source in names:
        return Policy.from_json((_shipped() / f"{source}.json").read_text(encoding="utf-8"), f"{source}.json")
    text = os.fspath(source)
    if isinstance(source, str) and "://" in source:
        from fasteraa_transforms.policy import hub

        return hub.load(source)
    separators = [separator for separator in (os.sep, os.altsep) if separator]
    names_a_file = text.endswith(".json") or any(separator in text for separator in separators)
    if names_a_file or not isinstance(source, str) or Path(text).exists():
        return Policy.load(text)
    known = ", ".join(names) or "none"
    raise ValueError(f"unknown policy {printable(repr(source))}; known: {known}; or give the path of a policy file")


def _shipped():  # type: ignore[no-untyped-def]  # a Traversable, whose module has moved from version to version
    return files("fasteraa_transforms") / "policies"
