"""Training on preferences with any loss: what the stages `dpo` and `preference` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sawyer.data.records import Comparison, Labelled
from sawyer.errors import SawyerError
from sawyer.pipeline.stage import Context

if TYPE_CHECKING:
    from pathlib import Path

    from sawyer.data.chat import ChatFormat
    from sawyer.models.adapters import Trainable
    from sawyer.train.checkpoints import Companion
    from sawyer.train.loop import Objective, Source, Trained
    from sawyer.train.preference import Weighted
    from sawyer.trees.tree import TokenTree

LEARNED = "learned.safetensors"


def train(settings: Any, context: Context, mix: Sequence[Weighted]) -> dict[str, Any]:
    """Train `settings.model` on `settings.data`, save it, and return the figures.

    Raises:
        SawyerError: the data lacks what a loss needs, or the reference reads with another tokenizer.
    """
    from sawyer.models.adapters import Trainable
    from sawyer.models.load import load_policy
    from sawyer.pipeline.stages._common import chat_of, fit, save_trained
    from sawyer.pipeline.stages._divergence import from_reference
    from sawyer.train.curriculum import cut, in_order
    from sawyer.train.moving import MovingReference
    from sawyer.train.preference import kto, preference
    from sawyer.trees.model import TreePolicy

    context.track(settings.trackers)
    name = context.model(settings.model)
    chat = chat_of(name, settings.chat_template)
    _same_tokenizer(context, settings, chat)
    trees, margins = _trees(context, settings, chat, mix, settings.part, settings.limit)
    held_out, _ = _trees(context, settings, chat, mix, settings.validation) if settings.validation else ([], [])
    if settings.chunks > len(trees):
        raise SawyerError(f"stage {context.name}: {len(trees)} trees cannot be cut into {settings.chunks} `chunks`")
    if (sync := settings.reference_sync) is not None and sync.every >= settings.updates(len(trees)):
        raise SawyerError(
            f"stage {context.name}: there are {settings.updates(len(trees))} updates, so that a reference which moves "
            f"every {sync.every} of them would never be used: lower `reference_sync.every`"
        )
    divergence = from_reference(context, settings, trees)
    trees, held_out = _prepared(context, settings, mix, trees, margins, held_out)

    objective = kto(mix[0].options) if mix[0].loss.data == "labelled" else preference(mix)
    companions: list[Companion] = [] if divergence is None else [divergence]
    if sync is not None:
        moving = MovingReference(sync.every, sync.alpha, _weights_of(context, settings))
        objective, companions = moving.against(objective), [moving, *companions]
        trees = [_without_reference(tree) for tree in trees]
    trainable = Trainable(lambda: load_policy(name), settings.lora, seed=context.seed)
    policy = TreePolicy(trainable.model)
    if settings.chunks > 1:
        own = [trees[part.start : part.stop] for part in cut(len(trees), settings.chunks)]
        shared = any(part.loss.name == "ld_dpo" for part in mix)
        result, earlier = _in_parts(context, settings, trainable, policy, own, objective, held_out, companions, shared)
    else:
        source: Sequence[TokenTree] | Source = trees
        numbered, earlier = settings, []
        if settings.curriculum is not None:
            policy.check_context(trees)
            source, numbered = in_order(trees, settings)
        result = fit(context, numbered, policy, source, objective, held_out, companions=companions)
    save_trained(context, trainable, result.weights, chat)
    what = {"pairs": "pairs", "rankings": "rankings", "labelled": "completions"}[mix[0].loss.data]
    return {what: len(trees), **result.figures, **({"chunks": [*earlier, result.figures]} if earlier else {})}


def _prepared(
    context: Context,
    settings: Any,
    mix: Sequence[Weighted],
    trees: list[TokenTree],
    margins: Sequence[float | None],
    held_out: list[TokenTree],
) -> tuple[list[TokenTree], list[TokenTree]]:
    """The trees in the order of the curriculum, and of both kinds those with the first reference's log-probs that it is
    the reference of: of sDPO the first part, of TR-DPO none but those held out."""
    from sawyer.train.curriculum import cut, difficulties, easy_first

    by = settings.curriculum
    if by is not None and by != "reference_margin":
        trees = [trees[i] for i in easy_first(difficulties(by, trees, margins))]
    if not any(part.loss.reference for part in mix):
        return trees, held_out
    at_once = 0 if settings.reference_sync is not None else cut(len(trees), settings.chunks)[0].stop
    if by == "reference_margin":
        at_once = len(trees)
    both = _with_reference(context, settings, mix, [*trees[:at_once], *held_out])
    trees, held_out = [*both[:at_once], *trees[at_once:]], both[at_once:]
    if by == "reference_margin":
        trees = [trees[i] for i in easy_first(difficulties(by, trees, margins))]
    return trees, held_out


def _in_parts(
    context: Context,
    settings: Any,
    trainable: Trainable,
    policy: Any,
    parts: list[list[TokenTree]],
    objective: Objective,
    held_out: Sequence[TokenTree],
    companions: Sequence[Companion],
    also_shared: bool,
) -> tuple[Trained, list[dict[str, float]]]:
    """sDPO (Kim et al. 2024, arXiv 2403.19270): one training after the other, each from what the one before led to and
    with that as its reference. Of every part but the last what it led to is kept, and is not trained again; so are the
    log-probs of the next part under it, which the policy itself gives as it is.

    Returns:
        the last training, and the figures of those before.
    """
    from safetensors.torch import load_file, save_file

    from sawyer.numerics import release
    from sawyer.pipeline.files import read_json, write_json
    from sawyer.pipeline.stages._common import fit, part_folder
    from sawyer.train.curriculum import cut
    from sawyer.train.reference import carrying, under

    folders = [part_folder(context, c) for c in range(len(parts))]
    finished = context.processes.on_main(lambda: sum((folder / LEARNED).exists() for folder in folders))
    figures = [read_json(folder / "figures.json") for folder in folders[:finished]]
    if finished:
        trainable.take(load_file(folders[finished - 1] / LEARNED))
        parts[finished] = carrying(parts[finished], read_json(folders[finished] / "reference.json"))
    updates = [None] * len(parts) if settings.steps is None else [len(part) for part in cut(settings.steps, len(parts))]
    for c in range(finished, len(parts)):
        own = settings.model_copy(update={"steps": updates[c]})
        result = fit(context, own, policy, parts[c], objective, held_out, companions=companions, part=c)
        context.log(part=c + 1, **{k: v for k, v in result.figures.items() if k != "loss"})
        figures.append(result.figures)
        if c + 1 == len(parts):
            return result, figures[:-1]
        if context.is_main:
            folders[c + 1].mkdir(parents=True, exist_ok=True)
        parts[c + 1] = under(
            policy,
            parts[c + 1],
            token_budget=settings.token_budget,
            journal=context,
            file=folders[c + 1] / "reference.json",
            writes=context.is_main,
            also_shared=also_shared,
        )
        result.weights.install()
        if context.is_main:
            write_json(folders[c] / "figures.json", result.figures)
            save_file(trainable.learned(), folders[c] / "new")
            (folders[c] / "new").rename(folders[c] / LEARNED)
        del result  # and with it the optimiser
        release()
    raise AssertionError("the last part is never finished before")


def _with_reference(
    context: Context, settings: Any, mix: Sequence[Weighted], trees: Sequence[TokenTree]
) -> list[TokenTree]:
    """The trees with their log-probs under the first reference, from the run's cache where they are there."""
    from sawyer.models.load import load_policy
    from sawyer.train.reference import key, with_reference

    if not trees:
        return []
    ref, device = settings.reference or settings.model, context.accelerator.device
    shared = any(part.loss.name == "ld_dpo" for part in mix)
    name = key(
        context.identity(ref),
        trees,
        precision=context.precision,
        token_budget=settings.token_budget,
        device=device,
        also_shared=shared,
    )
    return with_reference(
        lambda: load_policy(context.model(ref)),
        trees,
        precision=context.precision,
        token_budget=settings.token_budget,
        file=_cache(context) / f"{name}.json",
        journal=context,
        device=device,
        writes=context.is_main,
        also_shared=shared,
    )


