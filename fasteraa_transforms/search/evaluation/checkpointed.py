"""A training that a file keeps: cut off, it continues after its last whole epoch."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fasteraa_transforms.search.networks.fit import Fit, fit
from fasteraa_transforms.search.runtime import files


class CheckpointedFit:
    """A training, continued from its file if that is there.

    Args:
        training: the training, as it starts.
        checkpoint: the file to continue from and to write after each epoch but the last; None for none.

    Raises:
        DamagedFile: the file is not what was written.

    Attributes:
        seconds: how long the epochs took, in all.
        means: of the last epoch.
    """

    def __init__(self, training: Fit, checkpoint: Path | None = None) -> None:
        self.training, self.checkpoint = training, checkpoint
        self.seconds = 0.0
        self.means: dict[str, float] = {}
        if checkpoint is not None and checkpoint.is_file():
            device = training.data.images.device
            saved = _read(checkpoint, device)
            training.load_state_dict(saved["training"])
            self.seconds, self.means = saved["seconds"], saved["means"]

    def run(self, each_epoch: Callable[[dict[str, float]], object] = lambda means: None) -> None:
        """Train to the end of the recipe.

        Args:
            each_epoch: called after each epoch with its means.
        """
        began = time.perf_counter()

        def keep(means: dict[str, float]) -> None:
            nonlocal began
            self.seconds += time.perf_counter() - began
            self.means = means
            if self.training.epoch < self.training.recipe.epochs:
                self._save()
            each_epoch(means)
            began = time.perf_counter()

        fit(self.training, keep)

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        saved = {"training": self.training.state_dict(), "seconds": self.seconds, "means": self.means}
        files.write_checkpoint(self.checkpoint, saved, keep_previous=False)


def _read(checkpoint: Path, device: torch.device) -> dict[str, Any]:
    try:
        return files.read_checkpoint(checkpoint, device)
    except files.DamagedFile as error:
        raise files.DamagedFile(f"{error}; remove it to train this network anew") from error
