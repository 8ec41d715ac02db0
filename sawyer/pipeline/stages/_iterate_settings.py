"""What `iterate` and `self_reward` let a recipe say of their loop: prompts, answers, pairs, loss and reference."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sawyer.methods.iterative import PairSettings
from sawyer.pipeline.stage import Ref
from sawyer.pipeline.stages._engines import EngineSettings
from sawyer.pipeline.stages._losses import LossSettings
from sawyer.rollout.sampling import Sampling, contradiction
from sawyer.settings import Settings
from sawyer.train.settings import OptimizerSettings


class OfflineSettings(Settings):
    """Pairs that are there already, to be trained on beside the new ones."""

    data: Annotated[str, Ref("data")]
    """Comparisons; of more than two completions the best and the worst."""
    part: str = "train"
    """Which part of them."""
    share: float = Field(default=0.5, gt=0)
    """So many to each new pair; each iteration takes the next ones."""


class LoopSettings(OptimizerSettings, EngineSettings, LossSettings):
    """Answer, score, pair, train; again."""

    model: Annotated[str, Ref("policy")]
    """The policy to start from (pi_0)."""
    data: Annotated[str, Ref("data")]
    """Where the prompts come from."""
    part: str = "train"
    """Which part of the data to train on."""
    iterations: int = Field(default=3, ge=1)
    """How often to generate, score and train."""
    prompts: int = Field(default=256, ge=1)
    """Prompts of one iteration; each takes the next ones."""
    n: int = Field(default=8, ge=2)
    """Completions of each prompt."""
    temperatures: list[float] = Field(default=[1.0, 0.7], min_length=1)
    """The n completions are divided evenly over these."""
    sampling: Sampling = Sampling()
    """How completions are drawn; its temperature is replaced by `temperatures`."""
    pairs: PairSettings = PairSettings()
    """How a pair is made of a prompt's completions."""
    beta: float = Field(default=0.1, gt=0)
    """DPO's pull to the reference; other losses have theirs in `options`."""
    reference: Literal["fixed", "moving"] = "fixed"
    """pi_0 in every iteration, or the iterate that the answers are drawn from."""
    start: Literal["last", "first"] = "last"
    """Where the training of an iteration starts: at the last iterate, or at pi_0 again."""
    replay: float = Field(default=0.0, ge=0)
    """Pairs of earlier iterations to each new one, the newest of them first."""
    offline: OfflineSettings | None = None
    """Pairs that are there already, to be trained on beside the new ones."""
    kl_every: int = Field(default=20, ge=0)
    """Updates between measurements of `kl`, the exact KL divergence from pi_0 at a few positions of what the first
    iteration trains on; one after the last of each iteration in any case; 0 for none."""
    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate of each iteration."""
    chat_template: str | None = None
    """Name of a built-in chat template, or Jinja text; the tokenizer's own by default."""

    @model_validator(mode="after")
    def _validates_once(self) -> LoopSettings:
        if self.validate_every is not None:
            raise ValueError("`validate_every` has no place here: every iteration ends with a validation")
        return self

    @model_validator(mode="after")
    def _a_loss_of_pairs(self) -> LoopSettings:
        if any(loss.data != "pairs" for loss in self.losses):
            raise ValueError("`iterate` learns from pairs, and `self_reward` too; `sawyer losses` says which losses do")
        if self._given("beta") and (self.loss != "dpo" or "beta" in self.options):
            raise ValueError("`beta` is that of the loss dpo; give others theirs in `options`")
        return self

    @model_validator(mode="after")
    def _sampling_at_its_temperatures(self) -> LoopSettings:
        for temperature in (*self.temperatures, 1.0):  # 1 is that of the validation
            if (reason := contradiction(self.sampling.model_copy(update={"temperature": temperature}))) is not None:
                raise ValueError(
                    f"with its temperature replaced by {temperature:g}, sampling contradicts itself: {reason}"
                )
        return self

    def _given(self, name: str) -> bool:
        """Whether a setting is another than by default: recipes are written out with all of theirs."""
        default = type(self).model_fields[name].get_default(call_default_factory=True)
        return getattr(self, name) != default

    def mix(self) -> list[Any]:
        """As in `LossSettings`; DPO's beta is a setting of its own."""
        if self.loss == "dpo":
            return LossSettings(loss="dpo", options={"beta": self.beta, **self.options}).mix()
        return super().mix()
