"""Where a policy comes from: the package, a file, a URL, or a repository of the Hugging Face Hub."""

import os
from importlib.resources import files
from pathlib import Path

from fasteraa_transforms.policy.errors import printable
from fasteraa_transforms.policy.policy import Policy


def list_policies() -> list[str]:
    """The names of the policies that come with the package, as `FasterAutoAugment.from_pretrained` takes them.

    Returns:
        The names in alphabetical order.

    Example:
        >>> "cifar10" in list_policies()
        True
    """
    return sorted(entry.name.removesuffix(".json") for entry in _shipped().iterdir() if entry.name.endswith(".json"))


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
