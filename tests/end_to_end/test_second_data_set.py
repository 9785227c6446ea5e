"""A data set through YAML alone: CSV with its own columns, four tiers by points and purchases, from file to scores."""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import json
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from features.core.errors import DateError, UserError
from features.storage import delta_tables
from jobs import build_sequences, cross_validate, evaluate_model, explain_scores, score_users
from jobs.running.job import Job, Run
from jobs.running.settings import Settings
from jobs.steps.members import members, sequences_of
from jobs.steps.scores import Scoring, score
from tests.data import programme
from training.bundles.bundle_folder import read_manifest
from training.judging.drift import PREDICTED_TIER, feature_names

TIERS = ["bronze", "silver", "gold", "platinum"]


@pytest.fixture(scope="module")
def done(spark: SparkSession, scored_programme: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The whole job from source to scores, and the evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIERCAST_PSEUDONYM_KEY", programme.KEY)
        chosen = programme.copy_of(scored_programme, tmp_path_factory.mktemp("programme") / "store")
        evaluate_model.run(programme.job(spark, chosen))
    return chosen


def table(done: Settings, name: str) -> pa.Table:
    return DeltaTable(done.storage.table(name)).to_pyarrow_table()


def folds_job(spark: SparkSession, done: Settings, count: int | None = None, **evaluation: object) -> Job:
    changed = done.model_copy(update={"evaluation": done.evaluation.model_copy(update=evaluation)})
    return dataclasses.replace(programme.job(spark, changed), options=argparse.Namespace(folds=count))


def test_folds_are_evaluated_with_all_rivals_and_nothing_is_published(spark: SparkSession, done: Settings) -> None:
    latest = (Path(done.storage.models) / "latest.json").read_bytes()
    with programme.one_rank():
        cross_validate.run(folds_job(spark, done))
    assert (Path(done.storage.models) / "latest.json").read_bytes() == latest
    trained = [r for r in table(done, "runs").sort_by("started_at").to_pylist() if r["job"] == "train_model"][-2:]
    assert [(r["as_of_date"], r["status"]) for r in trained] == [
        (done.training.validation_as_of, "unchanged"),  # the first fold is the training that was there
        (dt.date(2024, 3, 8), "written"),
    ]
    manifest = read_manifest(done.storage.models, trained[1]["model_version"])
    assert manifest.training_dates == (dt.date(2024, 2, 23), dt.date(2024, 3, 8))
    assert manifest.candidate is not None
    assert manifest.verdict is None
    evaluations = table(done, "evaluations").to_pylist()
    of_fold = {e["model"]: e for e in evaluations if e["model_version"] == manifest.version}
    assert set(of_fold) == {"hybrid", "majority", "stays", "markov", "logistic", "forest", "lightgbm"}
    assert {e["as_of_date"] for e in of_fold.values()} == {dt.date(2024, 4, 8)}
    rows = {(r["model"], r["figure"]): r for r in table(done, "cross_validations").to_pylist()}
    both = [e["logloss"] for e in evaluations if e["model"] == "markov"]
    found = rows["markov", "logloss"]
    assert (found["folds"], found["mean"]) == (2, pytest.approx(np.mean(both)))
    assert found["difference_low"] < found["difference_high"]
    assert found["evaluated_as_of"] == [done.evaluation.as_of, dt.date(2024, 4, 8)]
    page = (Path(done.storage.reports) / f"folds-{done.evaluation.as_of}.md").read_text()
    assert "bg_nbd could not be fitted: the tier rule measures points" in page


def test_bad_input_folds_that_the_dates_do_not_allow(spark: SparkSession, done: Settings) -> None:
    before = table(done, "runs").num_rows
    with pytest.raises(DateError, match="4 folds, 1w apart, are more than the training dates allow"):
        cross_validate.run(folds_job(spark, done, 4))
    with pytest.raises(DateError, match="would look into the future"):
        cross_validate.run(folds_job(spark, done, as_of=done.evaluation.as_of - dt.timedelta(days=9)))
    assert table(done, "runs").num_rows == before
    with pytest.raises(DateError, match="the horizon of 2024-05-13 has not passed"):
        cross_validate.run(folds_job(spark, done, as_of=programme.SCORED))
    jobs = {r["job"] for r in table(done, "runs").sort_by("started_at").to_pylist()[before:]}
    assert "train_model" not in jobs


def test_every_row_is_accounted_for(done: Settings) -> None:
    runs = table(done, "runs").to_pylist()
    ingest = next(dict(r["counts"]) for r in runs if (r["job"], r["status"]) == ("ingest_events", "written"))
    assert ingest["accepted"] + ingest["rejected"] + ingest["duplicate"] == ingest["rows_read"]
    assert ingest["rows_read"] == ingest["source.orders"] + ingest["source.visits"]
    assert table(done, "events").num_rows == ingest["accepted"] > 0


def test_scores_have_one_row_per_user_known_before_the_date(done: Settings) -> None:
    scores, events = table(done, "scores"), table(done, "events")
    for date in (done.evaluation.as_of, programme.SCORED):
        known = {e["user_id"] for e in events.select(["user_id", "event_date"]).to_pylist() if e["event_date"] < date}
        scored = [s["user_id"] for s in scores.select(["user_id", "as_of_date"]).to_pylist() if s["as_of_date"] == date]
        assert sorted(scored) == sorted(known)


def test_members_are_scored_the_same_from_sequences_or_from_events(spark: SparkSession, done: Settings) -> None:
    date = programme.SCORED - dt.timedelta(days=3)
    job = programme.job(spark, done, date)
    score_users.run(job)
    of_date = pa.compute.field("as_of_date") == date
    assert table(done, "sequences").filter(of_date).num_rows == 0
    found = table(done, "scores").filter(of_date)
    build_sequences.run(job)
    record = Run("score_users", date)
    known, _ = members(job, sequences_of(job, date), record)
    assert known.count == table(done, "sequences").filter(of_date).num_rows == found.num_rows > 0
    assert set(record.versions) == {"sequences"}
    manifest = read_manifest(done.storage.models, "latest")
    again = score(spark, Scoring(known, manifest, done.storage.models, done.scoring)).toArrow()
    columns = [c for c in again.column_names if c != "as_of_date"]
    assert again.select(columns).sort_by("user_id").to_pylist() == found.select(columns).sort_by("user_id").to_pylist()


def test_targets_are_recorded_learned_and_scored(spark: SparkSession, done: Settings) -> None:
    date, outcomes = done.evaluation.as_of, table(done, "outcomes").to_pandas()
    of_date = outcomes[outcomes["as_of_date"] == date].set_index("user_id").sort_index()
    events = table(done, "events").to_pandas()
    inside = events[(events["event_date"] >= date) & (events["event_date"] < date + dt.timedelta(days=30))]
    assert (of_date["outcome_inactive"] == ~of_date.index.isin(inside["user_id"])).all()
    then = date + dt.timedelta(days=10)
    build_sequences.run(programme.job(spark, done, then))
    sequences = table(done, "sequences").filter(pa.compute.field("as_of_date") == then).to_pandas().set_index("user_id")
    assert (of_date["outcome_tier_rank_10d"] == sequences["current_tier_rank"].loc[of_date.index]).all()
    assert {"validation_loss_tier_10d", "validation_loss_inactive"} <= set(
        read_manifest(done.storage.models, "latest").metrics
    )
    scores = table(done, "scores").to_pandas()
    np.testing.assert_allclose(scores[[f"p_{tier}_10d" for tier in TIERS]].sum(axis=1), 1, atol=1e-9)
    assert scores["p_inactive"].between(0, 1).all()
    assert (scores["expected_value"] >= 0).all()


def test_invariant_4_probabilities(done: Settings) -> None:
    scores = table(done, "scores")
    p = np.stack([scores[f"p_{t}"].to_numpy() for t in TIERS], axis=1)
    current = np.array([TIERS.index(t) for t in scores["current_tier"].to_pylist()])
    assert ((p >= 0) & (p <= 1)).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    stays = p[np.arange(len(p)), current]
    up, down = scores["p_upgrade"].to_numpy(), scores["p_downgrade"].to_numpy()
    np.testing.assert_allclose(up + down + stays, 1, atol=1e-6)
    assert (up[current == 3] == 0).all()
    assert (down[current == 0] == 0).all()
    margin = scores["next_tier_margin"].to_pylist()
    for row, (rank, found) in enumerate(zip(current, margin, strict=True)):
        if rank == 3:
            assert found is None
        else:
            assert found == pytest.approx(p[row, rank + 1] - p[row, rank], abs=1e-12)


def test_current_tier_follows_points_and_purchases(done: Settings) -> None:
    """An independent count in DuckDB over the CSV files: the share of members per tier is the same."""
    orders = done.source.tables["orders"].uri
    date = done.evaluation.as_of
    counted = duckdb.sql(f"""
        WITH measures AS (
            SELECT customer, sum(CAST(total AS DECIMAL(18, 2)) * CASE WHEN channel = 'app' THEN 2 ELSE 1 END) AS points,
                   count(*) AS purchases
            FROM read_csv('{orders}', types = {{'placed_at': 'TIMESTAMPTZ'}})
            WHERE placed_at >= TIMESTAMPTZ '{date} 00:00:00+00' - INTERVAL {done.tiers.window_days} DAY
              AND placed_at < TIMESTAMPTZ '{date} 00:00:00+00'
            GROUP BY customer
        )
        SELECT CASE WHEN points >= 1200 AND purchases >= 10 THEN 'platinum' WHEN points >= 500 AND purchases >= 6
               THEN 'gold' WHEN points >= 200 AND purchases >= 3 THEN 'silver' ELSE 'bronze' END AS tier, count(*) AS n
        FROM measures GROUP BY ALL
    """).fetchall()
    expected = {**dict.fromkeys(TIERS, 0), **dict(counted)}
    scores = table(done, "scores").filter(pa.compute.field("as_of_date") == date)
    found = {t: scores["current_tier"].to_pylist().count(t) for t in TIERS}
    expected["bronze"] += scores.num_rows - sum(expected.values())  # members without an order in the window
    assert found == expected


def test_every_reader_sees_the_same_scores(spark: SparkSession, done: Settings) -> None:
    uri = done.storage.table("scores")
    columns = [c for c in DeltaTable(uri).schema().to_arrow().names if c != "scored_at"]
    order = [("as_of_date", "ascending"), ("user_id", "ascending")]
    by_spark = delta_tables.read(spark, uri).select(columns).toArrow().sort_by(order).to_pylist()
    by_delta_rs = DeltaTable(uri).to_pyarrow_table(columns=columns).sort_by(order).to_pylist()
    by_polars = pl.read_delta(uri).select(columns).sort("as_of_date", "user_id").to_dicts()
    dataset = DeltaTable(uri).to_pyarrow_dataset()  # noqa: F841 (DuckDB finds it by name)
    by_duckdb = duckdb.sql(f"SELECT {', '.join(columns)} FROM dataset").to_arrow_table().sort_by(order).to_pylist()
    assert by_delta_rs == by_spark
    assert by_polars == by_spark
    assert by_duckdb == by_spark


def test_scores_are_described_and_stay_at_reader_version_1(done: Settings) -> None:
    published = DeltaTable(done.storage.table("scores"))
    assert published.protocol().min_reader_version == 1
    assert all(field.metadata.get("comment") for field in published.schema().fields)


def test_invariant_7_a_rerun_makes_no_new_commit(spark: SparkSession, done: Settings) -> None:
    names = ("events", "user_days", "sequences", "outcomes", "scores", "tiers")
    before = {n: delta_tables.version(spark, done.storage.table(n)) for n in names}
    bundles = sorted(p.name for p in Path(done.storage.models).iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIERCAST_PSEUDONYM_KEY", programme.KEY)
        programme.run_all(spark, done)
    assert {n: delta_tables.version(spark, done.storage.table(n)) for n in names} == before
    assert sorted(p.name for p in Path(done.storage.models).iterdir()) == bundles


def test_no_raw_id_lies_anywhere_under_the_root(done: Settings) -> None:
    """Text files as they are, parquet files through their string values, nested ones too."""
    for path in Path(done.storage.root).rglob("*"):
        if path.suffix == ".parquet":
            content = str(pq.read_table(path, partitioning=None).to_pylist())
        elif path.is_file():
            content = path.read_bytes().decode("latin-1")
        else:
            continue
        assert "member0" not in content, path


def test_the_report_is_self_contained(done: Settings) -> None:
    page = (Path(done.storage.reports) / f"{done.evaluation.as_of}.html").read_text()
    assert "platinum" in page
    assert 'src="http' not in page


def test_evaluations_hold_the_model_beside_its_baselines(done: Settings) -> None:
    models = ["forest", "hybrid", "lightgbm", "logistic", "majority", "markov", "stays"]
    of_date = pa.compute.field("as_of_date") == done.evaluation.as_of
    assert sorted(table(done, "evaluations").filter(of_date)["model"].to_pylist()) == models


def test_drift_of_every_scored_date_is_kept(done: Settings) -> None:
    rows = table(done, "drift").to_pandas()
    for date in (done.evaluation.as_of, programme.SCORED):
        found = rows[rows["as_of_date"] == date]
        assert sorted(found["feature"]) == sorted([*feature_names(done.contract), PREDICTED_TIER])
    tenure = rows[rows["feature"] == "tenure_days"].set_index("as_of_date")
    assert tenure["distance"][programme.SCORED] > tenure["distance"][done.evaluation.as_of] > 0.5
    (run,) = (
        r
        for r in table(done, "runs").to_pylist()
        if (r["job"], r["as_of_date"], r["status"]) == ("score_users", programme.SCORED, "written")
    )
    assert dict(run["counts"])["drifted_features"] == (found["level"] == "warning").sum() > 0
    assert "tenure_days" in run["message"]


def test_groups_are_compared_on_the_evaluated_date(done: Settings) -> None:
    rows = table(done, "fairness").to_pandas()
    assert set(rows["attribute"]) == {"region"}
    of_groups = rows[rows["group"].notna()]
    assert set(of_groups["group"]) == set(programme.REGIONS)
    assert (of_groups["low"] <= of_groups["value"]).all()
    assert (of_groups["value"] <= of_groups["high"]).all()
    accuracy = of_groups[of_groups["measure"] == "accuracy"]
    assert 90 < accuracy["members"].sum() <= 0.9 * programme.MEMBERS
    differences = rows[rows["group"].isna()].set_index("measure")["value"]
    assert differences["accuracy"] == pytest.approx(accuracy["value"].max() - accuracy["value"].min())
    page = (Path(done.storage.reports) / f"{done.evaluation.as_of}.html").read_text()
    assert "members served alike" in page
    assert "Are these still the members it was trained on?" in page


def test_reasons_of_every_scored_member_add_up(spark: SparkSession, done: Settings) -> None:
    date = programme.SCORED
    explain_scores.run(programme.job(spark, done, date))
    of_date = pa.compute.field("as_of_date") == date
    reasons = table(done, "score_reasons").filter(of_date).to_pandas()
    scores = table(done, "scores").filter(pa.compute.field("as_of_date") == date).to_pandas().set_index("user_id")
    assert set(reasons["user_id"]) == set(scores.index)
    for target, column in (("upgrade", "p_upgrade"), ("downgrade", "p_downgrade")):
        of = reasons[(reasons["target"] == target) & (reasons["rank"] == 1)].set_index("user_id")
        able = scores["current_tier"] != (TIERS[-1] if target == "upgrade" else TIERS[0])
        assert set(of.index) == set(scores.index[able])
        np.testing.assert_allclose(of["probability"], scores.loc[of.index, column], atol=1e-5)
        gap = np.maximum((of["probability"] - of["average_probability"]).abs(), 0.005)
        assert (of["unexplained"].abs() <= 0.02 * gap + 1e-9).all()
    page = (Path(done.storage.reports) / f"{date}.html").read_text()
    assert "Why members move" in page
    assert "Members as examples" in page
    assert "Lost without it" not in page  # nobody knows the outcomes
    assert not any(user in page for user in scores.index)
    version = delta_tables.version(spark, done.storage.table("score_reasons"))
    explain_scores.run(programme.job(spark, done, date))
    assert delta_tables.version(spark, done.storage.table("score_reasons")) == version

    some = programme.job(spark, done, date)
    some.options.where = "current_tier = 'bronze'"
    explain_scores.run(some)
    assert set(table(done, "score_reasons").filter(of_date)["user_id"].to_pylist()) == set(
        scores.index[scores["current_tier"] == "bronze"]
    )


@pytest.mark.parametrize(
    ("date", "where", "said"),
    [
        (dt.date(2024, 5, 3), None, "no scores as of 2024-05-03 to explain: run score_users"),
        (programme.SCORED, "user_id = 'nobody'", "no member scored as of 2024-05-20 meets --where"),
        (programme.SCORED, "p_upgrad > 1", "p_upgrad"),
    ],
)
def test_bad_input_an_explanation_of_what_is_not_scored(
    spark: SparkSession, done: Settings, date: dt.date, where: str | None, said: str
) -> None:
    job = programme.job(spark, done, date)
    job.options.where = where
    with pytest.raises(UserError, match=said) as caught:
        explain_scores.run(job)
    assert caught.value.exit_code == 2


def test_bad_input_an_explanation_of_other_sequences_than_were_scored(spark: SparkSession, done: Settings) -> None:
    date = programme.SCORED - dt.timedelta(days=9)
    job = programme.job(spark, done, date)
    score_users.run(job)
    with pytest.raises(UserError, match=f"there are no sequences as of {date} to explain: run build_sequences"):
        explain_scores.run(job)
    shorter = done.model_copy(update={"sequence": done.sequence.model_copy(update={"length": 40})})
    build_sequences.run(programme.job(spark, shorter, date))
    with pytest.raises(UserError, match=f"the sequences as of {date} are not those that were scored"):
        explain_scores.run(job)


def test_the_evaluated_page_tells_reasons_and_what_is_lost_without_them(done: Settings) -> None:
    reports = Path(done.storage.reports)
    found = json.loads((reports / f"{done.evaluation.as_of}.json").read_text())
    assert len(found["reasons"]) > 10
    assert all(len(reason["losses"]) == done.explanation.repeats for reason in found["reasons"])
    assert [standing["tier"] for standing in found["by_current_tier"]][:2] == TIERS[:2]
    page = (reports / f"{done.evaluation.as_of}.html").read_text()
    assert "Lost without it" in page
    assert "Members now in bronze" in page
