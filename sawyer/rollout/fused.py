"""The forward pass of a Llama-shaped decoder with as few operations as it needs, for generation.

At one token a sequence, a decoder of transformers spends as long between its matrix products as in them. Here queries,
keys and values are one product, gate and up another, norms and rotary embedding take few passes, and the residual
stream stays in float32. The fused weights are the model's own: its parameters become views of them, so that nothing is
held twice and an update in place needs no refresh.

`fuse(model)` recognises by structure (RMSNorm before attention and before a gated SiLU MLP, rotary positions: Llama,
Mistral, Qwen2, Qwen3, SmolLM and their like) and then compares with the model's own forward on a probe. Anything else
is left to the model.

Legend: N tokens, W hidden width, H query heads, J key-value heads, D head size, F inner width of the MLP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sawyer.models.lean import is_rms_norm, norm_eps
from sawyer.rollout.kv_cache import KVCache, Span

_PROBE = (5, 3, 11, 7, 2, 13, 4)
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.2, torch.float16: 0.05}


class FusedLinear:
    """Linear layers with one input, as one product; the weights and biases of the layers are views of it."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        self.layers = layers
        self.weight: torch.Tensor | None = None
        self.bias: torch.Tensor | None = None

    @torch.no_grad()
    def link(self) -> None:
        """Make the layers' parameters views of the fused ones, where they are not yet."""
        self.weight = _joined([layer.weight for layer in self.layers], self.weight)
        if self.layers[0].bias is not None:
            self.bias = _joined([layer.bias for layer in self.layers], self.bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        assert self.weight is not None, "link() comes first"
        return F.linear(x, self.weight, self.bias)


def _joined(parts: Sequence[torch.Tensor], whole: torch.Tensor | None) -> torch.Tensor:
    """The tensor whose rows the parts are, one after the other: `whole` if that is so already, else a new one."""
    if whole is not None and whole.dtype == parts[0].dtype:
        views = whole.split([len(part) for part in parts])
        if all(part.data_ptr() == view.data_ptr() for part, view in zip(parts, views, strict=True)):
            return whole
    whole = torch.cat([part.data for part in parts])
    for part, view in zip(parts, whole.split([len(part) for part in parts]), strict=True):
        part.data = view
    return whole


@dataclass(frozen=True)
class _Layer:
    index: int
    scaling: float
    attention_norm: nn.Module
    qkv: FusedLinear
    head_norms: tuple[nn.Module, nn.Module] | None  # of queries and keys (Qwen3)
    out: nn.Linear
    mlp_norm: nn.Module
    gate_up: FusedLinear
    down: nn.Linear


class FusedDecoder:
    """The backbone of a decoder, over the engine's cache."""

    def __init__(self, backbone: Any, layers: list[_Layer]) -> None:
        self.backbone = backbone
        self.layers = layers
        config = backbone.config
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_size = layers[0].qkv.layers[0].out_features // self.heads

    def link(self) -> None:
        """See `FusedLinear.link`; to be called when somebody may have replaced the model's weights."""
        for layer in self.layers:
            layer.qkv.link()
            layer.gate_up.link()

    def __call__(self, ids_B_T: torch.Tensor, position_B_T: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """The hidden states after the final norm, `[B, T, W]` in the type of the weights."""
        batch, length = ids_B_T.shape
        embedded = self.backbone.embed_tokens(ids_B_T)
        dtype, wide = embedded.dtype, embedded.float()
        cos_sin = self.backbone.rotary_emb(wide, position_ids=position_B_T)
        cos_N_1_D, sin_N_1_D = (x.reshape(batch * length, 1, -1) for x in cos_sin)
        half = self.head_size // 2
        turn_N_1_D = torch.cat([-sin_N_1_D[..., :half], sin_N_1_D[..., half:]], -1)
        stream_N_W = wide.reshape(batch * length, -1)
        rotated = self.heads + self.kv_heads

        for layer in self.layers:
            normed = _rms_norm(stream_N_W, layer.attention_norm).to(dtype)
            heads_N_H_D = layer.qkv(normed).view(batch * length, -1, self.head_size)
            qk = heads_N_H_D[:, :rotated]
            if layer.head_norms is not None:
                norms = zip(qk.split([self.heads, self.kv_heads], 1), layer.head_norms, strict=True)
                qk = torch.cat([_rms_norm(part.float(), norm).to(dtype) for part, norm in norms], 1)
            qk = (qk * cos_N_1_D).addcmul_(qk.roll(half, -1), turn_N_1_D).to(dtype)
            query, key, value = (
                x.view(batch, length, -1, self.head_size).transpose(1, 2)
                for x in (qk[:, : self.heads], qk[:, self.heads :], heads_N_H_D[:, rotated:])
            )
            seen = cache.attend(layer.index, query, key, value, layer.scaling, None, None)
            stream_N_W += layer.out(seen.transpose(1, 2).reshape(batch * length, -1))
            gate_N_F, up_N_F = layer.gate_up(_rms_norm(stream_N_W, layer.mlp_norm).to(dtype)).chunk(2, -1)
            stream_N_W += layer.down(F.silu(gate_N_F).mul_(up_N_F))
        return _rms_norm(stream_N_W, self.backbone.norm).to(dtype).view(batch, length, -1)


def _rms_norm(x: torch.Tensor, norm: Any) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * w over the last dimension, in float32 (Zhang & Sennrich 2019)."""
    size = x.shape[-1]
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(size).add_(norm_eps(norm)).rsqrt_()
    return (x * scale).mul_(norm.weight)


def fuse(model: Any, own: Callable[[torch.Tensor, torch.Tensor, KVCache], torch.Tensor]) -> FusedDecoder | None:
    """A `FusedDecoder` of a causal language model, or None where its layers are not of the known shape.

    Args:
        own: the model's own forward, to compare with.
    """
    backbone = model.base_model
    layers = [_layer(i, layer) for i, layer in enumerate(getattr(backbone, "layers", ()))]
    config = backbone.config
    whole = {"embed_tokens", "rotary_emb", "norm"} <= backbone._modules.keys() and is_rms_norm(backbone.norm)
    if not whole or not layers or None in layers or getattr(config, "sliding_window", None):
        return None
    fused = FusedDecoder(backbone, layers)  # type: ignore[arg-type]  # no None among them
    device = model.get_output_embeddings().weight.device
    ids = torch.tensor([_PROBE], device=device) % config.vocab_size
    positions = torch.arange(len(_PROBE), device=device)[None]

    def run(forward: Callable[..., torch.Tensor]) -> torch.Tensor:
        cache = KVCache(1, len(_PROBE))
        cache.plan_prefill([Span(0, len(_PROBE), (0,))])
        return forward(ids, positions, cache).float()

    expected = run(own)
    fused.link()
    error = (run(fused) - expected).norm() / expected.norm()
    return fused if float(error) < _TOLERANCE.get(model.dtype, 0.0) else None


def _layer(index: int, layer: Any) -> _Layer | None:
    """The parts of one decoder layer, or None if it is of another shape."""
    if {*layer._modules} != {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}:
        return None
    attention, mlp = layer.self_attn, layer.mlp
    names = {name for name, module in attention._modules.items() if module is not None}
    head_norms = {"q_norm", "k_norm"} & names
    if names - head_norms != {"q_proj", "k_proj", "v_proj", "o_proj"} or len(head_norms) == 1:
        return None
    if {*mlp._modules} != {"gate_proj", "up_proj", "down_proj", "act_fn"} or "SiLU" not in type(mlp.act_fn).__name__:
        return None
    norms = [layer.input_layernorm, layer.post_attention_layernorm, *(getattr(attention, n) for n in head_norms)]
    if not all(map(is_rms_norm, norms)):
        return None
    together = [attention.q_proj, attention.k_proj, attention.v_proj], [mlp.gate_proj, mlp.up_proj]
    for linears in together:
        if any(type(linear) is not nn.Linear for linear in linears) or len({x.bias is None for x in linears}) > 1:
            return None
    return _Layer(
        index=index,
        scaling=attention.scaling,
        attention_norm=layer.input_layernorm,
        qkv=FusedLinear(together[0]),
        head_norms=(attention.q_norm, attention.k_norm) if head_norms else None,
        out=attention.o_proj,
        mlp_norm=layer.post_attention_layernorm,
        gate_up=FusedLinear(together[1]),
        down=mlp.down_proj,
    )
