"""Where data comes from, as a recipe says it: settings by the name of their `source`, and one function to load them."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sawyer.data.files import SUFFIXES, LoadReport, RawRow, convert_rows, iter_rows
from sawyer.data.formats import convert_any, load_any
from sawyer.data.hh import hh_comparison, load_hh
from sawyer.data.hub import hub_rows
from sawyer.data.mixtures import MixtureName, mix, named_parts
from sawyer.data.public.answers import OF_COMPLETIONS
from sawyer.data.public.base import MAX_BAD, PublicSettings, local_files, named_files
from sawyer.data.public.catalog import PublicSource, read_public
from sawyer.data.records import Comparison, Conversation, Labelled, Message, Prompt, Record, assistant
from sawyer.data.source_base import SourceBase
from sawyer.data.verifiable import demonstrations, make_prompts
from sawyer.errors import SawyerError
from sawyer.settings import InputFile, Settings


class HHSettings(SourceBase):
    """Anthropic's HH-RLHF, from local files or from the hub."""

    source: Literal["hh"] = "hh"
    path: Annotated[str | list[str] | None, InputFile()] = None
    """Local file, files or folder (.jsonl, .jsonl.gz, .json); without it the hub is asked. Of a folder, the files named
    after the split are read, or all where none is; where it has folders called as `subsets`, those alone."""
    hub: str = "Anthropic/hh-rlhf"
    """Hub data set, when there is no path."""
    revision: str | None = None
    """Commit, tag or branch of the hub data set; without it the newest."""
    subsets: tuple[str, ...] = ("helpful-base", "harmless-base")
    """Folders of the hub data set, or of a local folder that has them too."""
    split: str = "train"
    """Split of the hub data set, or of a local folder."""


class FileSettings(SourceBase):
    """Files in any known format."""

    source: Literal["file"] = "file"
    path: Annotated[str | list[str], InputFile(folder=False)]
    """File or files (.jsonl, .jsonl.gz, .jsonl.xz, .json, .json.gz, .parquet)."""
    format: Literal["auto", "alpaca", "sharegpt", "messages", "trl", "hh"] = "auto"
    """Format of the rows; `auto` looks at their keys and refuses to guess between two."""


class HubSettings(SourceBase):
    """A data set of the Hugging Face hub in any known format."""

    source: Literal["hub"] = "hub"
    repo: str
    """Name of the data set, `owner/name`."""
    revision: str | None = None
    """Commit, tag or branch of the data set; without it the newest."""
    subset: str | None = None
    """Configuration of the data set, where it has several."""
    split: str = "train"
    """Split to load."""
    format: Literal["auto", "alpaca", "sharegpt", "messages", "trl", "hh"] = "auto"
    """As in `source: file`."""


class VerifiableSettings(SourceBase):
    """Our own generator of instructions that a program can check."""

    source: Literal["verifiable"] = "verifiable"
    n: int = Field(ge=1)
    """Number of prompts to make; the few that come out equal are kept once."""
    split: Literal["train", "validation", "test"] = "train"
    """Splits share no topic and no constraint."""
    seed: int = 0
    """Seed of the generator."""
    form: Literal["prompts", "demonstrations"] = "prompts"
    """`demonstrations` adds an answer that meets all constraints."""


_PlainSource = Annotated[
    HHSettings | FileSettings | HubSettings | VerifiableSettings | PublicSource, Field(discriminator="source")
]


class MixturePart(Settings):
    """One source of a mixture."""

    data: _PlainSource
    """The source, with its own settings."""
    weight: float = Field(default=1.0, gt=0, le=1)
    """Share of its records to keep, drawn at random."""


class MixtureSettings(SourceBase):
    """Several sources one after the other: one of the RLHF Workflow's mixtures by `name`, or `parts` of one's own."""

    source: Literal["mixture"] = "mixture"
    name: MixtureName | None = None
    """`mix1`: HH-RLHF, SHP, UltraFeedback, Summarize. `mix2`: the ten sets of the RLHF Workflow."""
    parts: tuple[MixturePart, ...] = ()
    """Sources, each with a weight."""
    folder: Annotated[str | None, InputFile()] = None
    """With `name`: a folder with a local copy of each set, as a file or a folder that is called as its source; without
    it the hub is asked."""
    limit_each: int | None = Field(default=None, ge=1)
    """With `name`: take at most so many records of each set, from the beginning."""
    max_bad: float = Field(default=MAX_BAD, ge=0, le=1)
    """With `name`: the share of each set's rows that may be unusable; more is an error."""
    seed: int = 0
    """Seed of the draws by weight."""

    @model_validator(mode="after")
    def _one_of_two(self) -> MixtureSettings:
        if (self.name is None) == (not self.parts):
            raise ValueError("give either `name` or `parts`, not both and not neither")
        of_a_name = self.folder is not None or self.limit_each is not None or self.max_bad != MAX_BAD
        if self.name is None and of_a_name:
            raise ValueError(
                "`folder`, `limit_each` and `max_bad` belong to a mixture by `name`; of `parts`, each has its own"
            )
        return self


