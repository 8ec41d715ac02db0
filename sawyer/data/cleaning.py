"""What becomes of the rows of a published set: used, left out by its cleaning, or bad; each counted with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sawyer.data.files import WRONG_TYPE, LoadReport, RawRow
from sawyer.data.records import Record
from sawyer.errors import SawyerError

T = TypeVar("T")


class Sieve:
    """Hands out rows one by one, and counts what does not become a record.

    *Bad* is what is broken or not in the set's layout: a missing side, two equal sides, turns that do not alternate, a
    ranking with ties or holes. Too many such rows refuse the set. *Left out* is what the published cleaning drops:
    equal scores, small margins, pairs beyond so many a prompt. It is counted and said, however much it is.
    """

    def __init__(self, name: str, files: Iterable[tuple[str, Iterable[RawRow]]]) -> None:
        """
        Args:
            name: what errors call the set.
            files: the rows of each file, with a name that no other file has.
        """
        self.name = name
        self.report = LoadReport()
        self._files = files
        self._rows = 0
        self._bad: dict[str, str] = {}

    def usable(self, convert: Callable[[Mapping[str, Any]], T]) -> Iterator[tuple[str, T]]:
        """Where each row stands (`file:line`) and what `convert` makes of it; those it refuses are counted as bad."""
        for file, rows in self._files:
            for row in rows:
                self._rows += 1
                where = f"{file}:{row.number}"
                try:
                    made = convert(_object(row))
                except SawyerError as error:
                    self.bad(str(error), where)
                except WRONG_TYPE as error:
                    self.bad(f"a field has the wrong type ({type(error).__name__})", where)
                else:
                    yield where, made

    def bad(self, reason: str, where: str) -> None:
        """Count something that should not be in the set; its row counts as bad once, whatever else is wrong with it."""
        self.report.drop(reason, where)
        self._bad.setdefault(where, reason)

    def leave_out(self, reason: str, where: str) -> None:
        """Count something that the published cleaning drops."""
        self.report.drop(reason, where)

    def finish(self, records: Sequence[Record], max_bad: float) -> LoadReport:
        """The report of all rows, of which `records` were made.

        Raises:
            SawyerError: there was no row, more than a share `max_bad` of them are bad, or no record was made.
        """
        self.report.kept = len(records)
        if not self._rows:
            raise SawyerError(f"{self.name} has no rows; give a file with at least one record")
        first = next((f"; the first is {where}: {reason}" for where, reason in self._bad.items()), "")
        if len(self._bad) > max_bad * self._rows:
            raise SawyerError(
                f"{self.name}: {len(self._bad)} of {self._rows} rows cannot be used, more than the share of "
                f"{max_bad:g} allowed{first}; mend or remove them, give the set in its published layout, or raise "
                "`max_bad`"
            )
        if not records:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.report.dropped.items())
            raise SawyerError(f"{self.name}: nothing is left of {self._rows} rows after cleaning ({reasons})")
        return self.report


def _object(row: RawRow) -> Mapping[str, Any]:
    if row.problem is not None:
        raise SawyerError(row.problem)
    if not isinstance(row.value, Mapping):
        raise SawyerError("the row is not a JSON object")
    return row.value
