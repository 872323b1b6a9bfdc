"""ROUGE-N, ROUGE-L and ROUGE-Lsum, equal to rouge-score's to the last bit, and many times faster.

Definitions: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004), sections 2 to 3.2, as implemented by
rouge-score 0.1.2 (`RougeScorer`, default tokenizer). The longest common subsequence runs bit-parallel on Python's long
integers (Hyyrö, "Bit-Parallel LCS-length Computation Revisited", 2004, fig. 2) instead of in a table of lists.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from alignkit.metrics.measurement import Measurement, mean_of
from alignkit.metrics.parallel import Progress, map_chunks

_WORD = re.compile("[a-z0-9]+")


class Score(NamedTuple):
    """Precision, recall and their harmonic mean, each 0 to 1."""

    precision: float
    recall: float
    fmeasure: float


ZERO = Score(0.0, 0.0, 0.0)


class Tokenizer:
    """rouge-score's default tokenizer: lower-case runs of a-z and 0-9; Porter's stemmer on words longer than three."""

    def __init__(self, use_stemmer: bool = False) -> None:
        self._stem = _stemmer() if use_stemmer else None

    def __call__(self, text: str) -> list[str]:
        words = _WORD.findall(text.lower())
        if self._stem is None:
            return words
        return [stem for stem in map(self._stem, words) if stem]


@cache
def _stemmer() -> Any:
    """nltk's Porter stemmer as rouge-score uses it, which remembers every word."""
    porter = _porter_module().PorterStemmer()
    return cache(lambda word: porter.stem(word) if len(word) > 3 else word)


def _porter_module() -> Any:
    """nltk.stem.porter without the rest of nltk, which would import scikit-learn and pandas (two seconds)."""
    found = importlib.util.find_spec("nltk")
    if "nltk" in sys.modules or found is None or not found.submodule_search_locations:
        return importlib.import_module("nltk.stem.porter")
    root = found.submodule_search_locations[0]
    try:
        for name, folder in (("nltk", root), ("nltk.stem", f"{root}/stem")):
            bare = ModuleType(name)
            bare.__path__ = [folder]
            sys.modules[name] = bare
        return importlib.import_module("nltk.stem.porter")
    finally:  # whoever imports nltk later gets all of it
        for name in ("nltk", "nltk.stem", "nltk.stem.api", "nltk.stem.porter"):
            sys.modules.pop(name, None)


def score_pair(prediction: str, reference: str, types: Sequence[str], tokenize: Tokenizer) -> dict[str, Score]:
    """Each of `types` ("rouge1" … "rouge9", "rougeL", "rougeLsum") for one pair of texts."""
    predicted, expected = tokenize(prediction), tokenize(reference)
    scores = {}
    for kind in types:
        if kind == "rougeL":
            scores[kind] = _score(lcs_length(expected, predicted), len(predicted), len(expected))
        elif kind == "rougeLsum":
            scores[kind] = _summary_score(prediction, reference, tokenize)
        else:
            scores[kind] = _ngram_score(predicted, expected, int(kind[5:]))
    return scores


def score_multi(
    prediction: str, references: Sequence[str], types: Sequence[str], tokenize: Tokenizer
) -> dict[str, Score]:
    """As `score_pair` against the reference that gives the best F-measure, for each type by itself."""
    scored = [score_pair(prediction, reference, types, tokenize) for reference in references]
    return {kind: max((scores[kind] for scores in scored), key=lambda score: score.fmeasure) for kind in types}


def _score(hits: int, predicted: int, expected: int) -> Score:
    """Precision, recall and F1 from counts, in rouge-score's order of operations."""
    if not predicted or not expected:
        return ZERO
    precision, recall = hits / predicted, hits / expected
    total = precision + recall
    return Score(precision, recall, 2 * precision * recall / total if total > 0 else 0.0)


def _ngram_score(predicted: list[str], expected: list[str], n: int) -> Score:
    """ROUGE-N (Lin 2004, section 2)."""
    ours, theirs = _ngrams(predicted, n), _ngrams(expected, n)
    few, many = (ours, theirs) if len(ours) < len(theirs) else (theirs, ours)
    lookup = many.get
    hits = sum([min(count, lookup(ngram, 0)) for ngram, count in few.items()])
    return _score(hits, len(predicted) - n + 1 if ours else 0, len(expected) - n + 1 if theirs else 0)


