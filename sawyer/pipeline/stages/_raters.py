"""Language models that rate one answer at a time, in stages: their settings, and what asks them and keeps replies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.asking import Asker, check_asking
from sawyer.feedback.ratings import Rated, rate, rate_by_tokens
from sawyer.feedback.scales import Scale
from sawyer.pipeline.files import digest, read_json, write_json
from sawyer.pipeline.stage import Context, Ref
from sawyer.pipeline.stages._feedback import answering
from sawyer.rollout.api_settings import ApiSettings
from sawyer.rollout.kept import KeptEngine
from sawyer.settings import Settings

if TYPE_CHECKING:
    from sawyer.rollout.protocol import Engine

PART = 64
"""Answers rated by tokens at a time, and at most lost to a kill."""


class AskingSettings(Settings):
    """How a judge is asked, and what becomes of replies that cannot be read."""

    read: Literal["text", "tokens"] = "text"
    """`text` has it reply, and reads the verdict; `tokens` takes the mean of the scale's numbers, each as probable as
    the model is to write it right after `Score: `: nothing is generated, and it is all that the smallest models do."""
    explain: bool = True
    """With `text`: have it say why before its verdict; without, replies are a line, which costs less and suits judges
    that were tuned so."""
    max_tokens: int = Field(default=512, ge=1)
    """The judge's longest reply."""
    temperature: float = Field(default=0.0, ge=0)
    """Of its replies; 0 is greedy."""
    samples: int = Field(default=1, ge=1)
    """Replies to each question, of which the mean counts; more than one needs a temperature."""
    retries: int = Field(default=1, ge=0)
    """How often a reply that cannot be read is asked for again."""
    unread_limit: float | None = Field(default=0.5, ge=0, le=1)
    """The largest share of replies that cannot be read; more stops the stage. None goes on in any case."""

    @model_validator(mode="after")
    def _that_asks_something(self) -> AskingSettings:
        try:
            asking = self.model_dump(include={"temperature", "samples", "retries", "unread_limit"})
            check_asking(**asking, who="judge")
        except SawyerError as error:
            raise ValueError(str(error)) from error
        if self.read == "tokens" and self.temperature > 0:
            raise ValueError("`read: tokens` generates nothing: leave `temperature` and `samples` out")
        return self


class RaterSettings(AskingSettings):
    """A language model that rates one answer at a time."""

    model: Annotated[str, Ref("policy")] | None = None
    """Here, on the torch engine."""
    remote: str | None = None
    """Or what an endpoint calls it."""
    api: ApiSettings = ApiSettings()
    """With `remote`: the endpoint. What it has answered is kept until the stage is finished."""

    @model_validator(mode="after")
    def _one_model(self) -> RaterSettings:
        if (self.model is None) == (self.remote is None):
            raise ValueError("a judge is a `model` of the recipe or a `remote` one: give one of the two")
        if self.remote is None and self.api != ApiSettings():
            raise ValueError("`api` is for a `remote` judge")
        if self.remote is not None and self.read == "tokens":
            raise ValueError("`read: tokens` needs a `model` of the recipe; of a `remote` one only the text is known")
        return self


class Rater:
    """Rates answers by an engine as the settings say. What it was told is kept in a folder, by what was asked.

    Args:
        engine: what answers; of one state of a model, which the folder belongs to. A remote one keeps its replies.
        folder: where replies and ratings are kept.
        title: what progress is called.
    """

    def __init__(self, settings: AskingSettings, engine: Engine, folder: Path, context: Context, title: str) -> None:
        self.settings, self.engine, self.folder = settings, engine, folder
        self._context, self._title = context, title
        self.unread = self.asked = 0
        here = getattr(settings, "remote", None) is None
        self._asker = Asker(
            KeptEngine(engine, folder, None, journal=context, title=title) if here else engine,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            samples=settings.samples,
            retries=settings.retries,
            seed=context.seed,
            unread_limit=settings.unread_limit,
        )

    def rate(self, scale: Scale, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[Rated]]:
        """A rating of each completion of each prompt.

        Raises:
            SawyerError: too few replies can be read, or an endpoint is down.
        """
        if self.settings.read == "tokens":
            rated = self._by_tokens(scale, prompts, completions)
        else:
            rated = rate(self._asker, scale, prompts, completions, self.settings.explain)
        every = [one for own in rated for one in own]
        self.asked += sum(len(one.values) for one in every)
        self.unread += sum(one.unread for one in every)
        return rated

    def _by_tokens(
        self, scale: Scale, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]
    ) -> list[list[Rated]]:
        """In parts of some prompts, each kept as soon as it is there."""
        engine: Any = self.engine
        rated: list[list[Rated]] = []
        total, most = sum(map(len, completions)), max([1, *map(len, completions)])
        stride = max(1, PART // most)
        with self._context.progress(total, self._title, unit="answer") as bar:
            for start in range(0, len(prompts), stride):
                asked, texts = prompts[start : start + stride], completions[start : start + stride]
                about = [scale.question, [list(prompt.prompt) for prompt in asked], [list(own) for own in texts]]
                file = self.folder / f"tokens-{digest(about)[:24]}.json"
                if not file.exists():
                    self.folder.mkdir(parents=True, exist_ok=True)
                    new = rate_by_tokens(engine, scale, asked, texts)
                    write_json(file, [[one.values[0] for one in own] for own in new])
                rated += [[Rated((value,), ("",)) for value in own] for own in read_json(file)]
                bar.advance(sum(map(len, texts)))
        if rated and not any(one.values[0] is not None for own in rated for one in own):
            raise SawyerError("no question to the judge fits its context: shorten the answers, or take another judge")
        return rated


def rater_of(settings: RaterSettings, context: Context, title: str) -> Rater:
    """The rater of the settings."""
    return Rater(settings, answering(settings, context), context.scratch / "replies", context, title)
