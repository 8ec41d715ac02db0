"""Heads on a language model: the scalar head of a reward model."""

import math

import torch
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
    generator = torch.Generator().manual_seed(seed)
    body = {id(parameter) for parameter in policy.base_model.parameters()}
    fresh = [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) not in body]
    for name, empty in fresh:
        weight = torch.zeros(empty.shape, dtype=policy.dtype)
        if empty.dim() > 1:
            weight.normal_(0.0, 1.0 / math.sqrt(empty.shape[-1] + 1), generator=generator)
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, torch.nn.Parameter(weight))
    return model.eval()
