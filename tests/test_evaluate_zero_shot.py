"""Zero-shot annotation: candidates, credit, answers, confidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from scipy import sparse, special
from sklearn import metrics

from okrcell.corpus.ontology import ancestors, get_term, terms
from okrcell.corpus.shards import CellMatrix
from okrcell.errors import ConfigError
from okrcell.evaluate import intervals
from okrcell.evaluate.answers import nearest, read
from okrcell.evaluate.calibration import (
    add_calibration,
    auroc_of,
    confidence_bins,
    ece_of,
    fit_temperature,
    log_odds,
    pick_threshold,
)
from okrcell.evaluate.candidates import (
    PROMPTS,
    candidate_vectors,
    open_sets,
    open_vectors,
    type_texts,
    type_vectors,
)
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.intervals import Bootstrap, f1_of_counts, type_counts
from okrcell.evaluate.methods import MethodOutput, unit
from okrcell.evaluate.ontology_credit import credit_between, credit_matrix, live_term
from okrcell.evaluate.refine import graph_basis, refine_scores
from okrcell.evaluate.rows import TaskResult
from okrcell.evaluate.zero_shot import majority_zero_shot, zero_shot

SMALL = EvaluateConfig(bootstrap=100)
TYPES = ("B cell", "T cell", "monocyte", "natural killer cell")
TERMS = ("CL:0000236", "CL:0000084", "CL:0000576", "CL:0000623")


def encode(texts: list[str]) -> np.ndarray:
    """Equal texts, equal unit rows."""
    rows = [np.random.default_rng(list(text.encode())).normal(size=24) for text in texts]
    return unit(np.asarray(rows, dtype=np.float32))


def make_data(n: int = 200, seed: int = 0, validation: bool = True) -> EvalData:
    """Four types; natural killer cells are in the test split only."""
    rng = np.random.default_rng(seed)
    code = np.arange(n) % 4
    splits = rng.choice(["train", "validation", "test"] if validation else ["train", "test"], n)
    splits[code == 3] = "test"
    counts = rng.poisson(1 + 4 * (np.arange(40) // 10 == code[:, None])).astype(np.float32)
    return EvalData(
        dataset="toy",
        matrix=CellMatrix(
            sparse.csr_matrix(counts), tuple(f"ENSG{i:011d}" for i in range(40)), "counts"
        ),
        cell_uids=np.asarray([f"toy:{i}" for i in range(n)]),
        labels=np.asarray(TYPES)[code],
        batches=np.full(n, ""),
        donors=np.full(n, ""),
        splits=splits,
        profile_ids=np.asarray([f"p{i}" for i in range(4)])[code],
        term_ids=dict(zip(TYPES, TERMS, strict=True)),
        descriptions={f"p{i}": f"A description of the {name}." for i, name in enumerate(TYPES)},
    )


def noisy(data: EvalData, wording: str, noise: float = 0.25, seed: int = 1) -> MethodOutput:
    """Cells near the text of their type."""
    assert wording in {"description", "label"}
    vectors = type_vectors(encode, type_texts(data, wording))
    own = vectors[np.searchsorted(data.types, data.labels)]
    cells = own + noise * np.random.default_rng(seed).normal(size=own.shape)
    return MethodOutput("m", cells.astype(np.float32), "", encode, wording)


def values(result: TaskResult) -> dict[str, float]:
    return {row.metric: row.value for row in result.rows}


@pytest.fixture
def data() -> EvalData:
    return make_data()


# --- credit ----------------------------------------------------------------------------------


def test_ontology_credit_by_hand() -> None:
    types = [
        "T cell",
        "CD4-positive, alpha-beta T cell",
        "CD8-positive, alpha-beta T cell",
        "unnamed",
    ]
    terms = dict(zip(types, ["CL:0000084", "CL:0000624", "CL:0000625", ""], strict=True))
    credit = credit_matrix(types, terms)
    np.testing.assert_allclose(np.diag(credit), 1.0)
    np.testing.assert_allclose(credit, credit.T)
    assert credit[1, 2] == pytest.approx(1 / 3)  # siblings below "alpha-beta T cell"
    assert credit[0, 1] == pytest.approx(1 / 4)  # three steps down from T cell
    assert credit[3, :3].tolist() == [0.0, 0.0, 0.0]


def test_credit_of_many_terms_equals_the_pairwise_definition() -> None:
    ids = [term.term_id for term in terms("cl")]
    rng = np.random.default_rng(0)
    true, said = rng.choice(ids, 12).tolist(), rng.choice(ids, 40).tolist()
    above = {term: {**ancestors(term), term: 0} for term in {*true, *said}}
    credit = credit_between([*true, ""], [*said, ""])
    for i, first in enumerate(true):
        for j, second in enumerate(said):
            shared = above[first].keys() & above[second].keys()
            steps = min(above[first][term] + above[second][term] for term in shared)
            assert credit[i, j] == pytest.approx(1 / (1 + steps))
    assert not credit[-1].any()
    assert not credit[:, -1].any()


def test_an_obsolete_id_counts_as_what_replaced_it() -> None:
    live = next(term for term in terms("cl") if term.replaces)
    assert live_term(live.replaces[0]) == live.term_id
    assert live_term("CL:9999999") == live_term("") == ""
    assert credit_between([live.replaces[0]], [live.term_id])[0, 0] == 1.0


def test_no_true_term_no_credit() -> None:
    assert credit_between([""], ["CL:0000084"]).tolist() == [[0.0]]
    assert credit_between([], ["CL:0000084"]).shape == (0, 1)


# --- candidates --------------------------------------------------------------------------------


def test_three_wordings_of_the_same_candidates(data: EvalData) -> None:
    assert type_texts(data, "label") == [(name,) for name in TYPES]
    prompts = type_texts(data, "prompts")[1]
    assert prompts == tuple(prompt.format("T cell") for prompt in PROMPTS)
    vectors = type_vectors(encode, type_texts(data, "prompts"))
    mean = encode(list(prompts)).mean(axis=0)
    np.testing.assert_allclose(vectors[1], mean / np.linalg.norm(mean), atol=1e-6)
    method = noisy(data, "description")
    expected = encode([data.descriptions[f"p{i}"] for i in range(4)])
    np.testing.assert_allclose(candidate_vectors(method, data), expected, atol=1e-6)


def test_further_wordings_are_rows_of_the_scope_all(data: EvalData) -> None:
    by_description = values(zero_shot(noisy(data, "description"), data, SMALL))
    assert {"accuracy (all, label)", "macro_f1 (all, prompts)"} <= by_description.keys()
    assert "accuracy (all, description)" not in by_description
    by_label = values(zero_shot(noisy(data, "label"), data, SMALL))
    assert {"accuracy (all, description)", "accuracy (all, prompts)"} <= by_label.keys()
    assert "accuracy (all, label)" not in by_label
    assert by_label["accuracy (all)"] > 0.9 > by_label["accuracy (all, description)"]
    bare = dataclasses.replace(
        data,
        text_kind="label",
        descriptions={f"p{i}": name for i, name in enumerate(TYPES)},
    )
    rows = values(zero_shot(noisy(bare, "label"), bare, SMALL))
    assert "accuracy (all, description)" not in rows


def test_open_sets_of_blood_of_roots_of_a_name_and_of_nothing(data: EvalData) -> None:
    (everything,), notes = open_sets(data)
    assert (everything.name, notes) == ("all CL", [])
    assert everything.terms == tuple(sorted(term.term_id for term in terms("cl")))
    blood, _ = open_sets(dataclasses.replace(data, tissue="peripheral blood"))[0]
    assert blood.name == "tissue CL"
    assert {"CL:0000988", *TERMS} <= set(blood.terms)
    assert all("CL:0000988" in {t, *ancestors(t)} for t in blood.terms)
    roots, _ = open_sets(dataclasses.replace(data, candidate_roots=("CL:0000084",)))[0]
    assert set(roots.terms) - set(TERMS) == {
        t.term_id for t in terms("cl") if "CL:0000084" in ancestors(t.term_id)
    }
    lung, _ = open_sets(dataclasses.replace(data, tissue="Lung"))[0]
    assert set(TERMS) < set(lung.terms)
    texts = [
        " ".join((term.label, *term.synonyms, term.definition)).lower()
        for term in map(get_term, set(lung.terms) - set(TERMS))
        if term
    ]
    assert all("lung" in text for text in texts)
    only_all, notes = open_sets(dataclasses.replace(data, tissue="no such place"))
    assert [chosen.name for chosen in only_all] == ["all CL"]
    assert "no such place" in notes[0]


def test_a_root_that_is_no_term_is_refused(data: EvalData) -> None:
    with pytest.raises(ConfigError, match="CL:9999999, no live terms"):
        open_sets(dataclasses.replace(data, candidate_roots=("CL:0000084", "CL:9999999")))


def test_open_candidates_get_the_same_kind_of_text() -> None:
    asked: list[str] = []

    def counting(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return encode(texts)

    wanted = ("CL:0000084", "CL:0000236")
    vectors = open_vectors(counting, wanted, "description")
    term = get_term("CL:0000084")
    assert term is not None
    np.testing.assert_allclose(vectors[0], encode([f"T cell: {term.definition}"])[0], atol=1e-6)
    n_asked = len(asked)
    again = open_vectors(counting, wanted[::-1], "description")
    np.testing.assert_array_equal(again[::-1], vectors)
    assert len(asked) == n_asked  # remembered
    labels = open_vectors(counting, wanted, "label")
    np.testing.assert_allclose(labels, encode(["T cell", "B cell"]), atol=1e-6)


def test_what_cannot_be_hashed_can_still_encode() -> None:
    class Encoder:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, texts: list[str]) -> np.ndarray:
            return encode(texts)

    assert open_vectors(Encoder(), ("CL:0000084",), "label").shape == (1, 24)


# --- answers -----------------------------------------------------------------------------------


def test_answers_equal_a_sorted_list_and_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    cells, vectors = unit(rng.normal(size=(5000, 8))), unit(rng.normal(size=(30, 8)))
    right = rng.integers(30, size=5000)
    found = nearest(cells, vectors, right)
    scores = cells @ vectors.T
    ranked = np.argsort(-scores, axis=1, kind="stable")
    np.testing.assert_array_equal(found.best, ranked[:, 0])
    np.testing.assert_array_equal(found.place, (ranked == right[:, None]).argmax(axis=1))
    for k in (1, 3, 5):
        assert (found.place < k).mean() == pytest.approx(
            metrics.top_k_accuracy_score(right, scores, k=k, labels=np.arange(30))
        )


def test_equal_scores_stand_in_the_order_of_candidates() -> None:
    found = read(np.ones((3, 3), dtype=np.float32), np.arange(3))
    assert found.best.tolist() == [0, 0, 0]
    assert found.place.tolist() == [0, 1, 2]
    one = read(np.zeros((2, 1), dtype=np.float32), np.zeros(2, dtype=np.intp))
    assert one.place.tolist() == [0, 0]


def test_f1_of_counts_equals_scikit_learn_and_knows_no_other_candidates() -> None:
    rng = np.random.default_rng(3)
    truth, said = rng.integers(4, size=300), rng.integers(-1, 6, size=300)
    f1 = f1_of_counts(type_counts(truth, said, 4)(np.ones((1, 300))))
    expected = metrics.f1_score(truth, said, labels=np.arange(4), average="macro")
    assert f1[0] == pytest.approx(expected)
    weights = rng.integers(0, 3, size=(2, 300)).astype(float)
    for weight, value in zip(
        weights, f1_of_counts(type_counts(truth, said, 4)(weights)), strict=True
    ):
        again = np.repeat(np.arange(300), weight.astype(int))
        assert value == pytest.approx(
            metrics.f1_score(truth[again], said[again], labels=np.arange(4), average="macro")
        )


def test_rows_of_the_closed_question_equal_scikit_learn(data: EvalData) -> None:
    method = noisy(data, "description", noise=0.4)
    rows = values(result := zero_shot(method, data, SMALL))
    assert method.cells is not None
    scores = unit(method.cells[data.test]) @ candidate_vectors(method, data).T
    truth, said = data.labels[data.test], np.asarray(TYPES)[scores.argmax(axis=1)]
    assert rows["accuracy (all)"] == pytest.approx(metrics.accuracy_score(truth, said))
    assert rows["macro_f1 (all)"] == pytest.approx(metrics.f1_score(truth, said, average="macro"))
    assert rows["top3 (all)"] == pytest.approx(
        metrics.top_k_accuracy_score(truth, scores, k=3, labels=TYPES)
    )
    unseen = truth == "natural killer cell"
    assert rows["accuracy (unseen)"] == pytest.approx((said == truth)[unseen].mean())
    assert rows["accuracy (seen)"] == pytest.approx((said == truth)[~unseen].mean())
    assert not any("unseen_only" in metric for metric in rows)  # one candidate is no question
    np.testing.assert_array_equal(
        result.details["matrix"], metrics.confusion_matrix(truth, said, labels=TYPES)
    )
    for row in result.rows:
        assert row.ci_low <= row.value <= row.ci_high
        assert np.isfinite(result.draws[row.metric]).all()


def test_a_perfect_method_is_right_about_every_open_term(data: EvalData) -> None:
    blood = dataclasses.replace(data, tissue="blood")
    vectors = open_vectors(encode, TERMS, "label")
    cells = vectors[np.searchsorted(TYPES, data.labels)]
    rows = values(result := zero_shot(MethodOutput("m", cells, "", encode, "label"), blood, SMALL))
    for chosen in ("tissue CL", "all CL"):
        for metric in ("accuracy", "macro_f1", "ontology_credit", "top3", "top5"):
            for scope in ("all", "unseen"):
                assert rows[f"{metric} ({scope}, {chosen})"] == 1.0
        assert result.details["open"][chosen]["top_wrong"] == []
    assert result.details["open"]["all CL"]["n_candidates"] > 3000


def test_wrong_open_answers_are_named_and_credited(data: EvalData) -> None:
    vectors = open_vectors(encode, TERMS, "label")
    cells = vectors[np.searchsorted(TYPES, data.labels)]
    nk = data.labels == "natural killer cell"
    cells[nk] = open_vectors(encode, ["CL:0000542"], "label")[0]  # lymphocyte
    result = zero_shot(MethodOutput("m", cells, "", encode, "label"), data, SMALL)
    rows, n = values(result), int((data.labels[data.test] == "natural killer cell").sum())
    assert rows["accuracy (all, all CL)"] == pytest.approx(1 - n / len(data.test))
    assert rows["macro_f1 (all, all CL)"] == pytest.approx(3 / 4)
    expected = credit_between(["CL:0000623"], ["CL:0000542"])[0, 0]
    assert 0 < expected < 1
    assert rows["ontology_credit (unseen, all CL)"] == pytest.approx(expected)
    assert result.details["open"]["all CL"]["top_wrong"] == [
        ["natural killer cell", "lymphocyte", n]
    ]


def test_cells_without_a_term_take_no_part_in_the_open_question(data: EvalData) -> None:
    some = dataclasses.replace(data, term_ids={**data.term_ids, "T cell": "", "B cell": "XX:1"})
    result = zero_shot(noisy(some, "label"), some, SMALL)
    asked = int(np.isin(some.labels[some.test], TYPES[2:]).sum())
    (row,) = [row for row in result.rows if row.metric == "accuracy (all, all CL)"]
    assert row.n == asked
    assert any(f"{asked} of {len(some.test)} test cells" in note for note in result.notes)
    none = dataclasses.replace(data, term_ids={})
    result = zero_shot(noisy(none, "label"), none, SMALL)
    assert "open" not in result.details
    assert any("no open candidates" in note for note in result.notes)


def test_values_do_not_depend_on_the_order_of_cells(data: EvalData) -> None:
    method = noisy(data, "description", noise=0.5)
    order = np.random.default_rng(4).permutation(len(data.labels))
    assert method.cells is not None
    keys = ("cell_uids", "labels", "batches", "donors", "splits", "profile_ids")
    mixed = dataclasses.replace(
        data,
        matrix=dataclasses.replace(data.matrix, matrix=data.matrix.matrix[order]),
        **{key: getattr(data, key)[order] for key in keys},
    )
    plain = values(zero_shot(method, data, SMALL))
    again = values(zero_shot(dataclasses.replace(method, cells=method.cells[order]), mixed, SMALL))
    assert plain.keys() == again.keys()
    for metric, value in plain.items():
        assert again[metric] == pytest.approx(value, abs=1e-6)


def test_refined_scores_are_the_smoothed_scores(data: EvalData) -> None:
    method = noisy(data, "description", noise=0.6)
    assert method.cells is not None
    refined = values(zero_shot(dataclasses.replace(method, refined=True), data, SMALL))
    scores = unit(method.cells[data.test]) @ candidate_vectors(method, data).T
    said = np.asarray(TYPES)[refine_scores(scores, graph_basis(data)).argmax(axis=1)]
    truth = data.labels[data.test]
    assert refined["accuracy (all)"] == pytest.approx((said == truth).mean())
    assert refined["accuracy (all)"] > values(zero_shot(method, data, SMALL))["accuracy (all)"]
    assert "ece (all, calibrated)" in refined


def test_majority_has_no_draws_of_what_it_does_not_answer(data: EvalData) -> None:
    result = majority_zero_shot(data, SMALL)
    assert result.draws.keys() == {row.metric for row in result.rows}
    assert values(result)["accuracy (unseen)"] == 0.0


# --- confidence --------------------------------------------------------------------------------


def calibrated(n: int, n_types: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose softmax is the chance of each type, and types drawn by it."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, size=(n, n_types))
    chances = special.softmax(scores, axis=1)
    return scores, (chances.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)


def test_temperature_of_calibrated_scores_is_one_and_scales_with_them() -> None:
    scores, truth = calibrated(20_000)
    found = fit_temperature(scores, truth)
    assert found == pytest.approx(1, abs=0.05)
    assert fit_temperature(scores / 50 + 3, truth) == pytest.approx(found / 50, rel=1e-3)
    assert fit_temperature(scores[::-1], truth[::-1]) == pytest.approx(found, rel=1e-4)


def test_calibrated_scores_have_no_calibration_error() -> None:
    scores, truth = calibrated(20_000)
    right = scores.argmax(axis=1) == truth

    def error(temperature: float) -> float:
        of = ece_of(special.expit(log_odds(scores, temperature)), right)
        return float(of(np.ones((1, len(right))))[0])

    assert error(1.0) < 0.015
    assert error(0.2) > 0.1
    assert error(5.0) > 0.1


def test_confidence_is_the_largest_softmax() -> None:
    scores = np.random.default_rng(5).normal(size=(40, 6)).astype(np.float32)
    expected = special.softmax(scores.astype(float) / 0.3, axis=1).max(axis=1)
    np.testing.assert_allclose(special.expit(log_odds(scores, 0.3)), expected, rtol=1e-5)
    assert special.expit(log_odds(scores[:, :1], 0.3)).tolist() == [1.0] * 40
    far = np.asarray([[1.0, 0.0], [1.0, 0.1]], dtype=np.float32)
    sure = log_odds(far, 1e-4)
    assert special.expit(sure).tolist() == [1.0, 1.0]
    assert sure[0] > sure[1]  # still told apart


def test_no_wrong_validation_cell_does_not_mean_certainty() -> None:
    scores = np.tile(np.eye(3, dtype=np.float32), (10, 1))
    temperature = fit_temperature(scores, np.tile(np.arange(3), 10))
    confidence = special.expit(log_odds(scores, temperature))
    assert temperature > 0.1
    np.testing.assert_allclose(confidence, 1 - 2 / 3 / 31, rtol=1e-4)


def test_calibration_error_equals_a_loop_over_bins() -> None:
    rng = np.random.default_rng(6)
    confidence, right = np.round(rng.random(400), 2), rng.random(400) < 0.6
    weights = rng.integers(0, 3, size=(3, 400)).astype(float)
    bins = confidence_bins(confidence)
    assert len(np.unique(bins)) == 15
    assert all(len(np.unique(bins[confidence == c])) == 1 for c in confidence)
    for weight, value in zip(weights, ece_of(confidence, right)(weights), strict=True):
        by_hand = 0.0
        for i in range(15):
            w = weight[bins == i]
            gap = (w @ right[bins == i] - w @ confidence[bins == i]) / w.sum()
            by_hand += w.sum() / weight.sum() * abs(gap)
        assert value == pytest.approx(by_hand)


def test_one_confidence_for_all_is_one_bin() -> None:
    right = np.asarray([True, False, False, False])
    error = ece_of(np.full(4, 0.75), right)(np.ones((1, 4)))
    assert error[0] == pytest.approx(0.5)


@pytest.mark.parametrize("digits", [1, 12])
def test_auroc_equals_scikit_learn_with_ties_and_weights(digits: int) -> None:
    rng = np.random.default_rng(7)
    positive = rng.random(300) < 0.3
    score = np.round(rng.random(300) + 0.2 * positive, digits)
    weights = np.vstack([np.ones(300), rng.integers(0, 4, size=(4, 300))]).astype(float)
    found = auroc_of(score, positive)(weights)
    for weight, value in zip(weights, found, strict=True):
        expected = metrics.roc_auc_score(positive, score, sample_weight=weight)
        assert value == pytest.approx(expected)
    assert np.isnan(auroc_of(score, positive)(positive[None].astype(float))[0])


def test_the_threshold_answers_as_many_as_the_target_allows() -> None:
    confidence = np.linspace(1, 0.01, 100)
    right = np.arange(100) < 54  # 54 right, then wrong: 60 answered are 90 % right
    threshold, reached = pick_threshold(confidence, right, 0.9)
    assert reached
    assert (confidence >= threshold).sum() == 60
    same, _ = pick_threshold(np.full(30, 0.4), np.arange(30) < 29, 0.9)
    assert same == 0.4


def test_an_unreachable_target_gives_the_best_there_is_on_ten_cells_or_more() -> None:
    confidence = np.linspace(1, 0.01, 100)
    right = np.isin(np.arange(100), [0, *range(10, 20)])
    threshold, reached = pick_threshold(confidence, right, 0.9)
    assert not reached
    assert (confidence >= threshold).sum() == 20  # 11 of 20; the first cell alone does not count


def test_temperature_and_threshold_come_from_validation_cells_alone(data: EvalData) -> None:
    method = noisy(data, "description", noise=0.5)
    assert method.cells is not None
    cells = method.cells.copy()
    cells[data.test] = np.random.default_rng(8).normal(size=(len(data.test), cells.shape[1]))
    first = zero_shot(method, data, SMALL).details
    second = zero_shot(dataclasses.replace(method, cells=cells), data, SMALL).details
    assert first["calibration"]["temperature"] == second["calibration"]["temperature"]
    assert first["unknown"]["threshold"] == second["unknown"]["threshold"]
    assert first["unknown"]["accuracy"] > second["unknown"]["accuracy"]


def test_selective_rows_agree_with_their_details(data: EvalData) -> None:
    result = zero_shot(noisy(data, "description", noise=0.5), data, SMALL)
    rows = {row.metric: row for row in result.rows}
    unknown = result.details["unknown"]
    assert rows["coverage (all)"].value == pytest.approx(unknown["coverage"])
    assert rows["accuracy (answered)"].value == pytest.approx(unknown["accuracy"])
    assert rows["accuracy (answered)"].n == round(unknown["coverage"] * len(data.test))
    assert unknown["curve"][-1] == [1.0, pytest.approx(rows["accuracy (all)"].value, abs=1e-6)]
    bins = result.details["calibration"]["bins"]
    assert sum(each["n"] for each in bins) == len(data.test)
    error = sum(each["n"] * abs(each["confidence"] - each["accuracy"]) for each in bins)
    assert rows["ece (all, calibrated)"].value == pytest.approx(error / len(data.test), abs=1e-5)


def test_without_validation_cells_nothing_is_calibrated() -> None:
    data = make_data(validation=False)
    result = zero_shot(noisy(data, "description"), data, SMALL)
    rows = values(result)
    assert "ece (all)" in rows
    assert "ece (all, calibrated)" not in rows
    assert "coverage (all)" not in rows
    assert not {"calibration", "unknown"} & result.details.keys()
    assert any("0 validation cells" in note for note in result.notes)


def test_cells_of_unseen_types_are_less_sure_and_none_means_no_row(data: EvalData) -> None:
    rows = values(zero_shot(noisy(data, "description", noise=0.05), data, SMALL))
    assert rows["auroc (unseen types as unknown)"] > 0.99
    assert "auroc (right against wrong)" not in rows  # never wrong
    seen = dataclasses.replace(data, splits=np.where(np.arange(200) % 8 == 3, "train", data.splits))
    assert not seen.unseen
    rows = values(zero_shot(noisy(seen, "description", noise=0.5), seen, SMALL))
    assert "auroc (unseen types as unknown)" not in rows
    assert not any("unseen" in metric for metric in rows)


def test_the_interval_of_the_calibration_error_holds_it() -> None:
    data = make_data(800)
    scores = np.random.default_rng(9).normal(size=(len(data.test), 4)).astype(np.float32)
    result = TaskResult()
    assert add_calibration(result, "m", scores, None, data, SMALL) == 1.0
    (row,) = [row for row in result.rows if row.metric == "ece (all)"]
    assert row.ci_low <= row.value <= row.ci_high
    assert result.draws["ece (all)"].mean() == pytest.approx(row.value, abs=1e-3)


# --- resamples in bounded memory -----------------------------------------------------------------


def test_kept_resamples_stay_within_their_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "_kept", type(intervals._kept)())
    monkeypatch.setattr(intervals, "_KEPT_BYTES", 200_000)
    monkeypatch.setattr(intervals, "_BLOCK_BYTES", 5 * 8 * 1000)
    of: Callable[..., np.ndarray] = intervals.weighted_mean(np.arange(1000.0))
    draws = [Bootstrap(1000, 300, seed).apply(of) for seed in (0, 1, 0)]
    assert sum(block.nbytes for block in intervals._kept.values()) <= 200_000
    np.testing.assert_array_equal(draws[0], draws[2])
    monkeypatch.undo()
    np.testing.assert_allclose(Bootstrap(1000, 300, 0).apply(of), draws[0])


def test_few_units_may_be_drawn_more_often_than_a_byte_holds() -> None:
    boot = Bootstrap(400, 100, 0, np.zeros(400, dtype=np.intp))
    total = boot.apply(lambda weights: weights.sum(axis=1))
    np.testing.assert_array_equal(total, 400.0)
