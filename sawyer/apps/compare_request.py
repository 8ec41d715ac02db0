"""What `sawyer compare` was asked for, its prompts, and what can be refused before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sawyer.apps.answering import Generating
from sawyer.apps.compared_models import Compared
from sawyer.data.contamination import EvaluationPrompt, shared_prompts
from sawyer.data.mixtures import MIXTURES
from sawyer.data.prompts import read_prompts
from sawyer.data.public.catalog import PUBLIC_SETS
from sawyer.data.records import Prompt
from sawyer.data.sources import SourceSettings, as_prompts, load_source
from sawyer.data.verifiable import make_prompts
from sawyer.errors import SawyerError
from sawyer.pipeline.nearest import did_you_mean
from sawyer.rollout.api_calls import sampling_fields
from sawyer.rollout.api_settings import ApiSettings
from sawyer.rollout.decodings import is_search
from sawyer.rollout.sampling import Sampling

RUN_WORDS = 13
"""A run of so many words in common makes two prompts count as shared (GPT-3's rule)."""
MADE = "verifiable"
"""The name of the prompts that Sawyer makes itself."""


@dataclass(frozen=True)
class Request:
    """What `sawyer compare` was asked for."""

    models: tuple[str, ...]
    prompts: str
    feedback: tuple[str, ...] = ()
    decoding: tuple[str, ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `Sampling` that were given."""
    out: Path = Path("comparison")
    limit: int = 100
    n: int = 2
    seeds: tuple[int, ...] = (0,)
    reference: str | None = None
    """KL and perplexity are measured by it; the first local model where it is None."""
    embedder: str | None = None
    """Its hidden states tell how far answers are apart; the reference's where it is None."""
    against: str = "all"
    level: float = 0.95
    draws: int = 10_000
    drop_shared: bool = False
    generating: Generating = field(default_factory=Generating)
    """How local models answer."""
    judge_tokens: int = 2048
    api: ApiSettings = field(default_factory=ApiSettings)
    cache: Path | None = None
    overwrite: bool = False


def check(request: Request) -> None:
    """Refuse numbers that make no sense.

    Raises:
        SawyerError: says which.
    """
    for option, value in (("--limit", request.limit), ("--n", request.n)):
        if value < 1:
            raise SawyerError(f"{option} is {value}; give at least 1")
    if request.against not in ("all", "first"):
        raise SawyerError(f"--against is {request.against!r}; choose all or first")
    if request.generating.precision not in ("fp32", "bf16"):
        raise SawyerError(f"--precision is {request.generating.precision!r}; choose fp32 or bf16")
    if request.out.exists() and not request.out.is_dir():
        raise SawyerError(f"--out {request.out} is a file; give a folder")


def held_out(asked: str, limit: int, say: Callable[[str], None]) -> list[Prompt]:
    """At most `limit` prompts, evenly spaced over all that a file or a set has, each once.

    Args:
        asked: a file; `verifiable`, the test prompts that Sawyer makes; or a published set of the hub, NAME or
            NAME/SPLIT, `test` where no split is named.

    Raises:
        SawyerError: there is no such file or set, or it has no usable prompt.
    """
    if asked == MADE:
        return make_prompts(limit, "test")
    if not Path(asked).is_file():
        return _spaced(_published(asked), limit)
    found = read_prompts(asked)
    if found.problems:
        row, why = found.problems[0]
        say(f"{len(found.problems)} rows of {asked} hold no usable prompt and are left out; the first is {row}: {why}")
    once = as_prompts(found.prompts)
    if len(once) < len(found.prompts):
        say(f"{len(found.prompts) - len(once)} prompts of {asked} stand there twice and are asked once")
    return _spaced(once, limit)


def _published(asked: str) -> list[Prompt]:
    """The prompts of a published set, as NAME or NAME/SPLIT."""
    from pydantic import TypeAdapter

    name, _, split = asked.partition("/")
    known = ["hh", *PUBLIC_SETS]
    if name in MIXTURES:
        raise SawyerError(f"--prompts {asked} is a mixture; name one set, or a file of prompts")
    if name not in known:
        near = did_you_mean(name, [MADE, *known], "the sets are")
        raise SawyerError(f"--prompts {asked} is no file and no published set{near}")
    adapter: TypeAdapter[Any] = TypeAdapter(SourceSettings)
    return as_prompts(load_source(adapter.validate_python({"source": name, "split": split or "test"}))[0])


def _spaced(prompts: Sequence[Prompt], limit: int) -> list[Prompt]:
    step = max(1.0, len(prompts) / limit)
    return [prompts[int(i * step)] for i in range(min(limit, len(prompts)))]


def check_remote(models: Sequence[Compared], decodings: Mapping[str, Sampling], api: ApiSettings) -> None:
    """Refuse ways of decoding that an endpoint cannot be asked for.

    Raises:
        SawyerError: says which.
    """
    for model in models:
        for name, sampling in decodings.items():
            if model.is_remote:
                try:
                    sampling_fields(sampling, api)
                except SawyerError as error:
                    raise SawyerError(f"{model.name} cannot decode by {name}: {error}") from None


def drawn(name: str, sampling: Sampling, n: int, seeds: Sequence[int], trained: bool) -> dict[str, Any]:
    """How often each prompt is answered by one way of decoding. A search has one answer, and no seed changes it."""
    search = is_search(sampling)
    kept = list(seeds) if trained or not search else list(seeds[:1])
    changed = sampling.model_dump(mode="json", exclude_defaults=True)
    return {
        "name": name,
        "sampling": {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens, **changed},
        "samples": 1 if search else n,
        "seeds": kept,
    }


def shared_with_training(prompts: Sequence[Prompt], models: Sequence[Compared]) -> dict[str, dict[int, str]]:
    """By model, the prompts that its training saw, as far as its manifests and their data are there, and where."""
    texts = ["\n".join(turn["content"] for turn in prompt.prompt if turn["role"] == "user") for prompt in prompts]
    found = {}
    for model in models:
        trained: list[EvaluationPrompt] = []
        files: set[Path] = set()
        for lineage in model.lineages():
            if not files.issuperset(lineage.data_files()):  # seeds of one recipe have the same data
                files |= set(lineage.data_files())
                trained += lineage.training_prompts()
        seen = shared_prompts(texts, trained, RUN_WORDS)
        if seen:
            found[model.name] = {place: prompt.where for place, prompt in seen.items()}
    return found
