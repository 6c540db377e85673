"""What a search says when it cannot go on: why, what it leaves, what to change."""

import contextlib
import re
from collections.abc import Iterator

import torch

from fasteraa_transforms.search.runtime.recorder import Recorder
from fasteraa_transforms.search.runtime.world import RanksLost


class SearchInterrupted(KeyboardInterrupt):
    """Raised in place of KeyboardInterrupt once the run is left so that it can be resumed."""


class SearchFailed(RuntimeError):
    """A search that could not go on: out of memory, diverged, its folder cannot be written, or a process was lost.

    The message says what to change. The last checkpoint in the folder is whole, and of an epoch that went well.
    """


@contextlib.contextmanager
def explained(recorder: Recorder, advice: str) -> Iterator[None]:
    """Within it, what ends a search becomes one message.

    Args:
        recorder: knows what the search was doing, and what it leaves.
        advice: which settings take less memory.

    Raises:
        SearchInterrupted: in place of KeyboardInterrupt.
        SearchFailed: the folder cannot be written, memory is out, or another process has ended.
    """
    try:
        with _explained_memory(recorder, advice):
            yield
    except KeyboardInterrupt as interrupt:
        raise SearchInterrupted(f"interrupted {recorder.doing}; {recorder.left()}") from interrupt
    except RanksLost as error:
        raise SearchFailed(f"{error}; {recorder.left()}") from error
    except OSError as error:
        if recorder.path is None:
            raise
        raise SearchFailed(f"{recorder.path} could not be written ({error}); {recorder.left()}") from error


@contextlib.contextmanager
def explained_loading(recorder: Recorder, advice: str) -> Iterator[None]:
    """The same before the first step: unreadable files and a Ctrl-C stay what they are.

    Raises:
        SearchFailed: memory is out, or another process has ended.
    """
    try:
        with _explained_memory(recorder, advice):
            yield
    except RanksLost as error:
        raise SearchFailed(f"{error}; this was {recorder.doing}") from error


@contextlib.contextmanager
def _explained_memory(recorder: Recorder, advice: str) -> Iterator[None]:
    """Within it, an error says what to do if the memory of a device or of the machine runs out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        # The allocator of the CPU and the libraries of CUDA have no exception of their own.
        signs = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
        is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in text for sign in signs)
        if not is_memory or isinstance(error, SearchFailed):
            raise
        found = re.search(r"[Tt]ried to allocate [\d.]+ \w+", text)
        tried = f" ({found[0].lower()})" if found else ""
        raise SearchFailed(f"out of memory {recorder.doing}{tried}; {advice}") from error
