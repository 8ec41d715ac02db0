"""Policies that can be asked for attributes (SteerLM): the trees that teach them, and what they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sawyer.data.attributes import Scheme, conditioned, required_scheme, values_of
from sawyer.data.records import Conversation
from sawyer.errors import SawyerError
from sawyer.models.locate import locate
from sawyer.pipeline.stage import Context
from sawyer.pipeline.stages._common import trees_of
from sawyer.trees.build import completions_tree

if TYPE_CHECKING:
    from sawyer.data.chat import ChatFormat
    from sawyer.trees.tree import TokenTree


def conditioned_trees(
    context: Context, settings: Any, part: str, chat: ChatFormat, limit: int | None = None
) -> tuple[list[TokenTree], Scheme]:
    """Trees of conversations whose prompt asks for the attributes of the last answer, which alone is scored; and the
    scheme of these attributes.

    Raises:
        SawyerError: a conversation has no attributes, or does not end with an answer.
    """

    def make(record: Conversation) -> TokenTree:
        *prompt, answer = record.messages
        if not prompt or answer["role"] != "assistant":
            raise SawyerError(
                f"the conversation that begins {record.messages[0]['content'][:60]!r} is no prompt and an answer, so "
                "nothing can be asked of it"
            )
        return completions_tree(chat, conditioned(prompt, values_of(record)), [answer["content"]])

    trees, records = trees_of(context, settings, settings.data, part, (Conversation,), make, limit)
    return trees, Scheme.of(values_of(record) for record in records)


def wanted(context: Context, model: str, place: str, asked: Mapping[str, int]) -> dict[str, int]:
    """All attributes that a policy's prompts are to name: nothing where none is asked for, which is said if the policy
    knows any.

    Args:
        model: what messages call it.
        place: its folder, or what it is loaded by.

    Raises:
        SawyerError: it does not know what is asked for.
    """
    folder = locate(place)
    if asked:
        return required_scheme(folder, model).filled(asked, model)
    scheme = Scheme.load(folder)
    if scheme is not None:
        context.say(f"{model} was trained with attributes ({', '.join(scheme.ranges)}) and is asked for none")
    return {}
