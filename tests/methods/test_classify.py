"""Classifiers train, save, load and answer: the same through alignkit, plain transformers and peft."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.classifiers import recipe, sentences, texts, tiny_bert, word_tokenizer
from transformers import AutoConfig, AutoTokenizer, pipeline

from alignkit import api, preflight
from alignkit.compare import compare
from alignkit.data.heads import prepare_labelled
from alignkit.errors import UserError
from alignkit.evaluation.classifier import Classifier
from alignkit.examples.labels import Head
from alignkit.models import load_result

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(values: dict[str, Any]) -> Any:
    return api.train(api.load_recipe(values), overwrite=True)


def scores(run: Any) -> dict[tuple[str, str], dict[str, Any]]:
    return {(score["model"], score["metric"]): score for score in run.scores()}


def logits(model: Any, tokenizer: Any, text: str) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(**tokenizer(text, return_tensors="pt")).logits


# ---------------------------------------------------------------------- one label
def test_a_classifier_answers_alike_through_pipeline(bert: Path, write_jsonl: Write) -> None:
    write_jsonl(texts(60))
    values = recipe(bert, {"train": "data.jsonl", "eval_fraction": 0.25}, training={"max_steps": 12})
    run = train(values)
    found = scores(run)
    assert {model for model, _ in found} == {"tuned", "majority", "tfidf_logreg"}
    beside = compare([f"{run.path}:tfidf_logreg", run.path], metric=["accuracy", "matthews_correlation"])
    assert [row["comparisons"][0]["p_holm"] is not None for row in beside["rows"]] == [True, True]
    assert not beside["notes"]
    for metric in ("accuracy", "f1_macro", "f1_weighted", "matthews_correlation", "roc_auc"):
        assert found["tuned", metric]["ci95"][0] <= found["tuned", metric]["value"] <= found["tuned", metric]["ci95"][1]
    assert found["tfidf_logreg", "accuracy"]["value"] == 1.0  # one word says it
    difference = found["tfidf_logreg", "accuracy"]["difference"]
    assert difference["test"] == "mcnemar, exact"
    assert difference["value"] == pytest.approx(found["tuned", "accuracy"]["value"] - 1.0)
    config = AutoConfig.from_pretrained(run.model_dir)
    assert config.id2label == {0: "blue", 1: "green", 2: "red"} and config.problem_type == "single_label_classification"
    asked = ["the cat was red", "", "😀 मज़ा שלום", "good " * 10]
    classifier = Classifier(*load_result(run.model_dir, head="sequence_classification"))
    plain = pipeline("text-classification", model=str(run.model_dir), top_k=None)
    for text, answer in zip(asked, classifier.answers(asked), strict=True):
        theirs = {one["label"]: one["score"] for one in plain([text])[0]}
        ours = dict(zip(classifier.head.labels, answer.scores.tolist(), strict=True))
        assert ours == pytest.approx(theirs, abs=1e-5)
    details = json.loads((run.evaluation_dir / "details.json").read_text())[0]
    assert np.array(details["confusion"]["matrix"]).sum() == found["tuned", "accuracy"]["n"]
    assert "Reliability diagram" in run.report_path.read_text() and "Confusion matrix" in run.report_path.read_text()


def test_integers_are_named_and_a_checkpoints_head_is_kept_or_replaced(bert: Path, write_jsonl: Write) -> None:
    rows = [{"text": f"{'good' if i % 2 else 'bad'} {i}", "label": i % 2} for i in range(24)]
    write_jsonl(rows)
    data = {"train": "data.jsonl", "eval_fraction": 0.25}
    first = train(recipe(bert, data, labels={"names": ["negative", "positive"]}))
    assert AutoConfig.from_pretrained(first.model_dir).id2label == {0: "negative", 1: "positive"}
    start = first.model_dir
    # The same labels: the head goes on. Other labels: refused, with the way out; with it, a new head.
    again = recipe(start, data, labels={"names": ["negative", "positive"]}, output_dir="again")
    again["training"]["learning_rate"] = 0.0
    kept = train(again)
    old, new = (load_result(folder, head="sequence_classification") for folder in (start, kept.model_dir))
    assert torch.equal(logits(*old, "good cat"), logits(*new, "good cat"))
    write_jsonl([{"text": row["text"], "label": ("a", "b", "c")[i % 3]} for i, row in enumerate(rows)], "other.jsonl")
    other = recipe(start, {"train": "other.jsonl", "eval_fraction": 0.25}, output_dir="other")
    with pytest.raises(UserError, match=r"its head is for negative, positive.*labels\.new_head: true"):
        train(other)
    other["labels"] = {"new_head": True}
    assert AutoConfig.from_pretrained(train(other).model_dir).id2label == {0: "a", 1: "b", 2: "c"}
    same = recipe(start, data, labels={"names": ["negative", "positive"], "new_head": True}, output_dir="same")
    same["training"]["learning_rate"] = 0.0
    drawn = load_result(train(same).model_dir, head="sequence_classification")[0]
    assert not torch.equal(drawn.classifier.weight, old[0].classifier.weight)
    assert torch.equal(
        drawn.bert.encoder.layer[0].output.dense.weight, old[0].bert.encoder.layer[0].output.dense.weight
    )


def test_a_lora_keeps_its_head(bert: Path, write_jsonl: Write) -> None:
    from peft import AutoPeftModelForSequenceClassification

    write_jsonl(texts())
    values = recipe(bert, {"train": "data.jsonl", "eval_fraction": 0.25}, adapter={"r": 4})
    values["training"]["max_steps"] = 8
    run = train(values)
    ours, tokenizer = load_result(run.model_dir, head="sequence_classification")
    before = logits(ours, tokenizer, "the cat was red")
    # The score that was measured in memory is the one of what was saved.
    again = {(s["model"], s["metric"]): s["value"] for s in api.evaluate(run.path)}
    assert again["tuned", "accuracy"] == scores(run)["tuned", "accuracy"]["value"]
    config = AutoConfig.from_pretrained(run.model_dir)
    plain = AutoPeftModelForSequenceClassification.from_pretrained(
        run.model_dir, id2label=config.id2label, problem_type=config.problem_type
    )
    assert torch.allclose(before, logits(plain, AutoTokenizer.from_pretrained(run.model_dir), "the cat was red"))
    answered = pipeline("text-classification", model=plain, tokenizer=tokenizer)("the cat was red")[0]
    assert answered["label"] == config.id2label[int(before.argmax())]


@pytest.mark.parametrize("family", ["distilbert", "roberta", "modernbert", "llama", "gpt2"])
def test_other_families_and_decoders_classify(family: str, tmp_path: Path, write_jsonl: Write) -> None:
    """Heads of several parts are all saved with a LoRA; decoders read the last token that is no padding."""
    word_tokenizer(tmp_path / "tokenizer")
    sizes = {
        "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 64},
        "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64},
    }
    usual = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"model_type": family, **sizes.get(family, {**usual, "max_position_embeddings": 66})}
    write_jsonl(texts(24))
    values = recipe(bert := tmp_path / "tokenizer", {"train": "data.jsonl", "eval_fraction": 0.25}, adapter={"r": 2})
    values["model"] = {"init": "random", "tokenizer_name_or_path": str(bert), "config": config, "dtype": "float32"}
    if family == "gpt2":
        values["adapter"]["target_modules"] = ["c_attn"]
    run = train(values)
    tuned = {(s["model"], s["metric"]): s["value"] for s in api.evaluate(run.path)}
    stored = scores(run)
    for metric in ("accuracy", "expected_calibration_error"):
        assert tuned["tuned", metric] == pytest.approx(stored["tuned", metric]["value"], abs=1e-6)
    classifier = Classifier(*load_result(run.model_dir, head="sequence_classification"))
    alone, beside = classifier.answers(["a cat"])[0], classifier.answers(["a cat", "good " * 15, ""])[0]
    assert np.allclose(alone.scores, beside.scores, atol=1e-5)


def test_a_start_without_a_head_is_no_baseline(
    bert: Path, write_jsonl: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused where the start's files tell; on the Hub it is found out once training has ended, and said."""
    write_jsonl(texts(30))
    task = {"name": "held_out", "task": "classification", "baseline": True}
    values = recipe(bert, {"train": "data.jsonl", "eval_fraction": 0.3}, evaluation=[task])
    with pytest.raises(UserError, match=r"evaluation.0.baseline: what training starts from has no head"):
        train(values)
    monkeypatch.setattr(preflight, "_baselines", lambda _recipe: [])  # as if it could not be told
    run = train(values)
    assert {score["model"] for score in run.scores()} >= {"tuned", "majority"}
    assert "baseline" not in {score["model"] for score in run.scores()}
    assert "no head yet, and would answer by chance" in capsys.readouterr().err
    again = {**values, "output_dir": "again", "model": {**values["model"], "model_name_or_path": str(run.model_dir)}}
    assert "baseline" in {score["model"] for score in train(again).scores()}


