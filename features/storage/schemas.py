"""The schemas of all tables. A field's comment is also Delta's column comment and stands in docs/tables.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
from pyspark.sql import types as t
from pyspark.sql.pandas.types import to_arrow_schema

from features.core.contract import AGE, Contract, array_column, outcome_column, score_columns, tier_days

MONEY = t.DecimalType(18, 6)
TOTAL = t.DecimalType(28, 6)


@dataclasses.dataclass(frozen=True)
class Table:
    """A Delta table.

    Attributes:
        name: the table's name.
        row: what one row is, in words.
        fields: columns with their comments.
        partitioned_by: partition columns.
        properties: Delta's table properties.
        optional: pattern of whole column names that a table may lack, and gets when they are wanted. If they are no
            longer wanted they stay, null in new rows.
    """

    name: str
    row: str
    fields: tuple[t.StructField, ...]
    partitioned_by: tuple[str, ...] = ()
    properties: Mapping[str, str] = dataclasses.field(default_factory=dict)
    optional: str | None = None

    @property
    def schema(self) -> t.StructType:
        """The fields as a Spark schema."""
        return t.StructType(list(self.fields))

    def part(self, names: Sequence[str]) -> t.StructType:
        """Some of the fields as a Spark schema."""
        return t.StructType([self.schema[name] for name in names])

    @property
    def arrow_schema(self) -> pa.Schema:
        """The fields as an Arrow schema, as the files hold them."""
        return to_arrow_schema(self.schema, timezone="UTC")

    @property
    def columns(self) -> list[str]:
        """The field names, in order."""
        return [f.name for f in self.fields]


ORDER_PROPERTY = "tiercast.order"
"""Table property that promises in which order each file's rows are."""

EVENT_ORDER = "user_id, event_time, event_id"
"""The total order. Events of one instant are ordered by their ids, so the order of the input does not matter."""

_SMALL_ROW_GROUPS = {"parquet.block.size": str(1 << 20)}
"""Row groups of a megabyte: a range of members then decodes few rows of other members."""


def field(name: str, kind: t.DataType, comment: str, nullable: bool = True) -> t.StructField:
    """A column with the comment that Delta keeps."""
    return t.StructField(name, kind, nullable, {"comment": comment})


EVENT_TIMES, DAYS = "event_us", "days"
"""Array columns of `snapshots`: the exact times of the last events, and all days with events."""


def day_column(column: str) -> str:
    """The array column of `snapshots` that holds a rollup column for each of `DAYS`."""
    return f"day_{column}"


def _words(name: str) -> str:
    return name.replace("_", " ")


_USER = field("user_id", t.StringType(), "keyed pseudonym of the member (HMAC-SHA256, first 128 bits, hexadecimal)")
_AS_OF = field("as_of_date", t.DateType(), "as-of date: knowledge ends before this date's midnight UTC")
_INPUTS = field("inputs_id", t.StringType(), "fingerprint of inputs and settings; equal means nothing to do")


def events(attributes: Mapping[str, str]) -> Table:
    """Accepted events; `attributes` maps names to `numeric` or `categorical`."""
    kinds = {"numeric": t.DoubleType(), "categorical": t.StringType()}
    return Table(
        "events",
        "one accepted behaviour event",
        (
            field("event_id", t.StringType(), "keyed pseudonym of the source's event id; unique"),
            _USER,
            field("event_time", t.TimestampType(), "when it happened, UTC"),
            field("event_type", t.StringType(), "kind of behaviour, one of the configured types"),
            field("amount", MONEY, "money of the event, null where the type has none"),
            field("clipped_at", MONEY, "outlier bound that the amount was cut to, null where it was not"),
            *(field(name, kinds[kind], f"{kind} attribute of the source") for name, kind in attributes.items()),
            field(
                "content_hash", t.LongType(), "xxhash64 of the content; it differs between conflicting events of one id"
            ),
            field("ingested_at", t.TimestampType(), "when the event arrived here, UTC"),
            field("event_date", t.DateType(), "UTC date of event_time"),
        ),
        ("event_date",),
        {ORDER_PROPERTY: EVENT_ORDER, **_SMALL_ROW_GROUPS},
    )


EVENTS_REJECTED = Table(
    "events_rejected",
    "one refused source row",
    (
        field("rejection_id", t.StringType(), "identity of the refused row; a repeated ingest adds none"),
        field("source", t.StringType(), "`query`, or the source table of a malformed line"),
        field("reasons", t.ArrayType(t.StringType()), "every reason that applies"),
        field("user_id", t.StringType(), "keyed pseudonym of the member, null where unknown"),
        field("event_id", t.StringType(), "keyed pseudonym of the event id, null where unknown"),
        field("original", t.StringType(), "the row as JSON with ids pseudonymised; a malformed line AES-GCM encrypted"),
        field("ingested_at", t.TimestampType(), "when the row was refused, UTC"),
    ),
)


