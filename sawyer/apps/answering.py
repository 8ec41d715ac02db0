"""Answers of models to prompts, and what feedback says of them, so that nothing is done twice.

    FOLDER/answers/KEY/      chunks of a local model's answers, or the answers of an endpoint
    FOLDER/scores/KEY/       parts of what a feedback said
    FOLDER/readings/KEY.json log-probs and entropies      FOLDER/embeddings/KEY.npy

A key is a hash of all that the numbers depend on. So a killed comparison goes on where it was, and one that has a model
or a feedback more does only what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sawyer import __version__
from sawyer.apps.compared_models import Compared
from sawyer.apps.engines import local_engine
from sawyer.apps.measuring import fingerprint, measure_all
from sawyer.apps.named_feedback import NamedFeedback
from sawyer.apps.request import Request, content_of
from sawyer.data.records import Prompt
from sawyer.data.rewardbench import Trial
from sawyer.errors import SawyerError
from sawyer.feedback.judge import UNREADABLE
from sawyer.journal import Silent
from sawyer.numerics import release
from sawyer.pipeline.context import derived_seed
from sawyer.pipeline.files import digest, read_json, write_json
from sawyer.pipeline.progress import Voice
from sawyer.rollout.api_settings import ApiSettings
from sawyer.rollout.files import generate_resumably
from sawyer.rollout.protocol import Completion, Engine
from sawyer.rollout.sampling import Sampling
from sawyer.rollout.unanswered import unanswered

if TYPE_CHECKING:
    import torch

    from sawyer.feedback.likelihood import Reader, Reading

KEPT = "what is done is kept: run the same command again to go on"
Answers = list[list[Completion]]
CPU_CHUNK, GPU_CHUNK = 64, 4096
"""Answers that are written at a time. On a CPU a step of few sequences is short, and a small chunk wastes little."""


@dataclass(frozen=True)
class Generating:
    """How local models answer and are read."""

    precision: str = "fp32"
    batch: int | None = None
    """Most sequences at a time."""
    token_budget: int = 4096
    """Tokens in one forward pass where texts are read."""


@dataclass
class Bench:
    """Where answers and scores are made and kept.

    Attributes:
        folder: see above.
        api: how endpoints are asked, but for which one.
        cache: a folder of answers of endpoints that other work shares.
        truncated, unread: by feedback, texts that were cut to be scored and questions that judges left without verdict.
    """

    folder: Path
    generating: Generating
    api: ApiSettings
    cache: Path | None
    voice: Voice
    truncated: dict[str, int] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)
    _held: _Late | None = None

    def answers(self, model: Compared, prompts: Sequence[Prompt], sampling: Sampling, n: int, seed: int) -> Answers:
        """`n` answers to each prompt. What a model draws depends on the seed and on what it is, so that two models draw
        apart, and so do two that are the same.

        Raises:
            SawyerError: as the engine does.
        """
        own_seed = derived_seed(seed, f"{model.content(seed)} {model.copy}")
        asked = [__version__, model.content(seed), sampling.model_dump(mode="json"), n, own_seed]
        how = [] if model.is_remote else [self.generating.precision, self.generating.batch]
        folder = self.folder / "answers" / _key([*asked, how, [list(prompt.prompt) for prompt in prompts]])
        folder.mkdir(parents=True, exist_ok=True)
        engine = self._engine(model, model.place(seed), sampling, folder)
        try:
            return generate_resumably(
                engine,
                prompts,
                sampling,
                n,
                seed=own_seed,
                folder=folder / "chunks",
                journal=_Aloud(self.voice),
                title=f"{model.name} answers {len(prompts)} prompts",
                completions_per_chunk=self._chunk(model),
                keep_failed=True,
            )
        except SawyerError as error:
            raise SawyerError(f"{model.name}: {error} ({KEPT})") from error
        finally:
            engine.tell_cost(self.voice)

    def _chunk(self, model: Compared) -> int:
        """How many answers a kill may cost; of an endpoint each is kept as it comes."""
        import torch

        if model.is_remote:
            return 16 * self.api.concurrency
        return GPU_CHUNK if torch.accelerator.is_available() else CPU_CHUNK

    def _engine(self, model: Compared, place: str, sampling: Sampling, folder: Path) -> _Late:
        """The engine of a model; a local one stays until another is asked for, or `let_go`."""
        if model.is_remote:
            return _Late(place, lambda: self._remote(model, place, folder))
        if self._held is None or self._held.place != place:
            self.let_go()
            precision, batch = self.generating.precision, self.generating.batch
            asked = Request(place, Path(), Path(), sampling=sampling, precision=precision, batch=batch)
            self._held = _Late(place, lambda: local_engine(asked, self.voice)[0])
        return self._held

    def _remote(self, model: Compared, place: str, folder: Path) -> Engine:
        from sawyer.rollout.api_engine import ApiEngine

        api = self.api.model_copy(update={"endpoint": model.endpoint})
        return ApiEngine(place, api, cache=self.cache or folder / "replies")

    def let_go(self) -> None:
        """Free the memory of the model that answered last."""
        self._held = None
        release()

    def scores(
        self, feedback: NamedFeedback, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]]
    ) -> list[list[float | None]]:
        """A number for each text; None where a judge gave no rating.

        Raises:
            SawyerError: as the feedback does.
        """
        asked = zip(prompts, texts, strict=True)
        trials = [Trial(str(i), "", prompt, tuple(own), ()) for i, (prompt, own) in enumerate(asked)]
        rows = self._measured(feedback, trials, 2)
        lost = UNREADABLE if feedback.role == "rating" else None
        return [[None if score == lost else score for score in row["scores"]] for row in rows]

    def games(
        self, feedback: NamedFeedback, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]
    ) -> list[dict[str, Any]]:
        """Of each pair `p`, the probability that the first is better, and what a judge said in its `games`.

        Raises:
            SawyerError: as the feedback does.
        """
        trials = [
            Trial(str(i), "", prompt, (first,), (second,))
            for i, (prompt, (first, second)) in enumerate(zip(prompts, pairs, strict=True))
        ]
        return self._measured(feedback, trials, 1)

    def _measured(self, feedback: NamedFeedback, trials: list[Trial], version: int) -> list[dict[str, Any]]:
        told = [trial.prompt.info for trial in trials] if feedback.role in ("gold", "rule") else []
        folder = self.folder / "scores" / _key([__version__, fingerprint(feedback.scorer, trials, version), told])
        try:
            found = measure_all(feedback.scorer, trials, version, folder, self.voice)
        except SawyerError as error:
            raise SawyerError(f"--feedback {feedback.given}: {error} ({KEPT}, or without this feedback)") from error
        self.truncated[feedback.name] = self.truncated.get(feedback.name, 0) + found.truncated
        self.unread[feedback.name] = self.unread.get(feedback.name, 0) + found.unread
        return found.rows

    def readings(
        self, reader: Reader, place: str, prompts: Sequence[Prompt], answers: Answers
    ) -> tuple[list[list[Reading]], str | None]:
        """What `Reader.read` says of a local model's answers."""
        from sawyer.feedback.likelihood import Reading

        reference = None if reader.reference is None else content_of(reader.reference)
        asked = [[list(prompt.prompt), [one.ids for one in own]] for prompt, own in zip(prompts, answers, strict=True)]
        key = _key([__version__, content_of(place), reference, self.generating.precision, asked])
        file = self.folder / "readings" / f"{key}.json"
        kept = read_json(file)
        if kept is None:
            self.voice.say(f"reading what {Path(place).name} wrote")
            found, why = reader.read(place, prompts, answers)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"rows": [[asdict(one) for one in own] for own in found], "why": why})
            release()
            return found, why
        return [[Reading(**one) for one in own] for own in kept["rows"]], kept["why"]

    def embeddings(
        self, embedder: AnswerEmbedder, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]]
    ) -> NDArray[np.float32]:
        """`[C, D]` a vector for each text, prompt after prompt."""
        asked = [[list(prompt.prompt), list(own)] for prompt, own in zip(prompts, texts, strict=True)]
        key = _key([__version__, content_of(embedder.name), self.generating.precision, asked])
        file = self.folder / "embeddings" / f"{key}.npy"
        if file.is_file():
            return np.load(file, allow_pickle=False)
        found = embedder.embed(prompts, texts)
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".part.npy")
        np.save(unfinished, found, allow_pickle=False)
        unfinished.replace(file)
        return found


