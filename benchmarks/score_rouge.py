"""ROUGE on many pairs: alignkit against rouge-score's own loop, with and without the stemmer.

    python benchmarks/score_rouge.py [--pairs 20000] [--rounds 3]

The texts are drawn from Zipf-distributed words; a prediction keeps, drops and swaps words of its reference. Runs of
both sides alternate, so that a machine that grows slower does so for both, and the medians are compared. The results of
both are checked to be equal.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

from rouge_score.rouge_scorer import RougeScorer

from alignkit.metrics import rouge
from alignkit.metrics.parallel import processes_for

TYPES = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
SUFFIXES = ["", "", "s", "ed", "ing", "ation", "ly", "er", "ness"]


def make_pairs(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Predictions and references of 20 to 90 words in one to five lines."""
    rng = random.Random(seed)
    stems = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 7))) for _ in range(4000)]
    words = [stem + rng.choice(SUFFIXES) for stem in stems]
    weights = [1 / (rank + 2) for rank in range(len(words))]
    pool = rng.choices(words, weights, k=1_000_000)
    predictions, references = [], []
    for _ in range(count):
        start = rng.randrange(len(pool) - 100)
        reference = pool[start : start + rng.randint(20, 90)]
        prediction = [rng.choice(pool) if rng.random() < 0.35 else w for w in reference if rng.random() > 0.1]
        references.append(as_text(reference, rng))
        predictions.append(as_text(prediction, rng))
    return predictions, references


def as_text(words: list[str], rng: random.Random) -> str:
    """Sentences of about fifteen words, each on its own line."""
    lines = [words[i : i + 15] for i in range(0, len(words), 15)]
    return "\n".join(" ".join(line).capitalize() + rng.choice([".", "!", "?"]) for line in lines)


def theirs(predictions: list[str], references: list[str], stemmer: bool) -> list[list[tuple[float, ...]]]:
    """rouge-score's own loop."""
    scorer = RougeScorer(TYPES, use_stemmer=stemmer)
    scores = [scorer.score(r, p) for p, r in zip(predictions, references, strict=True)]
    return [[tuple(score[kind]) for kind in TYPES] for score in scores]


def ours(predictions: list[str], references: list[str], stemmer: bool) -> list[list[rouge.Score]]:
    """alignkit's, with as many processes as it finds worth while."""
    return rouge.rouge(predictions, [[reference] for reference in references], TYPES, stemmer=stemmer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    predictions, references = make_pairs(given.pairs)
    print(f"{given.pairs:,} pairs, {', '.join(TYPES)}, {processes_for(given.pairs, 2000)} processes")
    print(f"{'':12}{'rouge-score':>14}{'alignkit':>12}{'times':>8}   equal")
    for stemmer in (False, True):
        seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
        results = {}
        for _ in range(given.rounds):
            for name, run in (("theirs", theirs), ("ours", ours)):
                start = time.perf_counter()
                results[name] = run(predictions, references, stemmer)
                seconds[name].append(time.perf_counter() - start)
        before, after = (statistics.median(seconds[name]) for name in ("theirs", "ours"))
        equal = results["theirs"] == [[tuple(score) for score in row] for row in results["ours"]]
        label = "stemmer" if stemmer else "no stemmer"
        print(f"{label:12}{before:>12.1f} s{after:>10.2f} s{before / after:>8.1f}   {equal}")


if __name__ == "__main__":
    main()
