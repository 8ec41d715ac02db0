"""What a run says while it works: sentences, and how far the present step has come. All of it goes to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

PLAIN_SECONDS = 10.0
"""Where there is no terminal, one line about a bar's progress this often."""


class Bar:
    """A count of finished units of work."""

    def __init__(self, show: Callable[[Bar], None], total: int | None, title: str, unit: str, start: int) -> None:
        self.total, self.title, self.unit = total, title, unit
        self.done = start
        self.fields: dict[str, Any] = {}
        self.watchers: list[Callable[[], None]] = []
        """Called after every advance."""
        self._start, self._began, self._show = start, time.monotonic(), show

    def advance(self, n: int = 1, **fields: Any) -> None:
        """`n` more units are done; `fields` (`loss=...`) are shown beside the bar until the next ones come."""
        self.done += n
        self.fields.update(fields)
        self._show(self)
        for watcher in self.watchers:
            watcher()

    @property
    def rate(self) -> float:
        """Units a second, in this session."""
        return (self.done - self._start) / max(time.monotonic() - self._began, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """None where it cannot be known yet."""
        if self.total is None or self.done <= self._start:
            return None
        return max(self.total - self.done, 0) / self.rate

    def line(self) -> str:
        """`train: 30/90 step, 1.50 step/s, 40 s left, loss 0.71`."""
        count = f"{self.done}/{self.total}" if self.total is not None else str(self.done)
        parts = [f"{count} {self.unit}", self.figures()]
        left = self.seconds_left
        if left is not None:
            parts.insert(1, f"{duration(left)} left")
        return f"{self.title}: " + ", ".join(part for part in parts if part)

    def figures(self) -> str:
        """The rate and the fields, as text."""
        shown = [f"{self.rate:.3g} {self.unit}/s"] if self.done > self._start else []
        shown += [
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.fields.items()
        ]
        return ", ".join(shown)


class Voice:
    """Speaks for a run. `quiet` says nothing at all (every process but the main one)."""

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self.quiet = quiet
        self._stream = stream
        self._live: Any = None
        self._open_bars = 0

    @property
    def stream(self) -> TextIO:
        return self._stream or sys.stderr

    def say(self, text: str) -> None:
        """One line, above any progress bar."""
        if self.quiet:
            return
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self.stream, flush=True)

    @contextmanager
    def progress(self, total: int | None, title: str, unit: str = "step", start: int = 0) -> Iterator[Bar]:
        """A bar with its rate and the time left; `start` units were done before (a resumed stage)."""
        if self.quiet:
            yield Bar(lambda bar: None, total, title, unit, start)
        elif self.stream.isatty():
            with self._drawn(total, title, unit, start) as bar:
                yield bar
        else:
            last = time.monotonic()

            def show(bar: Bar) -> None:
                nonlocal last
                if time.monotonic() - last >= PLAIN_SECONDS:
                    last = time.monotonic()
                    self.say(f"  {bar.line()}")

            began = time.monotonic()
            bar = Bar(show, total, title, unit, start)
            yield bar
            if time.monotonic() - began >= PLAIN_SECONDS:
                self.say(f"  {bar.title}: {bar.done} {unit} in {duration(time.monotonic() - began)}")

    @contextmanager
    def _drawn(self, total: int | None, title: str, unit: str, start: int) -> Iterator[Bar]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if self._live is None:
            title_column = TextColumn("{task.description}", markup=False)
            figures = TextColumn("{task.fields[figures]}", markup=False)
            columns = (title_column, BarColumn(bar_width=18), MofNCompleteColumn(), TimeRemainingColumn(), figures)
            self._live = Progress(*columns, console=Console(file=self.stream), transient=True)
            self._live.start()
        self._open_bars += 1
        live = self._live
        task = live.add_task(f"  {title}", total=total, completed=start, figures="")
        try:
            yield Bar(
                lambda bar: live.update(task, completed=bar.done, figures=bar.figures()), total, title, unit, start
            )
        finally:
            live.remove_task(task)
            self._open_bars -= 1
            if self._open_bars == 0:
                live.stop()
                self._live = None


def duration(seconds: float) -> str:
    """`4 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if seconds >= 1 or seconds == 0 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
