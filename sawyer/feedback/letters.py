"""How probable the letters A and B are as the beginning of a model's reply: a preference without a word being said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sawyer.data.chat import ChatFormat
from sawyer.data.records import Prompt
from sawyer.feedback.protocol import sigmoid
from sawyer.models.load import load_policy
from sawyer.models.precision import DTYPES
from sawyer.trees.model import TreePolicy
from sawyer.trees.score import score_trees
from sawyer.trees.tree import TokenTree

LETTERS = ("A", "B")


class LetterProbabilities:
    """P(A) as the model's probability of the letter A over that of A or B, at the beginning of its reply.

    Args:
        name: folder, hub name or alias of a causal language model.
        chat: how it reads conversations.
        precision: what it computes in.
        token_budget: tokens in one forward pass; changes nothing but speed.
        device: where it computes.
    """

    def __init__(
        self,
        name: str,
        chat: ChatFormat,
        *,
        precision: str = "fp32",
        token_budget: int = 4096,
        device: torch.device | str = "cpu",
    ) -> None:
        self.chat = chat
        model: Any = load_policy(name, dtype=DTYPES[precision])
        self.model = TreePolicy(model.to(device)).eval()
        self.token_budget = token_budget

    def __call__(self, questions: Sequence[Prompt]) -> list[float | None]:
        """See `principles.Reader`; None where a question is longer than the model's context."""
        letters = [self.chat.completion_ids(letter)[:1] for letter in LETTERS]
        trees = [TokenTree(self.chat.prompt_ids(question.prompt), letters) for question in questions]
        room = self.model.context
        fitting = [tree for tree in trees if room is None or tree.longest_path <= room]
        scores = iter(score_trees(self.model, fitting, token_budget=self.token_budget))
        found: list[float | None] = []
        for tree in trees:
            a, b = next(scores) if room is None or tree.longest_path <= room else (None, None)
            found.append(None if a is None or b is None else sigmoid(a - b))
        return found