def _ngrams(tokens: list[str], n: int) -> Counter[Any]:
    return Counter(tokens) if n == 1 else Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def lcs_length(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    if len(first) > len(second):
        first, second = second, first
    full = (1 << len(first)) - 1
    row = full
    for place in map(_positions(first).get, second):
        if place:
            matched = row & place
            row = (row + matched | row - matched) & full
    return len(first) - row.bit_count()


def _positions(tokens: Sequence[str]) -> dict[str, int]:
    """For each token the bit set of the places where it stands."""
    places: dict[str, int] = {}
    bit = 1
    for token in tokens:
        places[token] = places.get(token, 0) | bit
        bit <<= 1
    return places


def _lcs_places(length: int, places: dict[str, int], predicted: Sequence[str]) -> set[int]:
    """The places in the reference of the one common subsequence that rouge-score's backtracking reads out.

    Bit i of row j is 0 where the table grows from reference place i to i+1 at prediction token j. Its walk from the
    corner goes diagonally where the tokens match; else left exactly where the table grows there, and up otherwise.
    """
    full = (1 << length) - 1
    row = full
    rows = []
    matches = [places.get(token, 0) for token in predicted]
    for place in matches:
        if place:
            matched = row & place
            row = (row + matched | row - matched) & full
        rows.append(row)
    found = set()
    i, j = length - 1, len(predicted) - 1
    while i >= 0 and j >= 0:
        if matches[j] >> i & 1:
            found.add(i)
            i -= 1
            j -= 1
        elif rows[j] >> i & 1:
            i -= 1
        else:
            j -= 1
    return found


def _summary_score(prediction: str, reference: str, tokenize: Tokenizer) -> Score:
    """ROUGE-L at summary level (Lin 2004, section 3.2): sentences are lines; hits are counted once."""
    predicted = [tokenize(line) for line in prediction.split("\n") if line]
    expected = [tokenize(line) for line in reference.split("\n") if line]
    left_ours = Counter(token for sentence in predicted for token in sentence)
    left_theirs = Counter(token for sentence in expected for token in sentence)
    hits = 0
    for sentence in expected:
        places = _positions(sentence)
        union: set[int] = set()
        for other in predicted:
            union |= _lcs_places(len(sentence), places, other)
        for place in union:
            token = sentence[place]
            if left_ours[token] > 0 and left_theirs[token] > 0:
                hits += 1
                left_ours[token] -= 1
                left_theirs[token] -= 1
    return _score(hits, sum(map(len, predicted)), sum(map(len, expected)))


def score_chunk(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, types: Sequence[str], use_stemmer: bool
) -> list[list[Score]]:
    """For each prediction its best `Score` of each type."""
    tokenize = Tokenizer(use_stemmer)
    rows = []
    for prediction, choices in zip(predictions, references, strict=True):
        scores = score_multi(prediction, choices, types, tokenize)
        rows.append([scores[kind] for kind in types])
    return rows


def rouge(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    types: Sequence[str] = ("rouge1", "rouge2", "rougeL", "rougeLsum"),
    *,
    stemmer: bool = False,
    progress: Progress | None = None,
) -> list[list[Score]]:
    """Scores of shape (items, types); several references: the best by F-measure. Large sets use several processes."""
    return map_chunks(
        score_chunk,
        (predictions, references),
        per_process=2000,
        progress=progress,
        types=list(types),
        use_stemmer=stemmer,
    )


def measure(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    types: Sequence[str],
    *,
    stemmer: bool = False,
    progress: Progress | None = None,
) -> list[Measurement]:
    """A measurement (mean F-measure, 0 to 1) for each of `types`, computed together."""
    from importlib.metadata import version

    scores = rouge(predictions, references, types, stemmer=stemmer, progress=progress)
    counts = {len(choices) for choices in references}
    signature = "|".join(
        [
            f"nrefs:{counts.pop() if len(counts) == 1 else 'var'}",
            f"stem:{'yes' if stemmer else 'no'}",
            "tok:rouge-score",
            "score:fmeasure",
            "agg:mean",
            f"version:{version('rouge-score')}",
        ]
    )
    empty = sum(not prediction.strip() for prediction in predictions)
    columns = np.array([[score.fmeasure for score in row] for row in scores], dtype=float).reshape(-1, len(types))
    return [mean_of(kind, columns[:, index], signature, empty=empty) for index, kind in enumerate(types)]
