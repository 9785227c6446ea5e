"""The pure kernel of `outcomes`: what became of the members known at an as-of date."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import DateError
from features.histories import DayHistory
from features.sequences import micros_to_decimal
from features.tiers import Ints
from features.totals import AggregateSpec


def outcome_rows(
    users: pa.Array, history: DayHistory, as_of: dt.date, horizon_days: int, spec: AggregateSpec
) -> pa.Table:
    """Outcome value and tier of `users`, ascending by user id.

    Args:
        users: ids of the members known before `as_of`, each once, ascending.
        history: rollup days; users and days outside the window are left out.
        as_of: first day of the outcome window.
        horizon_days: its length.
        spec: the tier rule; its measures are summed over the outcome window.
    """
    end = horizon_end(as_of, horizon_days)
    days = history.before(end)
    at = pc.fill_null(pc.index_in(users, days.users), -1).to_numpy() if len(days.who) else np.full(len(users), -1)
    totals = {c: _of_users(days.total(c, horizon_days), at) for c in ("spend", *spec.measured.values())}
    rank = spec.rule.rank({m: totals[c] for m, c in spec.measured.items()})
    n = len(users)
    return pa.table(
        {
            "user_id": users,
            "as_of_date": pa.repeat(pa.scalar(as_of, pa.date32()), n),
            "horizon_end": pa.repeat(pa.scalar(end, pa.date32()), n),
            "outcome_value": micros_to_decimal(totals["spend"], np.zeros(n, bool)),
            "outcome_tier": pa.array(spec.rule.names).take(pa.array(rank)),
            "outcome_tier_rank": pa.array(rank.astype(np.int32)),
        }
    )


def _of_users(totals: Ints, at: Ints) -> Ints:
    return np.append(totals, 0)[at]  # -1, no event in the window, takes the 0 at the end


def horizon_end(as_of: dt.date, horizon_days: int) -> dt.date:
    """The day after the last day of the outcome window that starts at `as_of`."""
    return as_of + dt.timedelta(days=horizon_days)


def check_horizon_passed(newest_day: dt.date | None, as_of: dt.date, horizon_days: int) -> None:
    """Raise DateError unless events reach to the last day of the horizon that starts at `as_of`."""
    end = horizon_end(as_of, horizon_days)
    if newest_day is None or newest_day < end - dt.timedelta(days=1):
        raise DateError(
            f"the horizon of {as_of} has not passed: its {horizon_days} days end before {end}, and the newest event is "
            f"of {newest_day}; outcomes are never written early"
        )
