"""A reward of many attributes as feedback, with what each of them adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from sawyer.data.records import Prompt
from sawyer.feedback.protocol import Feedback
from sawyer.feedback.reward_model import RewardModel, regrouped, within_context
from sawyer.feedback.template import scoring_format
from sawyer.models.load import load_body
from sawyer.models.locate import MULTI_OBJECTIVE, locate
from sawyer.models.multi_objective import MultiObjectiveHead
from sawyer.models.precision import DTYPES
from sawyer.trees.build import truncated_trees
from sawyer.trees.embed import Embedded, embed_trees
from sawyer.trees.model import TreeDecoder


class MultiObjectiveReward:
    """The score is a sum over attributes: a rating, less a share of the length, times what it counts for the prompt.

    Args:
        name: folder or hub name of what stage `multi_objective` made.
        precision: what the decoder computes in; the head always computes in float32.
        token_budget: tokens in one forward pass.
        max_tokens: a longer prompt and completion loses its beginning; None cuts nothing.
        chat_template: a template by name or as Jinja text; the tokenizer's own (else `plain`) when left out.
        force: take a chat template although the model was trained with another.
        device: where the decoder computes.

    Attributes:
        truncated: completions scored so far that lost their beginning.
    """

    name = "multi-objective reward"

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
        self.model = TreeDecoder(load_body(name, dtype=DTYPES[precision])).to(device).eval()
        self.head = MultiObjectiveHead.load(locate(name))
        self.token_budget = token_budget
        self.max_tokens = within_context(max_tokens, self.model)
        self.truncated = 0

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One reward for each completion of each prompt."""
        added_C_A, _, _ = self._read(prompts, completions)
        return regrouped([added_C_A.sum(1).tolist()], completions)

    def breakdown(self, prompt: Prompt, completion: str) -> dict[str, Any]:
        """The `reward` and, by attribute: the `rating` in its own units, before the penalty on length; the `weight` it
        has for the prompt, in sum 1; and what it `adds` to the reward."""
        added_C_A, embedded, weight_C_A = self._read([prompt], [[completion]])
        rating_A = self._in_own_units(embedded)[0]
        columns = zip(
            self.head.attributes, rating_A.tolist(), weight_C_A[0].tolist(), added_C_A[0].tolist(), strict=True
        )
        attributes = {
            name: {"rating": rating, "weight": weight, "adds": adds} for name, rating, weight, adds in columns
        }
        return {"reward": float(added_C_A.sum()), "attributes": attributes}

    def ratings(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[dict[str, float]]]:
        """Each completion's rating by attribute, in its own units, before the penalty on length."""
        _, embedded, _ = self._read(prompts, completions)
        rows = iter(self._in_own_units(embedded).tolist())
        return [[dict(zip(self.head.attributes, next(rows), strict=True)) for _ in own] for own in completions]

    def _in_own_units(self, embedded: Embedded) -> torch.Tensor:
        """`[C, A]`"""
        return self.head.ratings(embedded.completion_C_D) * self.head.sd_A + self.head.mean_A

    @torch.no_grad()
    def _read(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]
    ) -> tuple[torch.Tensor, Embedded, torch.Tensor]:
        trees, cut = truncated_trees(self.chat, [prompt.prompt for prompt in prompts], completions, self.max_tokens)
        self.truncated += cut
        embedded = embed_trees(self.model, trees, token_budget=self.token_budget)
        prompt_C_D = embedded.prompt_R_D[embedded.tree_C]
        added_C_A = self.head.contributions(prompt_C_D, embedded.completion_C_D, embedded.tokens_C)
        return added_C_A, embedded, self.head.weights(prompt_C_D)


def open_reward_model(
    name: str,
    *,
    precision: str = "fp32",
    token_budget: int = 4096,
    max_tokens: int | None = None,
    chat_template: str | None = None,
    force: bool = False,
    device: torch.device | str = "cpu",
) -> Feedback:
    """The reward model in a folder, whichever kind it is: of many attributes, or with one score.

    Raises:
        SawyerError: it is none, cannot be loaded, or was trained with another chat template.
    """
    kind: Callable[..., Feedback] = MultiObjectiveReward if (locate(name) / MULTI_OBJECTIVE).is_file() else RewardModel
    return kind(
        name,
        precision=precision,
        token_budget=token_budget,
        max_tokens=max_tokens,
        chat_template=chat_template,
        force=force,
        device=device,
    )
