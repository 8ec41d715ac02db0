"""How likely completions are to the policy that wrote them and to a reference, and how sure the policy was.

From these follow the KL divergence to the reference (the mean of logp - reference_logp over samples of the policy), the
reference's perplexity of what was written, and the entropy of the policy along it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from sawyer.data.chat import ChatFormat
from sawyer.data.records import Prompt
from sawyer.models.load import load_policy, load_tokenizer
from sawyer.models.precision import DTYPES
from sawyer.rollout.protocol import Completion
from sawyer.trees.model import TreePolicy
from sawyer.trees.score import log_probs_and_entropies, score_trees
from sawyer.trees.tree import TokenTree


@dataclass(frozen=True)
class Reading:
    """One completion. `logp` and `reference_logp` are sums over its `tokens`, `entropy` is a mean; all in nats."""

    logp: float
    entropy: float
    tokens: int
    reference_logp: float | None
    """None where the reference cannot read it."""

    @property
    def log_ratio(self) -> float | None:
        """log pi(y) - log pi_ref(y)."""
        return None if self.reference_logp is None else self.logp - self.reference_logp


class Reader:
    """Reads completions by the tokens that were sampled. The reference stays in memory, policies come and go.

    Args:
        reference: folder, hub name or alias of a policy; None for none.
        precision, token_budget, device: as for `RewardModel`.
    """

    def __init__(
        self,
        reference: str | None,
        *,
        precision: str = "fp32",
        token_budget: int = 4096,
        device: torch.device | str = "cpu",
    ) -> None:
        self.reference, self.precision = reference, precision
        self.token_budget, self.device = token_budget, device

    def read(
        self,
        policy: str,
        prompts: Sequence[Prompt],
        completions: Sequence[Sequence[Completion]],
        *,
        shown: Sequence[Prompt] | None = None,
    ) -> tuple[list[list[Reading]], str | None]:
        """The readings of each prompt's completions, and why the reference has none, in words, where it has none.

        Args:
            shown: the prompts as the policy was asked, where they are others than those that the reference reads.

        Raises:
            SawyerError: the policy cannot be loaded.
        """
        chat = ChatFormat(load_tokenizer(policy), default="plain")

        def trees_of(asked: Sequence[Prompt]) -> list[TokenTree]:
            return [
                TokenTree(chat.prompt_ids(prompt.prompt), [completion.ids for completion in own])
                for prompt, own in zip(asked, completions, strict=True)
            ]

        trees = trees_of(prompts)
        seen = trees if shown is None else trees_of(shown)
        own = log_probs_and_entropies(self._load(policy), seen, token_budget=self.token_budget)
        other: list[list[float]] | None = None
        why = self.unreadable(policy, trees)
        if why is None and self.reference is not None:
            same = self.reference == policy and shown is None
            other = (
                [[logp for logp, _ in told] for told in own]
                if same
                else score_trees(self._reference, trees, token_budget=self.token_budget)
            )
        return [
            [
                Reading(logp, entropy, len(tree.completions[k]), None if other is None else other[i][k])
                for k, (logp, entropy) in enumerate(told)
            ]
            for i, (tree, told) in enumerate(zip(trees, own, strict=True))
        ], why

    def unreadable(self, policy: str, trees: Sequence[TokenTree] = ()) -> str | None:
        """Why the reference cannot read what a policy wrote; None where it can."""
        if self.reference is None or self.reference == policy:
            return None
        if not load_tokenizer(policy).get_vocab().items() <= self._vocabulary.items():
            return "their tokenizers have different vocabularies"
        limit = self._reference.context if trees else None
        if limit is not None and max(tree.longest_path for tree in trees) > limit:
            return f"an answer with its prompt is longer than the {limit} tokens that the reference reads"
        return None

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        assert self.reference is not None
        return load_tokenizer(self.reference).get_vocab()

    @cached_property
    def _reference(self) -> TreePolicy:
        assert self.reference is not None
        return self._load(self.reference)

    def _load(self, name: str) -> TreePolicy:
        model = load_policy(name, dtype=DTYPES[self.precision])
        return TreePolicy(model).eval().to(self.device)
