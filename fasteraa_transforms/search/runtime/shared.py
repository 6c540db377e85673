"""Pickles whose large tensors lie in a file beside them: whoever reads them maps that file, and all share one copy.

The file has no name, where the system allows that: it is gone when the last process that has it ends, however it ends.
"""

import io
import mmap
import os
import pickle
import tempfile
from typing import Any, BinaryIO

import torch
from torch import Tensor

_LARGE = 2**16
"""Bytes from which a tensor goes to the file."""


def nameless_file() -> BinaryIO | None:
    """A file without a name, for the large tensors; None on Windows, where no process can be given it."""
    return None if os.name == "nt" else tempfile.TemporaryFile(prefix="fasteraa-")


def pickled(value: object) -> tuple[bytes, BinaryIO | None]:
    """The pickle of ``value`` and the file beside it; without a file where none can be written."""
    for beside in (nameless_file, lambda: None):
        try:
            buffer, file = io.BytesIO(), beside()
            SharedPickler(buffer, file).dump(value)
            return buffer.getvalue(), file
        except OSError:  # no folder for temporary files, or no room in it
            continue
    raise AssertionError("a pickle without a file needs no room")


class SharedPickler(pickle.Pickler):
    """Pickles what `SharedUnpickler` reads.

    Args:
        file: of the pickle.
        beside: file for the large tensors; None leaves them in the pickle.

    Example:
        >>> file, beside = io.BytesIO(), tempfile.TemporaryFile()
        >>> SharedPickler(file, beside).dump({"images": torch.ones(300, 300)})
        >>> file.tell() < 300, beside.tell()
        (True, 360000)
        >>> file.seek(0)
        0
        >>> SharedUnpickler(file, beside.fileno()).load()["images"].sum()
        tensor(90000.)
    """

    def __init__(self, file: BinaryIO, beside: BinaryIO | None) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.beside = beside
        self._known: dict[int, tuple[Tensor, int]] = {}  # by their address, which none else has while they are kept

    def persistent_id(self, obj: Any) -> tuple[int, str, tuple[int, ...]] | None:
        """Place, dtype and shape of a large tensor, which is written to the file; None for everything else."""
        plain = type(obj) is Tensor and obj.device.type == "cpu" and obj.layout == torch.strided
        if self.beside is None or not plain or obj.requires_grad or obj.nbytes < _LARGE or not obj.is_contiguous():
            return None
        if id(obj) not in self._known:
            place = self.beside.tell()
            place += -place % 64  # tensors lie at multiples of what processors load at once
            self.beside.seek(place)
            self.beside.write(obj.view(torch.uint8).numpy().data)
            self.beside.flush()
            self._known[id(obj)] = obj, place
        return self._known[id(obj)][1], str(obj.dtype).removeprefix("torch."), tuple(obj.shape)


class SharedUnpickler(pickle.Unpickler):
    """Reads what `SharedPickler` wrote; whoever writes to a tensor has a copy of what they change.

    Args:
        file: of the pickle.
        beside: number of the file of the large tensors, None if the pickle has them.
    """

    def __init__(self, file: BinaryIO, beside: int | None) -> None:
        super().__init__(file)
        self.beside = beside
        self._mapped: mmap.mmap | None = None
        self._known: dict[int, Tensor] = {}

    def persistent_load(self, pid: tuple[int, str, tuple[int, ...]]) -> Tensor:
        """The tensor of this place, dtype and shape."""
        place, dtype, shape = pid
        if self._mapped is None:
            assert self.beside is not None
            self._mapped = mmap.mmap(self.beside, 0, access=mmap.ACCESS_COPY)
        if place not in self._known:
            count, kind = torch.Size(shape).numel(), getattr(torch, dtype)
            self._known[place] = torch.frombuffer(self._mapped, dtype=kind, count=count, offset=place).view(shape)
        return self._known[place]
