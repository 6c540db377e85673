"""A batch on the CPU in several threads: the same bytes, no thread left, and none in a forked process."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torchvision.transforms import InterpolationMode

from fasteraa_transforms import OPERATIONS, Plan, Policy, apply
from fasteraa_transforms.backends import cpu, threads


def plan_of_all(count: int) -> Plan:
    """Three operations an image, of all that the table has."""
    candidates = [
        {"operation": name, "weight": 1, "probability": 1, **({"magnitude": 0.7} if row.has_magnitude else {})}
        for name, row in OPERATIONS.items()
    ]
    return Policy([[candidates] * 3]).sample(count, torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _one_thread_afterwards() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("interpolation", [InterpolationMode.NEAREST, InterpolationMode.BILINEAR])
@pytest.mark.parametrize(("count", "size"), [(40, 120), (1, 120)])
def test_the_number_of_threads_changes_no_byte(
    count: int, size: int, interpolation: InterpolationMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "_THREADED", 0)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    plan = plan_of_all(count)
    found = []
    for number in (1, 2, 3, 7):
        torch.set_num_threads(number)
        found.append(apply(images, plan, interpolation=interpolation))
    assert all(torch.equal(found[0], each) for each in found[1:])


def test_as_many_threads_as_pytorch_has_and_none_is_left() -> None:
    torch.set_num_threads(3)
    before = threading.active_count()
    meeting = threading.Barrier(3, timeout=60)  # which only three threads at once can pass
    threads.for_each(lambda _: meeting.wait(), range(3))
    assert threading.active_count() == before


def test_one_thread_is_the_caller() -> None:
    torch.set_num_threads(1)
    seen = []
    threads.for_each(lambda _: seen.append(threading.current_thread()), range(5))
    assert seen == [threading.current_thread()] * 5


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("error", [ValueError, IndexError])
def test_what_is_raised_in_a_thread_reaches_the_caller(number: int, error: type[Exception]) -> None:
    torch.set_num_threads(number)

    def work(n: int) -> None:
        if n == 3:
            raise error("the fourth")

    before = threading.active_count()
    with pytest.raises(error, match="the fourth"):
        threads.for_each(work, range(50))
    assert threading.active_count() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_starts_no_thread_and_gives_the_same() -> None:
    # In a process of its own. The child would hang, or write to a thread that it does not have.
    code = """
import os, threading, torch
from fasteraa_transforms import OPERATIONS, Policy, apply
from fasteraa_transforms.backends import cpu
torch.set_num_threads(3)
cpu._THREADED = 0
names = [name for name, row in OPERATIONS.items() if not row.has_magnitude]
policy = Policy([[[{"operation": name, "weight": 1, "probability": 1.0}]] for name in names])
images = torch.arange(12 * 3 * 120 * 120).remainder(251).to(torch.uint8).reshape(12, 3, 120, 120)
plan = policy.sample(12)
expected = apply(images, plan).numpy().tobytes()
child = os.fork()
if child == 0:
    started = []
    start = threading.Thread.start
    threading.Thread.start = lambda self: (started.append(self), start(self))
    os._exit(0 if apply(images, plan).numpy().tobytes() == expected and not started else 1)
assert os.waitpid(child, 0)[1] == 0
assert apply(images, plan).numpy().tobytes() == expected
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)
