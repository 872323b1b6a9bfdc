"""Classification: accuracy, F1, Matthews' correlation, ROC AUC and calibration, equal to scikit-learn's definitions."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from alignkit.metrics.measurement import Measurement, divide, mean_formula, mean_of

BINS = 15
VERSION = "version:alignkit-1"


def accuracy(predictions: Sequence[Hashable], references: Sequence[Hashable]) -> Measurement:
    """The share of equal labels."""
    right = [said == expected for said, expected in zip(predictions, references, strict=True)]
    return mean_of("accuracy", np.array(right), VERSION, right_or_wrong=True)


def word_accuracy(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> Measurement:
    """The share of words whose tag is right; sentences are the items."""
    pairs = zip(predictions, references, strict=True)
    counts = [[sum(a == b for a, b in zip(*pair, strict=True)), len(pair[0])] for pair in pairs]
    return Measurement("accuracy", f"of:words|{VERSION}", True, np.array(counts, dtype=float), mean_formula)


def _encode(*columns: Sequence[Hashable]) -> tuple[list[Hashable], list[np.ndarray]]:
    """Labels seen in any column, sorted, and each column as their places."""
    seen = set().union(*columns)
    labels = sorted(seen, key=lambda label: (str(type(label)), label))
    place = {label: index for index, label in enumerate(labels)}
    return labels, [np.array([place[label] for label in column], dtype=int) for column in columns]


def _counts(
    predictions: Sequence[Hashable], references: Sequence[Hashable], labels: Iterable[Hashable] = ()
) -> tuple[list[Hashable], np.ndarray]:
    """The labels, and for each item (predicted, expected, both) one-hot by label: shape (items, 3 * labels).

    `labels` names more of them, so that several systems' statistics have the same columns; those that never occur
    change no score.
    """
    known, (said, expected, _) = _encode(predictions, references, list(labels))
    hot = np.eye(len(known))
    right = hot[said] * (said == expected)[:, None]
    return known, np.concatenate([hot[said], hot[expected], right], axis=1)


def _class_f1(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """F1 by class, the support of each, and which classes occur at all: each of shape (..., labels)."""
    said, expected, right = np.split(sums, 3, axis=-1)
    return divide(2 * right, said + expected), expected, (said + expected) > 0


def _f1_macro(sums: np.ndarray) -> np.ndarray:
    f1, _, occurs = _class_f1(sums)
    return divide(f1.sum(axis=-1), occurs.sum(axis=-1))


def _f1_weighted(sums: np.ndarray) -> np.ndarray:
    f1, support, _ = _class_f1(sums)
    return divide((f1 * support).sum(axis=-1), support.sum(axis=-1))


def _matthews(sums: np.ndarray) -> np.ndarray:
    said, expected, right = np.split(sums, 3, axis=-1)
    n, correct = expected.sum(axis=-1), right.sum(axis=-1)
    covariance = correct * n - (said * expected).sum(axis=-1)
    spread = (n**2 - (said**2).sum(axis=-1)) * (n**2 - (expected**2).sum(axis=-1))
    return divide(covariance, np.sqrt(np.maximum(spread, 0)))


def _is_right(sums: np.ndarray) -> np.ndarray:
    return np.split(sums, 3, axis=-1)[2].sum(axis=-1)


def f1_macro(
    predictions: Sequence[Hashable], references: Sequence[Hashable], *, labels: Iterable[Hashable] = ()
) -> Measurement:
    """The mean of the classes' F1, over all classes that are predicted or expected anywhere."""
    _, statistics = _counts(predictions, references, labels)
    return Measurement("f1_macro", VERSION, True, statistics, _f1_macro, item_formula=_is_right)


def f1_weighted(
    predictions: Sequence[Hashable], references: Sequence[Hashable], *, labels: Iterable[Hashable] = ()
) -> Measurement:
    """The classes' F1 weighted by how often each is expected."""
    _, statistics = _counts(predictions, references, labels)
    return Measurement("f1_weighted", VERSION, True, statistics, _f1_weighted, item_formula=_is_right)


