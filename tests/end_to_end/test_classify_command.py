"""`alignkit classify` and `alignkit predict` as a user runs them."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.classifiers import recipe, sentences, texts, tiny_bert

from alignkit import predict as predicting

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert") / "model")


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_train_report_and_predict(
    cli: Cli, bert: Path, write_recipe: Write, write_jsonl: Write, tmp_path: Path
) -> None:
    write_jsonl(texts())
    training = {"max_steps": 12, "eval_strategy": "steps", "eval_steps": 6, "save_steps": 6}
    training |= {"load_best_model_at_end": True, "metric_for_best_model": "f1_macro", "early_stopping_patience": 3}
    made = recipe(bert, {"train": "data.jsonl", "eval_fraction": 0.25}, training=training)
    done = cli("classify", write_recipe(made), "--json")
    assert done.returncode == 0, done.stderr
    scored = {(score["model"], score["metric"]) for score in json.loads(done.stdout)["scores"]}
    assert {("tuned", "matthews_correlation"), ("majority", "accuracy"), ("tfidf_logreg", "roc_auc")} <= scored
    report = (tmp_path / "run" / "report.md").read_text().replace("\\", "")
    assert re.search(r"accuracy on held_out is [\d.]+, that of \w+ [\d.]+: (better|worse|no clear difference)", report)
    assert "tfidf" in report and "Confusion" not in report.split("## Right and wrong answers")[0]

    # Empty texts, emoji, right-to-left and Devanagari go through, in order, under the columns of the training data.
    asked = [{"text": ""}, {"text": "the cat was red"}, {"text": "😀 मज़ा שלום"}, {"text": None}, {"text": "x " * 500}]
    write_jsonl(asked, "ask.jsonl")
    said = cli("predict", "run", "ask.jsonl")
    assert said.returncode == 0, said.stderr
    answers = lines(said.stdout)
    assert [answer["id"] for answer in answers] == [f"ask.jsonl:{number}" for number in range(1, 6)]
    for answer in answers:
        shares = answer["probabilities"]
        assert isinstance(shares, dict) and sum(shares.values()) == pytest.approx(1.0, abs=1e-4)
        assert answer["label"] == max(shares, key=shares.__getitem__)
    assert answers[4]["truncated"] is True and "truncated" not in answers[1]
    assert answers[0]["probabilities"] == answers[3]["probabilities"]

    wrong = cli("predict", "run", write_jsonl([{"text": "a"}, {"txt": "b"}], "wrong.jsonl"))
    assert wrong.returncode == 2 and "wrong.jsonl:2: no column text" in wrong.stderr, wrong.stderr
    assert all(line.startswith("error: ") for line in wrong.stderr.splitlines())
    assert cli("predict", "nowhere/run", "ask.jsonl").returncode == 2
    assert cli("predict", "run", "nothing.jsonl").returncode == 2


def test_a_stopped_prediction_goes_on(
    bert: Path, write_jsonl: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BertForTokenClassification

    monkeypatch.chdir(tmp_path)
    few = dataclasses.replace(predicting.PREDICTORS["labels"], block=4)
    monkeypatch.setitem(predicting.PREDICTORS, "labels", few)
    names = {0: "O", 1: "B-PER", 2: "I-PER"}
    BertForTokenClassification.from_pretrained(
        bert, id2label=names, label2id={n: i for i, n in names.items()}
    ).save_pretrained(tmp_path / "tagger")
    for file in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        if (bert / file).exists():
            shutil.copy(bert / file, tmp_path / "tagger" / file)
    file = write_jsonl([{"tokens": row["tokens"]} for row in sentences(18)])
    straight, stopped = tmp_path / "straight.jsonl", tmp_path / "stopped.jsonl"
    assert predicting.predict("tagger", file, straight) == 18
    assert lines(straight.read_text())[0]["tokens"] == sentences(1)[0]["tokens"]

    written = predicting._Writer.write
    calls = []

    def fail(self: object, answers: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        written(self, answers)  # type: ignore[arg-type]

    monkeypatch.setattr(predicting._Writer, "write", fail)
    with pytest.raises(KeyboardInterrupt):
        predicting.predict("tagger", file, stopped)
    partial = tmp_path / "stopped.jsonl.partial"
    assert len(partial.read_text().splitlines()) == 8 and not stopped.exists()
    partial.write_text(partial.read_text() + '{"id": "data.jsonl:9", "tok')  # a kill in the middle of a line
    monkeypatch.setattr(predicting._Writer, "write", written)
    assert predicting.predict("tagger", file, stopped) == 18
    assert stopped.read_text() == straight.read_text() and not partial.exists()
    # Another input: what was written before is not this question's.
    partial.write_text(stopped.read_text())
    partial.with_name(f"{partial.name}.json").write_text("of another file")
    assert predicting.predict("tagger", file, stopped, overwrite=True) == 18
    assert stopped.read_text() == straight.read_text()


@pytest.mark.parametrize("adapter", [False, True])
def test_a_resumed_classifier_is_the_uninterrupted_one(
    bert: Path, write_jsonl: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: bool
) -> None:
    from alignkit import api

    monkeypatch.chdir(tmp_path)
    write_jsonl(texts())
    # Thirty rows in batches of 8: the checkpoint at 5 lies in the second epoch, and dropout draws in every step.
    training = {"max_steps": 12, "save_steps": 5, "class_weights": "balanced", "label_smoothing_factor": 0.1}
    sections = {"adapter": {"r": 2, "lora_dropout": 0.1}} if adapter else {}
    made = api.load_recipe(recipe(bert, {"train": "data.jsonl", "eval_fraction": 0.25}, training=training, **sections))
    run = api.train(made)
    weights = "adapter_model.safetensors" if adapter else "model.safetensors"
    straight = load_file(run.model_dir / weights)
    shutil.rmtree(run.model_dir)
    for step in (10, 12):
        shutil.rmtree(run.checkpoints_dir / f"checkpoint-{step}")
    resumed = load_file(api.train(made, resume=True).model_dir / weights)
    assert straight.keys() == resumed.keys()
    assert all(bool((straight[name] == resumed[name]).all()) for name in straight)


@pytest.mark.slow
def test_the_embedded_classifier_learns(cli: Cli) -> None:
    """Negation turns a review round: pairs of words do not tell it, a small BERT learns it, and the test says so."""
    done = cli("classify", Path(__file__).parents[2] / "recipes" / "tiny" / "classify.yaml", "--json", timeout=900)
    assert done.returncode == 0, done.stderr
    scores = {(score["model"], score["metric"]): score for score in json.loads(done.stdout)["scores"]}
    assert scores["tuned", "accuracy"]["ci95"][0] > scores["tfidf_logreg", "accuracy"]["ci95"][1] > 0.5
    difference = scores["tfidf_logreg", "accuracy"]["difference"]
    assert difference["value"] > 0.1 and difference["p_value"] < 0.001
