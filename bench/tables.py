"""Tables of the results pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tabulate import tabulate


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells as they are written."""
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)
