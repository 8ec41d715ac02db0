"""The steps of `decode_ops` in C, where it can be had (`models.native`).

Legend: as in `decode_ops`; B sequences, V vocabulary.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from sawyer.models import native
from sawyer.models.lean import norm_eps
from sawyer.rollout.decode_ops import Attention, TorchOps
from sawyer.rollout.kv_cache import KVCache


class NativeOps:
    """The `Ops` in C. A prefill's attention is torch's."""

    def __init__(self, functions: Any) -> None:
        """
        Args:
            functions: `native.library(...)` of the weights' type.
        """
        self._c = functions
        self._torch = TorchOps()

    def add_norm(self, stream_N_W: torch.Tensor, added_N_W: torch.Tensor | None, norm: Any) -> torch.Tensor:
        """See `Ops`."""
        weight = norm.weight
        out = torch.empty(stream_N_W.shape, dtype=weight.dtype)
        added = 0 if added_N_W is None else added_N_W.data_ptr()
        rows, width = stream_N_W.shape
        self._c.add_norm(
            stream_N_W.data_ptr(), added, weight.data_ptr(), out.data_ptr(), rows, width, norm_eps(norm)
        )  # fmt: skip
        return out

    def gated_silu(self, gate_up_N_2F: torch.Tensor) -> torch.Tensor:
        """See `Ops`."""
        return native.gated_silu(self._c, *gate_up_N_2F.chunk(2, -1))

    def attend(
        self, qkv_N_X: torch.Tensor, cos_N_D: torch.Tensor, sin_N_D: torch.Tensor, how: Attention, cache: KVCache
    ) -> torch.Tensor:
        """See `Ops`."""
        if not cache.decoding:
            return self._torch.attend(qkv_N_X, cos_N_D, sin_N_D, how, cache)
        keys, values = cache.layer(how.layer, how.kv_heads, (how.size, how.size), qkv_N_X)
        rows = len(cos_N_D)
        out = qkv_N_X.new_empty(len(qkv_N_X), how.heads * how.size)
        out[rows:] = 0  # rows that only fill the batch up
        given = native.Attend(
            qkv=qkv_N_X.data_ptr(), cosine=cos_N_D.data_ptr(), sine=sin_N_D.data_ptr(),
            keys=keys.data_ptr(), values=values.data_ptr(), positions=cache.position_A.data_ptr(), out=out.data_ptr(),
            slot_stride=keys.stride(0), head_stride=keys.stride(1),
            rows=rows, heads=how.heads, kv_heads=how.kv_heads, size=how.size,
            window=how.window or 0, scaling=how.scaling,
        )  # fmt: skip
        if how.head_norms is not None:
            query_norm, key_norm = how.head_norms
            given.query_norm, given.key_norm = query_norm.weight.data_ptr(), key_norm.weight.data_ptr()
            given.eps = norm_eps(query_norm)
        self._c.attend(ctypes.byref(given))
        return out


def sample(
    logits_B_V: torch.Tensor, temperature: float, uniform_B: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """`decoding.sample` of logits / temperature, in two passes over them; None where there is no library for it."""
    logits_B_V = logits_B_V.contiguous()
    found = native.usable(logits_B_V)
    if found is None:
        return None
    uniform_B = uniform_B.contiguous()
    batch, vocabulary = logits_B_V.shape
    token_B, logp_B = torch.empty(batch, dtype=torch.int64), torch.empty(batch)
    pointers = [tensor.data_ptr() for tensor in (logits_B_V, uniform_B, token_B, logp_B)]
    found.sample(*pointers, batch, vocabulary, temperature)
    return token_B, logp_B
