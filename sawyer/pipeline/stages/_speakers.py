"""Language models that a stage asks for texts: the recipe's own or behind endpoints, and nothing asked twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from sawyer.data.records import Prompt
from sawyer.pipeline.stage import Context, Ref
from sawyer.pipeline.stages._engines import Engines, EngineSettings
from sawyer.rollout.api_settings import ApiSettings
from sawyer.rollout.protocol import Completion, Engine, Sampling
from sawyer.settings import Settings

if TYPE_CHECKING:
    import torch

    from sawyer.feedback.asking import Asker


class SpeakerSettings(Settings):
    """A language model that is asked."""

    model: Annotated[str, Ref("policy")] | None = None
    """One of the recipe's."""
    remote: str | None = None
    """Or what an endpoint calls it."""
    api: ApiSettings = ApiSettings()
    """With `remote`: the endpoint. Each of its answers is kept until the stage is finished."""

    @model_validator(mode="after")
    def _one_model(self) -> SpeakerSettings:
        if (self.model is None) == (self.remote is None):
            raise ValueError("give `model`, one of the recipe's, or `remote`, one at an endpoint, and not both")
        if self.remote is None and self.api != ApiSettings():
            raise ValueError("`api` is the endpoint of a `remote` model, and none is given")
        return self

    @property
    def called(self) -> str:
        """What people call it."""
        return str(self.model if self.remote is None else self.remote)


class AskedSettings(SpeakerSettings):
    """A language model whose answers are read by a parser."""

    max_tokens: int = Field(default=256, ge=1)
    """Its longest answer."""
    temperature: float = Field(default=0.0, ge=0)
    """Of its answers; 0 is greedy."""
    samples: int = Field(default=1, ge=1)
    """How often each question is asked; more than one need a temperature."""
    retries: int = Field(default=1, ge=0)
    """How often an answer that cannot be read is asked for again."""
    unread_limit: float = Field(default=0.5, ge=0, le=1)
    """The largest share of answers that may be unreadable; above it the stage stops and shows some."""

    @model_validator(mode="after")
    def _samples_that_differ(self) -> AskedSettings:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("`samples` at temperature 0 are all the same: raise `temperature`, or take one sample")
        return self


class Speakers:
    """Engines by who speaks. Local models take turns in memory, and none is loaded before it has something to say."""

    def __init__(self, context: Context, settings: EngineSettings) -> None:
        self._context = context
        self._engines = Engines(context, settings)
        self._place: str | None = None
        self._local: Engine | None = None
        self._remote: dict[str, Engine] = {}

    def of(self, who: SpeakerSettings, role: str) -> KeptEngine:
        """The engine of a speaker in a role ("judge"); what it says is kept in the stage's scratch under that name."""
        return KeptEngine(lambda: self._open(who), self._context, role, who.called)

    def asker(self, who: AskedSettings, role: str) -> Asker:
        """Questions to a speaker."""
        from sawyer.feedback.asking import Asker

        return Asker(
            self.of(who, role),
            max_tokens=who.max_tokens,
            temperature=who.temperature,
            samples=who.samples,
            retries=who.retries,
            seed=self._context.seed,
            unread_limit=who.unread_limit,
            who=role,
        )

    def rest(self) -> None:
        """Let go of the local model that is in memory; the next question loads it again."""
        from sawyer.numerics import release

        self._place = self._local = None
        release()

    def _open(self, who: SpeakerSettings) -> Engine:
        if who.remote is not None:
            from sawyer.rollout.api_engine import ApiEngine

            key = f"{who.remote} {who.api!r}"
            if key not in self._remote:
                self._remote[key] = ApiEngine(who.remote, who.api, cache=self._context.scratch / "remote")
            return self._remote[key]
        place = self._context.model(str(who.model))
        if self._local is None or place != self._place:
            self.rest()
            self._local, self._place = self._engines.of(place), place
        return self._local


class KeptEngine:
    """An engine whose answers are kept as files, so that a stage that was killed asks only for what it lacks.

    Calls are told apart by their number, so a stage has to make them in the same order whenever it runs; a file that
    answers anything else counts as absent (`rollout.files`).
    """

    def __init__(self, open: Callable[[], Engine], context: Context, role: str, called: str) -> None:
        self._open, self._context, self._role, self._called = open, context, role, called
        self._calls = 0

    @property
    def folder(self) -> Path:
        return self._context.scratch / self._role

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        n: int = 1,
        *,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
        keep_failed: bool = False,
    ) -> list[list[Completion]]:
        """See `Engine.generate`."""
        from sawyer.rollout.files import generate_resumably

        self._calls += 1
        return generate_resumably(
            _Late(self._open),
            prompts,
            sampling,
            n,
            seed=seed,
            folder=self.folder / f"{self._calls:04d}",
            journal=self._context,
            title=f"{self._role}: {self._called} answers {len(prompts)} prompts",
            keep_failed=keep_failed,
        )

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """See `Engine.load`."""
        self._open().load(weights)


class _Late:
    """An engine that is opened when it is asked."""

    def __init__(self, open: Callable[[], Engine]) -> None:
        self._open = open

    def generate(self, *args: Any, **options: Any) -> list[list[Completion]]:
        return self._open().generate(*args, **options)

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        self._open().load(weights)
