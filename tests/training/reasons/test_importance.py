"""What a network looks at over all members: exchanges against plain lists, weights by hand, stories without names."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.data.training_examples import CONTRACT, SMALL, encoding_of, example_rows, manifest_of
from training.reasons import importance, stories
from training.reasons.reason_codes import DOWNGRADE, TARGETS, UPGRADE, Attributions, event_reasons, reasons_of
from training.settings.scoring import ExplanationSettings

ROWS = example_rows(80, 5)
RANK = ROWS["current_tier_rank"].to_numpy().astype(np.int64)
RECENT_DAYS = 20
SETTINGS = ExplanationSettings(
    pieces=1, points=2, most_cuts=0, reasons=3, sample_members=80, least_members=1, repeats=2, shown_members=3,
    recent_days=RECENT_DAYS, wording={"spend": "what they spend"},
)  # fmt: skip

MANIFEST = manifest_of(CONTRACT, encoding_of(ROWS), parameters=SMALL["hybrid"])
NAMES = reasons_of(MANIFEST)


def attributions(parts: Any) -> Attributions:
    """The same parts [n, G] for both targets; events add their number, counted from the oldest, by 0.001."""
    n = len(parts)
    events = np.tile(np.arange(24) / 1000, (n, 1))
    chances = np.linspace(0.01, 0.9, n)
    return Attributions(
        NAMES, *(dict.fromkeys(TARGETS, x) for x in (parts, events, chances, chances - parts.sum(axis=1)))
    )


def _events(row: dict[str, Any]) -> list[tuple[Any, ...]]:
    return list(zip(*(row[name] for name in CONTRACT.array_columns), strict=True))


def _is(reason: str, event: tuple[Any, ...]) -> bool:
    when = "recent" if event[0] <= RECENT_DAYS * 86_400 else "earlier"
    return f"{when}_{event[CONTRACT.array_columns.index('seq_event_type')]}" == reason


@pytest.mark.parametrize("reason", ["recent_purchase", "earlier_purchase", "recent_campaign"])
def test_events_of_a_reason_are_exchanged_and_stand_in_their_time(reason: str) -> None:
    """Against lists of events, put together one by one."""
    partner = importance.partners(RANK, np.random.default_rng(1))
    found = importance.exchanged(ROWS, reason, partner, MANIFEST, RECENT_DAYS).to_pylist()
    before, changed = ROWS.to_pylist(), 0
    for n, row in enumerate(found):
        own = [e for e in _events(before[n]) if not _is(reason, e)]
        others = [e for e in _events(before[partner[n]]) if _is(reason, e)]
        expected = sorted([*own, *others], key=lambda e: -e[0])[-CONTRACT.length :]
        assert sorted(map(str, _events(row))) == sorted(map(str, expected))
        assert [e[0] for e in _events(row)] == [e[0] for e in expected]
        assert {k: v for k, v in row.items() if k not in CONTRACT.array_columns} == {
            k: v for k, v in before[n].items() if k not in CONTRACT.array_columns
        }
        changed += _events(row) != _events(before[n])
    assert changed > 20


def test_longer_rows_than_the_contract_keep_their_newest_events() -> None:
    full = example_rows(30, 6)
    partner = np.roll(np.arange(30), 1)
    found = importance.exchanged(full, "earlier_purchase", partner, MANIFEST, 0)
    lengths = pa.compute.list_value_length(found["seq_age"]).to_numpy()
    assert lengths.max() <= CONTRACT.length
    alone = importance.exchanged(full, "earlier_purchase", np.arange(30), MANIFEST, 0)
    assert alone.select(CONTRACT.array_columns).to_pylist() == full.select(CONTRACT.array_columns).to_pylist()


def test_aggregates_of_a_reason_are_exchanged_with_all_their_windows_and_nothing_else() -> None:
    partner = importance.partners(RANK, np.random.default_rng(2))
    found = importance.exchanged(ROWS, "spend", partner, MANIFEST, RECENT_DAYS)
    assert found["spend_90d"].to_pylist() == ROWS["spend_90d"].take(pa.array(partner)).to_pylist()
    rest = [name for name in ROWS.column_names if name != "spend_90d"]
    assert found.select(rest).equals(ROWS.select(rest))


def test_partners_are_of_the_same_tier_and_everybody_serves_once() -> None:
    found = importance.partners(RANK, np.random.default_rng(3))
    assert sorted(found) == list(range(80))
    assert (RANK[found] == RANK).all()
    assert (found != np.arange(80)).mean() > 0.8


def test_only_what_is_looked_at_is_lost() -> None:
    outcome = ROWS["outcome_tier_rank"].to_numpy().astype(np.int64)

    def predict(rows: pa.Table) -> np.ndarray:
        """Knows the outcome by the spend alone."""
        near = -np.abs(np.log1p(rows["spend_90d"].to_numpy())[:, None] - np.log([150.0, 450.0, 1000.0]))
        return np.exp(3 * near) / np.exp(3 * near).sum(axis=1, keepdims=True)

    whole = importance.loss(predict(ROWS), outcome)
    without = {
        name: importance.loss_without(ROWS, outcome, name, 0, predict, MANIFEST, RECENT_DAYS) - whole for name in NAMES
    }
    assert without.pop("spend") > 0.02
    assert set(without.values()) == {0.0}


def test_amounts_are_means_of_inputs_and_numbers_of_events() -> None:
    found = importance.amounts(ROWS, MANIFEST, RECENT_DAYS)
    spend = np.log1p(ROWS["spend_90d"].to_numpy())
    np.testing.assert_allclose(found[:, NAMES.index("spend")], (spend - spend.mean()) / spend.std(), atol=1e-5)
    for name in ("recent_purchase", "earlier_campaign"):
        counted = [sum(_is(name, e) for e in _events(row)) for row in ROWS.to_pylist()]
        assert found[:, NAMES.index(name)].tolist() == counted


def test_weights_tell_much_from_little_within_each_tier() -> None:
    """Eight members of two tiers; one reason adds what they have of it, one is the same for all."""
    current = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    amount = np.array([[1, 5], [2, 5], [3, 5], [4, 5], [11, 5], [12, 5], [13, 5], [14, 5]], float)
    parts = np.array([[-2, 1], [-1, 1], [1, -1], [2, -1], [-20, 1], [-10, 1], [10, -1], [20, -1]], float) / 100
    found = Attributions(("a", "b"), *(dict.fromkeys(TARGETS, x) for x in (parts, parts, parts[:, 0], parts[:, 0])))
    (a, b) = importance.weights(found, amount, current, 3)
    assert a[UPGRADE] == importance.Weight(pytest.approx(0.0825), pytest.approx(0.11), pytest.approx(-0.11))
    assert a[DOWNGRADE] == importance.Weight(pytest.approx(0.15), pytest.approx(0.2), pytest.approx(-0.2))
    assert (b[UPGRADE].mean, b[UPGRADE].much, b[UPGRADE].little) == (pytest.approx(0.01), None, None)


def test_what_nobody_can_do_weighs_nothing() -> None:
    current = np.zeros(4, np.int64)
    found = attributions(np.ones((4, len(NAMES))))
    for weight in importance.weights(found, np.ones((4, len(NAMES))), current, 2):
        assert weight[DOWNGRADE] == importance.Weight(0.0, None, None)


def test_overall_puts_the_heaviest_first_and_keeps_no_ids() -> None:
    parts = np.zeros((80, len(NAMES)))
    parts[:, NAMES.index("recency_days")], parts[:, NAMES.index("spend")] = 0.3, -0.1
    rows = ROWS.append_column("user_id", [[f"member-{n}" for n in range(80)]])
    found = importance.overall(rows, attributions(parts), {"spend": [0.1, 0.3]}, MANIFEST, SETTINGS)
    assert [r.reason for r in found.reasons[:2]] == ["recency_days", "spend"]
    assert found.reasons[1].wording == "what they spend"
    assert found.reasons[1].loss == pytest.approx(0.2)
    assert found.reasons[0].loss is None
    assert (found.members, found.complete) == (80, 1.0)
    assert "member-" not in str(dataclasses.asdict(found))


def test_stories_differ_and_tell_events_and_reasons_of_one_member() -> None:
    parts = np.tile(np.arange(len(NAMES)) / 100, (80, 1))
    told = stories.stories(ROWS, attributions(parts), MANIFEST, 3, 2, SETTINGS.words)
    assert [story.target for story in told] == [UPGRADE, DOWNGRADE, UPGRADE]
    assert len({story.probability for story in told}) == 3
    assert told[0].tier != "gold"
    assert told[1].tier != "base"
    assert abs(told[2].probability - 0.5) < 0.1
    lengths = pa.compute.list_value_length(ROWS["seq_age"]).to_numpy()
    for story in told:
        assert len(story.days) == len(story.kinds) == len(story.contributions)
        assert np.median(lengths) <= len(story.days) or len(story.days) == 24
        assert list(story.days) == sorted(story.days, reverse=True)
        np.testing.assert_allclose(story.contributions, np.arange(len(story.days)) / 1000)
        assert [added for _, added in story.reasons] == pytest.approx([(len(NAMES) - 1) / 100, (len(NAMES) - 2) / 100])
    assert stories.stories(ROWS, attributions(parts), MANIFEST, 0, 2, SETTINGS.words) == ()


def test_members_without_events_have_a_story_too() -> None:
    empty = ROWS.slice(0, 6)
    for name in CONTRACT.array_columns:
        place = empty.column_names.index(name)
        empty = empty.set_column(place, empty.schema.field(place), pa.array([[]] * 6, empty.schema.field(place).type))
    (story, *_) = stories.stories(empty, attributions(np.ones((6, len(NAMES)))), MANIFEST, 1, 1, SETTINGS.words)
    assert story.days == ()


def test_types_that_training_did_not_know_share_a_reason() -> None:
    strange = ROWS.to_pylist()[:10]
    for row in strange:
        row["seq_event_type"] = ["a new one"] * len(row["seq_event_type"])
    rows = pa.Table.from_pylist(strange, schema=ROWS.schema)
    found = importance.amounts(rows, MANIFEST, 10_000)
    lengths = pa.compute.list_value_length(rows["seq_age"]).to_numpy()
    assert found[:, NAMES.index("recent_other_event")].tolist() == lengths.tolist()
    assert found[:, [NAMES.index(n) for n in event_reasons(MANIFEST) if n != "recent_other_event"]].sum() == 0
