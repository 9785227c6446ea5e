"""What can go wrong, by who has to mend it.

A `UserError` is a mistake in settings, input or command: jobs print its message without a stack trace and exit with 2.
Every other `TiercastError` is a failure of a run that was asked for correctly: exit code 1. Messages name the value,
where it stands and how to mend it.
"""

from __future__ import annotations

from collections.abc import Sequence


class TiercastError(Exception):
    """A failure whose message is meant for the person who started the job."""

    exit_code = 1


class UserError(TiercastError):
    """A mistake that the user can mend: settings, input data or the command."""

    exit_code = 2


class SettingsError(UserError):
    """All mistakes found in the settings, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(["the settings have mistakes:", *(f"  - {p}" for p in self.problems)]))


class SourceError(UserError):
    """A source table, its query or its columns cannot be used."""


class BackfillError(TiercastError):
    """Some dates of a backfill could not be written."""


class QualityGateError(UserError):
    """The data passed validation but not the quality gates."""


class DateError(UserError):
    """An as-of date that the data cannot answer, or dates that would look into the future."""


class PseudonymKeyError(UserError):
    """The pseudonym key is missing, too short, or not the one that the tables were written with."""


class TableMismatchError(UserError):
    """The Delta table at a path has another schema than the settings ask for."""


class BundleError(UserError):
    """A model bundle is missing, damaged, or does not fit the sequences or settings."""


class TrainingDataError(UserError):
    """The training rows cannot train a model: too few, one class only, none at a date."""


class ConcurrentWriteError(TiercastError):
    """Another writer committed the same rows first; nothing of this run was written."""


class StorageError(TiercastError):
    """Storage could not be read or written."""


class ReconciliationError(TiercastError):
    """Row counts that must add up do not: a defect, never the user's mistake."""


class RankFailedError(TiercastError):
    """A training rank failed and ended the job."""
