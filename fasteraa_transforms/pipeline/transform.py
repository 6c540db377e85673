"""The policy as a torchvision transform."""

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn, Self

import torch
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import Transform
from torchvision.transforms.v2.functional import is_pure_tensor

from fasteraa_transforms.backends import apply, apply_one
from fasteraa_transforms.backends.epilogue import Epilogue
from fasteraa_transforms.backends.options import Fill, fill_values, interpolation_mode
from fasteraa_transforms.pipeline import compiled as _compiled
from fasteraa_transforms.pipeline import generators as _generators
from fasteraa_transforms.pipeline import targets as _targets
from fasteraa_transforms.pipeline.checks import InputChecks, seems_channels_last
from fasteraa_transforms.plan import Plan
from fasteraa_transforms.policy import origins
from fasteraa_transforms.policy.policy import Policy


class FasterAutoAugment(Transform):
    """Apply a policy to images. Each image draws a sub-policy of its own.

    A transform of torchvision's v2, which works in ``v2.Compose`` and in v1's ``Compose``. It takes the place of
    AutoAugment: before normalisation. Images are PIL images or tensors, with values in [0, 255] (uint8) or [0, 1]
    (float). The output has the type of the input. `apply` says what happens to which type.

    Images are PIL images or tensors [..., C, H, W], videos are tensors [..., T, C, H, W]. Every leading index has a
    draw of its own. The T frames of a video share one draw.

    A sample may be nested as v2 allows. Its images are PIL images, ``tv_tensors.Image`` and ``tv_tensors.Video``. If it
    has none of these, its first plain tensor is its image (v2's rule). Several images in one sample share their draws,
    so their batches have one size; a single image takes the first draw.

    ``tv_tensors.BoundingBoxes``, ``Mask`` and ``KeyPoints`` of a sample move with the image. With a batch of B images,
    masks and key points have the leading dimensions of the batch. Or they stand in a list with an entry for each image,
    as bounding boxes always do. Labels and everything else pass through.

    Draws come from PyTorch's default generator, or from ``generator``. In a DataLoader, each worker and each epoch
    draws differently in both cases, and `torch.manual_seed` makes it reproducible.

    `torch.compile` takes the transform without a graph break, ``fullgraph=True``, where a sample has plain tensors that
    require no gradient. Other samples break the graph and give the same. `torch.jit.script` refuses it.

    Args:
        policy: the policy; `from_pretrained` takes names and files.
        interpolation: NEAREST or BILINEAR, for shear, translate and rotate.
        fill: value outside of the image, in the image's own range: one number, one for each channel, or None for 0.
            Masks get 0. Or a dict from types of input, such as ``tv_tensors.Mask`` or ``PIL.Image.Image``, to their
            fill; "others" stands for all types that are not named.
        epilogue: scaling, normalisation and conversion of the result, for tensors. On a GPU they cost no extra pass.
        generator: source of the draws, on any device; PyTorch's default generator if None. A copy of the transform has
            a copy of it, with its state.

    Raises:
        TypeError: ``policy`` is no `Policy`, ``fill`` no number or sequence of numbers or dict of these, ``epilogue``
            no `Epilogue`. When called: a sample has no image, or an image has a type that `apply` refuses.
        ValueError: ``interpolation`` is another mode. When called: the images of a sample differ in batch size, targets
            do not fit their images, masks cannot hold their fill, or `apply` raises it.

    Warns:
        UserWarning: once, if the channels of a tensor seem to be its last axis, or if floats lie outside of [0, 1].

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
        self._seeded_for: int | None = None  # seed of the DataLoader worker that `generator` was seeded for
        self._checks = InputChecks()
        self._number = _compiled.register(self)

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """The transform with a policy that comes with the package, or with one from a file or a URL.

        Args:
            name_or_path: name of a policy in the package, as `list_policies` lists them; path of a policy file;
                ``https://…``; or ``hf://owner/name[/file][@revision]``, a file of the Hugging Face Hub, "policy.json"
                unless it is named. Policies from elsewhere are kept, at most 16 MiB, and need the extra ``hub``.
            **kwargs: ``interpolation``, ``fill``, ``epilogue`` and ``generator``.

        Raises:
            ImportError: a URL is given, and huggingface_hub is not installed.
            ValueError: no policy has this name, or the URL is of another kind.
            PolicyError: the file cannot be read or is refused.

        Example:
            >>> try:
            ...     FasterAutoAugment.from_pretrained("no such policy")
            ... except ValueError as error:
            ...     print(error)
            unknown policy 'no such policy'; known: ...; or give the path of a policy file
        """
        return cls(origins.find(name_or_path), **kwargs)

    def forward(self, *inputs: Any) -> Any:
        """Transform a sample, given as one value or as several."""
        if torch.compiler.is_compiling():
            return self._forward_compiled(*inputs)
        # v2 says not to override this. But most calls bring one image and nothing else. At 32 × 32 pixels, pytrees and
        # a plan of tensors take several times as long as the pixels. The result is the same. A subclass takes the
        # general way, since it may override a method that only the general way calls.
        if len(inputs) == 1 and type(self) is FasterAutoAugment and self.epilogue is None:
            image, fill = inputs[0], self.fill
            shape = _shape_of_one_image(image)
            if shape is not None and (type(fill) is int or not isinstance(fill, Mapping)):
                if shape and seems_channels_last(shape):
                    self._checks.look(image)
                return apply_one(image, self.policy.sample_one(self._seeded_generator()), self.interpolation, fill)
        return self._forward_generally(*inputs)

    def _forward_generally(self, *inputs: Any) -> Any:
        """As v2's own forward, but targets may stand in a list with an entry for each image of a batch."""
        sample = inputs if len(inputs) > 1 else inputs[0]
        values, structure = tree_flatten(sample)
        self.check_inputs(values)
        chosen = self._needs_transform_list(values)
        images = [value for value, is_chosen in zip(values, chosen, strict=True) if is_chosen and not _is_target(value)]
        count = max(map(_count, images), default=1)
        rows = _targets.rows(sample, count) if count > 1 and any(map(_is_target, values)) else [None] * len(values)
        _targets.check([value for value, row in zip(values, rows, strict=True) if row is not None], images, 1)
        together = [
            value for value, is_chosen, row in zip(values, chosen, rows, strict=True) if is_chosen and row is None
        ]
        params = self.make_params(together)
        for index, (value, row) in enumerate(zip(values, rows, strict=True)):
            if chosen[index]:
                its_params = params if row is None else {**params, "plan": params["plan"][row]}
                values[index] = self.transform(value, its_params)
        return tree_unflatten(values, structure)

    def _forward_compiled(self, *inputs: Any) -> Any:
        values, structure = tree_flatten(inputs if len(inputs) > 1 else inputs[0])
        chosen = self._needs_transform_list(values)
        if sum(chosen) != 1 or any(_compiled.breaks_graph(value) for value in values):
            return self._forward_eagerly(*inputs)
        image = chosen.index(True)
        values[image] = _compiled.augment(self._number, values[image], self.epilogue)
        return tree_unflatten(values, structure)

    @_compiled.outside_of_graphs
    def _forward_eagerly(self, *inputs: Any) -> Any:
        return self._forward_generally(*inputs)

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Raise TypeError if the sample has no image."""
        images = (tv_tensors.Image, tv_tensors.Video, Image.Image)
        if not any(isinstance(value, images) or is_pure_tensor(value) for value in flat_inputs):
            found = ", ".join(sorted({type(value).__name__ for value in flat_inputs})) or "nothing"
            raise TypeError(f"the sample should have an image (a PIL image or a tensor), but has only {found}")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the plan that the images and targets of one sample share; {} for no images and no targets."""
        if not flat_inputs:
            return {}
        images = [value for value in flat_inputs if not _is_target(value)]
        targets = [value for value in flat_inputs if _is_target(value)]
        counts = sorted({_count(image) for image in images})
        if not counts:
            raise ValueError("targets should come with the image that they lie on, but got no image")
        if len([count for count in counts if count != 1]) > 1:
            raise ValueError(
                "the images of one sample share their draws, so there should be as many in each batch, or one, "
                f"but got batches of {', '.join(map(str, counts))} images"
            )
        _targets.check(targets, images, counts[-1])
        for image in images:
            if isinstance(image, Tensor):
                self._checks.look(image)
        return {"plan": self._draw(counts[-1])}

    def _draw(self, count: int) -> Plan:
        return self.policy.sample(count, generator=self._seeded_generator())

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply the plan to one of the images, or move one of the targets along."""
        fill = self._fill_of(inpt)
        if _is_target(inpt):
            return _targets.transform(inpt, params["plan"], fill)
        plan = params["plan"]
        if len(plan) != _count(inpt):
            plan = plan[: _count(inpt)]
        if isinstance(inpt, tv_tensors.Video):
            plan = _plan_of_frames(plan, inpt.shape[-4])
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
        if self.generator is not None:
            self._seeded_for = _generators.seed_in_worker(self.generator, self._seeded_for)
        return self.generator

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_number"]
        if self.generator is not None:
            state["generator"] = _generators.packed(self.generator)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["generator"] is not None:
            state = {**state, "generator": _generators.unpacked(state["generator"])}
        super().__setstate__(state)
        self._number = _compiled.register(self)


def _shape_of_one_image(value: Any) -> tuple[int, ...] | None:
    """The shape of a uint8 tensor [C, H, W] on the CPU with at least one pixel; () for a PIL image of 8 bits.

    None for everything else.
    """
    if type(value) is not Tensor:
        if isinstance(value, Image.Image):
            return () if value.mode != "I;16" else None
        if type(value) is not tv_tensors.Image:
            return None
        value = value.as_subclass(Tensor)  # whose attributes are faster to look at
    shape = value.shape
    return shape if len(shape) == 3 and value.dtype is torch.uint8 and value.is_cpu and value.numel() > 0 else None


def _is_target(value: Any) -> bool:
    return isinstance(value, _targets.TARGETS)


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
