"""Summaries compared by people (Stiennon et al. 2020): two summaries of a Reddit post or of a news article."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from sawyer.data.cleaning import Sieve
from sawyer.data.public.answers import SAME_TEXT, Answer, comparison
from sawyer.data.public.base import PARQUET_EXPORT, PublicSettings
from sawyer.data.public.fields import either, items, name, number, part, question, text
from sawyer.data.records import Comparison
from sawyer.errors import SawyerError

SPLITS = {"train": ("train",), "validation": ("valid1", "valid2")}
"""What the rows of a split say in `split`: the authors' own files have those of all splits."""


class SummarizeSettings(PublicSettings):
    """Summarize from feedback, its comparisons. Columns: `info` (`post`, `title`, `subreddit`, or `article`), two
    `summaries` of `text` and `policy`, `choice`, `worker`, `split`, `extra` (`confidence`)."""

    source: Literal["summarize"] = "summarize"
    hub: str = "openai/summarize_from_feedback"
    """Hub data set, when there is no path."""
    revision: str | None = PARQUET_EXPORT
    """Commit, tag or branch of the hub data set: the hub's own copy in parquet, as the set is published as a script."""
    articles: bool = True
    """Keep the news articles (CNN/DailyMail) of the validation split; posts are kept in any case."""
    min_confidence: int | None = Field(default=None, ge=1, le=9)
    """Keep comparisons that the worker was at least so sure of (1 to 9); those without a confidence are then left
    out."""

    def place(self) -> dict[str, str | None]:
        return {"data_dir": "comparisons"}


def read(settings: SummarizeSettings, sieve: Sieve) -> Iterator[Comparison]:
    for where, (split, is_article, confidence, pair) in sieve.usable(_pair):
        if split is not None and split not in SPLITS.get(settings.split, (settings.split,)):
            sieve.leave_out("the comparison is of another split", where)
        elif is_article and not settings.articles:
            sieve.leave_out("the text is an article", where)
        elif settings.min_confidence is not None and (confidence or 0) < settings.min_confidence:
            sieve.leave_out(f"the worker's confidence is below {settings.min_confidence}", where)
        else:
            yield pair


def _pair(row: Mapping[str, Any]) -> tuple[str | None, bool, float | None, Comparison]:
    info = part(row, "info")
    title = info.get("title") or ""
    is_article = not info.get("post")
    if is_article:
        prompt = f"TITLE: {title}\n\nARTICLE: {text(info, 'article')}\n\nTL;DR:"
    else:
        prompt = f"SUBREDDIT: r/{info.get('subreddit') or ''}\n\nTITLE: {title}\n\nPOST: {text(info, 'post')}\n\nTL;DR:"
    summaries = items(row, "summaries")
    if len(summaries) != 2:
        raise SawyerError("there are not two summaries")
    choice = either(row, "choice", (0, 1))
    answers = [
        Answer(text(summaries[i], "text").strip(), None, name(summaries[i], "policy")) for i in (choice, 1 - choice)
    ]
    if answers[0].text == answers[1].text:
        raise SawyerError(SAME_TEXT)
    extra = row.get("extra") or {}
    confidence = number(extra, "confidence") if extra.get("confidence") is not None else None
    pair = comparison(
        question(prompt), answers, "summarize", "people", worker=name(row, "worker"), confidence=confidence
    )
    return name(row, "split"), is_article, confidence, pair
