"""The rows of a table of comma-separated values, as `data.files` gives those of other files."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sawyer.atomic import write_atomically
from sawyer.data.files import RawRow, read_bytes
from sawyer.errors import SawyerError

SEPARATORS = (",", ";", "\t")
"""What may stand between cells: the one that the header holds most of. Many a spreadsheet writes semicolons."""


def csv_rows(path: Path) -> Iterator[RawRow]:
    """Rows as mappings of column to text, None where a row ends early; numbered from 2, as spreadsheets show them.

    Cells beyond the header stand under the key None.

    Raises:
        SawyerError: the file is missing, not UTF-8, no table, or names a column twice.
    """
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        raise SawyerError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    header = text.lstrip().split("\n", 1)[0]
    separator = max(SEPARATORS, key=header.count)  # the first of them where none is there
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        twice = [name for name, count in Counter(reader.fieldnames or ()).items() if count > 1]
        if twice:
            raise SawyerError(f"{path} has more than one column called {twice[0]!r}; rename or remove one")
        yield from (RawRow(number, row) for number, row in enumerate(reader, start=2))
    except csv.Error as error:
        raise SawyerError(f"{path} is not a table of comma-separated values ({error})") from None


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table of rows with the same columns, at least one, as `csv_rows` reads it; None is an empty cell."""
    out = io.StringIO(newline="")
    table = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, out.getvalue())
