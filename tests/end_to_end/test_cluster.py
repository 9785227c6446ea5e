"""Every job by spark-submit on a standalone cluster of two workers: the scores of a local run with the same bundle."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pyspark.sql import SparkSession

from jobs import score_users
from tests.data import programme

pytestmark = pytest.mark.cluster


def test_cluster_scores_equal_local_scores(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIERCAST_PSEUDONYM_KEY", programme.KEY)
    overrides = programme.source(tmp_path / "source")
    root = tmp_path / "cluster"
    run_on_cluster(overrides, root)

    # The same tables and the same bundle, scored again in this process.
    local = tmp_path / "local"
    shutil.copytree(root / "models", local / "models")
    shutil.copytree(root / "tables" / "sequences", local / "tables" / "sequences")
    chosen = programme.settings(overrides, local)
    score_users.run(programme.job(spark, chosen, chosen.evaluation.as_of, programme.SCORED))

    on_cluster, here = programme.scores(root), programme.scores(local)
    assert on_cluster.num_rows == here.num_rows > 0
    assert on_cluster.column_names == here.column_names
    for name in here.column_names:
        if here.schema.field(name).type == "double":
            left, right = (t[name].to_numpy(zero_copy_only=False) for t in (on_cluster, here))
            np.testing.assert_allclose(left, right, atol=1e-6, err_msg=name)
        else:
            assert on_cluster[name].equals(here[name]), name


def run_on_cluster(overrides: list[str], root: Path) -> None:
    """`make package` and the documented script, with the test's source."""
    subprocess.run([sys.executable, "setup/package.py", "dist/tiercast.zip"], cwd=programme.CHECKOUT, check=True)
    config = root.parent / "programme.yaml"
    config.write_text(overlay(overrides), encoding="utf-8")
    done = subprocess.run(
        ["setup/cluster_demo.sh", str(Path(sys.executable).parent), str(root), str(config), str(programme.SCORED)],
        cwd=programme.CHECKOUT,
        env=programme.environment(),
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def overlay(overrides: list[str]) -> str:
    """The overrides as a settings file that extends the points programme."""
    tree: dict[str, Any] = {"extends": f"{programme.CHECKOUT}/conf/points_programme.yaml"}
    for override in overrides:
        path, _, value = override.partition("=")
        *parents, leaf = path.split(".")
        at = tree
        for parent in parents:
            at = at.setdefault(parent, {})
        at[leaf] = yaml.safe_load(value)
    return yaml.safe_dump(tree)
