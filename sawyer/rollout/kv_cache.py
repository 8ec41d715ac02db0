"""The key-value cache of a batch of sequences that come and go, and the attention over it.

The attention is registered with transformers' `AttentionInterface` under `NAME`; a model's forward hands the cache down
to it as the keyword argument `sawyer_cache`, so no architecture needs code of its own. It honours what the modules ask
for: grouped queries, `scaling`, `sliding_window` and `softcap`. Transformers builds no mask for an implementation it
does not know.

Legend: S slots, T tokens, H query heads, J key-value heads, D head size, A active sequences.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from sawyer.errors import SawyerError
from sawyer.numerics import lazy_zeros

NAME = "sawyer_decode"
_LAYER_KINDS = {"full_attention", "sliding_attention"}
_LENGTHS = 32
"""Attention of a decoding step reads a multiple of so many tokens, and masks what is beyond."""


def supports(model: Any) -> bool:
    """Whether every layer of the model is attention that goes through the interface (a Mamba layer has other state)."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    return bool(getattr(model, "_supports_attention_backend", False)) and kinds <= _LAYER_KINDS


def context(model: Any) -> int | None:
    """Most tokens of a prompt with its completion; None if the model names no limit.

    LongRoPE (Ding et al. 2024, arXiv 2402.13753; Phi-3, Phi-4-mini) has other frequencies for sequences beyond the
    length of the first training. transformers takes these for a whole batch as soon as one sequence is that long, over
    keys that were stored with the others, so what a sequence says would depend on its neighbours. The limit of such a
    model is therefore that length.
    """
    config = model.config.get_text_config()
    length = getattr(config, "max_position_embeddings", None)
    first = _first_length(config)
    return first if first is not None and (length is None or first < length) else length


def context_note(model: Any) -> str:
    """What is to be said of `context` where it is less than the model's config says; else nothing."""
    return " (LongRoPE: its frequencies change beyond)" if _first_length(model.config.get_text_config()) else ""


def _first_length(config: Any) -> int | None:
    """Up to which length a LongRoPE model keeps its frequencies; None for other models."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return min((k["original_max_position_embeddings"] for k in kinds if k.get("rope_type") == "longrope"), default=None)


@dataclass(frozen=True)
class Span:
    """A prompt in the packed row of a prefill: tokens `start` to `end`, whose keys and values go to `slots`."""

    start: int
    end: int
    slots: tuple[int, ...]


@dataclass(frozen=True)
class Asked:
    """How a layer's own code asked to attend: with how many heads of which size, and how."""

    heads: int
    kv_heads: int
    size: int
    scaling: float
    window: int | None
    softcap: float | None


