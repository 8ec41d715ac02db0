"""Texts as vectors: the mean hidden state of a model that is there already, for similarity without another model.

Shapes: n texts, L tokens of the longest, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from sawyer.models.load import load_bi_encoder, load_body, load_sequence_classifier, load_tokenizer, model_kind
from sawyer.models.precision import DTYPES

Vectors = NDArray[np.float32]
TOGETHER = 32
"""Texts in one forward pass."""
MOST_TOKENS = 256
"""What is longer is cut."""


class Embedder:
    """Mean hidden states of the last layer of a decoder or an encoder.

    Args:
        name: folder, hub name or alias of a language model, a reward model or an encoder.
        precision: what it computes in.
        device: where.

    Raises:
        SawyerError: the model cannot be loaded.
    """

    def __init__(self, name: str, *, precision: str = "fp32", device: torch.device | str = "cpu") -> None:
        self.tokenizer = load_tokenizer(name)
        model: Any = _body(name, DTYPES[precision])
        self.model = model.to(device).eval()
        self.device = device

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Vectors:
        """`[n, D]` float32; the empty text is read as the token 0."""
        found = []
        for start in range(0, len(texts), TOGETHER):
            ids = [self.tokenizer(text).input_ids[:MOST_TOKENS] or [0] for text in texts[start : start + TOGETHER]]
            sequences = [torch.tensor(own) for own in ids]
            ids_n_L = pad_sequence(sequences, batch_first=True).to(self.device)
            mask_n_L = pad_sequence([torch.ones_like(own) for own in sequences], batch_first=True).to(self.device)
            hidden = self.model(input_ids=ids_n_L, attention_mask=mask_n_L).last_hidden_state.float()
            found.append((hidden * mask_n_L[..., None]).sum(1) / mask_n_L.sum(1, keepdim=True))
        return torch.cat(found).cpu().numpy() if found else np.zeros((0, 0), dtype=np.float32)


def _body(name: str, dtype: torch.dtype) -> Any:
    kind = model_kind(name)
    if kind == "bi":
        return load_bi_encoder(name, dtype=dtype).body
    if kind == "cross":  # an encoder's own weights, whatever head it has
        return load_sequence_classifier(name, dtype=dtype, fresh_head=True).base_model
    return load_body(name, dtype=dtype)


def unlike(kept: Vectors, new: Vectors, centre: NDArray[np.floating], threshold: float) -> list[int]:
    """Which new vectors have a cosine below the threshold with all kept ones and with the new ones taken before them.

    Hidden states of language models all point about the same way, so what they have in common is taken off first.

    Args:
        kept, new: `[n, D]`.
        centre: `[D]` the mean of texts of this kind.
    """
    taken = [_unit(vector - centre) for vector in kept]
    fresh = []
    for number, vector in enumerate(new):
        own = _unit(vector - centre)
        if not taken or float(np.max(np.stack(taken) @ own)) < threshold:
            taken.append(own)
            fresh.append(number)
    return fresh


def _unit(vector: NDArray[np.floating]) -> NDArray[np.floating]:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)