def _cache(context: Context) -> Path:
    return (context.cache or context.scratch) / "reference"


def _weights_of(context: Context, settings: Any) -> dict[str, Any] | None:
    """The weights of a reference of its own, by name, to be moved."""
    from sawyer.models.load import load_policy

    if settings.reference is None:
        return None
    return {name: p.detach() for name, p in load_policy(context.model(settings.reference)).named_parameters()}


def _without_reference(tree: TokenTree) -> TokenTree:
    from sawyer.train.preference import REFERENCE, SHARED_REFERENCE

    dropped = (REFERENCE, SHARED_REFERENCE)
    return replace(tree, values={name: own for name, own in tree.values.items() if name not in dropped})


def _same_tokenizer(context: Context, settings: Any, chat: ChatFormat) -> None:
    """Refuse a reference to which the same token ids are other words."""
    from sawyer.models.load import load_tokenizer

    if settings.reference is None:
        return
    if load_tokenizer(context.model(settings.reference)).get_vocab() != chat.tokenizer.get_vocab():
        raise SawyerError(
            f"stage {context.name}: the reference {settings.reference} has another tokenizer than the policy "
            f"{settings.model}, so their log-probs cannot be compared: give a reference of the same family"
        )


def _trees(
    context: Context,
    settings: Any,
    chat: ChatFormat,
    mix: Sequence[Weighted],
    part: str,
    limit: int | None = None,
) -> tuple[list[TokenTree], list[float | None]]:
    """The trees of one part of the data, with what the losses need of it; and by how much the best score is above the
    worst, None where there are no scores."""
    from sawyer.pipeline.stages._common import trees_of
    from sawyer.train.preference import SCORE
    from sawyer.trees.build import comparison_tree

    if mix[0].loss.data == "labelled":
        return _labelled(context, settings, chat, part, limit), []
    whole, scored = any(p.loss.data == "rankings" for p in mix), any(p.loss.scores for p in mix)

    def make(record: Comparison | Labelled) -> TokenTree:
        if isinstance(record, Labelled):
            raise SawyerError(
                f"the loss {mix[0].loss.name} learns from comparisons, and part '{part}' of {settings.data} holds "
                "single completions with a label: take the loss kto, or give comparisons"
            )
        return comparison_tree(chat, record, pair=not whole)

    trees, records = trees_of(context, settings, settings.data, part, (Comparison, Labelled), make, limit)
    margins = [None if record.scores is None else record.scores[0] - record.scores[-1] for record in records]
    if not scored:
        return trees, margins
    scores = [_scores(record, number, mix, whole) for number, record in enumerate(records, 1)]
    return [replace(tree, values={**tree.values, SCORE: own}) for tree, own in zip(trees, scores, strict=True)], margins


