"""What an endpoint was asked, and what that cost."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, fields
from typing import Any

from sawyer.rollout.api_calls import Reply


@dataclass
class Ledger:
    """Counts of an engine since it was made. Print it, or take `as_dict()`.

    Attributes:
        price_in, price_out: price of a million tokens of prompts and of answers; None where it is not known.
        answers: completions that the endpoint gave.
        cached: completions that came from the cache, at no cost.
        failed: completions that could not be had.
        retries: requests that were sent again.
        tokens_in, tokens_out: tokens of prompts and answers, as the endpoint counted them.
        uncounted: answers of which the endpoint did not say how many tokens they took.
    """

    price_in: float | None = None
    price_out: float | None = None
    answers: int = 0
    cached: int = 0
    failed: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    uncounted: int = 0
    _lock: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **counts: int) -> None:
        """Add to the counts of these names."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def count(self, reply: Reply) -> None:
        """An answer came from the endpoint."""
        self.add(
            answers=1,
            tokens_in=reply.tokens_in or 0,
            tokens_out=reply.tokens_out or 0,
            uncounted=int(reply.tokens_in is None or reply.tokens_out is None),
        )

    @property
    def cost(self) -> float | None:
        """In the currency of the prices; None without them. What `uncounted` answers cost is not in it."""
        if self.price_in is None and self.price_out is None:
            return None
        return (self.tokens_in * (self.price_in or 0) + self.tokens_out * (self.price_out or 0)) / 1e6

    def as_dict(self) -> dict[str, Any]:
        named = {f.name: getattr(self, f.name) for f in fields(self) if not f.name.startswith("_")}
        return {**named, "cost": self.cost}

    def __str__(self) -> str:
        parts = [f"{self.answers:,} answers"]
        parts += [f"{self.cached:,} from the cache"] if self.cached else []
        parts += [f"{self.failed:,} failed"] if self.failed else []
        parts += [f"{self.retries:,} requests sent again"] if self.retries else []
        parts.append(f"{self.tokens_in:,} tokens in, {self.tokens_out:,} out")
        parts += [f"{self.uncounted:,} answers without a count of tokens"] if self.uncounted else []
        parts += [f"cost {self.cost:.4f}"] if self.cost is not None else []
        return "; ".join(parts)
