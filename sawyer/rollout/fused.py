"""The forward pass of a Llama-shaped decoder with as few operations as it needs, for generation.

At one token a sequence, a decoder of transformers spends as long between its matrix products as in them. Here queries,
keys and values are one product, gate and up another, and what lies between is `decode_ops`, in C where that can be had.
The residual stream stays in float32. The fused weights are the model's own: its parameters become views of them, so
that nothing is held twice and an update in place needs no refresh. A model that is the engine's alone may be packed.

`fuse(model)` recognises by structure (RMSNorm before attention and before a gated SiLU MLP, all layers rotated alike:
Llama, Mistral, Qwen2, Qwen3, SmolLM2 and their like) and then compares with the model's own forward on a probe: in
float32, whatever the type of the weights, and at positions over the whole context. Anything else is left to the model.

Legend: N tokens, W hidden width, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sawyer.models import native
from sawyer.models.lean import is_rms_norm
from sawyer.rollout.decode_ops import Attention, Ops, TorchOps
from sawyer.rollout.kv_cache import KVCache, Span, context
from sawyer.rollout.native_ops import NativeOps

_ROWS = 16
_COLUMNS = 128  # beyond that, what turns them into rows misses the cache
_PROBE = (5, 3, 11, 7, 2, 13, 4)
_CONTEXT = 4096  # of a model that names none
_EXACT = 1e-4  # relative, in float32
_ROUNDED = {torch.float32: _EXACT, torch.bfloat16: 0.2, torch.float16: 0.05}
"""By type of the weights: how far rounding may lead from float32."""


class FusedLinear:
    """Linear layers with one input, as one product.

    First the weights and biases of the layers are views of its own (`link`). `pack` hands the weights over to oneDNN's
    own layout, in which a product does not rearrange them every time: a third faster for few rows. The layers then keep
    their names and shapes and nothing else.
    """

    def __init__(self, layers: list[nn.Linear]) -> None:
        self.layers = layers
        self.weight: torch.Tensor | None = None
        self.bias: torch.Tensor | None = None
        self.packed: torch.Tensor | None = None

    @property
    def width(self) -> int:
        """How many numbers come out."""
        return sum(layer.out_features for layer in self.layers)

    @torch.no_grad()
    def link(self) -> None:
        """Make the layers' parameters views of the fused ones, where they are not yet."""
        if self.packed is None:
            self.weight = _joined([layer.weight for layer in self.layers], self.weight)
        if self.layers[0].bias is not None:
            self.bias = _joined([layer.bias for layer in self.layers], self.bias)

    def pack(self) -> None:
        """Give the weights up for packed ones (see the class)."""
        assert self.weight is not None, "link() comes first"
        self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, None)
        self.weight = None
        for layer in self.layers:
            layer.weight = nn.Parameter(layer.weight.to("meta"), requires_grad=False)

    def load(self, weights: Sequence[torch.Tensor]) -> None:
        """Take new weights of the layers, if the weights are packed; views need no telling."""
        if self.packed is not None:
            joined = torch.cat([weight.detach().to("cpu", self.packed.dtype) for weight in weights])
            self.packed = torch.ops.mkldnn._reorder_linear_weight(joined, None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.packed is not None:
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        assert self.weight is not None, "link() comes first"
        if x.dtype != self.weight.dtype:  # the probe, in float32
            return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))
        return F.linear(x, self.weight, self.bias)


