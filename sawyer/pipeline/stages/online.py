"""Stage `online`: online DPO, Nash-MD and their relatives, a step at a time, with any feedback."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from sawyer.methods.iterative import PairSettings
from sawyer.methods.online import NashSettings, OptimismSettings
from sawyer.pipeline.stage import Context, Ref, Stage
from sawyer.pipeline.stages._common import training_needs
from sawyer.pipeline.stages._engines import EngineSettings
from sawyer.pipeline.stages._feedback import JudgeSettings, PanelSettings
from sawyer.pipeline.stages._gold import GoldSettings
from sawyer.pipeline.stages._losses import LossSettings
from sawyer.rollout.sampling import Sampling, contradiction
from sawyer.train.settings import OptimizerSettings


class Settings(OptimizerSettings, EngineSettings, LossSettings, GoldSettings):
    model: Annotated[str, Ref("policy")]
    """The policy to start from, and the reference (pi_0)."""
    data: Annotated[str, Ref("data")]
    """Where the prompts come from."""
    reward: Annotated[str, Ref("reward_model", "preference_model")] | None = None
    """The model that scores the answers, or compares them."""
    judge: JudgeSettings | None = None
    """In place of `reward`: a language model that is asked which answer is better, or how good each is."""
    panel: PanelSettings | None = None
    """Or several judges that judge together."""
    part: str = "train"
    """Which part of the data to train on."""
    validation: str | None = None
    """Prompts to answer every `validate_every` updates and at the end."""
    validation_prompts: int = Field(default=64, ge=1)
    """How many of them."""
    steps: int = Field(default=64, ge=1)
    """Updates, each on `batch_size` prompts: the next ones of the data."""
    n: int = Field(default=2, ge=2)
    """Completions of each prompt."""
    sampling: Sampling = Sampling(temperature=0.9)
    """How completions are drawn."""
    pairs: PairSettings = PairSettings()
    """How a pair is made of a prompt's completions."""
    optimism: OptimismSettings | None = None
    """Drives the policy away from the reference's answers; none for none."""
    nash: NashSettings | None = None
    """Nash-MD in place of a loss of pairs: one answer against one of the policy and the reference mixed."""
    overlap: bool = False
    """Draw the answers of the next update while this one trains, by the weights before it."""
    learning_rate: float = Field(default=5e-7, gt=0)
    """Peak learning rate."""
    chat_template: str | None = None
    """Name of a built-in chat template, or Jinja text; the tokenizer's own by default."""

    @model_validator(mode="after")
    def _fitting(self) -> Settings:
        judged = [self.judge is not None, self.panel is not None]
        if [self.reward is not None, self.has_gold, *judged].count(True) != 1:
            raise ValueError(
                "give `reward`, a model, or a gold reward (`gold: verifiable`), or a `judge`, or a `panel` of judges: "
                "one of them"
            )
        if self.epochs != 1:
            raise ValueError("`epochs` has no place here: `steps` says how many updates there are")
        if self.validate_every is not None and self.validation is None:
            raise ValueError("`validate_every` needs prompts to measure on: name a part with `validation`")
        if any(loss.data != "pairs" for loss in self.losses):
            raise ValueError("`online` learns from pairs; `sawyer losses` says which losses do")
        if self.optimism is not None and self.optimism.kind == "xpo" and self.n != 2:
            raise ValueError("xpo pairs one answer of the policy with one of the reference: leave `n` at 2")
        if self.nash is not None:
            fields = type(self).model_fields
            for name in ("loss", "options", "pairs", "n", "optimism"):
                if getattr(self, name) != fields[name].get_default(call_default_factory=True):
                    raise ValueError(f"`nash` sets one answer against another, and has no use for `{name}`")
            if self.engine != "torch":
                raise ValueError("`nash` mixes two models token by token, which `engine: torch` alone can")
        if (reason := contradiction(self.sampling)) is not None:
            raise ValueError(f"sampling contradicts itself: {reason}")
        return self

    @property
    def beta(self) -> float:
        """That of the first loss."""
        part, loss = self.parts[0], self.losses[0]
        return float(part.options.get("beta", loss.options.get("beta", 1.0)))


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.pipeline.stages._online import Steps

    context.track(settings.trackers)
    return Steps(settings, context).run()


STAGE = Stage(
    "online",
    Settings,
    run,
    makes="policy",
    help="online DPO and Nash-MD, a step at a time, with any feedback",
    needs=training_needs,
    version=2,
)
