"""Stage `multi_objective`: a reward of many attributes on a frozen model, each rated, freed of length, and weighed."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from sawyer.pipeline.stage import Context, Ref, Stage
from sawyer.settings import Settings as BaseSettings


class Settings(BaseSettings):
    model: Annotated[str, Ref("policy", "reward_model")]
    """The decoder whose hidden states are read; it stays as it is."""
    ratings: Annotated[str, Ref("data")]
    """Conversations whose `info` has `attributes`, name to number (null where unknown): what is learned to be rated."""
    data: Annotated[str, Ref("data")]
    """Comparisons, from which the gate learns what counts for which prompt; of more than two the best and the worst."""
    ratings_part: str = "train"
    """Which part of the ratings to learn from."""
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """The share of the rated prompts on which each attribute's ridge strength is chosen."""
    part: str = "train"
    """Which part of the comparisons to train the gate on."""
    validation: str | None = None
    """Which part of the comparisons to measure on; none for none."""
    tolerance: float = Field(default=0.03, gt=0, lt=1)
    """Each attribute is penalised for length until |Spearman's correlation| with it is at most this."""
    hidden: int = Field(default=1024, ge=1)
    """Inner width of the gate."""
    layers: int = Field(default=3, ge=1)
    """Inner layers of the gate."""
    temperature: float = Field(default=10.0, gt=0)
    """Divides the gate's logits."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """AdamW's, for the gate."""
    steps: int = Field(default=2000, ge=1)
    """Updates of the gate."""
    batch_size: int = Field(default=1024, ge=1)
    """Pairs in an update of the gate."""
    max_tokens: int = Field(default=1024, ge=8)
    """Longest prompt + completion, in tokens; longer records are dropped and counted."""
    max_dropped: float = Field(default=0.1, ge=0, le=1)
    """The share of records that may be too long; more is an error."""
    token_budget: int = Field(default=4096, ge=16)
    """Tokens in one forward pass: the knob for memory."""
    chat_template: str | None = None
    """Name of a built-in chat template, or Jinja text; the tokenizer's own by default."""


def run(settings: Settings, context: Context) -> dict[str, Any]:
    if not context.is_main:
        return {}
    from sawyer.pipeline.stages._multi_objective import train_multi_objective

    return train_multi_objective(settings, context)


STAGE = Stage(
    "multi_objective",
    Settings,
    run,
    makes="reward_model",
    help="a reward of many attributes, weighed by prompt",
    needs=lambda settings, weights: {"memory_gb": 5 * weights / 1e9, "disk_gb": 4 * weights / 1e9},
)
