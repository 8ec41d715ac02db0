"""Stage `dpo`: direct preference optimisation on pairs, against the policy it starts from or another reference."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from sawyer.pipeline.stage import Context, Stage
from sawyer.pipeline.stages._common import training_needs
from sawyer.pipeline.stages._preference_settings import PreferenceSettings


class Settings(PreferenceSettings):
    beta: float = Field(default=0.1, gt=0)
    """Strength of the pull to the reference."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """The probability that a label is wrong (conservative DPO)."""


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
