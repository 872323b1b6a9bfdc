"""What a classifier has to beat: the majority class, TF-IDF with logistic regression, each word's most frequent tag."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignkit.examples.labels import MULTI, NUMERIC, TOKEN, Head

Scores = list[np.ndarray]
"""Of each item (L,), of each sentence (W, L): as `evaluation.classifier.Answer` has them."""
STRENGTHS = (1.0, 10.0, 100.0)  # scikit-learn's C, the inverse of the regularisation
MOST_TO_CHOOSE = 50_000  # rows: above, C is 10
MOST_FEATURES = 300_000


@dataclass(frozen=True)
class Simple:
    """A fitted simple model: its name in scores.json, what it is, and its answers."""

    name: str
    signature: str
    scores: Callable[[Sequence[Any]], Scores]


def fit(head: Head, items: Sequence[Any], labels: Sequence[Any], seed: int) -> list[Simple]:
    """The simple models for a head, fitted on the training split: texts (or lists of words) and their labels."""
    if head.kind == TOKEN:
        return [_most_frequent_tag(head, items, labels)]
    if head.kind == NUMERIC:
        return [_mean(labels), _ridge(items, labels)]
    truth = np.array([[name in _as_set(label) for name in head.labels] for label in labels])
    found = [_majority(head, truth)]
    return [*found, model] if (model := _logistic(head, items, truth, seed)) is not None else found


def _as_set(label: Any) -> set[str]:
    return set(label) if isinstance(label, list) else {label}


# ---------------------------------------------------------------------- texts
def _majority(head: Head, truth: np.ndarray) -> Simple:
    """How often each label occurs: the most frequent always wins, and its confidence is its share."""
    shares = truth.mean(axis=0)
    return Simple("majority", f"labels:{len(head.labels)}", lambda items: [shares for _ in items])


def _mean(labels: Sequence[Any]) -> Simple:
    mean = np.array([np.mean([float(label) for label in labels])])
    return Simple("mean", "of:training targets", lambda items: [mean for _ in items])


def _vectors(texts: Sequence[str]) -> Any:
    """TF-IDF of words and pairs of words; of texts without a word, the characters as they are."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = any(re.search(r"(?u)\b\w\w+\b", text) for text in texts)
    token = None if words else r"(?s)."
    options = {} if token is None else {"token_pattern": token}
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=MOST_FEATURES, **options)
    try:
        return vectors.fit(texts)
    except ValueError:  # nothing but empty texts
        return None


def _logistic(head: Head, texts: Sequence[str], truth: np.ndarray, seed: int) -> Simple | None:
    """TF-IDF of words and bigrams with logistic regression; C is chosen on a tenth of the training rows."""
    vectors = _vectors(texts)
    if vectors is None:
        return None
    features = vectors.transform(texts)
    strength, how = 10.0, "C:10"
    rows = np.random.default_rng(seed).permutation(len(texts))
    held, kept = rows[: len(rows) // 10], rows[len(rows) // 10 :]
    if 50 <= len(texts) <= MOST_TO_CHOOSE:
        right = []
        for candidate in STRENGTHS:
            said = _fit_logistic(head, features[kept], truth[kept], candidate)(features[held])
            right.append(_right(head, said, truth[held]))
        strength = STRENGTHS[int(np.argmax(right))]
        how = f"C:{strength:g} of {'/'.join(f'{c:g}' for c in STRENGTHS)}, on a tenth of the training rows"
    predict = _fit_logistic(head, features, truth, strength)
    signature = f"tfidf:words 1-2, sublinear|{how}|sklearn"
    return Simple("tfidf_logreg", signature, lambda items: list(predict(vectors.transform(items))) if items else [])


def _right(head: Head, said: np.ndarray, truth: np.ndarray) -> float:
    if head.kind == MULTI:
        return float(((said >= 0.5) == truth).mean())
    return float((said.argmax(axis=1) == truth.argmax(axis=1)).mean())


def _fit_logistic(head: Head, features: Any, truth: np.ndarray, strength: float) -> Callable[[Any], np.ndarray]:
    """Features (N, F) -> probabilities (N, L)."""
    from sklearn.linear_model import LogisticRegression

    def fitted(target: np.ndarray) -> tuple[Any, np.ndarray]:
        model = LogisticRegression(C=strength, max_iter=1000).fit(features, target)
        return model, model.classes_

    if head.kind == MULTI:
        shares = truth.mean(axis=0)
        models = [fitted(column)[0] if 0 < column.sum() < len(column) else None for column in truth.T]
        return lambda wanted: np.stack(
            [
                np.full(wanted.shape[0], share) if model is None else model.predict_proba(wanted)[:, 1]
                for model, share in zip(models, shares, strict=True)
            ],
            axis=1,
        )
    numbers = truth.argmax(axis=1)
    if len(np.unique(numbers)) < 2:
        return lambda wanted: np.tile(truth.mean(axis=0), (wanted.shape[0], 1))
    model, classes = fitted(numbers)

    def predict(wanted: Any) -> np.ndarray:
        scores = np.zeros((wanted.shape[0], len(head.labels)))
        scores[:, classes] = model.predict_proba(wanted)
        return scores

    return predict


def _ridge(texts: Sequence[str], labels: Sequence[Any]) -> Simple:
    """TF-IDF with ridge regression."""
    from sklearn.linear_model import Ridge

    vectors = _vectors(texts)
    if vectors is None:
        return _mean(labels)
    model = Ridge(alpha=1.0).fit(vectors.transform(texts), [float(label) for label in labels])
    return Simple(
        "tfidf_ridge",
        "tfidf:words 1-2, sublinear|alpha:1|sklearn",
        lambda items: [np.array([value]) for value in model.predict(vectors.transform(items))],
    )


# ---------------------------------------------------------------------- words
def _most_frequent_tag(head: Head, sentences: Sequence[Sequence[str]], tags: Sequence[Sequence[str]]) -> Simple:
    """Each word's most frequent tag in training; of a word never seen, the most frequent of all (or O)."""
    counts: dict[str, Counter[str]] = {}
    every: Counter[str] = Counter()
    for words, marks in zip(sentences, tags, strict=True):
        for word, mark in zip(words, marks, strict=True):
            counts.setdefault(word, Counter())[mark] += 1
            every[mark] += 1
    place = {label: number for number, label in enumerate(head.labels)}
    unseen = "O" if "O" in place else every.most_common(1)[0][0]

    def shares(word: str) -> np.ndarray:
        row = np.zeros(len(head.labels))
        known = counts.get(word) or Counter({unseen: 1})
        for mark, number in known.items():
            row[place[mark]] = number / known.total()
        return row

    return Simple(
        "most_frequent_tag",
        f"unseen:{unseen}",
        lambda items: [np.array([shares(word) for word in words]).reshape(-1, len(head.labels)) for words in items],
    )
