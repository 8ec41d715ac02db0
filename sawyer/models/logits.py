"""From a decoder's hidden states to logits: the same for whoever trains and whoever generates."""

from __future__ import annotations

import torch
from torch import nn


def final_logits(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Logits `[..., V]` of hidden states `[..., D]`, as the model's own forward would make them.

    Some families scale or cap the output of the head, each under a name of its own in the config: Cohere multiplies by
    `logit_scale`, Granite divides by `logits_scaling` (HyperCLOVA X multiplies by it), Gemma 2 and 3 squash by
    `final_logit_softcapping`.

    Args:
        model: a Hugging Face causal language model.
        hidden: the backbone's last hidden states, after its final norm. Give only the positions that are needed.
    """
    logits = model.get_output_embeddings()(hidden)  # type: ignore[operator]  # PreTrainedModel has it, Module has not
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    if (scale := getattr(config, "logit_scale", None)) is not None:
        logits = logits * scale
    if (scaling := getattr(config, "logits_scaling", None)) is not None:
        logits = logits * scaling if "hyperclovax" in config.model_type else logits / scaling
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = cap * torch.tanh(logits / cap)
    return logits
