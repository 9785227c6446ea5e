"""As-of dates as people write them: one date, or a range of dates with a step."""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import re

from dateutil.relativedelta import relativedelta
from pydantic import Field, model_validator

from features.core.strict import Strict

STEP = re.compile(r"^([1-9][0-9]*)(mo|w|d)$")
"""A step as people write it: 1mo, 2w, 7d."""

_UNITS = {"mo": relativedelta(months=1), "w": relativedelta(weeks=1), "d": relativedelta(days=1)}


def dates(text: str) -> list[dt.date]:
    """Dates of a command line: DATE alone, FROM..TO for every day, or FROM..TO/STEP with a step such as 1mo.

    Raises:
        argparse.ArgumentTypeError: the text is none of these.
    """
    span, _, every = text.partition("/")
    first, dots, last = span.partition("..")
    try:
        if not dots:
            return [dt.date.fromisoformat(text)]
        return list(expand(DateRange.model_validate({"from": first, "to": last, "every": every or "1d"})))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not DATE, FROM..TO, FROM..TO/1w or FROM..TO/1mo") from None


class DateRange(Strict):
    """Dates from `from` on, one for each step, up to `to`; a date that falls on `to` is among them."""

    from_: dt.date = Field(alias="from", description="first as-of date")
    to: dt.date = Field(description="no as-of date after this one")
    every: str = Field(pattern=STEP.pattern, description="step from one date to the next: 1mo, 2w, 7d")

    @model_validator(mode="after")
    def _not_empty(self) -> DateRange:
        if self.to < self.from_:
            raise ValueError(f"`to` {self.to} lies before `from` {self.from_}")
        return self


def expand(dates: DateRange) -> tuple[dt.date, ...]:
    """Every date of a range, ascending. Month steps count from `from`: a short month does not move later dates."""
    steps = (stepped(dates.from_, dates.every, times) for times in itertools.count())
    return tuple(itertools.takewhile(lambda date: date <= dates.to, steps))


def stepped(date: dt.date, every: str, times: int) -> dt.date:
    """The date that lies `times` steps of `every` later, or earlier where `times` is negative.

    A month step keeps the day of the month, or takes the last day of a shorter month.
    """
    found = STEP.match(every)
    assert found is not None  # the settings checked it
    count, unit = found.groups()
    return date + _UNITS[unit] * (int(count) * times)
