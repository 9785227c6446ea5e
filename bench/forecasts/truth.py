"""Simulates members whose chance to move up is known, and compares forecasts with it and reasons with its causes.

    make truth              # some minutes on 2 cores; writes docs/results/truth.md

Around each of several as-of dates every member has visits, purchases and campaigns in the month before it, drawn anew,
and one purchase in the month after. Whether that one is large enough for silver is drawn with a chance that follows
from the number of visits and from whether a campaign came within the last week, and not from purchases, their amounts
or what happened earlier.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import yaml
from scipy.special import expit

from bench import tables
from features.core.arrays import Floats
from features.ingest.pseudonyms import digest
from features.spark.session import open_session
from jobs import run_pipeline
from jobs.running.job import Job
from jobs.running.settings_files import load
from training.fitting.ranks import QUIET_TENSORFLOW

KEY = "a key for simulated members, and for nothing else"
DATES, MEMBERS, APART = 5, 5_000, 60  # as-of dates, members, days between the dates
WINDOW, SILVER = 30, 100
FIRST = dt.date(2024, 3, 1)
CAUSES = {"visit", "campaign", "active_days", "recency_days", "recent_visit", "recent_campaign"}
"""Reasons that follow from visits and campaigns of the last month; `active_days` and `recency_days` do in part."""

LIFELONG = ("tenure_days", "tier_age_days", "mean_age", "events", "gap_*", "amount_*", "mean_gap", "mean_amount")

Numbers = npt.NDArray[np.int64]


def as_of(number: int) -> dt.date:
    """The as-of date with this number."""
    return FIRST + dt.timedelta(days=APART * number)


def simulate(folder: Path) -> pl.DataFrame:
    """Write `events.parquet`; returns `user`, and `truth` the chance to move up, of the last date's base members."""
    chance = np.random.default_rng(1)
    months = [_months(chance, number) for number in range(DATES)]
    # Outcomes are known only once something has happened after the last horizon.
    closing = _events(DATES - 1, "visit", np.array([MEMBERS]), np.array([WINDOW + 1.0]))
    events = pl.concat([*(events for events, _ in months), closing]).sample(fraction=1, shuffle=True, seed=1)
    events = events.with_row_index().with_columns(id=pl.format("event-{}", "index")).drop("index")
    events.write_parquet(folder / "events.parquet")
    return months[-1][1]


def _events(number: int, kind: str, who: Numbers, day: Floats, paid: Floats | None = None) -> pl.DataFrame:
    """Events of members, by number, each at `day` days after the date of a number."""
    midnight = dt.datetime.combine(as_of(number), dt.time(), dt.UTC)
    return pl.DataFrame(
        {
            "who": [f"member-{n}" for n in who.tolist()],
            "at": pl.Series((day * 86_400_000).astype(np.int64)).cast(pl.Duration("ms")) + midnight,
            "kind": [kind] * len(who),
            "paid": pl.Series(paid, dtype=pl.Float64)
            if paid is not None
            else pl.Series([None] * len(who), dtype=pl.Float64),
        }
    )


