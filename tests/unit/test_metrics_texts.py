"""BLEU, chrF, TER and ROUGE against the reference implementations, on random texts."""

import random

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF, TER

from alignkit import metrics
from alignkit.errors import UserError
from alignkit.metrics import rouge
from alignkit.metrics.bleu import bleu
from alignkit.metrics.chrf import chrf
from alignkit.metrics.parallel import map_chunks
from alignkit.metrics.ter import ter

# The example of sacrebleu's README, with the figures printed there.
SYSTEM = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
REFERENCES = [
    ["The dog bit the man.", "The dog had bit the man."],
    ["It was not unexpected.", "No one was surprised."],
    ["The man bit him first.", "The man had bitten the dog."],
]


def random_texts(count: int, words: str = "a b c d e f run running cat cats", longest: int = 8, seed: int = 0):
    rng = random.Random(seed)
    vocabulary = words.split()

    def text() -> str:
        pieces = [rng.choice(vocabulary) + rng.choice(["", " ", " ", " ", "\n", ". ", ", "]) for _ in range(longest)]
        return "".join(pieces[: rng.randint(0, longest)])

    return [(text(), [text() for _ in range(rng.randint(1, 3))]) for _ in range(count)]


def streams(references):
    most = max(map(len, references))
    return [[choices[i] if i < len(choices) else None for choices in references] for i in range(most)]


def test_bleu_is_as_sacrebleus_readme_prints_it():
    measured = bleu(SYSTEM, REFERENCES)
    assert round(measured.value, 2) == 48.53
    assert measured.signature.startswith("nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:2.")
    assert measured.signature == BLEU_signature(SYSTEM, REFERENCES)
    assert round(chrf(SYSTEM, REFERENCES).value, 2) == 59.73


def BLEU_signature(predictions, references) -> str:
    metric = BLEU()
    metric.corpus_score(predictions, streams(references))
    return str(metric.get_signature())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (bleu, BLEU()),
        (lambda p, r: bleu(p, r, tokenize="intl", lowercase=True), BLEU(tokenize="intl", lowercase=True)),
        (lambda p, r: bleu(p, r, tokenize="zh"), BLEU(tokenize="zh")),
        (lambda p, r: bleu(p, r, tokenize="char"), BLEU(tokenize="char")),
        (lambda p, r: bleu(p, r, tokenize="none"), BLEU(tokenize="none")),
        (chrf, CHRF()),
        (lambda p, r: chrf(p, r, word_order=2), CHRF(word_order=2)),
        (ter, TER()),
        (lambda p, r: ter(p, r, case_sensitive=True), TER(case_sensitive=True)),
    ],
)
def test_corpus_scores_equal_sacrebleus(ours, theirs):
    for seed in range(60):
        pairs = random_texts(random.Random(seed).randint(1, 5), seed=seed)
        predictions, references = [p for p, _ in pairs], [r for _, r in pairs]
        measured = ours(predictions, references)
        expected = theirs.corpus_score(predictions, streams(references))
        assert measured.value == pytest.approx(expected.score, abs=1e-9)
        assert measured.signature == str(theirs.get_signature())
        assert np.isfinite(measured.items).all()


def test_items_of_bleu_are_sentence_bleu():
    sentence = BLEU(effective_order=True)
    pairs = random_texts(200, seed=3)
    items = bleu([p for p, _ in pairs], [r for _, r in pairs]).items
    expected = [sentence.sentence_score(p, r).score for p, r in pairs]
    assert items == pytest.approx(expected, abs=1e-9)


def test_an_empty_prediction_scores_zero_and_is_counted():
    for measure in (bleu, chrf):
        measured = measure(["", "a b c d e"], [["a b c d"], ["a b c d e"]])
        assert measured.items[0] == 0
        assert measured.empty == 1
    assert ter([""], [["a b"]]).value == 100
    assert ter([""], [[""]]).value == 0
    assert bleu([""], [[""]]).value == 0


@pytest.mark.parametrize("name", ["13A", "flores", "mecab"])
def test_an_unknown_tokenizer_is_refused(name):
    with pytest.raises(UserError, match="unknown tokenizer"):
        bleu(["a"], [["a"]], tokenize=name)


def test_flores_and_mecab_work_or_say_what_is_missing(monkeypatch):
    for name in ("ja-mecab", "ko-mecab"):
        try:
            assert bleu(["これは本です"], [["これは本です"]], tokenize=name).value == pytest.approx(100)
        except UserError as error:
            assert "pip install" in str(error)


