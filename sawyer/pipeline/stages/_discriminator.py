"""The discriminator of stage `d2po`: what it starts from, and how it learns."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from sawyer.errors import SawyerError
from sawyer.feedback.template import check_reading
from sawyer.models.adapters import Trainable
from sawyer.models.load import load_sequence_classifier, model_kind
from sawyer.models.locate import MULTI_OBJECTIVE, is_reward_model, locate
from sawyer.pipeline.stage import Context
from sawyer.train.discriminator import Discriminator
from sawyer.train.settings import OptimizerSettings

if TYPE_CHECKING:
    from sawyer.pipeline.stages.d2po import Settings


def discriminator_of(
    context: Context, settings: Settings, vocabulary: dict[str, int], policy: str
) -> tuple[Discriminator, bool]:
    """The discriminator that the settings describe, and whether its head is a fresh one.

    Raises:
        SawyerError: it is no decoder with one output, or has another tokenizer than the policy.
    """
    own = settings.discriminator
    name = policy if own.model is None else context.model(own.model)
    place = locate(name)
    if model_kind(name) != "decoder" or (place / MULTI_OBJECTIVE).is_file():
        raise SawyerError(
            f"stage {context.name}: the discriminator is trained as a decoder with one score, and {name} is another "
            "kind of model; start it from a reward model of the policy's kind, or leave `discriminator.model` out"
        )
    fresh = not is_reward_model(place)
    chat = check_reading(name, settings.chat_template, force=fresh)
    assert chat is not None, "a decoder reads conversations"
    if chat.tokenizer.get_vocab() != vocabulary:
        raise SawyerError(
            f"stage {context.name}: the discriminator {name} has another tokenizer than the policy {policy}, so it "
            "would read other tokens than the policy learns from; start it from a model of the policy's family, or "
            "leave `discriminator.model` out"
        )

    def load() -> Any:
        return load_sequence_classifier(name, num_labels=1, fresh_head=True, seed=context.seed)

    optimizer = OptimizerSettings(
        learning_rate=own.learning_rate, schedule="constant", warmup_ratio=0.0, batch_size=own.batch_size,
        token_budget=settings.token_budget, lora=own.lora,
    )  # fmt: skip
    discriminator = Discriminator(
        Trainable(load, own.lora, task="SEQ_CLS", seed=context.seed), chat, optimizer,
        centring=own.centring, precision=context.precision, device=context.accelerator.device,
        accelerator=context.accelerator,
    )  # fmt: skip
    return discriminator, fresh


class Unlogged:
    """A journal that shows the progress of a training and drops its figures."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def log(self, **figures: Any) -> None:
        pass

    def position(self) -> int:
        return 0

    def rewind(self, position: int) -> None:
        pass

    def progress(
        self, total: int | None, title: str, unit: str = "step", start: int = 0
    ) -> AbstractContextManager[Any]:
        return self._context.progress(total, title, unit, start)

    def say(self, text: str) -> None:
        self._context.say(text)
