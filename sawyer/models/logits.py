"""From a decoder's hidden states to logits: the same for whoever trains and whoever generates."""

from __future__ import annotations

import torch
from torch import nn


def logit_scale_and_cap(model: nn.Module) -> tuple[float, float | None]:
    """What the model does to its head's output: `logits = cap * tanh(scale * head / cap)`, no cap for None.

    Some families scale or cap under a name of their own in the config: Cohere multiplies by `logit_scale`, Granite
    divides by `logits_scaling` (HyperCLOVA X multiplies by it), Gemma 2 and 3 squash by `final_logit_softcapping`.
    """
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    scale = 1.0
    if (factor := getattr(config, "logit_scale", None)) is not None:
        scale *= factor
    if (factor := getattr(config, "logits_scaling", None)) is not None:
        scale = scale * factor if "hyperclovax" in config.model_type else scale / factor
    return scale, getattr(config, "final_logit_softcapping", None)


def final_logits(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Logits `[..., V]` of hidden states `[..., D]`, as the model's own forward would make them.

    Args:
        model: a Hugging Face causal language model.
        hidden: the backbone's last hidden states, after its final norm. Give only the positions that are needed.
    """
    logits = model.get_output_embeddings()(hidden)  # type: ignore[operator]  # PreTrainedModel has it, Module has not
    scale, cap = logit_scale_and_cap(model)
    if scale != 1.0:
        logits = logits * scale
    return logits if cap is None else cap * torch.tanh(logits / cap)
