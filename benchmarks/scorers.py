"""Contenders of `benchmarks.scoring`: Sawyer's trees, and transformers' own sequence classifier on padded batches.

Both score the same token ids with the same weights. A first pass, over prompts that lack their first token, is not
timed: it allocates what is allocated once, but meets no shape that comes later, for real work has ever new shapes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from benchmarks.models import load
from benchmarks.work import Row
from sawyer.models.precision import cast

Score = Callable[[Sequence[Row]], list[list[float]]]


def run(job: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Score as `job` says and return what it took and what came out; see `worker.py` for both."""
    model = load(job).eval()
    cast(model, job["precision"])
    score = _CONTENDERS[job["contender"]](job, model)
    score([{**row, "prompt": row["prompt"][1:]} for row in rows])
    began = time.perf_counter()
    values = score(rows)
    return {"seconds": time.perf_counter() - began, "values": values}


def _sawyer(job: dict[str, Any], model: Any) -> Score:
    from sawyer.trees.model import TreeReward
    from sawyer.trees.score import score_trees
    from sawyer.trees.tree import TokenTree

    reward = TreeReward(model)

    def score(rows: Sequence[Row]) -> list[list[float]]:
        trees = [TokenTree(row["prompt"], row["completions"]) for row in rows]
        return score_trees(reward, trees, token_budget=job["token_budget"])

    return score


def _transformers(job: dict[str, Any], model: Any) -> Score:
    """`AutoModelForSequenceClassification` with the attention that it chooses, the longest sequences first, each batch
    padded to its own longest."""
    pad, size = model.config.pad_token_id, job["micro_batch"]

    @torch.inference_mode()
    def score(rows: Sequence[Row]) -> list[list[float]]:
        sequences = [row["prompt"] + completion for row in rows for completion in row["completions"]]
        order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
        reward = [0.0] * len(sequences)
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            ids = [torch.tensor(sequences[i]) for i in chosen]
            mask = [torch.ones_like(own) for own in ids]
            output = model(
                input_ids=pad_sequence(ids, batch_first=True, padding_value=pad),
                attention_mask=pad_sequence(mask, batch_first=True),
                use_cache=False,
            )
            for i, value in zip(chosen, output.logits[:, 0].tolist(), strict=True):
                reward[i] = value
        values = iter(reward)
        return [[next(values) for _ in row["completions"]] for row in rows]

    return score


_CONTENDERS: dict[str, Callable[[dict[str, Any], Any], Score]] = {"sawyer": _sawyer, "transformers": _transformers}
