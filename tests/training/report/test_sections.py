"""Drift and fairness as a reader of the report meets them."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from tests.data.report_inputs import FAIRNESS, JUDGED, NOW, STEADY, Page, forecast_case, inputs_of
from training.report import page


@pytest.fixture(scope="module")
def case() -> dict[str, Any]:
    return forecast_case()


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)).replace("\u2013", "-")


def test_drift_at_the_gate_stands_beside_drift_now(case: dict[str, Any]) -> None:
    html = page.render(inputs_of(case, verdict=JUDGED, drift=NOW, predicted_tiers=(50, 30, 20)))
    Page(html)
    text = text_of(html)
    assert "2 of 18 features have moved further" in text
    assert "spend_30d 0.111 0.01 1.234 0.50 too far" in text
    assert re.search(r"tenure_days - - 0.900 2.25 by nature", text)
    assert "&lt;events&gt;" in html
    assert "steady_14" in text
    assert "steady_01" not in text  # no room for all that are steady
    assert re.search(r"t0 50.0% \d+\.\d%", text)


def test_drift_that_was_not_measured_is_said_so(case: dict[str, Any]) -> None:
    assert "this model has not scored it" in text_of(page.render(inputs_of(case, verdict=JUDGED)))
    assert "still the members" not in page.render(inputs_of(case))
    calm = text_of(page.render(inputs_of(case, verdict=JUDGED, drift=STEADY, predicted_tiers=(1, 1, 1))))
    assert "None of 15 features has moved further" in calm


def test_groups_are_shown_with_intervals_and_small_ones_named_only(case: dict[str, Any]) -> None:
    html = page.render(inputs_of(case, fairness=FAIRNESS))
    Page(html)
    text = text_of(html)
    assert "Groups of 120 of the 300 members evaluated are known" in text
    assert "No difference between groups is beyond its bound" in text
    assert "65+ 60 20.0% 10.0% to 30.0% - 81.0% 72.0% to 90.0% -" in text
    assert "Too small to show: 45-54." in text
    assert "chance 15.0%" in text
    assert "&lt;young&gt;" in html


def test_groups_that_are_not_served_alike_are_the_headline(case: dict[str, Any]) -> None:
    far = dataclasses.replace(FAIRNESS.disparities[0], difference=0.4, level="refusal")
    html = page.render(inputs_of(case, fairness=dataclasses.replace(FAIRNESS, disparities=(far,))))
    text = text_of(html)
    assert "Refused: groups are not served alike" in text
    assert "groups by age: accuracy of 65+ is 0.400 above that of 19" in text
    warned = dataclasses.replace(far, level="warning")
    html = page.render(inputs_of(case, fairness=dataclasses.replace(FAIRNESS, disparities=(warned,))))
    assert "Beyond the warning bound: groups by age" in text_of(html)
    assert "served alike?" in text_of(html)
