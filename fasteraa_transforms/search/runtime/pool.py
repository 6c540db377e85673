"""Trainings side by side: worker processes of one thread each, which take the next piece of work when they are free.

Small networks train faster so than one after another on all cores. A worker is a fresh Python process, not a copy of
this one, so a script that calls `search` needs no ``if __name__ == "__main__"``. It ends when its parent does, however
that ends.
"""

import os
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Work = Callable[..., Any]


class WorkerLost(RuntimeError):
    """A worker process ended in the middle of its work: as a rule the machine ran out of memory."""


class Pool:
    """Runs one function on many arguments, in this process or in several.

    Args:
        function: of a module, called as ``function(shared, *arguments)``; what it takes and returns can be pickled.
        shared: the first argument of every call, handed to each worker once.
        processes: how many workers; 1 or fewer computes here.

    Example:
        >>> import operator
        >>> with Pool(operator.add, 10, processes=1).started() as pool:
        ...     sorted(pool.run([(1,), (2,)]))
        [(0, 11), (1, 12)]
    """

    def __init__(self, function: Work, shared: Any, *, processes: int) -> None:
        self.function, self.shared, self.processes = function, shared, processes
        self._workers: list[subprocess.Popen[bytes]] = []

    @contextmanager
    def started(self) -> Iterator["Pool"]:
        """The pool with its workers; they end with the block."""
        if self.processes <= 1:
            yield self
            return
        with tempfile.TemporaryDirectory(prefix="fasteraa-") as folder:
            path = os.path.join(folder, "shared.pickle")
            with open(path, "wb") as file:
                pickle.dump((self.function, self.shared), file, protocol=pickle.HIGHEST_PROTOCOL)
            try:
                self._workers = [_start(path) for _ in range(self.processes)]
                yield self
            finally:
                for worker in self._workers:
                    worker.kill()
                    worker.wait()
                    for pipe in (worker.stdin, worker.stdout):
                        if pipe is not None:
                            pipe.close()
                self._workers = []

    def run(self, arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Index and result of each call, in the order in which they are done.

        Args:
            arguments: of each call, after the shared one.

        Raises:
            WorkerLost: a worker process ended by itself.
            Exception: what the function raises.
        """
        if not self._workers:
            for index, each in enumerate(arguments):
                yield index, self.function(self.shared, *each)
            return
        waiting: queue.SimpleQueue[tuple[int, tuple[Any, ...]] | None] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()
        for item in enumerate(arguments):
            waiting.put(item)
        for worker in self._workers:
            waiting.put(None)
            threading.Thread(target=_serve, args=(worker, waiting, done), daemon=True).start()
        for _ in arguments:
            index, result, error = done.get()
            if error is not None:
                raise error
            yield index, result


def _start(path: str) -> subprocess.Popen[bytes]:
    # One thread each. What this process can import, the worker can import, too.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-m", "fasteraa_transforms.search.runtime.worker", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )


def _serve(
    worker: "subprocess.Popen[bytes]",
    waiting: "queue.SimpleQueue[tuple[int, tuple[Any, ...]] | None]",
    done: "queue.SimpleQueue[tuple[int, Any, BaseException | None]]",
) -> None:
    """Hand work to one worker until there is none left."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    while (item := waiting.get()) is not None:
        index, arguments = item
        try:
            pickle.dump(arguments, worker.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            worker.stdin.flush()
            result, error = pickle.load(worker.stdout)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            result, error = None, WorkerLost("a worker process ended in the middle of a training; is memory short?")
        done.put((index, result, error))
        if isinstance(error, WorkerLost):
            return
