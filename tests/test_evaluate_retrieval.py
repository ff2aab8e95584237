"""Retrieval both ways against sorted lists and cases worked out by hand."""

from __future__ import annotations

import dataclasses
from itertools import permutations

import numpy as np
import pytest
from scipy import sparse

from okrcell.corpus.shards import CellMatrix
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.methods import MethodOutput, unit
from okrcell.evaluate.retrieval import Ranks, ceiling, rank_pairs, retrieval

SMALL = EvaluateConfig(bootstrap=100, fold=60, max_folds=2)
TERMS = {
    "T cell": "CL:0000084",
    "CD4-positive, alpha-beta T cell": "CL:0000624",
    "CD8-positive, alpha-beta T cell": "CL:0000625",
    "monocyte": "CL:0000576",
    "no term": "",
}


def by_hand(scores: np.ndarray, right: np.ndarray) -> Ranks:
    """Rank every query on its own; scores and right [queries, items]."""
    found = []
    for line, is_right in zip(scores, right, strict=True):
        best = line[is_right].max()
        wrong = line[~is_right]
        found.append(((wrong > best).sum(), (wrong == best).sum(), (line[is_right] == best).sum()))
    return Ranks(*np.asarray(found).T)


def make_data(n: int = 200, per_type: int = 3) -> EvalData:
    """Five types with a few texts each."""
    types = sorted(TERMS)
    code = np.arange(n) % len(types)
    profile = np.asarray([f"{c}.{i // len(types) % per_type}" for i, c in enumerate(code)])
    return EvalData(
        dataset="toy",
        matrix=CellMatrix(sparse.csr_matrix((n, 1), dtype=np.float32), ("ENSG0",), "counts"),
        cell_uids=np.asarray([f"toy:{i}" for i in range(n)]),
        labels=np.asarray(types)[code],
        batches=np.full(n, ""),
        donors=np.full(n, ""),
        splits=np.where(np.arange(n) < n // 4, "train", "test"),
        profile_ids=profile,
        term_ids=TERMS,
        descriptions={p: f"Text {p} of {types[int(p[0])]}." for p in profile},
    )


def encode(texts: list[str]) -> np.ndarray:
    rows = [np.random.default_rng(list(text.encode())).normal(size=24) for text in texts]
    return unit(np.asarray(rows, dtype=np.float32))


def method_of(data: EvalData, noise: float) -> MethodOutput:
    own = encode([data.descriptions[p] for p in data.profile_ids])
    cells = own + noise * np.random.default_rng(0).normal(size=own.shape)
    return MethodOutput("m", cells.astype(np.float32), "", encode)


def test_retrieval_without_duplicates_equals_a_sorted_list() -> None:
    rng = np.random.default_rng(8)
    cells, texts = (rng.normal(size=(30, 6)).astype(np.float32) for _ in range(2))
    scores = cells @ texts.T
    by_hand = np.asarray([(scores[i] > scores[i, i]).sum() + 1 for i in range(30)])
    ranks = rank_pairs(cells, texts, np.arange(30))
    for form in ("strict", "graded"):
        np.testing.assert_allclose(ranks[f"cell to text, {form}"].expected, by_hand)
    back = np.asarray([(scores[:, i] > scores[i, i]).sum() + 1 for i in range(30)])
    for form in ("strict", "graded"):
        np.testing.assert_allclose(ranks[f"text to cell, {form}"].expected, back)
    for k in (1, 5, 10):
        assert ranks["cell to text, strict"].recall(k).mean() == pytest.approx(
            (by_hand <= k).mean()
        )


def test_perfect_retrieval_reaches_the_duplicate_ceiling_and_no_more() -> None:
    text_ids = np.asarray([0, 0, 0, 1, 2])
    texts = np.eye(3, dtype=np.float32)
    ranks = rank_pairs(texts[text_ids], texts, text_ids)
    for way in ("cell to text", "text to cell"):
        strict = ranks[f"{way}, strict"]
        np.testing.assert_allclose(strict.recall(1), [1 / 3, 1 / 3, 1 / 3, 1, 1])
        np.testing.assert_allclose(strict.expected, [2, 2, 2, 1, 1])
        np.testing.assert_allclose(ranks[f"{way}, graded"].recall(1), 1.0)


def test_equal_scores_count_by_expectation_not_by_position() -> None:
    cells = np.ones((6, 2), dtype=np.float32)
    ranks = rank_pairs(cells, np.ones((6, 2), dtype=np.float32), np.arange(6))
    np.testing.assert_allclose(ranks["cell to text, strict"].recall(2), 2 / 6)
    np.testing.assert_allclose(ranks["cell to text, strict"].expected, 3.5)


def test_graded_recall_with_ties_by_hand() -> None:
    ranks = Ranks(*(np.asarray([value]) for value in (1, 2, 2)))
    # Four tied items, two right, behind one wrong: at k = 2 one draw, at k = 3 two draws.
    np.testing.assert_allclose([ranks.recall(k)[0] for k in (1, 2, 3, 4)], [0, 1 / 2, 5 / 6, 1])


def test_retrieval_does_not_depend_on_order() -> None:
    rng = np.random.default_rng(9)
    cells = rng.normal(size=(300, 6)).astype(np.float32)
    texts, text_ids = rng.normal(size=(12, 6)).astype(np.float32), rng.integers(12, size=300)
    order = rng.permutation(300)
    plain, mixed = (
        rank_pairs(cells, texts, text_ids),
        rank_pairs(cells[order], texts, text_ids[order]),
    )
    for way, ranks in plain.items():
        np.testing.assert_allclose(ranks.expected[order], mixed[way].expected)


@pytest.mark.parametrize("n_texts", [5, 40, 300])
def test_all_forms_equal_ranking_every_query_on_its_own(n_texts: int) -> None:
    rng = np.random.default_rng(n_texts)
    n, n_types = 300, 6
    # Whole numbers, so that there are many ties; some texts belong to cells of several types.
    cells = rng.integers(-1, 2, size=(n, 5)).astype(np.float32)
    texts = rng.integers(-1, 2, size=(n_texts, 5)).astype(np.float32)
    text_ids, types = rng.integers(n_texts, size=n), rng.integers(n_types, size=n)
    near = rng.random((n_types, n_types)) < 0.3
    np.fill_diagonal(near, True)
    ranks = rank_pairs(cells, texts, text_ids, types, near)
    scores = cells @ texts[text_ids].T
    right = {
        "strict": np.eye(n, dtype=bool),
        "graded": text_ids[:, None] == text_ids,
        "same type": types[:, None] == types,
        "ontology-near": near[types][:, types],
    }
    assert len(ranks) == 8
    for form, is_right in right.items():
        for way, table in (("cell to text", scores), ("text to cell", scores.T)):
            expected, found = by_hand(table, is_right), ranks[f"{way}, {form}"]
            for part in ("above", "tied", "right"):
                np.testing.assert_array_equal(
                    getattr(found, part), getattr(expected, part), err_msg=f"{way}, {form}"
                )


def test_recall_is_the_mean_over_all_orders_of_the_tied() -> None:
    ranks = Ranks(*(np.asarray([value]) for value in (1, 3, 2)))
    orders = set(permutations([False] * 3 + [True] * 2))
    for k in range(1, 7):
        hits = [any(order[: max(k - 1, 0)]) for order in orders]
        assert ranks.recall(k)[0] == pytest.approx(np.mean(hits))
    first = [1 + 1 + order.index(True) for order in orders]
    assert ranks.expected[0] == pytest.approx(np.mean(first))


def test_two_pairs_and_one_pair() -> None:
    eye = np.eye(2, dtype=np.float32)
    ranks = rank_pairs(eye, eye[::-1].copy(), np.arange(2), np.arange(2), np.eye(2, dtype=bool))
    for found in ranks.values():
        np.testing.assert_allclose(found.expected, 2.0)
    one = rank_pairs(eye[:1], eye[:1], np.zeros(1, dtype=np.intp), np.zeros(1, dtype=np.intp))
    for found in one.values():
        np.testing.assert_allclose(found.recall(1), 1.0)


def test_texts_that_no_cell_has_do_not_count() -> None:
    rng = np.random.default_rng(1)
    cells, texts = (rng.normal(size=(n, 4)).astype(np.float32) for n in (20, 30))
    text_ids = rng.choice(np.arange(0, 30, 3), size=20)
    used, again = np.unique(text_ids, return_inverse=True)
    first, second = rank_pairs(cells, texts, text_ids), rank_pairs(cells, texts[used], again)
    for way, ranks in first.items():
        np.testing.assert_array_equal(ranks.expected, second[way].expected)


def test_forms_grow_more_lenient_and_a_perfect_method_is_always_right() -> None:
    data = make_data()
    rows = {row.metric: row for row in retrieval(method_of(data, 0.5), data, SMALL).rows}
    for way in ("cell to text", "text to cell"):
        for k in (1, 5, 10):
            strict, graded, same = (
                rows[f"R@{k} ({way}, {form})"].value for form in ("strict", "graded", "same type")
            )
            assert strict <= graded <= same
    perfect = {row.metric: row for row in retrieval(method_of(data, 0), data, SMALL).rows}
    best = {row.metric: row for row in ceiling(data, SMALL).rows if "ceiling" in row.method}
    for metric, row in perfect.items():
        if "strict" not in metric:
            assert row.value == 1.0
        elif not metric.startswith("median"):
            assert row.value == pytest.approx(best[metric].value)


def test_near_is_asked_of_types_with_a_term_and_siblings_are_near() -> None:
    data = make_data()
    result = retrieval(method_of(data, 0.5), data, SMALL)
    n = {row.metric: row.n for row in result.rows}
    assert n["R@1 (cell to text, same type)"] == 120
    assert 0 < n["R@1 (cell to text, ontology-near)"] < 120
    # Cells of CD4 T cells sit on the texts of CD8 T cells, and the other way round.
    sibling = {"0": "1", "1": "0"}
    profiles = [f"{sibling.get(p[0], p[0])}{p[1:]}" for p in data.profile_ids]
    crossed = MethodOutput("m", encode([data.descriptions[p] for p in profiles]), "", encode)
    one_fold = EvaluateConfig(bootstrap=100, fold=150, max_folds=1)
    rows = {row.metric: row.value for row in retrieval(crossed, data, one_fold).rows}
    assert rows["R@1 (cell to text, ontology-near)"] == 1.0
    assert rows["R@1 (cell to text, same type)"] == pytest.approx(3 / 5)
    none = dataclasses.replace(data, term_ids={})
    metrics = {row.metric for row in retrieval(method_of(none, 0.5), none, SMALL).rows}
    assert "R@1 (cell to text, same type)" in metrics
    assert not any("ontology-near" in metric for metric in metrics)


def test_folds_are_asked_apart_and_rows_have_draws() -> None:
    data = make_data()
    result = retrieval(method_of(data, 0.5), data, SMALL)
    assert (result.details["fold"], result.details["n_folds"]) == (60, 2)
    assert max(k for k, _ in result.details["curve"]["cell to text, strict"]) <= 60
    for row in result.rows:
        assert row.n in {120, *(r.n for r in result.rows if "near" in r.metric)}
        assert result.draws[row.metric].shape == (100,)
        assert row.ci_low <= row.value <= row.ci_high
