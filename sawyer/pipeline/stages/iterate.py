"""Stage `iterate`: online iterative DPO against any reward (Algorithm 2 of the RLHF Workflow), and its relatives."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sawyer.methods.exploration import ExploreSettings
from sawyer.methods.games import Scores
from sawyer.pipeline.stage import Context, Ref, Stage
from sawyer.pipeline.stages._common import training_needs
from sawyer.pipeline.stages._gold import GoldSettings
from sawyer.pipeline.stages._iterate_settings import LoopSettings
from sawyer.settings import Settings as Settings_


class TeacherSettings(Settings_):
    """Answers of someone else to the same prompts."""

    data: Annotated[str, Ref("data")]
    """Comparisons; prompts that have none among them get no such answer."""
    part: str = "train"
    """Which part of them."""
    take: Literal["best", "all"] = "best"
    """The best completion of each comparison, or all of them."""


class Settings(LoopSettings, GoldSettings):
    reward: Annotated[str, Ref("reward_model", "preference_model")] | None = None
    """The model that scores the answers, or compares them. In its place a gold reward, whose answers are counted."""
    validation: str = "validation"
    """Prompts on which the best iterate is chosen, by this reward; with a pairwise model by how often it beats pi_0."""
    validation_prompts: int = Field(default=64, ge=1)
    """How many prompts of the validation part to answer after each iteration."""
    explore: ExploreSettings | None = None
    """Some of the n completions come from earlier policies; none for none."""
    teacher: TeacherSettings | None = None
    """Answers of someone else, scored beside the n (DNO's teacher, SELM's pool); none for none."""
    scores: Scores = "rewards"
    """What losses with scores see of a completion: its reward, or how often it beats the prompt's completions by the
    reward (SPPO)."""
    learn: Literal["pairs", "best"] = "pairs"
    """From pairs by `loss`; or from the best completion alone, by fine-tuning on it (RAFT, rejection sampling)."""

    @model_validator(mode="after")
    def _one_that_scores(self) -> Settings:
        if (self.reward is None) != self.has_gold:
            raise ValueError("give `reward`, a model, or a gold reward (`gold: verifiable`), and not both")
        return self

    @model_validator(mode="after")
    def _one_pair_of_the_best(self) -> Settings:
        if self.learn == "best" and self.pairs.rule == "all":
            raise ValueError("`learn: best` fine-tunes on the best completion, and `pairs.rule: all` has several")
        return self

    @model_validator(mode="after")
    def _options_that_do_something(self) -> Settings:
        if self.learn == "best":
            for name in ("beta", "loss", "offline", "options", "reference", "scores"):
                if self._given(name):
                    raise ValueError(f"`learn: best` trains on single completions, and has no use for {name!r}")
        elif self.scores == "rewards" and any(loss.name == "sppo" for loss in self.losses):
            raise ValueError(
                "sppo takes scores for probabilities of winning, and rewards are none: set `scores: win_rates`"
            )
        elif self.scores == "win_rates" and not any(loss.scores for loss in self.losses):
            raise ValueError("`scores: win_rates` is for losses with scores (sppo, dno), and none is given")
        return self


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.pipeline.stages._iterate import Iterations

    context.track(settings.trackers)
    return Iterations(settings, context).run()


STAGE = Stage(
    "iterate",
    Settings,
    run,
    makes="policy",
    help="online iterative DPO, and its relatives, against any reward",
    needs=training_needs,
)
