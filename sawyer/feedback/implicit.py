"""A policy as a reward model: what DPO taught it to prefer, read off its log-probs (Rafailov et al. 2023).

With a reference, the implicit reward of a completion y of a prompt x is

    r(x, y) = beta * (sum_t log pi(y_t | x, y_<t) - sum_t log ref(y_t | x, y_<t))

up to a constant of x (equation 5 of the paper; RewardBench leaves out beta, which moves no ranking). Without one:

    avg    the mean log-prob of a token        sum    their sum        norm    minus their Euclidean length

The tokens are those of the completion and its end token. RewardBench's own script renders the prompt without the
assistant's header and so scores the header too: the same for both completions of a pair, it cancels in sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.reward_model import regrouped, within_context
from sawyer.feedback.template import scoring_format
from sawyer.models.load import load_policy, load_tokenizer
from sawyer.models.precision import DTYPES
from sawyer.trees.build import truncated_trees
from sawyer.trees.model import TreePolicy
from sawyer.trees.score import score_trees

Free = Literal["avg", "sum", "norm"]
FREE: tuple[Free, ...] = ("avg", "sum", "norm")


class ImplicitReward:
    """A policy's implicit reward, with or without the reference it was trained against.

    Args:
        policy: folder, hub name or alias of a causal language model.
        reference: of another with the same tokenizer; None for the reward without reference.
        free: how log-probs become a number where there is no reference.
        beta: of DPO, with a reference; `prefer` is then DPO's own probability.
        precision, token_budget, max_tokens, chat_template, force, device: as for `RewardModel`.

    Attributes:
        truncated: completions scored so far that lost their beginning.

    Raises:
        SawyerError: a model cannot be loaded, the tokenizers differ, the policy was trained with another chat template,
            or `free` is not known.
    """

    def __init__(
        self,
        policy: str,
        reference: str | None = None,
        *,
        free: Free = "avg",
        beta: float = 1.0,
        precision: str = "fp32",
        token_budget: int = 4096,
        max_tokens: int | None = None,
        chat_template: str | None = None,
        force: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        if free not in FREE:
            raise SawyerError(f"a reward without reference can be {', '.join(FREE)}, not {free!r}")
        self.chat = scoring_format(policy, chat_template, force=force)
        if reference is not None and load_tokenizer(reference).get_vocab() != self.chat.tokenizer.get_vocab():
            raise SawyerError(
                f"{policy} and its reference {reference} have different tokenizers, so their log-probs cannot be "
                "compared; give the model that the policy was trained from"
            )
        self.name = "implicit reward" if reference is not None else f"{free} log-prob"
        self.policy, *rest = (
            TreePolicy(load_policy(name, dtype=DTYPES[precision])).eval().to(device)
            for name in (policy, reference)
            if name is not None
        )
        self.reference = rest[0] if rest else None
        self.free, self.beta, self.token_budget = free, beta, token_budget
        self.max_tokens = within_context(max_tokens, self.policy)
        if self.reference is not None:
            self.max_tokens = within_context(self.max_tokens, self.reference)
        self.truncated = 0

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One implicit reward for each completion of each prompt."""
        trees, cut = truncated_trees(self.chat, [prompt.prompt for prompt in prompts], completions, self.max_tokens)
        self.truncated += cut
        if self.reference is not None:
            ours, theirs = (
                score_trees(model, trees, token_budget=self.token_budget) for model in (self.policy, self.reference)
            )
            rewards = [
                [self.beta * (a - b) for a, b in zip(*pair, strict=True)] for pair in zip(ours, theirs, strict=True)
            ]
        elif self.free == "norm":
            squares = score_trees(self.policy, trees, token_budget=self.token_budget, of_token=torch.square)
            rewards = [[-math.sqrt(square) for square in own] for own in squares]
        else:
            rewards = score_trees(self.policy, trees, token_budget=self.token_budget)
            if self.free == "avg":
                rewards = [
                    [total / len(completion) for total, completion in zip(own, tree.completions, strict=True)]
                    for own, tree in zip(rewards, trees, strict=True)
                ]
        return regrouped(rewards, completions)
