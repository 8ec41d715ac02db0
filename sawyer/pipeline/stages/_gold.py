"""What counts as gold in a stage: computed, another reward model, or the difference of two language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from sawyer.feedback.computed import Computed
from sawyer.pipeline.stage import Context, Ref
from sawyer.settings import Settings

if TYPE_CHECKING:
    from sawyer.feedback.protocol import Feedback


class ContrastSettings(Settings):
    """log p(y | x) under one model minus that under another (D2PO's contrastive distillation)."""

    strong: Annotated[str, Ref("policy")]
    """The model whose log-prob counts for an answer."""
    weak: Annotated[str, Ref("policy")]
    """The one whose log-prob counts against it; of the same tokenizer."""


class GoldSettings(Settings):
    """At most one source of gold rewards."""

    gold: Computed | None = None
    """What counts, where it can be computed: `verifiable` from the prompts' constraints, `arithmetic` from the steps of
    a calculation, the others from the text alone."""
    gold_words: list[str] = Field(default_factory=list)
    """With `bag_of_words`: the words that count, each once."""
    gold_model: Annotated[str, Ref("reward_model")] | None = None
    """What counts where nothing can be computed: a reward model that no policy was trained on."""
    gold_contrast: ContrastSettings | None = None
    """What counts: how much likelier an answer is to one language model than to another."""

    @model_validator(mode="after")
    def _one_gold(self) -> GoldSettings:
        if sum(given is not None for given in (self.gold, self.gold_model, self.gold_contrast)) > 1:
            raise ValueError("give `gold`, `gold_model` or `gold_contrast`, not more than one of them")
        if (self.gold == "bag_of_words") != bool(self.gold_words):
            raise ValueError("`gold: bag_of_words` needs `gold_words`, and no other gold takes them")
        return self

    @property
    def has_gold(self) -> bool:
        return self.gold is not None or self.gold_model is not None or self.gold_contrast is not None


def gold_of(context: Context, settings: GoldSettings, token_budget: int) -> Feedback | None:
    """The gold reward of the settings; None where there is none.

    Raises:
        SawyerError: what it needs is not installed, a model cannot be loaded, or the two of a contrast have different
            tokenizers.
    """
    if settings.gold is not None:
        from sawyer.feedback.computed import computed_reward

        return computed_reward(settings.gold, settings.gold_words)
    if settings.gold_contrast is not None:
        from sawyer.feedback.implicit import ImplicitReward

        return ImplicitReward(
            context.model(settings.gold_contrast.strong),
            context.model(settings.gold_contrast.weak),
            precision=context.precision,
            token_budget=token_budget,
            device=context.accelerator.device,
        )
    if settings.gold_model is not None:
        from sawyer.pipeline.stages._common import reward_model_of

        return reward_model_of(context, settings.gold_model, token_budget)
    return None
