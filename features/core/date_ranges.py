"""As-of dates as people write them: one date, or a range with a step."""

from __future__ import annotations

import argparse
import calendar
import datetime as dt
import re

from pydantic import Field, model_validator

from features.core.strict import Strict

STEP = re.compile(r"^([1-9][0-9]*)(mo|w|d)$")


def dates(text: str) -> list[dt.date]:
    """One date, or the first of each step of a range FROM..TO (by day) or FROM..TO/1mo, /1w."""
    span, _, every = text.partition("/")
    first, dots, last = span.partition("..")
    try:
        if not dots:
            return [dt.date.fromisoformat(text)]
        return list(expand(DateRange.model_validate({"from": first, "to": last, "every": every or "1d"})))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not DATE, FROM..TO, FROM..TO/1w or FROM..TO/1mo") from None


class DateRange(Strict):
    """Dates from `from` to `to`, both included, one `every` step."""

    from_: dt.date = Field(alias="from", description="first as-of date")
    to: dt.date = Field(description="no as-of date after this one")
    every: str = Field(pattern=STEP.pattern, description="step from one date to the next: 1mo, 2w, 7d")

    @model_validator(mode="after")
    def _not_empty(self) -> DateRange:
        if self.to < self.from_:
            raise ValueError(f"`to` {self.to} lies before `from` {self.from_}")
        return self


def expand(dates: DateRange) -> tuple[dt.date, ...]:
    """Every date of a range, ascending. Month steps keep the day of `from`, or take a shorter month's last day."""
    every, step = [], 0
    while (date := stepped(dates.from_, dates.every, step)) <= dates.to:
        every.append(date)
        step += 1
    return tuple(every)


def stepped(date: dt.date, every: str, times: int) -> dt.date:
    """The date so many steps (`1mo`, `2w`, `7d`) later, or earlier for less than 0 of them."""
    found = STEP.match(every)
    assert found is not None  # the settings checked it
    count, unit = int(found[1]) * times, found[2]
    if unit != "mo":
        return date + dt.timedelta(days=count * (7 if unit == "w" else 1))
    years, month = divmod(date.month - 1 + count, 12)
    year = date.year + years
    return dt.date(year, month + 1, min(date.day, calendar.monthrange(year, month + 1)[1]))
