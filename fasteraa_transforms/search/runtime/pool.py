"""Trainings side by side: worker processes of one thread each, which take the next piece of work when they are free.

Small networks train faster so than one after another on all cores. A worker is a fresh Python process, not a copy of
this one, so a script that calls `search` needs no ``if __name__ == "__main__"``. It ends when its parent does, however
that ends, and nothing of either stays: what they share goes through pipes, and through a file without a name.
"""

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fasteraa_transforms.search.runtime.shared import pickled

Work = Callable[..., Any]


class WorkerLost(RuntimeError):
    """A worker process ended in the middle of its work: as a rule the machine ran out of memory."""


class Pool:
    """Runs one function on many arguments, in this process or in several.

    Args:
        function: of a module, called as ``function(shared, *arguments)``; what it takes and returns can be pickled.
        shared: the first argument of every call, handed to each worker once. Workers share the memory of its large
            tensors.
        processes: how many workers; 1 or fewer computes here.

    Example:
        >>> import operator
        >>> with Pool(operator.add, 10, processes=1).started() as pool:
        ...     sorted(pool.run([(1,), (2,)]))
        [(0, 11), (1, 12)]
    """

    def __init__(self, function: Work, shared: Any, *, processes: int) -> None:
        self.function, self.shared, self.processes = function, shared, processes
        self._workers: list[_Worker] = []

    @contextlib.contextmanager
    def started(self) -> Iterator["Pool"]:
        """The pool with its workers; they end with the block."""
        if self.processes <= 1:
            yield self
            return
        data, tensors = pickled((self.function, self.shared))
        try:
            for _ in range(self.processes):
                self._workers.append(_Worker(data, None if tensors is None else tensors.fileno()))
            del data  # which can be large where no file could be written
            yield self
        finally:
            for worker in self._workers:
                worker.end()
            self._workers = []
            if tensors is not None:
                tensors.close()

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


class _Worker:
    """A worker process.

    Args:
        data: function and first argument of every call, pickled. A worker takes seconds to start, and is waited for by
            nobody meanwhile.
        tensors: number of the file of the large tensors, which the worker is given too; None if ``data`` has them.
    """

    def __init__(self, data: bytes, tensors: int | None) -> None:
        # One thread each. What this process can import, the worker can import, too.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        given = () if tensors is None else (tensors,)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fasteraa_transforms.search.runtime.worker", *map(str, given)],
            pass_fds=given,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.to, self.back = self.process.stdin, self.process.stdout
        self.handing_over = threading.Thread(target=self._send, args=(data,), daemon=True)
        self.handing_over.start()

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # it has ended; whoever asks it to work is told
            self.to.write(data)
            self.to.flush()

    def ask(self, arguments: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
        """The result of one call, or its error; that is a `WorkerLost` where the process has ended."""
        self.handing_over.join()
        try:
            pickle.dump(arguments, self.to, protocol=pickle.HIGHEST_PROTOCOL)
            self.to.flush()
            answer: tuple[Any, BaseException | None] = pickle.load(self.back)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            return None, WorkerLost("a worker process ended in the middle of a training; is memory short?")
        return answer

    def end(self) -> None:
        """End the process, in whatever it is."""
        self.process.kill()
        self.process.wait()
        self.handing_over.join()
        for pipe in (self.to, self.back):
            with contextlib.suppress(OSError):  # what was not written yet has no reader any more
                pipe.close()


def _serve(
    worker: _Worker,
    waiting: "queue.SimpleQueue[tuple[int, tuple[Any, ...]] | None]",
    done: "queue.SimpleQueue[tuple[int, Any, BaseException | None]]",
) -> None:
    """Hand work to one worker until there is none left."""
    while (item := waiting.get()) is not None:
        index, arguments = item
        result, error = worker.ask(arguments)
        done.put((index, result, error))
        if isinstance(error, WorkerLost):
            return
