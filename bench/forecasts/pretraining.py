"""Trains with and without a pretrained encoder, by share of labelled users, and writes docs/results/pretraining.md.

    make pretraining        # after `make demo`; about an hour on 2 cores

Every training sees the sequences and outcomes of the labelled share of the users; the encoder is pretrained on the
sequences of all of them. Bundles and figures that exist already are not made again, so a stopped run goes on
where it was.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bench import tables
from bench.forecasts import demo
from bench.forecasts.demo import CONFIGS
from features.storage import delta_tables
from jobs import pretrain_model
from jobs.running.job import Job, Run
from jobs.running.settings import Settings
from jobs.running.settings_files import load
from jobs.steps import training
from jobs.steps.members import members, sequences_of
from jobs.steps.scores import Scoring, score
from training.bundles.bundle_folder import LATEST
from training.bundles.manifest import Manifest
from training.evaluation.metrics import evaluate
from training.fitting.ranks import quiet_tensorflow
from training.spark.driver_rows import collect_forecasts

SHARES = {0.1: 60, 0.3: 30, 1.0: 12}
"""Shares of the users with labels, and the most epochs: fewer rows make fewer steps of each."""
PATIENCE = 12
PRETRAINED = "training.pretrained=" + LATEST
WAYS: dict[str, list[str]] = {
    "from scratch": [],
    "fine-tuned": [PRETRAINED],
    "fine-tuned slowly": [PRETRAINED, "training.encoder_rate=0.1"],
    "frozen": [PRETRAINED, "training.frozen_epochs=60"],
}
"""Settings of each way to train, beside those of conf/ and of the share."""
FIGURES = ("validation logloss", "validation upgrade AUC", "logloss", "upgrade AUC")
Figures = dict[str, dict[str, float]]


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing and write the page."""
    options = demo.options(__doc__, "build/pretraining")
    options.add_argument("--seeds", type=int, default=3, help="seeds of each way and share")
    given = options.parse_args(argv)
    quiet_tensorflow()
    demo.copy_tables(given.demo, given.root)
    place = Path(given.root) / "figures.json"
    found: Figures = json.loads(place.read_text()) if place.exists() else {}
    for seed, share, way in _runs(given.seeds):
        name = f"{share:g} {way} {seed}"
        if name in found:
            continue
        found[name] = measure(_overrides(given.root, seed, share, way), way)
        place.write_text(json.dumps(found, indent=1))
        Path("docs/results/pretraining.md").write_text(page(found, given.seeds, given.root), encoding="utf-8")
        sys.stdout.write(f"{name}: {found[name]}\n")


def _runs(seeds: int) -> Iterator[tuple[int, float, str]]:
    """The trainings in order: the first two ways with all seeds, then the others."""
    ways = list(WAYS)
    for together in (ways[:2], *([way] for way in ways[2:])):
        for seed in range(1, seeds + 1):
            for share in SHARES:
                for way in together:
                    yield seed, share, way


def _overrides(root: str, seed: int, share: float, way: str) -> list[str]:
    limits = [f"training.labelled_share={share}", f"training.epochs={SHARES[share]}", f"training.patience={PATIENCE}"]
    alone = ["training.teacher_weight=0.0", "training.refit=false"]
    return [f"storage.root={root}", f"training.seed={seed}", *alone, *limits, *WAYS[way]]


def measure(overrides: Sequence[str], way: str) -> dict[str, float]:
    """Pretrain where the way asks for it, train, and measure on the validation and the evaluated date."""
    job = demo.job_of(load(CONFIGS, overrides))
    if PRETRAINED in WAYS[way]:
        with job.run("pretrain_model", job.settings.training.validation_as_of) as record:
            pretrain_model.pretrain(job, record)
    with job.run("train_model", job.settings.training.validation_as_of) as record:
        manifest = training.train(job, record).manifest
    loss, auc = _measured(job, manifest, job.settings.evaluation.as_of)
    _, validation_auc = _measured(job, manifest, job.settings.training.validation_as_of)
    return dict(zip(FIGURES, (manifest.metrics["validation_loss"], validation_auc, loss, auc), strict=True))


