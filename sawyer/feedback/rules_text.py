"""Rewards computed from a completion's text alone: simple enough that over-optimising them can be seen with the eye.

They are the closed-form rewards of D2PO (Singhal et al. 2024, arXiv 2405.01511), on our own tokens: words, with inner
apostrophes and hyphens, and punctuation marks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial

from sawyer.data.constraints import sentences
from sawyer.data.records import Prompt
from sawyer.errors import SawyerError, reason

ENOUGH = 20
"""Texts of no more tokens than this are too short to be rated by density or grade."""

_TOKEN = re.compile(r"\w+(?:['’\-]\w+)*|[^\w\s]")
_CONTRACTED = re.compile(r"(?<=\w)(?=n't\b|'(?:s|re|ve|ll|d|m)\b)")  # as the Penn Treebank has it: is n't, it 's
_VOWELS = re.compile(r"[aeiouy]+")
_SILENT = re.compile(r"(?:[^aeiouyl]e|[aeiouy]les?|[^aeiouytd]ed|[^aeiouylscgxzh]es)$")


@dataclass
class TextRule:
    """A rule of the text as feedback."""

    name: str
    rule: Callable[[str], float]

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """See `Feedback.score`; the prompt counts for nothing."""
        return [[self.rule(text) for text in own] for own in completions]


def text_rule(name: str, words: Collection[str] = ()) -> TextRule:
    """One of `RULES` by name, or `bag_of_words` of these words.

    Raises:
        SawyerError: there is no such rule; a bag of words without words, or words for another rule.
    """
    if (name == "bag_of_words") != bool(words):
        raise SawyerError("the rule bag_of_words needs a list of words, and no other rule takes one")
    if name == "bag_of_words":
        return TextRule(name, partial(bag_of_words, words=frozenset(words)))
    if name not in RULES:
        raise SawyerError(f"there is no rule '{name}'; choose {', '.join(RULES)} or bag_of_words")
    return TextRule(name, RULES[name])


def tokens(text: str) -> list[str]:
    """Words and punctuation marks."""
    return _TOKEN.findall(text)


def words(text: str) -> list[str]:
    """Words alone."""
    return [token for token in tokens(text) if token[0].isalnum() or token[0] == "_"]


def length(text: str) -> float:
    """The number of words."""
    return float(len(words(text)))


def bag_of_words(text: str, words: Collection[str]) -> float:
    """How many of the words occur, each counted once, upper or lower case."""
    found = {token.lower() for token in tokens(text)}
    return float(len(found & {word.lower() for word in words}))


def nouns(text: str) -> float:
    """How many tokens are nouns (Penn tags NN, NNS, NNP, NNPS), by TextBlob's tagger: a lexicon and rules, no download.

    Words that are no English count as nouns. D2PO tags with NLTK, whose model has to be fetched; the two differ on rare
    words.

    Raises:
        SawyerError: TextBlob is not installed.
    """
    return float(len(_nouns(text)))


def unique_nouns(text: str) -> float:
    """How many different nouns there are, upper and lower case being one; see `nouns`.

    D2PO keeps the cases apart, so that a policy can write each noun twice.
    """
    return float(len({noun.lower() for noun in _nouns(text)}))


def nouns_for_tokens(text: str) -> float:
    """3 x nouns + (50 - tokens): nouns, in as few words as possible."""
    return 3 * nouns(text) + 50 - len(tokens(text))


def _nouns(text: str) -> list[str]:
    pieces = _CONTRACTED.sub(" ", " ".join(tokens(text)).replace("’", "'"))
    return [token for token, tag in _tagger()(pieces, False) if tag.startswith("NN") and token[:1].isalnum()]


@cache
def _tagger() -> Callable[[str, bool], Sequence[tuple[str, str]]]:
    try:
        from textblob.en import tag
    except ImportError as error:
        raise SawyerError(
            f"rules that count nouns need TextBlob; in Sawyer's folder, pip install -e '.[nouns]': {reason(error)}"
        ) from error
    return tag


def token_density(text: str) -> float:
    """10 x different tokens / tokens; -5 up to 20 tokens."""
    own = tokens(text)
    return 10 * len(set(own)) / len(own) if len(own) > ENOUGH else -5.0


def reading_grade(text: str) -> float:
    """The school grade that can read the text; -10 up to 20 tokens. See `flesch_kincaid`."""
    return flesch_kincaid(text) if len(tokens(text)) > ENOUGH else -10.0


def flesch_kincaid(text: str) -> float:
    """0.39 words / sentences + 11.8 syllables / words - 15.59 (Kincaid et al. 1975); 0 for a text without words."""
    own = words(text)
    if not own:
        return 0.0
    count = max(1, len(sentences(text)))
    return 0.39 * len(own) / count + 11.8 * sum(map(syllables, own)) / len(own) - 15.59


def syllables(word: str) -> int:
    """Syllables of an English word by rule: groups of vowels, less a silent ending, at least one. About nine words in
    ten come out right."""
    word = word.lower()
    return max(1, len(_VOWELS.findall(word)) - bool(_SILENT.search(word)))


RULES: dict[str, Callable[[str], float]] = {
    "length": length,
    "nouns": nouns,
    "unique_nouns": unique_nouns,
    "nouns_for_tokens": nouns_for_tokens,
    "token_density": token_density,
    "reading_grade": reading_grade,
}
"""The rules that need nothing but a text."""