KINDS = ["rouge1", "rouge2", "rouge3", "rouge9", "rougeL", "rougeLsum"]


@pytest.mark.parametrize("stemmer", [False, True])
@pytest.mark.parametrize(("count", "longest"), [(400, 8), (60, 90)])
def test_every_rouge_equals_rouge_scores(stemmer, count, longest):
    words = (
        "the The generalization generalizing relational ran running flies dies it's 3.14 naïve 上海 cat, x\u2028y İ ſ"
    )
    pairs = random_texts(count, words, longest, seed=longest)
    scorer = RougeScorer(KINDS, use_stemmer=stemmer)
    ours = rouge.rouge([p for p, _ in pairs], [r for _, r in pairs], KINDS, stemmer=stemmer)
    for (prediction, references), row in zip(pairs, ours, strict=True):
        theirs = scorer.score_multi(references, prediction)
        assert {kind: tuple(score) for kind, score in zip(KINDS, row, strict=True)} == {
            kind: tuple(score) for kind, score in theirs.items()
        }


def test_rouge_lsum_alone_equals_rouge_scores():
    scorer = RougeScorer(["rougeLsum"])
    for prediction, references in random_texts(200, "a b c", 30, seed=8):
        ours = rouge.score_pair(prediction, references[0], ["rougeLsum"], rouge.Tokenizer())
        assert tuple(ours["rougeLsum"]) == tuple(scorer.score(references[0], prediction)["rougeLsum"])


def test_longest_common_subsequence_equals_the_table():
    rng = random.Random(5)
    for _ in range(300):
        first = rng.choices("abcd", k=rng.randint(0, 80))
        second = rng.choices("abcd", k=rng.randint(0, 80))
        table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
        for i, x in enumerate(first):
            for j, y in enumerate(second):
                table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
        assert rouge.lcs_length(first, second) == table[-1][-1]


def test_worker_processes_give_the_same_and_report_progress():
    pairs = random_texts(4500, seed=11)
    predictions, references = [p for p, _ in pairs], [r for _, r in pairs]
    seen = []
    apart = rouge.rouge(predictions, references, ["rougeL"], progress=lambda done, total: seen.append((done, total)))
    assert apart == rouge.score_chunk(predictions, references, types=["rougeL"], use_stemmer=False)
    assert seen[-1] == (4500, 4500)


def test_an_exception_in_a_worker_is_raised_here():
    with pytest.raises(AttributeError):
        map_chunks(
            rouge.score_chunk, ([1] * 4000, [["a"]] * 4000), per_process=100, types=["rouge1"], use_stemmer=False
        )


def test_rouge_kinds_together_equal_each_alone():
    pairs = random_texts(50, seed=2)
    predictions, references = [p for p, _ in pairs], [r for _, r in pairs]
    together = metrics.measure(["bleu", "rouge"], predictions, references, options={"stemmer": True})
    assert [m.name for m in together] == ["bleu", "rouge1", "rouge2", "rougeL", "rougeLsum"]
    for measured in together[1:]:
        alone = metrics.get(measured.name).measure(predictions, references, stemmer=True)
        assert alone.value == measured.value
        assert "stem:yes" in measured.signature


def test_unknown_metrics_are_refused_with_the_likely_name():
    with pytest.raises(UserError, match="did you mean 'bleu'"):
        metrics.get("blue")
    with pytest.raises(UserError, match="did you mean 'rougeL'"):
        metrics.get("rouge_l")
    with pytest.raises(UserError) as raised:
        metrics.expand(["blue", "acuracy", "ter"])
    assert len(raised.value.problems) == 2
    assert metrics.expand(["rouge", "rouge1", "distinct-3"]) == ["rouge1", "rouge2", "rougeL", "rougeLsum", "distinct3"]


def test_statistics_of_parts_add_up_to_the_whole():
    pairs = random_texts(40, seed=21)
    predictions, references = [p for p, _ in pairs], [r[:1] for _, r in pairs]
    for name in ("bleu", "chrf", "chrf++", "ter", "rouge1", "exact_match", "token_f1", "repetition"):
        metric = metrics.get(name)
        whole = metric.measure(predictions, references)
        parts = [metric.measure(predictions[i::2], references[i::2]) for i in (0, 1)]
        together = sum(part.statistics.sum(axis=0) for part in parts)
        assert float(whole.formula(together)) == pytest.approx(whole.value)
        assert whole.higher_is_better == metric.higher_is_better
        assert whole.resampled(np.ones((1, 40)))[0] == pytest.approx(whole.value)