def _measured(job: Job, manifest: Manifest, date: dt.date) -> tuple[float, float]:
    """Logloss and upgrade AUC of a bundle for the members of a date."""
    settings, record = job.settings, Run("bench", date)
    known, _ = members(job, sequences_of(job, date), record)
    scores = score(job.spark, Scoring(known, manifest, settings.storage.models, settings.scoring))
    outcomes = delta_tables.read(job.spark, job.uri("outcomes")).where(delta_tables.date_is("as_of_date", date))
    found = collect_forecasts(scores, outcomes, manifest.contract, settings.evaluation.max_users)
    figures = evaluate(found.probabilities, found.current_rank, found.outcome_rank, manifest.contract.tiers)
    assert figures.upgrade_auc is not None  # both happened
    return figures.logloss, figures.upgrade_auc


def page(found: Figures, seeds: int, root: str) -> str:
    """The Markdown page."""
    settings = load(CONFIGS, [f"storage.root={root}"])
    return "\n".join(
        [
            "# Pretraining on Complete Journey",
            "",
            f"Written by `make pretraining` on {dt.date.today()}, Python {platform.python_version()}, "
            f"{os.cpu_count()} cores, {settings.training.ranks} ranks.",
            "",
            *_what_was_done(settings),
            "",
            *_what_is_missing(found, seeds),
            tables.markdown(
                ["labelled users", "way", "seeds", *FIGURES],
                [_row(found, share, way, seeds) for share in SHARES for way in WAYS if _of(found, share, way, seeds)],
            ),
            "",
            "Difference to training from scratch with the same users and seed, mean and standard error:",
            "",
            tables.markdown(
                ["labelled users", "way", *FIGURES],
                [_difference(found, share, way, seeds) for share in SHARES for way in list(WAYS)[1:]],
            ),
            "",
        ]
    )


def _what_was_done(settings: Settings) -> list[str]:
    dates = ", ".join(str(d) for d in settings.training.dates)
    pretraining = settings.pretraining
    epochs = ", ".join(f"{share:.0%}: {most}" for share, most in SHARES.items())
    return [
        f"Trained as of {dates}; the epoch chosen by the loss",
        f"as of {settings.training.validation_as_of}, evaluated as of {settings.evaluation.as_of}, each of all.",
        "Labelled users are drawn by a hash of user and seed, the same for every way. The default network `hybrid`,",
        f"default settings but for the most epochs ({epochs}) and a patience of {PATIENCE}, without a teacher or a",
        "refit: the question is what the true outcomes of few members are worth.",
        "",
        "The encoder (embedding and GRU) is pretrained once per seed on the sequences of all members at the training",
        f"dates, without outcomes: contrastive slices (weight {pretraining.contrastive_weight:g}) and the next event "
        f"(weight {pretraining.next_event_weight:g}), at most {pretraining.epochs} epochs.",
        "*Fine-tuned*: training starts from it; *slowly*: it learns at a tenth of the rate. *Frozen*: it stays as it",
        "is; its states are pooled and joined with the aggregates as ever, so these rows are frozen embeddings beside",
        "aggregates. Validation logloss is that of the network, the other figures are those of the calibrated",
        "probabilities; calibration has all members of the validation date.",
    ]


def _what_is_missing(found: Figures, seeds: int) -> list[str]:
    wanted = len(list(_runs(seeds)))
    return [] if len(found) == wanted else [f"**Not finished: {len(found)} of {wanted} trainings are done.**", ""]


def _of(found: Figures, share: float, way: str, seeds: int) -> list[dict[str, float]]:
    names = (f"{share:g} {way} {seed}" for seed in range(1, seeds + 1))
    return [found[name] for name in names if name in found]


def _row(found: Figures, share: float, way: str, seeds: int) -> list[str]:
    runs = _of(found, share, way, seeds)
    cells = (np.array([run[figure] for run in runs]) for figure in FIGURES)
    return [f"{share:.0%}", way, str(len(runs)), *(f"{c.mean():.3f} ± {c.std():.3f}" for c in cells)]


def _difference(found: Figures, share: float, way: str, seeds: int) -> list[str]:
    pairs = [
        (found[f"{share:g} {way} {seed}"], found[f"{share:g} from scratch {seed}"])
        for seed in range(1, seeds + 1)
        if f"{share:g} {way} {seed}" in found and f"{share:g} from scratch {seed}" in found
    ]
    cells = []
    for figure in FIGURES:
        gaps = np.array([mine[figure] - other[figure] for mine, other in pairs])
        error = f" ± {gaps.std(ddof=1) / np.sqrt(len(gaps)):.3f}" if len(gaps) > 1 else ""
        cells.append(f"{gaps.mean():+.3f}{error}" if len(gaps) else "-")
    return [f"{share:.0%}", way, *cells]


if __name__ == "__main__":
    main()
