"""Prints docs/tables.md: every table's columns, for the Complete Journey settings."""

from __future__ import annotations

import sys

from features.building import snapshots
from features.kernel.aggregates import aggregate_columns
from features.storage import schemas
from features.storage.tables_page import tables_page
from jobs.running.settings import Settings
from jobs.running.settings_files import load


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


if __name__ == "__main__":
    sys.stdout.write(page(load(["conf/complete_journey.yaml", "conf/local.yaml"])))
