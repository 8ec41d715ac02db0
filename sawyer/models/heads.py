"""Heads on a language model: the scalar head of a reward model."""

import math
from collections.abc import Collection
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from sawyer.errors import SawyerError


def attach_fresh_head(policy: PreTrainedModel, *, num_labels: int = 1, seed: int = 0) -> PreTrainedModel:
    """A sequence classifier that takes over `policy`'s body (shared, not copied) under a new linear head.

    The head's weights are drawn from N(0, 1/(hidden + 1)) on the CPU with `seed`, so that it is the same whatever was
    drawn before (Stiennon et al. 2020, "Learning to summarize from human feedback", appendix B); biases are 0. Raises
    SawyerError where transformers has no classifier for the architecture.
    """
    config = policy.config
    config.num_labels = num_labels
    if num_labels == 1:
        config.problem_type = "regression"
    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise SawyerError(
            f"transformers has no sequence classifier for the architecture {config.model_type!r}: use another model "
            "as the reward model's base."
        ) from error
    setattr(model, model.base_model_prefix, policy.base_model)
    model.config = config
    config.architectures = [type(model).__name__]
    body = {id(parameter) for parameter in policy.base_model.parameters()}
    draw(model, [name for name, parameter in model.named_parameters() if id(parameter) not in body], seed, policy.dtype)
    return model.eval()


def draw(model: nn.Module, names: Collection[str], seed: int, dtype: torch.dtype) -> None:
    """Fresh weights for the parameters of these names: matrices from N(0, 1/(inputs + 1)) with `seed`, biases 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, empty in [(name, p) for name, p in model.named_parameters() if name in names]:
        weight = torch.zeros(empty.shape, dtype=dtype)
        if empty.dim() > 1:
            weight.normal_(0.0, 1.0 / math.sqrt(empty.shape[-1] + 1), generator=generator)
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, nn.Parameter(weight))


def keep_output(model: PreTrainedModel, output: int = 0) -> None:
    """Leave a sequence classifier one of its outputs, in place: it becomes an ordinary one-output reward model."""
    linear = next(
        module
        for name, module in reversed(list(model.named_modules()))
        if name.startswith(("score", "classifier")) and isinstance(module, nn.Linear)
    )
    linear.weight = nn.Parameter(linear.weight.detach()[output : output + 1].clone())
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach()[output : output + 1].clone())
    linear.out_features = 1
    model.config.num_labels = 1
    model.config.problem_type = "regression"
    if hasattr(model, "num_labels"):
        cast(Any, model).num_labels = 1