def matthews_correlation(
    predictions: Sequence[Hashable], references: Sequence[Hashable], *, labels: Iterable[Hashable] = ()
) -> Measurement:
    """Matthews' correlation for any number of classes (Gorodkin 2004, eq. 8), -1 to 1; 0 where it is undefined."""
    _, statistics = _counts(predictions, references, labels)
    return Measurement("matthews_correlation", VERSION, True, statistics, _matthews, item_formula=_is_right)


def class_measurements(
    predictions: Sequence[Hashable], references: Sequence[Hashable], labels: Iterable[Hashable] = ()
) -> list[Measurement]:
    """Accuracy, macro and weighted F1 and Matthews' correlation of one label an item.

    `labels` are all there are, where systems are to be compared that name different ones.
    """
    labels = {*labels, *predictions, *references}
    return [
        accuracy(predictions, references),
        f1_macro(predictions, references, labels=labels),
        f1_weighted(predictions, references, labels=labels),
        matthews_correlation(predictions, references, labels=labels),
    ]


def _f1_micro(sums: np.ndarray) -> np.ndarray:
    said, expected, right = (part.sum(axis=-1) for part in np.split(sums, 3, axis=-1))
    return divide(2 * right, said + expected)


def label_measurements(said: np.ndarray, expected: np.ndarray) -> list[Measurement]:
    """Of several labels an item: accuracy (the whole set is right), and F1 over labels: macro, micro and weighted.

    `said` and `expected` have shape (items, labels), true where a label holds.
    """
    said, expected = np.asarray(said, dtype=bool), np.asarray(expected, dtype=bool)
    statistics = np.concatenate([said, expected, said & expected], axis=1).astype(float)
    whole = (said == expected).all(axis=1)
    formulas = {"f1_macro": _f1_macro, "f1_micro": _f1_micro, "f1_weighted": _f1_weighted}
    return [
        mean_of("accuracy", whole, f"labels:set|{VERSION}", right_or_wrong=True),
        *(Measurement(name, f"labels:set|{VERSION}", True, statistics, f) for name, f in formulas.items()),
    ]


def f1_micro(said: np.ndarray, expected: np.ndarray) -> Measurement:
    """F1 over all labels of all items together, each of which may have several; arguments as `label_measurements`'."""
    return next(one for one in label_measurements(said, expected) if one.name == "f1_micro")


def per_class(predictions: Sequence[Hashable], references: Sequence[Hashable]) -> dict[Hashable, dict[str, float]]:
    """Precision, recall, F1 and support of each class; 0 where one is undefined."""
    labels, statistics = _counts(predictions, references)
    said, expected, right = np.split(statistics.sum(axis=0), 3)
    precision, recall, f1 = divide(right, said), divide(right, expected), divide(2 * right, said + expected)
    return {
        label: {
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            "support": int(expected[i]),
        }
        for i, label in enumerate(labels)
    }


def expected_calibration_error(probabilities: np.ndarray, references: Sequence[int], bins: int = BINS) -> Measurement:
    """How far confidence is from accuracy (Guo et al. 2017, eq. 3), over equal-width bins of the top probability.

    `probabilities` has shape (items, classes), or (items,) for the positive one of two classes; `references` are
    class numbers.
    """
    probabilities = two_columns(probabilities)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == np.asarray(references)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    hot = np.eye(bins)[place]
    statistics = np.concatenate([hot * (confidence - right)[:, None], np.ones((len(hot), 1))], axis=1)

    def formula(sums: np.ndarray) -> np.ndarray:
        return divide(np.abs(sums[..., :-1]).sum(axis=-1), sums[..., -1])

    signature = f"bins:{bins}|norm:l1|{VERSION}"
    return Measurement("expected_calibration_error", signature, False, statistics, formula)


