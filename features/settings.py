"""Typed settings of ingest, tiers, windows, sequences, quality and storage, as they stand in the YAML files.

Each model rejects unknown keys. Cross-checks raise ValueError with a message for the person who edits the YAML;
`jobs.settings` gathers all of them before Spark starts.
"""

from __future__ import annotations

import itertools
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from features.contract import TARGET, Contract, tier_days
from features.tiers import MEASURES, MICROS, TierRule, decimal_to_steps

NAME = r"^[a-z][a-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Days = Annotated[int, Field(ge=1, le=36_500)]

EVENT_COLUMNS = ("event_id", "user_id", "event_time", "event_type", "amount")
"""Columns that every source query yields; attributes come on top."""

_RESERVED = ("age", "clipped_at", "content_hash", "event_date", "ingested_at", "original", "reasons", "status")
"""What ingest and sequences call their own columns."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceTable(_Strict):
    """A named input: a path with a format, or a catalogue table."""

    format: Literal["parquet", "csv", "json", "delta", "table"]
    uri: str = Field(min_length=1, description="path or URI; for `table` a catalogue name; package:NAME/PATH too")
    options: dict[str, str] = {}
    columns: str | None = Field(None, description="DDL of the columns, required for csv and json")
    date_column: str | None = Field(None, description="timestamp or date column on which date bounds are pushed down")

    @model_validator(mode="after")
    def _text_needs_columns(self) -> SourceTable:
        if self.format in ("csv", "json") and not self.columns:
            raise ValueError(f"a {self.format} table needs `columns`, such as 'id STRING, paid_at STRING'")
        return self


class Attribute(_Strict):
    """A further column of an event."""

    type: Literal["numeric", "categorical"]
    sequence: bool = Field(True, description="whether the attribute enters the sequences")


class Source(_Strict):
    """Where events come from."""

    tables: dict[Name, SourceTable] = Field(min_length=1)
    query: str = Field(min_length=1, description="Spark SQL over the tables that yields the event columns")
    attributes: dict[Name, Attribute] = {}

    @model_validator(mode="after")
    def _no_shadowing(self) -> Source:
        taken = [a for a in self.attributes if a in (*EVENT_COLUMNS, *_RESERVED)]
        if taken:
            raise ValueError(f"attributes {taken} have the names of event columns; rename them in the query")
        return self


class Groups(_Strict):
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


class TierLevel(_Strict):
    """One tier; the first has no thresholds."""

    name: Name
    from_: dict[Literal["spend", "purchases", "points"], Decimal] = Field({}, alias="from")
    benefits: list[str] = []


class Tiers(_Strict):
    """The tier rule and what each tier gives its members."""

    window_days: Days
    combine: Literal["all_of", "any_of"] = "all_of"
    points: str | None = Field(None, description="SQL expression over an event that gives its points")
    levels: list[TierLevel] = Field(min_length=2)

    @model_validator(mode="after")
    def _levels_make_a_rule(self) -> Tiers:
        problems = [*self._name_problems(), *self._threshold_problems()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _name_problems(self) -> list[str]:
        names = [level.name for level in self.levels]
        problems = [f"tier name {n!r} stands more than once" for n in sorted({n for n in names if names.count(n) > 1})]
        # p_upgrade and p_downgrade of `scores` are no tiers.
        return problems + [f"a tier cannot be named {n!r}" for n in names if n in ("upgrade", "downgrade")]

    def _threshold_problems(self) -> list[str]:
        first, *others = self.levels
        problems = [f"the first tier {first.name!r} takes every member: remove its `from`"] if first.from_ else []
        measures = set(others[0].from_)
        if not measures:
            return [*problems, f"tier {others[0].name!r} needs thresholds, such as `from: {{spend: 250}}`"]
        if "points" in measures and not self.points:
            problems.append("a threshold on points needs `points`, an SQL expression over the event")
        for level in others:
            if set(level.from_) != measures:
                problems.append(f"tier {level.name!r} has thresholds on {sorted(level.from_)}, not {sorted(measures)}")
        for measure in MEASURES:
            limits = [(level.name, level.from_[measure]) for level in others if measure in level.from_]
            problems += self._order_problems(measure, limits)
        return problems

    @staticmethod
    def _order_problems(measure: str, limits: list[tuple[str, Decimal]]) -> list[str]:
        problems = []
        for name, limit in limits:
            try:
                decimal_to_steps(measure, limit)
            except ValueError as error:
                problems.append(f"tier {name!r}: {error}")
        if limits and limits[0][1] <= 0:
            problems.append(f"tier {limits[0][0]!r}: {measure} from {limits[0][1]} must be above 0")
        for (below, low), (above, high) in itertools.pairwise(limits):
            if high <= low:
                problems.append(
                    f"thresholds must increase: {measure} from {high} of {above!r} is not above {low} of {below!r}"
                )
        return problems

    def rule(self) -> TierRule:
        """The rule that these settings describe."""
        others = self.levels[1:]
        measures = [m for m in MEASURES if m in others[0].from_]
        return TierRule(
            names=tuple(level.name for level in self.levels),
            window_days=self.window_days,
            combination=self.combine,
            thresholds={m: tuple(decimal_to_steps(m, level.from_[m]) for level in others) for m in measures},
            points=self.points if "points" in measures else None,
        )


class Events(_Strict):
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


class Quality(_Strict):
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


class Sequence(_Strict):
    """Length and size of the work of the sequences."""

    length: Positive = Field(le=4096, description="L, the last events kept of each user")
    rows_per_range: Positive = Field(description="events that one task holds at once, about; memory follows it")
    dates_per_pass: Positive = Field(description="as-of dates that are answered by one reading of the events")
    keep_days: Positive | None = Field(
        None, description="compact drops sequences this much older than its date; they are built anew when asked for"
    )


class Features(_Strict):
    """The aggregates of each user."""

    windows_days: list[Days] = Field(min_length=1)

    @model_validator(mode="after")
    def _increasing(self) -> Features:
        if self.windows_days != sorted(set(self.windows_days)):
            raise ValueError(f"windows_days must increase, without repetitions: {self.windows_days}")
        return self


class Horizon(_Strict):
    """The window that starts at the as-of date and whose tier is forecast, and what else becomes of the members."""

    days: Days
    targets: tuple[Annotated[str, Field(pattern=TARGET)], ...] = Field(
        (), description="what outcomes say beside: `tier_30d`, the tier after 30 days; `inactive`"
    )

    @model_validator(mode="after")
    def _targets_within_the_horizon(self) -> Horizon:
        twice = sorted({name for name in self.targets if self.targets.count(name) > 1})
        late = [name for name in self.targets if (tier_days(name) or 0) >= self.days]
        if twice:
            raise ValueError(f"targets {twice} are named twice")
        if late:
            raise ValueError(
                f"targets {late} lie not before the horizon of {self.days} days: outcomes wait for it alone"
            )
        return self


class Storage(_Strict):
    """Where tables, models and reports live."""

    root: str = Field(min_length=1, description="URI or path: file:, s3a:, hdfs:, abfss:")

    @property
    def base(self) -> str:
        """The root as a URI or absolute path: Delta takes no relative one."""
        has_scheme = re.match(r"^[a-z][a-z0-9+.-]+:", self.root)
        return (self.root if has_scheme else str(Path(self.root).absolute())).rstrip("/")

    def table(self, name: str) -> str:
        """URI of a Delta table."""
        return f"{self.base}/tables/{name}"

    @property
    def models(self) -> str:
        """URI under which bundles lie."""
        return f"{self.base}/models"

    @property
    def pretrained(self) -> str:
        """URI under which bundles of pretrained encoders lie."""
        return f"{self.base}/pretrained"

    @property
    def reports(self) -> str:
        """URI under which reports lie."""
        return f"{self.base}/reports"

    @property
    def staging(self) -> str:
        """URI of what training stages and keeps for a restart."""
        return f"{self.base}/staging"


class Pseudonyms(_Strict):
    """Which environment variable holds the key of the pseudonyms."""

    key_variable: str = Field(pattern=r"^[A-Z][A-Z0-9_]*$")


class SparkSession(_Strict):
    """The session's own options."""

    master: str | None = Field(None, description="unset under spark-submit")
    app_name: str
    options: dict[str, str | int | bool] = {}


def contract_of(
    source: Source,
    tiers: Tiers,
    sequence: Sequence,
    horizon: Horizon,
    known_by: str,
    aggregates: tuple[str, ...],
) -> Contract:
    """The contract that these settings ask of the `sequences` table."""
    chosen = {name: a.type for name, a in source.attributes.items() if a.sequence}
    return Contract(
        length=sequence.length,
        numeric=("amount", *(n for n, t in chosen.items() if t == "numeric")),
        categorical=("event_type", *(n for n, t in chosen.items() if t == "categorical")),
        aggregates=aggregates,
        tiers=tuple(level.name for level in tiers.levels),
        tier_rule=tiers.rule().canonical(),
        horizon_days=horizon.days,
        known_by=known_by,
    )
