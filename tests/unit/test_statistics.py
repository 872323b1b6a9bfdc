"""Intervals and tests: against closed forms, against scipy, and by simulating how often they are right."""

import numpy as np
import pytest
import scipy.stats

from alignkit import statistics
from alignkit.metrics import classification, diversity
from alignkit.metrics.bleu import formula
from alignkit.metrics.classification import class_measurements, f1_macro
from alignkit.metrics.measurement import Measurement, mean_of
from alignkit.metrics.preference import length_controlled_win_rate

N = 200


def shares(rng, p, n=N):
    return mean_of("accuracy", rng.random(n) < p, "", right_or_wrong=True)


def bleu_like(rng, n=N, quality=None):
    """Sentences whose matches of each order are drawn with a quality of their own, which makes a skewed ratio."""
    length = rng.integers(4, 40, n)
    quality = rng.beta(6, 4, n) if quality is None else quality
    totals = [length - order for order in range(4)]
    matches = [rng.binomial(total, quality ** (order + 1)) for order, total in enumerate(totals)]
    reference = np.maximum(4, length + rng.integers(-3, 4, n))
    columns = [length, reference, *matches, *totals]
    return Measurement("bleu", "", True, np.stack(columns, axis=1).astype(float), formula)


def coverage(draw, truth, trials, **options):
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(trials):
        low, high = statistics.interval(draw(rng), seed=trial, **options)
        hits += low <= truth <= high
    return hits / trials


@pytest.mark.parametrize("p", [0.5, 0.72, 0.9, 0.97])
def test_accuracy_intervals_cover(p):
    assert 0.93 <= coverage(lambda rng: shares(rng, p), p, 10_000) <= 0.97


def test_bootstrap_intervals_of_accuracy_cover():
    assert 0.93 <= coverage(lambda rng: shares(rng, 0.7), 0.7, 1500, method="bca", resamples=500) <= 0.97
    assert 0.93 <= coverage(lambda rng: shares(rng, 0.7), 0.7, 1500, method="percentile", resamples=500) <= 0.97


def test_intervals_of_a_bleu_like_ratio_cover():
    truth = float(formula(bleu_like(np.random.default_rng(9), 2_000_000).statistics.sum(axis=0)))
    assert 0.93 <= coverage(bleu_like, truth, 1500, resamples=600) <= 0.97


def test_clustered_items_need_clustered_intervals():
    """Ten items a document that share their luck: by item the interval is far too narrow, by document it covers."""
    names = np.repeat(np.arange(40), 10)

    def draw(rng):
        return mean_of("score", np.repeat(rng.random(40), 10) + rng.normal(0, 0.05, 400), "")

    assert coverage(draw, 0.5, 500, resamples=400) < 0.6
    assert 0.91 <= coverage(draw, 0.5, 500, resamples=400, clusters=names.tolist()) <= 0.98


def rejections(draw, trials):
    rng = np.random.default_rng(1)
    found = [statistics.compare(*draw(rng), resamples=500, seed=trial) for trial in range(trials)]
    return np.mean([(c.p_bootstrap <= 0.05, c.p_randomization <= 0.05) for c in found], axis=0)


def test_the_paired_tests_reject_a_true_null_at_their_level_for_accuracy():
    def draw(rng):
        """Two systems of equal skill that agree on half of the items."""
        common, agree = rng.random(N) < 0.7, rng.random(N) < 0.5
        return tuple(
            mean_of("accuracy", np.where(agree, common, rng.random(N) < 0.7), "", right_or_wrong=True) for _ in range(2)
        )

    bootstrap, randomization = rejections(draw, 2500)
    assert 0.04 <= bootstrap <= 0.06
    assert 0.04 <= randomization <= 0.06


def test_the_paired_tests_reject_a_true_null_at_their_level_for_a_bleu_like_ratio():
    def draw(rng):
        quality = rng.beta(6, 4, N)
        return bleu_like(rng, quality=quality), bleu_like(rng, quality=quality)

    bootstrap, randomization = rejections(draw, 2500)
    assert 0.04 <= bootstrap <= 0.06
    assert 0.04 <= randomization <= 0.06


def test_a_real_difference_is_found():
    rng = np.random.default_rng(3)
    first, second = shares(rng, 0.5), shares(rng, 0.8)
    found = statistics.compare(first, second)
    assert found.difference == pytest.approx(second.value - first.value)
    assert 0 < found.low < found.difference < found.high
    assert found.p_bootstrap < 0.001
    assert found.p_randomization < 0.001
    same = statistics.compare(first, first)
    assert (same.difference, same.low, same.high, same.p_randomization) == (0, 0, 0, 1)
    assert same.p_bootstrap == 1