@dataclass(frozen=True)
class RankMeasurement(Measurement):
    """ROC AUC does not add up over items; it is recomputed from the order of the scores for each resample.

    `scores` and `positive` have shape (items, problems): one problem for two classes, else one a class against the
    rest, averaged over the classes that have items on both sides.
    """

    scores: np.ndarray | None = None
    positive: np.ndarray | None = None

    @property
    def value(self) -> float:
        return float(self.resampled(np.ones((1, self.n)))[0])

    def resampled(self, weights: np.ndarray) -> np.ndarray:
        assert self.scores is not None and self.positive is not None
        areas = [_areas(s, p, weights) for s, p in zip(self.scores.T, self.positive.T, strict=True)]
        return divide(np.nansum(areas, axis=0), np.isfinite(areas).sum(axis=0))

    def jackknife(self) -> None:
        return None

    def by_cluster(self, cluster_of: np.ndarray) -> Measurement:
        raise NotImplementedError("statistics.py spreads the weights of clusters over the items instead")


def _areas(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted area under the ROC curve for each row of weights (Hanley and McNeil 1982); NaN with one side empty."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) != 0)
    weights = weights[:, order]
    yes = np.add.reduceat(weights * positive[order], starts, axis=1)
    no = np.add.reduceat(weights * ~positive[order], starts, axis=1)
    below = np.cumsum(no, axis=1) - no
    pairs = yes.sum(axis=1) * no.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, (yes * (below + no / 2)).sum(axis=1) / pairs, np.nan)


def roc_auc(probabilities: np.ndarray, references: Sequence[int]) -> RankMeasurement:
    """Area under the ROC curve: two classes by the positive one's score; more, one against the rest, averaged.

    `probabilities` as for `expected_calibration_error` (for two classes any score will do). 0 where only one class
    occurs.
    """
    probabilities = np.asarray(probabilities, dtype=float)
    expected = np.asarray(references)
    if probabilities.ndim == 2 and probabilities.shape[1] > 2:
        scores = probabilities
        positive = expected[:, None] == np.arange(probabilities.shape[1])
        kind = "ovr-macro"
    else:
        scores = probabilities.reshape(len(expected), -1)[:, -1:]
        positive = (expected == 1)[:, None]
        kind = "binary"
    statistics = np.zeros((len(expected), 1))
    return RankMeasurement(
        "roc_auc", f"classes:{kind}|{VERSION}", True, statistics, lambda s: s[..., 0], scores=scores, positive=positive
    )


def two_columns(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities of shape (items, classes), also from the positive class alone."""
    probabilities = np.asarray(probabilities, dtype=float)
    return np.stack([1 - probabilities, probabilities], axis=1) if probabilities.ndim == 1 else probabilities


def label_roc_auc(probabilities: np.ndarray, expected: np.ndarray) -> RankMeasurement:
    """Area under the ROC curve of several labels an item, averaged over the labels that some items have and some not.

    `probabilities` and `expected` (true where a label holds) have shape (items, labels).
    """
    probabilities, expected = np.asarray(probabilities, dtype=float), np.asarray(expected, dtype=bool)
    statistics = np.zeros((len(expected), 1))
    signature = f"classes:labels-macro|{VERSION}"
    return RankMeasurement(
        "roc_auc", signature, True, statistics, lambda s: s[..., 0], scores=probabilities, positive=expected
    )


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> list[dict[str, float]]:
    """A reliability diagram's points (Guo et al. 2017, fig. 1): of each bin that has items, its bounds, how many they
    are, their mean confidence, and how many are right. Both arguments have shape (items,)."""
    place = np.clip(np.ceil(np.asarray(confidence) * bins).astype(int) - 1, 0, bins - 1)
    found = []
    for number in np.unique(place).tolist():
        chosen = place == number
        found.append(
            {
                "low": number / bins,
                "high": (number + 1) / bins,
                "n": int(chosen.sum()),
                "confidence": float(confidence[chosen].mean()),
                "right": int(right[chosen].sum()),
            }
        )
    return found
