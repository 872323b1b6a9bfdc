"""Classification, entities, preferences, pass@k, diversity and likelihoods against independent definitions."""

import itertools
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from seqeval import scheme as schemes
from seqeval.metrics import classification_report, f1_score
from seqeval.metrics.sequence_labeling import get_entities
from sklearn import metrics as sklearn_metrics

from alignkit import metrics
from alignkit.errors import UserError
from alignkit.metrics import classification, diversity, entities, likelihood, preference
from alignkit.metrics.pass_at_k import estimate, pass_at_k

WIKIGOLD = Path(__file__).parents[2].parent / "shared" / "data" / "wikigold" / "wikigold.jsonl"


def test_classification_equals_scikit_learns():
    rng = np.random.default_rng(0)
    for trial in range(100):
        n, classes = rng.integers(1, 30), rng.integers(1, 6)
        expected = rng.integers(0, classes, n)
        said = np.where(rng.random(n) < 0.5, expected, rng.integers(0, classes + trial % 2, n))
        pair = (said.tolist(), expected.tolist())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = {
                "accuracy": sklearn_metrics.accuracy_score(expected, said),
                "f1_macro": sklearn_metrics.f1_score(expected, said, average="macro"),
                "f1_weighted": sklearn_metrics.f1_score(expected, said, average="weighted"),
                "matthews_correlation": sklearn_metrics.matthews_corrcoef(expected, said),
            }
            report = sklearn_metrics.classification_report(expected, said, output_dict=True, zero_division=0)
        for name, value in theirs.items():
            assert metrics.get(name).measure(*pair).value == pytest.approx(value, abs=1e-12), name
        for label, row in classification.per_class(*pair).items():
            theirs_row = report[str(label)]
            assert row["f1"] == pytest.approx(theirs_row["f1-score"])
            assert (row["precision"], row["recall"]) == pytest.approx((theirs_row["precision"], theirs_row["recall"]))
            assert row["support"] == theirs_row["support"]


def test_string_labels_score_like_numbers():
    said, expected = ["ham", "spam", "ham"], ["ham", "spam", "spam"]
    assert metrics.get("f1_macro").measure(said, expected).value == pytest.approx(2 / 3)


def test_roc_auc_equals_scikit_learns_also_when_weighted():
    rng = np.random.default_rng(1)
    for _ in range(50):
        n = rng.integers(5, 60)
        expected = rng.integers(0, 2, n)
        expected[:2] = (0, 1)
        scores = np.round(rng.random(n), 1)  # many ties
        measured = classification.roc_auc(scores, expected)
        assert measured.value == pytest.approx(sklearn_metrics.roc_auc_score(expected, scores))
        weights = rng.integers(0, 3, n)
        if weights[expected == 1].any() and weights[expected == 0].any():
            theirs = sklearn_metrics.roc_auc_score(expected, scores, sample_weight=weights)
            assert measured.resampled(weights[None].astype(float))[0] == pytest.approx(theirs)


def test_roc_auc_of_several_classes_and_of_one():
    rng = np.random.default_rng(2)
    probabilities = rng.dirichlet(np.ones(4), 80)
    expected = rng.integers(0, 4, 80)
    theirs = sklearn_metrics.roc_auc_score(expected, probabilities, multi_class="ovr")
    assert classification.roc_auc(probabilities, expected).value == pytest.approx(theirs)
    assert classification.roc_auc(np.array([0.1, 0.9]), [1, 1]).value == 0


def test_calibration_error_by_its_definition():
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet(np.ones(3), 300)
    expected = rng.integers(0, 3, 300)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == expected
    total = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert classification.expected_calibration_error(probabilities, expected).value == pytest.approx(total)
    sure = classification.expected_calibration_error(np.array([1.0, 0.0, 1.0]), [1, 0, 0])
    assert sure.value == pytest.approx(1 / 3)


