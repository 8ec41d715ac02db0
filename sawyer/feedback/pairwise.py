"""A language model that reads two answers and writes which is better: the pairwise preference model of RLHFlow.

    P(a beats b) = p("A") / (p("A") + p("B")), the next token after context and both answers

(Dong et al. 2024; `pairwise_format` has the question). A model of this kind leans towards one position, so both orders
are read and averaged.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sawyer.data.chat import ChatFormat
from sawyer.data.records import Prompt
from sawyer.feedback.pairwise_format import both_orders, first_wins, letter_ids, question_tree
from sawyer.feedback.protocol import win_rates
from sawyer.feedback.reward_model import within_context
from sawyer.feedback.template import scoring_format
from sawyer.models.load import load_policy
from sawyer.models.precision import DTYPES
from sawyer.trees.build import cut_beginning
from sawyer.trees.model import TreePolicy
from sawyer.trees.score import score_trees
from sawyer.trees.tree import TokenTree


class PairwiseModel:
    """A pairwise preference model: `prefer` is its own; `score` is the mean chance to beat the other completions.

    Args:
        name: folder, hub name or alias of a causal language model whose tokenizer has "A" and "B" as single tokens.
        precision, token_budget, chat_template, force, device: as for `RewardModel`.
        max_tokens: a longer question loses its beginning; None cuts nothing.

    Attributes:
        truncated: questions asked so far that lost their beginning; a pair is two questions.

    Raises:
        SawyerError: the model cannot be loaded, was trained with another chat template, or writes a letter as several
            tokens.
    """

    name = "pairwise model"

    def __init__(
        self,
        name: str,
        *,
        precision: str = "fp32",
        token_budget: int = 4096,
        max_tokens: int | None = None,
        chat_template: str | None = None,
        force: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.chat = scoring_format(name, chat_template, force=force)
        letter_ids(self.chat)  # refused before the weights are read
        self.model = TreePolicy(load_policy(name, dtype=DTYPES[precision])).eval().to(device)
        self.token_budget = token_budget
        self.max_tokens = within_context(max_tokens, self.model)
        self.truncated = 0

    def prefer(self, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]) -> list[float]:
        """P(the first of a pair is better), the mean over both orders: swapping a pair gives 1 - P."""
        asked, cut = in_both_orders(
            self.model, self.chat, prompts, pairs, token_budget=self.token_budget, max_tokens=self.max_tokens
        )
        self.truncated += cut
        return [both_orders(forth, back) for forth, back in asked]

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """The mean probability that a completion beats each of its siblings; 0.5 for one without siblings."""
        return win_rates(self, prompts, completions)


def in_both_orders(
    model: TreePolicy,
    chat: ChatFormat,
    prompts: Sequence[Prompt],
    pairs: Sequence[tuple[str, str]],
    *,
    token_budget: int,
    max_tokens: int | None = None,
) -> tuple[list[tuple[float, float]], int]:
    """For each pair (a, b), P(the answer shown first is better) of the question (a, b) and of the question (b, a); and
    how many questions lost their beginning, being longer than `max_tokens`.

    Raises:
        SawyerError: the tokenizer writes a letter as several tokens.
    """
    letters = letter_ids(chat)
    trees, cut = [], 0
    for prompt, (a, b) in zip(prompts, pairs, strict=True):
        for first, second in ((a, b), (b, a)):
            tree = question_tree(chat, prompt.prompt, first, second, letters)
            if max_tokens is not None and tree.longest_path > max_tokens:
                tree = TokenTree(cut_beginning(tree.prompt, max_tokens - 1, chat.bos_id), tree.completions)
                cut += 1
            trees.append(tree)
    shown_first = [first_wins(*logps) for logps in score_trees(model, trees, token_budget=token_budget)]
    return list(zip(shown_first[::2], shown_first[1::2], strict=True)), cut
