"""Stage `preference`: any loss of `sawyer losses`, or a weighted sum of several, on pairs, rankings or labels."""

from __future__ import annotations

from typing import Any

from sawyer.pipeline.stage import Context, Stage
from sawyer.pipeline.stages._common import training_needs
from sawyer.pipeline.stages._losses import LossSettings
from sawyer.pipeline.stages._preference_settings import PreferenceSettings


class Settings(PreferenceSettings, LossSettings):
    @property
    def names(self) -> str:
        return " and ".join(loss.name for loss in self.losses)

    @property
    def uses_reference(self) -> bool:
        return any(loss.reference for loss in self.losses)

    @property
    def labelled(self) -> bool:
        return any(loss.data == "labelled" for loss in self.losses)


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