# ---------------------------------------------------------------------- several labels, numbers
def test_several_labels_and_their_thresholds(bert: Path, write_jsonl: Write) -> None:
    names = {"cat": "animal", "dog": "animal", "red": "colour", "blue": "colour", "good": "praise"}
    rows = [
        {"text": " ".join(words), "label": sorted({names[word] for word in words if word in names})}
        for i in range(160)
        for words in [
            [("cat", "house", "dog", "tree")[i % 4], ("red", "late", "blue")[i % 3], "good" if i % 5 < 2 else "now"]
        ]
    ]
    write_jsonl(rows)
    data = {"train": "data.jsonl", "eval_fraction": 0.2}
    values = recipe(bert, data, training={"max_steps": 200, "learning_rate": 3e-3, "class_weights": "balanced"})
    run = train(values)
    found = scores(run)
    assert found["tuned", "f1_micro"]["value"] >= 0.9 > found["majority", "accuracy"]["value"]
    config = AutoConfig.from_pretrained(run.model_dir)
    assert config.problem_type == "multi_label_classification"
    thresholds = config.alignkit_classifier["thresholds"]
    assert len(thresholds) == 3 and all(0 < one < 1 for one in thresholds)
    classifier = Classifier(*load_result(run.model_dir, head="sequence_classification"))
    answer = classifier.answers(["cat red good"])[0]
    assert classifier.decide(answer) == ["animal", "colour", "praise"]
    plain = pipeline("text-classification", model=str(run.model_dir), top_k=None)(["cat red good"])[0]
    assert {one["label"]: one["score"] for one in plain} == pytest.approx(
        dict(zip(classifier.head.labels, answer.scores.tolist(), strict=True)), abs=1e-5
    )
    # From Python, `threshold` settles it.
    values["labels"], values["training"]["max_steps"] = {"threshold": 0.9}, 1
    assert AutoConfig.from_pretrained(train(values).model_dir).alignkit_classifier["thresholds"] == [0.9] * 3


