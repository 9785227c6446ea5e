"""The import rules of pyproject.toml: they hold, they catch a new module that breaks them, and each job is an entry."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from tests.data.programme import CHECKOUT

PACKAGES = ("bench", "features", "jobs", "training")
ENTRIES = sorted(p.stem for p in (CHECKOUT / "jobs").glob("*.py") if p.stem != "__init__")

MISTAKES = {
    "spark_in_the_kernel": (
        "features/kernel/new_module.py",
        "import pyspark",
        "core and kernel of features know neither Spark nor Delta",
    ),
    "spark_in_the_evaluation": (
        "training/evaluation/new_module.py",
        "from training.spark import predictors",
        "training knows Spark only in training.spark",
    ),
    "upwards_in_training": (
        "training/inputs/new_module.py",
        "from training.models import create",
        "floors of training",
    ),
    "storage_in_training": (
        "training/spark/new_module.py",
        "from features.storage import schemas",
        "training sees of features only core, and Spark's workers",
    ),
    "tensorflow_in_features": (
        "features/building/new_module.py",
        "import tensorflow",
        "features knows nothing of TensorFlow",
    ),
    "a_step_in_running": ("jobs/running/new_module.py", "from jobs.steps import scores", "jobs.steps > jobs.running"),
    "a_folder_of_features_without_a_floor": ("features/new_folder/__init__.py", "", "floors of features"),
    "a_folder_of_training_without_a_floor": ("training/new_folder/__init__.py", "", "floors of training"),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source tree and its rules."""
    folder = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(CHECKOUT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "pyproject.toml", folder)
    return folder


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: this one has imported the packages that are copied."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--config", "pyproject.toml"],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_the_tree_keeps_all_rules(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout
    assert " 0 broken" in done.stdout


@pytest.mark.parametrize(("path", "code", "contract"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_new_module_that_breaks_a_rule_is_found(copy: Path, path: str, code: str, contract: str) -> None:
    new = copy / path
    folder_is_new = not new.parent.exists()
    new.parent.mkdir(exist_ok=True)
    new.write_text(f'"""New."""\n\n{code}\n', encoding="utf-8")
    try:
        done = lint(copy)
    finally:
        shutil.rmtree(new.parent) if folder_is_new else new.unlink()
    assert done.returncode == 1
    broken = [line.removesuffix(" BROKEN") for line in done.stdout.splitlines() if line.endswith(" BROKEN")]
    assert contract in broken, done.stdout


@pytest.mark.parametrize("name", ENTRIES)
def test_every_file_of_jobs_is_a_job(name: str) -> None:
    assert callable(importlib.import_module(f"jobs.{name}").entry)


def test_no_step_imports_a_job() -> None:
    graph = grimp.build_graph("jobs", cache_dir=None)
    below = [m for m in graph.modules if m.startswith(("jobs.steps.", "jobs.running."))]
    assert len(below) > 10
    found = {(m, i) for m in below for i in graph.find_modules_directly_imported_by(m)}
    assert not [(m, i) for m, i in found if i.removeprefix("jobs.") in ENTRIES]


def test_tests_share_only_what_lies_in_data() -> None:
    """No test module imports another: what two of them need is in tests/data."""
    files = sorted((CHECKOUT / "tests").rglob("*.py"))
    assert len(files) > 50
    found = {
        (path.name, line)
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(from|import) tests(?!\.data\b)", line)
    }
    assert not found
