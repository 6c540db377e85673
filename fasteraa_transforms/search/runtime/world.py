"""Several processes that work on one search or evaluation, each on its own device: started by ``torchrun``.

A search is parallel over the images of a batch. Every rank holds the whole subset and the same generator, so it draws
all that is random for the whole batch, and works on its share of each half. Batch norm takes its statistics over the
shares of all ranks, gradients and metrics are averaged, and what N ranks do to the parameters with B images a step is
what one does, up to the order in which floats are added. Within a step all communication is by collectives on the
device, and nothing waits for them.
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
from torch import Tensor, nn

from fasteraa_transforms.search.networks.second_order import SecondOrderBatchNorm2d, channel, second_derivatives
from fasteraa_transforms.search.runtime.hardware import pick_device
from fasteraa_transforms.search.runtime.output import say

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others, who may be training a network of their own, before it gives them up. One that
ends, in whatever way, is noticed at once."""

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

    def gather(self, values: Tensor) -> Tensor:
        """[N, *shape] of the ``values`` of all N ranks, not differentiable."""
        if self.size == 1:
            return values[None]
        gathered = values.new_empty(self.size * len(values), *values.shape[1:])
        with _reaching():
            dist.all_gather_into_tensor(gathered, values.detach().contiguous())
        return gathered.reshape(self.size, *values.shape)

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
        """Within it, SIGTERM, by which torchrun ends those that outlive another, ends this one with a message.

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

        # Not by a handler in Python: it has to wait for the main thread, and that may be waiting for a device whose
        # collectives wait for the lost rank.
        wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        handler = signal.signal(signal.SIGTERM, lambda *_: None)
        threading.Thread(target=watch, daemon=True).start()
        yield
        # Not after an error: its own message may come too late.
        signal.signal(signal.SIGTERM, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(write)

    @property
    def program(self) -> str:
        """How a command line of as many processes begins."""
        return "python" if self.size == 1 else f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', 'N')}"


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

    One of several processes that fails exits at once. An orderly end would wait for its device, that for the others,
    and the others for it, so that torchrun would see nothing amiss.
    """
    try:
        status = main()
    except Exception:
        if not (dist.is_available() and dist.is_initialized()):
            raise
        traceback.print_exc()
        status = 1
    if dist.is_available() and dist.is_initialized():
        if status:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        dist.destroy_process_group()
    sys.exit(status)


# --- batch norm -------------------------------------------------------------------------------------------------------


def synchronise(network: nn.Module, world: World) -> nn.Module:
    """Let the batch norms of a sped up ``network`` take their statistics over the images of all ranks, in place.

    Raises:
        ValueError: ``network`` has batch norm of another kind than `second_order.speed_up` knows.

    Example:
        >>> from fasteraa_transforms.search.networks.second_order import speed_up
        >>> type(synchronise(speed_up(nn.BatchNorm2d(8)), World(rank=0, size=2))).__name__
        'SynchronisedBatchNorm2d'
    """
    if world.size == 1:
        return network
    for module in network.modules():
        if type(module) is SecondOrderBatchNorm2d:
            module.__class__ = SynchronisedBatchNorm2d
            module.world = world  # type: ignore[assignment]
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, SynchronisedBatchNorm2d):
            raise ValueError(
                "the batch norm of a critic should be BatchNorm2d, affine and with a momentum, for several processes, "
                f"but got {module} instead"
            )
    return network


class SynchronisedBatchNorm2d(SecondOrderBatchNorm2d):
    """`torch.nn.BatchNorm2d` over equal shares of a batch, with closed-form second derivatives in training mode.

    `torch.nn.SyncBatchNorm` has none, and none at all on the CPU. Gradients of the input are those of the sum of all
    ranks' losses; those of weight and bias are this rank's part of them, to be added up over the ranks.
    """

    world: World

    def forward(self, input: Tensor) -> Tensor:
        """As `torch.nn.BatchNorm2d`."""
        if not self.training:
            return super().forward(input)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        statistics = self.running_mean, self.running_var
        return _BatchNorm.apply(input, self.weight, self.bias, *statistics, self.momentum, self.eps, self.world)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
        world: World,
    ) -> Tensor:
        own = torch.batch_norm_update_stats(x.to(weight.dtype), None, None, 0.0)
        means, variances = world.gather(torch.stack(own)).unbind(1)  # each [N, C]
        mean = means.mean(0)
        # Not from the sum of squares, of which little is left where the mean is large.
        var = variances.mean(0) + (means - mean).square().mean(0)
        count = _count(x, world)
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * (count / (count - 1)), momentum)
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps, ctx.world = eps, world
        return torch.native_batch_norm(x, weight, bias, mean, var, False, 0.0, eps)[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *_BatchNormBackward.apply(grads[0], *ctx.saved_tensors, ctx.eps, ctx.world), *[None] * 5


class _BatchNormBackward(torch.autograd.Function):
    """(grad of output, x, weight) -> (grad of x, grad of weight, grad of bias), as in `second_order`."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, var: Tensor, eps: float, world: World
    ) -> tuple[Tensor, ...]:
        of_x, own, sums = _batch_norm_backward(grad, x, weight, mean, var, eps, world)
        ctx.save_for_backward(grad, x, weight, mean, var, *sums)
        ctx.eps, ctx.world = eps, world
        ctx.set_materialize_grads(False)
        return of_x, *own

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        v, of_weight, of_bias = grads
        if of_weight is not None or of_bias is not None:
            raise RuntimeError("second derivatives through the gradient of batch norm's weights are not implemented")
        if v is None:
            return (None,) * 7
        g, x, weight, mean, var, g_y, g_1 = ctx.saved_tensors
        world: World = ctx.world
        r = (var + ctx.eps).rsqrt()
        v_g = (v * g).sum((0, 2, 3), dtype=r.dtype)
        of_g, _, (v_y, v_1, v_g) = _batch_norm_backward(v, x, weight, mean, var, ctx.eps, world, v_g)
        sums = (v_y, v_1, g_y, g_1, v_g)
        of_x, of_weight = second_derivatives(v, g, x, weight, mean, r, sums, _count(x, world))
        # From sums over all ranks this is the whole of it; what the ranks have is to add up to that.
        return of_g, of_x, of_weight / world.size, None, None, None, None


def _count(x: Tensor, world: World) -> float:
    """Values a channel, on all ranks."""
    return x.numel() / x.shape[1] * world.size


def _batch_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, var: Tensor, eps: float, world: World, *more: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, ...]]:
    """Grad of x; this rank's Σ grad y and Σ grad; and, over all ranks, these and the sums of ``more``."""
    # With the statistics as constants it is one pass, which gives the sums as well.
    of_x, *own = torch.ops.aten.native_batch_norm_backward(
        grad, x, weight, mean, var, None, None, False, eps, [True, True, True]
    )
    sums = world.sum(torch.stack([*own, *more])).unbind()
    r, count = (var + eps).rsqrt(), _count(x, world)
    slope = -weight * r * r * sums[0] / count
    constant = -weight * r * sums[1] / count - slope * mean
    of_x = of_x.addcmul_(x, channel(slope, x)).add_(channel(constant, x))
    return of_x, (own[0], own[1]), sums
