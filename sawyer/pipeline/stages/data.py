"""Stage `data`: records from a source, split by prompt into named parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sawyer.data.records import Record
from sawyer.data.sources import SourceSettings
from sawyer.data.splits import fractions_problem
from sawyer.errors import SawyerError
from sawyer.pipeline.stage import NAME, Context, Ref, Stage
from sawyer.settings import InputFile
from sawyer.settings import Settings as BaseSettings

_UNDIVIDED = {"train": 1.0}
_TAKEN = ("metrics", "dropped", "revisions", "sources")
"""What a file or a figure of the stage is called that is no part."""


class Settings(BaseSettings):
    """Either one `source` and how to `split` it, or a source for each of the `parts`."""

    source: SourceSettings | None = None
    """Where the records come from."""
    split: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(default=_UNDIVIDED, min_length=1)
    """Name and share of each part of the source, in sum 1; a prompt never lies in two parts."""
    split_seed: int = 0
    """Which prompts go to which part. Stages with the same `split` and `split_seed` agree on every prompt, whatever
    they are called and whatever the recipe's seed, so that what one trains on is never what another tests on."""
    parts: dict[str, SourceSettings] | None = None
    """A source of its own for each part, for sources that come split."""
    near_duplicates: float | None = Field(default=None, ge=0.5, le=1)
    """Keep prompts together in one part whose runs of three words have at least this Jaccard similarity (0.8, say).
    A group goes where one of its prompts goes, so stages with it agree only where they hold the same records."""
    against: Annotated[list[str], InputFile()] = Field(default=[])
    """Files or folders of evaluation prompts; records that overlap with one of them are dropped."""
    against_words: int = Field(default=13, ge=1)
    """How many words in a row must be the same to be an overlap: 13, or 8 to be strict."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Drop records whose prompt has more tokens, in the chat format of `tokens_of`, before a source's `limit` cuts."""
    tokens_of: Annotated[str | None, Ref("policy")] = None
    """The model whose tokens `max_prompt_tokens` counts (`base`, say)."""
    chat_template: str | None = None
    """For `max_prompt_tokens`: name of a built-in chat template, or Jinja text; the tokenizer's own by default."""
    view: Literal["records", "conversations", "prompts"] = "records"
    """`conversations` takes the best completion of a comparison as the answer, `prompts` drops the completions."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Settings:
        if (self.source is None) == (self.parts is None):
            raise ValueError("give either `source` (with `split`) or `parts`, not both and not neither")
        if self.parts is not None and not self.parts:
            raise ValueError("`parts` names no part; give at least one")
        if self.parts is not None and (self.split != _UNDIVIDED or self.split_seed != 0):
            raise ValueError("`split` and `split_seed` divide a `source`; `parts` come split")
        if self.parts is not None and self.near_duplicates is not None:
            raise ValueError("`near_duplicates` are kept together by `split`; `parts` come split")
        return self

    @model_validator(mode="after")
    def _tokens_of_a_model(self) -> Settings:
        if (self.max_prompt_tokens is None) != (self.tokens_of is None):
            raise ValueError("`max_prompt_tokens` and `tokens_of`, the model whose tokens count, go together")
        if self.chat_template is not None and self.max_prompt_tokens is None:
            raise ValueError("`chat_template` is for `max_prompt_tokens`; give that too, or leave it out")
        return self

    @model_validator(mode="after")
    def _parts_that_can_be(self) -> Settings:
        for name in self.parts or self.split:
            if not NAME.fullmatch(name):
                raise ValueError(f"the name of the part {name!r} may only have letters, digits, - and _")
            if name.lower() in _TAKEN:
                raise ValueError(f"a part cannot be called '{name}', that name is taken; choose another one")
        if (problem := fractions_problem(self.split)) is not None:
            raise ValueError(problem)
        return self


def _too_long(settings: Settings, context: Context) -> Callable[[Record], str | None]:
    """Why a record is to be dropped: its prompt is too long, or the chat template refuses it."""
    if settings.max_prompt_tokens is None or settings.tokens_of is None:
        return lambda record: None
    from sawyer.pipeline.stages._common import chat_of

    most, chat = settings.max_prompt_tokens, chat_of(context.model(settings.tokens_of), settings.chat_template)

    def reason(record: Record) -> str | None:
        if not record.prompt or record.prompt[-1]["role"] == "assistant":
            return "there is no prompt whose tokens could be counted"
        try:
            tokens = len(chat.prompt_ids(record.prompt))
        except SawyerError as error:
            return f"the prompt cannot be written: {error}"
        return f"the prompt has more than {most} tokens" if tokens > most else None

    return reason


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.data.contamination import Index, evaluation_prompts, without_overlaps
    from sawyer.data.files import LoadReport, write_records
    from sawyer.data.near_duplicates import groups
    from sawyer.data.sources import as_conversations, as_prompts, load_source
    from sawyer.data.splits import split
    from sawyer.data.statistics import by_source

    if not context.is_main:
        return {}
    told = [prompt for file in settings.against for prompt in evaluation_prompts(file)]
    views = {"records": lambda records: records, "conversations": as_conversations, "prompts": as_prompts}
    refuse = _too_long(settings, context)
    total = LoadReport()
    parts: dict[str, list[Any]] = {}
    if settings.parts is None:
        assert settings.source is not None
        records, total = load_source(settings.source, context.say, refuse)
        together = None
        if settings.near_duplicates is not None:
            context.say("looking for near-duplicates")
            together = groups(records, settings.near_duplicates)
            context.say(f"{len(records):,} records in {len(set(together)):,} groups of near-duplicates")
        parts = split(records, settings.split, settings.split_seed, together)
        for name, share in settings.split.items():
            if not parts[name]:
                raise SawyerError(
                    f"none of the {len(records)} records falls into the part '{name}' ({share:g} of the prompts); "
                    "give it a larger share, take more records, or leave it out"
                )
    else:
        for name, source in settings.parts.items():
            parts[name], report = load_source(source, context.say, refuse)
            total.add(report)
    if told:
        index, reason = Index(told, settings.against_words), "the prompt overlaps with an evaluation prompt"
        for name, records in parts.items():
            try:
                parts[name], overlapping = without_overlaps(records, index)
            except SawyerError as error:
                raise SawyerError(f"part '{name}': {error}") from None
            if overlapping:
                total.dropped[reason] = total.dropped.get(reason, 0) + overlapping
    figures: dict[str, Any] = {}
    for name, records in parts.items():
        try:
            rows = views[settings.view](records)
        except SawyerError as error:
            raise SawyerError(f"part '{name}': {error}") from None
        write_records(context.folder / f"{name}.jsonl", rows)
        figures[name] = len(rows)
    for reason, count in total.dropped.items():
        context.say(f"dropped {count}: {reason}")
    sources = by_source([record for records in parts.values() for record in records])
    if len(sources) > 1:
        figures["sources"] = sources
    for kind, found in (("dropped", total.dropped), ("revisions", total.revisions)):
        if found:
            figures[kind] = found
    return figures


STAGE = Stage("data", Settings, run, makes="data", help="records from a source, split by prompt into parts", version=3)
