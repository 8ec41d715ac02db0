"""From a decoder's hidden states to logits: the same for whoever trains and whoever generates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def logit_shape(model: nn.Module) -> tuple[float, float | None]:
    """What a decoder does to the output of its head: `(scale, softcap)`, logits = softcap * tanh(scale * x / softcap).

    Some families scale or cap, each under a name of its own in the config: Cohere multiplies by `logit_scale`, Granite
    divides by `logits_scaling` (HyperCLOVA X multiplies by it), Gemma 2 and 3 squash by `final_logit_softcapping`.
    """
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]  # PreTrainedModel has one
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    if (scaling := getattr(config, "logits_scaling", None)) is not None:
        scale = scale * scaling if "hyperclovax" in config.model_type else scale / scaling
    return scale, getattr(config, "final_logit_softcapping", None)


def final_logits(
    model: nn.Module, hidden: torch.Tensor, head: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> torch.Tensor:
    """Logits `[..., V]` of hidden states `[..., D]`, as the model's own forward would make them.

    Args:
        model: a Hugging Face causal language model.
        hidden: the backbone's last hidden states, after its final norm. Give only the positions that are needed.
        head: computes what the model's own head would; that one by default.
    """
    head = head or model.get_output_embeddings()  # type: ignore[operator]  # PreTrainedModel has it, Module has not
    assert head is not None
    logits = head(hidden)
    scale, softcap = logit_shape(model)
    if scale != 1.0:
        logits = logits * scale
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)
