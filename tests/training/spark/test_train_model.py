"""Horovod ranks on Spark's executors: equal weights, one against two ranks, failing and killed ranks."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from features.core.errors import BundleError, RankFailedError
from tests.data.training_examples import CONTRACT, DATES, JUDGING, SMALL, example_tables, plan, settings
from training.bundles.bundle_folder import LATEST, read_manifest
from training.fitting import checkpoint
from training.fitting.loop import train
from training.fitting.plan import Plan
from training.judging.calibration import Calibration
from training.judging.drift import PREDICTED_TIER, feature_names
from training.models.settings import ModelSettings
from training.spark import training_run, verdicts
from training.spark.rank_processes import RankOutput, run_ranks
from training.spark.train_model import train_model
from training.spark.training_run import Trained, TrainingData, TrainingFolders
from training.spark.verdicts import Judging

pytest.importorskip("horovod.spark")


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank trains here, the same training without a start of Horovod, where what follows it is tested."""
    monkeypatch.setattr(training_run, "run_ranks", lambda _spark, plan, _progress: train(plan))


def _weights(made: Plan) -> list[np.ndarray]:
    found = checkpoint.load(made.checkpoint_uri, made.key)
    assert found is not None
    return list(found.model)


def _rank_processes() -> list[psutil.Process]:
    """Rank processes that this test session has started."""
    found = []
    for process in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if "horovod.spark.task.gloo_exec_fn" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue  # it has just ended
    return found


def _no_rank_is_left() -> bool:
    deadline = time.monotonic() + 20
    while _rank_processes() and time.monotonic() < deadline:
        time.sleep(0.2)
    return not _rank_processes()


def test_invariant_8_two_ranks_with_half_the_batch_match_one_rank(spark: SparkSession, tmp_path: Path) -> None:
    """Invariant 8: 20 steps of 32 rows without dropout; ranks end with identical weights."""
    one, two = plan(tmp_path / "one", ranks=1), plan(tmp_path / "two", ranks=2)
    alone, together = train(one), run_ranks(spark, two)
    assert alone["largest_difference"] == together["largest_difference"] == 0.0
    assert len(together["history"]) == 4
    for mine, theirs in zip(_weights(one), _weights(two), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)
    assert together["validation_loss"] == pytest.approx(alone["validation_loss"], abs=1e-4)
    assert _no_rank_is_left()


def test_two_ranks_train_an_ensemble_of_transformers_as_one_rank_does(spark: SparkSession, tmp_path: Path) -> None:
    small = ModelSettings(name="transformer", parameters=SMALL["transformer"] | {"layers": 1})
    one, two = (
        dataclasses.replace(plan(tmp_path / f"{n}", "transformer", ranks=n, ensemble=2, epochs=1), model=small)
        for n in (1, 2)
    )
    alone, together = train(one), run_ranks(spark, two)
    assert together["largest_difference"] == 0.0
    assert together["validation_loss"] == pytest.approx(alone["validation_loss"], abs=1e-4)
    for number in (0, 1):
        for mine, theirs in zip(_weights(one.of_network(number)), _weights(two.of_network(number)), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-4)


