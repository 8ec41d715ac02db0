"""`sawyer data`: build a data set from a source, count what it holds, look at it, check it against evaluation sets."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sawyer import __version__
from sawyer.apps.show_data import visible
from sawyer.data.contamination import EvaluationPrompt, Index, evaluation_prompts, overlaps
from sawyer.data.files import BESIDE_DATA, SUFFIXES, LoadReport, iter_rows, suffix_of, write_records
from sawyer.data.formats import SAMPLE, convert_any
from sawyer.data.mixtures import MIXTURES, labelled
from sawyer.data.public.catalog import PUBLIC_SETS
from sawyer.data.records import Record
from sawyer.data.sources import HHSettings, load_source
from sawyer.data.statistics import SetStatistics, table
from sawyer.errors import SawyerError
from sawyer.pipeline.complaints import refuse, validated
from sawyer.pipeline.context import Context
from sawyer.pipeline.disk import disk_errors
from sawyer.pipeline.files import write_json
from sawyer.pipeline.nearest import did_you_mean
from sawyer.pipeline.progress import Voice
from sawyer.pipeline.recipe import bundled_recipes, load_recipe
from sawyer.pipeline.stages import data as stage
from sawyer.pipeline.yaml_source import Source

WORDS = "words"
"""The tokenizer that is none: what white space parts."""
BUILT = "data.json"
"""What `build` writes beside the parts."""
_CHUNK = 500
_OPTIONS = "the options"


def source_names() -> list[str]:
    """What `--source` and `build` take."""
    return ["hh", *PUBLIC_SETS, *MIXTURES, "verifiable"]


@dataclass(frozen=True)
class SourceRequest:
    """A source by name, with what the command line says of it."""

    name: str
    path: tuple[str, ...] = ()
    """Local files or folders; of a mixture, the folder with a copy of each set."""
    assignments: tuple[str, ...] = ()
    """`setting=value`, as after `--set`."""

    def document(self) -> Source:
        """Its settings as a recipe would have them."""
        known = source_names()
        if self.name not in known:
            raise SawyerError(f"there is no source {self.name!r}{did_you_mean(self.name, known, 'the sources are')}")
        is_mixture = self.name in MIXTURES
        value: dict[str, Any] = {"source": "mixture", "name": self.name} if is_mixture else {"source": self.name}
        if self.path and is_mixture:
            if len(self.path) > 1:
                raise SawyerError(f"--path of {self.name} is one folder, with a copy of each of its sets; give one")
            value["folder"] = self.path[0]
        elif self.path:
            value["path"] = list(self.path) if len(self.path) > 1 else self.path[0]
        document = Source(_OPTIONS, value)
        for assignment in self.assignments:
            document.set(assignment)
        return document


@dataclass(frozen=True)
class BuildRequest:
    """What `sawyer data build` was asked for."""

    what: str
    """A source, or a recipe whose data stage is meant."""
    out: Path
    stage: str | None = None
    """The recipe's data stage, where it has several."""
    path: tuple[str, ...] = ()
    assignments: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    """`name=share`; without any, all is `train`."""
    split_seed: int | None = None
    near_duplicates: float | None = None
    against: tuple[str, ...] = ()
    against_words: int | None = None
    overwrite: bool = False


# --- build ------------------------------------------------------------------------------------------------------------


