"""The report as a reader meets it: complete, self-contained, escaped, and honest where nothing is known."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import re
from typing import Any

import matplotlib
import numpy as np
import pytest

from tests.data.report_inputs import VERDICT, Page, comparison_of, forecast_case, inputs_of, overall_of, whole
from training.evaluation import comparison, curves, metrics
from training.judging.verdict import REFIT
from training.report import contents, figure_names, plots
from training.report.page import render
from training.report.words import headline_of, summary_lines
from training.rivals import baselines


@pytest.fixture(scope="module")
def case() -> dict[str, Any]:
    return forecast_case()


@pytest.fixture(scope="module")
def html(case: dict[str, Any]) -> str:
    return render(whole(case))


def test_the_page_loads_nothing_from_outside(html: str) -> None:
    page = Page(html)
    assert "http" not in html
    assert "url(" not in html
    assert "@import" not in html
    assert "<script" not in html
    assert all(source and source.startswith("data:image/svg+xml;base64,") for source in page.sources)


def test_pictures_load_nothing_from_outside_either(html: str) -> None:
    for image in Page(html).images:
        svg = base64.b64decode(str(image["src"]).split(",", 1)[1]).decode()
        assert not re.search(r'href="(?!#)', svg)
        assert "@import" not in svg


def test_every_picture_says_in_words_what_it_shows(html: str) -> None:
    images = Page(html).images
    assert len(images) == 12 + 5 + 3  # of reasons and stories, and of current tiers
    assert all(len(image["alt"] or "") > 30 for image in images)


def test_all_parts_are_there(html: str) -> None:
    for part in (
        "Corner shop", "1 October 2017", "rule of t1", "free tea", "hybrid-1", "155,848", "A sample of 300 members.",
        "Markov", "Stays in tier", "Majority tier", "Confusion matrix", "Upgrades found", "Loss by epoch",
    ):  # fmt: skip
        assert part in html, part
    for metric in figure_names.METRICS:
        assert metric.title in html
    numbers = {field.name for field in dataclasses.fields(metrics.Scores)} - {"tiers", "rows"}
    assert {metric.key for metric in figure_names.METRICS} == numbers


def test_equal_inputs_give_equal_pages(case: dict[str, Any], html: str) -> None:
    assert render(whole(case)) == html


def test_drawing_leaves_matplotlib_as_it_was(case: dict[str, Any]) -> None:
    before = dict(matplotlib.rcParams)
    render(whole(case))
    assert dict(matplotlib.rcParams) == before


def test_what_users_write_is_escaped(case: dict[str, Any]) -> None:
    evil = "<script>alert('$x_2$ & \"y\"')</script>"
    names = ["base", evil, "gold"]
    named = case | {"tiers": names}
    cards = [contents.TierCard(name, evil, [evil]) for name in names]
    html = render(inputs_of(named, title=evil, tiers=cards, versions={evil: evil}, rows={evil: 1}, notes=[evil]))
    assert "<script" not in html
    assert html.count("&lt;script&gt;") > 8
    Page(html)


def test_without_outcomes_it_says_so_and_shows_the_forecast(case: dict[str, Any]) -> None:
    html = render(inputs_of(case, comparison=None, as_of=dt.date(2018, 1, 1)))
    assert "Outcomes are not known yet" in html
    assert "1 April 2018" in html
    assert "Where members are heading" in html
    for absent in ("Logloss", "Confusion", "Reached", "simple rule", "Upgrades found"):
        assert absent not in html, absent
    Page(html)


def test_without_history_versions_rows_and_notes(case: dict[str, Any]) -> None:
    html = render(inputs_of(case, history=(), versions={}, rows={}, notes=()))
    assert "Loss by epoch" not in html
    assert "Data and versions" not in html
    Page(html)


def test_history_with_holes_is_drawn_as_far_as_it_is_known(case: dict[str, Any]) -> None:
    history = [
        {"epoch": 1, "loss": 2.0, "validation_loss": None},
        {"epoch": 2, "loss": 1.5, "validation_loss": 1.7},
        {},
    ]
    html = render(inputs_of(case, history=history))
    assert "Loss by epoch" in html
    assert "Learning rate and speed" not in html


@pytest.mark.parametrize("k", [2, 5, 13])
def test_any_number_of_tiers(k: int) -> None:
    case = forecast_case(k, 150)
    Page(render(inputs_of(case)))
    Page(render(inputs_of(case, comparison=None)))


def test_nobody_moved_and_all_in_the_top_tier() -> None:
    tiers = ["base", "gold"]
    for rank in (0, 1):
        case = {"probabilities": [[0.4, 0.6]] * 5, "current": [rank] * 5, "outcome": [rank] * 5, "tiers": tiers}
        html = render(inputs_of(case))
        assert "No member moved up" in html
        assert "cannot be said" in html
        Page(html)


def test_long_tier_names_are_shortened_in_pictures_only() -> None:
    case = forecast_case(2, 50) | {"tiers": ["base", "friends_of_the_house_and_family"]}
    assert "friends_of_the_house_and_family" in render(inputs_of(case))


def test_tiers_of_forecast_and_report_must_be_the_same(case: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"forecast has tiers .*'t2'.* the report \['base'\]"):
        inputs_of(case, tiers=[contents.TierCard("base", "everyone")])


@pytest.mark.parametrize(
    ("flip", "level", "words"), [(False, "ahead", "earns its place"), (True, "behind", "do not beat")]
)
def test_verdict_is_for_the_better_one(flip: bool, level: str, words: str) -> None:
    case = forecast_case(3, 600)
    p = np.eye(3)[case["outcome"]] * 0.9 + 0.1 / 3
    found = headline_of(comparison_of(case | {"probabilities": np.roll(p, 1, axis=1) if flip else p}))
    assert found.level == level
    assert words in found.title
    assert len(found.sentences) == 3


def test_verdict_is_mixed_for_a_good_order_with_bad_probabilities() -> None:
    case = forecast_case(3, 600)
    sharp = case["probabilities"] ** 12
    found = headline_of(comparison_of(case | {"probabilities": sharp / sharp.sum(axis=1, keepdims=True)}))
    assert found.level == "mixed"
    assert "above" in found.sentences[0]


def test_equal_to_a_baseline_is_not_better() -> None:
    case = forecast_case(3, 300)
    counts = baselines.transition_counts(case["current"], case["outcome"], 3)
    markov = baselines.fit_baselines(counts)["markov"].predict(case["current"])
    assert headline_of(comparison_of(case | {"probabilities": markov})).level == "behind"


def test_a_verdict_needs_something_to_beat(case: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least one baseline"):
        headline_of(comparison.Comparison(comparison_of(case).model, {}))


def test_summary_is_an_aligned_table_with_the_best_marked(case: dict[str, Any]) -> None:
    found = comparison_of(case)
    lines = summary_lines(found)
    assert len(lines) == len(figure_names.METRICS) + 2
    assert lines[0].split() == ["model", "majority", "stays", "markov"]
    assert f"{found.model.logloss:.3f}" in lines[1]
    assert all("*" in line for line in lines[1:-1])
    ends = [line.rstrip("* ") for line in lines[1:-1]]
    assert {len(line) for line in ends} == {len(lines[0]) - 1}


def test_summary_writes_a_dash_where_a_figure_is_undefined() -> None:
    case = {"probabilities": [[0.4, 0.6]] * 5, "current": [0] * 5, "outcome": [0] * 5, "tiers": ["base", "gold"]}
    line = next(line for line in summary_lines(comparison_of(case)) if line.startswith("Upgrade AUC"))
    assert line.split()[2:] == ["\u2013"] * 4


@pytest.mark.parametrize("k", [2, 3, 4, 5, 6, 9])
def test_tier_colours_are_distinct(k: int) -> None:
    assert len(set(plots.tier_colours(k))) == k


def test_what_the_gate_said_stands_in_the_page() -> None:
    case = forecast_case()
    page = render(inputs_of(case))
    for said in (
        "This model was refused",
        "members now in t1 are &lt;strange&gt;",
        "as of\n1 July 2017",
        "300 members",
    ):
        assert said in page
    assert "The model published before</th><td>0.600" in page
    published = render(inputs_of(case, verdict=dataclasses.replace(VERDICT, reasons=())))
    assert "Why this model was published" in published
    assert "trained anew" not in published
    refit = dataclasses.replace(VERDICT, figures={**VERDICT.figures, REFIT: 0.5})
    again = render(inputs_of(case, verdict=refit))
    assert "Then the network was trained anew, for as many epochs, with these members among its rows" in again
    assert "Trained anew with them</th><td>0.500" in again
    assert "was refused" not in render(inputs_of(case, verdict=None))


def test_a_refused_model_is_named_on_top_with_the_reasons() -> None:
    case = forecast_case()
    page = render(inputs_of(case))
    top = page[: page.index("members scored")]
    assert 'class="card verdict behind"' in top
    assert '<p class="stamp">Refused</p>' in top
    assert "<li>members now in t1 are &lt;strange&gt;</li>" in top
    published = render(inputs_of(case, verdict=dataclasses.replace(VERDICT, reasons=()), comparison=None))
    assert '<p class="stamp">Published</p>' in published
    assert 'class="card verdict pending"' in published
    assert "Refused" not in published


def test_reasons_are_told_for_those_who_decide_and_for_those_who_ask(html: str) -> None:
    places = [html.index(x) for x in ("Why members move", "For data scientists", "What the forecast stands on")]
    assert places == sorted(places)
    for said in (
        "&lt;recent_purchase&gt; in words: +7.0 for those with most of it, -2.0 for those with least",
        "The chance of moving up is 40%; the average t0 member&#39;s is 20%.",
        "99.6%",
        "+0.0200",
    ):
        assert said in html, said
    recent = html[html.index("Recent behaviour and") : html.index("Members as examples")]
    assert recent.index("recent_purchase") < recent.index("recent_campaign")
    assert "tenure" not in recent


def test_without_outcomes_nothing_is_said_of_what_is_lost() -> None:
    case = forecast_case()
    page = render(inputs_of(case, comparison=None, by_tier=(), reasons=overall_of(case["tiers"], ())))
    assert "Why members move" in page
    assert "Lost without it" not in page
    assert "Members now in t0" not in page.replace("<th>Members now in</th>", "")
    Page(page)
    assert "Why members move" not in render(inputs_of(case, comparison=None))


def test_calibration_of_each_current_tier_stands_with_its_interval() -> None:
    case = forecast_case()
    found = curves.reliability_by_tier(**case, draws=50)
    page = render(inputs_of(case, by_tier=found))
    for tier in found:
        low, high = tier.interval or (0.0, 0.0)
        assert f"<td>{tier.members}</td><td>{tier.calibration_error:.1%}</td>" in page
        assert f"{low:.1%} to {high:.1%}" in page


def test_challengers_stand_beside_the_model_with_intervals() -> None:
    case = forecast_case()
    counts = baselines.transition_counts(case["current"], case["outcome"], 3)
    rivals = {"lightgbm": np.full((300, 3), 1 / 3), "forest": case["probabilities"]}
    found = comparison.compare(
        **case,
        rivals=comparison.Rivals(baselines.fit_baselines(counts), rivals, {"logistic": "no <end>"}),
        draws=50,
    )
    page = render(inputs_of(case, comparison=found))
    for said in (
        "<th>LightGBM</th>",
        "Better by more than chance?",
        "Logistic regression could not be fitted: no &lt;end&gt;",
    ):
        assert said in page
    assert "Random forest, has a logloss of" in page
    assert "chance can explain the difference" in page
    said = "\n".join(summary_lines(found))
    assert "lightgbm" in said
    assert "95 % intervals" in said
    assert "logistic could not be fitted" in said
    wide = said[said.index("95 % intervals") :].splitlines()
    assert wide[1].split() == ["majority", "stays", "markov", "lightgbm", "forest"]
    low, high = found.intervals["markov"]["brier"]
    assert f"{low:+.3f} {high:+.3f}".replace("0.", ".") in next(x for x in wide if x.startswith("Brier"))
    assert len({len(line) for line in wide[1:9]}) == 1
