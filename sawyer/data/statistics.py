"""What a data set holds, in the columns of table 5 of the RLHF Workflow (Dong et al. 2024)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sawyer.data.records import Comparison, Conversation, Labelled, Message, Record

TOTAL = "all"
NOT_SAID = "not said"


@dataclass(frozen=True)
class SetStatistics:
    """The figures of one source. Lengths are means in tokens; None where there is nothing to measure."""

    source: str
    prompts: int
    """Distinct prompts."""
    prompt_tokens: float | None
    """Of the distinct prompts."""
    chosen_tokens: float | None
    """Of the chosen completion, over pairs; of conversations and good completions, of the answer."""
    rejected_tokens: float | None
    """Of the rejected completion, over pairs; of completions labelled bad, of these."""
    pairs: int
    """A ranking of K completions counts as its K (K - 1) / 2 pairs."""
    records: int
    written_by: dict[str, int]
    """Who wrote the completions: how many each."""
    labelled_by: dict[str, int]
    """Who labelled the records: how many each."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def table(records: Sequence[Record], count: Callable[[Sequence[str]], Sequence[int]]) -> list[SetStatistics]:
    """The figures of each source among the records (by `info`), and of all where there are several.

    Args:
        count: the lengths of some texts, each given once.
    """
    texts = dict.fromkeys(text for record in records for text in (_prompt_text(record), *_completions(record)))
    length = dict(zip(texts, count(list(texts)), strict=True))
    by_source: dict[str, list[Record]] = {}
    for record in records:
        by_source.setdefault(str(record.info.get("source", NOT_SAID)), []).append(record)
    rows = [_figures(source, own, length) for source, own in by_source.items()]
    return [*rows, _figures(TOTAL, records, length)] if len(rows) > 1 else rows


def by_source(records: Sequence[Record]) -> dict[str, int]:
    """How many records each source gave."""
    return dict(Counter(str(record.info.get("source", NOT_SAID)) for record in records))


def _figures(source: str, records: Sequence[Record], length: dict[str, int]) -> SetStatistics:
    prompts = {json.dumps(list(_prompt(record))): length[_prompt_text(record)] for record in records}
    chosen, rejected, pairs = _Mean(), _Mean(), 0
    written: Counter[str] = Counter()
    labelled: Counter[str] = Counter()
    for record in records:
        completions = _completions(record)
        written.update(_writers(record, len(completions)))
        if not completions:
            continue
        labelled[str(record.info.get("labelled_by", NOT_SAID))] += 1
        if isinstance(record, Comparison):
            last = len(completions) - 1
            pairs += last * (last + 1) // 2
            for place, completion in enumerate(completions):
                chosen.add(length[completion], last - place)
                rejected.add(length[completion], place)
        else:
            good = not isinstance(record, Labelled) or record.label
            (chosen if good else rejected).add(length[completions[0]])
    return SetStatistics(
        source=source,
        prompts=len(prompts),
        prompt_tokens=sum(prompts.values()) / len(prompts) if prompts else None,
        chosen_tokens=chosen.value,
        rejected_tokens=rejected.value,
        pairs=pairs,
        records=len(records),
        written_by=dict(written.most_common()),
        labelled_by=dict(labelled.most_common()),
    )


class _Mean:
    def __init__(self) -> None:
        self._sum, self._weight = 0.0, 0

    def add(self, value: float, weight: int = 1) -> None:
        self._sum += value * weight
        self._weight += weight

    @property
    def value(self) -> float | None:
        return self._sum / self._weight if self._weight else None


def _prompt(record: Record) -> Sequence[Message]:
    """What precedes the answer that is measured."""
    return record.messages[:-1] if isinstance(record, Conversation) else record.prompt


def _prompt_text(record: Record) -> str:
    return "\n".join(message["content"] for message in _prompt(record))


def _completions(record: Record) -> tuple[str, ...]:
    match record:
        case Comparison():
            return record.completions
        case Conversation():
            return (record.messages[-1]["content"],)
        case Labelled():
            return (record.completion,)
    return ()


def _writers(record: Record, completions: int) -> Sequence[str]:
    models = record.info.get("models")
    if not isinstance(models, list) or len(models) != completions:
        models = [None] * completions
    return [str(model) if model else NOT_SAID for model in models]