def missing(model: Compared, answers: Answers) -> dict[int, str]:
    """The prompts that lack an answer, and why: what an endpoint refuses is the prompt's fault.

    Raises:
        SawyerError: an answer may be had another time, or the model has diverged.
    """
    try:
        if not model.is_remote:
            return unanswered(answers)
    except SawyerError as error:
        raise SawyerError(f"{model.name}: {error}") from None
    later = [one.error for own in answers for one in own if one.again]
    if later:
        raise SawyerError(f"{model.name} left {len(later)} answers for another time; the first: {later[0]} ({KEPT})")
    failed = [(i, one.error) for i, own in enumerate(answers) for one in own if one.error is not None]
    return {i: error for i, error in reversed(failed)}


class AnswerEmbedder:
    """Vectors of answers behind their prompts, from the last hidden states of a policy (`trees.embed.mean_states`)."""

    def __init__(self, name: str, *, precision: str, token_budget: int, device: torch.device | str) -> None:
        self.name, self.precision = name, precision
        self.token_budget, self.device = token_budget, device

    def embed(self, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]]) -> NDArray[np.float32]:
        """`[C, D]` a vector for each text, prompt after prompt; what is too long for the model loses its beginning."""
        from sawyer.data.chat import ChatFormat
        from sawyer.models.load import load_tokenizer
        from sawyer.trees.build import truncated_trees
        from sawyer.trees.embed import mean_states

        chat = ChatFormat(load_tokenizer(self.name), default="plain")
        asked = [prompt.prompt for prompt in prompts]
        trees, _ = truncated_trees(chat, asked, texts, self._policy.context)
        states = mean_states(self._policy, trees, token_budget=self.token_budget)
        return np.stack([vector_D.numpy() for own in states for vector_D in own])

    @cached_property
    def _policy(self) -> Any:
        from sawyer.models.load import load_policy
        from sawyer.models.precision import DTYPES
        from sawyer.trees.model import TreePolicy

        return TreePolicy(load_policy(self.name, dtype=DTYPES[self.precision])).eval().to(self.device)


class _Late:
    """An engine that is made when it is first asked: where all answers are kept, never."""

    def __init__(self, place: str, make: Callable[[], Engine]) -> None:
        self.place, self._make = place, make
        self._made: Engine | None = None

    def _engine(self) -> Engine:
        self._made = self._made or self._make()
        return self._made

    def generate(self, *args: Any, **options: Any) -> Answers:
        return self._engine().generate(*args, **options)

    def load(self, weights: Any) -> None:
        self._engine().load(weights)

    def tell_cost(self, voice: Voice) -> None:
        ledger = getattr(self._made, "ledger", None)
        if ledger is not None and ledger.used:
            voice.say(str(ledger))


class _Aloud(Silent):
    """A journal that shows progress."""

    def __init__(self, voice: Voice) -> None:
        super().__init__()
        self._voice = voice

    def progress(self, total: int | None, title: str, unit: str = "step", start: int = 0) -> Any:
        return self._voice.progress(total, title, unit, start)


def _key(asked: Any) -> str:
    return digest(asked)[:20]
