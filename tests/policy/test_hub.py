"""Policies from URLs and from the Hub, against a server on this machine."""

import hashlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from helpers import example

from fasteraa_transforms import FasterAutoAugment, Policy, PolicyError, list_policies

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """A web server and the few addresses of the Hub that a policy needs."""

    files: ClassVar[dict[str, bytes]] = {}
    log: ClassVar[list[tuple[str, str, int]]] = []
    commits: ClassVar[list[bytes]] = []

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def answer(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.log.append((self.command, self.path, status))
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(data))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD" and status != 304:
            self.wfile.write(data)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/elsewhere":
            self.answer(302, Location="/policy.json")
        elif path == "/away":
            self.answer(302, Location="http://192.0.2.1/policy.json")
        elif path == "/endless":
            self.endless()
        elif path == "/gzip":
            self.answer(200, b"x", Content_Encoding="gzip")
        elif path in self.files:
            data = self.files[path]
            etag = f'"{hashlib.sha256(data).hexdigest()}"'
            if self.headers["If-None-Match"] == etag:
                self.answer(304)
            else:
                self.answer(200, data, ETag=etag, X_Repo_Commit=COMMIT)
        else:
            self.answer(404, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET

    def endless(self) -> None:
        """More than fits, without a word on how much it will be."""
        self.answer(200, Content_Length="1000000000000")
        try:
            while True:
                self.wfile.write(b" " * 2**20)
        except OSError:  # the reader has left
            pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path == "/api/repos/create":
            name = "owner/" + json.loads(body)["name"]
            self.answer(200, json.dumps({"url": f"http://127.0.0.1/{name}", "name": name}).encode())
        elif "/preupload/" in self.path:
            paths = [each["path"] for each in json.loads(body)["files"]]
            rows = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            self.answer(200, json.dumps({"files": rows}).encode())
        elif "/commit/" in self.path:
            self.commits.append(body)
            url = "http://127.0.0.1/owner/name/commit/" + COMMIT
            self.answer(200, json.dumps({"commitUrl": url, "commitOid": COMMIT, "success": True}).encode())
        else:
            self.answer(404)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(Handler, "files", {})
    monkeypatch.setattr(Handler, "log", [])
    monkeypatch.setattr(Handler, "commits", [])
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{httpd.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    yield address
    httpd.shutdown()
    httpd.server_close()


def statuses() -> list[int]:
    return [status for _, _, status in Handler.log]


def test_a_policy_from_a_url(server: str) -> None:
    Handler.files["/policy.json"] = example().to_json().encode()
    policy = FasterAutoAugment.from_pretrained(f"{server}/policy.json").policy
    assert (policy, policy.name) == (example(), "example")
    assert FasterAutoAugment.from_pretrained(f"{server}/elsewhere").policy == example()


def test_a_url_is_downloaded_once_and_again_if_it_changes(server: str, tmp_path: Path) -> None:
    url = f"{server}/policy.json"
    Handler.files["/policy.json"] = example().to_json().encode()
    for _ in range(3):
        assert FasterAutoAugment.from_pretrained(url).policy == example()
    assert statuses() == [200, 304, 304]
    other = Policy.from_autoaugment("svhn")
    Handler.files["/policy.json"] = other.to_json().encode()
    assert FasterAutoAugment.from_pretrained(url).policy == other
    assert statuses() == [200, 304, 304, 200]
    assert len(list((tmp_path / "home" / "fasteraa_transforms").iterdir())) == 2  # the file and its tag


def test_a_kept_file_is_taken_without_a_network(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    Handler.files["/policy.json"] = example().to_json().encode()
    FasterAutoAugment.from_pretrained(f"{server}/policy.json")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(huggingface_hub, "get_session", fail)
    assert FasterAutoAugment.from_pretrained(f"{server}/policy.json").policy == example()
    with pytest.raises(PolicyError, match=r"other.json: \$: found nothing readable \(Network is unreachable\)"):
        FasterAutoAugment.from_pretrained(f"{server}/other.json")


def test_a_file_that_is_gone_or_refused_is_not_kept(server: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"found nothing readable \(.*404"):
        FasterAutoAugment.from_pretrained(f"{server}/policy.json")
    for data, expected in ((b'{"a": 1}', "found nothing"), (b"\xff", "UTF-8"), (b"<html>", "valid JSON")):
        Handler.files["/policy.json"] = data
        with pytest.raises(PolicyError, match=expected):
            FasterAutoAugment.from_pretrained(f"{server}/policy.json")
    assert not (tmp_path / "home" / "fasteraa_transforms").exists()


def test_a_large_answer_is_left_unread(server: str) -> None:
    for path in ("/endless", "/large"):
        Handler.files["/large"] = b" " * (16 * 2**20 + 1)
        with pytest.raises(PolicyError, match="found more than 16 MiB, expected at most 16 MiB"):
            FasterAutoAugment.from_pretrained(server + path)
    with pytest.raises(PolicyError, match="found a compressed file"):
        FasterAutoAugment.from_pretrained(f"{server}/gzip")


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://example.org/p.json",
            "ftp://example.org/p.json",
            "file:///etc/passwd",
            "https://",
            "http://10.0.0.1/p",
        ),
        "http://127.0.0.1.example.org/p.json",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"the URL of a policy should be https://… or hf://owner/name"):
        FasterAutoAugment.from_pretrained(url)


def test_a_redirect_to_an_insecure_server_is_refused(server: str) -> None:
    with pytest.raises((ValueError, PolicyError)):
        FasterAutoAugment.from_pretrained(f"{server}/away")


def test_a_password_in_a_url_is_not_shown() -> None:
    with pytest.raises(ValueError, match="no name and password") as caught:
        FasterAutoAugment.from_pretrained("https://me:secret@example.org/p.json")
    assert "secret" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- the Hub


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("hf://owner/name", "main/policy.json"),
        ("hf://owner/name@v1.0", "v1.0/policy.json"),
        ("hf://owner/name/deep/other.json", "main/deep/other.json"),
        ("hf://owner/name/other.json@dev", "dev/other.json"),
    ],
)
def test_a_policy_from_the_hub(source: str, path: str, server: str) -> None:
    Handler.files[f"/owner/name/resolve/{path}"] = example().to_json().encode()
    for _ in range(2):
        assert FasterAutoAugment.from_pretrained(source).policy == example()
    downloads = [row for row in Handler.log if row[0] == "GET" and "/resolve/" in row[1]]
    assert len(downloads) == 1, Handler.log  # the second time from the cache