def _scores(record: Comparison, number: int, mix: Sequence[Weighted], whole: bool) -> list[float]:
    who = next(part.loss.name for part in mix if part.loss.scores)
    if record.scores is None:
        raise SawyerError(
            f"the loss {who} needs the `scores` of all completions, and comparison {number} has none: choose a loss "
            "that needs none (`sawyer losses`), or give data with scores"
        )
    scores = list(record.scores) if whole else [record.scores[0], record.scores[-1]]
    if who == "sppo" and not all(0 <= score <= 1 for score in scores):
        raise SawyerError(
            f"the loss sppo takes scores for probabilities of winning, and one of comparison {number} is not between 0 "
            "and 1: give win rates as `scores`"
        )
    return scores


def _labelled(context: Context, settings: Any, chat: ChatFormat, part: str, limit: int | None) -> list[TokenTree]:
    """Trees of single completions with a label, each beside a completion that is not its prompt's."""
    from sawyer.pipeline.stages._common import read_part
    from sawyer.train.preference import mismatched
    from sawyer.trees.build import build, completions_tree

    records = read_part(context, settings.data, part, (Labelled, Comparison), limit)
    singles: list[tuple[Any, str, bool]] = []
    for record in records:
        if isinstance(record, Labelled):
            singles.append((record.prompt, record.completion, record.label))
        else:  # a pair is two labels
            singles += [(record.prompt, record.chosen, True), (record.prompt, record.rejected, False)]
    if len({desirable for *_, desirable in singles}) < 2:
        raise SawyerError(
            f"the loss kto needs desirable and undesirable completions, and all {len(singles)} of "
            f"{settings.data}/{part} are alike: give both kinds"
        )
    kept = build(
        singles,  # type: ignore[type-var]  # anything that `make` takes
        lambda single: completions_tree(chat, single[0], [single[1]]),
        max_tokens=settings.max_tokens,
        max_dropped=settings.max_dropped,
        what=f"completions of {settings.data}/{part}",
    )
    if kept.dropped:
        context.say(f"{kept.dropped} of {len(singles)} completions of {settings.data}/{part} are too long")
    return mismatched(kept.trees, [singles[i][2] for i in kept.indices])
