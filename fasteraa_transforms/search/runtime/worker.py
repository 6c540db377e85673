"""A worker of `runtime.pool`, which alone starts it: ``python -m fasteraa_transforms.search.runtime.worker [FILE]``.

FILE is the number of an open file that holds the large tensors of what comes in first.
"""

import os
import pickle
import queue
import signal
import sys
import threading
from typing import Any

from fasteraa_transforms.streams import open_missing


def main() -> int:
    """Call the function that comes in first on what comes in after it, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    open_missing()
    results = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not come between the results
    import torch

    from fasteraa_transforms.search.runtime.shared import SharedUnpickler

    torch.set_num_threads(1)
    try:
        function, shared = SharedUnpickler(sys.stdin.buffer, int(sys.argv[1]) if sys.argv[1:] else None).load()
    except (EOFError, pickle.UnpicklingError):  # the parent has ended
        return 0
    work: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(work,), daemon=True).start()
    while True:
        arguments = work.get()
        try:
            answer: tuple[Any, BaseException | None] = (function(shared, *arguments), None)
        except Exception as error:
            answer = (None, error)
        try:
            data = pickle.dumps(answer, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception:  # an error that cannot be pickled
            data = pickle.dumps((None, RuntimeError(repr(answer[1]))))
        results.write(data)
        results.flush()


def _listen(work: "queue.SimpleQueue[Any]") -> None:
    """Put what the parent sends into ``work``; end the process, in whatever it is, when the parent is gone."""
    while True:
        try:
            work.put(pickle.load(sys.stdin.buffer))
        except Exception:
            os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
