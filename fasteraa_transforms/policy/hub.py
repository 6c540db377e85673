"""Policies from a URL and from the Hugging Face Hub, and to the Hub. It needs huggingface_hub, the extra ``hub``.

A policy from elsewhere is data: JSON of at most 16 MiB, checked as every policy file is. Nothing in it is executed.
"""

import hashlib
import importlib
import ipaddress
import re
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fasteraa_transforms.policy import files
from fasteraa_transforms.policy.errors import PolicyError, printable
from fasteraa_transforms.policy.policy import Policy

FILE = "policy.json"
"""The file of a repository that holds its policy, unless another one is named."""

_KINDS = "https://… or hf://owner/name[/file][@revision]"
_HUB = re.compile(r"hf://(?P<repo>[^/@\s]+/[^/@\s]+)(?:/(?P<file>[^@\s]+))?(?:@(?P<revision>\S+))?")


class _Address(NamedTuple):
    repo: str
    file: str
    revision: str | None


def load(source: str) -> Policy:
    """The policy that lies at a URL.

    A file is downloaded once. The Hub's own cache keeps those of repositories; a file of another server is kept beside
    it, and the server is asked whether it has changed. Without a network the kept file is taken.

    Args:
        source: ``https://…``, or ``hf://owner/name[/file][@revision]`` for a file of a repository of models on the Hub.
            ``http://`` is taken from this machine alone.

    Raises:
        ImportError: huggingface_hub is not installed.
        PolicyError: nothing can be read, the file is larger than 16 MiB, or it is refused.
        ValueError: the URL is of another kind.
    """
    if source.lower().startswith("hf://"):
        return _from_hub(source, _address(source))
    _check_url(source)
    return _from_server(source)


def push(
    policy: Policy,
    repo_id: str,
    *,
    file: str = FILE,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> str:
    """See `Policy.push_to_hub`."""
    hub = _library()
    data = policy.to_json().encode("utf-8")
    files.check_size(data, repo_id)
    api = hub.HfApi()
    try:
        repository = api.create_repo(repo_id, private=private, exist_ok=True, token=token)
        api.upload_file(
            path_or_fileobj=data,
            path_in_repo=file,
            repo_id=repository.repo_id,
            revision=revision,
            token=token,
            commit_message=f"Policy {printable(policy.name)[:60]}",
        )
    except (hub.errors.HTTPError, OSError) as error:
        raise OSError(f"{repo_id} was not written: {_reason(error)}") from error
    return f"hf://{repository.repo_id}/{file}" + (f"@{revision}" if revision else "")


def _library() -> Any:
    try:
        hub = importlib.import_module("huggingface_hub")
        for module in ("constants", "errors"):
            importlib.import_module(f"huggingface_hub.{module}")
    except ImportError as error:
        hint = 'pip install "fasteraa_transforms[hub]"'
        raise ImportError(f"policies from a URL need huggingface_hub ({error}): {hint}") from error
    return hub


def _address(source: str) -> _Address:
    found = _HUB.fullmatch(source)
    if found is None:
        shown = printable(repr(source))
        raise ValueError(f"a policy of the Hub should be hf://owner/name[/file][@revision], but got {shown} instead")
    return _Address(found["repo"], found["file"] or FILE, found["revision"])


def _check_url(url: str) -> None:
    """Raise ValueError for anything but https, or http on this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and _is_this_machine(host))):
        raise ValueError(f"the URL of a policy should be {_KINDS}, but got {printable(repr(url))} instead")
    if parts.username or parts.password:
        raise ValueError("the URL of a policy should hold no name and password, as it is shown in messages")


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _from_hub(source: str, address: _Address) -> Policy:
    hub = _library()
    try:
        url = hub.hf_hub_url(address.repo, address.file, revision=address.revision)
        try:
            size = hub.get_hf_file_metadata(url).size
        except (hub.errors.OfflineModeIsEnabled, hub.errors.HTTPError) as error:
            if getattr(error, "response", None) is not None:  # the Hub says no
                raise
            size = None  # without a network: what is in the cache has been measured
        if size is not None and size > files.MAX_BYTES:
            _too_large(source)
        path = hub.hf_hub_download(address.repo, address.file, revision=address.revision)
    except (hub.errors.HTTPError, hub.errors.HFValidationError, OSError) as error:
        raise _unreadable(source, error) from error
    return Policy.from_json(files.read(path).decode("utf-8"), source)


def _from_server(url: str) -> Policy:
    hub = _library()
    kept = _Kept(url)
    try:
        data, etag = _downloaded(hub, url, kept.etag())
    except (hub.errors.HTTPError, OSError) as error:
        if getattr(error, "response", None) is not None or not kept.data.is_file():
            raise _unreadable(url, error) from error
        data, etag = None, None
    if data is None:  # it has not changed, or there is no network
        return Policy.from_json(files.read(str(kept.data)).decode("utf-8"), url)
    files.check_utf8(data, url)
    policy = Policy.from_json(data.decode("utf-8"), url)
    kept.write(data, etag)
    return policy


def _downloaded(hub: Any, url: str, etag: str | None) -> tuple[bytes | None, str | None]:
    """The file and its tag; None if the server says that the file is still that of the tag."""
    headers = {"Accept-Encoding": "identity"} | ({"If-None-Match": etag} if etag else {})
    timeout = hub.constants.HF_HUB_DOWNLOAD_TIMEOUT
    with hub.get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
        for each in (*response.history, response):
            _check_url(str(each.url))
        if response.status_code == 304:
            return None, etag
        response.raise_for_status()
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise PolicyError(url, "$", "a compressed file", "a policy file")
        data = bytearray()
        for block in response.iter_raw():
            data += block
            if len(data) > files.MAX_BYTES:
                _too_large(url)
        return bytes(data), response.headers.get("ETag")


class _Kept:
    """The file that is kept of a URL, and its tag beside it."""

    def __init__(self, url: str) -> None:
        folder = Path(_library().constants.HF_HOME) / "fasteraa_transforms"
        name = hashlib.sha256(url.encode()).hexdigest()
        self.data, self.tag = folder / f"{name}.json", folder / f"{name}.etag"

    def etag(self) -> str | None:
        try:
            return self.tag.read_text(encoding="utf-8") if self.data.is_file() else None
        except OSError:
            return None

    def write(self, data: bytes, etag: str | None) -> None:
        """Keep the file if the folder can be written; the policy is already there."""
        try:
            self.data.parent.mkdir(parents=True, exist_ok=True)
            self.tag.unlink(missing_ok=True)  # a tag never stands beside a file of another one
            files.write(data, self.data)
            if etag:
                files.write(etag.encode("utf-8"), self.tag)
        except OSError:
            pass


def _too_large(source: str) -> None:
    size = f"{files.MAX_BYTES // 2**20} MiB"
    raise PolicyError(source, "$", f"more than {size}", f"at most {size}")


def _unreadable(source: str, error: Exception) -> PolicyError:
    return PolicyError(source, "$", f"nothing readable ({_reason(error)})", "a policy file")


def _reason(error: Exception) -> str:
    """The first line of an error, or its class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[0][:200]) if lines else type(error).__name__
