"""Prints docs/tables.md: every table with its columns, as the settings make them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from features.building import snapshots
from features.kernel.aggregates import aggregate_columns
from features.storage import schemas
from features.storage.tables_page import tables_page
from jobs.running.command import parser, print_page
from jobs.running.settings import Settings
from jobs.running.settings_files import load

ARGUMENTS = parser(
    "describe_tables",
    reads="the settings.",
    writes="a Markdown page to the standard output.",
    example="--config conf/complete_journey.yaml --config conf/local.yaml",
    as_of=None,
)


def page(settings: Settings) -> str:
    """The tables of these settings as a Markdown page."""
    attributes = {name: a.type for name, a in settings.source.attributes.items()}
    return tables_page(
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


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return print_page(ARGUMENTS, lambda options: page(load(options.config, options.set)), argv)


if __name__ == "__main__":
    sys.exit(entry())
