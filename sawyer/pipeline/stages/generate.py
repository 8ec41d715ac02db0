"""Stage `generate`: completions of a policy for prompts of a data set, written beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from sawyer.pipeline.stage import Context, Ref, Stage
from sawyer.pipeline.stages._engines import EngineSettings
from sawyer.rollout.sampling import Sampling

if TYPE_CHECKING:
    from sawyer.rollout.protocol import Engine


class Settings(EngineSettings):
    model: Annotated[str, Ref("policy")]
    """The policy that answers."""
    data: Annotated[str, Ref("data")]
    """Where the prompts come from (completions that they have are ignored)."""
    parts: list[str] = Field(default=["train"], min_length=1)
    """Which parts of the data to answer."""
    limit: int | None = Field(default=None, ge=1)
    """Answer at most so many prompts of each part."""
    n: int = Field(default=4, ge=1)
    """Completions of each prompt."""
    sampling: Sampling = Sampling()
    """How completions are drawn."""
    attributes: dict[str, int] = Field(default_factory=dict)
    """Attributes that the answers are asked to have, name to value, of a policy that was trained with them (stage `sft`
    with `condition`); those that are not named get their usual value."""
    chat_template: str | None = None
    """Name of a built-in chat template, or Jinja text; the tokenizer's own by default."""


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.pipeline.stages._common import mean, prompts_of, write_completions
    from sawyer.pipeline.stages._conditioned import wanted
    from sawyer.pipeline.stages._engines import engine_for
    from sawyer.rollout.conditioned import ConditionedEngine
    from sawyer.rollout.files import generate_resumably
    from sawyer.rollout.unanswered import answered

    if not context.is_main:
        return {}
    place = context.model(settings.model)
    values = wanted(context, settings.model, place, settings.attributes)
    engine: Engine = engine_for(context, settings, place, settings.chat_template)
    if values:
        engine = ConditionedEngine(engine, values)
    figures: dict[str, Any] = {"attributes": values} if values else {}
    for part in settings.parts:
        prompts = prompts_of(context, settings.data, part, settings.limit)
        completions = generate_resumably(
            engine,
            prompts,
            settings.sampling,
            settings.n,
            seed=context.seed,
            folder=context.scratch / part,
            journal=context,
            title=f"{settings.model} answers {part}",
            keep_failed=True,
        )
        asked = len(prompts)
        prompts, completions = answered(prompts, completions, f"prompts of {settings.data}/{part}", context.say)
        write_completions(context.folder / f"{part}.jsonl", prompts, completions)
        every = [completion for of_prompt in completions for completion in of_prompt]
        figures[part] = len(every)
        if len(prompts) < asked:
            figures[f"{part}_unanswered"] = asked - len(prompts)
        figures[f"{part}_tokens"] = mean([len(c.ids) for c in every])
        figures[f"{part}_finished"] = mean([float(c.finished) for c in every])
    return figures


STAGE = Stage(
    "generate", Settings, run, makes="completions", help="completions of a policy for the prompts of a data set"
)
