"""From source rows to accepted events, refused rows and counts. Nothing is lost: the three add up to the rows read."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence, Set

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as f

from features import tables
from features.pseudonyms import encrypted, pseudonym, with_key, without_key
from features.repeats import ACCEPTED, DUPLICATE, REJECTED
from features.settings import Events, Source
from features.source import SourceRows
from features.table_files import TableFile

REFUSED = ["reasons", "user_id", "event_id", "original", "ingested_at"]
"""What is kept of a refused row."""

MALFORMED_LINE = "malformed_line"
_BLANK = " \t\r\n"
# A cast alone takes more than people mean: 12d and 0x1p3 as numbers, 10:30 as a time of the day on which it is read.
_NUMBER = r"(?i)^\s*[+-]?([\d.]+(e[+-]?\d+)?|nan|inf(inity)?)\s*$"
_NO_DATE = r"^\s*T?\d{1,2}:"


@dataclasses.dataclass(frozen=True)
class IngestSpec:
    """What ingest depends on beside the data."""

    source: Source
    events: Events

    @property
    def table(self) -> tables.Table:
        """The `events` table of these settings."""
        return tables.events({name: a.type for name, a in self.source.attributes.items()})

    @property
    def content(self) -> list[str]:
        """The columns that make two rows of one event id the same event."""
        return ["user_id", "event_time", "event_type", "amount", "clipped_at", *self.source.attributes]


def check(spark: SparkSession, rows: DataFrame, spec: IngestSpec, key: bytes, now: dt.datetime) -> DataFrame:
    """Each query row with the `reasons` to refuse it, the columns of `events`, and its `original` as JSON.

    Args:
        spark: the session.
        rows: rows of the source query.
        spec: settings.
        key: pseudonym key.
        now: the run's clock, aware; becomes `ingested_at`.
    """
    typed = _typed(with_key(spark, rows, key), spec)
    checked = without_key(typed.withColumn("reasons", _reasons(spec, now)).withColumns(_pseudonyms()))
    return _prepared(checked.withColumn("original", _original(rows.columns)), spec, now)


def near(known: Sequence[TableFile], dates: Set[dt.date], days: int) -> list[TableFile]:
    """The files of known events among which repeats are looked for: of the rows' `dates`, and `days` before the newest.

    An equal repeat has the date of the first, so all of them are found.
    """
    since = max(dates, default=dt.date.max) - dt.timedelta(days=days)
    return [file for file in known if file.date in dates or file.date >= since]


def _typed(rows: DataFrame, spec: IngestSpec) -> DataFrame:
    """Cast what the source gave, into columns beside it; what cannot be cast is null and found by `_reasons`."""
    text, time = f.col("amount").cast("string"), f.col("event_time").cast("string")
    columns = {
        "_user": plain_id("user_id"),
        "_id": plain_id("event_id"),
        "_time": f.when(~time.rlike(_NO_DATE), f.col("event_time").try_cast("timestamp")),
        "_money": f.when(text.rlike(_NUMBER), text.try_cast("double")),
        # -0.0 becomes 0; decimal(38, 6) holds far more than any bound allows.
        "_decimal": f.col("amount").try_cast("decimal(38,6)"),
    }
    for name, attribute in spec.source.attributes.items():
        columns[f"_{name}"] = _number(f.col(name)) if attribute.type == "numeric" else f.col(name).cast("string")
    return rows.withColumns(columns)


def plain_id(column: str) -> Column:
    """An id as text without blanks around it: what its pseudonym is made of."""
    return f.trim(f.col(column).cast("string"), f.lit(_BLANK))


def _number(value: Column) -> Column:
    """A numeric attribute as a finite double, else null."""
    number = value.try_cast("double")
    return f.when(value.cast("string").rlike(_NUMBER) & (f.abs(number) < float("inf")), number)


def _reasons(spec: IngestSpec, now: dt.datetime) -> Column:
    latest = f.lit(now + dt.timedelta(minutes=spec.events.future_tolerance_minutes))
    given, money = f.col("amount").isNotNull(), f.col("_money")
    finite = f.abs(money) < float("inf")
    bound = float(spec.events.largest_amount)
    conditions = {
        "missing_user": f.coalesce(f.col("_user"), f.lit("")) == "",
        "missing_event_id": f.coalesce(f.col("_id"), f.lit("")) == "",
        "missing_time": f.col("event_time").isNull(),
        "unparseable_time": f.col("event_time").isNotNull() & f.col("_time").isNull(),
        "time_in_future": f.col("_time") > latest,
        "unknown_event_type": ~f.coalesce(f.col("event_type").isin(spec.events.types), f.lit(False)),
        "purchase_without_amount": (f.col("event_type") == spec.events.purchase_type) & ~given,
        "unparseable_amount": given & money.isNull(),
        "non_finite_amount": given & ~finite,
        "negative_amount": finite & (money < 0),
    }
    if spec.events.outliers == "reject":
        conditions["amount_beyond_bound"] = finite & (money > bound)
    return f.array_compact(f.array(*[f.when(condition, name) for name, condition in conditions.items()]))


def _original(columns: list[str]) -> Column:
    """The row as the source gave it, as JSON, with its ids pseudonymised."""
    hidden = {"user_id": f.col("_user"), "event_id": f.col("_id")}
    return f.to_json(f.struct(*[hidden.get(c, f.col(c)).alias(c) for c in columns]))


def _pseudonyms() -> dict[str, Column]:
    return {
        "_user": f.when(f.col("_user") != "", pseudonym(f.col("_user"))),
        "_id": f.when(f.col("_id") != "", pseudonym(f.col("_id"))),
    }


def _prepared(rows: DataFrame, spec: IngestSpec, now: dt.datetime) -> DataFrame:
    bound = f.lit(spec.events.largest_amount)
    beyond = f.col("_decimal").isNull() | (f.col("_decimal") > bound)
    clipped = (f.size("reasons") == 0) & f.col("amount").isNotNull() & beyond
    prepared = rows.select(
        f.col("_id").alias("event_id"),
        f.col("_user").alias("user_id"),
        f.col("_time").alias("event_time"),
        "event_type",
        f.when(clipped, bound).otherwise(f.col("_decimal")).try_cast(tables.MONEY.simpleString()).alias("amount"),
        f.when(clipped, bound).cast(tables.MONEY).alias("clipped_at"),
        *[f.col(f"_{name}").alias(name) for name in spec.source.attributes],
        f.lit(now).alias("ingested_at"),
        f.to_date("_time").alias("event_date"),
        "reasons",
        "original",
    )
    # The hash passes over nulls, so which columns are null is hashed too: a value must not move unseen.
    content = [column for c in spec.content for column in (f.col(c), f.col(c).isNull())]
    return prepared.withColumn("content_hash", f.xxhash64(*content))


def refused_lines(spark: SparkSession, malformed: DataFrame, key: bytes, now: dt.datetime) -> DataFrame:
    """Malformed source lines as rows of `events_rejected`, encrypted because nobody knows where the id stands."""
    rows = with_key(spark, malformed, key)
    return without_key(
        rows.select(
            "*",
            f.array(f.lit(MALFORMED_LINE)).alias("reasons"),
            f.lit(None).cast("string").alias("user_id"),
            f.lit(None).cast("string").alias("event_id"),
            encrypted(f.col("line")).alias("original"),
            pseudonym(f.col("line")).alias("_content"),
            f.lit(now).alias("ingested_at"),
        )
    ).drop("line")


def rejections(refused: DataFrame, lines: DataFrame) -> DataFrame:
    """All refused rows as rows of `events_rejected`.

    A row's identity is its content and how many times the same content came before it: rows that are equal are all
    kept, and the same input read again yields the same identities.

    Args:
        refused: columns of `REFUSED`.
        lines: of `refused_lines`.
    """
    columns = ["source", *REFUSED, "_content"]
    rows = refused.withColumns({"source": f.lit("query"), "_content": f.col("original")})
    together = rows.select(columns).unionByName(lines.select(columns))
    nth = f.row_number().over(Window.partitionBy("source", "_content").orderBy("reasons"))
    identity = f.sha2(f.concat_ws("|", "source", f.array_join("reasons", ","), "_content", nth.cast("string")), 256)
    return together.withColumn("rejection_id", f.substring(identity, 1, 32)).drop("_content")


Counts = Mapping[tuple[str, str | None, dt.date | None], int]
"""Rows by status, type and date, see `features.repeats.counts`."""


def by_status(counts: Counts, lines: int) -> dict[str, int]:
    """Rows by status; malformed lines are rejected rows. Always has all three statuses."""
    found = dict.fromkeys((ACCEPTED, REJECTED, DUPLICATE), 0)
    for (status, _, _), rows in counts.items():
        if status in found:
            found[status] += rows
    found[REJECTED] += lines
    return found


def by_date(counts: Counts) -> dict[dt.date, int]:
    """Accepted events by date."""
    found: dict[dt.date, int] = {}
    for (_, _, day), rows in counts.items():
        if day is not None:
            found[day] = found.get(day, 0) + rows
    return found


def by_type(counts: Counts) -> dict[str, int]:
    """Accepted events by type, named `accepted.TYPE`."""
    found: dict[str, int] = {}
    for (_, kind, _), rows in counts.items():
        if kind is not None:
            found[f"accepted.{kind}"] = found.get(f"accepted.{kind}", 0) + rows
    return found


def by_source(source: SourceRows) -> dict[str, int]:
    """Rows of each source table, named `source.TABLE`."""
    return {f"source.{name}": rows.count() for name, rows in source.tables.items()}
