"""Comparisons of run folders whose scores and samples were written as evaluation writes them."""

import json
import random

import numpy as np
import pytest

from alignkit import metrics, statistics
from alignkit.compare import command, compare
from alignkit.errors import UserError
from alignkit.metrics.bleu import bleu

WORDS = ["the", "cat", "dog", "sat", "ran", "on", "a", "mat", "over", "hill", "and", "then", "slept"]


def references(count=120):
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.randint(5, 12))) for _ in range(count)]


def noisy(texts, share, seed):
    rng = random.Random(seed)
    return [" ".join(rng.choice(WORDS) if rng.random() < share else word for word in text.split()) for text in texts]


def write_run(folder, answers, expected, *, model="tuned", settings="decoding:greedy", names=("bleu", "exact_match")):
    """A run's evaluation folder; called again it adds another model."""
    measured = metrics.measure(names, answers, [[text] for text in expected])
    about = {"name": "held_out", "task": "generation", "split": "test", "model": model}
    scores = [
        {**about, "metric": m.name, "value": m.value, "ci95": list(statistics.interval(m)), "n": m.n}
        | {"signature": f"{m.signature}|{settings}"}
        for m in measured
    ]
    samples = [
        {**about, "id": f"t.jsonl:{i}", "prompt": f"say {i}", "references": [expected[i]], "prediction": answers[i]}
        | {"metrics": {m.name: round(float(m.items[i]), 6) for m in measured}}
        for i in range(len(answers))
    ]
    target = folder / "evaluation"
    target.mkdir(parents=True, exist_ok=True)
    old = json.loads((target / "scores.json").read_text()) if (target / "scores.json").exists() else []
    (target / "scores.json").write_text(json.dumps(old + scores))
    with (target / "samples.jsonl").open("a") as lines:
        lines.writelines(json.dumps(sample) + "\n" for sample in samples)
    return folder


@pytest.fixture
def runs(tmp_path):
    expected = references()
    worse = write_run(tmp_path / "a", noisy(expected, 0.5, 1), expected)
    better = write_run(tmp_path / "b", noisy(expected, 0.15, 2), expected)
    return worse, better


def test_a_better_run_is_found_better(runs):
    result = compare(runs)
    assert [row["metric"] for row in result["rows"]] == ["bleu", "exact_match"]
    assert [system["name"] for system in result["systems"]] == ["a", "b"]
    for row in result["rows"]:
        found = row["comparisons"][0]
        assert found["difference"] == pytest.approx(row["systems"][1]["value"] - row["systems"][0]["value"])
        assert 0 < found["ci95"][0] < found["difference"] < found["ci95"][1]
        assert found["p_randomization"] < 0.01
        assert found["p_randomization"] <= found["p_holm"] <= 2 * found["p_randomization"]
        assert found["wins"] + found["losses"] + found["ties"] == row["n"] == 120
        assert found["wins"] > found["losses"]
    assert result["rows"][0]["comparisons"][0]["p_mcnemar"] is None
    assert result["rows"][1]["comparisons"][0]["p_mcnemar"] < 0.01
    assert [item["better"] for item in result["changed"]][:4] == [True, True, True, False]
    assert result["changed"][0]["values"][1] - result["changed"][0]["values"][0] > 50
    assert result["notes"] == []


def test_corpus_bleu_is_counted_again_from_the_samples(runs):
    expected = references()
    result = compare(runs)
    first, second = (bleu(noisy(expected, *noise), [[t] for t in expected]) for noise in ((0.5, 1), (0.15, 2)))
    by_hand = statistics.compare(first, second)
    found = result["rows"][0]["comparisons"][0]
    assert (found["difference"], found["p_randomization"]) == (by_hand.difference, by_hand.p_randomization)
    assert tuple(found["ci95"]) == (by_hand.low, by_hand.high)


def test_equal_runs_show_no_difference(tmp_path):
    expected = references()
    same = noisy(expected, 0.3, 1)
    result = compare([write_run(tmp_path / name, same, expected) for name in "ab"])
    for row in result["rows"]:
        found = row["comparisons"][0]
        assert (found["difference"], found["p_holm"], found["wins"], found["losses"]) == (0, 1, 0, 0)
    assert result["changed"] == []


def test_one_run_is_compared_with_its_baseline(tmp_path, capsys):
    expected = references()
    run = write_run(tmp_path / "a", noisy(expected, 0.5, 1), expected, model="baseline")
    write_run(run, noisy(expected, 0.2, 2), expected, model="tuned")
    result = compare([run])
    assert [system["name"] for system in result["systems"]] == ["a:baseline", "a"]
    assert compare([f"{run}:baseline", f"{run}:tuned"])["rows"] == result["rows"]
    with pytest.raises(UserError, match="no scores of a model 'other'"):
        compare([f"{run}:other"])


def test_three_runs_are_held_against_the_first_and_corrected_together(tmp_path):
    expected = references()
    folders = [write_run(tmp_path / n, noisy(expected, s, 7), expected) for n, s in (("a", 0.3), ("b", 0.29), ("c", 0))]
    result = compare(folders)
    comparisons = [found for row in result["rows"] for found in row["comparisons"]]
    assert len(comparisons) == 4
    assert [c["p_holm"] for c in comparisons] == statistics.holm([c["p_randomization"] for c in comparisons])


