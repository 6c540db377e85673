"""Policy files on disk."""

import errno
import io
import json
import os
import socket
import stat
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from helpers import candidate, document

from fasteraa_transforms.policy import Policy, PolicyError, files

# --------------------------------------------------------------------------------------------------------------- files


def test_save_and_load(tmp_path: Path) -> None:
    policy = Policy.from_json(json.dumps(document(name="größer")))
    policy.save(tmp_path / "policy.json")
    for path in (tmp_path / "policy.json", str(tmp_path / "policy.json")):
        loaded = Policy.load(path)
        assert loaded == policy
        assert (loaded.name, loaded.provenance) == (policy.name, policy.provenance)
    assert os.listdir(tmp_path) == ["policy.json"]


def test_save_into_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    policy = Policy([[[candidate()]]])
    policy.save("policy.json")
    policy.save("policy.json")
    assert Policy.load("policy.json") == policy
    assert os.listdir(tmp_path) == ["policy.json"]


def test_a_saved_file_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    Policy([[[candidate()]]]).save(tmp_path / "policy.json")
    assert (tmp_path / "policy.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o400])
def test_a_saved_file_has_the_rights_of_the_one_that_it_replaces(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "policy.json"
    Policy([[[candidate("flip")]]]).save(path)
    path.chmod(mode)
    Policy([[[candidate()]]]).save(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert Policy.load(path) == Policy([[[candidate()]]])


def test_saving_replaces_no_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "null.json").symlink_to("/dev/null")
    for path, kind in ((tmp_path / "fifo", "a FIFO"), (tmp_path / "null.json", "a character device")):
        with pytest.raises(OSError, match=f"a policy file should not replace {kind}"):
            Policy([[[candidate()]]]).save(path)
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert sorted(os.listdir(tmp_path)) == ["fifo", "null.json"]


def test_saving_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(tmp_path / "policy.json")
    Policy([[[candidate()]]]).save(tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert Policy.load(tmp_path / "policy.json") == Policy([[[candidate()]]])


@pytest.mark.parametrize("step", ["replace", "fsync"])
@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("previous", [True, False])
def test_a_failed_save_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, failure: BaseException, previous: bool
) -> None:
    path = tmp_path / "policy.json"
    if previous:
        Policy([[[candidate("flip")]]]).save(path)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    seen: list[list[str]] = []

    def fail(*_: Any) -> None:
        seen.append(os.listdir(tmp_path))
        raise failure

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(failure)):
        Policy([[[candidate()]]]).save(path)
    assert len(seen[0]) == len(before) + 1  # the temporary file was there, in the same folder
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def test_a_failed_write_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk(io.FileIO):
        def write(self, data: Any) -> int:
            written.append(super().write(data[: len(data) // 2]))
            raise OSError(errno.ENOSPC, "No space left on device")

    written: list[int] = []
    path = tmp_path / "policy.json"
    Policy([[[candidate("flip")]]]).save(path)
    before = path.read_bytes()
    monkeypatch.setattr(Path, "open", lambda self, mode: FullDisk(self, mode))
    with pytest.raises(OSError, match="No space left"):
        Policy([[[candidate()]]]).save(path)
    assert written[0] > 0
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["policy.json"]


def test_save_says_what_the_system_says(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Policy([[[candidate()]]]).save(tmp_path / "missing" / "policy.json")
    with pytest.raises(IsADirectoryError):
        Policy([[[candidate()]]]).save(tmp_path)


def test_save_refuses_what_load_would_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 2**20)
    with pytest.raises(PolicyError, match="found more than 1 MiB, expected at most 1 MiB"):
        Policy([[[candidate()]]], provenance={"note": "x" * 2**20}).save(tmp_path / "policy.json")
    assert os.listdir(tmp_path) == []


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "missing.json", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
        (f"{tmp_path}/nul\0", "embedded null byte"),
    ):
        with pytest.raises(PolicyError) as caught:
            Policy.load(path)
        shown = str(path).replace("\0", r"\x00")
        assert str(caught.value) == f"{shown}: $: found nothing readable ({reason}), expected a policy file"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "link.json").symlink_to(tmp_path / "fifo.json")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(tmp_path / "socket.json"))
    for path, found in (
        (tmp_path / "fifo.json", "a FIFO"),
        (tmp_path / "link.json", "a FIFO"),
        (tmp_path / "socket.json", "a socket"),
        ("/dev/zero", "a character device"),
        ("/dev/null", "a character device"),
        ("/dev/tty", "a character device"),
    ):
        with pytest.raises(PolicyError) as caught:
            Policy.load(path)
        assert str(caught.value) == f"{path}: $: found {found}, expected a policy file"
    bound.close()


@pytest.mark.parametrize("length", [0, 1, 2**16 - 1, 2**16, 2**16 + 1, 2**17 + 5])
@pytest.mark.parametrize("wrong", [b"\xff", b"\xc3", b"\xf0\x9f\x98", b"\xed\xa0\x80"])
def test_the_place_that_is_not_utf8_is_named_wherever_it_is(length: int, wrong: bytes, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_bytes("é".encode() + b"a" * length + wrong)
    with pytest.raises(PolicyError) as caught:
        Policy.load(path)
    assert caught.value.found == f"byte 0x{wrong[0]:02x} at offset {length + 2}"


def test_a_growing_file_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "policy.json"
    Policy([[[candidate()]]]).save(path)
    fstat = os.fstat

    def smaller(descriptor: int) -> Any:
        found = fstat(descriptor)
        return os.stat_result((*found[:6], 10, *found[7:])) if stat.S_ISREG(found.st_mode) else found

    monkeypatch.setattr(os, "fstat", smaller)
    assert Policy.load(path) == Policy([[[candidate()]]])


def test_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text("{}", encoding="utf-8")
    tracemalloc.start()
    files.read(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**17  # not the 16 MiB that a file may have


def test_control_characters_of_a_path_are_shown_as_escapes(tmp_path: Path) -> None:
    path = tmp_path / "red\x1b[31m\nline.json"
    with pytest.raises(PolicyError, match="No such file") as caught:
        Policy.load(path)
    assert str(caught.value).isprintable()
    assert r"red\x1b[31m\nline.json: $: found nothing readable" in str(caught.value)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.json"
    path.write_bytes(json.dumps(document(name="größer"), ensure_ascii=False).encode("latin-1"))
    with pytest.raises(PolicyError) as caught:
        Policy.load(path)
    assert caught.value.found.startswith("byte 0xf6 at offset ")
    assert caught.value.expected == "UTF-8 text"
    path.write_bytes(json.dumps(document()).encode("utf-16"))
    with pytest.raises(PolicyError, match="expected UTF-8 text"):
        Policy.load(path)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse; reading it whole would fail
    with pytest.raises(PolicyError) as caught:
        Policy.load(path)
    assert str(caught.value) == f"{path}: $: found more than 16 MiB, expected at most 16 MiB"


def test_a_file_of_the_largest_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    text = json.dumps(document())
    path.write_text(text + " " * (files.MAX_BYTES - len(text)), encoding="utf-8")
    assert path.stat().st_size == files.MAX_BYTES
    assert Policy.load(path) == Policy.from_json(text)


def test_errors_of_a_file_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(document(version=2)))
    with pytest.raises(PolicyError) as caught:
        Policy.load(path)
    assert caught.value.source == str(path)
    assert str(caught.value).startswith(f"{path}: $.version: found 2, expected 1;")
