"""Steps as CUDA graphs: captured once, then replayed, so that the host starts one graph and not thousands of kernels.

A graph repeats the work of the GPU at its capture, on the same memory; no Python runs. So a captured step should change
tensors in place, read every value that may change from a tensor, and never wait for the device.

Source: "Whole-network capture" in PyTorch's notes on CUDA semantics.
"""

import contextlib
import functools
import warnings
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

Step = Callable[[Tensor, Tensor], T]
"""From a batch of images and its labels to what was measured: a tensor, or several by name."""

WARM_UP = 3  # as in PyTorch's notes


class Capture(Protocol):
    """How work is captured; `CudaCapture` is the one for GPUs."""

    def warm_up(self) -> contextlib.AbstractContextManager[None]:
        """Where the steps before a capture run."""

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        """Capture what ``function`` does, without doing it; what is returned does it, each time it is called."""


class CudaCapture:
    """Capture on a GPU.

    Args:
        generator: of all draws of what is captured, on the device; replays go on with them as plain steps would.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.stream = torch.cuda.Stream(generator.device)  # no capture on the default one

    @contextlib.contextmanager
    def warm_up(self) -> Iterator[None]:
        """Run on the stream of the capture, in order with the current one."""
        current = torch.cuda.current_stream(self.generator.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            yield
        current.wait_stream(self.stream)

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        """Capture what ``function`` does; the replay runs on the stream that is current then.

        Raises:
            RuntimeError: it cannot be captured, as it waits for the device, say; nothing was done then.
        """
        device = self.generator.device
        default = torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
        before = [(each, each.clone_state()) for each in (self.generator, default)]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.device(device):
                with warnings.catch_warnings():  # PyTorch 2.15 registers generators by itself, and warns who does
                    warnings.simplefilter("ignore")
                    graph.register_generator_state(self.generator)
                with torch.cuda.graph(graph, stream=self.stream):
                    function()
        except BaseException:
            # In PyTorch 2.11 a capture that fails leaves the state of its generators in capture, for good.
            for each, state in before:
                each.graphsafe_set_state(state)
            raise
        return graph.replay


class GraphedStep(Generic[T]):
    """A step that is captured once and then replayed; each call is one whole step, the first ones as well.

    Args:
        step: what to do with a batch. It should change tensors in place, and read every value that may change from a
            tensor. Its Python runs for the last time in the capture.
        capture: how to capture it.
        warm_up: calls that run the step plainly, before the capture. In their first steps, optimizers and libraries
            allocate memory that they keep.
        variant: which of several kinds of step comes next; each has its warm-up and its graph. None: all are alike.
        required: whether a step that cannot be captured is an error; else a warning says why, and it runs as it is.

    Raises:
        RuntimeError: when called, if the step cannot be captured, and ``required``.

    Example:
        >>> class Again:  # in place of a GPU: what is captured is done again
        ...     warm_up = contextlib.nullcontext
        ...     def __call__(self, function):
        ...         return function
        >>> step = GraphedStep(lambda images, labels: images.mean(0) + labels, Again(), warm_up=1)
        >>> for value in range(3):
        ...     print(step(torch.full((2, 2), float(value)), torch.tensor(1)).tolist())
        [1.0, 1.0]
        [2.0, 2.0]
        [3.0, 3.0]
    """

    def __init__(
        self,
        step: Step[T],
        capture: Capture,
        *,
        warm_up: int = WARM_UP,
        variant: Callable[[], Hashable] | None = None,
        required: bool = False,
    ) -> None:
        self.step, self.capture, self.variant, self.required = step, capture, variant, required
        self._left: defaultdict[Hashable, int] = defaultdict(lambda: warm_up)
        self._replays: dict[Hashable, Callable[[], None]] = {}
        self._values: dict[Hashable, T] = {}
        self._images = self._labels = torch.empty(0)

    def __call__(self, images: Tensor, labels: Tensor) -> T:
        """One step on a batch, each of one shape; the tensors returned are overwritten by the next call."""
        kind = None if self.variant is None else self.variant()
        if kind not in self._replays and self._left[kind]:
            self._left[kind] -= 1
            with self.capture.warm_up():
                return self.step(images, labels)
        if self._replays:
            self._images.copy_(images)
            self._labels.copy_(labels)
        else:
            self._images, self._labels = images.clone(), labels.clone()
        if kind not in self._replays:
            once = functools.partial(self._once, kind)
            try:
                self._replays[kind] = self.capture(once)
            except RuntimeError as error:
                if self.required:
                    raise
                # What ends a capture that failed fails as well, with less to say.
                reason = str(error.__context__ or error).partition("\n")[0]
                warnings.warn(f"the step runs without a CUDA graph, it could not be captured: {reason}", stacklevel=2)
                self._replays[kind] = once
        self._replays[kind]()
        return self._values[kind]

    def _once(self, kind: Hashable) -> None:
        self._values[kind] = self.step(self._images, self._labels)
