"""Work on many images in as many threads as PyTorch has. numpy and Pillow let go of Python's lock in what is large."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

Item = TypeVar("Item")

_forked = False  # whether this process was forked off another one


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def for_each(work: Callable[[Item], None], items: Iterable[Item]) -> None:
    """Call ``work`` for each of the items, in any order, in `torch.get_num_threads` threads.

    The threads start and end with the call: that takes 0.1 ms, and neither the end of the process nor a fork meets one.
    A forked process starts none, since what it inherits may be locked; a worker of a DataLoader has one thread anyway.

    Args:
        work: a function that is safe to call from several threads.
        items: what to call it with.

    Raises:
        BaseException: what ``work`` raised first. The items that are left are not worked on.

    Example:
        >>> squares = [0] * 4
        >>> for_each(lambda n: squares.__setitem__(n, n * n), range(4))
        >>> squares
        [0, 1, 4, 9]
    """
    waiting = deque(items)
    errors: list[BaseException] = []

    def run() -> None:
        while not errors:
            try:
                item = waiting.popleft()  # safe from several threads
            except IndexError:
                return
            try:
                work(item)
            except BaseException as error:
                errors.append(error)

    count = 1 if _forked else min(torch.get_num_threads(), len(waiting))
    others = [threading.Thread(target=run, name="fasteraa_transforms") for _ in range(count - 1)]
    for thread in others:
        thread.start()
    run()
    for thread in others:
        thread.join()
    if errors:
        raise errors[0]
