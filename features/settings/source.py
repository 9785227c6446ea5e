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
"""Column names that ingest and sequences use themselves."""


class SourceTable(Strict):
    """An input table of the source: files of a format, or a table of Spark's catalogue."""

    format: Literal["parquet", "csv", "json", "delta", "table"] = Field(
        description="file format; `table` is a table of Spark's catalogue"
    )
    uri: str = Field(
        min_length=1,
        description="path or URI of the files, package:NAME/PATH for data in a Python package, or the catalogue name",
    )
    options: dict[str, str] = Field(default_factory=dict, description="options of Spark's reader for this format")
    columns: str | None = Field(None, description="names and types of the columns as DDL, required for csv and json")
    date_column: str | None = Field(
        None, description="timestamp or date column that bounds on dates filter, so that fewer rows are read"
    )

    @model_validator(mode="after")
    def _text_needs_columns(self) -> SourceTable:
        if self.format in ("csv", "json") and not self.columns:
            raise ValueError(f"a {self.format} table needs `columns`, such as 'id STRING, paid_at STRING'")
        return self


class Attribute(Strict):
    """A column that events have beside the fixed ones."""

    type: Literal["numeric", "categorical"] = Field(description="whether values are numbers or words")
    sequence: bool = Field(True, description="whether the attribute enters the sequences")


class Source(Strict):
    """Where events come from."""

    tables: dict[Name, SourceTable] = Field(min_length=1, description="input tables by the names the query uses")
    query: str = Field(
        min_length=1,
        description="Spark SQL over the tables that yields event_id, user_id, event_time, event_type, amount and the "
        "attributes",
    )
    attributes: dict[Name, Attribute] = Field(default_factory=dict, description="further columns of the query by name")

    @model_validator(mode="after")
    def _no_shadowing(self) -> Source:
        taken = [a for a in self.attributes if a in (*EVENT_COLUMNS, *_RESERVED)]
        if taken:
            raise ValueError(f"attributes {taken} have the names of event columns; rename them in the query")
        return self


class Groups(Strict):
    """Which groups members belong to: for evaluation only, never a feature."""

    tables: dict[Name, SourceTable] = Field(min_length=1, description="input tables by the names the query uses")
    query: str = Field(min_length=1, description="Spark SQL over the tables that yields user_id and the attributes")
    attributes: list[Name] = Field(min_length=1, description="columns of the query by which members are grouped")

    @model_validator(mode="after")
    def _attributes_are_named_once(self) -> Groups:
        twice = sorted({a for a in self.attributes if self.attributes.count(a) > 1 or a == "user_id"})
        if twice:
            raise ValueError(f"attributes {twice} stand more than once, or are the user")
        return self


class Events(Strict):
    """What counts as a valid event."""

    types: list[Name] = Field(min_length=1, description="every event type that is accepted")
    purchase_type: Name = Field(description="event type whose amounts count as spend, one of `types`")
    future_tolerance_minutes: int = Field(
        ge=0, description="minutes that an event's time may lie ahead of the clock before the event is rejected"
    )
    largest_amount: Decimal = Field(
        gt=0, le=Decimal(10) ** 9, description="largest amount of one event, in the source's currency"
    )
    outliers: Literal["reject", "clip"] = Field(
        description="whether an event above `largest_amount` is rejected, or its amount cut to the bound"
    )
    repeats_within_days: int | None = Field(
        None, ge=0, description="days back in which an earlier event of the same id is looked for; unset: no limit"
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

    largest_rejected_share: Share | None = Field(
        None, description="largest share of a batch's rows that may be rejected"
    )
    day_rows_against_median: tuple[float, float] | None = Field(
        None, description="smallest and largest ratio of a day's rows to the median of the days before it"
    )
    median_days: Positive = Field(description="days before a day over which the median is taken")
    freshest_event_days: Positive | None = Field(None, description="days that the newest event may be old")

    @model_validator(mode="after")
    def _ratios_in_order(self) -> Quality:
        low, high = self.day_rows_against_median or (0, 1)
        if not 0 <= low <= 1 <= high:
            raise ValueError(f"day_rows_against_median must hold a ratio up to 1 and one from 1 on: {[low, high]}")
        return self


class Pseudonyms(Strict):
    """Where the key of the pseudonyms comes from."""

    key_variable: str = Field(
        pattern=r"^[A-Z][A-Z0-9_]*$", description="environment variable that holds the key; the key is in no file"
    )
