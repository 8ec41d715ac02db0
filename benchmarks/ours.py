"""Sawyer's side of a benchmark: `sawyer.train.loop.train`, as every stage calls it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.models import load
from benchmarks.work import Row
from sawyer.journal import Silent
from sawyer.losses.reward import bradley_terry
from sawyer.train import objectives
from sawyer.train.loop import Objective, Terms, data_order, train
from sawyer.train.reference import with_reference
from sawyer.train.settings import OptimizerSettings
from sawyer.trees.model import TreeModel, TreePolicy, TreeReward
from sawyer.trees.tree import TokenTree, TreeBatch, pack


def run(job: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Train as `job` says and return what it took and what came out; see `worker.py` for both."""
    trees = [_tree(row) for row in rows]
    settings = OptimizerSettings(
        learning_rate=job["learning_rate"],
        schedule="constant",
        warmup_ratio=0.0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        batch_size=job["batch"],
        steps=len(rows) // job["batch"],
        token_budget=job["token_budget"],
    )
    reference_seconds = None
    if job["task"] == "dpo":
        trees, reference_seconds = _with_reference(trees, job)
    model: TreeModel
    if job["task"] == "reward":
        model = TreeReward(load(job))
        objective = all_pairs() if job["all_pairs"] else objectives.reward_model()
    else:
        model = TreePolicy(load(job))
        objective = objectives.dpo() if job["task"] == "dpo" else objectives.sft()
    seen = FirstStep(model, trees[: job["batch"]], settings.token_budget)
    figures = Silent()
    train(
        model, _unshuffled(trees, settings, job["seed"]), objective, settings,
        precision=job["precision"], seed=job["seed"], journal=figures, title=job["task"],
    )  # fmt: skip
    steps = [trees[i : i + job["batch"]] for i in range(0, len(trees), job["batch"])]
    return {
        "step_seconds": [line["tokens"] / line["tokens_per_second"] for line in figures.lines],
        "losses": [line["loss"] for line in figures.lines],
        "grad_norms": [line["grad_norm"] for line in figures.lines],
        "values": seen.values(),
        "reference_seconds": reference_seconds,
        "step_flops": [step_flops(model.core, batch) for batch in steps],
    }


def all_pairs() -> Objective:
    """The mean Bradley-Terry loss over all pairs of each ranking (Ouyang et al. 2022, equation 1), which is what TRL
    minimises on the pairs written out."""

    def terms(model: TreeModel, batch: TreeBatch) -> Terms:
        reward_R_K = batch.by_tree(model(batch))
        better, worse = torch.triu_indices(reward_R_K.shape[1], reward_R_K.shape[1], offset=1)
        return {"loss": bradley_terry(reward_R_K[:, better], reward_R_K[:, worse]).mean(1).sum()}

    return Objective(terms)


def step_flops(model: nn.Module, trees: Sequence[TokenTree]) -> float:
    """Floating-point operations of the matrix products that one update over `trees` cannot do without.

    2 for each weight and token in the forward pass and twice that in the backward: the linear layers of the body over
    the T packed tokens, the output embedding over the N scored ones. Attention counts the pairs of positions that may
    see each other only, and no recomputation counts, nor anything that is not a matrix product.
    """
    core: Any = model  # a transformers model, whose methods torch's types do not know
    config = core.config.get_text_config()
    head = core.get_output_embeddings() if hasattr(core, "get_output_embeddings") else None
    body = sum(
        module.weight.numel()
        for module in model.modules()
        if module is not head and (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
    )
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    visible = 0
    for tree in trees:
        prompt, branches = len(tree.prompt), [len(c) for c in tree.completions]
        visible += prompt * (prompt + 1) // 2 + sum(c * prompt + c * (c + 1) // 2 for c in branches)
    scored = 0 if head is None else head.weight.numel() * sum(tree.scored_tokens for tree in trees)
    attention = 2 * width * visible * config.num_hidden_layers
    return 3.0 * 2.0 * (body * sum(tree.tokens for tree in trees) + scored + attention)


def _tree(row: Row) -> TokenTree:
    if "prompt" in row:
        return TokenTree(row["prompt"], row["completions"])
    start = row["scored"].index(True)
    return TokenTree(row["ids"][:start], (row["ids"][start:],), scored=(row["scored"][start:],))


def _unshuffled(trees: Sequence[TokenTree], settings: OptimizerSettings, seed: int) -> list[TokenTree]:
    """`trees` in such an order that the shuffling of `train` visits them in the order given."""
    assert settings.steps is not None
    order = [i for step in data_order(len(trees), settings.batch_size, settings.steps, seed) for i in step]
    placed: list[Any] = [None] * len(trees)
    for tree, place in zip(trees, order, strict=True):
        placed[place] = tree
    return placed


def _with_reference(trees: Sequence[TokenTree], job: dict[str, Any]) -> tuple[list[TokenTree], float]:
    """The trees with their log-probs under the untrained model, and the seconds that took."""
    loaded = [load(job)]  # a list, so that nobody holds the model once it has been used
    began = time.perf_counter()
    trees = with_reference(
        loaded.pop, trees, precision=job["precision"], token_budget=job["token_budget"], journal=Silent()
    )
    return trees, time.perf_counter() - began


class FirstStep:
    """Keeps what the model says of each completion of the first update: its log-prob, or its reward."""

    def __init__(self, model: TreeModel, trees: Sequence[TokenTree], token_budget: int) -> None:
        self.rows = pack([tree.tokens for tree in trees], token_budget)
        self.outputs: list[torch.Tensor] = []
        self.rewards = isinstance(model, TreeReward)
        model.register_forward_hook(self._keep)

    def _keep(self, _: nn.Module, arguments: tuple[TreeBatch], output: Any) -> None:
        if isinstance(output, tuple):  # with the spread of the distributions
            output = output[0]
        if len(self.outputs) < len(self.rows):
            batch = arguments[0]
            value_C = output if self.rewards else batch.sum_by_completion(output)
            self.outputs.append(batch.by_tree(value_C.detach().float()))

    def values(self) -> list[list[float]]:
        """One list a tree, in the order the trees were given."""
        places = [index for row in self.rows for index in row]
        found = dict(zip(places, torch.cat(self.outputs).tolist(), strict=True))
        return [found[i] for i in range(len(found))]
