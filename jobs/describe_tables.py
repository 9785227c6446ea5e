"""Prints docs/tables.md: every table's columns, for the Complete Journey settings."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tabulate import tabulate

from features.building import snapshots
from features.kernel.aggregates import aggregate_columns
from features.storage import schemas
from jobs.running.settings import Settings
from jobs.running.settings_files import load


def page(settings: Settings) -> str:
    """The tables of these settings as a Markdown page."""
    attributes = {name: a.type for name, a in settings.source.attributes.items()}
    return _document(
        [
            schemas.events(attributes),
            schemas.EVENTS_REJECTED,
            schemas.user_days(settings.events.types),
            schemas.sequences(settings.contract, aggregate_columns(settings.aggregates)),
            schemas.outcomes(settings.horizon.targets),
            snapshots.table(settings.sequences),
            schemas.scores(settings.contract.tiers, settings.scoring.outputs),
            schemas.SCORE_REASONS,
            schemas.EMBEDDINGS,
            schemas.TIERS,
            schemas.DRIFT,
            schemas.EVALUATIONS,
            schemas.FAIRNESS,
            schemas.CROSS_VALIDATIONS,
            schemas.RUNS,
        ]
    )


def _document(tables: Sequence[schemas.Table]) -> str:
    head = (
        "# Tables\n\nWritten by `make docs` from `features/storage/schemas.py`; Delta's column comments say the same.\n"
    )
    return "\n".join([head, *(_section(table) for table in tables)])


def _section(table: schemas.Table) -> str:
    partition = f" Partitioned by `{', '.join(table.partitioned_by)}`." if table.partitioned_by else ""
    rows = [(f"`{f.name}`", f.dataType.simpleString(), f.metadata["comment"]) for f in table.fields]
    columns = tabulate(rows, ("column", "type", "meaning"), tablefmt="github", stralign=None, disable_numparse=True)
    return f"## {table.name}\nOne row: {table.row}.{partition}\n\n{columns}\n"


if __name__ == "__main__":
    sys.stdout.write(page(load(["conf/complete_journey.yaml", "conf/local.yaml"])))
