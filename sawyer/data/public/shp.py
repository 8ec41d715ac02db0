"""The Stanford Human Preferences set (Ethayarajh et al. 2022): two comments on a Reddit post, with their votes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from sawyer.data.cleaning import Sieve
from sawyer.data.public.answers import SAME_TEXT, Answer, comparison
from sawyer.data.public.base import PublicSettings
from sawyer.data.public.fields import either, number, question, text
from sawyer.data.records import Comparison
from sawyer.errors import SawyerError


class ShpSettings(PublicSettings):
    """SHP. Columns: `post_id`, `domain`, `history`, `human_ref_A`, `human_ref_B`, `score_A`, `score_B`, `labels`."""

    source: Literal["shp"] = "shp"
    hub: str = "stanfordnlp/SHP"
    """Hub data set, when there is no path."""
    min_ratio: float = Field(default=2.0, ge=1)
    """Keep pairs whose votes are in a ratio above this."""
    max_pairs: int | None = Field(default=5, ge=1)
    """Keep at most so many pairs of a post, the first of the file: 5 in version 2 of the RLHF Workflow's mixtures, 1 in
    version 1."""
    domains: tuple[str, ...] = ()
    """Keep posts of these subreddits only (`askscience`, ...); none means all."""


@dataclass(frozen=True)
class _Row:
    post: str
    subreddit: str
    history: str
    chosen: Answer
    rejected: Answer
    votes: tuple[float, float]
    """Of the chosen and of the rejected comment."""


def read(settings: ShpSettings, sieve: Sieve) -> Iterator[Comparison]:
    taken: Counter[str] = Counter()
    subreddits = {domain.casefold() for domain in settings.domains}
    for where, row in sieve.usable(_row):
        chosen, rejected = row.votes
        if subreddits and row.subreddit.casefold() not in subreddits:
            sieve.leave_out("the post is of another subreddit", where)
        elif chosen < rejected:
            sieve.leave_out("the label contradicts the votes", where)
        elif chosen <= settings.min_ratio * rejected:
            sieve.leave_out(f"the votes are in a ratio of {settings.min_ratio:g} or less", where)
        elif settings.max_pairs is not None and taken[row.post] >= settings.max_pairs:
            sieve.leave_out(f"the post has {settings.max_pairs} pairs already", where)
        else:
            taken[row.post] += 1
            yield comparison(
                question(row.history),
                (row.chosen, row.rejected),
                settings.source,
                "votes of Reddit users",
                subreddit=row.subreddit,
            )


def _row(row: Mapping[str, Any]) -> _Row:
    a, b = (Answer(text(row, f"human_ref_{side}"), number(row, f"score_{side}"), "a Reddit user") for side in "AB")
    votes = number(row, "score_A"), number(row, "score_B")
    if a.text == b.text:
        raise SawyerError(SAME_TEXT)
    if min(votes) <= 0:
        raise SawyerError("a comment has no votes")
    subreddit = text(row, "domain").split("_")[0]  # `askscience_train`
    if either(row, "labels", (0, 1)) == 0:
        a, b, votes = b, a, votes[::-1]
    return _Row(text(row, "post_id"), subreddit, text(row, "history"), a, b, votes)
