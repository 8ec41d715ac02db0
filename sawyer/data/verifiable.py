"""The verifiable-instructions task: questions with constraints that a program can check.

`What is a glacier? Use at most 25 words and include the word "weight".` Its gold reward is `feedback.rules`, computed
and not learned, so that what training does to the truth can be seen and not only guessed. Every prompt is made together
with an answer that meets it, so none is impossible. Everything depends on (seed, split, index) alone: the first ten
prompts of a hundred are those of ten. Topics and constraint instances of the splits are disjoint.
"""

from __future__ import annotations

import random
import re
from functools import cache
from itertools import combinations, pairwise
from typing import Any

from sawyer.data.constraints import (
    KINDS,
    SPLITS,
    Constraint,
    contains_word,
    deal,
    satisfaction,
    values,
    word_split,
    words,
)
from sawyer.data.records import Conversation, Prompt, assistant, user
from sawyer.data.topics import Topic, topics
from sawyer.errors import SawyerError

CONSTRAINTS_PER_PROMPT = {1: 0.3, 2: 0.45, 3: 0.25}
"""How often a prompt has so many constraints."""
ENOUGH_WORDS = 10
"""An answer with fewer words of its own says too little."""

_COMMON = frozenset(
    re.findall(
        r"\w+",
        """
        about after again also another are away back been before began begin below both called can come could
        does down each even every first from give given gives goes have here hold holds into just keep keeps
        kinds less like long made make makes many mass more most much must near nearly need needs next often
        once ones only other others over part parts people several should some somewhere still such take takes
        than that their them then there these they thing things this those through together turn turns under
        until upon used uses using very well were what when where which while will with without work would
        your
        """,
    )
)
"""Words that say too little to be asked for, or forbidden."""


def make_prompts(n: int, split: str, seed: int = 0) -> list[Prompt]:
    """The first `n` prompts of a split, with `info` = topic, constraints and source.

    Raises:
        SawyerError: `split` is not train, validation or test, or `n` is negative.
    """
    return [_example(index, split, seed)[0] for index in _indices(n, split)]


def demonstrations(n: int, split: str, seed: int = 0) -> list[Conversation]:
    """The prompts of `make_prompts`, each with an answer that meets all its constraints.

    Raises:
        SawyerError: as `make_prompts`.
    """
    made = [_example(index, split, seed) for index in _indices(n, split)]
    return [Conversation((*prompt.prompt, assistant(answer)), prompt.info) for prompt, answer in made]


@cache
def topics_of(split: str) -> tuple[str, ...]:
    """The names of the topics that a split asks about."""
    parts = deal(list(topics()))
    return tuple(name for name in topics() if parts[name] == split)


def _indices(n: int, split: str) -> range:
    if split not in SPLITS:
        raise SawyerError(f"there is no split {split!r} of the verifiable instructions; choose {', '.join(SPLITS)}")
    if n < 0:
        raise SawyerError(f"the number of prompts must not be negative, it is {n}")
    return range(n)


def _example(index: int, split: str, seed: int) -> tuple[Prompt, str]:
    # Topics come in rounds, each in an order of its own, so that any run of prompts covers many of them.
    names = list(topics_of(split))
    round_number, place = divmod(index, len(names))
    random.Random(f"{seed}/{split}/topics/{round_number}").shuffle(names)
    topic = topics()[names[place]]
    rng = random.Random(f"{seed}/{split}/{index}")
    wanted = rng.choices(list(CONSTRAINTS_PER_PROMPT), list(CONSTRAINTS_PER_PROMPT.values()))[0]
    while True:
        constraints = _draw_constraints(topic, wanted, split, rng)
        answer = _answer(topic, constraints, rng)
        if answer is not None:
            info = {"topic": topic.name, "constraints": [dict(c) for c in constraints], "source": "verifiable"}
            return Prompt((user(_ask(topic, constraints, rng)),), info), answer


# --- drawing constraints --------------------------------------------------------------------------------------------


def _draw_constraints(topic: Topic, wanted: int, split: str, rng: random.Random) -> list[Constraint]:
    """`wanted` constraints of groups that go together, drawn by the weights of their kinds."""
    drawn: list[Constraint] = []
    left = {kind: choices for kind in KINDS if (choices := _choices(kind, topic, split))}
    while left and len(drawn) < wanted:
        kind = rng.choices(list(left), [KINDS[name].weight for name in left])[0]
        drawn.append(rng.choice(left[kind]))
        left = {name: choices for name, choices in left.items() if _go_together(kind, name)}
    return drawn


def _go_together(a: str, b: str) -> bool:
    first, second = KINDS[a], KINDS[b]
    return first.group != second.group and second.group not in first.excludes and first.group not in second.excludes


