"""Stage `ppo`: reinforcement learning from any feedback, by PPO or a relative of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sawyer.methods.rewards import Normalise, ShapingSettings
from sawyer.pipeline.stage import Context, Ref, Stage
from sawyer.pipeline.stages._common import training_needs
from sawyer.pipeline.stages._engines import EngineSettings
from sawyer.pipeline.stages._gold import GoldSettings
from sawyer.rollout.sampling import Sampling
from sawyer.settings import Settings as Settings_
from sawyer.train.ppo_settings import PPOSettings


class RewardPart(Settings_):
    """One of several rewards."""

    model: Annotated[str, Ref("reward_model")] | None = None
    """The reward model that scores."""
    gold: Literal["verifiable"] | None = None
    """In place of `model`: computed from the prompts' constraints."""
    weight: float = 1.0
    """What the score is multiplied by in the sum."""
    normalise: Normalise = "none"
    """To mean 0 and deviation 1 before that: over all scores so far (`running`), or those of the step (`batch`)."""
    below: float | None = Field(default=None, gt=0, lt=1)
    """It is not added, but takes the place of the sum where the sigmoid of its score is below this, or the prompt's
    `info` says `safety: true` (Llama 2's safety model: 0.15)."""

    @model_validator(mode="after")
    def _one_source(self) -> RewardPart:
        if (self.model is None) == (self.gold is None):
            raise ValueError("each of `rewards` has a `model` or `gold: verifiable`, and not both")
        return self


class Settings(PPOSettings, EngineSettings, GoldSettings):
    model: Annotated[str, Ref("policy")]
    """The policy to start from."""
    data: Annotated[str, Ref("data")]
    """Where the prompts come from."""
    reference: Annotated[str, Ref("policy")] | None = None
    """What the KL is measured to; the policy that training starts from by default."""
    reward: Annotated[str, Ref("reward_model")] | None = None
    """The reward model that scores the answers. Without it, and `rewards`, the gold reward does; with them that is
    watched on held-out prompts."""
    rewards: list[RewardPart] = Field(default_factory=list)
    """In place of `reward`: several, summed, or one in place of the others."""
    shaping: ShapingSettings = ShapingSettings()
    """What happens to scores before they are rewards."""
    value_from: Annotated[str, Ref("reward_model")] | None = None
    """With `value.model: own`: the reward model that it starts from; a fresh head on the policy by default."""
    part: str = "train"
    """Which part of the data to train on."""
    validation: str = "validation"
    """Prompts to answer every `validate_every` steps; the policy with the best reward on them is the result."""
    validation_prompts: int = Field(default=64, ge=1)
    """How many of them, with one answer each."""
    samples: int = Field(default=4, ge=0)
    """How many of these answers are kept, of each validation, in `samples.jsonl`."""
    sampling: Sampling = Sampling()
    """How completions are drawn; the policy's own distribution by default."""
    overlap: bool = False
    """Draw the answers of the next step while this one trains, by the weights before it; tokens then count by the ratio
    of the policy to the one that drew them."""
    chat_template: str | None = None
    """Name of a built-in chat template, or Jinja text; the tokenizer's own by default."""

    @model_validator(mode="after")
    def _a_reward(self) -> Settings:
        if self.reward is not None and self.rewards:
            raise ValueError("give `reward`, one model, or `rewards`, several, and not both")
        if self.reward is None and not self.rewards and not self.has_gold:
            raise ValueError("give `reward`, a model, or `rewards`, several, or a gold reward (`gold: verifiable`)")
        if self.rewards and all(part.below is not None for part in self.rewards):
            raise ValueError("`rewards` need one without `below`, whose place the others take")
        return self

    @model_validator(mode="after")
    def _draws_at_random(self) -> Settings:
        if self.sampling.temperature == 0:
            raise ValueError("reinforcement learning tries answers out: give `sampling` a temperature above 0")
        if self.value_from is not None and (self.value.model != "own" or not self.estimated.values):
            raise ValueError("`value_from` is for `estimator: gae` with `value: {model: own}`")
        return self


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.pipeline.stages._ppo import Reinforcement

    context.track(settings.trackers)
    return Reinforcement(settings, context).run()


def needs(settings: Settings, weights: int) -> dict[str, float]:
    """As `training_needs`, with what else is held: the engine's weights, the reference's unless adapters stand on them,
    those of a value model of its own, and each reward model's, taken to be of the policy's size. On disk also the best
    policy and the one before it."""
    own = training_needs(settings, weights)
    models = [part.model for part in settings.rewards if part.model] + [settings.reward] * (settings.reward is not None)
    copies = 1 + (settings.lora is None or settings.reference is not None) + len(set(models))
    trained = 20 if settings.lora is None else 5
    critic = settings.estimated.values and settings.value.model == "own"
    bytes_each = 4 * copies + trained * critic
    return {
        **own,
        "memory_gb": own["memory_gb"] + bytes_each * weights / 1e9,
        "scratch_gb": own["scratch_gb"] * (1 + critic) + (8 if settings.lora is None else 0.5) * weights / 1e9,
    }


STAGE = Stage(
    "ppo",
    Settings,
    run,
    makes="policy",
    help="reinforcement learning from any feedback: PPO, RLOO, REINFORCE, GRPO",
    needs=needs,
)