def build(request: BuildRequest, voice: Voice | None = None) -> dict[str, Any]:
    """Write the parts of a data set into a folder, `NAME.jsonl` each, with `data.json` on how they were made.

    Returns:
        The folder, and for each part its records, for each source of a mixture what it gave, and what was dropped.

    Raises:
        SawyerError: the request cannot be met; nothing is written then.
    """
    voice = voice or Voice()
    _check_place(request)
    settings, models = (_of_source(request), {}) if request.what in source_names() else _of_recipe(request)
    out = request.out.resolve()
    partial = out.parent / f".{out.name}.partial"
    with disk_errors(out.parent):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            voice.say(f"building {request.out} from {request.what}")
            figures = stage.run(settings, Context("data", partial, partial, seed=0, models=models, voice=voice))
            made = {"version": __version__, "settings": settings.model_dump(mode="json")}
            write_json(partial / BUILT, {**made, "figures": figures})
            if out.exists():
                shutil.rmtree(out)
            os.replace(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return {"out": os.fspath(request.out), **figures}


def _check_place(request: BuildRequest) -> None:
    out = request.out
    if out.exists() and not out.is_dir():
        raise SawyerError(f"--out {out} is a file; give a folder")
    if out.is_dir() and any(out.iterdir()):
        if not request.overwrite:
            raise SawyerError(f"{out} is there already; give another --out, or --overwrite to replace it")
        if not (out / BUILT).is_file():
            raise SawyerError(f"{out} was not made by `sawyer data build` (it has no {BUILT}); remove it yourself")


def _of_source(request: BuildRequest) -> stage.Settings:
    if request.stage is not None:
        raise SawyerError(f"--stage is for recipes, and {request.what} is a source; drop it")
    document = SourceRequest(request.what, request.path, request.assignments).document()
    value: dict[str, Any] = {"source": document.value}
    options: dict[Any, str] = {("source", *location): option for location, option in document.options.items()}
    given: dict[str, Any] = {
        "split": _shares(request.split),
        "split_seed": request.split_seed,
        "near_duplicates": request.near_duplicates,
        "against": list(request.against) or None,
        "against_words": request.against_words,
    }
    for name, setting in given.items():
        if setting is not None:
            value[name] = setting
            options[(name,)] = f"--{name.replace('_', '-')}"
    return _data_settings(value, options)


def _shares(assignments: Sequence[str]) -> dict[str, float] | None:
    shares: dict[str, float] = {}
    for assignment in assignments:
        name, equals, share = assignment.partition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise SawyerError(f"--split {assignment}: write it as --split train=0.9 --split test=0.1")
    return shares or None


def _data_settings(value: dict[str, Any], options: dict[Any, str]) -> stage.Settings:
    settings, complaints = validated(stage.Settings, value, (), Source(_OPTIONS, value, options=options))
    refuse([complaint.removeprefix(f"{_OPTIONS}: ") for complaint in complaints])
    assert settings is not None
    return settings


def _of_recipe(request: BuildRequest) -> tuple[stage.Settings, dict[str, str]]:
    """The settings of a recipe's data stage, as a run of the recipe would have them, and the recipe's models."""
    if not Path(request.what).is_file() and request.what not in (file.stem for file in bundled_recipes()):
        names = [*source_names(), *(file.stem for file in bundled_recipes())]
        suggestion = did_you_mean(request.what, names, "the sources and recipes are")
        raise SawyerError(f"there is no source and no recipe called {request.what!r}{suggestion}")
    misplaced = {"--path": request.path, "--split": request.split, "--split-seed": request.split_seed,
                 "--near-duplicates": request.near_duplicates, "--against": request.against,
                 "--against-words": request.against_words}  # fmt: skip
    for option, given in misplaced.items():
        if given not in ((), None):
            raise SawyerError(
                f"{option} is for sources, and {request.what} is a recipe; change the recipe with --set stages.NAME.X=Y"
            )
    recipe = load_recipe(request.what, request.assignments)
    stages = {planned.name: planned for planned in recipe.stages if isinstance(planned.settings, stage.Settings)}
    if not stages:
        raise SawyerError(f"the recipe {request.what} has no stage of kind data; name a source instead")
    name = request.stage or next(iter(stages))
    if name not in stages:
        raise SawyerError(
            f"the recipe {request.what} has no data stage '{name}'"
            f"{did_you_mean(name, stages, 'it has the data stages')}"
        )
    if request.stage is None and len(stages) > 1:
        raise SawyerError(f"the recipe {request.what} has the data stages {', '.join(stages)}; choose with --stage")
    settings = stages[name].settings
    assert isinstance(settings, stage.Settings)
    if settings.tokens_of is not None and settings.tokens_of not in recipe.models:
        raise SawyerError(
            f"{recipe.where('stages', name, 'tokens_of')}: '{settings.tokens_of}' is a stage, whose model is not there "
            "before a run; name a model of the recipe, such as base"
        )
    return settings, recipe.models


# --- stats ------------------------------------------------------------------------------------------------------------


def stats(
    files: Sequence[Path], sources: Sequence[SourceRequest], tokenizer: str, voice: Voice | None = None
) -> list[SetStatistics]:
    """The figures of files, folders and sources, a row for each source, and one for all.

    Args:
        tokenizer: what lengths are counted with: a model's name, or `words`.

    Raises:
        SawyerError: nothing to count is named, or it cannot be read.
    """
    voice = voice or Voice()
    if not files and not sources:
        raise SawyerError("name a file, a folder or --source to count")
    records = [record for file in files for record in read(file, voice)]
    for request in sources:
        document = request.document()
        options: dict[Any, str] = {("source", *location): option for location, option in document.options.items()}
        settings = _data_settings({"source": document.value}, options).source
        assert settings is not None
        voice.say(f"reading {request.name}")
        loaded, report = load_source(settings, voice.say)
        _tell(request.name, report, voice)
        records += [labelled(record, request.name) for record in loaded]
    return table(records, counter(tokenizer, voice))


def read(path: Path, voice: Voice, first: int | None = None) -> list[Record]:
    """The records of a file, or of all parts in a folder; those that do not say their source are named after the file.

    What cannot be used is said. With `first`, no more of a file is read than so many records need, whatever follows.

    Raises:
        SawyerError: there is none, or it cannot be read.
    """
    if not path.is_dir():
        rows = list(islice(iter_rows(path), None if first is None else first + SAMPLE))
        records, report = convert_any(path, rows, max_bad=0.05 if first is None else 1.0)
        _tell(path.name, report, voice)
        return [labelled(record, path.name) for record in records][:first]
    files = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES) and file.name not in BESIDE_DATA)
    if not files:
        raise SawyerError(f"{path} holds no file of data ({', '.join(SUFFIXES)}); give the folder that does")
    return [record for file in files for record in read(file, voice, first)][:first]


