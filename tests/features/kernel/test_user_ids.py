"""Ids made distinct, merged and looked up, against plain Python; of one length, like pseudonyms, and of several."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from features.kernel.user_ids import ascend, factorize, merged_ids, places_of

WORDS = st.one_of(
    st.sets(st.text("ab\0é", max_size=3), max_size=12),
    st.sets(st.text("019f", min_size=2, max_size=2), max_size=12),
)


@given(WORDS, WORDS, st.booleans())
def test_ids_are_found_among_others_as_python_finds_them(sought: set[str], among: set[str], sliced: bool) -> None:
    known = sorted(among, key=str.encode)
    ids, others = (pa.array([*["0"] * sliced, *words], pa.string())[sliced:] for words in (list(sought), known))
    assert places_of(ids, others).tolist() == [known.index(word) if word in among else -1 for word in sought]
    assert ascend(others)
    assert ascend(ids) == (list(sought) == sorted(sought, key=str.encode))
    assert not ascend(pa.concat_arrays([others, others])) or not known


@given(WORDS, WORDS)
def test_ids_of_two_parts_are_merged_as_python_merges_them(first: set[str], second: set[str]) -> None:
    parts = [sorted(words, key=str.encode) for words in (first, second)]
    users, places = merged_ids(*(pa.array(words, pa.string()) for words in parts))
    assert users.to_pylist() == sorted(first | second, key=str.encode)
    assert [users[int(place)].as_py() for place in places] == parts[0]


def test_ids_of_two_parts_once_and_in_order_and_where_the_first_ones_are() -> None:
    first, none, second = (pa.array(ids, pa.string()) for ids in (["b", "d"], [], ["a", "b", "e"]))
    users, places = merged_ids(first, second)
    assert (users.to_pylist(), places.tolist()) == (["a", "b", "d", "e"], [1, 2])
    users, places = merged_ids(first, none)
    assert users is first
    assert places.tolist() == [0, 1]
    users, places = merged_ids(none, second)
    assert (users.to_pylist(), places.tolist()) == (["a", "b", "e"], [])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(["0", "1", "f"]), min_size=1, max_size=30), st.sampled_from([31, 32, 33]))
def test_invariant_3_ids_of_pseudonyms_length_are_told_apart_like_any_others(last: list[str], width: int) -> None:
    ids = [f"{'a' * (width - 2)}{c}{n % 2}" for n, c in enumerate(last)]
    codes, distinct = factorize(pa.array([None, *ids]).slice(1))
    assert distinct.to_pylist() == sorted(set(ids))
    assert [distinct[int(c)].as_py() for c in codes] == ids
