"""The policy as a torchvision transform."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NoReturn, Self

import torch
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_flatten
from torch.utils.data import get_worker_info
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import Transform
from torchvision.transforms.v2.functional import is_pure_tensor

from fasteraa_transforms.backends import apply, apply_one
from fasteraa_transforms.backends.epilogue import Epilogue
from fasteraa_transforms.backends.options import fill_values, interpolation_mode
from fasteraa_transforms.pipeline import compiled as _compiled
from fasteraa_transforms.pipeline import targets as _targets
from fasteraa_transforms.plan import Plan
from fasteraa_transforms.policy.policy import Policy

Fill = float | Sequence[float]

_ODD = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, the usual multiplier to spread seeds


class FasterAutoAugment(Transform):
    """Apply a policy to images: each draws a sub-policy, and what happens in it, for itself.

    A transform of torchvision's v2 that works in ``v2.Compose`` and in v1's ``Compose``, in the place where AutoAugment
    stands: on PIL images, or on tensors with values in [0, 255] (uint8) or [0, 1] (float), before normalisation.
    `apply` says what it does to which type; uint8 is exact, and the same seed gives the same pixels for an L or RGB PIL
    image and for its tensor. Float images may require gradients; they get them. The output has the type of the input.

    A sample may be nested as v2 allows. Images in it are PIL images, ``tv_tensors.Image``, ``tv_tensors.Video`` or, if
    it has none of these, its first plain tensor (v2's rule). A tensor has the shape [..., C, H, W], a video
    [..., T, C, H, W]. Each of the leading dimensions is one of images (or videos), which draw independently; the T
    frames of a video share one draw, and each has its own statistics (equalize, contrast). Several images in one sample
    share their draws, so they have to be as many, or single, where a single one takes the draw of the first.

    Targets in it, ``tv_tensors.BoundingBoxes``, ``Mask`` and ``KeyPoints``, are moved along by shear, translate, rotate
    and flip; every other operation leaves them alone. They have the size of an image of the sample. With a batch of
    images, masks and key points have its leading dimensions in front; bounding boxes, which have no room for them, are
    refused. Labels and everything else pass through.

    It draws from PyTorch's default generator, so ``torch.manual_seed`` makes it reproducible and each DataLoader worker
    draws differently. A ``generator`` of its own is copied into each worker of a DataLoader, where the copies would all
    draw the same, and again in each epoch; so a worker, when it first draws, seeds its copy anew from a draw of it and
    the worker's own seed, which DataLoader makes from its base seed. It stays reproducible where both are: the state of
    ``generator``, and that base seed (``torch.manual_seed``, or DataLoader's own ``generator``). Processes that are not
    DataLoader workers, as in distributed training, need a seed each.

    It has no parameters, and ``train()`` and ``eval()`` make no difference. `torch.compile` takes it without a graph
    break, ``fullgraph=True``, where a sample has plain tensors that require no gradient; anything else breaks the graph
    and gives the same. `torch.jit.script` refuses it.

    Args:
        policy: the policy; `from_pretrained` takes names and files.
        interpolation: NEAREST or BILINEAR, for shear, translate and rotate.
        fill: value outside of the image, one number or one a channel, in the image's own range; masks get 0. Or a dict
            from the type of an input, such as ``tv_tensors.Mask`` or ``PIL.Image.Image``, to its fill, where "others"
            stands for all types that are not named, and 0 for that.
        epilogue: scaling, normalisation and conversion of the images that follow, for tensors; on a GPU they cost no
            pass of their own.
        generator: source of the draws, on any device; PyTorch's default generator if None. Pickling or deep-copying the
            transform copies it with its state.

    Raises:
        TypeError: ``policy`` is no `Policy`, ``fill`` no number or sequence of numbers or dict of these, ``epilogue``
            no `Epilogue`; when called, if a sample has no image, or an image is of a type that `apply` refuses.
        ValueError: ``interpolation`` is another mode; when called, if the images of a sample cannot share their draws,
            targets do not lie on them, the fill of masks is no value that they can have, or `apply` raises it.

    Source: the paper, section 3; Cubuk et al. 2019, AutoAugment.

    Example:
        >>> rotate = {"operation": "rotate", "weight": 3, "probability": 0.6, "magnitude": 0.4}
        >>> flip = {"operation": "flip", "weight": 1, "probability": 0.5}
        >>> transform = FasterAutoAugment(Policy([[[rotate, flip], [flip]]], name="example"))
        >>> transform
        FasterAutoAugment(policy='example', sub_policies=1, stages=2, interpolation=nearest, fill=0)
        >>> image, label = transform(torch.zeros(8, 3, 32, 32, dtype=torch.uint8), 7)
        >>> image.shape, label
        (torch.Size([8, 3, 32, 32]), 7)

        >>> mirror = FasterAutoAugment(Policy([[[{"operation": "flip", "weight": 1, "probability": 1}]]]))
        >>> boxes = tv_tensors.BoundingBoxes([[2, 4, 10, 8]], format="XYXY", canvas_size=(32, 32))
        >>> sample = mirror({"image": torch.zeros(3, 32, 32, dtype=torch.uint8), "boxes": boxes})
        >>> sample["boxes"].tolist()
        [[22, 4, 30, 8]]
    """

    _transformed_types = (is_pure_tensor, tv_tensors.Image, tv_tensors.Video, Image.Image, *_targets.TARGETS)

    def __init__(
        self,
        policy: Policy,
        *,
        interpolation: InterpolationMode | str | int = InterpolationMode.NEAREST,
        fill: Fill | Mapping[type | str, Fill] = 0,
        epilogue: Epilogue | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(policy, Policy):
            raise TypeError(
                f"policy should be a Policy, but got {policy!r} of type {type(policy).__name__} instead; "
                "for the name or the file of one, use FasterAutoAugment.from_pretrained"
            )
        if not (epilogue is None or isinstance(epilogue, Epilogue)):
            raise TypeError(f"epilogue should be an Epilogue or None, but got {epilogue!r} instead")
        if not (generator is None or isinstance(generator, torch.Generator)):
            raise TypeError(f"generator should be a torch.Generator or None, but got {generator!r} instead")
        for value in fill.values() if isinstance(fill, Mapping) else (fill,):
            fill_values(value)  # raises
        self.policy = policy
        self.interpolation = interpolation_mode(interpolation)
        self.fill = fill
        self.epilogue = epilogue
        self.generator = generator
        self._worker_seed: int | None = None  # seed of the DataLoader worker that `generator` was seeded for
        self._handle = _compiled.register(self)

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """The transform with a policy that comes with the package, or with one from a file.

        Args:
            name_or_path: name of a policy in the package, or path of a policy file.
            **kwargs: ``interpolation``, ``fill``, ``epilogue`` and ``generator``.

        Raises:
            ValueError: there is no policy of this name.
            PolicyError: the file cannot be read or is refused.

        Example:
            >>> try:
            ...     FasterAutoAugment.from_pretrained("no such policy")
            ... except ValueError as error:
            ...     print(error)
            unknown policy 'no such policy'; known: ...; or give the path of a policy file
        """
        shipped = files("fasteraa_transforms") / "policies"
        known = sorted(entry.name.removesuffix(".json") for entry in shipped.iterdir() if entry.name.endswith(".json"))
        if name_or_path in known:
            with as_file(shipped / f"{name_or_path}.json") as path:
                return cls(Policy.load(path), **kwargs)
        text = os.fspath(name_or_path)
        separators = [separator for separator in (os.sep, os.altsep) if separator]
        names_a_file = text.endswith(".json") or any(separator in text for separator in separators)
        if names_a_file or not isinstance(name_or_path, str) or Path(text).is_file():
            return cls(Policy.load(text), **kwargs)
        raise ValueError(
            f"unknown policy {name_or_path!r}; known: {', '.join(known) or 'none'}; or give the path of a policy file"
        )

    def forward(self, *inputs: Any) -> Any:
        """Transform a sample, given as one value or as several."""
        if torch.compiler.is_compiling():
            if any(_compiled.breaks_graph(value) for value in tree_flatten(inputs)[0]):
                return self._forward_eagerly(*inputs)
        # v2 says not to override this. But most calls bring one image and nothing else, and for 32 × 32 pixels the way
        # through pytrees and a plan of tensors takes several times as long as the pixels. The result is the same. A
        # subclass may have overridden what the general way calls.
        elif len(inputs) == 1 and _is_one_image(inputs[0]) and type(self) is FasterAutoAugment:
            (image,), fill = inputs, self.fill
            if self.epilogue is None and (type(fill) is int or not isinstance(fill, Mapping)):
                return apply_one(image, self.policy.sample_one(self._seeded_generator()), self.interpolation, fill)
        return super().forward(*inputs)

    @torch.compiler.disable(reason="the sample should have plain tensors that require no gradient")
    def _forward_eagerly(self, *inputs: Any) -> Any:
        return super().forward(*inputs)

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Raise TypeError if the sample has no image."""
        images = (tv_tensors.Image, tv_tensors.Video, Image.Image)
        if not any(isinstance(value, images) or is_pure_tensor(value) for value in flat_inputs):
            found = ", ".join(sorted({type(value).__name__ for value in flat_inputs})) or "nothing"
            raise TypeError(f"the sample should have an image (a PIL image or a tensor), but has only {found}")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the plan that the images and targets of one sample share."""
        images = [value for value in flat_inputs if not isinstance(value, _targets.TARGETS)]
        counts = sorted({_count(image) for image in images})
        if len([count for count in counts if count != 1]) > 1:
            raise ValueError(
                "the images of one sample share their draws, so there should be as many in each batch, or one, "
                f"but got batches of {', '.join(map(str, counts))} images"
            )
        if len(images) < len(flat_inputs):
            targets = [value for value in flat_inputs if isinstance(value, _targets.TARGETS)]
            _targets.check(targets, images, counts[-1])
        if torch.compiler.is_compiling():
            return {"plan": _compiled.draw(self._handle, counts[-1], self.policy.stages)}
        return {"plan": self._draw(counts[-1])}

    def _draw(self, count: int) -> Plan:
        return self.policy.sample(count, generator=self._seeded_generator())

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply the plan to one of the images, or move one of the targets along."""
        fill = self._fill_of(inpt)
        if isinstance(inpt, _targets.TARGETS):
            return _targets.transform(inpt, params["plan"], fill)
        plan = params["plan"]
        if len(plan) != _count(inpt):
            plan = plan[: _count(inpt)]
        if isinstance(inpt, tv_tensors.Video):
            plan = _plan_of_frames(plan, inpt.shape[-4])
        if torch.compiler.is_compiling():
            result = _compiled.apply(inpt, plan, interpolation=self.interpolation.value, fill=fill_values(fill))
            result = result if self.epilogue is None else self.epilogue(result)
        else:
            result = apply(inpt, plan, interpolation=self.interpolation, fill=fill, epilogue=self.epilogue)
        return tv_tensors.wrap(result, like=inpt) if isinstance(inpt, tv_tensors.TVTensor) else result

    def _fill_of(self, inpt: Any) -> Fill:
        """The fill of its type, as torchvision looks it up; but a mask takes none that is not meant for masks."""
        if isinstance(self.fill, Mapping):
            kind = Image.Image if isinstance(inpt, Image.Image) else type(inpt)
            return self.fill.get(kind, self.fill.get("others", 0))
        return 0 if isinstance(inpt, tv_tensors.Mask) else self.fill

    def extra_repr(self) -> str:
        """What the repr shows."""
        return (
            f"policy={self.policy.name!r}, sub_policies={len(self.policy)}, stages={self.policy.stages}, "
            f"interpolation={self.interpolation.value}, fill={self.fill}"
        )

    def __prepare_scriptable__(self) -> NoReturn:
        raise RuntimeError(
            f"{type(self).__name__} cannot be scripted: what it draws decides what it runs; torch.compile takes it"
        )

    def _seeded_generator(self) -> torch.Generator | None:
        if self.generator is None:
            return None
        worker = get_worker_info()
        if worker is not None and worker.seed != self._worker_seed:
            # All workers hold the same copy and draw the same number here; their seeds differ, also between epochs.
            shared = torch.randint(2**63 - 1, (), generator=self.generator, device=self.generator.device)
            # Not their exclusive or: seeded alike, as with one torch.manual_seed for both, they would cancel.
            self.generator.manual_seed((int(shared) * _ODD + worker.seed) % 2**63)
            self._worker_seed = worker.seed
        return self.generator

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self.generator is not None:
            # A Generator can be pickled, but its state is a tensor, which would travel to a worker through shared
            # memory, and where workers are spawned that ends in "unable to resize file" (still so in PyTorch 2.15).
            state["generator"] = str(self.generator.device), self.generator.get_state().numpy().tobytes()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["generator"] is not None:
            device, data = state["generator"]
            generator = torch.Generator(device)
            generator.set_state(torch.frombuffer(bytearray(data), dtype=torch.uint8))
            state = {**state, "generator": generator}
        super().__setstate__(state)
        self._handle = _compiled.register(self)


def _is_one_image(value: Any) -> bool:
    """Whether it is a PIL image of 8 bits or a uint8 tensor [C, H, W] on the CPU, with at least one pixel."""
    if type(value) is not Tensor:
        if isinstance(value, Image.Image):
            return value.mode != "I;16"
        if type(value) is not tv_tensors.Image:
            return False
        value = value.as_subclass(Tensor)  # whose attributes are faster to look at
    return value.dtype is torch.uint8 and value.ndim == 3 and value.is_cpu and value.numel() > 0


def _count(image: Tensor | Image.Image) -> int:
    """How many draws an image of the sample takes: one for each leading index."""
    return math.prod(_targets.leading(image))


def _plan_of_frames(plan: Plan, frames: int) -> Plan:
    """The plan of the frames [N T] of videos with the plan [N]; a frame's partner is the same frame of the partner."""
    partner = plan.partner if len(plan) > 1 else torch.zeros_like(plan.partner)
    names = ("operation", "parameter", "applied", "centre", "sub_policy")
    repeated = {name: getattr(plan, name).repeat_interleave(frames, 0) for name in names}
    frame = torch.arange(frames, device=partner.device).repeat(len(plan))[:, None]
    return replace(plan, **repeated, partner=partner.repeat_interleave(frames, 0) * frames + frame)
