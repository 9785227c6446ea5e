"""Figures carried on from an earlier date against those counted from all days."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.kernel.aggregate_spec import AggregateSpec
from features.kernel.carried_figures import Carried, leaving_days
from features.kernel.day_histories import DayHistory
from features.kernel.tiers import TierRule
from features.kernel.window_figures import Totals, carried_columns, counted
from tests.data import reference
from tests.data.reference import D, Event, event


def carried(events: list[Event], late: set[int], start: dt.date, last: dt.date, spec: AggregateSpec) -> Carried:
    """Figures carried on from `start`, where the events with the numbers `late` were not known."""
    old = [n for n, e in enumerate(events) if reference.day_of(e) < start]
    known = reference.days_table([events[n] for n in old if n not in late])
    added = reference.days_table([e for n, e in enumerate(events) if n in late or n not in old])
    leaving = known.filter(pc.is_in(known["day"], pa.array(sorted(leaving_days(spec, start, last)), pa.date32())))
    users = {events[n]["user_id"] for n in late if n in old}
    shape = reference.days_table([e for e in events if e["user_id"] in users])
    histories = [DayHistory.from_runs([t]) for t in (added, leaving)]
    shape = shape.select(["user_id", "day", *carried_columns(spec)])
    return Carried(reference.totals_at(known, start, spec), *histories, DayHistory.from_runs([shape]), spec)


def check_equal(found: Totals, wanted: Totals) -> None:
    assert found.as_of == wanted.as_of
    assert found.users.to_pylist() == wanted.users.to_pylist()
    assert set(found.figures) == set(wanted.figures)
    for name, values in wanted.figures.items():
        assert found.figures[name].dtype == values.dtype == np.int64, name
        assert found.figures[name].tolist() == values.tolist(), name


@settings(deadline=None, max_examples=200)
@given(
    reference.members(),
    reference.rules(),
    st.sets(st.integers(0, 29)),
    st.sampled_from((0, 1, 2, 7, 30, 31, 89, 90, 91, 400)),
    st.sets(st.integers(0, 400), max_size=3),
)
def test_figures_carried_on_equal_those_counted(
    events: list[Event], rule: TierRule, late: set[int], passed: int, between: set[int]
) -> None:
    spec = reference.aggregate_spec(rule)
    start = D - dt.timedelta(days=passed)
    found = carried(events, late, start, D, spec)
    days = reference.days_table(events)
    for back in sorted({0, passed, *(b for b in between if b < passed)}):
        as_of = D - dt.timedelta(days=back)
        check_equal(found.at(as_of), reference.totals_at(days, as_of, spec))


def test_every_figure_is_counted() -> None:
    spec = reference.aggregate_spec(reference.simple_rule(window_days=45))
    totals = reference.totals_at(reference.days_table([event("ann", "1", -1)]), D, spec)
    assert tuple(totals.figures) == spec.figures or set(totals.figures) == set(spec.figures)
    assert len(spec.figures) == len(set(spec.figures))
    assert {"spend_45d", "spend_7d", "events_visit_90d"} <= set(spec.figures)


def test_a_late_purchase_between_two_changes_their_gap() -> None:
    spec = reference.aggregate_spec()
    events = [event("ann", "1", -20), event("ann", "2", -10), event("ann", "3", -14, late=True), event("bob", "4", -3)]
    figures = carried(events, {2}, D - dt.timedelta(days=5), D, spec).at(D).figures
    assert [figures[n].tolist() for n in ("gaps", "gap_days", "gap_squares")] == [[2, 0], [10, 0], [36 + 16, 0]]


def test_squared_amounts_are_exact() -> None:
    events = [event("ann", str(n), -n, amount="999999999.999999") for n in range(1, 9)]
    totals = reference.totals_at(reference.days_table(events), D, reference.aggregate_spec())
    high, low = (int(totals.figures[n][0]) for n in ("squares_high", "squares_low"))
    assert (high << 48) + low == 8 * 999_999_999_999_999**2
    assert totals.squared_amounts[0] == pytest.approx(8e18, rel=1e-8)


def test_bad_input_squares_beyond_their_sums_are_refused() -> None:
    days = reference.days_table([event("ann", "1", -1)])
    huge = pa.array([reference.exactly(reference.Fraction(10**25))], pa.decimal128(38, 12))
    with pytest.raises(OverflowError, match="squared amounts"):
        DayHistory.from_runs([days.set_column(days.column_names.index("squared_amount"), "squared_amount", huge)])


def test_no_days_have_no_users() -> None:
    assert (
        counted(
            DayHistory.from_runs([reference.days_table([])]).before(D), reference.aggregate_spec()
        ).users.to_pylist()
        == []
    )
