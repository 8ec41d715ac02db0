"""Stage `sft`: instruction tuning on the assistant's tokens of conversations."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from sawyer.pipeline.stage import Context, Ref, Stage
from sawyer.pipeline.stages._common import TrainingSettings, training_needs


class Settings(TrainingSettings):
    model: Annotated[str, Ref("policy")]
    """The model to tune."""
    data: Annotated[str, Ref("data")]
    """Conversations; of comparisons the best completion is taken."""
    condition: Literal["attributes"] | None = None
    """`attributes`: every prompt asks for the attributes that its answer has (`info.attributes`, as stage `attributes`
    writes them), so that the policy can be asked for them (SteerLM). The last answer alone is learned then."""


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.models.adapters import Trainable
    from sawyer.models.load import load_policy
    from sawyer.pipeline.stages._common import chat_of, conversation_trees, fit, save_trained
    from sawyer.train.objectives import sft
    from sawyer.trees.model import TreePolicy

    context.track(settings.trackers)
    name = context.model(settings.model)
    chat = chat_of(name, settings.chat_template)
    scheme = None
    if settings.condition is None:
        trees = conversation_trees(context, settings, settings.part, chat, settings.limit)
        held_out = conversation_trees(context, settings, settings.validation, chat) if settings.validation else []
    else:
        from sawyer.pipeline.stages._conditioned import conditioned_trees

        trees, scheme = conditioned_trees(context, settings, settings.part, chat, settings.limit)
        held_out = conditioned_trees(context, settings, settings.validation, chat)[0] if settings.validation else []
    trainable = Trainable(lambda: load_policy(name), settings.lora, seed=context.seed)
    policy = TreePolicy(trainable.model)
    result = fit(context, settings, policy, trees, sft(), held_out)
    save_trained(context, trainable, result.weights, chat)
    if scheme is not None and context.is_main:
        scheme.save(context.folder)
    return {"conversations": len(trees), **result.figures}


STAGE = Stage(
    "sft", Settings, run, makes="policy", help="instruction tuning on the assistant's tokens", needs=training_needs
)
