"""Reference log-probs: computed once and kept, so that no second model is in memory while the policy trains."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from sawyer.atomic import write_atomically
from sawyer.journal import Journal
from sawyer.models.precision import cast
from sawyer.numerics import release
from sawyer.train.preference import REFERENCE, SHARED_REFERENCE, shared
from sawyer.trees.model import TreePolicy
from sawyer.trees.score import score_trees
from sawyer.trees.tree import TokenTree


def with_reference(
    load: Callable[[], PreTrainedModel],
    trees: Sequence[TokenTree],
    *,
    precision: str,
    token_budget: int,
    journal: Journal,
    file: Path | None = None,
    device: torch.device | str = "cpu",
    writes: bool = True,
    also_shared: bool = False,
) -> list[TokenTree]:
    """The trees, each carrying its completions' log-probs under the reference.

    Args:
        load: gives the reference in float32; its weights are cast to `precision` as the policy's are in training, so
            that a policy that equals its reference has log-ratios of 0 (in bf16, over rows packed alike). Not called
            when `file` is there.
        file: where the log-probs are kept for a continuation.
        also_shared: carry those of what `train.preference.shared` leaves as well (LD-DPO).
    """
    if file is not None and file.exists():
        logps = json.loads(file.read_text())
    else:
        model = load()
        cast(model, precision)
        reference = TreePolicy(model).to(device)
        readings = 2 if also_shared else 1
        with journal.progress(len(trees) * readings, "reference log-probs", unit="tree") as bar:
            logps = read_reference(reference, trees, token_budget, also_shared, bar.advance)
        del reference, model
        release()
        if file is not None and writes:
            write_atomically(file, json.dumps(logps))
    return carrying(trees, logps)


def read_reference(
    reference: TreePolicy,
    trees: Sequence[TokenTree],
    token_budget: int,
    also_shared: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, list[list[float]]]:
    """The log-probs of each tree's completions under a model that is in memory, by the names that trees carry them
    under."""
    readings = {REFERENCE: trees, **({SHARED_REFERENCE: [shared(tree) for tree in trees]} if also_shared else {})}
    return {
        name: score_trees(reference, read, token_budget=token_budget, progress=progress)
        for name, read in readings.items()
    }


def carrying(trees: Sequence[TokenTree], logps: Mapping[str, Sequence[Sequence[float]]]) -> list[TokenTree]:
    """The trees with what `read_reference` gave."""
    carried = [dict(zip(logps, own, strict=True)) for own in zip(*logps.values(), strict=True)]
    return [replace(tree, values={**tree.values, **own}) for tree, own in zip(trees, carried, strict=True)]
