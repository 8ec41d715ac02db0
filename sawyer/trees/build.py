"""Records to trees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sawyer.data.chat import ChatFormat
from sawyer.data.pair_format import SECOND, PairFormat
from sawyer.data.records import Comparison, Conversation, Message, Record
from sawyer.errors import SawyerError
from sawyer.trees.tree import TokenTree

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Kept:
    """The trees of the records that fit, and which records those are."""

    trees: list[TokenTree]
    indices: list[int]
    dropped: int


def conversation_tree(chat: ChatFormat, record: Conversation) -> TokenTree:
    """A dialogue as one completion: the prompt ends before the first assistant token; only assistant tokens score."""
    ids, mask = chat.conversation_ids(record.messages)
    first = mask.index(True)
    return TokenTree(ids[:first], [ids[first:]], [mask[first:]])


def completions_tree(chat: ChatFormat, prompt: Sequence[Message], completions: Sequence[str]) -> TokenTree:
    """A prompt and the texts that may follow it, each closed by its end token."""
    return TokenTree(chat.prompt_ids(prompt), [chat.completion_ids(text) for text in completions])


def encoder_tree(form: PairFormat, prompt: Sequence[Message], completions: Sequence[str]) -> TokenTree:
    """A prompt and its completions as an encoder reads them; what is too long is cut, and `form` counts it."""
    shared, own, begins = form.sequences(prompt, completions)
    return TokenTree(shared, own, values={SECOND: begins} if begins and form.token_types else {})


def truncated_trees(
    chat: ChatFormat,
    prompts: Sequence[Sequence[Message]],
    completions: Sequence[Sequence[str]],
    max_tokens: int | None,
) -> tuple[list[TokenTree], int]:
    """The trees of prompts and their completions, none with a path of more than `max_tokens`.

    Where a path is longer, each completion of that prompt gets a tree of its own that has lost its beginning (after the
    BOS), so that what one completion gets does not depend on the length of another. The completions of all trees stand
    in the order of `completions`.

    Returns:
        the trees, and how many completions lost something.
    """
    trees: list[TokenTree] = []
    cut = 0
    for prompt, texts in zip(prompts, completions, strict=True):
        tree = completions_tree(chat, prompt, texts)
        if max_tokens is None or tree.longest_path <= max_tokens:
            trees.append(tree)
            continue
        for completion in tree.completions:
            trees.append(_without_beginning(tree.prompt, completion, max_tokens, chat.bos_id))
            cut += len(tree.prompt) + len(completion) > max_tokens
    return trees, cut


def _without_beginning(prompt: Sequence[int], completion: Sequence[int], max_tokens: int, bos: int | None) -> TokenTree:
    """A path of at most `max_tokens`; of a completion that is as long as that, its first token stands as the prompt."""
    path = cut_beginning([*prompt, *completion], max_tokens, bos)
    begin = max(1, len(path) - len(completion))
    return TokenTree(path[:begin], [path[begin:]])


def cut_beginning(ids: Sequence[int], max_tokens: int, bos: int | None) -> list[int]:
    """The last `max_tokens` of a sequence, the first of them the BOS if the sequence begins with it."""
    if len(ids) <= max_tokens:
        return list(ids)
    head = list(ids[:1]) if ids[0] == bos else []
    return head + list(ids[len(ids) - max_tokens + len(head) :])


def comparison_tree(chat: ChatFormat, record: Comparison, *, pair: bool = False) -> TokenTree:
    """A ranking, best first; with `pair` only its best and its worst."""
    completions = (record.chosen, record.rejected) if pair else record.completions
    return completions_tree(chat, record.prompt, completions)


def build(
    records: Sequence[R],
    make: Callable[[R], TokenTree],
    *,
    max_tokens: int,
    max_dropped: float,
    what: str,
    length: Callable[[TokenTree], int] = lambda tree: tree.longest_path,
) -> Kept:
    """The trees of all records whose `length`, by default their longest path, is at most `max_tokens`.

    Raises:
        SawyerError: more than the share `max_dropped` of the records is too long, or nothing is left.
    """
    trees, indices, longest, worst = [], [], 0, 0
    for i, record in enumerate(records):
        tree = make(record)
        own = length(tree)
        if own > longest:
            longest, worst = own, i
        if own <= max_tokens:
            trees.append(tree)
            indices.append(i)
    dropped = len(records) - len(trees)
    if dropped > max_dropped * len(records) or not trees:
        raise SawyerError(
            f"{dropped} of {len(records)} {what} are longer than max_tokens {max_tokens} (record {worst + 1} has "
            f"{longest} tokens); raise `max_tokens` up to the model's context, or allow more with `max_dropped`"
        )
    return Kept(trees, indices, dropped)