def _months(chance: np.random.Generator, number: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The events around a date, and the truth of the members who are base at it."""
    each = np.arange(MEMBERS)

    def events(kind: str, who: Numbers, day: Floats, paid: Floats | None = None) -> pl.DataFrame:
        return _events(number, kind, who, day, paid)

    counts = {
        kind: chance.poisson(rate * chance.gamma(2, 0.5, MEMBERS))
        for kind, rate in (("visit", 4), ("purchase", 1.5), ("campaign", 2))
    }
    who = {kind: each.repeat(count) for kind, count in counts.items()}
    day = {kind: chance.uniform(-WINDOW, 0, len(of)) for kind, of in who.items()}
    paid = chance.uniform(5, 60, len(who["purchase"])).round(2)
    last = np.full(MEMBERS, -np.inf)
    np.maximum.at(last, who["campaign"], day["campaign"])
    truth = expit(-2.5 + 0.3 * counts["visit"] + 1.5 * (last > -7))
    later = np.where(chance.random(MEMBERS) < truth, 1.5 * SILVER, 0.1 * SILVER)
    parts = [
        *(events(kind, who[kind], day[kind], paid if kind == "purchase" else None) for kind in who),
        # A visit before the month that the rule and the truth look at makes everybody known at the date.
        events("visit", each, chance.uniform(-WINDOW - 9, -WINDOW - 1, MEMBERS)),
        events("purchase", each, chance.uniform(1, WINDOW - 1, MEMBERS), later),
    ]
    base = np.bincount(who["purchase"], paid, MEMBERS) < SILVER
    users = [f"member-{n}" for n in each[base].tolist()]
    return pl.concat(parts), pl.DataFrame({"user": users, "truth": truth[base]})


def settings(root: Path) -> dict[str, Any]:
    """The simulated programme as a settings file: the network and its training are those of conf/base.yaml."""
    conf = Path(__file__).parents[2] / "conf"
    return {
        "extends": [f"{conf}/base.yaml", f"{conf}/local.yaml"],
        "source": {
            "tables": {"rows": {"format": "parquet", "uri": f"{root}/events.parquet"}},
            "query": "SELECT id event_id, who user_id, at event_time, kind event_type, paid amount FROM rows",
            "attributes": {},
        },
        "events": {"types": ["purchase", "visit", "campaign"], "purchase_type": "purchase"},
        "quality": {"day_rows_against_median": None},
        "features": {"windows_days": [7, 30]},
        "sequence": {"length": 64},
        "tiers": {"window_days": WINDOW, "levels": [{"name": "base"}, {"name": "silver", "from": {"spend": SILVER}}]},
        "horizon": {"days": WINDOW},
        "training": {"as_of": [as_of(c) for c in range(DATES - 2)], "validation_as_of": as_of(DATES - 2)},
        "evaluation": {"as_of": as_of(DATES - 1), "challengers": []},
        # The programme is young: what is counted over a whole history shifts from date to date.
        "gate": {"drift": {"expected": [*LIFELONG]}},
        "storage": {"root": str(root / "store")},
    }


def main() -> None:
    """Simulate, run the pipeline, explain, compare, write the page."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, default=Path("build/truth"))
    options.add_argument("--page", type=Path, default=Path("docs/results/truth.md"))
    given = options.parse_args()
    os.environ.update({"TIERCAST_PSEUDONYM_KEY": KEY, **QUIET_TENSORFLOW})
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    truth = simulate(given.folder)
    path = given.folder / "settings.yaml"
    path.write_text(yaml.safe_dump(settings(given.folder.resolve())), encoding="utf-8")
    chosen = load([str(path)], [])
    spark = open_session(chosen.spark.app_name, chosen.spark.master, chosen.spark.options)
    job = Job(chosen, spark, argparse.Namespace(as_of=[chosen.evaluation.as_of], since=None, where=None))
    run_pipeline.run(job)
    given.page.write_text(page(truth, chosen.storage.base), encoding="utf-8")


def page(truth: pl.DataFrame, root: str) -> str:
    """What was published, compared with the truth, in Markdown."""
    pseudonyms = pl.Series([digest(KEY.encode(), user) for user in truth["user"]])
    known = truth.with_columns(user_id=pseudonyms)
    return "\n".join(
        [
            "# Members whose truth is known",
            "",
            f"Written by `make truth` on {dt.date.today()}. {MEMBERS:,} simulated members at {DATES} dates; the chance",
            "to move up follows from the visits of the last 30 days and from whether a campaign came within the last",
            "week, and from nothing else: not from purchases, amounts or what happened earlier. The default network",
            "and training of `conf/base.yaml`, judged on the base members of a date that neither training nor",
            "calibration saw.",
            "",
            *_forecasts(known, root),
            *_reasons(known, root),
        ]
    )


def _forecasts(known: pl.DataFrame, root: str) -> list[str]:
    """The forecasts of the members whose truth is known."""
    scores = pl.read_delta(f"{root}/tables/scores").select("user_id", "p_upgrade", "current_tier")
    found = known.join(scores, on="user_id", validate="1:1")
    assert (found["current_tier"] == "base").all()
    forecast, true = found["p_upgrade"].to_numpy(), found["truth"].to_numpy()
    error, constant = np.abs(forecast - true), np.abs(true - true.mean()).mean()
    return [
        f"Over {len(found):,} members of the base tier: mean absolute error of `p_upgrade` against the truth",
        f"**{error.mean():.3f}** (95 % of the members within {np.quantile(error, 0.95):.3f}); a constant would",
        f"have {constant:.3f}. Correlation with the truth {np.corrcoef(forecast, true)[0, 1]:.3f}; mean forecast",
        f"{forecast.mean():.3f}, mean truth {true.mean():.3f}.",
        "",
    ]


def _reasons(known: pl.DataFrame, root: str) -> list[str]:
    """The reasons for the same members, by their share of all contributions."""
    reasons = pl.read_delta(f"{root}/tables/score_reasons").filter(pl.col("target") == "upgrade")
    reasons = reasons.join(known, on="user_id").with_columns(cause=pl.col("reason").is_in(CAUSES))
    share = reasons.group_by("reason", "cause").agg(
        pl.col("contribution").abs().sum(), first=(pl.col("rank") == 1).sum()
    )
    share = share.with_columns(pl.col("contribution") / pl.col("contribution").sum())
    of_causes, first = share.filter("cause").select("contribution", "first").sum().row(0)
    report = json.loads(Path(f"{root}/reports/{as_of(DATES - 1)}.json").read_text(encoding="utf-8"))
    lost = {reason["reason"]: np.mean(reason["losses"]) for reason in report["reasons"]}
    rows = []
    for row in share.sort("contribution", descending=True).head(10).to_dicts():
        name = f"**{row['reason']}**" if row["cause"] else row["reason"]
        rows.append([name, f"{row['contribution']:.3f}", f"{row['first']:,}", f"{lost[row['reason']]:+.4f}"])
    return [
        f"The weightiest reason follows from a true cause for {first / len(known):.0%} of these members. Reasons",
        "by their share of all contributions that are kept; those in bold follow from the true causes and hold",
        f"{of_causes:.0%}. The last column is the rise of the logloss where a reason's inputs are those of another",
        "member of the tier (permutation importance).",
        "",
        tables.markdown(["reason", "share", "weightiest for so many members", "lost without it"], rows),
        "",
    ]


if __name__ == "__main__":
    main()
