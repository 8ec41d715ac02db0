"""The model that both sides of a benchmark begin from."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from sawyer.models.load import load_policy, load_sequence_classifier


def load(job: dict[str, Any]) -> PreTrainedModel:
    """The job's model in float32, with its weights rounded to bfloat16, as most models are released.

    Weights unpacked from four bits lie half-way between two bfloat16 numbers by the million, where the smallest update
    turns the rounding: fp32 and bf16 would part after one update whatever either side computes (docs/experiments.md).
    """
    if job["task"] in ("reward", "scoring"):
        model = load_sequence_classifier(job["model"], fresh_head=True, seed=job["seed"])
    else:
        model = load_policy(job["model"])
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.bfloat16())
    return model
