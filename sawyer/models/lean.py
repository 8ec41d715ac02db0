"""Two building blocks of nearly every decoder with hand-written backwards: fewer passes over memory, less of it kept.

transformers composes RMSNorm and the gated MLP of elementary operations, and autograd keeps every intermediate: for
each token and norm two or three float32 copies of the hidden state, for each MLP four tensors of its inner width, of
which two are needed. On a CPU these passes cost as much as the matrix products. Here a block keeps what its first
products read and made, and recomputes the rest; on a CPU with a C compiler, what is not a product is `native`.

`slim(model)` changes only blocks that it recognises by name and that then give the same numbers as their own forward
on a probe; everything else is left alone. Shapes: T tokens, D hidden size, F inner width of the MLP.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sawyer.models import native

TOLERANCE = 1e-5


def slim(model: nn.Module) -> int:
    """Replace the forwards of recognised blocks in place; returns how many. Weights and names stay as they are."""
    known: dict[tuple, bool] = {}
    replaced = 0
    for module in model.modules():
        function = _lean_forward(module)
        if function is None or "forward" in module.__dict__:
            continue
        fresh = MethodType(function, module)  # a method, so that a deep copy of the model calls its own weights
        kind = (type(module), tuple((name, tuple(p.shape)) for name, p in module.named_parameters(recurse=False)))
        if kind not in known:
            known[kind] = _same(module, fresh)
        if known[kind]:
            module.forward = fresh
            replaced += 1
    return replaced


def _lean_forward(module: nn.Module) -> Callable[[Any, torch.Tensor], torch.Tensor] | None:
    """Our forward for a module that looks like one of the known blocks."""
    if is_rms_norm(module):
        return _norm_forward
    parts = {*module._modules, *module.__dict__}
    if parts >= {"gate_proj", "up_proj", "down_proj", "act_fn"} and "SiLU" in type(module.act_fn).__name__:
        return _mlp_forward
    return None


def is_rms_norm(module: nn.Module) -> bool:
    """Whether a module looks like an RMSNorm; some multiply by 1 + weight, so what takes it for one has to compare."""
    weight = getattr(module, "weight", None)
    plain = isinstance(weight, nn.Parameter) and weight.ndim == 1 and isinstance(norm_eps(module), float)
    return plain and type(module).__name__.endswith("RMSNorm")


def norm_eps(norm: Any) -> Any:
    """The epsilon of an RMSNorm, whichever of its two names it has."""
    return getattr(norm, "variance_epsilon", getattr(norm, "eps", None))


def _norm_forward(self: Any, hidden: torch.Tensor) -> torch.Tensor:
    return _RMSNorm.apply(hidden, self.weight, norm_eps(self))


def takes_float32(model: nn.Module) -> bool:
    """Whether a slim decoder can carry its residual stream in float32 while its weights are bfloat16.

    That needs every layer to read the stream through one of our norms, whose result has the type of their weight, and
    no norm that is not ours. (Sums of a layer's bfloat16 output and a float32 stream are float32 by themselves.)
    """
    norms = [module for module in model.modules() if "Norm" in type(module).__name__]
    ours = {id(norm) for norm in norms if getattr(norm.__dict__.get("forward"), "__func__", None) is _norm_forward}
    layers = getattr(model, "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(ours) < len(norms):
        return False
    return all({"input_layernorm", "post_attention_layernorm"} <= layer._modules.keys() for layer in layers)


def _mlp_forward(self: Any, hidden: torch.Tensor) -> torch.Tensor:
    gate, up, down = self.gate_proj(hidden), self.up_proj(hidden), self.down_proj
    plain = type(down) is nn.Linear and not (down._forward_hooks or down._forward_pre_hooks)
    if plain and gate.dtype == down.weight.dtype and not torch.is_autocast_enabled(hidden.device.type):
        return _GatedSiLU.apply(gate, up, down.weight, down.bias)
    return down(F.silu(gate) * up)  # an adapter on it, say: it has to be called


@torch.no_grad()
def _same(module: nn.Module, fresh: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    """Whether both forwards give the same on a probe."""
    parameter = next(module.parameters())
    width = parameter.shape[-1]  # of a norm's weight or of the first projection: what goes in
    probe = torch.linspace(-2, 3, 3 * width, device=parameter.device).view(1, 3, -1).to(parameter.dtype)
    own, ours = module(probe), fresh(probe)
    tolerance = TOLERANCE if parameter.dtype == torch.float32 else 0.02
    error = (own.float() - ours.float()).norm() / own.float().norm()  # of the whole: a sum may cancel in single numbers
    return own.dtype == ours.dtype and bool(error <= tolerance)


class _RMSNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * w, computed in float32 (Zhang & Sennrich 2019, equation 4).

    The result has the weight's type, so that it fits the linear layer behind it whatever the residual stream is.
    """

    @staticmethod
    def forward(ctx, x, weight, eps):
        ctx.c = native.usable(weight) if x.dtype == torch.float32 and x.is_contiguous() else None
        if ctx.c is not None:
            out, scale = native.rms_norm(ctx.c, x.flatten(0, -2), weight, eps)
            ctx.save_for_backward(x, weight, scale)
            return out.view(x.shape)
        full = x.float()
        scale = torch.linalg.vector_norm(full, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (full * scale).mul_(weight.float()).to(weight.dtype)

    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        if ctx.c is not None:
            flat = grad.contiguous().flatten(0, -2)
            grad_x, sums = native.rms_norm_backward(ctx.c, flat, x.flatten(0, -2), weight, scale)
            return grad_x.view(x.shape), sums.to(weight.dtype) if ctx.needs_input_grad[1] else None, None
        w = weight.float()
        normed = x.float() * scale
        grad = grad.float()
        product = grad * normed
        grad_w = product.flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        inner = (product @ w).div_(x.shape[-1]).unsqueeze(-1)
        return torch.mul(grad, w, out=product).addcmul_(normed, inner, value=-1).mul_(scale).to(x.dtype), grad_w, None


class _GatedSiLU(torch.autograd.Function):
    """down(silu(gate) * up) (Shazeer 2020), keeping gate and up but not their product."""

    @staticmethod
    def forward(ctx, gate, up, weight, bias):
        ctx.save_for_backward(gate, up, weight)
        ctx.c = native.usable(gate, up)
        if ctx.c is not None:
            return F.linear(
                native.gated_silu(ctx.c, gate.flatten(0, -2), up.flatten(0, -2)).view_as(gate), weight, bias
            )
        return F.linear(F.silu(gate).mul_(up), weight, bias)

    @staticmethod
    def backward(ctx, grad):
        gate, up, weight = ctx.saved_tensors
        if ctx.c is not None:
            return _gated_silu_backward(ctx, grad.flatten(0, -2), gate, up, weight)
        opened = F.silu(gate)
        flat = grad.flatten(0, -2)
        grad_weight = flat.t() @ (opened * up).flatten(0, -2) if ctx.needs_input_grad[2] else None
        grad_bias = flat.sum(0) if ctx.needs_input_grad[3] else None
        inner = grad @ weight
        return torch.ops.aten.silu_backward(inner * up, gate), opened.mul_(inner), grad_weight, grad_bias


def _gated_silu_backward(ctx, grad_N_D, gate, up, weight):
    """What `_GatedSiLU.backward` returns, in C."""
    gate_N_F, up_N_F = gate.flatten(0, -2), up.flatten(0, -2)
    grad_weight = None
    if ctx.needs_input_grad[2]:
        grad_weight = grad_N_D.t() @ native.gated_silu(ctx.c, gate_N_F, up_N_F)
    grad_bias = grad_N_D.sum(0) if ctx.needs_input_grad[3] else None
    grad_up = grad_N_D @ weight  # of the product, until the next line
    grad_gate = native.gated_silu_backward(ctx.c, gate_N_F, up_N_F, grad_up)
    return grad_gate.view_as(gate), grad_up.view_as(up), grad_weight, grad_bias
