"""What tells harmful answers and refusals in a stage: its settings, and the classifier that they ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import model_validator

from sawyer.pipeline.stage import Context, Ref
from sawyer.pipeline.stages._speakers import AskedSettings, Speakers
from sawyer.settings import Settings

if TYPE_CHECKING:
    from sawyer.feedback.harm import Classifier


class ClassifierSettings(Settings):
    """How an answer is told to refuse, evade or comply, and to be harmful."""

    by: Literal["rule", "reward", "judge"] = "rule"
    """`rule`: by its words alone, and what complies counts as harmful. `reward`: of what complies by its words, that
    with a low reward. `judge`: as a language model says."""
    reward: Annotated[str, Ref("reward_model")] | None = None
    """With `reward`: a reward model that learned what is harmless."""
    threshold: float = 0.0
    """With `reward`: what complies and has less is harmful."""
    judge: AskedSettings | None = None
    """With `judge`: who is asked."""

    @model_validator(mode="after")
    def _what_it_needs(self) -> ClassifierSettings:
        for name, given in (("reward", self.reward is not None), ("judge", self.judge is not None)):
            if given != (self.by == name):
                raise ValueError(f"`by: {name}` and the setting `{name}` go together: give both or neither")
        if self.threshold != 0 and self.by != "reward":
            raise ValueError("`threshold` is one of rewards: set `by: reward`, or leave it out")
        return self


def classifier_of(
    settings: ClassifierSettings, context: Context, speakers: Speakers, role: str = "judge"
) -> Classifier:
    """The classifier of the settings; a judge's answers are kept under the name of its role."""
    from sawyer.feedback.harm import ByJudge, ByReward, ByRule

    if settings.by == "judge":
        assert settings.judge is not None
        return ByJudge(speakers.asker(settings.judge, role))
    if settings.by == "reward":
        from sawyer.pipeline.stages._common import reward_model_of

        return ByReward(reward_model_of(context, str(settings.reward)), settings.threshold)
    return ByRule()
