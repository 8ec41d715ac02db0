"""What every stage trains: a model that takes a packed row of trees and returns one number a token or a completion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from sawyer.errors import SawyerError
from sawyer.models.lean import slim, takes_float32
from sawyer.models.logits import logit_shape
from sawyer.trees import attention
from sawyer.trees.logprobs import Spread, token_logprobs, token_spread
from sawyer.trees.tree import TokenTree, TreeBatch


class TreeModel(nn.Module):
    """What training holds: a transformers model, with or without peft adapters, that reads a `TreeBatch`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        core = cast(PreTrainedModel, cast(Any, model).get_base_model() if hasattr(model, "get_base_model") else model)
        self._core = [core]  # a list, so that the weights are registered once

    @property
    def core(self) -> PreTrainedModel:
        """The transformers model under any adapters."""
        return self._core[0]

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def context(self) -> int | None:
        """The most tokens a sequence may have; None where the model does not say."""
        return getattr(self.core.config.get_text_config(), "max_position_embeddings", None)

    def longest(self, tree: TokenTree) -> int:
        """The tokens of the longest sequence that a tree is read as."""
        return tree.longest_path

    def check_context(self, trees: Iterable[TokenTree]) -> None:
        """Raise SawyerError where a prompt with a completion is longer than the model's context."""
        limit = self.context
        longest = max((self.longest(tree) for tree in trees), default=0)
        if limit is not None and longest > limit:
            raise SawyerError(
                f"the longest of the data, prompt and completion, has {longest} tokens, which exceeds the context of "
                f"{limit} tokens of this {type(self.core).__name__}: lower `max_tokens`, or use a model that reads more"
            )

    def checkpoint_activations(self) -> None:
        """Keep only the input of each layer for the backward, which computes the layer again."""
        options = {"use_reentrant": False}
        if hasattr(self.core, "activation_checkpointing_enable"):
            self.core.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
        else:  # its name before transformers 5.23
            self.core.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        self.core.enable_input_require_grads()


class TreeDecoder(TreeModel):
    """A decoder read over packed trees: each prompt once, its completions after it.

    Args:
        model: any decoder of transformers. Its attention implementation is replaced.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.core.set_attn_implementation(attention.NAME)
        slim(self.core)
        self._wide = takes_float32(self.core.base_model)

    def hidden(self, batch: TreeBatch) -> torch.Tensor:
        """`[T, D]` the last hidden state at every packed position.

        Raises:
            SawyerError: a layer mixes tokens in a way of its own (recurrence, convolution, its own attention), so that
                packed completions would see each other.
        """
        batch.layout.cache[attention.CALLS] = 0
        position_ids = batch.position_ids[None]
        position_ids.tree_layout = batch.layout  # type: ignore[attr-defined]  # attention finds it there
        row = {"input_ids": batch.input_ids[None]}
        if self._wide:
            row = {"inputs_embeds": cast(Any, self.core.get_input_embeddings())(row["input_ids"]).float()}
        output = self.core.base_model(
            **row,
            position_ids=position_ids,
            use_cache=False,
            tree_layout=batch.layout,
        )
        layers = self.core.config.get_text_config().num_hidden_layers
        if batch.layout.cache[attention.CALLS] < layers:
            raise SawyerError(
                f"{type(self.core).__name__} cannot be trained: {layers - batch.layout.cache[attention.CALLS]} of its "
                f"{layers} layers are recurrent or bring an attention of their own, where completions packed beside "
                "each other would mix; use a model whose layers all go through transformers' AttentionInterface"
            )
        return output.last_hidden_state[0]


class TreePolicy(TreeDecoder):
    """A causal language model over trees: `policy(batch)` is the log-prob of every scored token, `[N]` float32.

    With `spread` the entropies and the like of the distributions come with them (`logprobs.Spread`).
    """

    def forward(self, batch: TreeBatch, *, spread: bool = False) -> torch.Tensor | tuple[torch.Tensor, Spread]:
        scale, softcap = logit_shape(self.core)
        read = token_spread if spread else token_logprobs
        return read(
            self.hidden(batch)[batch.predict_index],
            self.core.get_output_embeddings(),
            batch.target_ids,
            softcap=softcap,
            scale=scale,
        )

    def distributions(self, batch: TreeBatch, index_P: torch.Tensor) -> torch.Tensor:
        """`[P, V]` float32: log softmax over the whole vocabulary where the scored tokens of these indices are
        predicted. For a few of them: nothing is tiled."""
        scale, softcap = logit_shape(self.core)
        head = cast(nn.Module, self.core.get_output_embeddings())
        hidden = self.hidden(batch)[batch.predict_index[index_P]]
        weight = getattr(head, "weight", None)
        logits = head(hidden if weight is None else hidden.to(weight.dtype)).float() * scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        return torch.log_softmax(logits, dim=-1)


class TreeReward(TreeDecoder):
    """A sequence classifier over trees: `reward(batch)` is one score a completion, `[C]` float32.

    The score head reads the hidden state of a completion's last token (its end token), found by the layout and never
    by looking for a pad token.
    """

    def forward(self, batch: TreeBatch) -> torch.Tensor:
        return self.outputs(batch)[:, 0]

    def outputs(self, batch: TreeBatch) -> torch.Tensor:
        """`[C, O]` float32: all outputs of the head. The first is the score."""
        hidden = self.hidden(batch)[batch.last_index]
        head = cast(nn.Module, self.core.score)
        if hasattr(head, "modules_to_save"):  # beside adapters: peft's copy of the head, which learns
            head = cast(nn.Module, cast(Any, head).modules_to_save["default"])
        if type(head) is nn.Linear:  # in float32 whatever the body computes in: two rewards may differ by little
            bias = None if head.bias is None else head.bias.float()
            return nn.functional.linear(hidden.float(), head.weight.float(), bias)
        return head(hidden).float()
