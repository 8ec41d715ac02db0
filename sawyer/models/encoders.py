"""Encoders as reward models: which models they are, and the bi-encoder, which transformers has no class for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from sawyer.models.heads import draw
from sawyer.models.locate import BI_ENCODER


def is_encoder(config: PreTrainedConfig) -> bool:
    """Whether a model reads in both directions (BERT's and RoBERTa's kind): it is no decoder, nor has one."""
    generates = any("CausalLM" in kind or "LMHead" in kind for kind in config.architectures or ())
    other = generates or getattr(config, "is_decoder", False) or getattr(config, "is_encoder_decoder", False)
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not other


class BiEncoder(nn.Module):
    """Prompt and completion embedded apart by one encoder, scored by u . v / sqrt(size).

    An embedding is the mean of the last hidden states (Reimers & Gurevych 2019, Sentence-BERT) through a linear layer,
    one for prompts and one for completions; the score is their dot product, the standard of bi-encoders (Karpukhin et
    al. 2020, dense passage retrieval; Humeau et al. 2020, poly-encoders), divided as in attention, so that a fresh one
    is of order 1. A completion meets its prompt in nothing but this product.

    Args:
        body: an encoder without a pooler in use.
        seed: draws the two layers.
    """

    def __init__(self, body: PreTrainedModel, *, seed: int = 0) -> None:
        super().__init__()
        if hasattr(body, "pooler"):
            cast(Any, body).pooler = None
        self._name = body.base_model_prefix
        self.add_module(self._name, body)  # its weights have the names by which AutoModel finds them
        size = body.config.hidden_size
        self.prompt_head = nn.Linear(size, size)
        self.completion_head = nn.Linear(size, size)
        heads = [name for name, _ in self.named_parameters() if name.startswith(("prompt_head", "completion_head"))]
        draw(self, heads, seed, body.dtype)

    @property
    def body(self) -> PreTrainedModel:
        return cast(PreTrainedModel, getattr(self, self._name))

    @property
    def config(self) -> PreTrainedConfig:
        return self.body.config

    def embed(self, ids: torch.Tensor, mask: torch.Tensor, head: nn.Linear) -> torch.Tensor:
        """`[N, D]` float32 embeddings of sequences `[N, L]` where the mask is 1."""
        hidden = self.body(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        share = mask.float() / mask.sum(1, keepdim=True)
        mean = (hidden * share[:, :, None]).sum(1)
        return nn.functional.linear(mean, head.weight.float(), head.bias.float())

    @staticmethod
    def score(prompt_C_D: torch.Tensor, completion_C_D: torch.Tensor) -> torch.Tensor:
        """`[C]` of embeddings, each completion beside its prompt."""
        return (prompt_C_D * completion_C_D).sum(1) / math.sqrt(prompt_C_D.shape[1])

    def save_pretrained(self, folder: Path | str) -> None:
        """Write weights and configuration; `AutoModel` reads the encoder from it, `load_bi_encoder` the whole."""
        folder = Path(folder)
        self.config.architectures = [type(self.body).__name__]
        self.config.save_pretrained(folder)
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / BI_ENCODER).write_text(json.dumps({"format": 1}) + "\n")
