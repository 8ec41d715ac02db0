"""Data sets of the Hugging Face hub: their rows, and the commit that these come from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from sawyer.data.files import RawRow
from sawyer.errors import SawyerError


class HubRows(Sequence[RawRow]):
    """The rows of a loaded data set, each taken from the disk when it is asked for."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[RawRow]:
        return (RawRow(number, row) for number, row in enumerate(self._rows, start=1))

    @overload
    def __getitem__(self, index: int) -> RawRow: ...

    @overload
    def __getitem__(self, index: slice) -> list[RawRow]: ...

    def __getitem__(self, index: int | slice) -> RawRow | list[RawRow]:
        places = range(len(self))[index]
        if isinstance(places, int):
            return RawRow(places + 1, self._rows[places])
        return [RawRow(place + 1, self._rows[place]) for place in places]


def hub_rows(
    repo: str, split: str, revision: str | None = None, **where: str | None
) -> tuple[Sequence[RawRow], dict[str, str]]:
    """The rows of a data set on the hub, from the local cache where it has been loaded before; and its commit by name,
    where that can be told.

    Args:
        where: what else `datasets.load_dataset` needs to know, such as a configuration.

    Raises:
        SawyerError: it cannot be had.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        rows: Any = datasets.load_dataset(repo, split=split, revision=revision, **where)
        commit = _commit(rows)
        return HubRows(rows), {} if commit is None else {repo: commit}
    except Exception as error:  # the hub client, its HTTP library and the parsers each have errors of their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        place = " ".join([repo, *(value for value in (*where.values(), revision) if value)])
        raise SawyerError(
            f"split {split!r} of the data set {place} cannot be had from the Hugging Face hub ({reason.rstrip('.')}); "
            "check the name and the network, or load local files with `path`"
        ) from None


def _commit(rows: Any) -> str | None:
    """The commit that a loaded data set comes from: the folder of its cached files is named by it."""
    folders = {Path(file["filename"]).parent.name for file in getattr(rows, "cache_files", None) or []}
    commits = [folder for folder in folders if re.fullmatch("[0-9a-f]{40}", folder)]
    return commits[0] if len(commits) == 1 else None