def user_days(event_types: Sequence[str]) -> Table:
    """The rollup: a member's events of a day, summed."""
    return Table(
        "user_days",
        "a member's day, split by the date on which its events arrived",
        (
            _USER,
            field("arrival_date", t.DateType(), "UTC date on which these events arrived"),
            field("events", t.LongType(), "events of the day"),
            *(field(f"events_{e}", t.LongType(), f"{e} events of the day") for e in event_types),
            field("spend", TOTAL, "sum of the purchase amounts"),
            field("points", TOTAL, "sum of the rule's points, 0 without such a rule"),
            field("largest_amount", MONEY, "largest purchase amount, null without a purchase"),
            field("squared_amount", t.DecimalType(38, 12), "sum of the squared purchase amounts"),
            field("first_event_time", t.TimestampType(), "first event of the day, UTC"),
            field("last_event_time", t.TimestampType(), "last event of the day, UTC"),
            field("last_purchase_time", t.TimestampType(), "last purchase of the day, UTC, null without one"),
            field("day", t.DateType(), "UTC date of the events"),
        ),
        ("day",),
        _SMALL_ROW_GROUPS,
    )


_STANDING = (
    field("current_tier", t.StringType(), "tier by the rule over the window that ends at the as-of date"),
    field("next_tier", t.StringType(), "the tier above the current one, null at the top"),
    field("gap_to_next_tier", TOTAL, "what is missing to the next tier, in units of gap_measure; null at the top"),
    field("gap_measure", t.StringType(), "measure of the gap: spend, purchases or points; null at the top"),
)


def _channels(contract: Contract) -> Iterator[t.StructField]:
    """The arrays of the contract's channels."""
    for kind, channels in ((t.FloatType(), contract.numeric), (t.StringType(), contract.categorical)):
        for c in channels:
            yield field(array_column(c), t.ArrayType(kind), f"{c} of each event, null where it has none")


def sequences(contract: Contract, aggregates: Mapping[str, str]) -> Table:
    """A member at an as-of date: the last events as parallel arrays, aggregates, tier and gap."""
    tier, *others = _STANDING
    return Table(
        "sequences",
        "a member at an as-of date: the last events as parallel arrays, oldest first, and window aggregates",
        (
            _USER,
            field("length", t.IntegerType(), "events in the arrays"),
            field("total_events", t.LongType(), "events of the member before the as-of date"),
            field("truncated", t.BooleanType(), f"whether the member has more than {contract.length} events"),
            field("contract_id", t.StringType(), "contract that arrays and aggregates follow"),
            _INPUTS,  # Delta keeps statistics of the first columns only
            tier,
            field("current_tier_rank", t.IntegerType(), "rank of the current tier, 0 for the lowest"),
            *others,
            field(AGE, t.ArrayType(t.LongType()), "whole seconds from each event to the as-of instant"),
            *_channels(contract),
            *(field(name, t.DoubleType(), comment) for name, comment in aggregates.items()),
            _AS_OF,
        ),
        ("as_of_date",),
    )


def snapshots(contract: Contract, figures: Sequence[str], of_days: Sequence[str]) -> Table:
    """A member's last events and exact figures at a date, from which later as-of dates are built."""
    return Table(
        "snapshots",
        "a member at a date: what later as-of dates are built from, see `features/building/snapshots.py`",
        (
            _USER,
            field("inputs_id", t.StringType(), "versions of events and user_days that the row was made from"),
            *(field(name, t.LongType(), f"{_words(name)}, exact, in micro-units where money") for name in figures),
            field(EVENT_TIMES, t.ArrayType(t.LongType()), "time of each of the last events, microseconds since 1970"),
            *_channels(contract),
            field(DAYS, t.ArrayType(t.IntegerType()), "every day with events, days since 1970"),
            *(field(day_column(c), t.ArrayType(t.LongType()), f"{_words(c)} of each day") for c in of_days),
            _AS_OF,
        ),
        ("as_of_date",),
    )


def outcomes(targets: Sequence[str] = ()) -> Table:
    """What became of a member after an as-of date; `targets` are those of `horizon.targets`."""

    def of_target(name: str) -> t.StructField:
        days = tier_days(name)
        if days is None:
            return field(outcome_column(name), t.BooleanType(), "whether the outcome window has no event")
        return field(outcome_column(name), t.IntegerType(), f"rank of the tier {days} days after the as-of date")

    return Table(
        "outcomes",
        "a member at an as-of date whose horizon has fully passed",
        (
            _USER,
            field("horizon_end", t.DateType(), "the outcome window ends before this date's midnight UTC"),
            field("outcome_value", TOTAL, "spend in the outcome window"),
            field("outcome_tier", t.StringType(), "tier by the rule over the outcome window"),
            field("outcome_tier_rank", t.IntegerType(), "rank of the outcome tier"),
            *(of_target(name) for name in targets),
            _INPUTS,
            _AS_OF,
        ),
        ("as_of_date",),
        optional=r"outcome_(inactive|tier_rank_\d+d)",
    )


