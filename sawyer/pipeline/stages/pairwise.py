"""Stage `pairwise`: a pairwise preference model, a language model that reads two answers and writes A or B."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from sawyer.pipeline.stage import Context, Ref, Stage
from sawyer.pipeline.stages._common import TrainingSettings, training_needs


class Settings(TrainingSettings):
    model: Annotated[str, Ref("policy", "preference_model")]
    """The model to start from."""
    data: Annotated[str, Ref("data")]
    """Comparisons; of more than two completions every pair is taken."""
    learning_rate: float = Field(default=5e-6, gt=0)
    """Peak learning rate."""
    max_filtered: float = Field(default=0.2, ge=0, le=1)
    """The share of comparisons that may have turns that do not alternate, or are empty; more is an error."""


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.models.adapters import Trainable
    from sawyer.models.load import load_policy
    from sawyer.pipeline.files import write_json
    from sawyer.pipeline.stages._common import chat_of, fit, save_trained
    from sawyer.pipeline.stages._pairwise import evaluation_of, question_trees
    from sawyer.train.objectives import sft
    from sawyer.trees.model import TreePolicy

    context.track(settings.trackers)
    name = context.model(settings.model)
    chat = chat_of(name, settings.chat_template)
    questions = question_trees(context, settings, settings.part, chat, settings.limit)
    held_out = question_trees(context, settings, settings.validation, chat) if settings.validation else None
    trainable = Trainable(lambda: load_policy(name), settings.lora, seed=context.seed)
    policy = TreePolicy(trainable.model)
    result = fit(context, settings, policy, questions.trees, sft(), held_out.trees if held_out else [])
    figures: dict[str, Any] = {"pairs": len(questions.trees), "filtered": questions.filtered, **result.figures}
    if held_out is not None and context.is_main:
        evaluation = evaluation_of(policy, held_out.pairs, chat, settings.token_budget, context.seed)
        write_json(context.folder / "evaluation.json", evaluation)
        figures["held_out"] = evaluation
    save_trained(context, trainable, result.weights, chat)
    return figures


STAGE = Stage(
    "pairwise",
    Settings,
    run,
    makes="preference_model",
    help="a pairwise preference model from comparisons",
    needs=training_needs,
)
