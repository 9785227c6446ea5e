"""Weights of examples, so that a member, or a time span, with many as-of dates does not count many times.

Outcome windows of neighbouring dates overlap, so weekly dates repeat what monthly ones say, and a member who was known
at twenty dates is seen twenty times. With `by_user` an example counts as the share of its outcome window that no other
training date covers (the average uniqueness of a label, Lopez de Prado 2018, Advances in Financial Machine Learning,
chapter 4), and the examples of a member add up to 1.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import numpy as np


def uniqueness(dates: Sequence[dt.date], horizon_days: int) -> dict[dt.date, float]:
    """For each date: the mean, over the days of its outcome window, of 1 / the number of windows with that day; 0..1.

    Times `horizon_days`, they add up to the number of days that are in any window.
    """
    starts = np.array([date.toordinal() for date in dates])
    days = np.arange(starts.min(), starts.max() + horizon_days)
    inside = (starts[:, None] <= days) & (days < starts[:, None] + horizon_days)
    shares = (inside / np.maximum(inside.sum(axis=0), 1)).sum(axis=1) / horizon_days
    return dict(zip(dates, shares.tolist(), strict=True))
