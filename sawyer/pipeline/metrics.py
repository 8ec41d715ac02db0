"""`metrics.jsonl`: one JSON line per observation, that survives kills and can be wound back to a checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sawyer.pipeline.files import plain

BLOCK = 1 << 16


class MetricsLog:
    """Appends JSON lines to a file. A last line that a kill cut in half is dropped on opening.

    A stage that saves a checkpoint keeps `position()` in it, and calls `rewind` with it when it continues from there:
    what was logged after the checkpoint will be logged again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = _size_of_whole_lines(path)
        if path.exists() and path.stat().st_size > self._size:
            self._truncate(self._size)

    def append(self, *lines: dict[str, Any]) -> None:
        """Write a line for each; numbers that are not finite become null."""
        written = "".join(json.dumps(plain(figures), ensure_ascii=False) + "\n" for figures in lines).encode()
        with self.path.open("ab") as file:
            file.write(written)
        self._size += len(written)

    def position(self) -> int:
        """Bytes written so far, all of them on the disk."""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
        return self._size

    def rewind(self, position: int) -> None:
        """Drop every line after a position."""
        if position < self._size:
            self._truncate(position)
            self._size = position

    def _truncate(self, size: int) -> None:
        with self.path.open("r+b") as file:
            file.truncate(size)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a metrics file; an empty list where there is no file."""
    if not path.exists():
        return []
    content = path.read_bytes()
    return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines() if line.strip()]


def _size_of_whole_lines(path: Path) -> int:
    """Where the last newline of a file ends; found from the file's end, since logs of rows grow large."""
    end = path.stat().st_size if path.exists() else 0
    while end > 0:
        begin = max(0, end - BLOCK)
        with path.open("rb") as file:
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
