"""What long work reports to: figures on a log that can be rewound, and progress for people.

The runner's `Context` is one; `Silent` is the one for library use and tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol


class Progress(Protocol):
    def advance(self, n: int = 1, **fields: Any) -> None: ...


class Journal(Protocol):
    def log(self, **figures: Any) -> None:
        """Append one line of figures."""
        ...

    def position(self) -> int:
        """Where the log ends now; `rewind` takes it back to there."""
        ...

    def rewind(self, position: int) -> None:
        """Drop what was logged after a checkpoint, before going on from it."""
        ...

    def progress(
        self, total: int | None, title: str, unit: str = "step", start: int = 0
    ) -> AbstractContextManager[Any]:
        """A progress display; what it yields has `advance(n, **fields)`."""
        ...

    def say(self, text: str) -> None:
        """One line for people."""
        ...


class Silent:
    """Keeps figures in a list and shows nothing."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def log(self, **figures: Any) -> None:
        self.lines.append(figures)

    def position(self) -> int:
        return len(self.lines)

    def rewind(self, position: int) -> None:
        del self.lines[position:]

    @contextmanager
    def progress(self, total: int | None, title: str, unit: str = "step", start: int = 0) -> Iterator[Silent]:
        yield self

    def advance(self, n: int = 1, **fields: Any) -> None:
        pass

    def say(self, text: str) -> None:
        pass
