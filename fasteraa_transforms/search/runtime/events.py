"""TensorBoard's events of a run."""

from pathlib import Path
from typing import Any, Protocol

from fasteraa_transforms.search.runtime.output import say


class Events(Protocol):
    """Where scalars and pictures are added; TensorBoard's `SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any:
        """Add one scalar."""

    def add_image(self, tag: str, img_tensor: Any, global_step: int, *, dataformats: str) -> Any:
        """Add a picture, uint8 [H, W, 3] where ``dataformats`` is "HWC"."""

    def close(self) -> None:
        """Write what is left."""


class Nowhere:
    """Events that are dropped."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Drop the scalar."""

    def add_image(self, tag: str, img_tensor: Any, global_step: int, *, dataformats: str) -> None:
        """Drop the picture."""

    def close(self) -> None:
        """Do nothing."""


def open_events(folder: Path, *, purge_step: int | None = None) -> Events:
    """The events in ``folder``, to which scalars can be added.

    TensorBoard cannot write to a folder whose name the locale does not have. Then a line says so, and the scalars are
    left out.

    Args:
        folder: made if it is not there.
        purge_step: events of this step and of later ones, of a run that was cut off, are hidden.
    """
    from torch.utils.tensorboard import SummaryWriter

    try:
        return SummaryWriter(str(folder), purge_step=purge_step)
    except UnicodeEncodeError:
        say(f"TensorBoard's events are left out, as it cannot write to {folder} in this locale", error=True)
        return Nowhere()
