"""Two building blocks of nearly every decoder with hand-written backwards: fewer passes over memory, less of it kept.

transformers composes RMSNorm and the gated MLP of elementary operations, and autograd keeps every intermediate: for
each token and norm two or three float32 copies of the hidden state, for each MLP four tensors of its inner width. On a
CPU these passes cost as much as the matrix products. Here each block keeps its inputs and recomputes the rest.

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
    return self.down_proj(_GatedSiLU.apply(self.gate_proj(hidden), self.up_proj(hidden)))


@torch.no_grad()
def _same(module: nn.Module, fresh: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    """Whether both forwards give the same on a probe."""
    parameter = next(module.parameters())
    width = parameter.shape[-1]  # of a norm's weight or of the first projection: what goes in
    probe = torch.linspace(-2, 3, 3 * width, device=parameter.device).view(1, 3, -1).to(parameter.dtype)
    own, ours = module(probe), fresh(probe)
    tolerance = TOLERANCE if parameter.dtype == torch.float32 else 0.05
    return own.dtype == ours.dtype and torch.allclose(own, ours, rtol=tolerance, atol=tolerance)


class _RMSNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * w, computed in float32 (Zhang & Sennrich 2019, equation 4).

    The result has the weight's type, so that it fits the linear layer behind it whatever the residual stream is.
    """

    @staticmethod
    def forward(ctx, x, weight, eps):
        full = x.float()
        scale = torch.linalg.vector_norm(full, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (full * scale).mul_(weight.float()).to(weight.dtype)

    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        w = weight.float()
        normed = x.float() * scale
        grad = grad.float()
        product = grad * normed
        grad_w = product.flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        inner = (product @ w).div_(x.shape[-1]).unsqueeze(-1)
        return torch.mul(grad, w, out=product).addcmul_(normed, inner, value=-1).mul_(scale).to(x.dtype), grad_w, None


class _GatedSiLU(torch.autograd.Function):
    """silu(gate) * up (Shazeer 2020), keeping only its two inputs."""

    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, grad):
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)
