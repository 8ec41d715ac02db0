"""Stage `redteam`: harmful requests and harmless look-alikes, a target's answers, and what became of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from sawyer.errors import SawyerError
from sawyer.pipeline.stage import NAME, Context, Ref, Stage
from sawyer.pipeline.stages._classify import ClassifierSettings
from sawyer.pipeline.stages._engines import EngineSettings
from sawyer.pipeline.stages._speakers import SpeakerSettings
from sawyer.rollout.sampling import Sampling
from sawyer.settings import InputFile
from sawyer.settings import Settings as BaseSettings

if TYPE_CHECKING:
    from sawyer.data.behaviours import Behaviour

BENIGN = "benign"
"""The part of the artifact with the harmless look-alikes."""
_MAKING = ("seeds", "benign", "categories", "limit", "benign_limit", "attacker", "diversity", "split", "split_seed")


class AttackerSettings(SpeakerSettings):
    """A model that writes variants of the behaviours."""

    zero_shot: int = Field(default=2, ge=0)
    """Variants of each behaviour from its description alone."""
    few_shot: int = Field(default=0, ge=0)
    """In each round, variants after examples that worked on other behaviours."""
    evolve: int = Field(default=0, ge=0)
    """In each round, rewritings of earlier attacks on the behaviour."""
    rounds: int = Field(default=1, ge=1)
    """Rounds of few-shot and evolution; each chooses by how the attacks before it went."""
    examples: int = Field(default=3, ge=1)
    """How many examples few-shot shows."""
    choice_temperature: float = Field(default=0.3, gt=0)
    """Examples and parents are drawn with P ~ exp(success / temperature), success from 0 (refused) to 1 (harmful)."""
    on_topic: float = Field(default=0.3, ge=0, le=1)
    """The share of a behaviour's words, by their beginnings, that a variant has to hold; 0 takes any."""
    sampling: Sampling = Sampling(temperature=1.0, top_p=0.95, max_tokens=64)
    """How variants are drawn."""

    @model_validator(mode="after")
    def _something_to_write(self) -> AttackerSettings:
        if not self.zero_shot + self.few_shot + self.evolve:
            raise ValueError("an attacker writes nothing: set `zero_shot`, `few_shot` or `evolve`, or leave it out")
        if self.sampling.temperature == 0:
            raise ValueError("`sampling.temperature: 0` writes one variant over and over: raise it")
        return self


class DiversitySettings(BaseSettings):
    """What of the variants is taken for a repetition."""

    by: Literal["ngrams", "embeddings"] = "ngrams"
    """Runs of three words in common (Jaccard), or the cosine of mean hidden states."""
    threshold: float | None = Field(default=None, gt=0, le=1)
    """Variants as similar as this to an attack before them are dropped; 0.5 by n-grams and 0.9 by embeddings when left
    out."""
    model: Annotated[str, Ref("policy", "reward_model")] | None = None
    """With `embeddings`: whose hidden states."""

    @model_validator(mode="after")
    def _a_model_for_embeddings(self) -> DiversitySettings:
        if (self.by == "embeddings") != (self.model is not None):
            raise ValueError("`by: embeddings` and a `model` whose hidden states they are go together")
        return self

    @property
    def limit(self) -> float:
        """The threshold, or its default."""
        if self.threshold is not None:
            return self.threshold
        return 0.5 if self.by == "ngrams" else 0.9


class Settings(EngineSettings, SpeakerSettings):
    """The target is `model`, or `remote` with its `api`."""

    data: Annotated[str, Ref("data")] | None = None
    """Ask the prompts of this data, and make none. Those of an earlier `redteam` stage are compared with it."""
    parts: list[str] = Field(default_factory=list)
    """With `data`: which parts of it; of an earlier `redteam` stage all when left out."""
    seeds: list[Annotated[str, InputFile(folder=False)]] = Field(default_factory=list)
    """Files of harmful behaviours (CSV as HarmBench's, JSONL, text); Sawyer's own hundred when left out."""
    benign: list[Annotated[str, InputFile(folder=False)]] | None = None
    """Files of harmless requests that look harmful; none where the list is empty. When left out, the rows of `seeds`
    that say that they are benign, or else Sawyer's own forty."""
    categories: list[str] = Field(default_factory=list)
    """Only behaviours of these categories; all when left out."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many harmful behaviours, spread over the categories."""
    benign_limit: int | None = Field(default=None, ge=1)
    """At most so many harmless requests, likewise."""
    attacker: AttackerSettings | None = None
    """Who writes variants; without one the behaviours are asked as they are."""
    diversity: DiversitySettings = DiversitySettings()
    """What of the variants is dropped as a repetition."""
    split: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(default={"attacks": 1.0}, min_length=1)
    """Name and share of each part of the attacks, in sum 1. A behaviour and its variants never lie in two parts."""
    split_seed: int = 0
    """Which behaviours go to which part."""
    system: str | None = None
    """A system turn before each request."""
    sampling: Sampling = Sampling(max_tokens=128)
    """How the target's answers are drawn."""
    n: int = Field(default=1, ge=1)
    """Answers to each prompt."""
    classifier: ClassifierSettings = ClassifierSettings()
    """How answers are told to be harmful, and refusals to be refusals."""

    @model_validator(mode="after")
    def _made_or_given(self) -> Settings:
        if self.data is None and self.parts:
            raise ValueError("`parts` are those of `data`, and none is given")
        if self.data is not None:
            if given := self.changed(*_MAKING):
                raise ValueError(f"`data` holds the prompts to ask, and `{given[0]}` is for making them: leave one out")
            if self.system is not None:
                raise ValueError("the prompts of `data` are asked as they are: leave `system` out")
        return self

    @model_validator(mode="after")
    def _parts_that_can_be(self) -> Settings:
        from sawyer.data.splits import fractions_problem

        for name in self.split:
            if not NAME.fullmatch(name) or name.lower() in (BENIGN, "metrics"):
                raise ValueError(f"a part of the attacks cannot be called {name!r}; choose another name")
        if (problem := fractions_problem(self.split)) is not None:
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _files_that_can_be_read(self) -> Settings:
        """A broken file is refused with the recipe; one that is not there, where models and files are looked for."""
        if self.data is not None or any(not Path(file).is_file() for file in (*self.seeds, *(self.benign or ()))):
            return self
        try:
            harmful, _ = self.behaviours()
        except SawyerError as error:
            raise ValueError(str(error)) from None
        if not harmful:
            raise ValueError("all behaviours of `seeds` say that they are benign: give some that are not")
        known = list(dict.fromkeys(behaviour.category for behaviour in harmful))
        unknown = next((one for one in self.categories if one not in known), None)
        if unknown is not None:
            raise ValueError(f"no behaviour is of the category {unknown!r}; there are {', '.join(known[:20])}")
        return self

    def behaviours(self) -> tuple[list[Behaviour], list[Behaviour]]:
        """All harmful behaviours, and the look-alikes.

        Raises:
            SawyerError: a file cannot be read.
        """
        from sawyer.data.behaviours import built_in, read_all

        given = read_all(self.seeds) if self.seeds else built_in(False)
        marked = [behaviour for behaviour in given if behaviour.benign]
        if self.benign is not None:
            marked = read_all(self.benign, benign=True)
        return [one for one in given if not one.benign], marked or ([] if self.benign == [] else built_in(True))


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.pipeline.stages._redteam import RedTeam

    return RedTeam(settings, context).run() if context.is_main else {}


STAGE = Stage(
    "redteam", Settings, run, makes="data", help="attacks on a policy, what became of them, and what it refuses"
)