def random_tags(rng, prefixes, sentences=20):
    kinds = ["PER", "LOC", "A-B"]
    tags = ["O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in kinds)]
    return [[tags[i] for i in rng.integers(0, len(tags), rng.integers(1, 9))] for _ in range(sentences)]


@pytest.mark.parametrize("prefixes", ["I", "BI", "IE", "BIES"])
def test_entities_equal_seqevals(prefixes):
    rng = np.random.default_rng(len(prefixes))
    for _ in range(40):
        said, expected = random_tags(rng, prefixes), random_tags(rng, prefixes)
        expected = [(e + ["O"] * len(s))[: len(s)] for s, e in zip(said, expected, strict=True)]
        for tags in said:
            assert entities.entities(tags) == get_entities(tags)
        assert entities.entity_f1(said, expected).value == pytest.approx(f1_score(expected, said))
        report = classification_report(expected, said, output_dict=True, zero_division=0)
        for kind, row in entities.per_type(said, expected).items():
            assert row["f1"] == pytest.approx(report[kind]["f1-score"])
            assert row["support"] == report[kind]["support"]


@pytest.mark.parametrize(
    ("scheme", "prefixes"),
    [("IOB1", "BI"), ("IOB2", "BI"), ("IOE1", "IE"), ("IOE2", "IE"), ("IOBES", "BIES"), ("BILOU", "BILU")],
)
def test_strict_schemes_equal_seqevals(scheme, prefixes):
    rng = np.random.default_rng(7)
    for _ in range(20):
        said, expected = random_tags(rng, prefixes), random_tags(rng, prefixes)
        expected = [(e + ["O"] * len(s))[: len(s)] for s, e in zip(said, expected, strict=True)]
        theirs = f1_score(expected, said, mode="strict", scheme=getattr(schemes, scheme))
        assert entities.entity_f1(said, expected, scheme=scheme).value == pytest.approx(theirs)


def test_bare_io_tags_of_wikigold_hold_entities():
    if not WIKIGOLD.exists():
        pytest.skip("the shared data is not here")
    tags = [json.loads(line)["ner_tags"] for line in WIKIGOLD.read_text().splitlines()]
    measured = entities.entity_f1(tags, tags)
    assert measured.value == 1
    assert measured.statistics[:, 1].sum() == sum(len(get_entities(row)) for row in tags) > 3000


def test_schemes_are_checked():
    with pytest.raises(UserError, match="did you mean 'IOB2'"):
        entities.check_scheme("IOB22")
    with pytest.raises(UserError, match="do not follow"):
        entities.entity_f1([["X-PER"]], [["B-PER"]], scheme="IOB2")
    assert entities.check_scheme("bioes") == "IOBES"


def test_pass_at_k_is_the_mean_over_all_choices_of_k():
    for n in range(1, 8):
        for correct in range(n + 1):
            flags = [True] * correct + [False] * (n - correct)
            for k in range(1, n + 1):
                chosen = list(itertools.combinations(flags, k))
                assert estimate(n, correct, k) == pytest.approx(sum(map(any, chosen)) / len(chosen))
    assert pass_at_k([[True, False], [False, False]], 1).value == pytest.approx(0.25)
    assert metrics.get("pass@2").measure([[True, False], [False, False]]).value == pytest.approx(0.5)
    with pytest.raises(UserError, match="pass@5 needs at least 5 samples"):
        pass_at_k([[True, False]], 5)


def test_preference_accuracy_counts_ties_half():
    measured = preference.preference_accuracy([1.0, 2.0, 0.0, 5.0], [0.0, 2.0, 1.0, 4.0])
    assert measured.value == pytest.approx(0.625)


def test_length_control_takes_away_what_length_gave():
    rng = np.random.default_rng(4)
    n = 20_000
    lengths, base = rng.integers(50, 400, n) + 60, rng.integers(50, 400, n)
    difference = lengths - base
    truth, slope = 0.0, 1.5
    p = 1 / (1 + np.exp(-(truth + slope * np.tanh(difference / difference.std()))))
    wins = (rng.random(n) < p).astype(float)
    assert preference.win_rate(wins).value > 0.58
    assert preference.length_controlled_win_rate(wins, lengths, base).value == pytest.approx(0.5, abs=0.015)


def test_length_control_stays_finite_where_one_side_always_wins():
    won = preference.length_controlled_win_rate([1.0] * 30, [10] * 30, [10] * 30)
    assert 0.95 < won.value < 1
    apart = preference.length_controlled_win_rate([1.0, 0.0] * 20, [20, 10] * 20, [10, 20] * 20)
    assert apart.value == pytest.approx(0.5, abs=1e-6)


def test_distinct_and_repetition():
    assert diversity.distinct(["a b a", "b c"], 1).value == pytest.approx(3 / 5)
    assert diversity.distinct(["a b a", "b c"], 2).value == pytest.approx(1.0)
    assert diversity.distinct([""], 1).value == 0
    measured = diversity.distinct(["a b", "a c", "d d"], 1)
    without = [
        diversity.distinct([t for j, t in enumerate(["a b", "a c", "d d"]) if j != i], 1).value for i in range(3)
    ]
    assert measured.jackknife() == pytest.approx(without)
    assert diversity.repetition(["a b c d a b c d", "x"], 4).items.tolist() == pytest.approx([1 / 5, 0])


def test_perplexity_is_of_totals():
    assert likelihood.perplexity([10.0, 1.0], [5, 1]).value == pytest.approx(math.exp(11 / 6))
    assert likelihood.bits_per_byte([10.0, 1.0], [20, 5]).value == pytest.approx(11 / math.log(2) / 25)
    assert math.isfinite(likelihood.perplexity([1e9], [1]).value)
