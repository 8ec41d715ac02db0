"""What stage `multi_objective` does: read hidden states once, then fit, free of length, weigh, measure, save."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sawyer.data.records import Comparison, Conversation
from sawyer.data.splits import split
from sawyer.errors import SawyerError
from sawyer.evals import reward_models
from sawyer.models.load import load_body
from sawyer.models.multi_objective import MultiObjectiveHead, log_lengths
from sawyer.models.precision import cast
from sawyer.models.save import save_model
from sawyer.pipeline.files import write_json
from sawyer.pipeline.stage import Context
from sawyer.pipeline.stages._common import chat_of, trees_of
from sawyer.train.multi_objective import Pairs, length_penalty, ratings_of, regress, train_gate
from sawyer.trees.build import comparison_tree, conversation_tree
from sawyer.trees.embed import Embedded, embed_trees
from sawyer.trees.model import TreeDecoder
from sawyer.trees.tree import TokenTree

if TYPE_CHECKING:
    from sawyer.pipeline.stages.multi_objective import Settings


def train_multi_objective(settings: Settings, context: Context) -> dict[str, Any]:
    """Train the head, write the model, and return the figures."""
    name = context.model(settings.model)
    chat = chat_of(name, settings.chat_template)
    rate = lambda record: conversation_tree(chat, record)
    rank = lambda record: comparison_tree(chat, record, pair=True)
    rated, ratings = trees_of(context, settings, settings.ratings, settings.ratings_part, (Conversation,), rate)
    names, rating_C_A = ratings_of(ratings)
    pairs, _ = trees_of(context, settings, settings.data, settings.part, (Comparison,), rank)
    held_out: list[TokenTree] = []
    records: list[Comparison] = []
    if settings.validation:
        held_out, records = trees_of(context, settings, settings.data, settings.validation, (Comparison,), rank)

    body = load_body(name)
    save_model(body, chat.tokenizer, context.folder)
    chat.save(context.folder)
    cast(body, context.precision)
    model = TreeDecoder(body).to(context.accelerator.device)

    def embedded(trees: Sequence[TokenTree], what: str) -> Embedded:
        with context.progress(len(trees), f"hidden states of {what}", unit="tree") as bar:
            return embed_trees(model, trees, token_budget=settings.token_budget, progress=bar.advance)

    states = embedded(rated, "ratings")
    head = MultiObjectiveHead(
        names,
        states.completion_C_D.shape[1],
        hidden=settings.hidden,
        layers=settings.layers,
        temperature=settings.temperature,
        seed=context.seed,
    )
    attributes = fit_ratings(head, states, rating_C_A, _held_out(ratings, settings, context.seed), settings.tolerance)
    learn = _pairs(head, embedded(pairs, "pairs"))
    figures = train_gate(
        head, learn, learning_rate=settings.learning_rate, steps=settings.steps, batch_size=settings.batch_size,
        seed=context.seed, journal=context, title=context.name,
    )  # fmt: skip
    with torch.no_grad():
        mean_A = head.weights(learn.prompt_P_D).mean(0).tolist()
    for own, weight in zip(attributes.values(), mean_A, strict=True):
        own["mean_weight"] = weight
    result: dict[str, Any] = {"ratings": len(rated), "comparisons": len(pairs), **figures, "attributes": attributes}
    if held_out:
        result["held_out"] = _evaluated(head, embedded(held_out, "held-out pairs"), records, context.seed)
        write_json(context.folder / "evaluation.json", result["held_out"])
    head.save(context.folder)
    return result


def fit_ratings(
    head: MultiObjectiveHead, states: Embedded, rating_C_A: np.ndarray, held_out_C: np.ndarray, tolerance: float
) -> dict[str, dict[str, float]]:
    """Fit the head's ratings and penalties in place; returns each attribute's figures."""
    hidden_C_D = states.completion_C_D.double().numpy()
    head.length = log_lengths(states.tokens_C)
    length_C = head.lengths(states.tokens_C).double().numpy()
    figures = {}
    for a, name in enumerate(head.attributes):
        fit = regress(hidden_C_D, rating_C_A[:, a], held_out_C, name)
        penalty, before, after = length_penalty(hidden_C_D @ fit.weight_D + fit.bias, length_C, tolerance)
        head.weight_A_D[a] = torch.tensor(fit.weight_D)
        head.bias_A[a], head.mean_A[a], head.sd_A[a], head.penalty_A[a] = fit.bias, fit.mean, fit.sd, penalty
        figures[name] = {
            "n": fit.n, "alpha": fit.alpha, "held_out_r2": fit.r2, "length_penalty": penalty,
            "length_spearman_before": before, "length_spearman_after": after,
        }  # fmt: skip
    return figures


def _held_out(records: Sequence[Conversation], settings: Settings, seed: int) -> np.ndarray:
    """Which records are held out: by prompt, so that no prompt is on both sides."""
    parts = split(records, {"fit": 1 - settings.held_out, "held out": settings.held_out}, seed)
    held = {id(record) for record in parts["held out"]}
    if not held or not parts["fit"]:
        raise SawyerError(
            f"of {len(records)} rated conversations none falls to one side of `held_out: {settings.held_out}`; give "
            "ratings of more prompts"
        )
    return np.array([id(record) in held for record in records])


@torch.no_grad()
def _pairs(head: MultiObjectiveHead, states: Embedded) -> Pairs:
    rating_P_2_A = head.penalised(states.completion_C_D, states.tokens_C).view(-1, 2, len(head.attributes))
    return Pairs(states.prompt_R_D, rating_P_2_A[:, 0], rating_P_2_A[:, 1])


def _evaluated(head: MultiObjectiveHead, states: Embedded, records: Sequence[Comparison], seed: int) -> dict[str, Any]:
    with torch.no_grad():
        margin_P = _pairs(head, states).margins(head)
    length_P_2 = states.tokens_C.view(-1, 2)
    return reward_models.evaluate(
        margin_P.tolist(),
        length_P_2[:, 0].tolist(),
        length_P_2[:, 1].tolist(),
        prompts=[str(record.prompt) for record in records],
        seed=seed,
    )
