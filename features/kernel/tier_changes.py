"""The dates on which the tiers of many members changed.

A key is one integer for a member's place and a date: keys sort by member, then date.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from features.core.arrays import Ints
from features.kernel.aggregate_spec import AggregateSpec
from features.kernel.day_histories import DayHistory
from features.kernel.run_columns import NEVER
from features.kernel.tiers import TierRule

DATES_PER_USER = 1 << 25
"""Dates that a key has room for per member: more than 90,000 years."""

DATE_BIAS = 1 << 24
"""Added to a date's days since 1970: half of the room is for dates before."""


def last_change(changes: Ints, who: Ints, limit: int) -> Ints:
    """[n] date of the last change up to `limit` of the members `who`, else `NEVER`; `changes` are keys, ascending."""
    if not len(changes):
        return np.full(len(who), NEVER)
    last = np.searchsorted(changes, who * DATES_PER_USER + limit + DATE_BIAS, side="right") - 1
    user, date = np.divmod(changes[last], DATES_PER_USER)
    return np.where((last >= 0) & (user == who), date - DATE_BIAS, NEVER)


def changes_of_days(history: DayHistory, spec: AggregateSpec) -> Ints:
    """Keys of all tier changes, from complete histories."""
    enters = history.user_of_day * DATES_PER_USER + history.day + 1 + DATE_BIAS
    amounts = {m: history.columns[c] for m, c in spec.measured.items()}
    leaves = {m: -v for m, v in amounts.items()}
    nothing = {m: np.zeros(len(history.users), np.int64) for m in amounts}
    moves = [(enters, amounts), (enters + spec.rule.window_days, leaves)]
    return tier_changes(moves, nothing, None, spec.rule)


def tier_changes(
    moves: Iterable[tuple[Ints, Mapping[str, Ints]]], starts: Mapping[str, Ints], after: int | None, rule: TierRule
) -> Ints:
    """Keys, ascending, of the members and dates on which a tier changed.

    A day's amounts enter the trailing window on the day after it and leave `window_days` later. A tier can change on
    these dates only, so running sums over them give every tier that was held.

    Args:
        moves: keys, and what each measure gains at each of them; negative where amounts leave the window.
        starts: each member's measures before all moves.
        after: moves up to this date are left out; None: none are.
        rule: the tier rule.
    """
    parts = list(moves)
    key = np.concatenate([keys for keys, _ in parts])
    gained = {m: np.concatenate([amounts[m] for _, amounts in parts]) for m in starts}
    if after is not None:
        later = key % DATES_PER_USER > after + DATE_BIAS
        key, gained = key[later], {m: v[later] for m, v in gained.items()}
    order = np.argsort(key, kind="stable")  # a few ascending runs: merged
    key = key[order]
    last_of_date = np.flatnonzero(np.diff(key, append=-1) != 0)
    who = key // DATES_PER_USER
    begins = np.flatnonzero(np.diff(who, prepend=-1) != 0)
    per_user = np.diff(begins, append=len(who))
    values = {}
    for measure, amounts in gained.items():
        running = np.cumsum(amounts[order])
        offset = starts[measure][who[begins]] - np.concatenate([[0], running])[begins]
        values[measure] = (running + np.repeat(offset, per_user))[last_of_date]
    key, who = key[last_of_date], who[last_of_date]
    rank = rule.rank(values)
    previous = np.concatenate([[0], rank])[: len(rank)]
    fresh = np.diff(who, prepend=-1) != 0
    previous[fresh] = rule.rank(starts)[who[fresh]]
    return key[rank != previous]