def _tell(name: str, report: LoadReport, voice: Voice) -> None:
    for reason, count in report.dropped.items():
        voice.say(f"{name}: dropped {count:,}: {visible(reason)}")


def counter(tokenizer: str, voice: Voice) -> Callable[[Sequence[str]], list[int]]:
    """What counts the tokens of texts, with a progress bar."""
    if tokenizer == WORDS:
        return lambda texts: [len(text.split()) for text in texts]
    from sawyer.models.load import load_tokenizer

    loaded: Any = load_tokenizer(tokenizer)

    def count(texts: Sequence[str]) -> list[int]:
        lengths: list[int] = []
        with voice.progress(len(texts), "counting tokens", "text") as bar:
            for start in range(0, len(texts), _CHUNK):
                some = list(texts[start : start + _CHUNK])
                lengths += map(len, loaded(some, add_special_tokens=False, verbose=False)["input_ids"])
                bar.advance(len(some))
        return lengths

    return count


def cells(row: SetStatistics) -> list[str]:
    """A row of the table for people."""
    lengths = [row.prompt_tokens, row.chosen_tokens, row.rejected_tokens]
    return [
        visible(row.source),
        f"{row.prompts:,}",
        *("" if length is None else f"{length:.1f}" for length in lengths),
        f"{row.pairs:,}",
        _most(row.written_by),
        _most(row.labelled_by),
    ]


def _most(counts: dict[str, int], shown: int = 3) -> str:
    names = list(counts)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return visible(", ".join(names[:shown])) + more


# --- check ------------------------------------------------------------------------------------------------------------


def check(
    path: Path,
    against: Sequence[Path],
    lengths: Sequence[int],
    *,
    field: str | None = None,
    out: Path | None = None,
    voice: Voice | None = None,
) -> dict[str, Any]:
    """Which records of a file or folder share a run of words with an evaluation prompt.

    Args:
        lengths: the lengths of run to look for, in words.
        field: the field of the evaluation files that holds the prompt, where it is none of the usual.
        out: where to write the records that do not overlap, by the first of the lengths.

    Returns:
        `records`, `evaluation_prompts`, and for each length `overlaps`: a list of record, evaluation row and words.

    Raises:
        SawyerError: a file cannot be read or written, or nothing would be left.
    """
    voice = voice or Voice()
    if out is not None:
        suffix_of(out)
        if out.exists():
            raise SawyerError(f"{out} is there already; give another --out")
    records = read(path, voice)
    prompts: list[EvaluationPrompt] = [prompt for file in against for prompt in evaluation_prompts(file, field)]
    found = {}
    for n in dict.fromkeys(lengths):
        with voice.progress(len(records), f"runs of {n} words", "record") as bar:
            found[n] = list(overlaps(records, Index(prompts, n), bar.advance))
    if out is not None:
        dropped = {overlap.record for overlap in found[lengths[0]]}
        write_records(out, [record for number, record in enumerate(records) if number not in dropped])
    return {
        "records": len(records),
        "evaluation_prompts": len(prompts),
        "overlaps": {
            str(n): [{"record": o.record + 1, "evaluation": o.evaluation.where, "words": o.shared} for o in own]
            for n, own in found.items()
        },
        **({} if out is None else {"out": os.fspath(out), "kept": len(records) - len(found[lengths[0]])}),
    }


def check_lines(found: dict[str, Any], shown: int = 5) -> list[str]:
    """What `check` found, for people: a line for each length of run, and the first records."""
    lines = []
    for n, own in found["overlaps"].items():
        share = len(own) / found["records"]
        lines.append(
            f"{len(own):,} of {found['records']:,} records ({share:.2%}) share {n} words in a row with one of "
            f"{found['evaluation_prompts']:,} evaluation prompts"
        )
        lines += [f"  record {o['record']}: {o['evaluation']}: {visible(o['words'])}" for o in own[:shown]]
        if len(own) > shown:
            lines.append(f"  and {len(own) - shown:,} more; --json lists them")
    if "out" in found:
        lines.append(f"{found['kept']:,} records without overlap: {found['out']}")
    return lines


def first(path: Path, n: int) -> list[Record]:
    """The first records of a file or folder.

    Raises:
        SawyerError: it cannot be read, or `n` is less than 1.
    """
    if n < 1:
        raise SawyerError(f"--n is {n}: show at least one record")
    return read(path, Voice(), n)


def sets() -> list[dict[str, str]]:
    """The published sets and the mixtures: name of the source, title, data set on the hub, what it holds."""
    rows = [("hh", "HH-RLHF", HHSettings.model_fields["hub"].default, "pairs of dialogues")]
    for name, one in PUBLIC_SETS.items():
        rows.append((name, one.title, one.settings.model_fields["hub"].default or "a local file", one.holds))
    rows += [(name, f"the RLHF Workflow's {name.upper()}", "", ", ".join(parts)) for name, parts in MIXTURES.items()]
    return [dict(zip(("source", "title", "hub", "holds"), row, strict=True)) for row in rows]
