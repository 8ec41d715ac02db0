"""How a policy is trained by reinforcement. No torch in here: recipes are checked without it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from sawyer.methods.collapse import CollapseSettings
from sawyer.methods.estimators import ESTIMATORS, Average, Estimator
from sawyer.methods.kl_control import KLSettings
from sawyer.settings import Settings
from sawyer.train.settings import OptimizerSettings


class ValueSettings(Settings):
    """What says how good a state is; for `estimator: gae`."""

    model: Literal["shared", "adapters", "own"] = "shared"
    """A head on the policy's hidden states; a head and adapters of its own, on the trunk that the policy's adapters
    stand on; or a model of its own."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Of the head, or of adapters or a model with theirs; 1e-3 for a head, which starts at 0, and else the policy's."""
    coefficient: float = Field(default=0.1, gt=0)
    """Weight of the value loss."""
    clip: float | None = Field(default=0.2, gt=0)
    """Values move no further than this from those of the rollout; null for no clipping."""
    warmup: int = Field(default=0, ge=0)
    """Steps at the start in which values are learned and the policy stays as it is."""

    @property
    def rate(self) -> float | None:
        """The learning rate, None for the policy's."""
        return self.learning_rate or (1e-3 if self.model == "shared" else None)


class PPOSettings(OptimizerSettings):
    """Rollouts, advantages, and the updates on them."""

    estimator: Literal["gae", "rloo", "reinforce", "reinforce++", "grpo", "dr_grpo"] = "gae"
    """How advantages are estimated; each brings the defaults of its paper for `kl`, `whiten` and `average`."""
    steps: int = Field(default=64, ge=1)
    """Rollout batches, each answered by the policy that the one before left."""
    batch_size: int = Field(default=32, ge=1)
    """Prompts of a step: the next ones of the data."""
    n: int = Field(default=4, ge=1)
    """Completions of each prompt."""
    epochs: int = Field(default=1, ge=1)
    """Passes over each rollout batch."""
    mini_batches: int = Field(default=1, ge=1)
    """Updates in a pass: the prompts of a step are dealt to so many."""
    clip: float = Field(default=0.2, gt=0, lt=1)
    """The ratio pi / pi_old counts from 1 - clip ..."""
    clip_high: float | None = Field(default=None, gt=0)
    """... to 1 + clip_high, which is `clip` unless it is given."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount of later rewards, a token."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """lambda of `gae`: 1 trusts returns, 0 trusts values."""
    whiten: bool | Literal["mini_batch"] | None = None
    """Bring advantages to mean 0 and deviation 1 over the whole rollout batch; `mini_batch`: over each mini-batch,
    which of a single completion leaves nothing of how good it was (SAWYER's notebooks did that)."""
    average: Average | None = None
    """The policy loss is a mean over all tokens (`token`), over completions of the mean of their tokens (`completion`),
    of their sum (`sum`), or of their sum over `max_tokens` (`constant`)."""
    entropy: float = Field(default=0.0, ge=0)
    """Weight of the entropy bonus."""
    importance_cap: float = Field(default=2.0, ge=1)
    """Where `sampling` changes the distribution, or `overlap` draws from an older one, tokens count by pi / (what they
    were drawn from), at most this."""
    kl: KLSettings = KLSettings()
    """How the policy is held to its reference."""
    value: ValueSettings = ValueSettings()
    """What says how good a state is."""
    collapse: CollapseSettings = CollapseSettings()
    """When training has gone wrong, and what then."""
    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate of the policy."""
    validate_every: int | None = Field(default=8, ge=1)
    """Steps between validations; one at the start and one at the end in any case."""
    keep: Literal["best", "last"] = "best"
    """Which policy is the result: the best by reward on held-out prompts, within `kl.ceiling`, or the last one."""

    @model_validator(mode="after")
    def _options_of_the_estimator(self) -> PPOSettings:
        own = self.estimated
        if self.n < own.least:
            raise ValueError(f"`{own.name}` compares the completions of a prompt: give `n` of {own.least} at least")
        if not own.values and self.value != ValueSettings():
            raise ValueError(f"`value` is for `estimator: gae`; `{own.name}` needs no value model")
        if not own.stepwise and self.gamma != 1:
            raise ValueError(f"`{own.name}` takes a completion's rewards as one sum: leave `gamma` at 1")
        if not own.values and self.gae_lambda != PPOSettings.model_fields["gae_lambda"].default:
            raise ValueError(f"`gae_lambda` is for `estimator: gae`; leave it out with `{own.name}`")
        if self.kl_as == "loss" and self.kl_estimator == "k1":
            raise ValueError("the gradient of k1 as a loss has mean 0 and holds nothing back: take k2 or k3")
        return self

    @model_validator(mode="after")
    def _batches_that_work_out(self) -> PPOSettings:
        if self.mini_batches > self.batch_size:
            raise ValueError(
                f"{self.batch_size} prompts (`batch_size`) cannot be dealt to {self.mini_batches} mini-batches"
            )
        if self.lora is not None and self.lora.dropout:
            raise ValueError("dropout would make ratios start away from 1: leave `lora.dropout` at 0")
        if self.value.model == "adapters" and self.lora is None:
            raise ValueError("`value: {model: adapters}` stands beside the policy's adapters: set `lora`")
        if self.value.model == "adapters" and self.gradient_checkpointing:
            raise ValueError(
                "what `gradient_checkpointing` computes again would go through the policy's adapters in place of the "
                "value's: leave it off with `value: {model: adapters}`, or take `own`"
            )
        if self.value.warmup >= self.steps:
            raise ValueError("`value.warmup` leaves no step to train the policy in: raise `steps`")
        return self

    @property
    def estimated(self) -> Estimator:
        """What the table of estimators says of this one."""
        return ESTIMATORS[self.estimator]

    @property
    def kl_as(self) -> str:
        return self._or_default(self.kl.where, "kl_as")

    @property
    def kl_estimator(self) -> str:
        return self._or_default(self.kl.estimator, "kl_estimator")

    @property
    def kl_coefficient(self) -> float:
        return self._or_default(self.kl.coefficient, "kl_coefficient")

    @property
    def averaged(self) -> Average:
        return self._or_default(self.average, "average")

    @property
    def whitened(self) -> bool | Literal["mini_batch"]:
        return self._or_default(self.whiten, "whiten")

    @property
    def optimiser_steps(self) -> int:
        """Updates in all: of each rollout, epochs x mini-batches."""
        return self.steps * self.epochs * self.mini_batches

    def _or_default(self, given: Any, name: str) -> Any:
        return getattr(self.estimated, name) if given is None else given