def test_a_numeric_target(bert: Path, write_jsonl: Write) -> None:
    worth = {"great": 2.5, "good": 1.5, "fine": 0.5, "poor": -1.5, "awful": -2.5}
    words = list(worth)
    write_jsonl([{"text": f"the cat was {words[i % 5]} {i}", "label": worth[words[i % 5]]} for i in range(60)])
    data = {"train": "data.jsonl", "eval_fraction": 0.2}
    training = {"max_steps": 80, "learning_rate": 3e-3, "metric_for_best_model": "mean_absolute_error"}
    training |= {"eval_strategy": "steps", "eval_steps": 20, "save_steps": 20, "load_best_model_at_end": True}
    run = train(recipe(bert, data, training=training))
    found = scores(run)
    assert found["tuned", "mean_absolute_error"]["value"] < 0.8 < found["mean", "mean_absolute_error"]["value"]
    assert {"tuned", "mean", "tfidf_ridge"} == {model for model, _ in found}
    assert compare([f"{run.path}:tfidf_ridge", run.path])["rows"]
    state = json.loads(next((run.checkpoints_dir).glob("checkpoint-80/trainer_state.json")).read_text())
    measured = [line["eval_mean_absolute_error"] for line in state["log_history"] if "eval_mean_absolute_error" in line]
    assert state["best_metric"] == min(measured[1:])  # an error: less is better
    plain = pipeline("text-classification", model=str(run.model_dir))("the cat was great")[0]["score"]
    classifier = Classifier(*load_result(run.model_dir, head="sequence_classification"))
    assert classifier.decide(classifier.answers(["the cat was great"])[0]) == pytest.approx(plain, abs=1e-5)


