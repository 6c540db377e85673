"""The generator of a transform: seeded anew in each DataLoader worker, and pickled with its state."""

import torch
from torch.utils.data import get_worker_info

_ODD = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, the usual multiplier to spread seeds


def seed_in_worker(generator: torch.Generator, seeded_for: int | None) -> int | None:
    """Give the copy of a generator in a DataLoader worker a seed of its own.

    All workers hold the same copy. Without this, all of them would draw the same, and again in each epoch. The seed
    follows from the generator's state and from the worker's own seed, so it is reproducible where both are.

    Args:
        generator: the generator; outside of a worker it is left alone.
        seeded_for: what this function returned the last time; None at first.

    Returns:
        Seed of the worker that the generator is seeded for; None outside of a worker.
    """
    worker = get_worker_info()
    if worker is None or worker.seed == seeded_for:
        return seeded_for
    # All workers draw the same number here. Their seeds differ, also between epochs.
    shared = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
    # Not their exclusive or: with one torch.manual_seed for both, the two would cancel.
    generator.manual_seed((int(shared) * _ODD + worker.seed) % 2**63)
    return worker.seed


def packed(generator: torch.Generator) -> tuple[str, bytes]:
    """Device and state of a generator, for pickle.

    A generator can be pickled, but its state is a tensor, which travels to a worker through shared memory. With spawned
    workers that fails with "unable to resize file" (still so in PyTorch 2.15).
    """
    return str(generator.device), generator.get_state().numpy().tobytes()


def unpacked(state: tuple[str, bytes]) -> torch.Generator:
    """The generator that was `packed`."""
    device, data = state
    generator = torch.Generator(device)
    generator.set_state(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    return generator
