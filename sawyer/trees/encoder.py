"""Encoders over trees. They read in both directions, so that no prompt can be shared: sequences are padded inside.

Shapes: T packed tokens, C completions, R trees, L tokens of the longest sequence, O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from sawyer.data.pair_format import SECOND
from sawyer.models.encoders import BiEncoder
from sawyer.trees.model import TreeModel
from sawyer.trees.tree import TokenTree, TreeBatch


class EncoderReward(TreeModel, ABC):
    """What the two kinds have in common. The tokens of a row count a prompt once, as they do for decoders."""

    @property
    def context(self) -> int | None:
        limit = super().context
        embeddings = getattr(self.core.base_model, "embeddings", None)
        if limit is not None and hasattr(embeddings, "create_position_ids_from_input_ids"):
            limit -= cast(Any, embeddings).padding_idx + 1  # RoBERTa's positions begin behind the padding's
        return limit

    def forward(self, batch: TreeBatch) -> torch.Tensor:
        """`[C]` float32: one score a completion."""
        return self.outputs(batch)[:, 0]

    @abstractmethod
    def outputs(self, batch: TreeBatch) -> torch.Tensor:
        """`[C, O]` float32: all outputs of the head."""

    def padded(self, sequences: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """`[C, L]` sequences padded on the right, and the mask that says where they are."""
        pad = cast(Any, self.core.get_input_embeddings()).padding_idx or 0
        mask = pad_sequence([torch.ones_like(ids) for ids in sequences], batch_first=True)
        return pad_sequence(list(sequences), batch_first=True, padding_value=pad), mask


class CrossEncoderReward(EncoderReward):
    """A sequence classifier that reads prompt and completion as one sequence, `<s> prompt </s></s> completion </s>`.

    A tree's prompt is what its completions' sequences begin with; `SECOND` among its values, where there is one, is
    where a sequence's second segment begins.
    """

    def outputs(self, batch: TreeBatch) -> torch.Tensor:
        ids, mask = self.padded(
            [torch.cat([prompt, own]) for prompt, completions in _parts(batch) for own in completions]
        )
        row = {"input_ids": ids, "attention_mask": mask}
        if SECOND in batch.values:
            place = torch.arange(ids.shape[1], device=ids.device)
            row["token_type_ids"] = (place >= batch.values[SECOND][:, None]).long() * mask
        head = getattr(self.core, "classifier", None)
        if not type(head).__name__.endswith("ClassificationHead"):
            return self.core(**row).logits.float()
        hidden = self.core.base_model(**row).last_hidden_state
        # in float32 whatever the body computes in: two rewards may differ by little
        weights = {name: parameter.float() for name, parameter in cast(nn.Module, head).named_parameters()}
        return torch.func.functional_call(cast(nn.Module, head), weights, (hidden.float(),))


class BiEncoderReward(EncoderReward):
    """A bi-encoder over trees whose prompt and completions are sequences of their own: a prompt is embedded once."""

    def __init__(self, model: BiEncoder) -> None:
        super().__init__(model)
        self._core = [model.body]

    def longest(self, tree: TokenTree) -> int:
        return max(len(tree.prompt), *(len(completion) for completion in tree.completions))

    def outputs(self, batch: TreeBatch) -> torch.Tensor:
        parts, pair = _parts(batch), cast(BiEncoder, self.model)
        prompt_R_D = pair.embed(*self.padded([prompt for prompt, _ in parts]), pair.prompt_head)
        completions = [own for _, completions in parts for own in completions]
        completion_C_D = pair.embed(*self.padded(completions), pair.completion_head)
        return pair.score(prompt_R_D[batch.tree_index], completion_C_D)[:, None]


def _parts(batch: TreeBatch) -> list[tuple[torch.Tensor, Sequence[torch.Tensor]]]:
    """For each tree the tokens of its prompt and of its completions."""
    parts = []
    for tree in batch.layout.trees:
        row = batch.input_ids[tree.start : tree.start + tree.length]
        prompt, *completions = row.split([tree.prompt, *tree.completions])
        parts.append((prompt, completions))
    return parts
