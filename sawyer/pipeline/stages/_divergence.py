"""How far a policy in training is from its first reference, as the stages that learn from preferences measure it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sawyer.models.load import load_policy
from sawyer.models.precision import cast
from sawyer.numerics import release
from sawyer.pipeline.files import read_json, write_json
from sawyer.pipeline.stage import Context
from sawyer.train.divergence import Divergence, sample
from sawyer.trees.model import TreePolicy
from sawyer.trees.tree import TokenTree


def from_reference(context: Context, settings: Any, trees: Sequence[TokenTree]) -> Divergence | None:
    """What measures the KL divergence from the first reference; a reference of its own is read here."""
    if not settings.kl_every:
        return None
    divergence = _measuring(context, settings, sample(trees, settings.batch_size, context.seed))
    if settings.reference is not None and not divergence.file.exists():
        model = load_policy(context.model(settings.reference))
        cast(model, context.precision)
        divergence.keep(TreePolicy(model).to(context.accelerator.device))
        del model
        release()
    return divergence


def from_first(context: Context, settings: Any, trees: Sequence[TokenTree]) -> list[Divergence]:
    """What measures, in each of several trainings, the divergence from the policy that the first one starts from; all
    at the same positions, those of a few trees of the first."""
    if not settings.kl_every:
        return []
    file = context.scratch / "kl-trees.json"

    def once() -> list[Any]:
        if not file.exists():
            drawn = sample(trees, settings.batch_size, context.seed)
            write_json(file, [[tree.prompt, tree.completions] for tree in drawn])
        return read_json(file)

    kept = [TokenTree(prompt, completions) for prompt, completions in context.processes.on_main(once)]
    return [_measuring(context, settings, kept)]


def _measuring(context: Context, settings: Any, trees: Sequence[TokenTree]) -> Divergence:
    return Divergence(
        trees,
        settings.kl_every,
        token_budget=settings.token_budget,
        file=context.scratch / "kl.safetensors",
        writes=context.is_main,
    )
