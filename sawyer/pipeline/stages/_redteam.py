"""The work of stage `redteam`. Its artifact:

PART.jsonl                   the attacks of each part of the split, as prompts;  benign.jsonl  the look-alikes
transcripts/attacks.jsonl    every answer with its verdict
redteam.json                 the figures
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sawyer.data.behaviours import NO_CATEGORY, Behaviour, drawn
from sawyer.data.files import raw_rows, write_records, write_rows
from sawyer.data.records import Prompt
from sawyer.data.splits import split, split_key
from sawyer.errors import SawyerError
from sawyer.evals import red_team as arithmetic
from sawyer.feedback.harm import Verdict
from sawyer.methods import red_team
from sawyer.methods.red_team import Attack
from sawyer.pipeline.files import write_json
from sawyer.pipeline.stage import Context
from sawyer.pipeline.stages._classify import classifier_of
from sawyer.pipeline.stages._common import prompts_of
from sawyer.pipeline.stages._speakers import Speakers
from sawyer.pipeline.stages.redteam import BENIGN
from sawyer.rollout.protocol import Completion
from sawyer.rollout.unanswered import left_out, unanswered

TRANSCRIPT = "transcripts/attacks.jsonl"
FIGURES = "redteam.json"
PER_BEHAVIOUR = 64
"""Longest identity of a prompt of foreign data, in characters."""


@dataclass(frozen=True)
class Asked:
    """A prompt with the target's answers and what became of them."""

    prompt: Prompt
    part: str
    answers: tuple[Completion, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def success(self) -> float:
        return sum(verdict.success for verdict in self.verdicts) / len(self.verdicts)


class RedTeam:
    """One run of the stage."""

    def __init__(self, settings: Any, context: Context) -> None:
        self.settings, self.context = settings, context
        self.speakers = Speakers(context, settings)
        self.target = self.speakers.of(settings, "target")
        self.classifier = classifier_of(settings.classifier, context, self.speakers)
        self.asked: list[Asked] = []
        self.dropped: dict[str, int] = {}

    def run(self) -> dict[str, Any]:
        """Ask, judge, count; the figures."""
        self.context.rewind(0)  # everything is gone through again, whatever was kept
        before = self.earlier()
        if self.settings.data is not None:
            self.ask_again(before)
        else:
            self.attack()
        rows = [row for asked in self.asked for row in _rows(asked)]
        found = arithmetic.evaluate(rows, seed=self.context.seed)
        if found["attacks"] is None and found["benign"] is None:
            raise SawyerError(f"none of {len(rows)} answers could be judged; take another `classifier`")
        compared = None
        if before is not None:
            compared = arithmetic.compare(before, rows, seed=self.context.seed)
            compared["with"] = self.settings.data
        result = {
            **found,
            "target": self.settings.called,
            "classifier": self.settings.classifier.by,
            "compared": compared,
            "dropped": self.dropped,
        }
        self.write(rows, result)
        headline = arithmetic.headline(self.settings.called, found, compared, str(self.settings.data))
        self.context.say(headline)
        shares = {
            name: figures[key]
            for name, group, key in (
                ("attack_success", "attacks", "attack_success"),
                ("over_refusal", BENIGN, "refused"),
            )
            if (figures := found[group]) is not None
        }
        self.context.log(**{name: share["mean"] for name, share in shares.items()})
        counts = {part: sum(asked.part == part for asked in self.asked) for part in self.parts()}
        by_category = (found["attacks"] or {}).get("by_category", {})
        extra = {
            "attack_success_by_category": {name: own["attack_success"]["mean"] for name, own in by_category.items()},
            "unjudged": found["unjudged"],
            "dropped": self.dropped,
        }
        extra = {name: value for name, value in extra.items() if value}
        return {"headline": headline, **counts, **shares, **extra}

    # --- the prompts -------------------------------------------------------------------------------------------------

    def earlier(self) -> list[dict[str, Any]] | None:
        """The answers of the earlier `redteam` stage whose prompts are asked again; None where there is none.

        Raises:
            SawyerError: they were judged in another way, so that a difference would say nothing.
        """
        if self.settings.data is None:
            return None
        artifact = self.context.artifact(self.settings.data)
        if not (artifact.folder / FIGURES).is_file():
            return None
        told = artifact.manifest.get("settings", {}).get("classifier")
        own = self.settings.classifier.model_dump(mode="json")
        if told is not None and told != own:
            raise SawyerError(
                f"{self.settings.data} judged answers with other `classifier` settings, so "
                "the two cannot be compared: give both the same"
            )
        return [dict(row.value) for row in raw_rows(artifact.folder / TRANSCRIPT)]

    def ask_again(self, before: Sequence[Mapping[str, Any]] | None) -> None:
        """The prompts of earlier data, part by part."""
        parts = list(self.settings.parts)
        if not parts:
            parts = [] if before is None else list(dict.fromkeys(str(row["part"]) for row in before))
        if not parts:
            raise SawyerError(
                f"{self.settings.data} is no `redteam` stage, so say which of its `parts` are to be asked"
            )
        prompts = [
            (_known(prompt), part) for part in parts for prompt in prompts_of(self.context, self.settings.data, part)
        ]
        self.ask([prompt for prompt, _ in prompts], [part for _, part in prompts])

    def attack(self) -> None:
        """The behaviours, the look-alikes, and round by round the attacker's variants."""
        settings = self.settings
        found, look_alikes = settings.behaviours()
        harmful, benign = self.wanted(found, settings.limit), self.wanted(look_alikes, settings.benign_limit)
        part_of = self.parts_of_behaviours(harmful)
        attacks = red_team.direct(harmful)
        attacker = settings.attacker
        if attacker is not None and attacker.zero_shot:
            questions = [(behaviour, red_team.zero_shot(behaviour)) for behaviour in harmful]
            attacks += self.variants(questions, attacker.zero_shot, "zero_shot", 0, attacks)
        prompts = [attack.prompt(settings.system) for attack in attacks]
        harmless = [attack.prompt(settings.system) for attack in red_team.direct(benign)]
        parts = [part_of[attack.behaviour.id] for attack in attacks] + [BENIGN] * len(benign)
        self.ask([*prompts, *harmless], parts)
        if attacker is None or not attacker.few_shot + attacker.evolve:
            return
        for number in range(1, attacker.rounds + 1):
            new = self.next_round(harmful, attacks, number)
            if new:
                self.ask([attack.prompt(settings.system) for attack in new], [part_of[a.behaviour.id] for a in new])
            attacks += new

    def next_round(self, harmful: Sequence[Behaviour], attacks: Sequence[Attack], number: int) -> list[Attack]:
        """Few-shot and evolution from what the attacks so far have led to."""
        settings, attacker, seed = self.settings, self.settings.attacker, self.context.seed + number
        success = {asked.prompt.text: asked.success for asked in self.asked}
        tried = [attack for attack in attacks if attack.prompt(settings.system).text in success]
        scores = [success[attack.prompt(settings.system).text] for attack in tried]
        heat, new = attacker.choice_temperature, list[Attack]()
        if attacker.few_shot:
            shown = [
                red_team.few_shot(b, red_team.chosen_examples(b, tried, scores, attacker.examples, heat, seed))
                for b in harmful
            ]
            questions = list(zip(harmful, shown, strict=True))
            new += self.variants(questions, attacker.few_shot, "few_shot", number, attacks)
        if attacker.evolve:
            known = {attack.behaviour.id for attack in tried}
            questions = [
                (behaviour, red_team.evolution(parent, way))
                for behaviour in harmful
                if behaviour.id in known
                for parent, way in red_team.chosen_parents(behaviour, tried, scores, attacker.evolve, heat, seed)
            ]
            new += self.variants(questions, 1, "evolution", number, [*attacks, *new])
        return new

    def wanted(self, behaviours: Sequence[Behaviour], limit: int | None) -> list[Behaviour]:
        """Those of the categories that the settings name, at most `limit`."""
        categories = self.settings.categories
        some = [one for one in behaviours if not categories or one.category in categories]
        return drawn(some, limit, self.context.seed)

    def parts_of_behaviours(self, behaviours: Sequence[Behaviour]) -> dict[str, str]:
        """The part of each behaviour, by its id.

        Raises:
            SawyerError: a part is left without any.
        """
        parts = split([behaviour.prompt() for behaviour in behaviours], self.settings.split, self.settings.split_seed)
        where = {split_key(prompt): name for name, own in parts.items() for prompt in own}
        empty = next((name for name, own in parts.items() if not own), None)
        if empty is not None:
            raise SawyerError(
                f"none of {len(behaviours)} behaviours falls into the part '{empty}'; give "
                "it a larger share, or take more behaviours"
            )
        return {behaviour.id: where[split_key(behaviour.prompt())] for behaviour in behaviours}

    def variants(
        self,
        questions: Sequence[tuple[Behaviour, Prompt]],
        n: int,
        method: red_team.Method,
        number: int,
        before: Sequence[Attack],
    ) -> list[Attack]:
        """What the attacker makes of questions about behaviours, without what is no attack, off the topic or known."""
        attacker = self.settings.attacker
        engine = self.speakers.of(attacker, f"attacker, {method}")
        answers = engine.generate(
            [question for _, question in questions], attacker.sampling, n, seed=self.context.seed, keep_failed=True
        )
        unanswered(answers)  # raises where the attacker is to blame
        found = []
        for (behaviour, _), own in zip(questions, answers, strict=True):
            for completion in own:
                said = red_team.variant(completion.text) if completion.error is None else None
                if said is None:
                    self.drop("no attack")
                elif not red_team.on_topic(behaviour, said, attacker.on_topic):
                    self.drop("off topic")
                else:
                    found.append(Attack(behaviour, said, method, number))
        kept = [found[i] for i in self.fresh([attack.request for attack in before], [a.request for a in found])]
        self.drop("much like another", len(found) - len(kept))
        self.context.log(round=number, method=method, variants=len(found), kept=len(kept))
        return kept

    def fresh(self, kept: Sequence[str], new: Sequence[str]) -> list[int]:
        """Which of the new texts are no repetitions."""
        diversity = self.settings.diversity
        if not new:
            return []
        if diversity.by == "ngrams":
            return red_team.unlike(kept, new, diversity.limit)
        from sawyer.feedback import embeddings

        self.speakers.rest()
        embedder = embeddings.Embedder(
            self.context.model(diversity.model),
            precision=self.context.precision,
            device=self.context.accelerator.device,
        )
        vectors = embedder.embed([*kept, *new])
        known = vectors[: len(kept)]
        return embeddings.unlike(known, vectors[len(kept) :], known.mean(0), diversity.limit)

    def drop(self, reason: str, count: int = 1) -> None:
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    # --- the answers -------------------------------------------------------------------------------------------------

    def ask(self, prompts: Sequence[Prompt], parts: Sequence[str]) -> None:
        """The target's answers, and the verdicts on them."""
        settings = self.settings
        completions = self.target.generate(
            prompts, settings.sampling, settings.n, seed=self.context.seed, keep_failed=True
        )
        missing = unanswered(completions)
        if missing:
            self.context.say(left_out(prompts, missing, "prompts of the red team"))
            self.drop("not answered", len(missing))
        kept = [i for i in range(len(prompts)) if i not in missing]
        answers = [completions[i] for i in kept]
        verdicts = self.classifier.classify([prompts[i] for i in kept], [[one.text for one in own] for own in answers])
        for i, own, judged in zip(kept, answers, verdicts, strict=True):
            self.asked.append(Asked(prompts[i], parts[i], tuple(own), tuple(judged)))

    # --- the artifact ------------------------------------------------------------------------------------------------

    def parts(self) -> list[str]:
        return list(dict.fromkeys(asked.part for asked in self.asked))

    def write(self, rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> None:
        folder = self.context.folder
        for part in self.parts():
            write_records(folder / f"{part}.jsonl", [asked.prompt for asked in self.asked if asked.part == part])
        write_rows(folder / TRANSCRIPT, rows)
        write_json(folder / FIGURES, result)


def _known(prompt: Prompt) -> Prompt:
    """A prompt of any data with what the figures go by; foreign ones are a behaviour each, and harmful."""
    own = {"behaviour": prompt.text[:PER_BEHAVIOUR], "category": NO_CATEGORY, "benign": False, "method": "direct"}
    info = {**own, **prompt.info}
    return Prompt(prompt.prompt, {**info, "category": str(info["category"]), "benign": bool(info["benign"])})


def _rows(asked: Asked) -> list[dict[str, Any]]:
    """One row for each answer."""
    info = asked.prompt.info
    about = {name: info[name] for name in ("behaviour", "category", "benign", "method")}
    return [
        {
            **about,
            "part": asked.part,
            "prompt": list(asked.prompt.prompt),
            "sample": k,
            "answer": answer.text,
            **said.row(),
        }
        for k, (answer, said) in enumerate(zip(asked.answers, asked.verdicts, strict=True))
    ]
