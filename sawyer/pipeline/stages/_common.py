"""What several stages do alike: read an earlier stage's records, and save the model they trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field, model_validator

from sawyer.data.records import Comparison, Conversation, Labelled, Prompt
from sawyer.errors import SawyerError
from sawyer.pipeline.stage import Context
from sawyer.train.settings import OptimizerSettings

if TYPE_CHECKING:
    from sawyer.data.chat import ChatFormat
    from sawyer.data.pair_format import PairFormat
    from sawyer.feedback.protocol import Feedback
    from sawyer.models.adapters import Trainable
    from sawyer.rollout.protocol import Completion
    from sawyer.train.checkpoints import Companion
    from sawyer.train.loop import Objective, Source, Trained
    from sawyer.train.optim import MasterWeights
    from sawyer.trees.model import TreeModel
    from sawyer.trees.tree import TokenTree


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

    @model_validator(mode="after")
    def _something_to_validate_on(self) -> TrainingSettings:
        if self.validate_every is not None and self.validation is None:
            raise ValueError("`validate_every` needs data to measure on: name a part with `validation`")
        return self


def training_needs(settings: OptimizerSettings, weights: int) -> dict[str, float]:
    """Memory and disk of a training stage, in GB, from the number of weights of its model.

    Full training holds float32 masters, two running averages and gradients (16 bytes a weight) and the copy that
    computes; adapters only the model. Activations are on top and depend on `token_budget`. On disk: the result, and two
    checkpoints of three float32 tensors a weight while it runs; `iterate` keeps every iterate and snapshot, `chunks`
    what each part of the data led to. A reference that moves is one more tensor, in memory and in checkpoints.
    """
    held = 20 if settings.lora is None else 5
    iterations = getattr(settings, "iterations", 0)
    written = 4.0 if settings.lora is None or settings.lora.merge else 0.2
    if getattr(settings, "reference_sync", None) is not None and settings.lora is None:
        return {
            "memory_gb": (held + 6) * weights / 1e9 + (1.0 if weights else 0.0),
            "disk_gb": weights * written / 1e9,
            "scratch_gb": weights * 32 / 1e9,
        }
    iterations = max(iterations, getattr(settings, "chunks", 1) - 1)
    explore = getattr(settings, "explore", None)
    snapshots = 0 if explore is None else explore.snapshots * iterations
    return {
        "memory_gb": held * weights / 1e9 + (1.0 if weights else 0.0),
        "disk_gb": weights * written * (1 + iterations) / 1e9,
        "scratch_gb": weights * ((24 if settings.lora is None else 1) + 4 * (iterations + snapshots)) / 1e9,
    }


def read_part(context: Context, ref: str, part: str, kinds: tuple[type, ...], limit: int | None = None) -> list[Any]:
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
    wrong = next((type(record).__name__ for record in records if not isinstance(record, kinds)), None)
    if wrong is not None:
        needed = " or ".join(f"{kind.__name__.lower()}s" for kind in kinds)
        raise SawyerError(f"stage {context.name}: it needs {needed}, but part '{part}' of {ref} holds {wrong.lower()}s")
    return records


class Limits(Protocol):
    """How long records may be, and how many of them longer."""

    @property
    def max_tokens(self) -> int: ...

    @property
    def max_dropped(self) -> float: ...


def trees_of(
    context: Context,
    settings: Limits,
    ref: str,
    part: str,
    kinds: tuple[type, ...],
    make: Any,
    limit: int | None = None,
    length: Any = None,
) -> tuple[list[Any], list[Any]]:
    """The trees of one part of a data set and the records they come from; what is too long is dropped and said.

    `length` says how long a tree is, its longest path where it is None.
    """
    from sawyer.trees.build import build

    records = read_part(context, ref, part, kinds, limit)
    kept = build(
        records,
        make,
        max_tokens=settings.max_tokens,
        max_dropped=settings.max_dropped,
        what=f"records of {ref}/{part}",
        length=length or (lambda tree: tree.longest_path),
    )
    if kept.dropped:
        context.say(f"{kept.dropped} of {len(records)} records of {ref}/{part} exceed {settings.max_tokens} tokens")
    return kept.trees, [records[i] for i in kept.indices]


def fit(
    context: Context,
    settings: TrainingSettings,
    model: TreeModel,
    trees: Sequence[TokenTree] | Source,
    objective: Objective,
    validation: Sequence[TokenTree],
    *,
    companions: Sequence[Companion] = (),
    part: int | None = None,
) -> Trained:
    """`train.loop.train` with what a context says: precision, seed, journal, folder for checkpoints, devices.

    `part` is the number (from 0) of one of several trainings of a stage: it draws on its own, and its checkpoints are
    in a folder of their own.
    """
    from sawyer.train.loop import train

    return train(
        model.to(context.accelerator.device), trees, objective, settings,
        precision=context.precision, seed=context.seed + (part or 0), journal=context,
        title=context.name if part is None else f"{context.name}, part {part + 1}",
        scratch=context.scratch if part is None else part_folder(context, part), validation=validation,
        accelerator=context.accelerator, companions=companions,
    )  # fmt: skip


def part_folder(context: Context, part: int) -> Path:
    """Where one of several trainings of a stage keeps what it needs to go on."""
    return context.scratch / f"part-{part + 1}"


def save_trained(
    context: Context,
    trainable: Trainable,
    weights: MasterWeights,
    chat: ChatFormat | PairFormat,
    finish: Callable[[Any], None] | None = None,
) -> None:
    """Write the trained model, in float32, as the artifact of this stage; `finish` changes it before."""
    if context.is_main:
        weights.install()
        trainable.save(context.folder, chat, finish=finish)


def mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / max(1, len(numbers))


def prompts_of(context: Context, ref: str, part: str, limit: int | None = None) -> list[Prompt]:
    """The prompts of one part of a data set, each once, whatever its records are."""
    from sawyer.data.sources import as_prompts

    return as_prompts(read_part(context, ref, part, (Prompt, Comparison, Conversation, Labelled)))[:limit]


def chat_of(name: str, template: str | None) -> ChatFormat:
    """The chat format of a model: the template asked for, else its tokenizer's own, else `plain`."""
    from sawyer.data.chat import ChatFormat
    from sawyer.models.load import load_tokenizer

    return ChatFormat(load_tokenizer(name), template, default="plain")


