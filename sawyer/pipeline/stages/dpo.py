"""Stage `dpo`: direct preference optimisation on pairs, against the policy it starts from or another reference."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from sawyer.pipeline.stage import Context, Ref, Stage
from sawyer.pipeline.stages._common import TrainingSettings, training_needs


class Settings(TrainingSettings):
    model: Annotated[str, Ref("policy")]
    """The policy to start from."""
    data: Annotated[str, Ref("data")]
    """Comparisons; of more than two completions the best and the worst are taken."""
    reference: Annotated[str, Ref("policy")] | None = None
    """The reference policy; the one it starts from by default."""
    beta: float = Field(default=0.1, gt=0)
    """Strength of the pull to the reference."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """The probability that a label is wrong (conservative DPO)."""
    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate."""


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.losses.registry import LOSSES
    from sawyer.pipeline.stages._preference import train
    from sawyer.train.preference import Weighted

    if settings.label_smoothing:
        options = {"beta": settings.beta, "label_smoothing": settings.label_smoothing}
        return train(settings, context, [Weighted(LOSSES["cdpo"], options=options)])
    return train(settings, context, [Weighted(LOSSES["dpo"], options={"beta": settings.beta})])


STAGE = Stage(
    "dpo", Settings, run, makes="policy", help="direct preference optimisation on pairs", needs=training_needs
)
