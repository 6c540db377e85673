"""The plan: what happens to each image of one batch. Everything random in it is drawn already."""

import operator
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from fasteraa_transforms.operations.table import OPERATIONS

_LISTED_IMAGES = 8  # a repr lists so many images one by one; of more images it counts the operations

_SHAPES: dict[str, tuple[torch.dtype, str]] = {
    "operation": (torch.int64, "BK"),
    "parameter": (torch.float64, "BK"),
    "applied": (torch.bool, "BK"),
    "centre": (torch.float64, "BK2"),
    "partner": (torch.int64, "BK"),
    "sub_policy": (torch.int64, "B"),
}


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """What happens to each of B images in each of K stages. Nothing random is left.

    Every backend is a pure function of images and plan. `Policy.sample` draws a plan; one may also be written by hand.
    Shapes, dtypes and devices are checked here. Values are not: to look at them would wait for the device.

    Attributes:
        operation: int64 [B, K], index into ``list(OPERATIONS)``.
        parameter: float64 [B, K], signed physical parameter in the unit that the operation's row states; 0 for an
            operation without a magnitude.
        applied: bool [B, K], whether the operation is applied. A stage that is not applied leaves the image as it is.
        centre: float64 [B, K, 2], (x, y) of the centre of cutout in [0, 1), fractions of width and height.
        partner: int64 [B, K], index in the batch of the image that sample_pairing blends in.
        sub_policy: int64 [B], index of the sub-policy that the image drew.

    Raises:
        ValueError: a tensor has the wrong dtype or shape, or lies on another device than ``operation``.

    Example:
        >>> names = list(OPERATIONS)
        >>> Plan(
        ...     operation=torch.tensor([[names.index("rotate"), names.index("flip")]]),
        ...     parameter=torch.tensor([[-12.3, 0.0]], dtype=torch.float64),
        ...     applied=torch.tensor([[True, True]]),
        ...     centre=torch.zeros(1, 2, 2, dtype=torch.float64),
        ...     partner=torch.zeros(1, 2, dtype=torch.int64),
        ...     sub_policy=torch.zeros(1, dtype=torch.int64),
        ... )
        Plan(1 image, 2 stages, cpu)
          0: rotate(-12.3 degrees) → flip
    """

    operation: Tensor  # [B, K]
    parameter: Tensor  # [B, K]
    applied: Tensor  # [B, K]
    centre: Tensor  # [B, K, 2]
    partner: Tensor  # [B, K]
    sub_policy: Tensor  # [B]

    def __post_init__(self) -> None:
        if self.operation.ndim != 2:
            raise ValueError(f"operation should be int64 [B, K], but has shape {list(self.operation.shape)}")
        sizes = {"B": self.operation.shape[0], "K": self.operation.shape[1], "2": 2}
        for name, (dtype, axes) in _SHAPES.items():
            tensor = getattr(self, name)
            shape = [sizes[axis] for axis in axes]
            if tensor.dtype != dtype or list(tensor.shape) != shape or tensor.device != self.operation.device:
                raise ValueError(
                    f"{name} should be {dtype} {shape} on {self.operation.device}, "
                    f"but is {tensor.dtype} {list(tensor.shape)} on {tensor.device}"
                )

    def __len__(self) -> int:
        """Number of images B."""
        return self.operation.shape[0]

    @property
    def stages(self) -> int:
        """Number of stages K."""
        return self.operation.shape[1]

    def __getitem__(self, index: int | slice | Tensor) -> "Plan":
        """The plan of some of the images. It is always a plan of a batch: an integer gives a plan of one image.

        ``partner`` stays as it is: an index into the batch that the plan was drawn for. So ``plan[rows]`` on
        ``images[rows]`` gives the pixels of the whole plan only if that index finds the same partner there.

        Args:
            index: an integer, a slice, or a tensor of integers or booleans [B'] as tensors take them.

        Raises:
            IndexError: the batch has no image of this index.

        Example:
            >>> from fasteraa_transforms.policy.policy import Policy
            >>> policy = Policy([[[{"operation": "flip", "weight": 1, "probability": 0.5}]]])
            >>> plan = policy.sample(10)
            >>> len(plan[3]), len(plan[2:6]), len(plan[torch.tensor([9, 0])])
            (1, 4, 2)
        """
        rows: slice | Tensor
        if isinstance(index, slice):
            rows = index
        elif isinstance(index, Tensor):
            rows = index.reshape(-1)
        else:
            position = operator.index(index)
            if not -len(self) <= position < len(self):
                raise IndexError(f"image {position} of a plan of {len(self)} images")
            position %= len(self)
            rows = slice(position, position + 1)
        return Plan(**{name: getattr(self, name)[rows] for name in _SHAPES})

    def to(self, device: torch.device | str) -> "Plan":
        """The same plan on another device; itself if it lies there already.

        From the CPU to CUDA it is one copy from pinned memory. The host does not wait for it, and kernels that are
        launched later on the same stream find it done.
        """
        if self.operation.device == torch.device(device):  # and so do the other tensors
            return self
        tensors = {name: getattr(self, name) for name in _SHAPES}
        to_cuda = self.operation.device.type == "cpu" and torch.device(device).type == "cuda"
        if to_cuda and not any(tensor.requires_grad for tensor in tensors.values()):  # bytes have no gradients
            # The tensors of 8-byte dtypes come first, so that each begins at a multiple of the size of its numbers.
            names = sorted(tensors, key=lambda name: -tensors[name].itemsize)
            parts = [tensors[name].contiguous().flatten().view(torch.uint8) for name in names]
            packed = torch.cat(parts).pin_memory().to(device, non_blocking=True)
            split = zip(names, packed.split([len(part) for part in parts]), strict=True)
            return Plan(**{name: part.view(tensors[name].dtype).view(tensors[name].shape) for name, part in split})
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        return self if moved["operation"] is self.operation else Plan(**moved)  # "cuda" may be where "cuda:0" is

    def __eq__(self, other: object) -> bool:
        """Whether all tensors are equal, value by value; devices may differ."""
        if not isinstance(other, Plan):
            return NotImplemented
        moved = other.to(self.operation.device)
        return all(torch.equal(getattr(self, name), getattr(moved, name)) for name in _SHAPES)

    def __repr__(self) -> str:
        images = f"{len(self)} image{'s' * (len(self) != 1)}"
        stages = f"{self.stages} stage{'s' * (self.stages != 1)}"
        lines = [f"Plan({images}, {stages}, {self.operation.device})"]
        if len(self) <= _LISTED_IMAGES:
            steps = ([self._step(image, stage) for stage in range(self.stages)] for image in range(len(self)))
            lines += [f"{image}: {' → '.join(filter(None, row)) or 'unchanged'}" for image, row in enumerate(steps)]
        else:
            names = list(OPERATIONS)
            counts = Counter(names[operation] for operation in self.operation[self.applied].tolist())
            applied = " ".join(f"{name} {count}," for name, count in counts.most_common()).rstrip(",")
            lines.append(f"{counts.total()} of {self.applied.numel()} stages applied: {applied or 'none'}")
        return "\n  ".join(lines)

    def _step(self, image: int, stage: int) -> str:
        """One stage of one image in words; "" if it is not applied."""
        if not self.applied[image, stage]:
            return ""
        operation = list(OPERATIONS.values())[int(self.operation[image, stage])]
        if not operation.has_magnitude:
            return operation.name
        details = f"{float(self.parameter[image, stage]):.3g} {operation.unit}"
        if "partner" in operation.takes:
            details += f", image {int(self.partner[image, stage])}"
        if "centre" in operation.takes:
            x, y = self.centre[image, stage].tolist()
            details += f" at ({x:.2f}, {y:.2f})"
        return f"{operation.name}({details})"
