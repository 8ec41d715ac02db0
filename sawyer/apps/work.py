"""Where a verb keeps what it has done until its output is written.

    OUT                    the output
    .OUT.work/FINGERPRINT  while it runs: finished parts, and the answers of an endpoint

Parts lie under a fingerprint of everything that they depend on, so that those of other inputs or options are not taken
for ours.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sawyer.data.files import suffix_of
from sawyer.errors import SawyerError
from sawyer.journal import Silent
from sawyer.pipeline.progress import Voice


def check_out(out: Path, overwrite: bool, suffix: str | None = None) -> None:
    """Refuse a place that the output cannot be written to.

    Args:
        suffix: what its name must end with; any suffix of rows when left out.

    Raises:
        SawyerError: see above.
    """
    if suffix is None:
        suffix_of(out)
    elif out.suffix != suffix:
        raise SawyerError(f"--out {out} must end with {suffix}")
    if out.is_dir():
        raise SawyerError(f"--out {out} is a folder; give the file to write")
    if not out.parent.is_dir():
        raise SawyerError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out.exists() and not overwrite:
        raise SawyerError(f"{out} is there already; give another --out, or --overwrite to replace it")


@contextmanager
def work_folder(out: Path, fingerprint: str, doing: str) -> Iterator[Path]:
    """The folder of this very work, held for this process; what holds no work is removed.

    Raises:
        SawyerError: another process is `doing` ("generating into") the same output.
    """
    from filelock import FileLock, Timeout

    root = out.parent / f".{out.name}.work"
    work = root / fingerprint[:16]
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SawyerError(f"another process is {doing} {out}; wait for it, or give another --out") from None
    try:
        yield work
    finally:
        lock.release()
        if root.exists() and not any(root.rglob("*.json")):
            shutil.rmtree(root, ignore_errors=True)


class Shown(Silent):
    """Shows progress as a run does, and remembers how fast it was."""

    def __init__(self, voice: Voice) -> None:
        super().__init__()
        self._voice = voice
        self._bar: Any = None

    @property
    def tokens_per_second(self) -> float | None:
        """None where nothing was generated in this session."""
        return self._bar.fields.get("tokens_per_second") if self._bar is not None else None

    def progress(self, total: int | None, title: str, unit: str = "step", start: int = 0) -> Any:
        @contextmanager
        def shown() -> Iterator[Any]:
            with self._voice.progress(total, title, unit, start) as bar:
                self._bar = bar
                yield bar

        return shown()

    def say(self, text: str) -> None:
        self._voice.say(text)
