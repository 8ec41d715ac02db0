"""Stage `preference`: any loss of `sawyer losses`, or a weighted sum of several, on pairs, rankings or labels."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from sawyer.pipeline.stage import Context, Ref, Stage
from sawyer.pipeline.stages._common import TrainingSettings, training_needs
from sawyer.pipeline.stages._losses import LossSettings


class Settings(TrainingSettings, LossSettings):
    model: Annotated[str, Ref("policy")]
    """The policy to start from."""
    data: Annotated[str, Ref("data")]
    """Comparisons; kto takes labelled completions too. Losses of pairs take the best and the worst of more."""
    reference: Annotated[str, Ref("policy")] | None = None
    """The reference policy; the one it starts from by default."""
    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate."""

    @model_validator(mode="after")
    def _a_reference_that_is_used(self) -> Settings:
        if self.reference is not None and not any(loss.reference for loss in self.losses):
            raise ValueError(
                f"{' and '.join(loss.name for loss in self.losses)} use no reference, and `reference` is set: leave it "
                "out"
            )
        return self


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.pipeline.stages._preference import train

    return train(settings, context, settings.mix())


STAGE = Stage(
    "preference",
    Settings,
    run,
    makes="policy",
    help="preference optimisation with any loss, or several",
    needs=training_needs,
)
