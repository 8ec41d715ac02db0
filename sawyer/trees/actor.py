"""A policy with a critic: log-probs, and the value of the state before each token.

The critic is a linear head on the policy's own hidden states (a shared trunk, one pass for both); a head on the states
that the trunk has with adapters of the critic's in place of the policy's (one copy of the weights, two passes); or a
sequence classifier of its own. V is read where the token is predicted from, so it has seen the prompt and the tokens
before.

Shapes: N scored tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from sawyer.models.logits import logit_shape
from sawyer.trees.logprobs import token_entropy, token_logprobs
from sawyer.trees.model import TreePolicy, TreeReward
from sawyer.trees.tree import TokenTree, TreeBatch, batches

CRITIC = "critic"
"""The name of the critic's adapters in the policy's trunk."""


@dataclass(frozen=True)
class Seen:
    """What an actor says of the scored tokens, float32 `[N]` each; None where it was not asked or cannot."""

    logp_N: torch.Tensor
    value_N: torch.Tensor | None = None
    entropy_N: torch.Tensor | None = None


class TreeCritic(TreeReward):
    """A sequence classifier whose head is read at every scored token."""

    def forward(self, batch: TreeBatch) -> torch.Tensor:
        """`[N]` float32 values."""
        hidden_N_D = self.hidden(batch)[batch.predict_index]
        head = cast(nn.Module, self.core.score)
        if type(head) is nn.Linear:
            return _in_float32(hidden_N_D, head)
        return head(hidden_N_D).float()[:, 0]  # an adapter's copy of it


def _in_float32(hidden_N_D: torch.Tensor, head: nn.Linear) -> torch.Tensor:
    """`[N]` the head's one output, in float32 whatever the body computes in."""
    bias = None if head.bias is None else head.bias.float()
    return F.linear(hidden_N_D.float(), head.weight.float(), bias)[:, 0]


class ActorCritic(TreePolicy):
    """A causal language model over trees, and what its states are worth.

    Args:
        model: the policy, with or without adapters.
        critic: a model of its own; or `shared`, a head on the policy's hidden states that starts at 0; or `adapters`,
            such a head and adapters like the policy's; None for none.
        seed: of fresh adapters.
    """

    def __init__(self, model: nn.Module, critic: TreeCritic | str | None = None, *, seed: int = 0) -> None:
        super().__init__(model)
        self.critic = critic if isinstance(critic, TreeCritic) else None
        self.adapted = critic == "adapters"
        if self.adapted:
            self._add_adapters(seed)
        self.value_head: nn.Linear | None = None
        if critic in ("shared", "adapters"):
            self.value_head = nn.Linear(self.core.config.get_text_config().hidden_size, 1, device=self.device)
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)

    @staticmethod
    def is_critic(name: str) -> bool:
        """Whether a weight of this name belongs to the critic alone."""
        return name.startswith("value_head.") or CRITIC in name.split(".")

    def checkpoint_activations(self) -> None:
        super().checkpoint_activations()
        if self.critic is not None:
            self.critic.checkpoint_activations()

    def read(self, batch: TreeBatch, *, entropy: bool = False, apart: bool = False) -> Seen:
        """Log-probs, values and, if asked for, entropies.

        Args:
            apart: keep the values' gradient out of the policy's trunk, and the policy's graph away altogether.
        """
        with torch.no_grad() if apart else nullcontext():
            hidden_N_D = self.hidden(batch)[batch.predict_index]
            scale, softcap = logit_shape(self.core)
            head = self.core.get_output_embeddings()
            logp_N = token_logprobs(hidden_N_D, head, batch.target_ids, softcap=softcap, scale=scale)
            entropy_N = token_entropy(hidden_N_D, head, softcap=softcap, scale=scale) if entropy else None
        value_N = None
        if self.critic is not None:
            value_N = self.critic(batch)
        elif self.value_head is not None:
            if self.adapted:
                with self._as_critic():
                    hidden_N_D = self.hidden(batch)[batch.predict_index]
            value_N = _in_float32(hidden_N_D, self.value_head)
        return Seen(logp_N, value_N, entropy_N)

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        """Inside, the policy is the trunk that its adapters stand on: the policy that training started from."""
        with cast(Any, self.model).disable_adapter():
            yield
        self._all_learn()

    def _add_adapters(self, seed: int) -> None:
        """The critic's adapters: of the form of the policy's, on the same layers, and without effect at first."""
        model = cast(Any, self.model)
        torch.manual_seed(seed)
        model.add_adapter(CRITIC, deepcopy(model.peft_config[model.active_adapter]))
        self._all_learn()

    @contextmanager
    def _as_critic(self) -> Iterator[None]:
        """Inside, the trunk has the critic's adapters and not the policy's."""
        model = cast(Any, self.model)
        own = model.active_adapter
        model.set_adapter(CRITIC)
        try:
            yield
        finally:
            model.set_adapter(own)
            self._all_learn()

    def _all_learn(self) -> None:
        """peft freezes the adapters that it leaves aside; both of them learn."""
        if self.adapted:
            for name, parameter in self.model.named_parameters():
                if ".lora_" in name:
                    parameter.requires_grad_(True)


@torch.no_grad()
def read_tokens(
    read: Callable[[TreeBatch], Sequence[torch.Tensor | None]],
    trees: Sequence[TokenTree],
    token_budget: int,
    device: torch.device | str,
) -> list[torch.Tensor | None]:
    """What `read` says of packed rows' scored tokens, `[N]` each: on the CPU, in the order of the trees."""
    parts: list[list[torch.Tensor | None]] = []
    places: list[int] = []
    for row, batch in batches(trees, token_budget, device):
        sizes = [trees[i].scored_tokens for i in row]
        split = [None if value_N is None else value_N.float().cpu().split(sizes) for value_N in read(batch)]
        for at, i in enumerate(row):
            places.append(i)
            parts.append([None if own is None else own[at] for own in split])
    order = sorted(range(len(places)), key=places.__getitem__)
    columns = zip(*(parts[i] for i in order), strict=True)
    return [None if column[0] is None else torch.cat(cast(list[torch.Tensor], list(column))) for column in columns]
