"""What scores or compares the answers of a policy that learns from them: settings, and the source they ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from sawyer.errors import SawyerError
from sawyer.feedback.judge_settings import JudgeForm
from sawyer.feedback.panel import check_panel
from sawyer.pipeline.stage import Context, Ref
from sawyer.pipeline.stages._common import chat_of, reward_model_of
from sawyer.pipeline.stages._gold import gold_of
from sawyer.rollout.api_settings import ApiSettings
from sawyer.settings import Settings

if TYPE_CHECKING:
    from sawyer.feedback.judges import FormJudge
    from sawyer.feedback.panel import Panel
    from sawyer.feedback.protocol import Feedback
    from sawyer.rollout.protocol import Engine


class JudgeSettings(JudgeForm):
    """A language model that compares answers, or rates them."""

    model: Annotated[str, Ref("policy")] | None = None
    """Here, on the torch engine."""
    remote: str | None = None
    """Or what an endpoint calls it."""
    api: ApiSettings = ApiSettings()
    """With `remote`: the endpoint. What it has answered is kept until the stage is finished."""
    both_orders: bool = True
    """Ask each question about several answers twice, their order reversed, and take the mean."""

    @model_validator(mode="after")
    def _one_model(self) -> JudgeSettings:
        if (self.model is None) == (self.remote is None):
            raise ValueError("a judge is a `model` of the recipe or a `remote` one: give one of the two")
        if self.remote is None and self.api != ApiSettings():
            raise ValueError("`api` is for a `remote` judge")
        return self


class PanelSettings(Settings):
    """Several judges that judge together."""

    judges: list[JudgeSettings] = Field(min_length=2)
    """Each as `judge` has it."""
    rule: Literal["mean", "median", "majority", "reliability"] = "mean"
    """How they become one: the mean or the median of what they say, the share that prefers an answer, or their verdicts
    weighed by how often each judge is right."""
    accuracies: list[float] | None = None
    """With `rule: reliability`: how often each judge is right, as `sawyer judge --panel reliability` measures it."""

    @model_validator(mode="after")
    def _fitting(self) -> PanelSettings:
        try:
            check_panel(len(self.judges), self.rule, self.accuracies)
        except SawyerError as error:
            raise ValueError(str(error)) from None
        if self.rule == "reliability" and self.accuracies is None:
            raise ValueError("`rule: reliability` needs the `accuracies` of the judges, which a few pairs cannot tell")
        return self


def feedback_of(settings: Any, context: Context) -> Feedback:
    """What the settings name as `gold`, `judge`, `panel` or `reward`."""
    if (gold := gold_of(context, settings, settings.token_budget)) is not None:
        return gold
    judge = getattr(settings, "judge", None)
    if judge is not None:
        return judge_of(judge, context)
    panel = getattr(settings, "panel", None)
    if panel is not None:
        return panel_of(panel, context)
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


def judge_of(settings: JudgeSettings, context: Context) -> FormJudge:
    """The judge of the settings. What it answers is kept until the stage is finished."""
    from sawyer.feedback.judges import make_judge

    return make_judge(engine_of(settings, context), settings, context.seed)


def panel_of(settings: PanelSettings, context: Context) -> Panel:
    """The panel of the settings; judges by the same model share it."""
    from sawyer.feedback.judges import make_judge
    from sawyer.feedback.panel import Panel

    engines: dict[Any, Engine] = {}
    judges: list[Feedback] = []
    for judge in settings.judges:
        asked = (judge.model, judge.remote, judge.api.model_dump_json(), judge.read == "tokens")
        if asked not in engines:
            engines[asked] = engine_of(judge, context)
        judges.append(make_judge(engines[asked], judge, context.seed))
    return Panel(judges, settings.rule, accuracies=settings.accuracies)


def engine_of(settings: JudgeSettings, context: Context) -> Engine:
    """The engine of a judge, which keeps its answers: a stage that was killed does not ask again."""
    engine = answering(settings, context)
    if settings.remote is not None:
        return engine
    from sawyer.rollout.kept import KeptEngine

    identity = [context.identity(str(settings.model)), context.precision]
    return KeptEngine(engine, context.scratch / "judged", identity)


def answering(settings: Any, context: Context) -> Engine:
    """What answers where settings name a `model` or a `remote` one; the latter keeps its answers, one by one."""
    if settings.remote is not None:
        from sawyer.feedback.token_verdicts import TOPS
        from sawyer.rollout.api_engine import ApiEngine

        tops = TOPS if settings.read == "tokens" else 0
        return ApiEngine(settings.remote, settings.api, cache=context.scratch / "judged", tops=tops)
    from sawyer.models.load import load_policy
    from sawyer.models.precision import DTYPES
    from sawyer.rollout.torch_engine import TorchEngine

    name = context.model(str(settings.model))
    model: Any = load_policy(name, dtype=DTYPES[context.precision])
    return TorchEngine(model.to(context.accelerator.device), chat_of(name, None), take=True)