def test_a_large_file_of_the_hub_is_left_there(server: str) -> None:
    Handler.files["/owner/name/resolve/main/policy.json"] = b" " * (16 * 2**20 + 1)
    with pytest.raises(PolicyError, match=r"hf://owner/name: .*found more than 16 MiB, expected at most 16 MiB"):
        FasterAutoAugment.from_pretrained("hf://owner/name")
    assert all(method == "HEAD" for method, _, _ in Handler.log)


def test_what_the_hub_does_not_have(server: str) -> None:
    with pytest.raises(PolicyError, match=r"hf://owner/name: \$: found nothing readable \(.*404"):
        FasterAutoAugment.from_pretrained("hf://owner/name")


@pytest.mark.parametrize("source", ["hf://owner", "hf://", "hf://a b/c", "hf://owner/name@", "hf://owner/name/x@"])
def test_wrong_addresses_of_the_hub(source: str) -> None:
    with pytest.raises(ValueError, match=r"should be hf://owner/name\[/file\]\[@revision\], but got"):
        FasterAutoAugment.from_pretrained(source)


def test_a_policy_goes_to_the_hub(server: str) -> None:
    address = example().push_to_hub("owner/name", token="hf_test")
    assert address == "hf://owner/name/policy.json"
    (commit,) = Handler.commits
    assert b"policy.json" in commit
    assert b"Policy example" in commit
    assert example().push_to_hub("owner/name", file="b.json", revision="dev", token="hf_test").endswith("b.json@dev")


def test_a_hub_that_refuses(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "do_POST", lambda self: self.answer(403))
    with pytest.raises(OSError, match="owner/name was not written: "):
        example().push_to_hub("owner/name", token="hf_test")


@pytest.mark.parametrize(
    "call",
    [
        lambda: FasterAutoAugment.from_pretrained("https://example.org/policy.json"),
        lambda: FasterAutoAugment.from_pretrained("hf://owner/name"),
        lambda: example().push_to_hub("owner/name"),
    ],
)
def test_without_the_extra_it_says_what_to_install(call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'huggingface_hub .*: pip install "fasteraa_transforms\[hub\]"'):
        call()


# --------------------------------------------------------------------------------------------------------- the package


def test_the_shipped_policies_are_listed() -> None:
    names = list_policies()
    assert names == sorted(names)
    assert names
    for name in names:
        assert len(FasterAutoAugment.from_pretrained(name).policy) >= 1
    names.clear()
    assert list_policies()
