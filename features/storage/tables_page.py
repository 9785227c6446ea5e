"""The page of all tables, docs/tables.md, written from their schemas."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from features.storage.schemas import Table

_HEAD = "# Tables\n\nWritten by `make docs` from `features/storage/schemas.py`; Delta's column comments say the same.\n"


def tables_page(tables: Sequence[Table]) -> str:
    """The tables as a Markdown page, a section each."""
    return "\n".join([_HEAD, *map(_section, tables)])


def _section(table: Table) -> str:
    partition = f" Partitioned by `{', '.join(table.partitioned_by)}`." if table.partitioned_by else ""
    rows = [(f"`{f.name}`", f.dataType.simpleString(), f.metadata["comment"]) for f in table.fields]
    columns = tabulate(rows, ("column", "type", "meaning"), "pipe", disable_numparse=True)
    return f"## {table.name}\nOne row: {table.row}.{partition}\n\n{columns}\n"