# ---------------------------------------------------------------------- tags
@pytest.mark.parametrize("stride", [0, 4])
def test_a_tagger_answers_alike_through_pipeline(bert: Path, write_jsonl: Write, stride: int) -> None:
    write_jsonl(sentences(48))
    training = {"max_steps": 40, "learning_rate": 3e-3, "max_length": 16, "stride": stride}
    run = train(recipe(bert, {"train": "data.jsonl", "eval_fraction": 0.25}, task="token", training=training))
    found = scores(run)
    assert {model for model, _ in found} == {"tuned", "most_frequent_tag"}
    beside = compare([f"{run.path}:most_frequent_tag", run.path])
    assert {row["metric"] for row in beside["rows"] if row["comparisons"]} == {"entity_f1", "accuracy"}
    assert found["tuned", "entity_f1"]["value"] > 0.8
    model, tokenizer = load_result(run.model_dir, head="token_classification")
    classifier = Classifier(model, tokenizer)
    assert classifier.head.scheme == "IOB2" and classifier.head.stride == stride
    words = ["Grace", "lives", "in", "New", "York"]
    answer = classifier.answers([words])[0]
    plain = {
        one["start"]: one
        for one in pipeline("token-classification", model=model, tokenizer=tokenizer, ignore_labels=[])(" ".join(words))
    }
    start = 0
    for word, tag, row in zip(words, classifier.decide(answer), answer.scores, strict=True):
        assert plain[start]["entity"] == tag and plain[start]["score"] == pytest.approx(float(row.max()), abs=1e-5)
        start += len(word) + 1
    # A sentence beyond the window: cut off it ends in O; in windows every word is seen.
    long = words * 8
    answer = classifier.answers([long])[0]
    assert answer.truncated == (stride == 0)
    assert bool(answer.scores.any(axis=-1).all()) == (stride > 0)
    assert len(classifier.decide(answer)) == len(long)


def test_windows_of_a_long_text_are_one_answer(bert: Path, write_jsonl: Write) -> None:
    rows = [
        {"text": "the " * (30 if i % 3 == 0 else 2) + row["text"], "label": row["label"]}
        for i, row in enumerate(texts(60))
    ]
    write_jsonl(rows)
    training = {"max_length": 16, "stride": 4, "max_steps": 30, "learning_rate": 3e-3}
    run = train(recipe(bert, {"train": "data.jsonl", "eval_fraction": 0.25}, training=training))
    manifest = run.manifest["data"]
    assert manifest["train"]["examples"] > 45 and manifest["train"]["longest"] <= 16
    found = scores(run)
    assert found["tuned", "accuracy"]["n"] == 15
    held = {json.loads(line)["id"] for line in (run.evaluation_dir / "samples.jsonl").read_text().splitlines()}
    assert len(held) == 15


# ---------------------------------------------------------------------- the loss
def test_accumulation_changes_nothing(bert: Path, write_jsonl: Write) -> None:
    """Upstream adds up the means of micro-batches, undivided (BERT's forward takes **kwargs)."""
    for task, rows in (("sequence", texts(64)), ("token", sentences(64))):
        write_jsonl(rows, f"{task}.jsonl")
        weights = []
        for size in (16, 4):
            training = {"per_device_train_batch_size": size, "global_batch_size": 16, "class_weights": "balanced"}
            values = recipe(bert, {"train": f"{task}.jsonl", "eval_fraction": 0.2}, task=task, training=training)
            values["model"]["attn_implementation"] = "eager"
            values["training"] |= {"label_smoothing_factor": 0.1, "lr_scheduler_type": "constant", "optim": "sgd"}
            values["seed"] = 3
            path = bert / "config.json"
            config = json.loads(path.read_text())
            path.write_text(json.dumps({**config, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}))
            try:
                run = train(values)
            finally:
                path.write_text(json.dumps(config))
            weights.append(load_result(run.model_dir, head=api.load_recipe(values).head)[0].state_dict())
        for name, tensor in weights[0].items():
            torch.testing.assert_close(tensor, weights[1][name], atol=1e-6, rtol=1e-5)