def test_two_ranks_learn_from_a_teacher_as_one_rank_does(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences, outcomes = (spark.createDataFrame(table) for table in example_tables())
    chosen = ModelSettings(name="hybrid", parameters=SMALL["hybrid"])
    found = []
    for ranks in (1, 2):
        models, staging = f"file:{tmp_path}/{ranks}/models", f"file:{tmp_path}/{ranks}/staging"
        taught = settings(epochs=2, ranks=ranks, teacher_weight=0.5)
        data, folders = TrainingData(sequences, outcomes, CONTRACT, {}), TrainingFolders(models, staging)
        with monkeypatch.context() as here:
            if ranks == 1:
                here.setattr(training_run, "run_ranks", lambda _spark, plan, _progress: train(plan))
            made = train_model(spark, data, chosen, taught, JUDGING, folders, False)
        assert not list((tmp_path / str(ranks) / "staging" / "trainings").iterdir())
        found.append(made.manifest.metrics)
    assert found[1]["validation_loss"] == pytest.approx(found[0]["validation_loss"], abs=1e-4)
    assert found[1]["largest_difference"] == 0


def test_a_finished_training_is_found_again(spark: SparkSession, tmp_path: Path, in_this_process: None) -> None:
    """Invariant 7: the second call writes nothing, though the tables have grown by a date in between."""
    sequences, outcomes = (spark.createDataFrame(table) for table in example_tables())
    models, staging = f"file:{tmp_path}/models", f"file:{tmp_path}/staging"
    chosen = ModelSettings(name="hybrid", parameters=SMALL["hybrid"])

    def run(rows: DataFrame) -> Trained:
        data = TrainingData(rows, outcomes, CONTRACT, {"tables": {"sequences": 1}})
        return train_model(spark, data, chosen, settings(epochs=1), JUDGING, TrainingFolders(models, staging), False)

    first = run(sequences)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    later = sequences.withColumn("as_of_date", f.lit(dt.date(2025, 9, 1)))
    again = run(sequences.union(later))
    assert (first.created, again.created) == (True, False)
    assert again.manifest == first.manifest == read_manifest(models, LATEST)
    assert first.counts == {"training_rows": 80, "validation_rows": 40}
    assert first.manifest.provenance["tables"] == {"sequences": 1}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == written
    assert not list((tmp_path / "staging" / "trainings").iterdir())


def test_a_refused_model_is_kept_and_judged_again_by_other_bounds(
    spark: SparkSession, tmp_path: Path, in_this_process: None
) -> None:
    sequences, outcomes = (spark.createDataFrame(table) for table in example_tables())
    models, staging = str(tmp_path / "models"), str(tmp_path / "staging")
    chosen = ModelSettings(name="hybrid", parameters=SMALL["hybrid"])

    def run(judging: Judging) -> Trained:
        data = TrainingData(sequences, outcomes, CONTRACT, {})
        return train_model(spark, data, chosen, settings(epochs=1), judging, TrainingFolders(models, staging), False)

    strict = dataclasses.replace(JUDGING, gate=JUDGING.gate.model_copy(update={"better_than_markov": 5.0}))
    refused = run(strict).manifest
    assert refused.verdict is not None
    assert not refused.verdict.published
    assert [r for r in refused.verdict.reasons if "of markov by 5 or more" in r]
    assert sum(c.rows for c in refused.verdict.calibration) == 40
    with pytest.raises(BundleError, match="no model is published"):
        read_manifest(models, LATEST)
    assert read_manifest(models, refused.version) == refused
    assert not run(strict).created

    written = Path(models, refused.version, "model.keras").stat().st_mtime_ns
    published = run(JUDGING)
    assert published.created
    assert Path(models, refused.version, "model.keras").stat().st_mtime_ns == written  # not trained again
    assert read_manifest(models, LATEST) == published.manifest
    assert published.manifest.calibration == refused.calibration != Calibration.none(3)

    again = dataclasses.replace(JUDGING, calibration=JUDGING.calibration.model_copy(update={"method": "none"}))
    other = run(again).manifest
    assert other.version != refused.version
    assert other.verdict is not None
    assert set(other.verdict.figures) == {"model", "markov", "published"}
    assert {s.feature for s in other.verdict.drift} == {*feature_names(CONTRACT), PREDICTED_TIER}
    assert other.profile is not None
    assert {sum(rows) for rows in other.profile.training.rows.values()} == {80}

    path = Path(models, other.version, "manifest.json")
    path.write_text(path.read_text().replace('"format": 4', '"format": 3'))  # the published one, of an earlier release
    lenient = dataclasses.replace(JUDGING, gate=JUDGING.gate.model_copy(update={"least_members": 999}))
    replacing = run(lenient).manifest
    assert replacing.version == refused.version
    assert replacing.verdict is not None
    assert [n for n in replacing.verdict.notes if "not compared with the published model" in n and "has format 3" in n]
    assert read_manifest(models, LATEST) == replacing
    assert other.calibration == Calibration.none(3)


def test_a_refit_learns_from_the_validation_date_once_it_has_judged_the_model(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_this_process: None
) -> None:
    sequences, outcomes = (spark.createDataFrame(table) for table in example_tables())
    models, staging = str(tmp_path / "models"), str(tmp_path / "staging")
    chosen = ModelSettings(name="hybrid", parameters=SMALL["hybrid"])

    def run(judging: Judging = JUDGING, publish: bool = True, **changes: Any) -> Trained:
        asked = settings(**{"epochs": 3, "refit": True, "teacher_weight": 0.5, **changes})
        data, how = TrainingData(sequences, outcomes, CONTRACT, {}), dataclasses.replace(judging, publish=publish)
        return train_model(spark, data, chosen, asked, how, TrainingFolders(models, staging), False)

    strict = dataclasses.replace(JUDGING, gate=JUDGING.gate.model_copy(update={"better_than_markov": 5.0}))
    refused = run(strict).manifest
    assert refused.candidate is None  # a model that is refused is not trained anew
    assert refused.verdict is not None
    assert not refused.verdict.published
    assert not run(strict).created

    ranks = training_run.run_ranks
    with monkeypatch.context() as killed:
        killed.setattr(training_run, "run_ranks", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception, match="killed"):
            run()
    with pytest.raises(BundleError, match="no model is published"):
        read_manifest(models, LATEST)
    plans = list[Plan]()
    monkeypatch.setattr(training_run, "run_ranks", lambda s, p, x: plans.append(p) or ranks(s, p, x))

    # A refit that does not even know what it has learned from is no reason to publish nothing.
    harsh = dataclasses.replace(JUDGING, gate=JUDGING.gate.model_copy(update={"worse_than_published": -9.0}))
    instead = run(harsh).manifest
    assert instead == read_manifest(models, LATEST)
    assert (instead.version, instead.candidate) == (refused.version, None)
    assert instead.verdict is not None
    (note,) = (n for n in instead.verdict.notes if n.startswith("its refit hybrid-2025-03-01-"))
    assert "was refused: trained anew with these members, its logloss of" in note
    again = run(harsh)
    assert (again.created, again.manifest) == (False, instead)

    done = run()
    (made,) = plans
    manifest, candidate = done.manifest, read_manifest(models, refused.version)
    assert manifest == read_manifest(models, LATEST)
    assert manifest.candidate == candidate.version
    assert (manifest.training_dates, candidate.training_dates) == (DATES, DATES[:2])
    assert made.until == (int(candidate.metrics["best_epoch"]),)
    assert done.counts == {"training_rows": 120, "validation_rows": 40}
    assert manifest.history == candidate.history
    assert manifest.metrics["validation_loss"] == candidate.metrics["validation_loss"]
    assert manifest.calibration == Calibration.none(3) != candidate.calibration
    assert manifest.verdict is not None
    assert candidate.verdict is not None
    assert manifest.verdict.calibration == candidate.verdict.calibration
    assert manifest.profile is not None
    assert {sum(rows) for rows in manifest.profile.training.rows.values()} == {120}
    assert not list((tmp_path / "staging" / "trainings").iterdir())
    assert not run().created
    assert run(publish=False).version == done.version
    assert len(plans) == 1

    asked = list[str]()
    forecast = verdicts.validated
    monkeypatch.setattr(
        verdicts, "validated", lambda s, m, of, *rest: asked.append(of.version) or forecast(s, m, of, *rest)
    )
    other = run(seed=6).manifest
    assert other.verdict is not None
    assert set(other.verdict.figures) == {"model", "markov", "published", "refit"}
    # The published one has learned from the rows that they are compared on.
    assert asked == [other.candidate, candidate.version, other.version]
    assert read_manifest(models, LATEST) == other


def test_bad_input_a_failing_rank_ends_the_job_with_its_own_error(spark: SparkSession, tmp_path: Path) -> None:
    made = plan(tmp_path, ranks=2)
    Path(made.training.uris[3]).write_bytes(b"PAR1 not really")  # read by rank 1 alone
    with pytest.raises(RankFailedError, match=r"rank 1 of 2 failed: ArrowInvalid: .*[Pp]arquet") as caught:
        run_ranks(spark, made)
    assert "Horovod has been shut down" not in str(caught.value)
    assert _no_rank_is_left()


def test_a_killed_training_goes_on_from_its_last_epoch(spark: SparkSession, tmp_path: Path) -> None:
    made = plan(tmp_path, ranks=2, epochs=25, patience=25)
    killer = threading.Thread(target=_kill_after_first_epoch, args=(made,), daemon=True)
    killer.start()
    with pytest.raises(RankFailedError, match="a rank died"):
        run_ranks(spark, made)
    killer.join()
    assert _no_rank_is_left()
    resumed = run_ranks(spark, made)
    assert 1 <= resumed["resumed_epochs"] < 25
    assert len(resumed["history"]) == 25
    assert resumed["largest_difference"] == 0.0


def _kill_after_first_epoch(made: Plan) -> None:
    deadline = time.monotonic() + 90
    while not Path(made.checkpoint_uri).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in _rank_processes():
        process.kill()


def test_ranks_that_find_no_slot_are_told_so(spark: SparkSession, tmp_path: Path) -> None:
    made = plan(tmp_path, ranks=4, start_timeout_seconds=5)
    with pytest.raises(RankFailedError, match="the 4 ranks did not start within 5 s: each needs a free task slot"):
        run_ranks(spark, made)
    assert _no_rank_is_left()


def test_the_first_error_that_is_a_ranks_own_is_told(tmp_path: Path) -> None:
    """The other ranks' "Horovod has been shut down" comes after it, or before it by a slow clock."""
    output = RankOutput()
    errors = [(0, 1.0, "HorovodInternalError"), (1, 2.0, "ValueError")]
    notes = [{"rank": r, "time": t, "type": kind, "message": "m", "traceback": ""} for r, t, kind in errors]
    text = "".join(f"[{n['rank']}]<stderr>:TIERCAST-RANK-ERROR {json.dumps(n)}\n" for n in notes) + "noise\n"
    for start in range(0, len(text), 7):
        output.write(text[start : start + 7])
    settings = plan(tmp_path, ranks=2).settings
    assert output.explain(RuntimeError("x"), settings, 1.0).startswith("rank 1 of 2 failed: ValueError: m")
