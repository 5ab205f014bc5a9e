"""Two lists become one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.vector_search.fusion import Hit, Lists, depth, fused, reciprocal_rank, weighted

DENSE, BM25 = {"a": 0.9, "b": 0.5, "c": 0.1}, {"c": 8.0, "d": 4.0}
BOTH = Lists(list(DENSE), list(BM25), {**DENSE, "d": 0.0}, {**BM25, "b": 2.0}, "COSINE")
scores = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=2), st.floats(-1, 1), max_size=20)


def only(dense: dict[str, float], metric: str) -> Lists:
    return Lists(sorted(dense, key=dense.__getitem__, reverse=metric != "L2"), [], dense, {}, metric)


def test_reciprocal_ranks_are_summed_over_the_lists() -> None:
    assert fused(reciprocal_rank(60), BOTH, 3) == [
        Hit("c", pytest.approx(1 / 63 + 1 / 61), 0.1, 8.0), Hit("a", pytest.approx(1 / 61), 0.9, None),
        Hit("b", pytest.approx(1 / 62), 0.5, 2.0),
    ]  # fmt: skip  # d has b's score, and comes after it


def test_a_distance_is_near_where_it_is_small() -> None:
    far = only({"far": 9.0, "near": 1.0}, "L2")
    assert [hit.id for hit in fused(reciprocal_rank(1), far, 2)] == ["near", "far"]
    assert [(hit.id, hit.score) for hit in fused(weighted(1, 0), far, 2)] == [
        ("near", 1.0),
        ("far", pytest.approx(0.2)),
    ]


def test_weighted_scores_count_from_the_least_there_can_be_and_each_hit_has_both() -> None:
    found = {hit.id: hit.score for hit in fused(weighted(0.5, 1.0), BOTH, 9)}
    assert found == {
        "a": 0.5, "b": pytest.approx(0.5 * 1.5 / 1.9 + 0.25), "c": pytest.approx(0.5 * 1.1 / 1.9 + 1),
        "d": pytest.approx(0.5 / 1.9 + 0.5),
    }  # fmt: skip


def test_an_inner_product_counts_from_the_least_of_its_list() -> None:
    found = {hit.id: hit.score for hit in fused(weighted(1, 0), only({"a": 7.0, "b": 5.0, "c": 3.0}, "IP"), 9)}
    assert found == {"a": 1.0, "b": 0.5, "c": 0.0}
    assert fused(weighted(1, 0), only({"a": 7.0}, "IP"), 9)[0].score == 1.0


@given(scores, scores.map(lambda found: {one: abs(score) for one, score in found.items()}), st.integers(1, 30))
def test_each_is_found_once_best_first(dense: dict[str, float], bm25: dict[str, float], limit: int) -> None:
    lists = Lists(list(dense), list(bm25), {**dict.fromkeys(bm25, -0.5), **dense}, bm25, "COSINE")
    for fuse in (reciprocal_rank(60), weighted(0.3, 0.7)):
        found = fused(fuse, lists, limit)
        assert len({hit.id for hit in found}) == len(found) == min(limit, len(dense.keys() | bm25.keys()))
        assert found == sorted(found, key=lambda hit: (-hit.score, hit.id))
        assert all((hit.dense, hit.bm25) == (lists.dense[hit.id], bm25.get(hit.id)) for hit in found)


def test_depth() -> None:
    assert (depth(1), depth(60), depth(1000)) == (50, 60, 1000)
