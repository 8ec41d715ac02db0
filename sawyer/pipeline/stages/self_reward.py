"""Stage `self_reward`: a policy that makes its own prompts, judges its own answers, and learns from the pairs."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from sawyer.methods.self_instruct import InstructionSettings
from sawyer.pipeline.stage import Context, Ref, Stage
from sawyer.pipeline.stages._common import training_needs
from sawyer.pipeline.stages._iterate_settings import LoopSettings
from sawyer.pipeline.stages._raters import AskingSettings
from sawyer.rollout.sampling import Sampling
from sawyer.settings import Settings as BaseSettings


class RankedSettings(BaseSettings):
    """Answers that the judge is measured on."""

    data: Annotated[str, Ref("data")]
    """Comparisons: ranked by people, or by a gold reward."""
    part: str = "validation"
    """Which part of them; the judge should not have been tuned on it."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many."""


class Settings(LoopSettings):
    """`model` is the policy after tuning on instructions and judgements (M_1), `data` the seeds, whose prompts new ones
    are modelled on. What a loop starts from is as in the paper: 4 answers at 0.7, and DPO against the last iterate."""

    ranked: RankedSettings
    """What the judge's accuracy is measured on, before the first iteration and after each."""
    iterations: int = Field(default=2, ge=1)
    """How often to make prompts, answer, judge and train."""
    n: int = Field(default=4, ge=2)
    """Completions of each prompt."""
    temperatures: list[float] = Field(default=[0.7], min_length=1)
    """The n completions are divided evenly over these."""
    sampling: Sampling = Sampling(top_p=0.9)
    """How completions are drawn; its temperature is replaced by `temperatures`."""
    reference: Literal["fixed", "moving"] = "moving"
    """pi_0 in every iteration, or the iterate that the answers are drawn from."""
    writer: Annotated[str, Ref("policy")] | None = None
    """What makes the new prompts; the policy itself by default. (The paper asks a chat model that is not trained.)"""
    instruct: InstructionSettings = InstructionSettings()
    """How new prompts are made out of the seeds, and which are kept; how many, `prompts` says."""
    instruct_sampling: Sampling = Sampling(temperature=0.6, top_p=0.9, max_tokens=512)
    """How new prompts are drawn."""
    judge: AskingSettings = AskingSettings(temperature=0.7, samples=3)
    """How the policy is asked to judge an answer: from 0 to 5 points, a mean over the samples."""

    scores: ClassVar[str] = "rewards"
    learn: ClassVar[str] = "pairs"
    explore: ClassVar[None] = None
    teacher: ClassVar[None] = None
    has_gold: ClassVar[bool] = False

    @model_validator(mode="after")
    def _how_many_is_said_once(self) -> Settings:
        if self.instruct.instructions != InstructionSettings().instructions:
            raise ValueError("`prompts` says how many prompts to make: leave `instruct.instructions` out")
        return self

    @model_validator(mode="after")
    def _tokens_that_can_be_read(self) -> Settings:
        if self.judge.read == "tokens" and self.engine == "vllm":
            raise ValueError("`judge.read: tokens` needs `engine: torch`; with vLLM replies are read")
        return self

    @model_validator(mode="after")
    def _points_are_no_probabilities(self) -> Settings:
        if any(loss.name == "sppo" for loss in self.losses):
            raise ValueError("sppo takes scores for probabilities of winning, and points are none: take another loss")
        return self


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.pipeline.stages._self_reward import SelfRewarding

    context.track(settings.trackers)
    return SelfRewarding(settings, context).run()


STAGE = Stage(
    "self_reward",
    Settings,
    run,
    makes="policy",
    help="a policy that makes its prompts, judges its answers, and learns from the pairs",
    needs=training_needs,
)
