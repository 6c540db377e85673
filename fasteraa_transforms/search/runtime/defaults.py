"""PyTorch as it is without settings: a run computes the same, whatever its caller has changed for the whole process."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def usual_defaults() -> Iterator[None]:
    """Within it, PyTorch's defaults are those of a fresh process; after it, they are the caller's again.

    These are the default dtype (float32), the default device (the CPU), gradients (switched on), inference mode (off)
    and autocast (off). With another dtype, networks do not take the images; without gradients, nothing is trained.

    Example:
        >>> with torch.inference_mode(), usual_defaults():
        ...     torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        (True, False)
    """
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        torch.set_default_dtype(torch.float32)
        stack.callback(torch.set_default_dtype, dtype)
        yield
