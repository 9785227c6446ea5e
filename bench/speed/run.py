"""Compares the speed of Tiercast with other engines and writes docs/results/benchmarks.md and its picture.

    make bench              # events, users and days can be set: python -m bench.speed.run --help

Outputs are checked for equality before they are timed. Every figure is the median of several warm runs in turns.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from bench import tables
from bench.speed import aggregates, days, events, ingest, scoring, sequences, training
from bench.speed.days import Days
from bench.speed.events import Programme
from bench.speed.measure import Cost, alternate
from bench.speed.page import Section, picture
from features.building import range_tasks, rollup
from features.building.pass_plan import SEQUENCES, Output, Pass
from features.spark import workers
from features.spark.session import open_session
from features.storage import commits, delta_tables, schemas, table_log
from features.storage.file_writer import AddedFile
from features.storage.table_log import TableFile
from jobs.steps.members import Members
from training.bundles.manifest import Manifest
from training.fitting.ranks import QUIET_TENSORFLOW
from training.inputs import column_names

LENGTH, RUNS, DATES, ROWS_PER_RANGE = 128, 3, 30, 1_250_000
PACKAGES = ("pyspark", "delta-spark", "deltalake", "pyarrow", "numpy", "polars", "duckdb", "tensorflow-cpu", "keras")
SPARK: dict[str, str | int | bool] = {
    "spark.driver.memory": "8g",
    "spark.ui.enabled": False,
    "spark.ui.showConsoleProgress": False,
    "spark.databricks.delta.snapshotPartitions": 2,
    "spark.sql.shuffle.partitions": 16,
}


class Bench:
    """Made-up tables under a folder, and what is measured on them."""

    def __init__(self, spark: SparkSession, folder: Path, programme: Programme) -> None:
        self.spark, self.folder, self.programme, self.spec = spark, folder, programme, scoring.spec(LENGTH)
        name = f"{programme.events}-{programme.users}-{programme.days}"
        self.root = folder / name
        self.events, self.days = f"{self.root}/tables/events", f"{self.root}/tables/user_days"
        if not (self.root / "complete").exists():
            shutil.rmtree(self.root, ignore_errors=True)
            events.write(spark, programme, str(self.root))
            table = schemas.user_days(self.spec.aggregates.event_types)
            delta_tables.ensure(spark, self.days, table)
            files = table_log.active_files(self.events, delta_tables.version(spark, self.events))
            added = self.rolled_up(files)
            commits.commit_files(self.days, table, "bench", 0, sorted({f.date for f in files}), added)
            (self.root / "complete").touch()
        self.event_files = table_log.active_files(self.events, delta_tables.version(spark, self.events))
        self.day_files = table_log.active_files(self.days, delta_tables.version(spark, self.days))

    def rolled_up(self, files: list[TableFile]) -> list[AddedFile]:
        """The rollup of all days, written and not committed."""
        return rollup.build(self.spark, files, self.events, self.days, self.spec.aggregates, ROWS_PER_RANGE)

    def out(self, name: str) -> str:
        """Path of an output."""
        return str(self.folder / "out" / name)

    def arrays(self) -> dict[str, Cost]:
        """Costs of the arrays alone, by engine; outputs are compared first."""
        # Ties that a way does not break keep the order of the files: late events come last on their date.
        files = [f.uri for f in sorted(self.event_files, key=lambda f: (f.date, -f.rows))]
        as_of = self.programme.as_of
        ways: dict[str, Callable[[str], None]] = {
            "Tiercast": lambda out: sequences.tiercast(
                self.spark, self.event_files, out, as_of, LENGTH, ROWS_PER_RANGE
            ),
            "Spark collect_list": lambda out: sequences.spark_collect_list(self.spark, self.events, out, as_of, LENGTH),
            "Polars eager": lambda out: sequences.polars_eager(files, out, as_of, LENGTH),
            "Polars streaming": lambda out: sequences.polars_streaming(files, out, as_of, LENGTH),
            "Polars by time alone": lambda out: sequences.polars_by_time(files, out, as_of, LENGTH),
            "DuckDB": lambda out: sequences.duckdb_lists(files, out, as_of, LENGTH),
        }
        calls = {name: self._bound(way, self.out(name.replace(" ", "_"))) for name, way in ways.items()}
        wanted: pa.Table | None = None
        for name, call in calls.items():
            call()
            rows = sequences.rows_of(self.out(name.replace(" ", "_")))
            wanted = rows if wanted is None else wanted
            if not rows.combine_chunks().equals(wanted.combine_chunks()):
                raise AssertionError(f"{name} gives other rows")
        return alternate(calls, RUNS, warm=0)

    @staticmethod
    def _bound(way: Callable[[str], None], out: str) -> Callable[[], None]:
        return lambda: way(out)

    def whole(self) -> dict[str, Cost]:
        """Costs of arrays, aggregates and current tier of one date, by engine; outputs are compared first."""
        files, as_of = [f.uri for f in self.event_files], self.programme.as_of
        mine, by_spark, by_polars = (self.out(n) for n in ("dates", "whole_spark", "whole_polars"))
        calls: dict[str, Callable[[], object]] = {
            "Tiercast": lambda: self._pass([as_of]),
            "Spark SQL": lambda: aggregates.spark_sql(self.spark, self.events, by_spark, as_of, self.spec),
            "Polars eager": lambda: aggregates.polars(files, by_polars, as_of, self.spec),
        }
        for call in calls.values():
            call()
        for other in (by_spark, by_polars):
            aggregates.check_equal(mine, other, self.spec)
        return alternate(
            {**calls, "Tiercast, from events to rollup": lambda: self.rolled_up(self.event_files)}, RUNS, 0
        )

    def ingests(self, rows: int, form: str) -> dict[str, Cost]:
        """Costs of checking and writing source rows of a format, by engine; counts are compared first."""
        source = ingest.write_source(self.folder, rows, form)
        mine, by_duckdb, by_polars = (self.out(n) for n in ("ingest", "ingest_duckdb", "ingest_polars"))
        calls: dict[str, Callable[[], dict[str, int]]] = {
            "Tiercast": lambda: ingest.tiercast(self.spark, source, form, mine),
            "DuckDB": lambda: ingest.duckdb_checks(source, form, by_duckdb),
            "Polars": lambda: ingest.polars_checks(source, form, by_polars),
        }
        counts = {name: call() for name, call in calls.items()}
        if any(count != counts["Tiercast"] for count in counts.values()):
            raise AssertionError(f"the statuses differ: {counts}")
        return alternate(calls, RUNS, warm=0)

    def dates(self) -> dict[str, Cost]:
        """Costs of one date, and of many in one pass."""
        few, many = ([self.programme.as_of - dt.timedelta(days=n) for n in range(count)] for count in (1, DATES))
        calls: dict[str, Callable[[], object]] = {
            "one date": lambda: self._pass(few),
            f"{DATES} dates": lambda: self._pass(many),
            "one date, not written": lambda: self._unwritten(few),
            f"{DATES} dates, not written": lambda: self._unwritten(many),
        }
        return alternate(calls, RUNS)

    def _unwritten(self, dates: list[dt.date]) -> int:
        """Number of rows of the dates, which are built and dropped."""
        work = self._work(dates)
        ranges = range_tasks.ranges_of_users(work, ROWS_PER_RANGE, self.spark.sparkContext.defaultParallelism)

        def counted(portion: int) -> Iterator[int]:
            yield sum(rows.num_rows for _, rows in range_tasks.rows_of_range(work, ranges[portion]))

        return sum(workers.found(self.spark, len(ranges), counted))

    def _pass(self, dates: list[dt.date]) -> list[AddedFile]:
        work = self._work(dates)
        return [f for files in range_tasks.build(self.spark, work, ROWS_PER_RANGE).values() for f in files]

    def _work(self, dates: list[dt.date]) -> Pass:
        outputs = [Output(SEQUENCES, sequences.emptied(self.out("dates")), d, "bench") for d in dates]
        return Pass(self.event_files, self.day_files, True, outputs, self.spec, 90)

    def scores(self, users: int) -> dict[str, dict[str, Cost]]:
        """Costs of scoring by network: the job, the bare network on tensors made before, and what users would write."""
        as_of, models, contract = self.programme.as_of, self.out("models"), self.spec.contract
        files = scoring.sampled(self._pass([as_of]), users, sequences.emptied(self.out("users")), as_of)
        at_once = self.spark.sparkContext.defaultParallelism
        members = Members.stored(files, as_of, contract, scoring.SETTINGS.rows_per_range, at_once)
        frame = self.spark.read.parquet(self.out("users"))
        ready = (
            frame.select(*column_names.required_columns(contract)).toArrow().cast(column_names.input_schema(contract))
        )
        shutil.rmtree(models, ignore_errors=True)
        found = {}
        for name in ("hybrid", "cnn"):
            manifest = scoring.bundle_of(models, name, contract, scoring.sample(frame, contract, 5000))
            self._check_scores(members, frame, manifest, models)
            pq.write_table(scoring.padded_columns(ready, manifest), self.out("padded.parquet"), row_group_size=20_000)
            padded = self.spark.read.parquet(self.out("padded.parquet")).repartition(8)
            padded.write.mode("overwrite").parquet(self.out("padded"))
            padded = self.spark.read.parquet(self.out("padded"))
            bare = scoring.BareLoop(ready, models, manifest.version, self.spark.sparkContext.defaultParallelism)
            bare()
            calls: dict[str, Callable[[], object]] = {
                "Tiercast": partial(scoring.written, self.spark, members, manifest, models, self.out("scores")),
                "the network alone": bare,
                "pandas_udf, np.pad, model.predict": self._scored(scoring.by_user, frame, manifest, models),
                "predict_batch_udf on padded columns": self._scored(scoring.by_batch, padded, manifest, models),
            }
            found[f"{name}, {len(ready):,} users"] = alternate(calls, RUNS)
            bare.stop()
        return found

    def trainings(self, users: int) -> str:
        """The training feed and the ranks, as two tables."""
        as_of, contract, folder = self.programme.as_of, self.spec.contract, sequences.emptied(self.out("training"))
        dates, place = [as_of - dt.timedelta(days=30), as_of], f"{folder}/sequences"
        files = self._pass(dates)
        for date in dates:
            scoring.sampled([f for f in files if f.partition["as_of_date"] == str(date)], users, place, date)
        frame = self.spark.read.parquet(place)
        feed = training.feed_seconds(frame, contract, dates, folder)
        ranks = training.ranks_speed(self.spark, frame, contract, dates, folder)
        base, one = feed["tensors that lie ready"], ranks[training.ONE_RANK]
        sources = [[name, f"{s * 1000:.1f}", f"{s / base:.2f}"] for name, s in feed.items()]
        speeds = [[name, f"{rows:,.0f}", f"{rows / one:.2f}"] for name, rows in ranks.items()]
        return "\n".join(
            [
                "## Training hybrid: where a step's tensors come from",
                "",
                "One rank on one core, 256 rows a step; the feed's thread shares the core. The rows fit into what a",
                "rank keeps, so the first epoch alone reads them; it is left out. Batches by length, but for rows",
                "given one by one, which are padded to the full width.",
                "",
                tables.markdown(["tensors", "ms a step", "times as long"], sources),
                "",
                "## Training hybrid: ranks, and batches by length",
                "",
                f"Whole trainings by Horovod on Spark, {users:,} members, rows a second after the first epoch. One",
                "rank is kept to one core, with its feed and all of Spark.",
                "",
                tables.markdown(["ranks and batches", "rows a second", "times as fast"], speeds),
                "",
            ]
        )

    def _check_scores(self, members: Members, frame: DataFrame, manifest: Manifest, models: str) -> None:
        theirs = scoring.by_user(self.spark, frame.limit(2000), manifest, models).toPandas().set_index("user_id")
        mine = scoring.tiercast(self.spark, members, manifest, models).toPandas().set_index("user_id")
        own = mine.loc[theirs.index, [f"p_{t}" for t in manifest.contract.tiers]].to_numpy()
        if np.abs(own - np.stack(theirs["p"].to_list())).max() > 1e-6:
            raise AssertionError(f"{manifest.version}: the two ways give other probabilities")

    def _scored(self, way: Callable[..., DataFrame], *arguments: object) -> Callable[[], None]:
        return lambda: scoring.consumed(way(self.spark, *arguments))


def made_of(programme: Programme) -> str:
    """Size of the events in words."""
    return f"{programme.events:,} events of {programme.users:,} users over {programme.days} days"


def sections(bench: Bench, day: Days, rows: int, users: int) -> Iterator[Section]:
    """Everything that is compared by cost."""
    equal = "All ways give equal rows, compared before they are timed."
    yield Section(f"The last {LENGTH} events of each user, Delta to table", bench.arrays(), "Tiercast", equal)
    yield Section(
        "With all aggregates and the current tier, as the job does it",
        bench.whole(),
        "Tiercast",
        "Tiercast reads the rollup, which it keeps day by day; making all of it anew is the last line. "
        f"The others start from events and leave `{aggregates.LEFT_OUT}` out.",
    )
    yield Section(
        "Many dates in one pass",
        bench.dates(),
        "one date",
        f"One pass over events and rollup; {DATES} dates include the writing of {DATES} times the rows.",
    )
    yield Section(
        "One more day",
        day.measured(),
        days.READY,
        f"{made_of(day.programme)}, by the jobs, medians of {day.last_days} days, "
        f"{days.TURNS} turns of scoring each; what is from all events, once. "
        "A date can be scored when the day's rollup stands; scoring counts its commit and report.",
    )
    for form in ("parquet", "csv"):
        note = "The same checks and repeats; Tiercast also compares with the table and keeps counts. "
        note += "DuckDB hashes ids once in place of HMAC's two, Polars not at all. Equal counts of each status."
        yield Section(f"Ingest of {rows:,} rows of {form}", bench.ingests(rows, form), "Tiercast", note)
    for name, costs in bench.scores(users).items():
        note = "From parquet; Tiercast writes its scores as the job does, the others drop theirs. "
        note += "Probabilities are equal within 1e-6."
        yield Section(f"Scoring with {name}", costs, "Tiercast", note)


def text(programme: Programme, found: Sequence[Section], trainings: str, shown: str) -> str:
    """The whole document; `shown` is the picture's file."""
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}"
    head = [
        "# Benchmarks",
        "",
        f"Written by `make bench` on {dt.datetime.now(dt.UTC).date()}: {machine}.",
        f"{made_of(programme)}; bots, late events, ties.",
        f"Medians of {RUNS} warm runs in turns, start-up left out; CPU of all processes. Engines in this process",
        "share its peak.",
        "",
        ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "",
        f"![How many times as long each way takes]({shown})",
        "",
    ]
    return "\n".join([*head, *(section.text() for section in found), trainings])


