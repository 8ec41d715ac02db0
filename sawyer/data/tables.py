"""Rows in parquet files, read and written in memory that does not grow with the file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

from sawyer.errors import SawyerError

ROWS = 4096
"""Rows that are held at a time."""


def read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, one after another.

    Raises:
        SawyerError: the file is cut off, or no parquet.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        # reading ahead, the default, holds on to every row group that was read
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=ROWS):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise SawyerError(
            f"{path} is not a whole parquet file ({str(error).splitlines()[0]}); fetch it again"
        ) from None


def write_parquet(file: IO[bytes], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as one table. They are gone through twice: for the types of the columns, and to be written.

    `info` becomes a column of JSON text, so that rows whose `info` differ in shape go into one table.

    Raises:
        SawyerError: a column holds values of types that do not go together.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.schema([])
        for part in _parts(rows):
            schema = pyarrow.unify_schemas([schema, _table(part).schema], promote_options="permissive")
        with pyarrow.parquet.ParquetWriter(file, schema) as writer:
            for part in _parts(rows):
                writer.write_table(_table(part, schema))
    except pyarrow.ArrowException as error:
        raise SawyerError(
            f"the rows do not fit into one parquet table ({str(error).splitlines()[0]}); write them as .jsonl"
        ) from None


def _parts(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    rest = iter(rows)
    while part := list(islice(rest, ROWS)):
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
