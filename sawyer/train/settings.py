"""How every training stage is optimised. No torch in here: recipes are checked without it."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sawyer.models.lora import LoraSettings
from sawyer.settings import Presentation, Settings


class OptimizerSettings(Settings):
    """The optimiser, the schedule, and how a batch is cut to fit into memory."""

    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """What follows the warm-up; cosine and linear end at `final_learning_rate`."""
    warmup_ratio: float = Field(default=0.03, ge=0, le=1)
    """Share of all updates over which the learning rate rises from 0."""
    final_learning_rate: float = Field(default=0.0, ge=0)
    """Where cosine and linear schedules end."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay, on matrices only."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's running averages."""
    eps: float = Field(default=1e-8, gt=0)
    """AdamW's epsilon."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this global norm."""
    batch_size: int = Field(default=32, ge=1)
    """Trees (pairs, conversations, rankings) in one update, over all processes and accumulation."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the data, unless `steps` is given."""
    steps: int | None = Field(default=None, ge=1)
    """Updates in all; the data is passed over as often as that needs."""
    token_budget: int = Field(default=4096, ge=16)
    """Tokens in one packed row, that is in one forward pass: the knob for memory. It changes nothing but speed."""
    gradient_checkpointing: bool = False
    """Keep only each layer's input and recompute the rest: less memory, a third more work."""
    lora: LoraSettings | None = None
    """Train adapters instead of all weights."""
    validate_every: int | None = Field(default=None, ge=1)
    """Updates between validations; one at the end in any case when there is validation data."""
    checkpoint_every: Annotated[int | None, Presentation()] = Field(default=None, ge=1)
    """Updates between checkpoints; None writes one every two minutes."""
    trackers: Annotated[list[str], Presentation()] = Field(default_factory=list)
    """Experiment trackers that Accelerate knows by name: tensorboard, wandb, mlflow, trackio, ..."""

    @model_validator(mode="after")
    def _betas_below_one(self) -> OptimizerSettings:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must lie in [0, 1)")
        return self

    def updates(self, count: int) -> int:
        """How many updates there are in all with `count` trees to train on."""
        return self.steps or math.ceil(self.epochs * count / self.batch_size)