# ---------------------------------------------------------------------- what is refused
def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        train(values)
    assert not Path("run").exists()
    return str(caught.value)


def test_bad_labels_are_refused_before_the_model_loads(bert: Path, write_jsonl: Write) -> None:
    held = {"train": "data.jsonl", "eval_fraction": 0.25}
    write_jsonl([{"text": "a", "label": "x"}, {"text": "b", "label": "x"}])
    assert "every row has the label x" in refusal(recipe(bert, held))
    write_jsonl(texts(12))
    write_jsonl([{"text": "new", "label": "purple"}], "eval.jsonl")
    said = refusal(recipe(bert, {"train": "data.jsonl", "eval": "eval.jsonl"}))
    assert "eval.jsonl:1 has the label purple, which no training row has" in said
    assert "data.eval_fraction: 0.1" in refusal(recipe(bert, {"train": "data.jsonl"}))
    said = refusal(recipe(bert, held, task="token"))
    assert "token, but data.jsonl has texts and labels" in said
    said = refusal(recipe(bert, held, labels={"problem_type": "regression"}))
    assert "which is no number" in said
    said = refusal(recipe(bert, held, training={"class_weights": {"pink": 2.0}}))
    assert "there is no label pink" in said
    said = refusal(recipe(bert, held, training={"max_length": 100}))
    assert "the model takes 64 tokens, not 100" in said
    said = refusal(recipe(bert, held, labels={"names": ["red", "blue"]}))
    assert "the data has the label green, which is not among them" in said
    write_jsonl([*texts(12), {"text": "b", "label": ["red", "blue"]}])
    said = refusal(recipe(bert, held, labels={"problem_type": "single_label_classification"}))
    assert "has a list of labels" in said


def test_bad_rows_are_refused_at_their_line(bert: Path, write_jsonl: Write) -> None:
    held = {"train": "data.jsonl", "eval_fraction": 0.25}
    write_jsonl([{"text": "a", "label": "x"}, {"text": "b", "label": None}])
    assert "data.jsonl:2: label: no label" in refusal(recipe(bert, held))
    write_jsonl([{"text": "a"}, {"text": "b"}])
    assert "columns text" in refusal(recipe(bert, held))
    write_jsonl([{"text": "a", "label": "x"}, {"text": 3, "label": "y"}])
    assert "data.jsonl:2: text: must be text, not a number" in refusal(recipe(bert, held))
    write_jsonl([*sentences(3), {"tokens": ["a", "b"], "tags": ["O"]}])
    assert "data.jsonl:4: tags: 1 tags for 2 tokens" in refusal(recipe(bert, held, task="token"))
    write_jsonl([*sentences(3), {"tokens": ["a"], "tags": ["I-PER"]}])
    said = refusal(recipe(bert, held, task="token", labels={"scheme": "IOB2"}))
    assert "data.jsonl:4: tags: I-PER (token 1) goes on with an entity that no B- began" in said


def test_the_split_of_one_seed_serves_all(bert: Path, write_jsonl: Write) -> None:
    write_jsonl(
        [*texts(40), {"text": "the CAT was red 1", "label": "green"}, {"text": "the cat was red 1", "label": "red"}]
    )
    held = []
    for seed in (1, 2):
        values = recipe(bert, {"train": "data.jsonl", "eval_fraction": 0.25, "split_seed": 7}, seed=seed)
        loaded: Any = api.load_recipe(values)
        found = prepare_labelled(loaded, AutoTokenizer.from_pretrained(bert), say=lambda _: None)
        assert found.eval is not None and found.head == Head(
            "single_label_classification", ("blue", "green", "red"), 32
        )
        held.append(found.eval["example_id"])
        both = {"data.jsonl:41", "data.jsonl:42"}
        assert len(both & set(found.eval["example_id"])) in (0, 2)  # the same tokens: the same side, whatever the label
    assert held[0] == held[1]
