"""Reference log-probs: computed once and kept, so that no second model is in memory while the policy trains."""

from __future__ import annotations

import hashlib
import json
from array import array
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
from sawyer.trees.model import TreeModel, TreePolicy
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
        file: where the log-probs are kept: for a continuation, or, called by `key`, for whoever needs the same.
        also_shared: carry those of what `train.preference.shared` leaves as well (LD-DPO).
    """
    if file is not None and file.exists():
        return carrying(trees, json.loads(file.read_text()))
    model = load()
    cast(model, precision)
    reference = TreePolicy(model).to(device)
    logps = _read(reference, trees, token_budget, also_shared, journal)
    del reference, model
    release()
    if file is not None and writes:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(logps))
    return carrying(trees, logps)


def under(
    reference: TreeModel,
    trees: Sequence[TokenTree],
    *,
    token_budget: int,
    journal: Journal,
    file: Path,
    writes: bool = True,
    also_shared: bool = False,
) -> list[TokenTree]:
    """As `with_reference`, of a model that is there already and stays: a policy that is its own reference next."""
    logps = _read(reference, trees, token_budget, also_shared, journal)
    if writes:
        write_atomically(file, json.dumps(logps))
    return carrying(trees, logps)


def key(
    model: str,
    trees: Sequence[TokenTree],
    *,
    precision: str,
    token_budget: int,
    device: torch.device | str = "cpu",
    also_shared: bool = False,
) -> str:
    """A name for the log-probs of these trees under that model: the same only where they are the same to the bit.

    Tokens stand for tokenizer, template and data; how they are packed and what computes decides the rounding.

    Args:
        model: what its weights are, such as their hash.
    """
    kind = torch.device(device).type
    own = hashlib.sha256(json.dumps([model, precision, token_budget, kind, also_shared, torch.__version__]).encode())
    for tree in trees:
        own.update(array("q", [len(tree.completions), *map(len, (tree.prompt, *tree.completions))]).tobytes())
        for ids in (tree.prompt, *tree.completions):
            own.update(array("q", ids).tobytes())
        own.update(b"all" if tree.scored is None else bytes(flag for flags in tree.scored for flag in flags))
    return own.hexdigest()[:32]


def _read(
    reference: TreeModel, trees: Sequence[TokenTree], token_budget: int, also_shared: bool, journal: Journal
) -> dict[str, list[list[float]]]:
    """`read_reference`, with progress."""
    readings = 2 if also_shared else 1
    with journal.progress(len(trees) * readings, "reference log-probs", unit="tree") as bar:
        return read_reference(reference, trees, token_budget, also_shared, bar.advance)


def read_reference(
    reference: TreeModel,
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
    """The trees with what `read_reference` gave, or a file keeps of it."""
    carried = [dict(zip(logps, own, strict=True)) for own in zip(*logps.values(), strict=True)]
    return [replace(tree, values={**tree.values, **own}) for tree, own in zip(trees, carried, strict=True)]