SourceSettings = Annotated[
    HHSettings | FileSettings | HubSettings | VerifiableSettings | MixtureSettings | PublicSource,
    Field(discriminator="source"),
]


def load_source(
    settings: SourceBase,
    say: Callable[[str], None] = lambda text: None,
    refuse: Callable[[Record], str | None] = lambda record: None,
) -> tuple[list[Record], LoadReport]:
    """The records of a source, each once, shuffled and cut as the settings say, and what was dropped on the way.

    Args:
        say: is told, in a line each, how far a mixture is.
        refuse: why a record is to be dropped, if it is; asked before the records are shuffled and cut.

    Raises:
        SawyerError: a file or a hub data set cannot be read or is not what it should be; files hold different records.
    """
    records: list[Record] = []
    report = LoadReport()
    for part, part_report in _parts(settings, say):
        if records and type(part[0]) is not type(records[0]):
            kinds = f"{type(records[0]).__name__.lower()}s and {type(part[0]).__name__.lower()}s"
            raise SawyerError(
                f"the parts of `source: {settings.source}` hold different records, {kinds}; use one source each"
            )
        records += part
        report.add(part_report)
    records = _without(refuse, unique(records, report), report)
    if settings.shuffle_seed is not None:
        random.Random(settings.shuffle_seed).shuffle(records)
    return records[: settings.limit], report


def _without(refuse: Callable[[Record], str | None], records: Sequence[Record], report: LoadReport) -> list[Record]:
    """The records that are not refused; the report is brought up to date."""
    kept = []
    for number, record in enumerate(records, start=1):
        reason = refuse(record)
        if reason is None:
            kept.append(record)
        else:
            report.kept -= 1
            report.drop(reason, f"record {number}")
    return kept


def _parts(settings: SourceBase, say: Callable[[str], None]) -> list[tuple[list[Record], LoadReport]]:
    match settings:
        case HHSettings(path=None):
            found = []
            for subset in settings.subsets:
                name = f"{settings.hub}/{subset}"
                rows, revisions = hub_rows(settings.hub, settings.split, settings.revision, data_dir=subset)
                part, report = convert_rows(name, rows, hh_comparison, kind=Comparison, max_bad=settings.max_bad)
                report.revisions = revisions
                found.append(_by_anthropic((part, report)))
            return found
        case HHSettings():
            files = _hh_files(settings)
            return [_by_anthropic(load_hh(file, max_bad=settings.max_bad)) for file in files]
        case FileSettings():
            return [load_any(one, settings.format, max_bad=settings.max_bad) for one in named_files(settings.path)]
        case HubSettings():
            rows, revisions = hub_rows(settings.repo, settings.split, settings.revision, name=settings.subset)
            part, report = convert_any(settings.repo, rows, settings.format, max_bad=settings.max_bad)
            report.revisions = revisions
            return [(part, report)]
        case VerifiableSettings():
            make = demonstrations if settings.form == "demonstrations" else make_prompts
            made: list[Record] = list(make(settings.n, settings.split, settings.seed))
            return [(made, LoadReport(kept=len(made)))]
        case PublicSettings(path=None):
            rows, revisions = hub_rows(settings.hub, settings.split, settings.revision, **settings.place())
            part, report = read_public(settings, [(settings.hub, rows)])
            report.revisions = revisions
            return [(part, report)]
        case PublicSettings(path=path):
            return [read_public(settings, _named_rows(local_files(path, settings.split)))]
        case MixtureSettings():
            parts = settings.parts or _named_parts(settings)
            return [mix([(p.data.source, p.weight, partial(load_source, p.data)) for p in parts], settings.seed, say)]
    raise SawyerError(f"{type(settings).__name__} is no source of data")


