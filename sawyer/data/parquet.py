"""Rows in parquet files, read and written a part at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

from sawyer.errors import SawyerError, reason

BATCH = 1000
"""Rows in memory at a time."""


def read(path: Path) -> Iterator[tuple[Any, str | None]]:
    """The rows of a file, each with what is wrong with it, if anything is.

    Raises:
        SawyerError: the file is missing, empty, cut off or something else.
    """
    if path.is_dir():
        raise SawyerError(f"{path} is a folder; give one of the files in it")
    if not path.exists():
        raise SawyerError(f"there is no file {path}; check the path")
    if not os.access(path, os.R_OK):
        raise SawyerError(f"{path} cannot be read: permission denied")
    if path.stat().st_size == 0:
        raise SawyerError(f"{path} is empty; give a file with at least one record")
    import pyarrow
    import pyarrow.parquet

    try:
        # reading ahead, the default, holds on to every row group that was read
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=BATCH):
                yield from _rows(batch)
    except (pyarrow.ArrowException, OSError) as error:
        raise SawyerError(f"{path} is not a whole parquet file ({reason(error)}); fetch it again") from None


def _rows(batch: Any) -> list[tuple[Any, str | None]]:
    """The rows of a batch; where one of them is not UTF-8, that one has the problem and not the file."""
    try:
        return [(row, None) for row in batch.to_pylist()]
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [(None, "the row is not UTF-8 text")]
        return [each for start in range(batch.num_rows) for each in _rows(batch.slice(start, 1))]


def write(file: IO[bytes], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows into an open file as one table. They are gone through twice: for the types of the columns, and to be
    written; an iterator, which can be gone through once, is held whole.

    `info` becomes a column of JSON text, so that its shape may differ from row to row.

    Raises:
        pyarrow.ArrowException: a column holds values of types that do not go together.
    """
    import pyarrow
    import pyarrow.parquet

    rows = list(rows) if isinstance(rows, Iterator) else rows
    schema = pyarrow.schema([])
    for part in _parts(rows):
        schema = pyarrow.unify_schemas([schema, _table(part).schema], promote_options="permissive")
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for part in _parts(rows):
            writer.write_table(_table(part, schema))


def _parts(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    rest = iter(rows)
    while part := list(islice(rest, BATCH)):
        yield part


def _table(rows: list[Mapping[str, Any]], schema: Any = None) -> Any:
    import pyarrow

    names = list(dict.fromkeys(name for row in rows for name in row)) if schema is None else schema.names
    columns = {name: [row.get(name) for row in rows] for name in names}
    if "info" in columns:
        columns["info"] = [
            info if info is None or isinstance(info, str) else json.dumps(info, ensure_ascii=False)
            for info in columns["info"]
        ]
    return pyarrow.table(columns, schema=schema)
