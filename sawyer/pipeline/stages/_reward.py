"""What stage `reward` is made of: the model and how it reads, the trees with what shapes their loss, the evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sawyer.data.chat import ChatFormat
from sawyer.data.pair_format import PairFormat
from sawyer.data.records import Comparison
from sawyer.errors import SawyerError
from sawyer.evals import reward_models
from sawyer.models.adapters import Trainable
from sawyer.models.load import load_bi_encoder, load_sequence_classifier, load_tokenizer, model_kind
from sawyer.pipeline.stage import Context
from sawyer.pipeline.stages._common import chat_of, trees_of
from sawyer.train.gaps import mean_gap, score_gaps, with_gaps
from sawyer.trees.build import comparison_tree, encoder_tree
from sawyer.trees.encoder import BiEncoderReward, CrossEncoderReward
from sawyer.trees.model import TreeModel, TreeReward
from sawyer.trees.score import score_trees
from sawyer.trees.tree import TokenTree

if TYPE_CHECKING:
    from sawyer.pipeline.stages.reward import Settings


@dataclass(frozen=True)
class Reader:
    """A reward model to be trained, and how it reads comparisons."""

    trainable: Trainable
    model: TreeModel
    form: ChatFormat | PairFormat

    def tree(self, record: Comparison) -> TokenTree:
        if isinstance(self.form, PairFormat):
            return encoder_tree(self.form, record.prompt, record.completions)
        return comparison_tree(self.form, record)

    def counts(self) -> dict[str, int]:
        return {"truncated": self.form.truncated} if isinstance(self.form, PairFormat) else {}


def reader_of(context: Context, settings: Settings) -> Reader:
    """The model that the settings describe.

    Raises:
        SawyerError: a decoder is to be read as an encoder, or the other way round; the model cannot be loaded.
    """
    name, outputs = context.model(settings.model), 2 if settings.heads == "odin" else 1
    kind = model_kind(name)
    if settings.encoder is None and kind != "decoder":
        wanted = "bi" if kind == "bi" else "cross"
        raise SawyerError(f"{name} is an encoder: say how it reads prompt and completion, with `encoder: {wanted}`")
    if settings.encoder is not None and kind == "decoder":
        raise SawyerError(f"{name} is a decoder: leave `encoder` out, or start from an encoder such as RoBERTa")
    if settings.encoder == "cross" and kind == "bi":
        raise SawyerError(f"{name} is a bi-encoder: go on with `encoder: bi`, or start from the encoder it came from")
    bi = settings.encoder == "bi"

    def load() -> Any:
        if bi:
            return load_bi_encoder(name, fresh_heads=True, seed=context.seed)
        return load_sequence_classifier(name, num_labels=outputs, fresh_head=True, seed=context.seed)

    trainable = Trainable(load, settings.lora, task="SEQ_CLS", seed=context.seed)
    if settings.encoder is None:
        return Reader(trainable, TreeReward(trainable.model), chat_of(name, settings.chat_template))
    model = BiEncoderReward(cast(Any, trainable.model)) if bi else CrossEncoderReward(trainable.model)
    limit = min(settings.max_tokens, model.context or settings.max_tokens)
    return Reader(trainable, model, PairFormat(load_tokenizer(name), limit, apart=bi))


def shaped_trees(
    context: Context, settings: Settings, reader: Reader
) -> tuple[list[TokenTree], list[TokenTree], list[Comparison]]:
    """The trees to train on and those to measure on, with the gaps of their scores, and the records of the latter.

    Raises:
        SawyerError: a setting is for pairs or needs scores, and the data has rankings or none; see also `trees_of`.
    """
    trees, records = _read(context, settings, reader, settings.part, settings.limit)
    held_out, held_out_records = (
        _read(context, settings, reader, settings.validation) if settings.validation else ([], [])
    )
    if isinstance(reader.form, PairFormat) and reader.form.truncated:
        context.say(f"{reader.form.truncated} sequences were cut to {reader.form.max_tokens} tokens")
    if settings.label_smoothing and any(len(tree.completions) > 2 for tree in [*trees, *held_out]):
        raise SawyerError("`label_smoothing` is for pairs, and the data has rankings of more than two: leave it out")
    if settings.gap == "ignore":
        return trees, held_out, held_out_records
    gaps = score_gaps(records)
    mean = mean_gap(gaps) if settings.gap == "weight" else 1.0
    shape = {"scale": settings.gap_scale, "mean": mean}
    return (
        with_gaps(trees, gaps, settings.gap, **shape),
        with_gaps(held_out, score_gaps(held_out_records), settings.gap, **shape),
        held_out_records,
    )


def calibration_trees(context: Context, settings: Settings, reader: Reader) -> list[TokenTree]:
    """The trees to fit the temperature on; none where no part is named for it."""
    return _read(context, settings, reader, settings.calibrate)[0] if settings.calibrate else []


def evaluation_of(
    model: TreeModel,
    trees: Sequence[TokenTree],
    records: Sequence[Comparison],
    fitting: Sequence[TokenTree],
    token_budget: int,
    seed: int,
) -> dict[str, Any]:
    """How a reward model judges held-out comparisons, by their best and worst completion; the temperature is fitted on
    those of `fitting`, where there are any."""

    def margins(some: Sequence[TokenTree]) -> list[float]:
        return [own[0] - own[-1] for own in score_trees(model, some, token_budget=token_budget)]

    return reward_models.evaluate(
        margins(trees),
        [len(tree.completions[0]) for tree in trees],
        [len(tree.completions[-1]) for tree in trees],
        prompts=[str(record.prompt) for record in records],
        fitting=margins(fitting) if fitting else None,
        seed=seed,
    )


def _read(
    context: Context, settings: Settings, reader: Reader, part: str, limit: int | None = None
) -> tuple[list[TokenTree], list[Comparison]]:
    kinds = (Comparison,)
    return trees_of(context, settings, settings.data, part, kinds, reader.tree, limit, reader.model.longest)
