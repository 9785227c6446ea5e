"""Prints docs/tables.md: every table's columns, for the Complete Journey settings."""

from __future__ import annotations

import sys

from features import snapshots, tables
from features.aggregates import aggregate_columns
from jobs.settings import Settings, load


def page(settings: Settings) -> str:
    """The tables of these settings as a Markdown page."""
    attributes = {name: a.type for name, a in settings.source.attributes.items()}
    return tables.document(
        [
            tables.events(attributes),
            tables.EVENTS_REJECTED,
            tables.user_days(settings.events.types),
            tables.sequences(settings.contract, aggregate_columns(settings.aggregates)),
            tables.outcomes(settings.horizon.targets),
            snapshots.table(settings.sequences),
            tables.scores(settings.contract.tiers, settings.scoring.outputs),
            tables.SCORE_REASONS,
            tables.EMBEDDINGS,
            tables.TIERS,
            tables.DRIFT,
            tables.EVALUATIONS,
            tables.FAIRNESS,
            tables.CROSS_VALIDATIONS,
            tables.RUNS,
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(page(load(["conf/complete_journey.yaml", "conf/local.yaml"])))
