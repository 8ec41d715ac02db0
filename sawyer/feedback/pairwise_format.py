"""What a pairwise preference model reads and writes: both answers in one prompt, and the letter of the better one.

Training and inference share this. Source: RLHFlow's pair-pm (Dong et al. 2024, arXiv 2405.07863, section 2.3).
"""

from __future__ import annotations

from collections.abc import Sequence

from sawyer.data.chat import ChatFormat
from sawyer.data.records import Comparison, Message, user
from sawyer.errors import SawyerError
from sawyer.feedback.protocol import sigmoid, uniform
from sawyer.trees.tree import TokenTree

LETTERS = ("A", "B")
"""What the model answers: the first is better, the second is better."""


def pairwise_prompt(prompt: Sequence[Message], first: str, second: str) -> tuple[Message, ...]:
    """The user's turn that shows a conversation and two answers to it, to be answered with a letter.

    The conversation is in a plain template, not the model's own: its turns are no turns of the question.
    """
    turns = "".join(f"\n\n<turn> {turn['role']}\n {turn['content']}" for turn in prompt)
    return (user(f"[CONTEXT] \n{turns}\n\n\n [RESPONSE A] {first} [RESPONSE B] {second} \n"),)


def letter_ids(chat: ChatFormat) -> tuple[int, int]:
    """The tokens of the two letters at the beginning of an answer.

    Raises:
        SawyerError: the tokenizer does not write each as one token of its own.
    """
    written = [chat.completion_ids(letter)[:-1] for letter in LETTERS]
    if [len(ids) for ids in written] != [1, 1] or written[0] == written[1]:
        raise SawyerError(
            "the tokenizer does not write A and B as one token each at the beginning of an answer, which a pairwise "
            "preference model needs: use another model, or another chat template"
        )
    return written[0][0], written[1][0]


def question_tree(
    chat: ChatFormat, prompt: Sequence[Message], first: str, second: str, letters: Sequence[int]
) -> TokenTree:
    """The question with one completion for each of `letters`, a token each: both to score it, the right one to train.

    The prompt ends in the assistant's header, whether or not the template writes it by itself.
    """
    return TokenTree(chat.prompt_ids(pairwise_prompt(prompt, first, second)), [[letter] for letter in letters])


def first_wins(logp_a: float, logp_b: float) -> float:
    """P(the first answer is better) of one question: a softmax over the two letters, p_A / (p_A + p_B)."""
    return sigmoid(logp_a - logp_b)


def both_orders(forth: float, back: float) -> float:
    """P(a beats b) from `first_wins` of the question (a, b) and of (b, a): their mean, so that a swap gives 1 - P."""
    return 0.5 + (forth - back) / 2  # so written, a model that sees the position alone gives 1/2 exactly


def chosen_is_first(record: Comparison, seed: int) -> bool:
    """Where the chosen answer stands in training: drawn once for a record, whatever the order of the data."""
    return uniform(seed, list(record.prompt), list(record.completions)) < 0.5


def structural_fault(record: Comparison) -> str | None:
    """Why a comparison is no good for a pairwise model, or None: user and assistant must alternate, the user first, and
    no turn may be empty.

    That both conversations share their context, have one length and differ at the end holds of every `Comparison`.
    """
    roles = [turn["role"] for turn in record.prompt]
    if roles != [("user", "assistant")[i % 2] for i in range(len(roles))]:
        return "turns that do not alternate between user and assistant"
    if not all(text.strip() for text in (*(turn["content"] for turn in record.prompt), *record.completions)):
        return "an empty turn"
    return None
