"""Batches augmented on a device: while they are collated, or on their way from a DataLoader to the training step."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.data import default_collate, get_worker_info
from torchvision import tv_tensors


class AugmentCollate:
    """Collate samples, move the batch to a device, and transform it there as a whole.

    For DataLoader's ``collate_fn``. On a GPU with ``num_workers=0`` only: a forked worker cannot use CUDA, and a
    spawned one would hold a CUDA context of its own. There, `DeviceLoader` does the same outside of the workers. On the
    CPU it works in workers too. With ``device="cuda"``, DataLoader's own ``pin_memory`` has to stay False: it refuses
    batches that are on the GPU already.

    Samples may be nested (dicts, lists, tuples, named tuples), and the batch is nested as they are. The leaves are
    collated as `torch.utils.data.default_collate` does, except that tv_tensors stay what they are (there, they become
    plain tensors), tuples stay tuples (there, lists), and the bounding boxes of the samples become a list: their number
    differs, and torchvision has no batches of them.

    Labels are tensors once collated, and a v2 transform takes the *first* plain tensor for the image, unless the batch
    has a ``tv_tensors.Image``. So images come first, or are tv_tensors.

    Args:
        transform: takes and returns a batch: `FasterAutoAugment`, any v2 transform, any function.
        device: where the batch is moved to before the transform; where it was collated if None.
        collate: makes a batch of a list of samples; the above if None.

    Raises:
        TypeError: ``transform`` or ``collate`` cannot be called.
        RuntimeError: when called, if that is in a DataLoader worker and ``device`` is not the CPU.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> from fasteraa_transforms import FasterAutoAugment
        >>> samples = [(tv_tensors.Image(torch.zeros(3, 32, 32, dtype=torch.uint8)), label) for label in range(6)]
        >>> collate = AugmentCollate(FasterAutoAugment.from_pretrained("cifar10"), device="cpu")
        >>> for images, labels in DataLoader(samples, batch_size=4, collate_fn=collate):
        ...     print(type(images).__name__, list(images.shape), labels.tolist())
        Image [4, 3, 32, 32] [0, 1, 2, 3]
        Image [2, 3, 32, 32] [4, 5]
    """

    def __init__(
        self,
        transform: Callable[[Any], Any],
        *,
        device: torch.device | str | int | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        _check_callable("transform", transform)
        if collate is not None:
            _check_callable("collate", collate)
        self.transform = transform
        self.device = None if device is None else torch.device(device)
        self.collate = _collate if collate is None else collate

    def __call__(self, samples: list[Any]) -> Any:
        """The transformed batch."""
        worker = get_worker_info()
        if worker is not None and self.device is not None and self.device.type != "cpu":
            raise RuntimeError(
                f"AugmentCollate on {self.device} should be called in the main process (num_workers=0), but got called "
                f"in DataLoader worker {worker.id} instead; to augment on {self.device} with workers, leave collate_fn "
                f"as it is and use DeviceLoader(loader, transform, device={str(self.device)!r})"
            )
        batch = self.collate(samples)
        return self.transform(batch if self.device is None else _to(batch, self.device))


class DeviceLoader:
    """Batches of a DataLoader, copied to a device and transformed there, ahead of the training step.

    On CUDA the batches are pinned, copied without blocking and transformed on a stream of their own, so that this
    happens while the GPU is busy with the step before. The stream that is current where a batch is taken waits for it,
    the host does not. The lead is bounded: ``ahead`` batches lie ready behind the one that is handed out, and the host
    runs no more than ``ahead`` steps (at least one) ahead of the GPU, else it waits. So at most 2 × ``ahead`` + 1
    batches of this loader (two for ``ahead=0``) are in GPU memory, as long as the caller keeps none. On other devices
    the same batches come in the same order, without streams.

    Everything in the batch that is a tensor is moved: images, labels, tv_tensors, in dicts, lists, tuples and named
    tuples, nested as they may be. Other objects stay as they are. A v2 transform takes the *first* plain tensor for the
    image, unless the batch has a ``tv_tensors.Image``; PyTorch's default collate function makes plain tensors of those,
    and so does ``pin_memory=True`` of the DataLoader. It is not needed: what is not pinned is pinned here.

    Random numbers: each iteration takes one number from PyTorch's default generator and seeds with it random numbers
    of its own (CPU and, on CUDA, GPU). The loader and the transform draw from these in the order of the batches, and
    the default generators stay as the caller left them. So the same seed gives the same batches for any ``ahead``,
    whatever the training step draws, and the training step draws the same numbers for any ``ahead``, also after an
    early ``break``. The batches are not those that the same seed gives without a DeviceLoader. Generators of one's own
    (DataLoader's or the transform's ``generator``) and those of Python and NumPy are drawn from directly, in the order
    of the batches, but ahead of the step.

    An exception raised by the loader, its workers or the transform comes where its batch would have come, after all
    the batches before it. Each ``iter()`` starts anew, and leaving a loop early drops what was prepared. ``len()`` and
    all attributes but ``loader``, ``transform``, ``device`` and ``ahead`` are those of the loader: ``dataset``,
    ``batch_size``, ``sampler`` (also ``loader.sampler.set_epoch(epoch)``).

    Args:
        loader: a DataLoader, or any other iterable of batches.
        transform: takes and returns a batch: `FasterAutoAugment`, any v2 transform, any function. What it holds on the
            GPU has to be there when the iteration starts.
        device: where the batches are moved to.
        ahead: how many batches are prepared beyond the one that is handed out, 0 or more.

    Raises:
        TypeError: ``loader`` cannot be iterated over, or ``transform`` cannot be called.
        ValueError: ``ahead`` is not a whole number of 0 or more.

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
            _check_callable("transform", transform)
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
        """Wait until the GPU has finished all but the caller's last ``ahead`` steps, at least all but one."""
        end = torch.cuda.Event(blocking=True)  # the host sleeps; otherwise it would take a core from the workers
        end.record(torch.cuda.current_stream(self._device))
        self._steps.append(end)
        if len(self._steps) > max(self._ahead, 1):
            self._steps.popleft().synchronize()

    def _prepare(self) -> None:
        """Take one more batch from the loader, or what it raises at the end or on the way."""
        try:
            with self._apart():
                batch = _to(next(self._batches), self._device)
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


def _check_callable(name: str, value: object) -> None:
    if not callable(value):
        raise TypeError(f"{name} should be callable, but got {value!r} instead")


def _collate(samples: Sequence[Any]) -> Any:
    return tree_map(_collate_leaves, *samples)


def _collate_leaves(*leaves: Any) -> Any:
    if isinstance(leaves[0], tv_tensors.BoundingBoxes):
        return list(leaves)
    batch = default_collate(list(leaves))  # in a worker, it stacks right into shared memory
    return tv_tensors.wrap(batch, like=leaves[0]) if isinstance(leaves[0], tv_tensors.TVTensor) else batch


def _to(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on the device; to CUDA from pinned memory, without waiting."""
    return tree_map_only(Tensor, partial(_tensor_to, device=device), batch)


def _tensor_to(tensor: Tensor, device: torch.device) -> Tensor:
    # Without waiting in this direction only: from the GPU to the CPU it would hand out memory still to be written.
    to_cuda = device.type == "cuda"
    moved = tensor.pin_memory() if to_cuda and tensor.device.type == "cpu" else tensor
    moved = moved.to(device, non_blocking=to_cuda)
    return tv_tensors.wrap(moved, like=tensor) if isinstance(tensor, tv_tensors.TVTensor) else moved
