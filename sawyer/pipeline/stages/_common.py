"""What several stages do alike: read an earlier stage's records, and save the model they trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field

from sawyer.data.records import Record
from sawyer.errors import SawyerError
from sawyer.pipeline.stage import Context
from sawyer.train.settings import LoraSettings, OptimizerSettings

if TYPE_CHECKING:
    from sawyer.data.chat import ChatFormat
    from sawyer.models.adapters import Trainable
    from sawyer.train.optim import MasterWeights
    from sawyer.trees.model import TreeModel

R = TypeVar("R", bound=Record)


class TrainingSettings(OptimizerSettings):
    """What the training stages share: the optimiser, and what data they take."""

    part: str = "train"
    """Which part of the data to train on."""
    validation: str | None = None
    """Which part of the data to measure on; none for none."""
    limit: int | None = Field(default=None, ge=1)
    """Train on at most so many records."""
    max_tokens: int = Field(default=1024, ge=8)
    """Longest prompt + completion, in tokens; longer records are dropped and counted."""
    max_dropped: float = Field(default=0.1, ge=0, le=1)
    """The share of records that may be too long; more is an error."""
    chat_template: str | None = None
    """Name of a built-in chat template, or Jinja text; the tokenizer's own by default."""


def read_part(context: Context, ref: str, part: str, kind: type[R], limit: int | None = None) -> list[R]:
    """The records of one part of an earlier stage's data set.

    Raises:
        SawyerError: there is no such part, or its records are of another kind.
    """
    from sawyer.data.files import read_records

    folder = context.artifact(ref).folder
    file = folder / f"{part}.jsonl"
    if not file.exists():
        parts = ", ".join(sorted(path.stem for path in folder.glob("*.jsonl") if path.stem != "metrics"))
        raise SawyerError(f"stage {context.name}: the data of {ref} has no part '{part}'; it has {parts}")
    records = read_records(file)[:limit]
    wrong = next((type(record).__name__ for record in records if not isinstance(record, kind)), None)
    if wrong is not None:
        raise SawyerError(
            f"stage {context.name}: it needs {kind.__name__.lower()}s, but part '{part}' of {ref} holds {wrong.lower()}s"
        )
    return records  # type: ignore[return-value]


def trees_of(
    context: Context, settings: TrainingSettings, ref: str, part: str, kind: type[R], make: Any, limit: int | None = None
) -> tuple[list[Any], list[R]]:
    """The trees of one part of a data set and the records they come from; what is too long is dropped and said."""
    from sawyer.trees.build import build

    records = read_part(context, ref, part, kind, limit)
    kept = build(
        records,
        make,
        max_tokens=settings.max_tokens,
        max_dropped=settings.max_dropped,
        what=f"records of {ref}/{part}",
    )
    if kept.dropped:
        context.say(f"{kept.dropped} of {len(records)} records of {ref}/{part} exceed {settings.max_tokens} tokens")
    return kept.trees, [records[i] for i in kept.indices]


def save_trained(
    context: Context, model: Trainable, tree_model: TreeModel, weights: MasterWeights, chat: ChatFormat
) -> None:
    """Write the trained model, in float32, as the artifact of this stage."""
    if context.is_main:
        weights.install()
        model.save(context.folder, chat)


def check_context(model: Any, max_tokens: int, name: str) -> None:
    """Refuse records longer than the model can read."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and max_tokens > limit:
        raise SawyerError(
            f"stage {name}: max_tokens {max_tokens} exceeds the model's context of {limit} tokens; lower `max_tokens`"
        )


def write_json(path: Path, value: Any) -> None:
    from sawyer.pipeline.files import write_json as write

    write(path, value)


def mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / max(1, len(numbers))
