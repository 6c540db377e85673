"""Convolution and batch norm whose second derivatives are written out, for the gradient penalty.

PyTorch differentiates the backward pass of a convolution by a convolution that takes the batch for channels. It
differentiates the backward pass of batch norm operation by operation. Both are several times slower than closed
formulas, most of all in channels-last. `speed_up` gives the layers of any network these formulas. Values are those of
PyTorch up to rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

Options = tuple[Any, ...]  # stride, padding, dilation, transposed, output padding, groups

_inputs_only: ContextVar[bool] = ContextVar("inputs_only", default=False)


@contextmanager
def inputs_only() -> Iterator[None]:
    """Within it, a backward pass leaves out the gradients of weights.

    The slope of a critic needs none, and a `torch.autograd.Function` cannot see that nobody asked for them.
    """
    token = _inputs_only.set(True)
    try:
        # The threads on which a backward pass runs for an accelerator do not see this thread's context variables.
        with torch.autograd.set_multithreading_enabled(False):
            yield
    finally:
        _inputs_only.reset(token)


def speed_up(network: nn.Module) -> nn.Module:
    """Give the convolutions and batch norms of ``network`` closed-form second derivatives, in place.

    Only layers that are exactly `torch.nn.Conv2d` (zero padding given in numbers) or `torch.nn.BatchNorm2d` (affine,
    with a momentum) change; parameters, buffers and state dict stay as they are.

    Example:
        >>> network = speed_up(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
        >>> type(network[0]).__name__, network(torch.rand(2, 3, 8, 8)).shape
        ('SecondOrderConv2d', torch.Size([2, 8, 6, 6]))
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.__class__ = SecondOrderConv2d
        elif type(module) is nn.BatchNorm2d and module.affine and module.momentum is not None:
            module.__class__ = SecondOrderBatchNorm2d
    return network


# --- convolution ------------------------------------------------------------------------------------------------------


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, options: Options) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.options, ctx.has_bias = options, bias is not None
        return torch.ops.aten.convolution(x, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_weights = not _inputs_only.get()
        needs = (
            ctx.needs_input_grad[0],
            of_weights and ctx.needs_input_grad[1],
            of_weights and ctx.has_bias and ctx.needs_input_grad[2],
        )
        return *_ConvolutionBackward.apply(grads[0], x, weight, ctx.options, needs), None


class _ConvolutionBackward(torch.autograd.Function):
    """(grad of output, x, weight) -> (grad of x, grad of weight, grad of bias)."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, options: Options, needs: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(grad, weight)
        ctx.options, ctx.needs = options, needs
        ctx.set_materialize_grads(False)
        return _convolution_backward(grad, x, weight, options, needs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        of_x, of_weight, of_bias = grads
        if of_weight is not None or of_bias is not None:
            raise RuntimeError("second derivatives through the gradient of a convolution's weights are not implemented")
        if of_x is None:
            return None, None, None, None, None
        grad, weight = ctx.saved_tensors
        # The gradient of x is linear in the grad of the output and in the weights: its adjoints are a convolution of
        # the incoming gradient, and the weight gradient that this gradient has in the place of x.
        of_grad = torch.ops.aten.convolution(of_x, weight, None, *ctx.options) if ctx.needs_input_grad[0] else None
        of_weight = (
            _convolution_backward(grad, of_x, weight, ctx.options, (False, True, False))[1]
            if ctx.needs_input_grad[2]
            else None
        )
        return of_grad, None, of_weight, None, None


def _convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, options: Options, needs: tuple[bool, bool, bool]
) -> tuple[Tensor | None, ...]:
    bias_sizes = [weight.shape[0]] if needs[2] else None
    return torch.ops.aten.convolution_backward(grad, x, weight, bias_sizes, *options, list(needs))


class SecondOrderConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with closed-form second derivatives w.r.t. input and weight, of the input's gradient."""

    def forward(self, input: Tensor) -> Tensor:
        """As `torch.nn.Conv2d`."""
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled(input.device.type):
            dtype = torch.get_autocast_dtype(input.device.type)
            input, weight, bias = input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        options = (self.stride, self.padding, self.dilation, False, [0, 0], self.groups)
        return _Convolution.apply(input, weight, bias, options)


# --- batch norm -------------------------------------------------------------------------------------------------------


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, momentum: float, eps: float
    ) -> Tensor:
        output, batch_mean, scale = torch.native_batch_norm(x, weight, bias, mean, var, True, momentum, eps)
        ctx.save_for_backward(x, weight, batch_mean, scale)
        ctx.eps = eps
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        return *_BatchNormBackward.apply(grads[0], x, weight, mean, scale, ctx.eps), None, None, None, None