def _named_rows(files: Sequence[Path]) -> list[tuple[str, Iterator[RawRow]]]:
    """The rows of each file, read as they are asked for, with as much of its path as tells it from the others."""
    places = [Path(os.path.abspath(file)) for file in files]
    above = os.path.commonpath([place.parent for place in places])
    return [(place.relative_to(above).as_posix(), iter_rows(file)) for place, file in zip(places, files, strict=True)]


def _hh_files(settings: HHSettings) -> list[Path]:
    """The local files of the split; of a folder that has the subsets as folders, theirs."""
    paths: list[str] = []
    for one in named_files(settings.path):
        inside = [str(Path(one) / subset) for subset in settings.subsets]
        paths += [folder for folder in inside if os.path.isdir(folder)] or [one]
    return local_files(paths, settings.split)


def _by_anthropic(loaded: tuple[list[Record], LoadReport]) -> tuple[list[Record], LoadReport]:
    """HH-RLHF with what its files do not say: whose models wrote the answers, and who labelled."""
    records, report = loaded
    info = {"source": "hh", "labelled_by": "people", "models": ["an Anthropic model"] * 2}
    return [replace(record, info={**info, **record.info}) for record in records], report


def _named_parts(settings: MixtureSettings) -> list[MixturePart]:
    """The sources of a named mixture, with local copies where there is a folder of them."""
    assert settings.name is not None
    parts = []
    for part in named_parts(settings.name):
        if settings.folder is not None:
            part["path"] = _copy_of(part["source"], Path(settings.folder))
        part |= {"limit": settings.limit_each, "max_bad": settings.max_bad}
        parts.append(MixturePart.model_validate({"data": part}))
    return parts


def _copy_of(source: str, folder: Path) -> str:
    """Where a set lies in a folder of local copies."""
    copies = [folder / source, *(folder / f"{source}{suffix}" for suffix in SUFFIXES)]
    found = next((copy for copy in copies if copy.exists()), None)
    if found is None:
        raise SawyerError(f"{folder} holds no copy of {source}; put its files there, in a folder called {source}")
    return str(found)


def unique(records: Sequence[Record], report: LoadReport | None = None) -> list[Record]:
    """The records without repetitions, the first kept; `info` does not count. A report is brought up to date."""
    seen: set[bytes] = set()
    kept: list[Record] = []
    for number, record in enumerate(records, start=1):
        row = {name: value for name, value in record.row().items() if name != "info"}
        key = hashlib.blake2b(json.dumps(row, sort_keys=True).encode(), digest_size=16).digest()
        if key not in seen:
            seen.add(key)
            kept.append(record)
        elif report is not None:
            report.kept -= 1
            report.drop("the record was there before", f"record {number}")
    return kept


def of_prompt(record: Record) -> dict[str, Any]:
    """What a record says of its prompt: of a comparison, not who wrote, scored and labelled the completions."""
    dropped = OF_COMPLETIONS if isinstance(record, Comparison) else ()
    return {name: value for name, value in record.info.items() if name not in dropped}


def as_conversations(records: Sequence[Record]) -> list[Conversation]:
    """What to imitate: conversations as they are, the best completion of comparisons, completions labelled good.

    Raises:
        SawyerError: there are only prompts, or nothing that was labelled good.
    """
    conversations: list[Conversation] = []
    for record in records:
        match record:
            case Conversation():
                conversations.append(record)
            case Comparison():
                models = record.info.get("models")
                info = of_prompt(record) | ({"models": models[:1]} if isinstance(models, list) else {})
                conversations.append(Conversation((*record.prompt, assistant(record.chosen)), info))
            case Labelled(label=True):
                conversations.append(Conversation((*record.prompt, assistant(record.completion)), record.info))
    if not conversations:
        raise SawyerError(
            "these records hold no answer to imitate; use a source of conversations, comparisons or good completions"
        )
    return conversations


def as_prompts(records: Sequence[Record]) -> list[Prompt]:
    """What to ask: each prompt once, in order. A conversation gives what precedes its first answer.

    Raises:
        SawyerError: no record has a prompt.
    """
    prompts: dict[str, Prompt] = {}
    for record in records:
        messages: tuple[Message, ...] = record.prompt
        if messages and messages[-1]["role"] != "assistant":
            prompts.setdefault(json.dumps(messages), Prompt(messages, of_prompt(record)))
    if not prompts:
        raise SawyerError("these records hold no prompt; use a source whose conversations start with the user")
    return list(prompts.values())