def test_other_settings_or_data_are_refused_unless_asked_for(tmp_path):
    expected = references()
    first = write_run(tmp_path / "a", noisy(expected, 0.5, 1), expected)
    sampled = write_run(tmp_path / "b", noisy(expected, 0.4, 2), expected, settings="decoding:sampling")
    with pytest.raises(UserError, match=r"settings differ .*decoding:greedy against decoding:sampling"):
        compare([first, sampled])
    fewer = write_run(tmp_path / "c", noisy(expected, 0.4, 2)[:100], expected[:100])
    with pytest.raises(UserError, match=r"data differ .*120 and 100 items, 100 in common"):
        compare([first, fewer])
    changed = write_run(tmp_path / "d", noisy(expected, 0.4, 2), [*expected[:-1], "another answer"])
    with pytest.raises(UserError, match="1 items with the same id"):
        compare([first, changed])
    result = compare([first, fewer], allow_different=True)
    assert result["rows"][0]["n"] == 100
    again = bleu(noisy(expected, 0.5, 1)[:100], [[text] for text in expected[:100]])
    assert result["rows"][0]["systems"][0]["value"] == pytest.approx(again.value)
    assert "100 in common" in result["notes"][0]
    assert compare([first, changed], allow_different=True)["rows"][0]["n"] == 119


def test_what_cannot_be_compared_is_said(tmp_path, runs):
    (tmp_path / "files").mkdir()
    with pytest.raises(UserError, match="this folder holds no run"):
        compare([runs[0], tmp_path / "files"])
    elsewhere = write_run(tmp_path / "f", ["a"], ["a"], settings="decoding:sampling")
    lines = (elsewhere / "evaluation" / "samples.jsonl").read_text().replace("t.jsonl", "other.jsonl")
    (elsewhere / "evaluation" / "samples.jsonl").write_text(lines)
    with pytest.raises(UserError, match="120 and 1 items, none in common") as caught:
        compare([runs[0], elsewhere])
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such run folder"):
        compare([runs[0], tmp_path / "none"])
    (tmp_path / "empty" / "evaluation").mkdir(parents=True)
    with pytest.raises(UserError, match="the run has no scores"):
        compare([runs[0], tmp_path / "empty"])
    with pytest.raises(UserError, match="named twice"):
        compare([runs[0], runs[0]])
    other = write_run(tmp_path / "e", ["x"] * 5, ["x"] * 5, names=("token_f1",))
    with pytest.raises(UserError, match="share no score"):
        compare([runs[0], other])
    assert [row["metric"] for row in compare(runs, metric=["exact_match"])["rows"]] == ["exact_match"]


def test_scores_that_the_samples_do_not_give_again_get_no_test(runs):
    path = runs[1] / "evaluation" / "scores.json"
    scores = json.loads(path.read_text())
    scores[0]["value"] += 1
    path.write_text(json.dumps(scores))
    result = compare(runs)
    assert result["rows"][0]["comparisons"] == []
    assert "held_out/bleu" in result["notes"][0]
    assert result["rows"][1]["comparisons"][0]["p_holm"] < 0.05


def write_lines(folder, file, lines, scores):
    target = folder / "evaluation"
    target.mkdir(parents=True)
    (target / "scores.json").write_text(json.dumps(scores))
    (target / file).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_perplexity_is_compared_by_document(tmp_path):
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 60, 80)
    nats = rng.gamma(20, 0.1, 80) * tokens
    folders = []
    for name, factor in (("a", 1.0), ("b", 0.9)):
        about = {"name": "ppl", "task": "perplexity", "split": "test", "model": "tuned"}
        ours = nats * factor
        value = float(np.exp(ours.sum() / tokens.sum()))
        score = {**about, "metric": "perplexity", "value": value, "ci95": [1, 2], "n": 80, "signature": "s"}
        lines = [{**about, "id": str(i), "nats": float(ours[i]), "tokens": int(tokens[i])} for i in range(80)]
        folders.append(write_lines(tmp_path / name, "documents.jsonl", lines, [score]))
    row = compare(folders)["rows"][0]
    assert not row["higher_is_better"]
    assert row["comparisons"][0]["difference"] < 0
    assert (row["comparisons"][0]["wins"], row["comparisons"][0]["p_holm"] < 0.01) == (80, True)


def test_classification_is_compared_from_labels_even_where_one_system_never_says_one(tmp_path):
    rng = np.random.default_rng(1)
    expected = rng.choice(["ham", "spam", "other"], 200).tolist()
    folders = []
    for name, predictions in (("a", ["ham"] * 200), ("b", expected)):
        about = {"name": "labels", "task": "classification", "split": "test", "model": "tuned"}
        found = [metrics.get(m).measure(predictions, expected) for m in ("f1_macro", "accuracy")]
        scores = [
            {**about, "metric": m.name, "value": m.value, "ci95": [0, 1], "n": 200, "signature": "s"} for m in found
        ]
        lines = [
            {**about, "id": str(i), "prediction": p, "label": e}
            for i, (p, e) in enumerate(zip(predictions, expected, strict=True))
        ]
        folders.append(write_lines(tmp_path / name, "samples.jsonl", lines, scores))
    rows = compare(folders)["rows"]
    assert [row["comparisons"][0]["p_holm"] < 0.01 for row in rows] == [True, True]


def test_the_command_prints_and_writes_the_table(runs, capsys):
    command(runs)
    out = capsys.readouterr()
    assert "bleu ↑" in out.out
    assert "better" in out.out
    markdown = (runs[1] / "evaluation" / "compare-a.md").read_text()
    assert markdown.startswith("# b against a\n")
    assert "## held_out\n\n| metric | a | b | difference | p (Holm) | won/lost |" in markdown
    assert "| bleu ↑ n=120 | " in markdown
    assert "Items that changed most" in markdown
    assert json.loads((runs[1] / "evaluation" / "compare-a.json").read_text())["rows"]
    command(runs, as_json=True, out=runs[0].parent / "out" / "table")
    assert json.loads(capsys.readouterr().out)["rows"][0]["metric"] == "bleu"
    assert (runs[0].parent / "out" / "table.md").exists()
