"""Language models that a stage asks for texts: the recipe's own or behind endpoints, and nothing asked twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from sawyer.pipeline.stage import Context, Ref
from sawyer.pipeline.stages._engines import Engines, EngineSettings
from sawyer.rollout.api_settings import ApiSettings
from sawyer.rollout.files import CHUNK
from sawyer.rollout.protocol import Completion, Engine
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
        self._context, self._settings = context, settings
        self._engines = Engines(context, settings)
        self._place: str | None = None
        self._local: Engine | None = None

    def of(self, who: SpeakerSettings, role: str, tops: int = 0) -> Engine:
        """The engine of a speaker, which keeps its answers; `role` is what progress calls it ("judge").

        `tops` is how many alternatives to each token an endpoint is asked for.
        """
        if who.remote is not None:
            from sawyer.rollout.api_engine import ApiEngine

            return ApiEngine(who.remote, who.api, cache=self._context.scratch / "remote", tops=tops)
        from sawyer.rollout.kept import KeptEngine

        ref = str(who.model)
        identity = [self._context.identity(ref), self._context.precision, self._settings.engine]
        late = _Late(lambda: self.local(ref))
        title = f"{role}: {who.called} answers"
        return KeptEngine(
            late, self._context.scratch / "kept", identity, journal=self._context, title=title, chunk=CHUNK
        )

    def asker(self, who: AskedSettings, role: str, tops: int = 0) -> Asker:
        """Questions to a speaker."""
        from sawyer.feedback.asking import Asker

        return Asker(
            self.of(who, role, tops),
            max_tokens=who.max_tokens,
            temperature=who.temperature,
            samples=who.samples,
            retries=who.retries,
            seed=self._context.seed,
            unread_limit=who.unread_limit,
            who=role,
        )

    def local(self, ref: str) -> Engine:
        """The engine of one of the recipe's models, loaded now if it is not the one in memory."""
        place = self._context.model(ref)
        if self._local is None or place != self._place:
            self.rest()
            self._local, self._place = self._engines.of(place), place
        return self._local

    def rest(self) -> None:
        """Let go of the local model that is in memory; the next question loads it again."""
        from sawyer.numerics import release

        self._place = self._local = None
        release()


class _Late:
    """An engine that is opened when it is asked."""

    def __init__(self, open: Callable[[], Engine]) -> None:
        self._open = open

    def generate(self, *args: Any, **options: Any) -> list[list[Completion]]:
        return self._open().generate(*args, **options)

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        self._open().load(weights)
