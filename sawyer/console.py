"""What the verbs of the command line share: exit codes, the option `--json`, tables. Nothing heavy is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

USER_ERROR, INCOMPLETE, INTERRUPTED = 2, 3, 130

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs and nothing else.")]


def table(*columns: str) -> Table:
    """An empty table whose cells fold rather than being cut."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def print_table(made: Table) -> None:
    """On stdout; names in it are text and nothing else."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    console.print(made)
