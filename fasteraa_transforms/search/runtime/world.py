"""Several processes that work on one search or evaluation, each on its own device: started by ``torchrun``.

A search is parallel over the images of a batch. Every rank holds the whole subset and the same generator. It draws all
random numbers of the batch, and works on its share of each half. Gradients and metrics are averaged, so that the
parameters are the same on all ranks. Each rank's batch norm takes its statistics from its own share, as
`torch.nn.parallel.DistributedDataParallel` does by default. With a critic without batch norm, N ranks do what one rank
does, up to the order in which floats are added. Within a step all communication is by collectives on the device, and
nothing waits for them.
"""

import io
import itertools
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fasteraa_transforms.search.runtime.hardware import pick_device
from fasteraa_transforms.search.runtime.output import say
from fasteraa_transforms.streams import readers_may_leave

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others, which may be training a network of their own. A rank that ends is noticed at
once."""

T = TypeVar("T")

_turns = itertools.count()  # of `World.take`; ranks make the same calls in the same order


class RanksLost(RuntimeError):
    """Another process cannot be reached any more: as a rule it has ended, and said or shown why."""


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # Without the addresses and places in the source that Gloo puts in brackets.
        reason = re.sub(r"\s*\[[^]]*\](:\d+)?:?", "", str(error).partition("\n")[0].partition(". ")[0]).strip()
        raise RanksLost(f"the other processes cannot be reached any more ({reason})") from error


@dataclass(frozen=True)
class World:
    """The processes that work together; as it stands, one by itself, for which every method does nothing.

    Args:
        rank: number of this one, from 0.
        size: how many there are.

    Example:
        >>> World(rank=1, size=4).share(32)
        slice(8, 16, None)
        >>> World().mean(torch.ones(2))
        tensor([1., 1.])
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and shows progress."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """The device of this rank: that called ``name``, or of several GPUs the one with its local rank.

        Raises:
            ValueError: no such device, a certain GPU named for several ranks, or more ranks than GPUs.
        """
        device = pick_device(name)
        if self.size == 1:
            return device
        if device.type not in ("cpu", "cuda") or device.index is not None:
            raise ValueError(f"device should be auto, cpu or cuda for several processes, but got {name!r} instead")
        if device.type == "cuda":
            index, count = int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())), torch.cuda.device_count()
            if index >= count:
                local = os.environ.get("LOCAL_WORLD_SIZE", index + 1)
                raise ValueError(f"--nproc-per-node should be at most {count}, one for each GPU, but got {local}")
            torch.cuda.set_device(index)
            device = torch.device("cuda", index)
        return device

    def share(self, count: int) -> slice:
        """Which of ``count`` images are this rank's; ``count`` is a multiple of the number of ranks."""
        part = count // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the ranks, not differentiable."""
        if self.size == 1:
            return values
        total = values.detach().clone(memory_format=torch.contiguous_format)
        with _reaching():
            dist.all_reduce(total)
        return total

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the ranks, not differentiable."""
        return values if self.size == 1 else self.sum(values) / self.size

    def average_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Let every rank have the mean of all ranks' gradients, by one exchange."""
        if self.size == 1:
            return
        gradients = [each.grad for group in optimizer.param_groups for each in group["params"] if each.grad is not None]
        flat = self.mean(torch.cat([each.flatten() for each in gradients]))
        parts = flat.split([each.numel() for each in gradients])
        torch._foreach_copy_(gradients, [part.view_as(each) for part, each in zip(parts, gradients, strict=True)])

    def gather_objects(self, value: T) -> list[T]:
        """What every rank has, of whatever can be pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _reaching():
            dist.all_gather_object(values, value)
        return values

    def from_first(self, make: Callable[[], T]) -> T:
        """What ``make`` returns on the first rank, which alone calls it."""
        values: list[Any] = [make() if self.first else None]
        if self.size > 1:
            with _reaching():
                dist.broadcast_object_list(values)
        return values[0]

    def after_first(self, make: Callable[[], T]) -> T:
        """What ``make`` returns on this rank, called after the first one is through: others find what it downloaded."""
        if self.first:
            made = make()
            self.gather_objects(None)
            return made
        self.gather_objects(None)
        return make()

    def agree(self, what: str, value: object) -> None:
        """Check that all ranks have the same.

        Raises:
            ValueError: they do not, with what the first of the others has.
        """
        values = self.gather_objects(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise ValueError(
                    f"{what} should be the same on all ranks, but got {values[0]} on rank 0, {other} on rank {rank}"
                )

    def take(self, count: int) -> Iterator[int]:
        """The numbers below ``count``, each for one rank: who is ready takes the next."""
        if self.size == 1:
            yield from range(count)
            return
        name = f"fasteraa_transforms turn {next(_turns)}"
        while True:
            with _reaching():
                number = _store().add(name, 1) - 1
            if number >= count:
                return
            yield number

    def tell(self, message: str) -> None:
        """Print on standard error, once if several ranks say the same."""
        if self.size > 1:
            try:
                # A connection of its own: that of the group may be waiting, in another thread, for a lost rank.
                if _store().clone().add(f"fasteraa_transforms told {message}", 1) > 1:
                    return
            except RuntimeError:  # it went with the machine that kept it
                pass
            message = f"\nrank {self.rank}: {message.lstrip()}"
        say(message, error=True)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Within it, all but the first print nothing: for what would be said alike by all."""
        nowhere = None if self.first else io.StringIO()
        try:
            with redirect_stdout(nowhere or sys.stdout), redirect_stderr(nowhere or sys.stderr):
                yield
        except SystemExit:
            self.gather_objects(None)  # or torchrun may end the first one before it has spoken
            raise

    @contextmanager
    def telling_when_terminated(self, left: Callable[[], str]) -> Iterator[None]:
        """Within it, SIGTERM ends this process with a message; torchrun sends it when another process has ended.

        Args:
            left: says what is left of the work.
        """
        if self.size == 1 or os.name == "nt" or threading.current_thread() is not threading.main_thread():
            yield
            return
        read, write = os.pipe()
        os.set_blocking(write, False)

        def watch() -> None:
            while number := os.read(read, 1):
                if number[0] == signal.SIGTERM:
                    self.tell(f"stopped by SIGTERM, with which torchrun follows up the end of a process; {left()}")
                    os._exit(128 + signal.SIGTERM)
            os.close(read)

        # A handler in Python would run in the main thread. That thread may wait for a device whose collectives wait for
        # the lost rank.
        wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        handler = signal.signal(signal.SIGTERM, lambda *_: None)
        threading.Thread(target=watch, daemon=True).start()
        yield
        # Not after an error: its own message may come too late.
        signal.signal(signal.SIGTERM, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(write)

    def program(self, command: str) -> str:
        """How a command line of as many processes begins.

        Args:
            command: a command of ``fasteraa`` that several processes can share: search or evaluate.

        Example:
            >>> World().program("search")
            'fasteraa search'
        """
        if self.size == 1:
            return f"fasteraa {command}"
        processes = os.environ.get("LOCAL_WORLD_SIZE", "N")
        module = "fasteraa_transforms.search" + {"search": "", "evaluate": ".evaluate"}[command]
        return f"torchrun --nproc-per-node {processes} -m {module}"


def _store() -> Any:
    # PyTorch shows it in no other way.
    return dist.distributed_c10d._get_default_store()


def join() -> World:
    """The processes of the process group, if there is one; else those that torchrun started; else this one alone.

    Example:
        >>> join()
        World(rank=0, size=1)
    """
    if not dist.is_available():
        return World()
    if not dist.is_initialized():
        if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
            return World()
        gpus = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=TIMEOUT)
    return World(dist.get_rank(), dist.get_world_size())


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run a command line and exit with its status.

    One of several processes that fails exits at once. An orderly end would wait for its device, which waits for the
    other processes, which wait for this one. torchrun would see nothing amiss.
    """
    with readers_may_leave():
        try:
            status = main()
        except Exception:
            if not (dist.is_available() and dist.is_initialized()):
                raise
            traceback.print_exc()
            status = 1
    if dist.is_available() and dist.is_initialized():
        if status:
            os._exit(status)
        dist.destroy_process_group()
    sys.exit(status)
