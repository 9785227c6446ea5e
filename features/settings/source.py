"""Settings of the source: its tables, query, attributes, event types, groups and gates."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Literal

from pydantic import Field, model_validator

from features.core.strict import Name, Positive, Share, Strict
from features.kernel.tiers import MICROS

EVENT_COLUMNS = ("event_id", "user_id", "event_time", "event_type", "amount")
"""Columns that every source query yields; attributes come on top."""

_RESERVED = ("age", "clipped_at", "content_hash", "event_date", "ingested_at", "original", "reasons", "status")
"""What ingest and sequences call their own columns."""


class SourceTable(Strict):
    """A named input: a path with a format, or a catalogue table."""

    format: Literal["parquet", "csv", "json", "delta", "table"]
    uri: str = Field(min_length=1, description="path or URI; for `table` a catalogue name; package:NAME/PATH too")
    options: dict[str, str] = Field(default_factory=dict)
    columns: str | None = Field(None, description="DDL of the columns, required for csv and json")
    date_column: str | None = Field(None, description="timestamp or date column on which date bounds are pushed down")

    @model_validator(mode="after")
    def _text_needs_columns(self) -> SourceTable:
        if self.format in ("csv", "json") and not self.columns:
            raise ValueError(f"a {self.format} table needs `columns`, such as 'id STRING, paid_at STRING'")
        return self


class Attribute(Strict):
    """A further column of an event."""

    type: Literal["numeric", "categorical"]
    sequence: bool = Field(True, description="whether the attribute enters the sequences")


class Source(Strict):
    """Where events come from."""

    tables: dict[Name, SourceTable] = Field(min_length=1)
    query: str = Field(min_length=1, description="Spark SQL over the tables that yields the event columns")
    attributes: dict[Name, Attribute] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _no_shadowing(self) -> Source:
        taken = [a for a in self.attributes if a in (*EVENT_COLUMNS, *_RESERVED)]
        if taken:
            raise ValueError(f"attributes {taken} have the names of event columns; rename them in the query")
        return self


class Groups(Strict):
    """Which groups users belong to: for evaluation only, never a feature."""

    tables: dict[Name, SourceTable] = Field(min_length=1)
    query: str = Field(min_length=1, description="Spark SQL over the tables that yields user_id and the attributes")
    attributes: list[Name] = Field(min_length=1, description="columns of the query by which users are grouped")

    @model_validator(mode="after")
    def _attributes_are_named_once(self) -> Groups:
        twice = sorted({a for a in self.attributes if self.attributes.count(a) > 1 or a == "user_id"})
        if twice:
            raise ValueError(f"attributes {twice} stand more than once, or are the user")
        return self


class Events(Strict):
    """What counts as a valid event."""

    types: list[Name] = Field(min_length=1, description="every event type that is accepted")
    purchase_type: Name = Field(description="the type whose amounts are spend")
    future_tolerance_minutes: int = Field(ge=0, description="how far ahead of the clock a time may lie")
    largest_amount: Decimal = Field(gt=0, le=Decimal(10) ** 9, description="outlier bound of one event's amount")
    outliers: Literal["reject", "clip"]
    repeats_within_days: int | None = Field(
        None, ge=0, description="how far back another event of the same id is looked for; all the way if unset"
    )

    @model_validator(mode="after")
    def _purchase_is_a_type(self) -> Events:
        if self.purchase_type not in self.types:
            raise ValueError(f"purchase_type {self.purchase_type!r} is not among the types {self.types}")
        if len(set(self.types)) != len(self.types):
            raise ValueError(f"types has repetitions: {self.types}")
        taken = [t for t in self.types if re.fullmatch(r"spend|active_days|trend_\d+d", t)]
        if taken:
            raise ValueError(f"types {taken} have the names of aggregates; rename them in the query")
        if self.largest_amount * MICROS % 1:
            raise ValueError(f"largest_amount {self.largest_amount} has more than 6 decimals")
        return self


class Quality(Strict):
    """Gates that stop an ingest before anything downstream is written; leave one out to switch it off."""

    largest_rejected_share: Share | None = None
    day_rows_against_median: tuple[float, float] | None = Field(
        None, description="smallest and largest ratio of a day's rows to the median of the days before it"
    )
    median_days: Positive = Field(description="days of the trailing median")
    freshest_event_days: Positive | None = Field(None, description="how old the newest event may be")

    @model_validator(mode="after")
    def _ratios_in_order(self) -> Quality:
        low, high = self.day_rows_against_median or (0, 1)
        if not 0 <= low <= 1 <= high:
            raise ValueError(f"day_rows_against_median must hold a ratio up to 1 and one from 1 on: {[low, high]}")
        return self


class Pseudonyms(Strict):
    """Which environment variable holds the key of the pseudonyms."""

    key_variable: str = Field(pattern=r"^[A-Z][A-Z0-9_]*$")
