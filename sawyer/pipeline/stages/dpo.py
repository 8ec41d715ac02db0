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
    from sawyer.data.records import Comparison
    from sawyer.models.adapters import Trainable
    from sawyer.models.load import load_policy
    from sawyer.pipeline.stages._common import chat_of, fit, save_trained, trees_of
    from sawyer.train.objectives import dpo
    from sawyer.train.reference import with_reference
    from sawyer.trees.build import comparison_tree
    from sawyer.trees.model import TreePolicy

    context.track(settings.trackers)
    name = context.model(settings.model)
    chat = chat_of(name, settings.chat_template)
    make = lambda record: comparison_tree(chat, record, pair=True)
    trees, _ = trees_of(context, settings, settings.data, settings.part, (Comparison,), make, settings.limit)
    held_out: list[Any] = []
    if settings.validation:
        held_out, _ = trees_of(context, settings, settings.data, settings.validation, (Comparison,), make)
    both = with_reference(
        lambda: load_policy(context.model(settings.reference or settings.model)),
        [*trees, *held_out],
        precision=context.precision,
        token_budget=settings.token_budget,
        file=context.scratch / "reference.json",
        journal=context,
        device=context.accelerator.device,
        writes=context.is_main,
    )
    trees, held_out = both[: len(trees)], both[len(trees) :]
    trainable = Trainable(lambda: load_policy(name), settings.lora, seed=context.seed)
    policy = TreePolicy(trainable.model)
    objective = dpo(beta=settings.beta, label_smoothing=settings.label_smoothing)
    result = fit(context, settings, policy, trees, objective, held_out)
    save_trained(context, trainable, result.weights, chat)
    return {"pairs": len(trees), **result.figures}


STAGE = Stage(
    "dpo", Settings, run, makes="policy", help="direct preference optimisation on pairs", needs=training_needs
)
