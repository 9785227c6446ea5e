"""The project's errors, by who has to act on them.

A `UserError` is a mistake in settings, input or command: jobs print its message without a stack trace and exit with 2.
Any other `TiercastError` is a failure of a correct run: exit code 1. Messages name the value, its place and the remedy.
"""

from __future__ import annotations

from collections.abc import Sequence


class TiercastError(Exception):
    """A failure; its message is for the person who started the job."""

    exit_code = 1


class UserError(TiercastError):
    """A mistake that the person who started the job can mend: in settings, input data or the command."""

    exit_code = 2


class SettingsError(UserError):
    """Mistakes in the settings: all that were found, a line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(["the settings have mistakes:", *(f"  - {p}" for p in self.problems)]))


class SourceError(UserError):
    """A source table, the source's query or its columns cannot be used."""


class BackfillError(TiercastError):
    """Some dates of a backfill could not be written."""


class QualityGateError(UserError):
    """A batch of events did not pass the quality gates."""


class DateError(UserError):
    """The data does not reach an as-of date, or a set of dates would let a model see the future."""


class PseudonymKeyError(UserError):
    """The pseudonym key is missing, too short, or not the key of the tables."""


class TableMismatchError(UserError):
    """A Delta table has another schema than the settings ask for."""


class BundleError(UserError):
    """A model bundle is missing, damaged, or does not fit the sequences or settings."""


class TrainingDataError(UserError):
    """The rows cannot train a model: too few, one class only, or none at a date."""


class ConcurrentWriteError(TiercastError):
    """Another run committed the same rows first; nothing of this run was written."""


class StorageError(TiercastError):
    """Storage could not be read or written."""


class ReconciliationError(TiercastError):
    """Row counts that must add up do not: a defect of the code."""


class RankFailedError(TiercastError):
    """A rank failed, which ended the training."""