def main() -> None:
    """Make what is missing, measure, write the page."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--events", type=int, default=5_000_000)
    options.add_argument("--users", type=int, default=240_000)
    options.add_argument("--days", type=int, default=91)
    options.add_argument("--history", type=int, default=365, help="days of the history to which one more is added")
    options.add_argument("--ingested", type=int, default=1_000_000, help="source rows to ingest")
    options.add_argument("--scored", type=int, default=60_000, help="users to score")
    options.add_argument("--trained", type=int, default=24_000, help="users to train on")
    options.add_argument("--folder", type=Path, default=Path("build/bench"))
    options.add_argument("--page", type=Path, default=Path("docs/results/benchmarks.md"))
    chosen = options.parse_args()
    os.environ.update(QUIET_TENSORFLOW)
    spark = open_session("tiercast bench", "local[*]", SPARK)
    bench = Bench(spark, chosen.folder.absolute(), Programme(chosen.events, chosen.users, chosen.days))
    day = Days(spark, chosen.folder.absolute(), Programme(chosen.events, chosen.users, chosen.history), last_days=RUNS)
    found = []
    for section in sections(bench, day, chosen.ingested, chosen.scored):
        print(section.text(), flush=True)  # a run that is stopped has shown what it measured
        found.append(section)
    shown = chosen.page.with_suffix(".png")
    picture(found).savefig(shown, dpi=120)
    chosen.page.write_text(text(bench.programme, found, bench.trainings(chosen.trained), shown.name), encoding="utf-8")
    spark.stop()


if __name__ == "__main__":
    main()
