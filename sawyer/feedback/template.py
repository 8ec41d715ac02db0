"""The chat template that a scorer reads with: the one it was trained with, which is saved with its tokenizer.

Another template gives numbers all the same, of a text such as the model never saw, so it has to be forced.
"""

from __future__ import annotations

from collections.abc import Sequence

from sawyer.data.chat import ChatFormat
from sawyer.data.records import Message, assistant, user
from sawyer.errors import SawyerError
from sawyer.models.load import load_tokenizer, model_kind

_ONE_TURN: list[Message] = [user("Why?"), assistant("Because.")]
_DIALOGUES: tuple[list[Message], ...] = (
    _ONE_TURN,
    [*_ONE_TURN, *_ONE_TURN],
    [{"role": "system", "content": "Be brief."}, *_ONE_TURN],
)


def scoring_format(name: str, template: str | None = None, *, force: bool = False) -> ChatFormat:
    """How the language model `name` reads conversations: by its own template, else by the one given, else by `plain`.

    Args:
        name: folder, hub name or alias.
        template: by name or as Jinja text. Where the model has its own, it must write the same tokens.
        force: take it although it does not.

    Raises:
        SawyerError: the template is another than the model's own, or does not work with its tokenizer.
    """
    tokenizer = load_tokenizer(name)
    asked = ChatFormat(tokenizer, template, default="plain")
    if template is None or force or getattr(tokenizer, "chat_template", None) is None:
        return asked
    if not _alike(asked, ChatFormat(tokenizer, default="plain")):
        raise SawyerError(
            f"{name} was trained with another chat template than the one given (chat_template), so its scores would "
            "mean little; leave the template out, or force it (--force)"
        )
    return asked


def check_reading(name: str, template: str | None, *, force: bool = False) -> ChatFormat | None:
    """How a reward model of any kind reads conversations: `scoring_format`; None for an encoder, which reads texts.

    Raises:
        SawyerError: as `scoring_format`; an encoder is given a template.
    """
    if model_kind(name) == "decoder":
        return scoring_format(name, template, force=force)
    if template is not None:
        raise SawyerError(f"{name} is an encoder, which reads texts without a chat template; leave it out")
    return None


def _alike(one: ChatFormat, other: ChatFormat) -> bool:
    """Whether two templates write conversations with the same tokens."""
    if one.template == other.template:
        return True
    return all(_written(one, dialogue) == _written(other, dialogue) for dialogue in _DIALOGUES)


def _written(chat: ChatFormat, dialogue: Sequence[Message]) -> tuple[list[int], list[bool]] | None:
    """The tokens and which are the assistant's; None where the template refuses the dialogue."""
    try:
        return chat.conversation_ids(dialogue)
    except SawyerError:
        return None