class KVCache:
    """Keys and values `[S, J, T, D]` of every layer, allocated once; sequences occupy slots.

    Before a forward, `plan_prefill` or `plan_decode` says what its tokens are.

    Attributes:
        asked: by layer, how `attend` was last asked.
        position_A: where the tokens of a decoding step stand.
    """

    def __init__(self, slots: int, length: int):
        self.slots = slots
        self.length = length
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._spans: Sequence[Span] | None = None
        self._masks: dict[int | None, torch.Tensor | None] = {}
        self.asked: dict[int, Asked] = {}
        self._beside: KVCache | None = None

    @property
    def beside(self) -> KVCache:
        """The cache of a second model for the same sequences: what is copied, cleared or reordered here is so there,
        while each forward has its own plan."""
        if self._beside is None:
            self._beside = KVCache(self.slots, self.length)
        return self._beside

    def _stored(self) -> Iterator[torch.Tensor]:
        """All that is stored, `[S, J, T, D]` each."""
        for pair in self._layers.values():
            yield from pair
        if self._beside is not None:
            yield from self._beside._stored()

    @property
    def decoding(self) -> bool:
        """Whether `plan_decode` was the last plan."""
        return self._spans is None

    def layer(
        self, index: int, kv_heads: int, sizes: tuple[int, int], like: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values `[S, J, T, D]` of a layer, made if need be, of the type and on the device of `like`.

        Args:
            sizes: D of keys and of values.
        """
        if index not in self._layers:
            keys, values = (lazy_zeros((self.slots, kv_heads, self.length, size), like) for size in sizes)
            self._layers[index] = keys, values
        return self._layers[index]

    def plan_prefill(self, spans: Sequence[Span]) -> None:
        """The next forward is one row of prompts end to end; none sees another."""
        self._spans = spans

    def plan_decode(self, position_A: torch.Tensor) -> None:
        """The next forward is one token of each of the first A slots, at these positions."""
        self._spans = None
        self.position_A = position_A
        self._row_A = torch.arange(len(position_A), device=position_A.device)
        longest = int(position_A.max()) + 1
        # oneDNN compiles and keeps products of every length that it meets
        self._until = min(-(-longest // _LENGTHS) * _LENGTHS, self.length)
        self._masks = {}
        self._level = bool((position_A == self._until - 1).all())

    def copy(self, source: int, targets: Iterable[int], length: int) -> None:
        """Copy the first `length` tokens of a slot to one or more others."""
        targets = list(targets)
        for stored_S_J_T_D in self._stored():
            for slot in targets:
                stored_S_J_T_D[slot, :, :length] = stored_S_J_T_D[source, :, :length]

    def clear(self, slots: Sequence[int]) -> None:
        """Forget what slots hold. Only numbers need no forgetting: a NaN would reach whoever has the slot next."""
        for stored_S_J_T_D in self._stored():
            for slot in slots:
                stored_S_J_T_D[slot] = 0

    def reorder(self, sources: Sequence[int], length: int) -> None:
        """Slot i becomes what slot `sources[i]` was, in its first `length` tokens; slots may double or vanish."""
        if list(sources) == list(range(len(sources))):
            return
        for stored_S_J_T_D in self._stored():
            stored_S_J_T_D[: len(sources), :, :length] = stored_S_J_T_D[list(sources), :, :length]

    def copy_token(self, source_A: torch.Tensor, position_A: torch.Tensor) -> None:
        """In each of the first A slots, the token at its position becomes the one of slot `source_A` there."""
        slot_A = torch.arange(len(source_A), device=source_A.device)
        for stored_S_J_T_D in self._stored():
            stored_S_J_T_D[slot_A, :, position_A] = stored_S_J_T_D[source_A, :, position_A]

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """Store the new keys and values, and attend. Tensors are `[B, heads, T, D]`; so is what comes back."""
        self.asked[layer] = Asked(query.shape[1], key.shape[1], query.shape[3], scaling, window, softcap)
        keys_S_J_T_D, values_S_J_T_D = self.layer(layer, key.shape[1], (key.shape[3], value.shape[3]), key)
        if self._spans is None:
            active, heads, _, size = query.shape
            keys_S_J_T_D[self._row_A, :, self.position_A] = key[:, :, 0]
            values_S_J_T_D[self._row_A, :, self.position_A] = value[:, :, 0]
            keys = keys_S_J_T_D[:active, :, : self._until]
            values = values_S_J_T_D[:active, :, : self._until]
            grouped = query.reshape(active, keys.shape[1], -1, size)  # the queries that share a key head, side by side
            mask = self._decode_mask(window, query.dtype)
            return _attention(grouped, keys, values, mask, scaling, softcap).reshape(active, heads, 1, -1)
        out = query.new_empty(*query.shape[:3], value.shape[-1])
        for span in self._spans:
            k, v = key[:, :, span.start : span.end], value[:, :, span.start : span.end]
            length = span.end - span.start
            for slot in span.slots:
                keys_S_J_T_D[slot, :, :length] = k[0]
                values_S_J_T_D[slot, :, :length] = v[0]
            q = query[:, :, span.start : span.end]
            out[:, :, span.start : span.end] = _causal_attention(q, k, v, scaling, window, softcap)
        return out

    def _decode_mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        """What each sequence may see, `[A, 1, 1, T]` to add to the scores; None if that is everything."""
        if window is not None and window >= self._until:
            window = None
        if window not in self._masks:
            mask = None
            if not self._level or window is not None:
                key_T = torch.arange(self._until, device=self.position_A.device)
                seen_A_T = key_T <= self.position_A[:, None]
                if window is not None:
                    seen_A_T &= key_T > self.position_A[:, None] - window
                mask = torch.zeros(seen_A_T.shape, dtype=dtype, device=key_T.device)
                mask = mask.masked_fill_(~seen_A_T, float("-inf"))[:, None, None]
            self._masks[window] = mask
        return self._masks[window]


def _causal_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float, window: int | None, softcap: float | None
) -> torch.Tensor:
    """Every token of one prompt sees itself and what is before it, at most `window` tokens."""
    length, groups = q.shape[2], q.shape[1] // k.shape[1]
    if softcap is None and (window is None or length <= window):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=groups > 1)
    at_T = torch.arange(length, device=q.device)
    seen_T_T = at_T <= at_T[:, None]
    if window is not None:
        seen_T_T &= at_T > at_T[:, None] - window
    mask = torch.zeros(length, length, dtype=q.dtype, device=q.device).masked_fill_(~seen_T_T, float("-inf"))
    k, v = (x.repeat_interleave(groups, 1) if groups > 1 else x for x in (k, v))
    return _attention(q, k, v, mask, scaling, softcap)


def _attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
    softcap: float | None,
) -> torch.Tensor:
    if softcap is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
    scores = softcap * torch.tanh((q @ k.transpose(-1, -2)).float() * (scaling / softcap))
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1).to(v.dtype) @ v


def _decode_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    sawyer_cache: KVCache | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as `AttentionInterface` wants it: `[B, H, T, D]` in, `[B, T, H, D]` out."""
    if sawyer_cache is None or s_aux is not None or attention_mask is not None:
        raise SawyerError(
            f"the torch engine cannot generate with {type(module).__name__}: it uses attention sinks, or a mask of its "
            "own making, which the engine does not know; use another model"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer: int = module.layer_idx  # type: ignore[assignment]  # every decoder's attention knows its layer
    out = sawyer_cache.attend(layer, query, key, value, scale, sliding_window, softcap)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _decode_attention)