class LeftHead:
    """The language model's head as weights times hidden states, rather than hidden states times weights.

    oneDNN rearranges the right side of a product. The weights of a head are many and are the embedding's too, so that
    a packed copy of them would be memory; on the left they stay as they are, and it is no slower. Its columns are then
    turned into rows.
    """

    def __init__(self, head: nn.Linear, functions: Any) -> None:
        """
        Args:
            functions: `native.library(...)` of the weights' type.
        """
        self.head = head
        self._c = functions

    def __call__(self, hidden_N_D: torch.Tensor) -> torch.Tensor:
        rows, weight, bias = len(hidden_N_D), self.head.weight, self.head.bias
        hidden_N_D = F.pad(hidden_N_D, (0, 0, 0, -rows % _ROWS))  # a product with one vector is slower than with 16
        parts = [native.transposed(self._c, weight @ part.T) for part in hidden_N_D.split(_COLUMNS)]
        logits_N_V = (parts[0] if len(parts) == 1 else torch.cat(parts))[:rows]
        return logits_N_V if bias is None else logits_N_V + bias


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `FusedLinear.pack` works and pays: in bfloat16 on a CPU that has instructions for it."""
    mkldnn = torch.ops.mkldnn
    known = hasattr(mkldnn, "_reorder_linear_weight") and hasattr(mkldnn, "_linear_pointwise")
    if dtype != torch.bfloat16 or device.type != "cpu" or not known or not mkldnn._is_mkldnn_bf16_supported():
        return False
    weight = torch.arange(8.0 * 32).sin().view(8, 32).to(dtype)  # no random numbers: they would move everybody's
    x = torch.arange(3.0 * 32).cos().view(3, 32).to(dtype)
    packed = mkldnn._reorder_linear_weight(weight, None)
    found = mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    return bool(torch.allclose(found.float(), F.linear(x, weight).float(), atol=0.05, rtol=0.02))


def filled(x_N_D: torch.Tensor) -> torch.Tensor:
    """Rows of zeros added up to a multiple of 16. oneDNN compiles and keeps a kernel for every number of rows that it
    meets, and a batch that shrinks has them all; up to 16 rows are left as they are, since few are generated at once.
    """
    rows = len(x_N_D)
    return F.pad(x_N_D, (0, 0, 0, -rows % _ROWS)) if rows > _ROWS else x_N_D


def _joined(parts: Sequence[torch.Tensor], whole: torch.Tensor | None) -> torch.Tensor:
    """The tensor whose rows the parts are, one after the other: `whole` if that is so already, else a new one."""
    if len(parts) == 1:
        return parts[0].data
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
    attention_norm: nn.Module
    qkv: FusedLinear
    head_norms: tuple[nn.Module, nn.Module] | None
    out: FusedLinear
    mlp_norm: nn.Module
    gate_up: FusedLinear
    down: FusedLinear


class FusedDecoder:
    """The backbone of a decoder, over the engine's cache."""

    def __init__(self, backbone: Any, layers: list[_Layer], attentions: list[Attention], ops: Ops) -> None:
        self.backbone = backbone
        self.layers = layers
        self.attentions = attentions
        self.ops = ops
        self.linears = [x for layer in layers for x in (layer.qkv, layer.out, layer.gate_up, layer.down)]

    def link(self) -> None:
        """See `FusedLinear.link`; to be called when somebody may have replaced the model's weights."""
        for linear in self.linears:
            linear.link()

    def pack(self) -> None:
        """See `FusedLinear.pack`; nothing else can run the model afterwards."""
        for linear in self.linears:
            linear.pack()

    def load(self, weight_of: Callable[[nn.Linear], torch.Tensor]) -> None:
        """Take new weights, where they are packed."""
        for linear in self.linears:
            linear.load([weight_of(layer) for layer in linear.layers])

    def __call__(self, ids_B_T: torch.Tensor, position_B_T: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """The hidden states after the final norm, `[B, T, W]` in the type of the weights."""
        ops = self.ops
        wide_B_T_W = self.backbone.embed_tokens(ids_B_T).float()
        cos_N_D, sin_N_D = (
            x.flatten(0, 1).contiguous() for x in self.backbone.rotary_emb(wide_B_T_W, position_ids=position_B_T)
        )
        stream_N_W = wide_B_T_W.flatten(0, 1)
        rows = len(stream_N_W)
        if cache.decoding:
            stream_N_W = filled(stream_N_W)
        added_N_W = None
        for layer, attention in zip(self.layers, self.attentions, strict=True):
            normed_N_W = ops.add_norm(stream_N_W, added_N_W, layer.attention_norm)
            seen = ops.attend(layer.qkv(normed_N_W), cos_N_D, sin_N_D, attention, cache)
            normed_N_W = ops.add_norm(stream_N_W, layer.out(seen), layer.mlp_norm)
            added_N_W = layer.down(ops.gated_silu(layer.gate_up(normed_N_W)))
        return ops.add_norm(stream_N_W, added_N_W, self.backbone.norm)[:rows].view(wide_B_T_W.shape)


def fuse(model: Any, own: Callable[[torch.Tensor, torch.Tensor, KVCache], torch.Tensor]) -> FusedDecoder | None:
    """A `FusedDecoder` of a causal language model, or None where its layers are not of the known shape.

    Args:
        own: the model's own forward, to compare with.
    """
    backbone = model.base_model
    parts = [_layer(layer) for layer in getattr(backbone, "layers", ())]
    layers = [layer for layer in parts if layer is not None]
    whole = {"embed_tokens", "rotary_emb", "norm"} <= backbone._modules.keys() and is_rms_norm(backbone.norm)
    if not whole or not parts or len(layers) < len(parts) or len({p.dtype for p in backbone.parameters()}) > 1:
        return None
    if not _rotates_alike(backbone):
        return None
    device = model.get_output_embeddings().weight.device
    ids = torch.tensor([_PROBE], device=device) % len(backbone.embed_tokens.weight)
    last = (context(model) or _CONTEXT) - 1
    positions = torch.linspace(0, last, len(_PROBE)).long().to(device)[None]  # what grows with the position shows

    def run(forward: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, KVCache]:
        """Hidden states of the probe: all but the last token at once, the last one alone."""
        cache = KVCache(1, len(_PROBE))  # which needs no room for what lies between the positions
        cache.plan_prefill([Span(0, len(_PROBE) - 1, (0,))])
        first = forward(ids[:, :-1], positions[:, :-1], cache)
        cache.plan_decode(torch.tensor([len(_PROBE) - 1], device=device))
        return torch.cat([first, forward(ids[:, -1:], positions[:, -1:], cache)], 1).float(), cache

    with _in_float32(backbone):
        expected, cache = run(own)
    attentions = _attentions(layers, cache)
    angles = backbone.rotary_emb(expected, position_ids=positions)[0].shape[-1]
    if attentions is None or any(attention.size != angles for attention in attentions):  # rotated in part
        return None

    def fused(ops: Ops, tolerance: float) -> FusedDecoder | None:
        """The decoder with these operations, if it makes the expected hidden states."""
        decoder = FusedDecoder(backbone, layers, attentions, ops)
        decoder.link()
        error = (run(decoder)[0] - expected).norm() / expected.norm()
        return decoder if float(error) < tolerance else None

    if fused(TorchOps(torch.float32), _EXACT) is None:
        return None
    functions = native.library(model.dtype) if device.type == "cpu" else None
    candidates: list[Ops] = [TorchOps()] if functions is None else [NativeOps(functions), TorchOps()]
    found = (fused(ops, _ROUNDED.get(model.dtype, 0.0)) for ops in candidates)
    return next((decoder for decoder in found if decoder is not None), None)


def _rotates_alike(backbone: Any) -> bool:
    """Whether all layers rotate queries and keys by the same angles, and a position has no other effect.

    SmolLM3 has layers that do not rotate, Ministral 3 queries that grow with their position, and others have
    frequencies for each kind of layer.
    """
    rope = getattr(backbone.config, "rope_parameters", None) or {}
    by_kind = any(isinstance(value, dict) for value in rope.values())
    growing = rope.get("llama_4_scaling_beta") is not None
    return not by_kind and not growing and all(getattr(layer.self_attn, "use_rope", True) for layer in backbone.layers)


def _attentions(layers: Sequence[_Layer], cache: KVCache) -> list[Attention] | None:
    """How the layers attend, as the model's own forward has just asked the cache; None if that is not known here."""
    if len(cache.asked) != len(layers):
        return None
    found = []
    for (index, asked), layer in zip(sorted(cache.asked.items()), layers, strict=True):
        width = (asked.heads + 2 * asked.kv_heads) * asked.size
        if asked.softcap is not None or asked.size % 2 or layer.qkv.width != width:
            return None
        found.append(
            Attention(
                index, asked.heads, asked.kv_heads, asked.size, asked.scaling, asked.window, layer.head_norms
            )
        )  # fmt: skip
    return found


@contextmanager
def _in_float32(backbone: Any) -> Iterator[None]:
    """Inside, the backbone computes in float32, with the weights of one layer at a time cast; then it is as before."""
    if backbone.dtype == torch.float32:
        yield
        return
    cast: list[tuple[nn.Parameter, torch.Tensor]] = []

    def widen(module: nn.Module, *_: Any) -> None:
        for parameter in module.parameters():
            cast.append((parameter, parameter.data))
            parameter.data = parameter.data.float()

    def restore(*_: Any) -> None:
        while cast:
            parameter, data = cast.pop()
            parameter.data = data

    hooks = [backbone.embed_tokens.register_forward_hook(lambda module, given, out: out.float())]
    for part in (*backbone.layers, backbone.norm):
        hooks += [part.register_forward_pre_hook(widen), part.register_forward_hook(restore)]
    try:
        yield
    finally:
        restore()
        for hook in hooks:
            hook.remove()


def _layer(layer: Any) -> _Layer | None:
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
    for linears in (*together, [attention.o_proj], [mlp.down_proj]):
        if any(type(linear) is not nn.Linear for linear in linears) or len({x.bias is None for x in linears}) > 1:
            return None
    return _Layer(
        attention_norm=layer.input_layernorm,
        qkv=FusedLinear(together[0]),
        head_norms=(attention.q_norm, attention.k_norm) if head_norms else None,
        out=FusedLinear([attention.o_proj]),
        mlp_norm=layer.post_attention_layernorm,
        gate_up=FusedLinear(together[1]),
        down=FusedLinear([mlp.down_proj]),
    )
