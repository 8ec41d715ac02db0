"""Stage `judge_tuning`: judgements to tune a judge on (evaluation fine-tuning), out of answers that were ranked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sawyer.pipeline.stage import Context, Ref, Stage
from sawyer.pipeline.stages._raters import RaterSettings
from sawyer.settings import Settings as BaseSettings


class Settings(BaseSettings):
    data: Annotated[str, Ref("data")]
    """Comparisons: answers that people, or whoever is to be believed, have ranked."""
    parts: list[str] = Field(default=["train"], min_length=1)
    """Which parts of them."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many comparisons of each part."""
    by: Literal["judge", "ranks"] = "judge"
    """Whose words are learned: the judge's own, where its points agree with the ranks (self-rewarding models); or the
    points alone that the ranks, or the data's scores, stand for, for models whose judgements agree with nobody. A
    judge tuned on these is to be asked with `explain: false` or `read: tokens`."""
    judge: RaterSettings | None = None
    """With `by: judge`: the model that judges each answer, and how it is asked; several `samples` give more to keep."""
    most: float = Field(default=0.5, gt=0, le=1)
    """The largest share of judgements with the same points; more are dropped at random."""
    seeds: Annotated[str, Ref("data")] | None = None
    """Conversations that are put beside, each part into the part of the same name: the instructions to tune on."""

    @model_validator(mode="after")
    def _a_judge_that_is_asked(self) -> Settings:
        if (self.by == "judge") != (self.judge is not None):
            raise ValueError("`by: judge` needs `judge`, and `by: ranks` asks none: give both or neither")
        if self.judge is not None and self.judge.read == "tokens":
            raise ValueError("judgements to learn are the judge's words: leave `read: tokens` out")
        return self


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.pipeline.stages._judge_tuning import judge_tuning

    return judge_tuning(settings, context) if context.is_main else {}


STAGE = Stage("judge_tuning", Settings, run, makes="data", help="judgements that agree with people, to tune a judge on")