@cache
def _choices(kind: str, topic: Topic, split: str) -> tuple[Constraint, ...]:
    if kind not in ("keyword", "forbidden"):
        return values(kind, split)
    # A keyword stands in some sentence of the topic; a forbidden word does too, which makes it tempting, but not in
    # the first one, so that an answer can still say what the thing is.
    text = " ".join(topic.facts[1:] if kind == "forbidden" else topic.facts)
    taken = " ".join([topic.question, *([topic.facts[0]] if kind == "forbidden" else [])])
    found = dict.fromkeys(re.findall(r"\b[a-z]{4,}\b", text))
    return tuple(
        {"kind": kind, "word": word}
        for word in found
        if word not in _COMMON
        and word_split(word) == split
        and not contains_word(taken, word)
        and not topic.is_named_in(word)
    )


# --- the wording of a prompt ----------------------------------------------------------------------------------------


def _ask(topic: Topic, constraints: list[Constraint], rng: random.Random) -> str:
    clauses = [rng.choice(KINDS[c["kind"]].phrasings).format(**c) for c in constraints]
    polite = "please " if rng.random() < 0.15 else ""
    simple = all(re.search(r"[,:]|\W\"$", clause) is None for clause in clauses)
    if len(clauses) > 1 and simple and rng.random() < 0.6:
        joined = " and ".join(clauses) if len(clauses) == 2 else ", ".join(clauses[:-1]) + f", and {clauses[-1]}"
        demands = _sentence(polite + joined)
    else:
        demands = " ".join(_sentence((polite if i == 0 else "") + clause) for i, clause in enumerate(clauses))
    if rng.random() < 0.15:
        return f"{demands} {topic.question}"
    return f"{topic.question}{' ' if rng.random() < 0.8 else chr(10)}{demands}"


def _sentence(clause: str) -> str:
    end = "" if re.search(r"[.!?]\"$", clause) else "."
    return clause[0].upper() + clause[1:] + end


# --- an answer that meets the constraints ---------------------------------------------------------------------------


def _answer(topic: Topic, constraints: list[Constraint], rng: random.Random) -> str | None:
    """An answer of the topic's sentences, always with the first, that meets every constraint; None if none does."""
    by_kind: dict[str, Any] = {c["kind"]: c for c in constraints}
    first, rest = topic.facts[0], topic.facts[1:]
    chosen = [[first, *extra] for size in range(len(rest) + 1) for extra in combinations(rest, size)]
    rng.shuffle(chosen)
    # Without a demand on length two sentences or more read best; a lone one is the last resort.
    chosen.sort(key=lambda facts: len(facts) == 1)
    for facts in chosen:
        text = _write(facts, by_kind)
        if text is None or len(demand_free_words(text, constraints)) < ENOUGH_WORDS:
            continue
        if all(satisfaction(c, text) == 1 for c in constraints):
            return text
    return None


def _write(facts: list[str], by_kind: dict[str, Any]) -> str | None:
    """The sentences in the shape that the constraints ask for; None where there are too few of them for it."""
    if "numbered_list" in by_kind:
        return "\n".join(f"{number}. {fact}" for number, fact in enumerate(facts, start=1))
    if "bullet_list" in by_kind:
        return "\n".join(f"- {fact}" for fact in facts)
    facts = list(facts)
    if "starts_with" in by_kind:
        phrase = by_kind["starts_with"]["phrase"]
        joined = facts[0][0].lower() + facts[0][1:] if phrase.endswith(",") else facts[0]
        facts[0] = f"{phrase} {joined}"
    if "ends_with" in by_kind:
        facts.append(by_kind["ends_with"]["phrase"])
    k = by_kind.get("paragraphs", {"k": 1})["k"]
    if len(facts) < k:
        return None
    cuts = [round(i * len(facts) / k) for i in range(k + 1)]
    text = "\n\n".join(" ".join(facts[a:b]) for a, b in pairwise(cuts))
    case = by_kind.get("case", {}).get("case")
    return text.lower() if case == "lower" else text.upper() if case == "upper" else text


def demand_free_words(text: str, constraints: list[Constraint]) -> list[str]:
    """The words of an answer without the opening and closing phrases that its prompt demands, in lower case."""
    text = text.strip()
    for constraint in constraints:
        phrase = constraint.get("phrase", "")
        if constraint["kind"] == "starts_with" and text.startswith(phrase):
            text = text[len(phrase) :]
        if constraint["kind"] == "ends_with" and text.endswith(phrase):
            text = text[: len(text) - len(phrase)]
    return [word.lower() for word in words(text)]