def scores(tiers: Sequence[str], outputs: Sequence[str] = ()) -> Table:
    """A member's tier probabilities at an as-of date; for further `outputs` of the network see `score_columns`."""
    tier, next_tier, gap, measure = _STANDING
    further = {c: text for output in outputs for c, text in score_columns(output, tiers).items()}
    return Table(
        "scores",
        "a member's forecast at an as-of date",
        (
            _USER,
            tier,
            field("predicted_tier", t.StringType(), "the most probable outcome tier"),
            *(field(f"p_{k}", t.DoubleType(), f"probability that the outcome tier is {k}") for k in tiers),
            field("p_upgrade", t.DoubleType(), "probability of a tier above the current one"),
            field("p_downgrade", t.DoubleType(), "probability of a tier below the current one"),
            field("next_tier_margin", t.DoubleType(), "P(next tier) - P(current tier), a margin; null at the top"),
            next_tier,
            gap,
            measure,
            field("sequence_length", t.IntegerType(), "events that the forecast could see one by one"),
            field("truncated", t.BooleanType(), "whether older events were left out of the sequence"),
            *(field(name, t.DoubleType(), text) for name, text in further.items()),
            field("model_version", t.StringType(), "bundle that made the forecast"),
            field("scored_at", t.TimestampType(), "when the forecast was made, UTC"),
            _INPUTS,
            _AS_OF,
        ),
        ("as_of_date",),
        optional=r"expected_value|p_inactive|p_.+_\d+d",
    )


TIERS = Table(
    "tiers",
    "a tier",
    (
        field("rank", t.IntegerType(), "0 for the lowest tier"),
        field("tier", t.StringType(), "name, as in scores"),
        field("rule", t.StringType(), "the tier's condition in words"),
        field("benefits", t.StringType(), "what the tier gives its members, separated by semicolons"),
    ),
)

EMBEDDINGS = Table(
    "embeddings",
    "a member's last events before an as-of date as one vector, made without any outcome",
    (
        _USER,
        field("embedding", t.ArrayType(t.FloatType()), "vector of length 1: the nearer two, the more alike the events"),
        field("version", t.StringType(), "pretrained encoder that made it; vectors of two encoders cannot be compared"),
        _INPUTS,
        _AS_OF,
    ),
    ("as_of_date",),
)

SCORE_REASONS = Table(
    "score_reasons",
    "one reason of a member's chance to move up or down",
    (
        _USER,
        field("target", t.StringType(), "`upgrade` or `downgrade`"),
        field("rank", t.IntegerType(), "1 for the strongest reason of this member and target"),
        field("reason", t.StringType(), "reason code: an aggregate over all its windows, or events of a type"),
        field("wording", t.StringType(), "the reason as people read it, from the settings"),
        field("contribution", t.DoubleType(), "what it adds to the probability, against an average member of the tier"),
        field("probability", t.DoubleType(), "the member's probability of the target, as in scores"),
        field("average_probability", t.DoubleType(), "that of the average member it is compared with"),
        field(
            "unexplained",
            t.DoubleType(),
            "what all reasons together, kept or not, leave unexplained of the difference of the two",
        ),
        field("model_version", t.StringType(), "bundle that gave the scores"),
        _INPUTS,
        _AS_OF,
    ),
    ("as_of_date",),
)

EVALUATIONS = Table(
    "evaluations",
    "the figures of a model or baseline on one as-of date",
    (
        field("model_version", t.StringType(), "bundle that was evaluated"),
        field("model", t.StringType(), "the network's name, or the baseline's"),
        field("rows", t.LongType(), "members evaluated"),
        field("accuracy", t.DoubleType(), "share of members whose most probable tier came true"),
        field("macro_f1", t.DoubleType(), "mean over tiers of the F1 score"),
        field("logloss", t.DoubleType(), "mean of minus the natural logarithm of the outcome's probability"),
        field("quadratic_weighted_kappa", t.DoubleType(), "agreement beyond chance, quadratic weights"),
        field("brier", t.DoubleType(), "mean over members of the squared error summed over tiers"),
        field("calibration_error", t.DoubleType(), "expected calibration error over equal-mass bins"),
        field("upgrade_auc", t.DoubleType(), "area under the ROC curve of p_upgrade among those who can upgrade"),
        field("downgrade_auc", t.DoubleType(), "area under the ROC curve of p_downgrade among those who can"),
        field("details", t.StringType(), "every figure as JSON, with intervals of the network's minus this one's"),
        field("evaluated_at", t.TimestampType(), "when, UTC"),
        _AS_OF,
    ),
    ("as_of_date",),
)

