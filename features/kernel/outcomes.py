"""Rows of `outcomes`: what became of the members known at an as-of date."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from features.core.arrays import Ints
from features.core.arrow_numbers import micros_to_decimal
from features.core.contract import outcome_column, tier_days
from features.core.errors import DateError
from features.kernel.aggregate_spec import AggregateSpec
from features.kernel.day_histories import DayHistory, UserDays
from features.kernel.user_ids import places_of


def outcome_rows(
    users: pa.Array,
    history: DayHistory,
    as_of: dt.date,
    horizon_days: int,
    spec: AggregateSpec,
    targets: Sequence[str] = (),
) -> pa.Table:
    """Outcome value, tier and further targets of `users`, ascending by user id.

    Args:
        users: ids of the members known before `as_of`, each once, ascending.
        history: rollup days, of other members and dates too. With tiers among the targets it must reach back as far as
            the rule's window.
        as_of: first day of the outcome window.
        horizon_days: days of the outcome window.
        spec: the tier rule; its measures are summed over the outcome window.
        targets: further outcomes, see `features.core.contract.TARGET`. The tier of `tier_30d` is the one that the
            member has 30 days later, by the rule's own window up to then.
    """
    end, n = horizon_end(as_of, horizon_days), len(users)
    days = history.before(end)
    at = places_of(users, days.users)
    spend = _of_users(days.total("spend", horizon_days), at)
    rank = _rank(days, at, horizon_days, spec)

    def target(name: str) -> pa.Array:
        after = tier_days(name)
        if after is None:
            return pa.array(_of_users((days.last > days.since(horizon_days)).astype(np.int64), at) == 0)
        then = history.before(horizon_end(as_of, after))
        return pa.array(_rank(then, places_of(users, then.users), spec.rule.window_days, spec).astype(np.int32))

    return pa.table(
        {
            "user_id": users,
            "as_of_date": pa.repeat(pa.scalar(as_of, pa.date32()), n),
            "horizon_end": pa.repeat(pa.scalar(end, pa.date32()), n),
            "outcome_value": micros_to_decimal(spend, np.zeros(n, bool)),
            "outcome_tier": pa.array(spec.rule.names).take(pa.array(rank)),
            "outcome_tier_rank": pa.array(rank.astype(np.int32)),
            **{outcome_column(name): target(name) for name in targets},
        }
    )


def _rank(days: UserDays, at: Ints, newest: int, spec: AggregateSpec) -> Ints:
    """[n] rank by the rule over the last `newest` days of the members at the places `at`."""
    return spec.rule.rank({m: _of_users(days.total(c, newest), at) for m, c in spec.measured.items()})


def _of_users(totals: Ints, at: Ints) -> Ints:
    return np.append(totals, 0)[at]  # a member without events has place -1: the 0 at the end


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
