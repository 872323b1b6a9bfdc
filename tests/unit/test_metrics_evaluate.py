"""The evaluate.Metric classes: offline, combined, and equal to the functions under them."""

import evaluate
import pytest

from alignkit import metrics
from alignkit.evaluation import hf_metrics
from alignkit.evaluation.hf_metrics import (
    Bleu,
    Chrf,
    Classification,
    Diversity,
    EntityF1,
    ExactMatch,
    ExpectedCalibrationError,
    PassAtK,
    Perplexity,
    PreferenceAccuracy,
    RocAuc,
    Rouge,
)

PREDICTIONS = ["The dog bit the man.", "It wasn't surprising.", ""]
SEVERAL = [["The dog bit the man.", "The dog had bit the man."], ["It was not unexpected."], ["He slept."]]


def test_combined_texts_metrics_work_offline():
    one_each = [choices[0] for choices in SEVERAL]
    found = evaluate.combine([Bleu(), Rouge(), Chrf(), ExactMatch()]).compute(
        predictions=PREDICTIONS, references=one_each
    )
    expected = metrics.measure(["bleu", "rouge", "chrf", "exact_match"], PREDICTIONS, [[text] for text in one_each])
    assert found == {one.name: pytest.approx(one.value) for one in expected}


def test_several_references_details_and_options():
    found = Bleu().compute(predictions=PREDICTIONS, references=SEVERAL, tokenize="intl", details=True)
    assert found["bleu"] == metrics.get("bleu").measure(PREDICTIONS, SEVERAL, tokenize="intl").value
    assert "tok:intl" in found["bleu_signature"]
    assert found["bleu_ci95"][0] <= found["bleu"] <= found["bleu_ci95"][1]
    with pytest.raises(TypeError, match="Bleu takes"):
        Bleu().compute(predictions=PREDICTIONS, references=SEVERAL, stemmer=True)


def test_batches_can_be_added():
    metric = Rouge()
    for prediction, choices in zip(PREDICTIONS, SEVERAL, strict=True):
        metric.add(prediction=prediction, reference=choices)
    assert metric.compute() == Rouge().compute(predictions=PREDICTIONS, references=SEVERAL)


def test_labels_numbers_and_lists():
    assert Classification().compute(predictions=[0, 1, 1], references=[0, 1, 0])["accuracy"] == pytest.approx(2 / 3)
    assert Classification().compute(predictions=["a", "b"], references=["a", "b"])["f1_macro"] == 1
    probabilities = [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]
    assert RocAuc().compute(predictions=probabilities, references=[0, 1, 1]) == {"roc_auc": 1.0}
    assert RocAuc().compute(predictions=[0.1, 0.8, 0.6], references=[0, 1, 1]) == {"roc_auc": 1.0}
    calibration = ExpectedCalibrationError().compute(predictions=probabilities, references=[0, 1, 1])
    assert calibration == {"expected_calibration_error": pytest.approx((0.1 + 0.2 + 0.4) / 3)}
    tags = [["B-PER", "O"]]
    assert EntityF1().compute(predictions=tags, references=tags) == {"entity_f1": 1.0}
    assert PreferenceAccuracy().compute(predictions=[1.0, 0.0], references=[0.0, 1.0]) == {"preference_accuracy": 0.5}
    assert Perplexity().compute(predictions=[0.0], references=[4.0]) == {"perplexity": 1.0}
    assert PassAtK().compute(predictions=[[True, False], [False, False]], k=2) == {"pass@2": 0.5}
    assert Diversity().compute(predictions=["a b", "a c"])["distinct1"] == 0.75


def test_every_metric_of_the_registry_has_a_class():
    covered = hf_metrics.find_classes()
    assert set(covered) == set(metrics.REGISTRY)