CROSS_VALIDATIONS = Table(
    "cross_validations",
    "a figure of the network or a rival over the rolling folds of a cross-validation",
    (
        field("model_version", t.StringType(), "bundle of the newest fold"),
        field("model", t.StringType(), "`network`, or the name of a baseline or challenger"),
        field("figure", t.StringType(), "name of the figure, as in `evaluations`"),
        field("folds", t.IntegerType(), "folds of the cross-validation"),
        field("evaluated_as_of", t.ArrayType(t.DateType()), "evaluated as-of date of each fold, newest first"),
        field("folds_with_figure", t.IntegerType(), "folds that have the figure: a challenger may fail in some"),
        field("mean", t.DoubleType(), "mean over these folds"),
        field("deviation", t.DoubleType(), "standard deviation of a sample over these folds, null with one"),
        field("least", t.DoubleType(), "least of these folds"),
        field("greatest", t.DoubleType(), "greatest of these folds"),
        field("difference_low", t.DoubleType(), "lower end of the 95 % interval of the network's mean minus this one"),
        field("difference_high", t.DoubleType(), "upper end; both null for the network, and without a bootstrap"),
        field("evaluated_at", t.TimestampType(), "when, UTC"),
        _AS_OF,
    ),
    ("as_of_date",),
)

DRIFT = Table(
    "drift",
    "how far one feature of the members scored at a date is from the model's training rows",
    (
        field("model_version", t.StringType(), "bundle that scored"),
        field("feature", t.StringType(), "an aggregate, a mean over the member's events, or the predicted tier"),
        field("psi", t.DoubleType(), "population stability index over bins of equally many training rows"),
        field("distance", t.DoubleType(), "Wasserstein distance in standard deviations of the training rows"),
        field(
            "chance", t.DoubleType(), "value of the index that 999 of 1000 samples stay below if nothing has changed"
        ),
        field("level", t.StringType(), "`steady`, `warning`, `refusal`, or `expected` by the settings"),
        field("run_id", t.StringType(), "run that measured it; a date that is scored again has the rows of both runs"),
        field("measured_at", t.TimestampType(), "when, UTC"),
        _AS_OF,
    ),
    ("as_of_date",),
)

FAIRNESS = Table(
    "fairness",
    "a figure of a group of members on an evaluated date, or the largest difference between groups",
    (
        field("model_version", t.StringType(), "bundle that was evaluated"),
        field("attribute", t.StringType(), "by which members are grouped"),
        field("group", t.StringType(), "the group; null: the difference between the highest and the lowest group"),
        field("measure", t.StringType(), "`selection_rate`, `upgrade_recall`, `accuracy` or `calibration_gap`"),
        field("members", t.LongType(), "evaluated members of the group; groups that are too small have no row"),
        field("value", t.DoubleType(), "the figure, or the difference"),
        field("low", t.DoubleType(), "lower end of the figure's 95 % interval"),
        field("high", t.DoubleType(), "upper end of the figure's 95 % interval"),
        field("chance", t.DoubleType(), "the difference that 95 of 100 divisions at random stay below"),
        field("level", t.StringType(), "of a difference: `even`, `warning` or `refusal`"),
        field("evaluated_at", t.TimestampType(), "when, UTC"),
        _AS_OF,
    ),
    ("as_of_date",),
)

RUNS = Table(
    "runs",
    "a job run for an as-of date",
    (
        field("run_id", t.StringType(), "random identity of the run, also in the commits it made"),
        field("job", t.StringType(), "name of the job"),
        field("as_of_date", t.DateType(), "as-of date of the run, null where it has none"),
        field(
            "status",
            t.StringType(),
            "`written`, `unchanged`, `failed`, or `refused`: a model was not published, or groups are not served alike",
        ),
        field("message", t.StringType(), "the error of a failed run, the reasons of a refusal, or a warning"),
        field("started_at", t.TimestampType(), "UTC"),
        field("seconds", t.DoubleType(), "wall-clock duration"),
        field("versions", t.MapType(t.StringType(), t.LongType()), "Delta version of each table read or written"),
        field("counts", t.MapType(t.StringType(), t.LongType()), "row counts, reconciled"),
        field("model_version", t.StringType(), "bundle trained, evaluated or used"),
        field("settings_hash", t.StringType(), "hash of the whole settings"),
    ),
)


def empty_rows(table: Table) -> pa.Table:
    """The table without rows."""
    return table.arrow_schema.empty_table()
