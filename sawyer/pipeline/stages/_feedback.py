"""What scores or compares the answers of a policy that learns from them: settings, and the source they ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from sawyer.errors import SawyerError
from sawyer.feedback.asking import check_asking
from sawyer.pipeline.stage import Context, Ref
from sawyer.pipeline.stages._common import chat_of, reward_model_of
from sawyer.pipeline.stages._gold import gold_of
from sawyer.rollout.api_settings import ApiSettings
from sawyer.settings import Settings

if TYPE_CHECKING:
    from sawyer.feedback.asking import Asker
    from sawyer.feedback.protocol import Feedback
    from sawyer.rollout.protocol import Engine


class JudgeModel(Settings):
    """A language model that judges: here, or at an endpoint."""

    model: Annotated[str, Ref("policy")] | None = None
    """Here, on the torch engine."""
    remote: str | None = None
    """Or what an endpoint calls it."""
    api: ApiSettings = ApiSettings()
    """With `remote`: the endpoint. What it has answered is kept until the stage is finished."""

    @model_validator(mode="after")
    def _one_model(self) -> JudgeModel:
        if (self.model is None) == (self.remote is None):
            raise ValueError("a judge is a `model` of the recipe or a `remote` one: give one of the two")
        if self.remote is None and self.api != ApiSettings():
            raise ValueError("`api` is for a `remote` judge")
        return self


class JudgeSettings(JudgeModel):
    """A language model that compares two answers."""

    both_orders: bool = True
    """Ask for each pair twice, the answers changed round, and take the mean."""
    max_tokens: int = Field(default=512, ge=1)
    """The judge's longest answer."""


class AskingSettings(Settings):
    """How a judge is asked, and what becomes of replies that cannot be read."""

    max_tokens: int = Field(default=512, ge=1)
    """The judge's longest reply."""
    temperature: float = Field(default=0.0, ge=0)
    """Of its replies; 0 is greedy."""
    samples: int = Field(default=1, ge=1)
    """Replies to each question, of which the mean counts; more than one needs a temperature."""
    retries: int = Field(default=1, ge=0)
    """How often a reply that cannot be read is asked for again."""
    explain: bool = True
    """Have it say why before its verdict; without, replies are a line, which costs less and suits judges that were
    tuned so."""
    unread_limit: float | None = Field(default=0.5, ge=0, le=1)
    """The largest share of replies that cannot be read; more stops the stage. None goes on in any case."""

    @model_validator(mode="after")
    def _that_asks_something(self) -> AskingSettings:
        try:
            asking = self.model_dump(include={"temperature", "samples", "retries", "unread_limit"})
            check_asking(**asking, who="judge")
        except SawyerError as error:
            raise ValueError(str(error)) from error
        return self


class RaterSettings(AskingSettings, JudgeModel):
    """A language model that rates one answer at a time."""


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

    engine = judge_engine(settings, context)
    return Judge(engine, both_orders=settings.both_orders, max_tokens=settings.max_tokens, seed=context.seed)


def judge_engine(settings: JudgeModel, context: Context) -> Engine:
    """What answers as the judge; the answers of a remote one are kept in the scratch."""
    if settings.remote is not None:
        from sawyer.rollout.api_engine import ApiEngine

        return ApiEngine(settings.remote, settings.api, cache=context.scratch / "judged")
    from sawyer.models.load import load_policy
    from sawyer.models.precision import DTYPES
    from sawyer.rollout.torch_engine import TorchEngine

    name = context.model(str(settings.model))
    model: Any = load_policy(name, dtype=DTYPES[context.precision])
    return TorchEngine(model.to(context.accelerator.device), chat_of(name, None), take=True)


def asker_of(settings: AskingSettings, engine: Engine, seed: int) -> Asker:
    """What puts a judge's questions to an engine, as the settings say."""
    from sawyer.feedback.asking import Asker

    return Asker(
        engine,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        samples=settings.samples,
        retries=settings.retries,
        seed=seed,
        unread_limit=settings.unread_limit,
    )
