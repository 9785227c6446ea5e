"""Trains models that the gate should refuse, on the demo's tables; writes what it says to docs/results/gate.md.

    make gate               # after `make demo`; a few minutes on 2 cores

The model of the default settings comes first and becomes `latest`. Then follow one whose labels are shuffled, one that
was trained on a fifth of an epoch, and the default one made overconfident. Bundles that stand already are not trained
again, so a stopped run goes on where it was.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as f
from pyspark.sql.window import Window

from bench import tables
from bench.forecasts import demo
from bench.forecasts.demo import CONFIGS
from features.storage import delta_tables
from jobs.running.job import Job, Run
from jobs.running.settings_files import load
from jobs.steps.members import members, sequences_of
from jobs.steps.scores import Scoring, score
from jobs.steps.training import folders, judging
from training.bundles.bundle_folder import read_manifest
from training.bundles.manifest import Manifest
from training.fitting.ranks import quiet_tensorflow
from training.inputs.column_names import AS_OF, OUTCOME_RANK, OUTCOME_VALUE
from training.judging import gate
from training.judging.calibration import Calibration
from training.judging.verdict import TierCalibration, Verdict
from training.spark import staging, verdicts
from training.spark.driver_rows import collect_forecasts
from training.spark.train_model import train_model
from training.spark.training_run import TrainingData

TEMPERATURE = 0.3
SHARE = 5
"""One user of this many, for one epoch: that share of an epoch."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """The demo's tables, and how models are trained on them."""

    job: Job
    sequences: DataFrame
    outcomes: DataFrame

    def trained(self, sequences: DataFrame, outcomes: DataFrame, epochs: int | None = None) -> Manifest:
        """The judged bundle of some rows."""
        s = self.job.settings
        settings = s.training
        if epochs is not None:
            settings = settings.model_copy(update={"epochs": epochs, "warmup_epochs": 0})
        data = TrainingData(sequences, outcomes, s.contract, {})
        return train_model(self.job.spark, data, s.model, settings, judging(s), folders(s), progress=False).manifest


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, judge, and write the page."""
    options = demo.options(__doc__, "build/gate")
    options.add_argument("--page", type=Path, default=Path("docs/results/gate.md"))
    given = options.parse_args(argv)
    quiet_tensorflow()
    demo.copy_tables(given.demo, given.root)
    settings = load(CONFIGS, [f"storage.root={given.root}"])
    job = demo.job_of(settings)
    bench = Bench(job, *(delta_tables.read(job.spark, job.uri(name)) for name in ("sequences", "outcomes")))
    good = bench.trained(bench.sequences, bench.outcomes)
    learned, every = settings.training.dates, settings.training.all_dates
    found = {
        "the default settings": _verdict(good),
        "labels of the training dates shuffled": _verdict(bench.trained(bench.sequences, shuffled(bench, learned))),
        "all labels shuffled": _verdict(bench.trained(bench.sequences, shuffled(bench, every))),
        "a fifth of an epoch": _verdict(bench.trained(one_of(bench, SHARE), bench.outcomes, epochs=1)),
        f"the first one, overconfident by temperature {TEMPERATURE:g}": overconfident(bench, good),
    }
    given.page.write_text(page(found, evaluated(bench, good), bench), encoding="utf-8")


def _verdict(manifest: Manifest) -> Verdict:
    assert manifest.verdict is not None  # it has been judged
    return manifest.verdict


def shuffled(bench: Bench, dates: Sequence[dt.date]) -> DataFrame:
    """The outcomes, those of each of these dates exchanged among its users by a hash."""
    columns, chosen = [OUTCOME_RANK, OUTCOME_VALUE], f.col(AS_OF).isin(list(dates))
    outcomes = bench.outcomes.where(chosen)
    by = [Window.partitionBy(AS_OF).orderBy(f.xxhash64("user_id", f.lit(salt))) for salt in ("users", "labels")]
    users = outcomes.drop(*columns).withColumn("place", f.row_number().over(by[0]))
    labels = outcomes.select(AS_OF, *columns, f.row_number().over(by[1]).alias("place"))
    dealt = users.join(labels, [AS_OF, "place"]).drop("place").withColumn("inputs_id", f.lit("shuffled"))
    return dealt.unionByName(bench.outcomes.where(~chosen))


def one_of(bench: Bench, share: int) -> DataFrame:
    """The sequences; at training dates only those of one user of this many."""
    learned = f.col(AS_OF).isin(list(bench.job.settings.training.dates))
    chosen = f.pmod(f.xxhash64("user_id", f.lit("share")), f.lit(share)) == 0
    some = bench.sequences.where(learned & chosen).withColumn("inputs_id", f.lit(f"one user of {share}"))
    return some.unionByName(bench.sequences.where(~learned))


def overconfident(bench: Bench, good: Manifest) -> Verdict:
    """What the gate says of the published probabilities if all their logits are divided by the temperature."""
    s, how = bench.job.settings, judging(bench.job.settings)
    identity = staging.data_identity(bench.sequences, bench.outcomes, s.contract, s.training)
    folder = staging.folder_of(s.storage.staging, s.contract, s.training, identity)
    examples = staging.stage(bench.sequences, bench.outcomes, s.contract, s.training, folder)
    if good.candidate is not None:  # the refit has learned from these members
        good = read_manifest(s.storage.models, good.candidate)
    rows = verdicts.validated(bench.job.spark, s.storage.models, good, examples.validation, how)
    rivals, notes = verdicts.rivals_of(bench.job.spark, s.storage.models, good, examples.validation, rows, how)
    sharp = Calibration(
        tuple(scale / TEMPERATURE for scale in good.calibration.scales),
        tuple(tuple(shift / TEMPERATURE for shift in shifts) for shifts in good.calibration.shifts),
    )
    published = sharp(rows.probabilities, rows.current)
    forecasts = {"model": published, **rivals}
    return gate.judge(forecasts, rows.current, rows.outcome, s.contract.tiers, how.gate, notes)


def evaluated(bench: Bench, good: Manifest) -> list[tuple[TierCalibration, float]]:
    """Calibration by current tier on a date that neither training nor calibration has seen, and by chance.

    The latter is the median error of a perfect forecast: each member's outcome is drawn from its own forecast.
    """
    job, s = bench.job, bench.job.settings
    date = s.evaluation.as_of
    known, _ = members(job, sequences_of(job, date), Run("gate", date))
    scores = score(job.spark, Scoring(known, good, s.storage.models, s.scoring))
    of_date = bench.outcomes.where(delta_tables.date_is(AS_OF, date))
    found = collect_forecasts(scores, of_date, s.contract, s.evaluation.max_users)
    tiers = gate.calibration_by_tier(found.probabilities, found.current_rank, found.outcome_rank, s.contract.tiers)
    return [
        (
            c,
            gate.error_by_chance(
                found.probabilities[found.current_rank == s.contract.tiers.index(c.tier)], quantile=0.5
            ),
        )
        for c in tiers
    ]


def page(found: dict[str, Verdict], tiers: Sequence[tuple[TierCalibration, float]], bench: Bench) -> str:
    """The Markdown page."""
    settings = bench.job.settings
    said = []
    for name, verdict in found.items():
        figures = ", ".join(f"{rival} {loss:.4f}" for rival, loss in verdict.figures.items())
        errors = ", ".join(f"{c.tier} {c.error:.3f} (chance {c.chance:.3f})" for c in verdict.calibration)
        said += [
            f"## {name[0].upper()}{name[1:]}", "", "```", *verdict.lines(f"({name})"), "```", "",
            f"Logloss: {figures}. Calibration error: {errors}.", "",
        ]  # fmt: skip
    return "\n".join(
        [
            "# What the gate lets pass",
            "",
            f"Written by `make gate` on {dt.date.today()}. Complete Journey, trained as of "
            f"{', '.join(map(str, settings.training.dates))}, judged as of {settings.training.validation_as_of} by the "
            "bounds of `conf/`; each verdict as printed.",
            "",
            *said,
            f"## Calibration error on {settings.evaluation.as_of}",
            "",
            "Of the default settings' model, by current tier, on members whose outcomes at this date neither training",
            "nor calibration has seen: 15 bins of equally many members, mean over the outcome tiers. The last columns",
            "are what a perfect forecast has by chance with as many members.",
            "",
            tables.markdown(
                ["members now in", "members", "calibration error", "perfect, median", "perfect, 95 of 100 stay below"],
                [[c.tier, f"{c.rows:,}", f"{c.error:.3f}", f"{median:.3f}", f"{c.chance:.3f}"] for c, median in tiers],
            ),
            "",
        ]
    )


if __name__ == "__main__":
    main()
