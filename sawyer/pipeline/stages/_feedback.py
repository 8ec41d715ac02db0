"""What scores or compares the answers of a policy that learns from them: settings, and the source they ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from sawyer.pipeline.stage import Context, Ref
from sawyer.pipeline.stages._common import chat_of, reward_model_of
from sawyer.pipeline.stages._gold import gold_of
from sawyer.rollout.api_settings import ApiSettings
from sawyer.settings import Settings

if TYPE_CHECKING:
    from sawyer.feedback.protocol import Feedback


class JudgeSettings(Settings):
    """A language model that compares two answers."""

    model: Annotated[str, Ref("policy")] | None = None
    """Here, on the torch engine."""
    remote: str | None = None
    """Or what an endpoint calls it."""
    api: ApiSettings = ApiSettings()
    """With `remote`: the endpoint. What it has answered is kept until the stage is finished."""
    both_orders: bool = True
    """Ask for each pair twice, the answers changed round, and take the mean."""
    max_tokens: int = Field(default=512, ge=1)
    """The judge's longest answer."""

    @model_validator(mode="after")
    def _one_model(self) -> JudgeSettings:
        if (self.model is None) == (self.remote is None):
            raise ValueError("a judge is a `model` of the recipe or a `remote` one: give one of the two")
        if self.remote is None and self.api != ApiSettings():
            raise ValueError("`api` is for a `remote` judge")
        return self


def feedback_of(settings: Any, context: Context) -> Feedback:
    """What the settings name as `gold`, `judge` or `reward`."""
    if (gold := gold_of(context, settings, settings.token_budget)) is not None:
        return gold
    judge = getattr(settings, "judge", None)
    if judge is not None:
        return _judge(judge, context)
    artifact = context.artifacts.get(settings.reward)
    if artifact is not None and artifact.manifest.get("makes") == "preference_model":
        from sawyer.feedback.pairwise import PairwiseModel

        return PairwiseModel(
            context.model(settings.reward),
            precision=context.precision,
            token_budget=settings.token_budget,
            device=context.accelerator.device,
        )
    return reward_model_of(context, settings.reward, settings.token_budget)


def _judge(settings: JudgeSettings, context: Context) -> Feedback:
    from sawyer.feedback.judge import Judge
    from sawyer.rollout.protocol import Engine

    engine: Engine
    if settings.remote is not None:
        from sawyer.rollout.api_engine import ApiEngine

        engine = ApiEngine(settings.remote, settings.api, cache=context.scratch / "judged")
    else:
        from sawyer.models.load import load_policy
        from sawyer.models.precision import DTYPES
        from sawyer.rollout.torch_engine import TorchEngine

        name = context.model(str(settings.model))
        model: Any = load_policy(name, dtype=DTYPES[context.precision])
        engine = TorchEngine(model.to(context.accelerator.device), chat_of(name, None), take=True)
    return Judge(engine, both_orders=settings.both_orders, max_tokens=settings.max_tokens, seed=context.seed)
