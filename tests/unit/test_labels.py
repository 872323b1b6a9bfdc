"""Labels, tag schemes, splits by label, windows and the measures of classifiers."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from alignkit.data.splitting import hold_out_by_stratum
from alignkit.evaluation.thresholds import best_thresholds
from alignkit.examples.labels import Head, balanced, decode, encode, fault, in_order, kind_of_labels, recognise_scheme
from alignkit.metrics.classification import label_measurements, label_roc_auc, reliability
from alignkit.metrics.regression import numeric_measurements


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["ham", "spam"], "single_label_classification"),
        ([0, 1, 1.0], "single_label_classification"),
        ([["a"], [], ["a", "b"]], "multi_label_classification"),
        ([0.5, 1, 2.0], "regression"),
        (["1", "1.5"], "regression"),  # as a csv file has them
        (["1", "1.0", "2"], "single_label_classification"),
        (["1.5", "high"], "single_label_classification"),
    ],
)
def test_what_the_labels_are_for_is_found_in_them(labels: list[object], kind: str) -> None:
    assert kind_of_labels(decode(encode(label)) for label in labels) == kind


def test_names_are_sorted_as_numbers_where_they_are_numbers() -> None:
    assert in_order(["10", "9", "-1"]) == ("-1", "9", "10")
    assert in_order(["b", "10", "a"]) == ("10", "a", "b")
    assert decode(encode(True)) == "true" and decode(encode(3.0)) == 3.0 and decode(encode([2, 1, 2])) == ["1", "2"]


@pytest.mark.parametrize(
    ("scheme", "good", "bad"),
    [
        ("IO", "O I-A I-A I-B", "O B-A"),
        ("IOB1", "I-A B-A I-B O", "B-A O"),
        ("IOB2", "B-A I-A B-A O B-B", "O I-A"),
        ("IOB2", "B-A B-B", "B-A I-B"),
        ("BIOES", "S-A B-B I-B E-B O", "B-A O"),
        ("BIOES", "B-A E-A", "B-A"),
        ("BIOES", "O", "I-A E-A"),
        ("IOB2", "O O", "O NOUN"),
    ],
)
def test_each_scheme_knows_its_sequences(scheme: str, good: str, bad: str) -> None:
    assert fault(good.split(), scheme) is None
    assert fault(bad.split(), scheme) is not None


@pytest.mark.parametrize(
    ("sentences", "scheme"),
    [
        (["O I-A", "I-B I-A"], "IO"),
        (["O I-A B-A", "I-B"], "IOB1"),
        (["O B-A I-A", "B-B"], "IOB2"),
        (["S-A O", "B-B I-B E-B"], "BIOES"),
        (["DET NOUN"], None),
        (["O B-A", "I-A O", "O O I-B"], None),
    ],
)
def test_the_scheme_is_recognised(sentences: list[str], scheme: str | None) -> None:
    assert recognise_scheme([tags.split() for tags in sentences]) == scheme


def test_a_head_comes_back_from_a_config() -> None:
    head = Head("multi_label_classification", ("a", "b"), 64, 8, (0.4, 0.6), names=("a", "b"))
    assert Head.restored(head.config["alignkit_classifier"]) == head
    assert head.config["id2label"] == {0: "a", 1: "b"} and head.config["problem_type"] == head.kind


def test_the_split_keeps_each_label_in_proportion_and_groups_on_one_side() -> None:
    strata = np.array([0] * 90 + [1] * 10)
    groups = np.arange(100)
    groups[1::2] = groups[::2]  # pairs
    train, held = hold_out_by_stratum(groups, strata, 0.2, seed=3) or (None, None)
    assert train is not None and held is not None
    assert len(train) + len(held) == 100 and not set(groups[train]) & set(groups[held])
    assert Counter(strata[held].tolist()) == {0: 18, 1: 2}
    again = hold_out_by_stratum(groups, strata, 0.2, seed=3)
    assert again is not None and (again[1] == held).all()
    # A class with one example alone is trained on; rare classes give their share together.
    rare = hold_out_by_stratum(np.arange(30), np.repeat(np.arange(10), 3), 0.2, seed=0)
    assert rare is not None and 4 <= len(rare[1]) <= 8 and set(np.repeat(np.arange(10), 3)[rare[0]]) == set(range(10))
    assert hold_out_by_stratum(np.zeros(4, dtype=int), np.zeros(4, dtype=int), 0.5, 0) is None
    alone = hold_out_by_stratum(np.arange(3), np.array([0, 1, 1]), 0.1, 0)
    assert alone is not None and len(alone[1]) == 1 and 0 in alone[0]


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = ["a"] * 9 + ["b"] * 3
    expected = compute_class_weight("balanced", classes=np.array(["a", "b"]), y=np.array(labels))
    assert balanced(Counter(labels), ["a", "b"]) == pytest.approx(expected.tolist())


def test_measures_of_several_labels_and_numbers_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth, scores = rng.random((60, 3)) < 0.4, rng.random((60, 3))
    said = scores > 0.5
    found = {one.name: one.value for one in label_measurements(said, truth)}
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, said))
    for kind in ("macro", "micro", "weighted"):
        assert found[f"f1_{kind}"] == pytest.approx(sk.f1_score(truth, said, average=kind))
    assert label_roc_auc(scores, truth).value == pytest.approx(sk.roc_auc_score(truth, scores))
    target = rng.normal(1e6, 3.0, 50)
    guess = target + rng.normal(0, 1, 50)
    numbers = {one.name: one.value for one in numeric_measurements(guess, target)}
    assert numbers["mean_absolute_error"] == pytest.approx(sk.mean_absolute_error(target, guess))
    assert numbers["root_mean_squared_error"] == pytest.approx(math.sqrt(sk.mean_squared_error(target, guess)))
    assert numbers["r2"] == pytest.approx(sk.r2_score(target, guess))
    assert numbers["pearson_correlation"] == pytest.approx(np.corrcoef(target, guess)[0, 1])
    assert {one.value for one in numeric_measurements([1.0, 2.0], [3.0, 3.0])[2:]} == {0.0}
    from alignkit.evaluation.hf_metrics import LabelSets, Regression

    computed = Regression().compute(predictions=guess.tolist(), references=target.tolist())
    assert computed == pytest.approx(numbers)
    sets = LabelSets().compute(predictions=said.tolist(), references=truth.tolist())
    assert sets == pytest.approx({"f1_micro": found["f1_micro"]})


def test_thresholds_are_those_of_the_best_f1() -> None:
    scores = np.array([[0.9, 0.2], [0.3, 0.1], [0.25, 0.9], [0.1, 0.4]])
    truth = np.array([[True, False], [True, False], [False, False], [False, False]])
    first, second = best_thresholds(scores, truth)
    assert 0.25 < first <= 0.3 and second == 0.5
    tied = best_thresholds(np.full((4, 1), 0.7), truth[:, :1])[0]
    assert 0 < tied <= 0.7  # equal scores can't be told apart: all of them hold


def test_reliability_bins_count_every_item_once() -> None:
    points = reliability(np.array([0.55, 0.6, 0.95, 1.0, 0.0]), np.array([1, 0, 1, 1, 0]))
    assert sum(point["n"] for point in points) == 5 and points[-1]["right"] == 2
    assert points[-1]["confidence"] == pytest.approx(0.975)


def test_windows_place_every_word_once(tmp_path: Path) -> None:
    from tests.classifiers import word_tokenizer

    from alignkit.data.windows import cut

    tokenizer = word_tokenizer(tmp_path)
    words = ["Ada", "\u200b", "xylophone", "lives", "in", "New", "York", "cash!", "a b"] * 3
    whole = cut(tokenizer, [words], 512)[0]
    assert not whole.truncated and len(whole.windows) == 1
    pieces = tokenizer.convert_ids_to_tokens(whole.windows[0].input_ids.tolist())
    firsts = {
        int(word): pieces[place] for word, place in zip(whole.windows[0].words, whole.windows[0].firsts, strict=True)
    }
    assert firsts[0] == "ada" and firsts[2] == "x" and firsts[8] == "a" and 1 not in firsts  # nothing is left of \u200b
    parts = cut(tokenizer, [words], 20, stride=6)[0]
    assert len(parts.windows) > 2 and not parts.truncated and all(len(one.input_ids) <= 20 for one in parts.windows)
    seen = {int(word) for one in parts.windows for word in one.words}
    assert seen == set(firsts)
    for one in parts.windows:
        inside = tokenizer.convert_ids_to_tokens(one.input_ids.tolist())
        assert all(inside[place] == firsts[int(word)] for word, place in zip(one.words, one.firsts, strict=True))
    short = cut(tokenizer, [words, "Ada " * 40, ""], 20)
    assert [one.truncated for one in short] == [True, True, False] and all(len(one.windows) == 1 for one in short)
    assert tokenizer.convert_ids_to_tokens(short[2].windows[0].input_ids.tolist()) == ["[CLS]", "[SEP]"]
