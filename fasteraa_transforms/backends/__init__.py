"""A plan applied to images: the one place where plans become pixels.

`apply` checks the options (`options`) and hands the images to a backend: PIL images to the Pillow forms of the
operations, tensors to the first of `BACKENDS` that takes them. Nothing is drawn here; the same images and plan give the
same result every time.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode

from fasteraa_transforms.backends import cpu, device, floats, options
from fasteraa_transforms.backends.epilogue import Epilogue
from fasteraa_transforms.backends.schedule import Step, by_image
from fasteraa_transforms.operations.extras import Extras
from fasteraa_transforms.plan import Plan

__all__ = ["BACKENDS", "Backend", "apply", "apply_one"]

Images = TypeVar("Images", Tensor, Image.Image)


class Backend(NamedTuple):
    """A way to apply a plan to tensors.

    Attributes:
        takes: ``(images, plan) -> bool``, whether it takes images [B, C, H, W] with at least one value.
        run: ``(images, plan, extras, epilogue) -> images`` of the same shape, device and dtype; an epilogue may change
            the dtype. It writes nothing into the images and shares no memory with them. The plan lies on any device and
            fits the images; interpolation and fill in ``extras`` are checked.
    """

    takes: Callable[[Tensor, Plan], bool]
    run: Callable[[Tensor, Plan, Extras, Epilogue | None], Tensor]


BACKENDS = [
    Backend(device.takes, device.run),
    Backend(cpu.takes, cpu.run),
    Backend(floats.takes_uint16, floats.run_uint16),
    Backend(floats.takes, floats.run),
]
"""The backends for tensors. The first that takes the images is the one that runs."""


def apply(
    images: Images,
    plan: Plan,
    *,
    interpolation: InterpolationMode | str | int = InterpolationMode.NEAREST,
    fill: options.Fill = 0,
    epilogue: Epilogue | None = None,
) -> Images:
    """Apply a plan to the images it was drawn for.

    A pure function: nothing is drawn, nothing is written into ``images``, and the result shares no memory with them.
    On uint8 the result is, byte for byte, what Pillow gives, one image at a time. On floats the result is the same
    without the rounding to 8 bits. Gradients flow to ``images``, as `functional` says.

    sample_pairing blends in the *original* partner, ``images[plan.partner]``. Earlier stages do not change the partner.
    An image that is its own partner stays as it is; so does the only image of a batch.

    Args:
        images: one of

            - a PIL image of mode L, LA, RGB, RGBA or I;16, with a plan of one image. Alpha follows geometry only; I;16
              is what a uint16 tensor is;
            - a uint8 tensor [..., C, H, W], with values in [0, 255]. A GPU of NVIDIA's with Triton computes it in a few
              launches, without waiting for the device, if it is at most 16384 pixels high and wide. Any other device
              copies it to the CPU and back;
            - a uint16 tensor [..., C, H, W], with values in [0, 65535]. It is computed as float64 in [0, 1] and rounded
              at the end;
            - a float16, bfloat16, float32 or float64 tensor [..., C, H, W], with values in [0, 1]. It is computed on
              its own device, the two 16-bit types in float32. Every operation takes 0 for NaN and -∞, and 1 for ∞. An
              image to which nothing happens keeps them.

            Any number of channels. Of a subclass of Tensor, the plain tensor is taken.
        plan: one row for each image, leading dimensions flattened; on any device. If plan and images lie on a GPU, the
            values of the plan are not checked. A partner outside of the batch becomes the nearest image in it. An
            operation that does not exist does nothing. A parameter beyond the table of operations may overflow Pillow's
            fixed point.
        interpolation: NEAREST or BILINEAR, for shear, translate and rotate; also their names or Pillow's numbers.
        fill: value outside of the image, one number or one a channel, in the image's own range: [0, 255] for uint8
            and 8-bit PIL images, [0, 65535] for uint16 and I;16 (fractions are dropped), [0, 1] for floats. None is 0.
        epilogue: what follows, on tensors: scaling, normalisation, conversion.

    Returns:
        PIL image of the same mode and size, or plain tensor of the same shape, device and dtype. An epilogue may change
        the dtype.

    Raises:
        TypeError: the type, dtype or mode of ``images``, or the type of ``fill``, is not one of those above; or a PIL
            image is to have an epilogue.
        ValueError: shape, length of the plan, interpolation, or range or length of ``fill`` do not fit; or the plan
            names an operation or a partner that does not exist.

    Example:
        >>> from fasteraa_transforms.policy.policy import Policy
        >>> policy = Policy([[[{"operation": "invert", "weight": 1, "probability": 1}]]])
        >>> apply(torch.full((2, 1, 1, 3), 50, dtype=torch.uint8), policy.sample(2)).tolist()
        [[[[205, 205, 205]]], [[[205, 205, 205]]]]
        >>> apply(Image.new("L", (1, 1), 50), policy.sample(1)).getpixel((0, 0))
        205
    """
    mode, values = options.interpolation_mode(interpolation), options.fill_values(fill)
    if isinstance(images, Image.Image):
        if epilogue is not None:
            raise TypeError("an epilogue needs tensors, but got a PIL image; v2.PILToTensor() makes one of it")
        return _apply_pillow(images, plan, mode, values)
    if not isinstance(images, Tensor):
        raise TypeError(f"images should be a PIL image or a tensor, but got {type(images).__name__} instead")
    return _apply_tensor(images.as_subclass(Tensor), plan, mode, values, epilogue)


def apply_one(
    image: Images, drawn: Sequence[Step], interpolation: InterpolationMode | str | int, fill: options.Fill
) -> Images:
    """`apply` for one image and what `Policy.sample_one` has drawn for it, without making a `Plan` of tensors.

    Args:
        image: PIL image, or uint8 tensor or `tv_tensors.Image` [C, H, W] with at least one pixel, on the CPU.
        drawn: what happens in each stage that is applied.
        interpolation: as `apply` takes it.
        fill: as `apply` takes it.
    """
    mode, values = options.interpolation_mode(interpolation), options.fill_values(fill)
    if isinstance(image, Image.Image):
        options.check_image(image)
        return cpu.pillow_image(image, drawn, options.extras(mode, values, len(image.getbands()), 255))
    extras = options.extras(mode, values, image.shape[0], 255)
    plain = image if type(image) is Tensor else image.as_subclass(Tensor)
    before = np.ascontiguousarray(plain.numpy())[None]
    after = cpu.uint8_image(before, drawn, extras)
    result = torch.from_numpy(before[0].copy() if after is before else after[0])
    return result if plain is image else tv_tensors.wrap(result, like=image)


def _apply_pillow(image: Image.Image, plan: Plan, mode: InterpolationMode, fill: tuple[float, ...]) -> Image.Image:
    options.check_image(image)
    if image.mode == "I;16":
        # Pillow has no color operations for it, and its bilinear sampling mixes up the bytes of its values.
        tensor = _apply_tensor(torch.from_numpy(np.array(image))[None], plan, mode, fill, None)
        return Image.fromarray(tensor[0].numpy())
    _check_length(plan, 1)
    extras = options.extras(mode, fill, len(image.getbands()), 255)
    (steps,) = by_image(plan.to("cpu"))
    return cpu.pillow_image(image, [step for step, _ in steps], extras)


def _apply_tensor(
    images: Tensor, plan: Plan, mode: InterpolationMode, fill: tuple[float, ...], epilogue: Epilogue | None
) -> Tensor:
    options.check_tensor(images)
    _check_length(plan, images.shape[:-3].numel())
    extras = options.extras(mode, fill, images.shape[-3], options.WHITE[images.dtype])
    if images.numel() == 0:
        return images.clone() if epilogue is None else epilogue(images)
    batch = images.reshape(-1, *images.shape[-3:])
    run = next(backend.run for backend in BACKENDS if backend.takes(batch, plan))
    return run(batch, plan, extras, epilogue).reshape(images.shape)


def _check_length(plan: Plan, count: int) -> None:
    if len(plan) != count:
        raise ValueError(f"the plan should have one row for each image, but has {len(plan)} for {count}")
