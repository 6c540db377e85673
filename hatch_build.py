"""What a build makes of the README: a page that stands alone, on an index of packages.

In the repository the README's links are relative. A build makes them absolute, below the address that ``Repository``
has in ``[project.urls]``. Without that address links become plain text, and pictures are left out: nothing is published
that leads nowhere.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_CODE = r"^```.*?^```|`[^`\n]+`"
_TARGET = r'\((?P<target>[^()\s]+)(?P<title>\s+"[^"]*")?\)'
_PICTURE = re.compile(rf"{_CODE}|!\[(?P<text>[^\[\]]*)\]{_TARGET}", re.MULTILINE | re.DOTALL)
_LINK = re.compile(
    rf"{_CODE}|(?<!!)\[(?P<text>(?:!\[[^\[\]]*\]\([^()]*\)|[^\[\]])*)\]{_TARGET}", re.MULTILINE | re.DOTALL
)
_ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*:|//")


class LongDescription(MetadataHookInterface):
    """Gives the built package the README as its description."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the description to the metadata of the project."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        metadata["readme"] = {"content-type": "text/markdown", "text": standing_alone(text, repository)}


def standing_alone(text: str, repository: str | None) -> str:
    """A page of the repository without relative links.

    Args:
        text: Markdown.
        repository: address of the repository; None leaves links to its files out.
    """

    def picture(match: re.Match[str]) -> str:
        target = match["target"]
        if target is None or _ABSOLUTE.match(target):
            return match[0]
        if repository is None:
            return ""
        return f"![{match['text']}]({_address(repository, 'raw', target)}{match['title'] or ''})"

    def link(match: re.Match[str]) -> str:
        target = match["target"]
        if target is None or _ABSOLUTE.match(target):
            return match[0]
        if repository is None:
            return match["text"]
        return f"[{match['text']}]({_address(repository, 'blob', target)}{match['title'] or ''})"

    return re.sub(r"\n{3,}", "\n\n", _LINK.sub(link, _PICTURE.sub(picture, text)))


def _address(repository: str, kind: str, target: str) -> str:
    """Where a file is shown (blob) or loaded from (raw), on the default branch whatever its name."""
    path = f"README.md{target}" if target.startswith("#") else target.removeprefix("./")
    return f"{repository.rstrip('/')}/{kind}/HEAD/{path}"
