"""Batches of a DataLoader, augmented on a device on their way to the training step."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fasteraa_transforms.pipeline.transfer import check_callable, explained, move


class DeviceLoader:
    """Batches of a DataLoader, copied to a device and transformed there, ahead of the training step.

    On CUDA, batches are pinned, copied without blocking, and transformed on a stream of their own. Meanwhile the GPU
    works on the step before. The stream that is current where a batch is taken waits for it; the host does not. The
    loader runs ahead by at most ``ahead`` batches, and the host by at most ``ahead`` steps of the GPU (or one). So GPU
    memory holds at most 2 × ``ahead`` + 1 batches (two for ``ahead=0``), if the caller keeps none. On other devices the
    same batches come in the same order, without streams.

    Every tensor of a batch is moved: images, labels and tv_tensors, in dicts, lists, tuples and named tuples, however
    nested. Other objects stay as they are. A v2 transform takes the *first* plain tensor for the image, unless the
    batch has a ``tv_tensors.Image``. PyTorch's default collate function makes plain tensors of tv_tensors, and so does
    ``pin_memory=True`` of the DataLoader. It is not needed here: batches are pinned anyway.

    Each iteration takes one number from PyTorch's default generator and seeds generators of its own with it, on the CPU
    and on CUDA. The loader and the transform draw from its own generators, in the order of the batches. The default
    generators stay as the caller left them. So a seed gives the same batches for any ``ahead``, whatever the training
    step draws. And the training step draws the same numbers for any ``ahead``, also after an early ``break``. Without a
    DeviceLoader, the seed gives other batches. A DataLoader or transform with a ``generator`` draws from that one, in
    the order of the batches but ahead of the step; so does code that draws from Python or NumPy.

    An exception of the loader, its workers or the transform is raised in the place of its batch. Each ``iter()`` starts
    anew. Leaving a loop early drops the prepared batches. ``len()`` and other attributes, such as ``dataset``,
    ``batch_size`` and ``sampler``, come from the loader.

    Args:
        loader: a DataLoader, or any other iterable of batches.
        transform: takes and returns a batch: `FasterAutoAugment`, any v2 transform, any function. Whatever it holds on
            the GPU has to be on the GPU when the iteration starts.
        device: where the batches are moved to.
        ahead: how many batches are prepared beyond the one that is handed out, 0 or more.

    Raises:
        TypeError: ``loader`` cannot be iterated over, or ``transform`` cannot be called.
        ValueError: ``ahead`` is not a whole number of 0 or more.
        RuntimeError: when the iteration starts, if PyTorch does not find the CUDA device.

    Example:
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from fasteraa_transforms import FasterAutoAugment
        >>> dataset = TensorDataset(torch.zeros(6, 3, 32, 32, dtype=torch.uint8), torch.arange(6))
        >>> transform = FasterAutoAugment.from_pretrained("cifar10")
        >>> loader = DeviceLoader(DataLoader(dataset, batch_size=4), transform, device="cpu")  # or "cuda"
        >>> for images, labels in loader:
        ...     print(list(images.shape), labels.tolist())
        [4, 3, 32, 32] [0, 1, 2, 3]
        [2, 3, 32, 32] [4, 5]
        >>> len(loader), loader.batch_size, len(loader.dataset)
        (2, 4, 6)
    """

    def __init__(
        self,
        loader: Iterable[Any],
        transform: Callable[[Any], Any] | None = None,
        device: torch.device | str | int = "cuda",
        ahead: int = 1,
    ) -> None:
        if not isinstance(loader, Iterable):
            raise TypeError(f"loader should be a DataLoader or another iterable of batches, but got {loader!r} instead")
        if transform is not None:
            check_callable("transform", transform)
        if not isinstance(ahead, int) or ahead < 0:
            raise ValueError(f"ahead should be a whole number of batches, 0 or more, but got {ahead!r} instead")
        self.loader = loader
        self.transform = transform
        self.device = torch.device(device)
        self.ahead = ahead
        self._stream: torch.cuda.Stream | None = None

    def __iter__(self) -> Iterator[Any]:
        """One pass over the loader."""
        if self.device.type == "cuda" and self._stream is None:
            # Kept for all passes: the caching allocator keeps the memory of each stream apart.
            with explained(self.device, "DeviceLoader"):
                self._stream = torch.cuda.Stream(self.device)
        return _Pass(self.loader, self.transform, self.device, self.ahead, self._stream)

    def __len__(self) -> int:
        """Number of batches; TypeError if the loader does not know it."""
        return len(self.loader)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # looked for by pickle and copy before there is one
            raise AttributeError(name)
        return getattr(self.loader, name)


class _Pass(Iterator[Any]):
    """One pass over the loader of a `DeviceLoader`."""

    def __init__(
        self,
        loader: Iterable[Any],
        transform: Callable[[Any], Any] | None,
        device: torch.device,
        ahead: int,
        stream: torch.cuda.Stream | None,
    ) -> None:
        self._transform, self._device, self._ahead, self._stream = transform, device, ahead, stream
        self._ready: deque[tuple[Any, torch.cuda.Event | None]] = deque()  # batches, and when the stream is done
        self._error: list[Exception] = []  # what came in place of the batch after those
        self._steps: deque[torch.cuda.Event] = deque()  # ends of the caller's steps that the GPU may not have reached
        self._generators = [torch.default_generator]
        if stream is not None:
            self._device = stream.device  # with its index
            # What the transform holds on the GPU was put there on the caller's stream.
            stream.wait_stream(torch.cuda.current_stream(self._device))
            self._generators.append(torch.cuda.default_generators[stream.device.index])
        seed = int(torch.randint(2**63 - 1, ()))
        self._states = [torch.Generator(each.device).manual_seed(seed).get_state() for each in self._generators]
        with self._apart():
            self._batches = iter(loader)

    def __next__(self) -> Any:
        if self._stream is not None:
            self._keep_pace()
        while len(self._ready) <= self._ahead and not self._error:
            self._prepare()
        if not self._ready:
            raise self._error.pop()  # not by a name: the traceback holds this frame, which would then hold the error
        batch, done = self._ready.popleft()
        if done is not None:
            consumer = torch.cuda.current_stream(self._device)
            consumer.wait_event(done)
            for leaf in tree_leaves(batch):
                if isinstance(leaf, Tensor) and leaf.is_cuda:
                    leaf.record_stream(consumer)  # else its memory would be free for the next batch before it is read
        return batch

    def _keep_pace(self) -> None:
        """Wait until the GPU is at most ``ahead`` steps behind the caller, or one step if ``ahead`` is 0."""
        end = torch.cuda.Event(blocking=True)  # the host sleeps; otherwise it would take a core from the workers
        end.record(torch.cuda.current_stream(self._device))
        self._steps.append(end)
        if len(self._steps) > max(self._ahead, 1):
            self._steps.popleft().synchronize()

    def _prepare(self) -> None:
        """Take one more batch from the loader. If it raises an exception instead, keep that for later."""
        try:
            with self._apart():
                batch = move(next(self._batches), self._device, "DeviceLoader")
                if self._transform is not None:
                    batch = self._transform(batch)
                self._ready.append((batch, None if self._stream is None else self._stream.record_event()))
        except Exception as error:  # a KeyboardInterrupt is for now
            self._error.append(error)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """On this pass's stream, and drawing from its random numbers."""
        theirs = [each.get_state() for each in self._generators]
        for each, state in zip(self._generators, self._states, strict=True):
            each.set_state(state)
        try:
            with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
                yield
        finally:
            self._states = [each.get_state() for each in self._generators]
            for each, state in zip(self._generators, theirs, strict=True):
                each.set_state(state)