class _BatchNormBackward(torch.autograd.Function):
    """(grad of output, x, weight) -> (grad of x, grad of weight, grad of bias).

    With y the normalised x, r = 1 / deviation, M values a channel, g the incoming grad: grad of weight Σ g y, grad of
    bias Σ g, grad of x = weight r (g - Σ g / M - y Σ g y / M).
    """

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, eps: float
    ) -> tuple[Tensor, ...]:
        results = _batch_norm_backward(grad, x, weight, mean, scale, eps)
        ctx.save_for_backward(grad, x, weight, mean, scale, *results[1:])
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        v, of_weight, of_bias = grads
        if of_weight is not None or of_bias is not None:
            raise RuntimeError("second derivatives through the gradient of batch norm's weights are not implemented")
        if v is None:
            return None, None, None, None, None, None
        g, x, weight, mean, r, g_y, g_1 = ctx.saved_tensors  # g_y = Σ g y, g_1 = Σ g
        # The gradient of x is self-adjoint in g, so the gradient w.r.t. g is the backward pass itself, applied to v.
        of_g, v_y, v_1 = _batch_norm_backward(v, x, weight, mean, r, ctx.eps)
        count = x.numel() / x.shape[1]
        v_g = (v * g).sum((0, 2, 3), dtype=r.dtype)
        of_x, of_weight = _second_derivatives(v, g, x, weight, mean, r, (v_y, v_1, g_y, g_1, v_g), count)
        return of_g, of_x, of_weight, None, None, None


def _second_derivatives(
    v: Tensor, g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, r: Tensor, sums: tuple[Tensor, ...], count: float
) -> tuple[Tensor, Tensor]:
    """Gradients of Σ v (grad of x) w.r.t. x and weight, with grad of x as in `_BatchNormBackward`.

    Args:
        v: [B, C, H, W], what comes in for the grad of x.
        g: [B, C, H, W], the grad of the output.
        x: [B, C, H, W].
        weight: [C].
        mean: [C].
        r: [C], 1 / deviation.
        sums: each [C]: Σ v y, Σ v, Σ g y, Σ g, Σ v g.
        count: values a channel.
    """
    v_y, v_1, g_y, g_1, v_g = sums
    inner = v_g - (v_1 * g_1 + v_y * g_y) / count
    # d/dx of Σ weight r inner: through r, and through y with the mean and the y-component of v g_y + g v_y taken out.
    factor = -weight.to(r.dtype) * r * r / count
    of_y = factor * (inner - 2 * v_y * g_y / count)
    constant = -factor * (v_1 * g_y + g_1 * v_y) / count - of_y * r * mean
    of_x = torch.addcmul(_channel(constant, x), v, _channel(factor * g_y, x))
    of_x = of_x.addcmul_(g, _channel(factor * v_y, x)).addcmul_(x, _channel(of_y * r, x))
    return of_x, (r * inner).to(weight.dtype)


def _channel(values: Tensor, like: Tensor) -> Tensor:
    """[C] -> [C, 1, 1], in the dtype of ``like``."""
    return values.to(like.dtype)[:, None, None]


def _batch_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, ...]:
    return torch.ops.aten.native_batch_norm_backward(
        grad, x, weight, None, None, mean, scale, True, eps, [True, True, True]
    )


class SecondOrderBatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` with closed-form second derivatives in training mode."""

    def forward(self, input: Tensor) -> Tensor:
        """As `torch.nn.BatchNorm2d`."""
        if not self.training:
            return super().forward(input)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return _BatchNorm.apply(
            input, self.weight, self.bias, self.running_mean, self.running_var, self.momentum, self.eps
        )