def test_systems_that_name_different_classes():
    """The columns of a metric by class are those of all labels, or the two cannot be set against each other."""
    references, first, second = ["a", "b", "a", "b"], ["a", "b", "a", "a"], ["a", "b", "c", "a"]
    with pytest.raises(ValueError, match="measure both with the same items and `labels`"):
        statistics.compare(f1_macro(first, references), f1_macro(second, references))
    measured = [class_measurements(said, references, "abc") for said in (first, second)]
    for one, other in zip(*measured, strict=True):
        assert statistics.compare(one, other).difference == pytest.approx(other.value - one.value)
    assert measured[0][1].value == f1_macro(first, references).value


def test_randomization_by_document_swaps_whole_documents():
    """With two documents there are two ways to swap that matter: nothing can be significant."""
    first = mean_of("score", np.zeros(100), "")
    second = mean_of("score", np.ones(100), "")
    documents = ["a"] * 50 + ["b"] * 50
    assert statistics.randomization_p(first, second) < 0.001
    assert statistics.randomization_p(first, second, clusters=documents) > 0.2


def test_bootstrap_is_seeded_and_equals_resampling_by_hand():
    measurement = bleu_like(np.random.default_rng(5), 30)
    values = statistics.bootstrap([measurement], resamples=50, seed=7)[0]
    assert (values == statistics.bootstrap([measurement], resamples=50, seed=7)[0]).all()
    drawn = np.random.default_rng(7).integers(0, 30, size=(50, 30), dtype=np.int32)
    expected = [float(formula(measurement.statistics[row].sum(axis=0))) for row in drawn]
    assert values == pytest.approx(expected)


def test_bca_equals_scipys():
    scores = np.random.default_rng(8).gamma(1.0, 1.0, 60)
    ours = statistics.interval(mean_of("score", scores, ""), resamples=20_000)
    theirs = scipy.stats.bootstrap((scores,), np.mean, method="BCa", n_resamples=20_000, rng=0).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.02)
    assert abs(ours[0] + ours[1] - 2 * scores.mean()) > 0.02  # skewed, as it should be


def test_wilson_equals_scipys():
    for successes, n in ((0, 10), (3, 10), (10, 10), (150, 200)):
        theirs = scipy.stats.binomtest(successes, n).proportion_ci(method="wilson")
        assert statistics.wilson(successes, n) == pytest.approx(tuple(theirs), abs=1e-9)


def test_mcnemar_equals_the_binomial_test():
    for only_first, only_second in ((0, 0), (1, 5), (5, 1), (7, 7), (0, 12)):
        n = only_first + only_second
        theirs = scipy.stats.binomtest(only_first, n).pvalue if n else 1.0
        assert statistics.mcnemar_exact(only_first, only_second) == pytest.approx(theirs)


def test_holms_correction():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert statistics.holm([]) == []


def test_intervals_together_equal_each_alone():
    rng = np.random.default_rng(11)
    several = [bleu_like(rng, 50), shares(rng, 0.5, 50), mean_of("score", rng.random(50), "")]
    together = statistics.intervals(several, resamples=300)
    assert together == [statistics.interval(one, resamples=300) for one in several]


def test_every_kind_of_measurement_gets_a_finite_interval():
    rng = np.random.default_rng(12)
    labels = rng.integers(0, 2, 40)
    kinds = [
        classification.roc_auc(rng.random(40), labels),
        classification.f1_macro(labels, rng.integers(0, 2, 40)),
        classification.expected_calibration_error(rng.random(40), labels),
        classification.matthews_correlation(labels, labels),
        length_controlled_win_rate(rng.integers(0, 2, 40), rng.integers(1, 9, 40), rng.integers(1, 9, 40)),
        diversity.distinct([f"a b {i % 7}" for i in range(40)], 2),
        shares(rng, 1.0, 40),
        mean_of("one", np.array([0.3]), ""),
    ]
    documents = (np.arange(40) // 4).tolist()
    for measurement in kinds:
        low, high = statistics.interval(measurement, resamples=200)
        assert low <= measurement.value <= high, measurement.name
        assert np.isfinite([low, high]).all()
        if measurement.n == 40:
            assert np.isfinite(statistics.interval(measurement, resamples=100, clusters=documents)).all()
    assert statistics.interval(shares(rng, 1.0, 40))[0] < 1


def test_an_interval_holds_its_value_even_where_resampling_pushes_the_score_up():
    rng = np.random.default_rng(14)
    confidence = rng.random(30)
    calibrated = classification.expected_calibration_error(confidence, (rng.random(30) < confidence).astype(int))
    low, high = statistics.interval(calibrated)
    assert low <= calibrated.value <= high


def test_blocks_of_resamples_do_not_change_the_draw(monkeypatch):
    measurement = bleu_like(np.random.default_rng(13), 20)
    whole = statistics.bootstrap([measurement], resamples=40)
    monkeypatch.setattr(statistics, "BLOCK", 100)
    assert (statistics.bootstrap([measurement], resamples=40) == whole).all()