def reward_model_of(context: Context, ref: str, token_budget: int = 4096, max_tokens: int | None = None) -> Feedback:
    """A reward model of any kind that scores in the run's precision, on the run's device."""
    from sawyer.feedback.multi_objective import open_reward_model

    return open_reward_model(
        context.model(ref),
        precision=context.precision,
        token_budget=token_budget,
        max_tokens=max_tokens,
        device=context.accelerator.device,
    )


def write_completions(file: Path, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]) -> None:
    """One line a prompt: its row and the `completions` as texts with their tokens and log-probs."""
    with file.open("w") as handle:
        for prompt, samples in zip(prompts, completions, strict=True):
            handle.write(json.dumps({**prompt.row(), "samples": [sample.row() for sample in samples]}) + "\n")


def completion_parts(context: Context, ref: str) -> dict[str, tuple[list[Prompt], list[list[str]]]]:
    """What `write_completions` wrote, by part: the prompts, and the texts of each one's completions."""
    parts = {}
    for file in sorted(context.artifact(ref).folder.glob("*.jsonl")):
        if file.name == "metrics.jsonl":
            continue
        rows = [json.loads(line) for line in file.read_text().split("\n") if line]
        prompts = [Prompt(row["prompt"], row.get("info", {})) for row in rows]
        parts[file.stem] = prompts, [[sample["text"] for sample in row["samples"]] for row in rows]
    return parts


def conversation_trees(
    context: Context, settings: Any, part: str, chat: ChatFormat, limit: int | None = None
) -> list[Any]:
    """Trees of conversations; of comparisons, their prompt and best completion."""
    from sawyer.data.sources import as_conversations
    from sawyer.trees.build import conversation_tree

    def make(record: Conversation | Comparison) -> Any:
        conversation = record if isinstance(record, Conversation) else as_conversations([record])[0]
        return conversation_tree(chat, conversation)

    return trees_of(context, settings, settings.data, part, (Conversation, Comparison), make, limit)[0]
