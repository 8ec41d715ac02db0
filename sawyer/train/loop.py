"""The one optimisation loop: SFT, reward models and preference optimisation differ only in the loss they hand it.

An update takes `batch_size` trees, packs them into rows of at most `token_budget` tokens, adds up the gradients of the
rows, and steps. The loss is a mean over the whole update (over its trees, or over its scored tokens for SFT), whatever
the packing and the number of processes, so neither changes anything but speed.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from sawyer.errors import SawyerError
from sawyer.journal import Journal
from sawyer.train.checkpoints import Checkpoints, Companion
from sawyer.train.optim import MasterWeights, learning_rate
from sawyer.train.settings import OptimizerSettings
from sawyer.trees.model import TreeModel
from sawyer.trees.tree import TokenTree, TreeBatch, pack

if TYPE_CHECKING:
    from accelerate import Accelerator

Terms = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Objective:
    """What is minimised.

    Attributes:
        terms: given the model and a packed row, sums over the row's trees (or tokens): `loss`, and any further figures
            worth a curve. All are divided by the number of units in the update.
        unit: what the mean is taken over.
        by_token: the figures whose mean is taken over the scored tokens in any case.
    """

    terms: Callable[[TreeModel, TreeBatch], Terms]
    unit: Literal["tree", "token"] = "tree"
    by_token: frozenset[str] = frozenset()

    def units(self, trees: Sequence[TokenTree], term: str = "loss") -> int:
        """How many units the mean of a term over `trees` is taken over."""
        if self.unit == "tree" and term not in self.by_token:
            return len(trees)
        return sum(tree.scored_tokens for tree in trees)


@dataclass(frozen=True)
class Trained:
    """What training leaves: the float32 weights, and the figures of the last tenth of the updates and of validation."""

    weights: MasterWeights
    figures: dict[str, float]


Source = Callable[[int], tuple[list[TokenTree], dict[str, float]]]
"""Where an update's trees come from: given its number (from 0), the trees and figures worth a curve. It must give the
same for the same number and weights, or a continuation is another training."""


def train(
    model: TreeModel,
    trees: Sequence[TokenTree] | Source,
    objective: Objective,
    settings: OptimizerSettings,
    *,
    precision: str,
    seed: int,
    journal: Journal,
    title: str,
    scratch: Path | None = None,
    validation: Sequence[TokenTree] = (),
    accelerator: Accelerator | None = None,
    companions: Sequence[Companion] = (),
) -> Trained:
    """Train `model` in place; afterwards it holds the result in compute precision.

    Args:
        trees: the data, which is shuffled and passed over; or, with `steps` set, a source that makes each update's
            trees when it is due (an update without trees changes nothing and is logged).
        scratch: where checkpoints go; a checkpoint found there is continued, to the bit-same result. None for none.
        validation: held-out trees, measured every `validate_every` updates and at the end.
        accelerator: splits the rows of an update over its processes.
        companions: called after each update, in this order; checkpoints hold what they carry.

    Returns:
        the float32 master weights (`install()` puts them into the model, to be saved) and the last figures.

    Raises:
        SawyerError: no data, or a tree longer than the model's context; the loss is not a number (the last checkpoint
            is kept).
    """
    if callable(trees):
        assert settings.steps is not None, "how many updates there are must be said"
        total, source = settings.steps, trees
        model.check_context(validation)
    else:
        if not trees:
            raise SawyerError(f"{title}: there is nothing to train on, the data is empty")
        model.check_context([*trees, *validation])
        total = settings.updates(len(trees))
        source = _shuffled(trees, settings.batch_size, total, seed)
    torch.manual_seed(seed)
    weights = MasterWeights(model, settings, precision)
    if settings.gradient_checkpointing:
        model.checkpoint_activations()
    for companion in companions:
        companion.begin(model, weights)
    checkpoints = Checkpoints(
        scratch,
        settings.checkpoint_every,
        writes=accelerator is None or accelerator.is_main_process,
        companions=companions,
    )
    first, recorded = checkpoints.resume(weights, journal)
    recent: deque[dict[str, float]] = deque(recorded, maxlen=max(1, total // 10))
    measured: dict[str, float] = {}
    beside: dict[str, float] = {}
    model.train()

    with journal.progress(total, title, unit="step", start=first) as bar:
        for step in range(first, total):
            batch, told = source(step)
            if not batch:
                journal.log(step=step + 1, **told)
                bar.advance()
                continue
            began = time.perf_counter()
            rate = learning_rate(step, total, settings)
            learned, norm = update(model, batch, objective, weights, rate, accelerator)
            figures = {**told, **learned}
            if not math.isfinite(figures["loss"]) or not math.isfinite(norm):
                raise SawyerError(
                    f"{title}: the loss is not a number at update {step + 1} of {total}; lower `learning_rate` "
                    f"(now {settings.learning_rate:g}) or look at the data; {checkpoints.kept()}"
                )
            tokens = sum(tree.tokens for tree in batch)
            speed = tokens / (time.perf_counter() - began)
            recent.append(figures)
            last = step + 1 == total
            fresh = {name: value for each in companions for name, value in each.after(step + 1, last).items()}
            beside |= fresh
            journal.log(
                step=step + 1,
                **figures,
                **fresh,
                learning_rate=rate,
                grad_norm=norm,
                tokens=tokens,
                tokens_per_second=speed,
            )
            bar.advance(loss=figures["loss"], tokens_per_second=speed)
            if validation and (last or (settings.validate_every and (step + 1) % settings.validate_every == 0)):
                measured = measure(model, validation, objective, settings.token_budget)
                journal.log(step=step + 1, **{f"validation/{name}": value for name, value in measured.items()})
            if not last:
                checkpoints.after(step + 1, weights, journal, list(recent))
    weights.release()
    model.eval()
    names = list(recent[-1]) if recent else []
    seen = {name: [figures[name] for figures in recent if name in figures] for name in names}
    means = {name: sum(values) / len(values) for name, values in seen.items()}
    return Trained(
        weights, {"updates": total, **means, **beside, **{f"validation_{k}": v for k, v in measured.items()}}
    )


def update(
    model: TreeModel,
    batch: Sequence[TokenTree],
    objective: Objective,
    weights: MasterWeights,
    rate: float,
    accelerator: Accelerator | None = None,
    apart_rate: float | None = None,
) -> tuple[dict[str, float], float]:
    """One step on the mean loss over `batch`: the mean of each term, and the norm of the gradient before clipping.

    Where either is no number, the weights stay as they were.
    """
    reduce = _reducer(accelerator)
    sums = forward_backward(model, batch, objective, weights.settings.token_budget, accelerator)
    norm = weights.update(rate, reduce, apart_rate)
    return {name: float(value) for name, value in _shared(sums, reduce).items()}, norm


def forward_backward(
    model: TreeModel,
    batch: Sequence[TokenTree],
    objective: Objective,
    token_budget: int,
    accelerator: Accelerator | None = None,
) -> Terms:
    """Gradients of the mean loss over `batch`, handed to the model's `MasterWeights`; returns the mean of each term.

    With several processes each takes every n-th row; the terms and gradients are then this process's share of the sum.
    """
    rows = pack([tree.tokens for tree in batch], token_budget)
    if accelerator is not None:
        rows = rows[accelerator.process_index :: accelerator.num_processes]
    sums: Terms = {}
    for row in rows:
        terms = objective.terms(model, TreeBatch.of([batch[i] for i in row], model.device))
        (terms["loss"] / objective.units(batch)).backward()
        for name, value in terms.items():
            share = value.detach() / objective.units(batch, name)
            sums[name] = sums.get(name, torch.zeros((), device=value.device)) + share
    if not rows:  # fewer rows than processes; the sum over processes needs the same terms from all
        with torch.no_grad():
            terms = objective.terms(model, TreeBatch.of(batch[:1], model.device))
        sums = {name: torch.zeros_like(value) for name, value in terms.items()}
    return sums


@torch.no_grad()
def measure(model: TreeModel, trees: Sequence[TokenTree], objective: Objective, token_budget: int) -> dict[str, float]:
    """The mean of each term over all `trees`, without gradients."""
    was_training = model.training
    model.eval()
    sums: dict[str, float] = {}
    for row in pack([tree.tokens for tree in trees], token_budget):
        for name, value in objective.terms(model, TreeBatch.of([trees[i] for i in row], model.device)).items():
            sums[name] = sums.get(name, 0.0) + float(value) / objective.units(trees, name)
    model.train(was_training)
    return sums


def _shuffled(trees: Sequence[TokenTree], batch_size: int, total: int, seed: int) -> Source:
    """The trees in `data_order`."""
    order = list(data_order(len(trees), batch_size, total, seed))
    return lambda step: ([trees[i] for i in order[step]], {})


def data_order(count: int, batch_size: int, total: int, seed: int) -> Iterator[list[int]]:
    """Indices of each update's trees: one shuffled pass over the data after another, cut into batches end to end."""
    stream: list[int] = []
    epoch = 0
    for _ in range(total):
        while len(stream) < batch_size:
            generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
            stream.extend(torch.randperm(count, generator=generator).tolist())
            epoch += 1
        yield stream[:batch_size]
        del stream[:batch_size]


def _reducer(accelerator: Accelerator | None) -> Callable[[torch.Tensor], None] | None:
    if accelerator is None or accelerator.num_processes == 1:
        return None

    def reduce(tensor: torch.Tensor) -> None:
        torch.distributed.all_reduce(tensor)

    return reduce


def _shared(sums: Terms, reduce: Callable[[torch.Tensor], None] | None) -> Terms:
    if reduce is not None:
        for name in sorted(sums):
            reduce(sums[name])
    return sums
