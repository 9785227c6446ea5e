"""What the YAML files may say: how they add up, and every mistake that is found before Spark starts."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from features.core.errors import SettingsError
from features.settings.storage import Storage
from jobs.running.settings import Settings
from jobs.running.settings_files import load
from tests.data.source_rows import SETTINGS, merged

Tree = dict[str, Any]

SOURCE: Tree = {"source": {"tables": {"rows": {"format": "parquet", "uri": "rows.parquet"}}}}
BASE: Tree = merged(SETTINGS, {**SOURCE, "storage": {"root": "store"}})


def write(folder: Path, name: str, tree: Tree) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return str(path)


def loaded(folder: Path, *overrides: str, **changes: Any) -> Settings:
    return load([write(folder, "settings.yaml", merged(BASE, changes))], overrides)


def problems(folder: Path, *overrides: str, **changes: Any) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        loaded(folder, *overrides, **changes)
    assert caught.value.exit_code == 2
    return caught.value.problems


def levels(*thresholds: dict[str, Any] | None, names: str = "abcdef") -> list[Tree]:
    return [{"name": n, **({} if t is None else {"from": t})} for n, t in zip(names, thresholds, strict=False)]


# ---- how settings add up --------------------------------------------------------------------------------------------


def test_base_of_these_tests_is_valid(tmp_path: Path) -> None:
    assert loaded(tmp_path).tiers.rule().thresholds == {"spend": (50_000_000,)}


def test_what_follows_from_settings_is_computed_once_and_anew_in_a_changed_copy(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    assert found.contract is found.contract
    changed = found.model_copy(update={"sequence": found.sequence.model_copy(update={"length": 3})})
    assert changed.contract.length == 3 != found.contract.length
    assert changed.contract.id != found.contract.id
    assert changed.hash != found.hash


def test_later_files_win_and_mappings_are_merged_key_by_key(tmp_path: Path) -> None:
    first = write(tmp_path, "first.yaml", merged(BASE, {"spark": {"options": {"a": 1, "b": 1}}}))
    second = write(tmp_path, "second.yaml", {"spark": {"options": {"b": 2}}, "features": {"windows_days": [3]}})
    found = load([first, second])
    assert (found.spark.options["a"], found.spark.options["b"]) == (1, 2)
    assert found.features.windows_days == [3]  # lists are replaced


def test_extends_is_read_first_and_relative_to_its_own_file(tmp_path: Path) -> None:
    write(tmp_path, "below/base.yaml", merged(BASE, {"sequence": {"length": 3}, "horizon": {"days": 3}}))
    write(tmp_path, "below/middle.yaml", {"extends": "base.yaml", "horizon": {"days": 4}, "known_by": "ingested_at"})
    other = write(tmp_path, "other.yaml", {"horizon": {"days": 5}})
    top = write(tmp_path, "top.yaml", {"extends": ["below/middle.yaml", other], "sequence": {"length": 9}})
    found = load([top])
    assert (found.sequence.length, found.horizon.days, found.known_by) == (9, 5, "ingested_at")


@pytest.mark.parametrize("length", [1, 2, 3])
def test_bad_input_extends_in_a_circle(tmp_path: Path, length: int) -> None:
    for n in range(length):
        write(tmp_path, f"{n}.yaml", {"extends": f"{(n + 1) % length}.yaml"})
    with pytest.raises(SettingsError, match=r"extends itself: .*0\.yaml"):
        load([str(tmp_path / "0.yaml")])


def test_one_base_extended_twice_is_no_circle(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", BASE)
    for name in ("left", "right"):
        write(tmp_path, f"{name}.yaml", {"extends": "base.yaml"})
    assert load([write(tmp_path, "top.yaml", {"extends": ["left.yaml", "right.yaml"]})]).sequence.length == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "must hold a mapping of settings, not list"),
        ("", "must hold a mapping of settings, not NoneType"),
        ("a: [1", "is not YAML"),
        ("extends: nowhere.yaml", "cannot read .*nowhere.yaml: No such file"),
    ],
)
def test_bad_input_settings_file_that_holds_no_settings(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "odd.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        load([str(tmp_path / "odd.yaml")])


def test_bad_input_settings_file_of_other_bytes(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(SettingsError, match="is not YAML"):
        load([str(tmp_path / "odd.yaml")])


def test_overrides_win_over_files_and_are_read_as_yaml(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        "sequence.length=7",
        "sequence.length=8",
        "features.windows_days=[1, 2]",
        "source.query=SELECT a=b",
        "quality.freshest_event_days=null",
        "source.tables.rows.options.header='true'",
        "tiers.levels=[{name: low}, {name: high, from: {spend: 0.1}}]",
    )
    assert found.sequence.length == 8
    assert found.features.windows_days == [1, 2]
    assert found.source.query == "SELECT a=b"
    assert found.source.tables["rows"].options == {"header": "true"}
    assert found.tiers.rule().thresholds == {"spend": (100_000,)}


@pytest.mark.parametrize("override", ["sequence.length", "=5", "sequence.length='x", "a: b"])
def test_bad_input_override(tmp_path: Path, override: str) -> None:
    (problem,) = problems(tmp_path, override)
    assert problem.startswith(f"--set {override!r}: ")


def test_settings_cannot_be_changed_and_their_hash_follows_every_value(tmp_path: Path) -> None:
    plain, same = loaded(tmp_path), loaded(tmp_path)
    assert plain.hash == same.hash
    assert loaded(tmp_path, "scoring.rows_per_range=17").hash != plain.hash
    with pytest.raises(ValueError, match="frozen"):
        plain.known_by = "ingested_at"  # type: ignore[misc]


def test_contract_follows_what_rows_depend_on_and_nothing_else(tmp_path: Path) -> None:
    plain = loaded(tmp_path).contract
    assert plain.numeric == ("amount", "items")
    assert plain.categorical == ("event_type", "channel")
    for changed in (
        "sequence.length=6",
        "horizon.days=31",
        "known_by=ingested_at",
        "tiers.window_days=31",
        "features.windows_days=[7, 31]",
        "source.attributes.items.sequence=false",
        "tiers.levels=[{name: low}, {name: high, from: {spend: 50.000001}}]",
        "tiers.levels=[{name: low}, {name: top, from: {spend: 50}}]",
    ):
        assert loaded(tmp_path, changed).contract.id != plain.id, changed
    for unchanged in ("sequence.rows_per_range=9", "training.epochs=3", "storage.root=elsewhere"):
        assert loaded(tmp_path, unchanged).contract.id == plain.id, unchanged


@pytest.mark.parametrize(
    ("root", "base"),
    [
        ("s3a://bucket/path/", "s3a://bucket/path"),
        ("file:/data", "file:/data"),
        ("hdfs://name:8020/x", "hdfs://name:8020/x"),
        ("/data/store/", "/data/store"),
        ("store", str(Path.cwd() / "store")),
    ],
)
def test_storage_root_is_a_uri_or_an_absolute_path(root: str, base: str) -> None:
    assert Storage(root=root).base == base
    assert Storage(root=root).table("events") == f"{base}/tables/events"


@pytest.mark.parametrize("window", [1, 36_500])
def test_longest_and_shortest_window(tmp_path: Path, window: int) -> None:
    found = loaded(tmp_path, f"features.windows_days=[{window}]", f"tiers.window_days={window}")
    assert found.aggregates.windows_days == (window,)


def test_thresholds_are_exact(tmp_path: Path) -> None:
    # As floats, .1 + .2 is above .3, and 2**53 + 1 micro-units are 2**53.
    found = loaded(tmp_path, tiers={"levels": levels(None, {"spend": "0.3"}, {"spend": "9007199254.740993"})})
    assert found.tiers.rule().thresholds == {"spend": (300_000, 2**53 + 1)}


# ---- mistakes -------------------------------------------------------------------------------------------------------

MISTAKES: dict[str, tuple[Tree, str]] = {
    "unknown_key_at_the_top": ({"colour": 1}, "colour: unknown key"),
    "unknown_key_deep_down": (
        {"source": {"tables": {"rows": {"path": "x"}}}},
        "source.tables.rows.path: unknown key",
    ),
    "unknown_key_of_a_tier": (
        {"tiers": {"levels": [{"name": "a", "form": {"spend": 3}}, *levels(None, {"spend": 9})[1:]]}},
        "tiers.levels.0.form: unknown key",
    ),
    "one_tier_only": ({"tiers": {"levels": levels(None)}}, "tiers.levels: List should have at least 2 items"),
    "no_tiers": ({"tiers": {"levels": []}}, "tiers.levels: List should have at least 2 items"),
    "thresholds_equal": (
        {"tiers": {"levels": levels(None, {"spend": 9}, {"spend": 9})}},
        "tiers: thresholds must increase: spend from 9 of 'c' is not above 9 of 'b'",
    ),
    "thresholds_falling": (
        {"tiers": {"levels": levels(None, {"spend": 9}, {"spend": "8.999999"})}},
        "spend from 8.999999 of 'c' is not above 9 of 'b'",
    ),
    "thresholds_of_one_measure_not_increasing": (
        {"tiers": {"levels": levels(None, {"spend": 1, "purchases": 2}, {"spend": 2, "purchases": 2})}},
        "purchases from 2 of 'c' is not above 2 of 'b'",
    ),
    "threshold_of_0": ({"tiers": {"levels": levels(None, {"spend": 0})}}, "spend from 0 must be above 0"),
    "threshold_negative": ({"tiers": {"levels": levels(None, {"spend": -1})}}, "spend from -1 must be above 0"),
    "threshold_nan": ({"tiers": {"levels": levels(None, {"spend": float("nan")})}}, "tiers.levels.1.from.spend"),
    "threshold_infinite": ({"tiers": {"levels": levels(None, {"spend": float("inf")})}}, "tiers.levels.1.from.spend"),
    "threshold_too_fine": ({"tiers": {"levels": levels(None, {"spend": "1.0000001"})}}, "is finer than spend"),
    "threshold_of_half_a_purchase": (
        {"tiers": {"levels": levels(None, {"purchases": 1.5})}},
        "1.5 is finer than purchases is counted",
    ),
    "threshold_beyond_64_bits": (
        {"tiers": {"levels": levels(None, {"spend": 10**13})}},
        "is more spend than can be counted (9223372036854)",
    ),
    "threshold_of_1e300": ({"tiers": {"levels": levels(None, {"spend": "1e300"})}}, "more spend than can be counted"),
    "first_tier_with_a_threshold": (
        {"tiers": {"levels": levels({"spend": 1}, {"spend": 2})}},
        "the first tier 'a' takes every member",
    ),
    "second_tier_without_one": ({"tiers": {"levels": levels(None, None)}}, "tier 'b' needs thresholds"),
    "tiers_by_different_measures": (
        {"tiers": {"levels": levels(None, {"spend": 1}, {"purchases": 2})}},
        "tier 'c' has thresholds on ['purchases'], not ['spend']",
    ),
    "unknown_measure": ({"tiers": {"levels": levels(None, {"karma": 1})}}, "tiers.levels.1.from.karma"),
    "unknown_combination": ({"tiers": {"combine": "most_of"}}, "tiers.combine"),
    "points_without_expression": ({"tiers": {"levels": levels(None, {"points": 1})}}, "needs `points`"),
    "tier_name_twice": (
        {"tiers": {"levels": levels(None, {"spend": 1}, {"spend": 2}, names="abb")}},
        "tier name 'b' stands more than once",
    ),
    "tier_name_in_capitals": ({"tiers": {"levels": levels(None, {"spend": 1}, names="aB")}}, "tiers.levels.1.name"),
    "tier_name_of_an_emoji": (
        {"tiers": {"levels": levels(None, {"spend": 1}, names="a\N{FIRST PLACE MEDAL}")}},
        "tiers.levels.1.name",
    ),
    "tier_name_with_a_newline": (
        {"tiers": {"levels": [{"name": "a\n"}, *levels(None, {"spend": 1})[1:]]}},
        "tiers.levels.0.name",
    ),
    "tier_name_of_a_score": (
        {"tiers": {"levels": [{"name": "downgrade"}, {"name": "upgrade", "from": {"spend": 1}}]}},
        "a tier cannot be named 'downgrade'; a tier cannot be named 'upgrade'",
    ),
    "horizon_negative": ({"horizon": {"days": -1}}, "horizon.days"),
    "horizon_of_0": ({"horizon": {"days": 0}}, "horizon.days"),
    "horizon_beyond_the_calendar": ({"horizon": {"days": 10**8}}, "horizon.days"),
    "length_of_0": ({"sequence": {"length": 0}}, "sequence.length"),
    "length_of_a_half": ({"sequence": {"length": 2.5}}, "sequence.length"),
    "length_too_long": ({"sequence": {"length": 4097}}, "sequence.length"),
    "rule_window_of_0": ({"tiers": {"window_days": 0}}, "tiers.window_days"),
    "rule_window_beyond_the_calendar": ({"tiers": {"window_days": 10**8}}, "tiers.window_days"),
    "windows_none": ({"features": {"windows_days": []}}, "features.windows_days"),
    "windows_falling": ({"features": {"windows_days": [30, 7]}}, "windows_days must increase"),
    "windows_twice": ({"features": {"windows_days": [7, 7]}}, "windows_days must increase"),
    "window_beyond_the_calendar": ({"features": {"windows_days": [7, 10**20]}}, "features.windows_days.1"),
    "purchase_type_unknown": ({"events": {"purchase_type": "sale"}}, "purchase_type 'sale' is not among the types"),
    "types_twice": ({"events": {"types": ["purchase", "purchase"]}}, "types has repetitions"),
    "type_of_an_aggregates_name": (
        {"events": {"types": ["purchase", "spend", "trend_7d"]}},
        "types ['spend', 'trend_7d'] have the names of aggregates",
    ),
    "outlier_bound_negative": ({"events": {"largest_amount": -1}}, "events.largest_amount"),
    "outlier_bound_too_large": ({"events": {"largest_amount": "1000000000.000001"}}, "events.largest_amount"),
    "outlier_bound_too_fine": ({"events": {"largest_amount": "0.0000001"}}, "has more than 6 decimals"),
    "outliers_unknown": ({"events": {"outliers": "ignore"}}, "events.outliers"),
    "attribute_type_unknown": ({"source": {"attributes": {"x": {"type": "picture"}}}}, "source.attributes.x.type"),
    "attribute_of_an_event_columns_name": (
        {"source": {"attributes": {"amount": {"type": "numeric"}}}},
        "attributes ['amount'] have the names of event columns",
    ),
    "attribute_of_a_tables_name": (
        {"source": {"attributes": {"clipped_at": {"type": "numeric"}, "reasons": {"type": "categorical"}}}},
        "attributes ['clipped_at', 'reasons'] have the names of event columns",
    ),
    "attribute_name_ill_formed": (
        {"source": {"attributes": {"_user": {"type": "numeric"}}}},
        "source.attributes._user",
    ),
    "format_unknown": ({"source": {"tables": {"rows": {"format": "xls"}}}}, "source.tables.rows.format"),
    "csv_without_columns": ({"source": {"tables": {"rows": {"format": "csv"}}}}, "a csv table needs `columns`"),
    "share_above_1": ({"quality": {"largest_rejected_share": 1.1}}, "quality.largest_rejected_share"),
    "share_nan": ({"quality": {"largest_rejected_share": float("nan")}}, "quality.largest_rejected_share"),
    "ratios_the_wrong_way_round": (
        {"quality": {"day_rows_against_median": [10, 0.1]}},
        "day_rows_against_median must hold a ratio up to 1 and one from 1 on",
    ),
    "ratio_nan": ({"quality": {"day_rows_against_median": [0.1, float("nan")]}}, "day_rows_against_median must hold"),
    "known_by_unknown": ({"known_by": "hearsay"}, "known_by"),
    "model_unknown": ({"model": {"name": "oracle"}}, "there is no model 'oracle'; there are"),
    "key_variable_ill_formed": ({"pseudonyms": {"key_variable": "lower"}}, "pseudonyms.key_variable"),
    "root_empty": ({"storage": {"root": ""}}, "storage.root"),
    "query_empty": ({"source": {"query": ""}}, "source.query"),
}


@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=list(MISTAKES))
def test_bad_input_setting(tmp_path: Path, changes: Tree, message: str) -> None:
    found = problems(tmp_path, **changes)
    assert [p for p in found if message in p], found
    assert len(found) == 1
    assert "\n" not in found[0]


def test_bad_input_many_mistakes_are_listed_at_once_with_path_and_value(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        colour="red",
        horizon={"days": -3},
        sequence={"length": 0},
        known_by="hearsay",
        events={"types": ["Purchase"]},
        tiers={"levels": [{"name": "Low"}, {"name": "high", "from": {"spend": "much"}}]},
    )
    starts = [
        *["colour: unknown key", "horizon.days: ", "sequence.length: ", "known_by: ", "events.types.0: "],
        *["tiers.levels.0.name: ", "tiers.levels.1.from.spend: "],
    ]
    for start in starts:
        assert [p for p in found if p.startswith(start)], (start, found)
    for value in ("got -3", "got 0", "got 'hearsay'", "got 'Purchase'", "got 'Low'", "got 'much'"):
        assert [p for p in found if p.endswith(value)], (value, found)
    assert len(found) == len(starts)


def test_bad_input_all_mistakes_of_the_tier_rule_are_listed_at_once(tmp_path: Path) -> None:
    rule = levels({"spend": 1}, {"spend": 5, "points": 1}, {"spend": 5, "points": 2}, {"spend": 6}, names="abbd")
    (found,) = problems(tmp_path, tiers={"levels": rule})
    for problem in (
        "tier name 'b' stands more than once",
        "the first tier 'a' takes every member",
        "a threshold on points needs `points`",
        "tier 'd' has thresholds on ['spend'], not ['points', 'spend']",
        "spend from 5 of 'b' is not above 5 of 'b'",
    ):
        assert problem in found


def test_bad_input_missing_sections_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load([write(tmp_path, "nothing.yaml", {})])
    missing = {p.partition(":")[0] for p in caught.value.problems}
    assert missing == set(Settings.model_fields)


def test_rule_of_the_settings(tmp_path: Path) -> None:
    rule = loaded(
        tmp_path,
        tiers={
            "window_days": 9,
            "combine": "any_of",
            "points": "amount * 3",
            "levels": levels(None, {"points": 1, "spend": "2.5"}, {"points": 7, "spend": 3}),
        },
    ).tiers.rule()
    assert (rule.names, rule.window_days, rule.combination, rule.points) == (("a", "b", "c"), 9, "any_of", "amount * 3")
    assert dict(rule.thresholds) == {"spend": (2_500_000, 3_000_000), "points": (1_000_000, 7_000_000)}


def test_points_expression_without_a_threshold_on_points_is_left_out(tmp_path: Path) -> None:
    assert loaded(tmp_path, tiers={"points": "amount"}).tiers.rule().points is None
    assert loaded(tmp_path).events.largest_amount == Decimal(100_000)
