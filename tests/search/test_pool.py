"""Workers get the same tensors as this process, and share one copy of them."""

import io
import sys
import tempfile

import pytest
import torch
from torch import Tensor

from fasteraa_transforms.search.runtime.pool import Pool
from fasteraa_transforms.search.runtime.shared import SharedPickler, SharedUnpickler, nameless_file, pickled

TENSORS = {
    "uint8": torch.arange(3 * 200 * 200).view(3, 200, 200).to(torch.uint8),
    "bool": torch.arange(100_000) % 3 == 0,
    "int64": torch.arange(50_000),
    "float64": torch.arange(50_000, dtype=torch.float64),
    "uint16": torch.arange(50_000).to(torch.uint16),
    "part of a larger one": torch.arange(200_000)[:100_000],
    "strided": torch.arange(100_000).view(100, 1000).T,
    "scalar": torch.tensor(3),
    "empty": torch.empty(0, 3),
    "gradient": torch.ones(50_000, requires_grad=True),
}


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("alone", [False, True])
def test_tensors_are_the_same_on_the_other_side(kind: str, alone: bool) -> None:
    if alone and kind == "uint16":
        pytest.skip("PyTorch pickles no such tensor")
    tensor, first, file = TENSORS[kind], torch.arange(70_001).to(torch.uint8), io.BytesIO()
    beside = None if alone else nameless_file()
    SharedPickler(file, beside).dump((tensor, first, [tensor]))
    file.seek(0)
    one, before, (other,) = SharedUnpickler(file, None if beside is None else beside.fileno()).load()
    assert torch.equal(before, first)
    assert one is other
    for found in (one, other):
        assert (found.dtype, found.shape, found.requires_grad) == (tensor.dtype, tensor.shape, tensor.requires_grad)
        assert torch.equal(found.long(), tensor.long())
    if beside is not None:
        small = kind in ("strided", "scalar", "empty", "gradient")
        assert beside.seek(0, 2) < 70_001 + 64 + (0 if small else tensor.nbytes)
        assert beside.tell() >= 70_001 + (0 if small else tensor.nbytes)


def test_who_writes_to_a_shared_tensor_changes_their_copy_alone() -> None:
    file, beside = io.BytesIO(), nameless_file()
    assert beside is not None
    SharedPickler(file, beside).dump(torch.zeros(50_000))
    readers = []
    for _ in range(2):
        file.seek(0)
        readers.append(SharedUnpickler(file, beside.fileno()).load())
    readers[0].fill_(1)
    assert readers[1].sum() == 0


def test_without_room_for_a_file_the_pickle_has_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError("No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: Full())
    data, beside = pickled([torch.arange(50_000)])
    assert beside is None
    (found,) = SharedUnpickler(io.BytesIO(data), None).load()
    assert torch.equal(found, torch.arange(50_000))


def _own_memory(shared: Tensor, factor: int) -> tuple[int, int]:
    """The sum of a tensor's values, and how much memory this process holds for itself alone, in bytes."""
    total = factor * int(shared.sum())
    with open("/proc/self/status", encoding="ascii") as file:
        (line,) = [line for line in file if line.startswith("RssAnon")]
    return total, int(line.split()[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory otherwise")
def test_workers_hold_no_copy_of_the_images() -> None:
    import test_pool  # the workers import it by its name

    held = []
    for count in (1000, 2**27):
        images = torch.ones(count, dtype=torch.uint8)
        with Pool(test_pool._own_memory, images, processes=2).started() as pool:
            found = [result for _, result in pool.run([(1,), (2,)])]
        assert sorted(total for total, _ in found) == [count, 2 * count]
        held.append(max(own for _, own in found))
    assert held[1] - held[0] < 2**25
