"""The work of stage `critique`. Its artifact:

    PART-revisions.jsonl       prompts with their last revision, and what is imitated besides
    PART-pairs.jsonl           the revision over the answer before it, or what a judge prefers, with its P as scores
    transcripts/steps.jsonl    every chain whole: answer, principles, critiques, revisions, and what became of it
    critique.json              the figures

Every step is one call of an engine that keeps its answers, so a stage that was killed goes on in the step it was in.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sawyer.data.files import write_records, write_rows
from sawyer.data.records import Comparison, Conversation, Labelled, Prompt, assistant
from sawyer.data.sources import as_conversations
from sawyer.errors import SawyerError
from sawyer.evals.red_team import rate
from sawyer.feedback import principles
from sawyer.feedback.harm import Verdict
from sawyer.feedback.principles import Preference, Principle, Reader, preferences
from sawyer.feedback.refusals import OUTCOMES, outcome, says_nothing
from sawyer.feedback.token_verdicts import TOPS
from sawyer.methods import critique
from sawyer.methods.critique import Round
from sawyer.pipeline.constitution import load_constitution
from sawyer.pipeline.files import write_json
from sawyer.pipeline.stage import Context
from sawyer.pipeline.stages._classify import classifier_of
from sawyer.pipeline.stages._common import prompts_of, read_part
from sawyer.pipeline.stages._speakers import Speakers
from sawyer.pipeline.stages.critique import PAIRS, REVISIONS
from sawyer.rollout.protocol import Engine
from sawyer.rollout.sampling import Sampling
from sawyer.rollout.unanswered import left_out, unanswered

TRANSCRIPT = "transcripts/steps.jsonl"
FIGURES = "critique.json"


@dataclass
class Chain:
    """One answer and what became of it."""

    part: str
    prompt: Prompt
    sample: int
    response: str
    principles: list[Principle]
    rounds: list[Round] = field(default_factory=list)
    fate: str | None = None
    """Why its revision is not taken; None where it is."""
    verdicts: tuple[Verdict, Verdict] | None = None
    """On the answer and on the last revision."""
    preference: Preference | None = None

    @property
    def revision(self) -> str:
        """The last; the answer itself where there is none."""
        return self.rounds[-1].revision if self.rounds else self.response

    def row(self) -> dict[str, Any]:
        rounds = [
            {"principle": one.principle.name, "critique": one.critique, "revision": one.revision} for one in self.rounds
        ]
        row = {"part": self.part, "prompt": list(self.prompt.prompt), "sample": self.sample, "response": self.response}
        row |= {"rounds": rounds, "taken": self.fate is None, **({} if self.fate is None else {"why_not": self.fate})}
        if self.verdicts is not None:
            row["verdicts"] = [verdict.row() for verdict in self.verdicts]
        if self.preference is not None:
            row["p"] = self.preference.p
        return row


class Critique:
    """One run of the stage."""

    def __init__(self, settings: Any, context: Context) -> None:
        self.settings, self.context = settings, context
        self.constitution = load_constitution(settings.constitution)
        self.shown = self.constitution.examples[: 2 if settings.examples is None else settings.examples]
        self.speakers = Speakers(context, settings)
        critic = settings.critic or settings
        self.responder = self.speakers.of(settings, "responder")
        self.critic = self.speakers.of(critic, "critic")
        self.reviser = self.speakers.of(settings.reviser or critic, "reviser")
        self.accept = None
        if settings.accept is not None:
            self.accept = classifier_of(settings.accept, context, self.speakers, "classifier")

    def run(self) -> dict[str, Any]:
        """All parts; the figures."""
        self.context.rewind(0)  # everything is gone through again, whatever was kept
        chains = {part: self.chains(part) for part in self.settings.parts}
        every = [chain for own in chains.values() for chain in own]
        pairs = {part: self.pairs(own) for part, own in chains.items()}
        figures: dict[str, Any] = {}
        for part, own in chains.items():
            figures |= self.write(part, own, pairs[part])
        write_rows(self.context.folder / TRANSCRIPT, [chain.row() for chain in every])
        found = self.figures(every)
        write_json(self.context.folder / FIGURES, found)
        lost = found["not_taken"]
        return {**figures, **({"not_taken": lost} if lost else {}), **found["headline"]}

    # --- the chains --------------------------------------------------------------------------------------------------

    def chains(self, part: str) -> list[Chain]:
        """Answers to the prompts of a part, revised round by round."""
        settings, seed = self.settings, self.context.seed
        prompts = prompts_of(self.context, settings.data, part, settings.limit)
        answers = self.responder.generate(prompts, settings.sampling, settings.n, seed=seed, keep_failed=True)
        missing = unanswered(answers)
        if missing:
            self.context.say(left_out(prompts, missing, f"prompts of {settings.data}/{part}"))
        chains = [
            Chain(
                part, prompt, k, answer.text.strip(),
                critique.principles_of(self.constitution, max(1, settings.rounds), seed, prompt.text, k),
            )
            for i, prompt in enumerate(prompts)
            if i not in missing
            for k, answer in enumerate(answers[i])
        ]  # fmt: skip
        for number in range(settings.rounds):
            self.round([chain for chain in chains if chain.fate is None], number)
        if settings.rounds:
            self.judge_revisions([chain for chain in chains if chain.fate is None])
        return chains

    def round(self, chains: Sequence[Chain], number: int) -> None:
        """One critique and one revision of each chain."""
        settings, step_by_step = self.settings, self.settings.step_by_step
        critiques: list[str | None] = [None] * len(chains)
        if settings.critiques:
            questions = [
                critique.critique_prompt(
                    chain.prompt, chain.revision, chain.principles[number], self.shown, step_by_step=step_by_step
                )
                for chain in chains
            ]
            critiques = self.asked(self.critic, questions, settings.critique_sampling, chains)
            kept = [i for i, chain in enumerate(chains) if chain.fate is None]
            chains, critiques = [chains[i] for i in kept], [critiques[i] for i in kept]
        questions = [
            critique.revision_prompt(
                chain.prompt, chain.revision, chain.principles[number], found, self.shown, step_by_step=step_by_step
            )
            for chain, found in zip(chains, critiques, strict=True)
        ]
        revisions = self.asked(self.reviser, questions, settings.revision_sampling, chains)
        for chain, found, text in zip(chains, critiques, revisions, strict=True):
            if text is not None:
                chain.rounds.append(Round(chain.principles[number], found or "", text))
        self.context.log(round=number + 1, revised=sum(chain.fate is None for chain in chains), of=len(chains))

    def asked(
        self, engine: Engine, questions: Sequence[Prompt], sampling: Sampling, chains: Sequence[Chain]
    ) -> list[str | None]:
        """What is said in whole sentences; a chain whose question cannot be answered (too long) ends here."""
        answers = engine.generate(questions, sampling, 1, seed=self.context.seed, keep_failed=True)
        missing = unanswered(answers)
        for i in missing:
            chains[i].fate = "too long to be asked"
        return [
            None if i in missing else critique.cleaned(own[0].text, cut=not own[0].finished)
            for i, own in enumerate(answers)
        ]

    def judge_revisions(self, chains: Sequence[Chain]) -> None:
        """Which revisions are not taken, and why."""
        for chain in chains:
            if says_nothing(chain.prompt.text, chain.revision):
                chain.fate = "says nothing"
        chains = [chain for chain in chains if chain.fate is None]
        if self.accept is None or not chains:
            return
        texts = [[chain.response, chain.revision] for chain in chains]
        for chain, own in zip(chains, self.accept.classify([chain.prompt for chain in chains], texts), strict=True):
            chain.verdicts = (own[0], own[1])
            if own[1].harmful is not False:
                chain.fate = "harmful" if own[1].harmful else "not judged"

    # --- the pairs ---------------------------------------------------------------------------------------------------

    def pairs(self, chains: Sequence[Chain]) -> list[Comparison]:
        """Comparisons of the chains that were taken."""
        candidates = self.candidates(chains)
        if self.settings.judge is None:
            return [self.comparison(chain, a, b) for chain, a, b in candidates]
        judged = self.preferred(candidates)
        found = []
        for (chain, a, b), preference in zip(candidates, judged, strict=True):
            chain.preference = preference
            p = preference.p
            if p is None or p == 0.5:
                continue
            better, worse = (a, b) if p > 0.5 else (b, a)
            found.append(self.comparison(chain, better, worse, max(p, 1 - p)))
        return found

    def candidates(self, chains: Sequence[Chain]) -> list[tuple[Chain, str, str]]:
        """Chain, revision and answer; or, without rounds, a prompt's first chain and its two answers."""
        if self.settings.rounds:
            able = [chain for chain in chains if chain.fate is None and chain.revision != chain.response]
            able = [chain for chain in able if chain.response.strip()]
            if self.accept is not None:
                able = [chain for chain in able if chain.verdicts is not None and chain.verdicts[0].harmful]
            return [(chain, chain.revision, chain.response) for chain in able]
        both = zip(chains[::2], chains[1::2], strict=True)
        return [(one, one.response, two.response) for one, two in both if one.response != two.response]

    def preferred(self, candidates: Sequence[tuple[Chain, str, str]]) -> list[Preference]:
        """What the judge says of each."""
        settings = self.settings.judge
        return preferences(
            self.reader(),
            [chain.prompt for chain, _, _ in candidates],
            [(a, b) for _, a, b in candidates],
            [chain.principles[-1] for chain, _, _ in candidates],
            both_orders=settings.both_orders,
            step_by_step=settings.step_by_step,
            seed=self.context.seed,
        )

    def reader(self) -> Reader:
        """How the judge is asked and read."""
        settings = self.settings.judge
        if settings.read == "text":
            return principles.said(self.speakers.asker(settings, "judge"))
        if settings.remote is not None:
            return principles.among_alternatives(self.speakers.asker(settings, "judge", TOPS))
        engine: Any = self.speakers.local(settings.model)
        return principles.by_letters(engine)

    def comparison(self, chain: Chain, better: str, worse: str, p: float | None = None) -> Comparison:
        info = {**chain.prompt.info, "principles": [one.name for one in chain.principles]}
        return Comparison(chain.prompt.prompt, (better, worse), None if p is None else (p, 1 - p), info)

    # --- the artifact ------------------------------------------------------------------------------------------------

    def write(self, part: str, chains: Sequence[Chain], pairs: Sequence[Comparison]) -> dict[str, Any]:
        """The parts that come of a part; how many are in them.

        Raises:
            SawyerError: nothing was taken.
        """
        folder, figures = self.context.folder, dict[str, Any]()
        taken = [chain for chain in chains if chain.fate is None] if self.settings.rounds else []
        if not taken and not pairs:
            why = Counter(chain.fate for chain in chains if chain.fate is not None) or {"as good as each other": 0}
            raise SawyerError(
                f"nothing of {len(chains)} answers to {self.settings.data}/{part} can be "
                f"learned from ({', '.join(f'{count} {reason}' for reason, count in why.items())}); take a stronger "
                "`critic` or `judge`, or more prompts"
            )
        if taken:
            rows = [self.conversation(chain) for chain in taken] + self.helpful()
            random.Random(f"{self.context.seed}/{part}").shuffle(rows)
            write_records(folder / f"{part}-{REVISIONS}.jsonl", rows)
            figures[f"{part}_{REVISIONS}"] = len(taken)
        if pairs:
            write_records(folder / f"{part}-{PAIRS}.jsonl", pairs)
        figures[f"{part}_{PAIRS}"] = len(pairs)
        return figures

    def conversation(self, chain: Chain) -> Conversation:
        info = {**chain.prompt.info, "principles": [one.principle.name for one in chain.rounds]}
        return Conversation((*chain.prompt.prompt, assistant(chain.revision)), info)

    def helpful(self) -> list[Conversation]:
        settings = self.settings.helpful
        if settings is None:
            return []
        kinds = (Conversation, Comparison, Labelled)
        return as_conversations(read_part(self.context, settings.data, settings.part, kinds))[: settings.limit]

    def figures(self, chains: Sequence[Chain]) -> dict[str, Any]:
        """What the answers do before, after each round and at the end, by their words; and what the judge said."""
        prompts = [chain.prompt.text for chain in chains]
        steps = [{"round": 0, **_outcomes(chains, [chain.response for chain in chains], prompts, self.context.seed)}]
        for number in range(self.settings.rounds):
            own = [chain for chain in chains if len(chain.rounds) > number]
            texts = [chain.rounds[number].revision for chain in own]
            if own:
                asked = [chain.prompt.text for chain in own]
                steps.append({"round": number + 1, **_outcomes(own, texts, asked, self.context.seed)})
        found: dict[str, Any] = {
            "steps": steps,
            "chains": len(chains),
            "not_taken": dict(Counter(chain.fate for chain in chains if chain.fate is not None)),
            "principles": _by_principle(chains),
            "headline": {},
        }
        if self.settings.judge is not None:
            asked_of = [chain.preference for chain in chains if chain.preference is not None]
            read = [one for one in asked_of if one.p is not None and one.first_shown is not None]
            found["judge"] = {"asked": len(asked_of), "unread": len(asked_of) - len(read)}
            if read:
                places = range(len(read))
                found["judge"] |= {
                    "first_of_pair": rate([float(one.p or 0) for one in read], list(places)),
                    "first_shown": rate([float(one.first_shown or 0) for one in read], list(places)),
                }
            found["headline"] = {"judge": {name: _mean(value) for name, value in found["judge"].items()}}
        if len(steps) > 1:
            refused = [step["refused"]["mean"] for step in (steps[0], steps[-1])]
            found["headline"] |= {"refused_before": refused[0], "refused_after": refused[1]}
            self.context.log(refused_before=refused[0], refused_after=refused[1])
        return found


def _outcomes(chains: Sequence[Chain], texts: Sequence[str], prompts: Sequence[str], seed: int) -> dict[str, Any]:
    """The share of each outcome, with intervals over prompts."""
    found = [outcome(chain.prompt.text, text) for chain, text in zip(chains, texts, strict=True)]
    return {name: rate([float(one == name) for one in found], prompts, seed=seed) for name in OUTCOMES}


def _by_principle(chains: Iterable[Chain]) -> dict[str, dict[str, int]]:
    """How often each principle was drawn, and in how many of these the revision differs from what it revised."""
    found: dict[str, dict[str, int]] = {}
    for chain in chains:
        before = chain.response
        for one in chain.rounds:
            counts = found.setdefault(one.principle.name, {"drawn": 0, "changed": 0})
            counts["drawn"] += 1
            counts["changed"] += one.revision != before
            before = one.revision
    return found


def _mean(value: Any) -> Any:
    return value["mean"] if isinstance(value, Mapping) else value
