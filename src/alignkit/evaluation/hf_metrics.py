"""alignkit's metrics as `evaluate.Metric` classes: they need no network, and combine with `evaluate.combine`.

    from alignkit.evaluation.hf_metrics import Bleu, Rouge
    Bleu().compute(predictions=["a b c d"], references=[["a b c d"]])
    evaluate.combine([Bleu(), Rouge()]).compute(predictions=…, references=…)

Each returns its score under the metric's name, with `NAME_ci95` and `NAME_signature` beside it where
`compute(…, details=True)` asks for them. References may be one text or a list of texts for each prediction.
"""

from __future__ import annotations

from typing import Any, ClassVar

import datasets
import evaluate

from alignkit import metrics, statistics
from alignkit.metrics import Measurement

_TEXTS = [
    datasets.Features({"predictions": datasets.Value("string"), "references": datasets.List(datasets.Value("string"))}),
    datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
]
_NUMBERS = "float64"


class AlignkitMetric(evaluate.Metric):
    """An `evaluate.Metric` over metrics of alignkit's registry; subclasses name them and their inputs."""

    names: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[Any] = _TEXTS

    def _info(self) -> evaluate.MetricInfo:
        kinds = ", ".join(self.names)
        return evaluate.MetricInfo(
            description=(type(self).__doc__ or "").strip(),
            citation="",
            inputs_description=f"predictions and references, as alignkit's {kinds} takes them (see docs/metrics.md)",
            features=self.inputs,
        )

    def _compute(self, predictions: Any, references: Any = None, details: bool = False, **options: Any) -> dict:
        found = self.measure(predictions, references, **options)
        result: dict[str, Any] = {one.name: one.value for one in found}
        if details:
            for one, limits in zip(found, statistics.intervals(found), strict=True):
                result |= {f"{one.name}_ci95": list(limits), f"{one.name}_signature": one.signature}
        return result

    def measure(self, predictions: Any, references: Any, **options: Any) -> list[Measurement]:
        """The measurements of what evaluate has gathered. Raises TypeError for an option that none of them takes."""
        names = self._names(options)
        known = {option for name in names for option in metrics.get(name).options}
        if unknown := options.keys() - known:
            raise TypeError(f"{type(self).__name__} takes {sorted(known - {'progress'})}, not {sorted(unknown)}")
        if self.inputs is _TEXTS:
            references = [[text] if isinstance(text, str) else list(text) for text in references]
        return metrics.measure(names, predictions, references, options=options)

    def _names(self, options: dict[str, Any]) -> tuple[str, ...]:  # noqa: ARG002
        return self.names


class Bleu(AlignkitMetric):
    """Corpus BLEU, 0 to 100, as sacrebleu computes it (Papineni et al. 2002; Post 2018)."""

    names = ("bleu",)


class Chrf(AlignkitMetric):
    """Corpus chrF, 0 to 100, as sacrebleu computes it (Popović 2015)."""

    names = ("chrf",)


class ChrfPlusPlus(AlignkitMetric):
    """Corpus chrF++, 0 to 100, as sacrebleu computes it (Popović 2017)."""

    names = ("chrf++",)


class Ter(AlignkitMetric):
    """Translation edit rate, per cent, as sacrebleu computes it (Snover et al. 2006)."""

    names = ("ter",)


class Rouge(AlignkitMetric):
    """ROUGE-1, -2, -L and -Lsum, 0 to 1, equal to rouge-score's (Lin 2004)."""

    names = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class ExactMatch(AlignkitMetric):
    """The share of predictions equal to one of their references."""

    names = ("exact_match",)


class NumericMatch(AlignkitMetric):
    """The share of predictions whose number equals a reference's."""

    names = ("numeric_match",)


class TokenF1(AlignkitMetric):
    """SQuAD's F1 over words (Rajpurkar et al. 2016)."""

    names = ("token_f1",)


class Diversity(AlignkitMetric):
    """distinct-1, distinct-2 (Li et al. 2016) and repetition (Welleck et al. 2020) of the predictions."""

    names = ("distinct1", "distinct2", "repetition")
    inputs = datasets.Features({"predictions": datasets.Value("string")})


class Classification(AlignkitMetric):
    """Accuracy, macro and weighted F1 and Matthews' correlation, equal to scikit-learn's."""

    names: ClassVar[tuple[str, ...]] = ("accuracy", "f1_macro", "f1_weighted", "matthews_correlation")
    inputs: ClassVar[Any] = [
        datasets.Features({"predictions": datasets.Value(kind), "references": datasets.Value(kind)})
        for kind in ("int64", "string")
    ]


class Accuracy(Classification):
    """The share of labels that are right."""

    names = ("accuracy",)


class RocAuc(AlignkitMetric):
    """Area under the ROC curve, from class probabilities (or the positive class's score) and class numbers."""

    names: ClassVar[tuple[str, ...]] = ("roc_auc",)
    inputs: ClassVar[Any] = [
        datasets.Features(
            {"predictions": datasets.List(datasets.Value(_NUMBERS)), "references": datasets.Value("int64")}
        ),
        datasets.Features({"predictions": datasets.Value(_NUMBERS), "references": datasets.Value("int64")}),
    ]


class ExpectedCalibrationError(RocAuc):
    """How far confidence is from accuracy, over 15 bins (Guo et al. 2017)."""

    names = ("expected_calibration_error",)


class LabelSets(AlignkitMetric):
    """Micro F1 of items that may have several labels, from lists of true and false, one a label."""

    names = ("f1_micro",)
    inputs = datasets.Features({name: datasets.List(datasets.Value("bool")) for name in ("predictions", "references")})


class Regression(AlignkitMetric):
    """Mean absolute and root mean squared error, R² and Pearson's correlation of numbers."""

    names = ("mean_absolute_error", "root_mean_squared_error", "r2", "pearson_correlation")
    inputs = datasets.Features({name: datasets.Value(_NUMBERS) for name in ("predictions", "references")})


class EntityF1(AlignkitMetric):
    """F1 over entities, equal to seqeval's, from lists of tags."""

    names = ("entity_f1",)
    inputs = datasets.Features(
        {name: datasets.List(datasets.Value("string")) for name in ("predictions", "references")}
    )


class PreferenceAccuracy(AlignkitMetric):
    """The share of pairs whose chosen answer (predictions) is rewarded more than the rejected one (references)."""

    names = ("preference_accuracy",)
    inputs = datasets.Features({name: datasets.Value(_NUMBERS) for name in ("predictions", "references")})


class Perplexity(AlignkitMetric):
    """exp(total nats / total tokens), from each document's nats (predictions) and predicted tokens (references)."""

    names: ClassVar[tuple[str, ...]] = ("perplexity",)
    inputs = datasets.Features({name: datasets.Value(_NUMBERS) for name in ("predictions", "references")})


class BitsPerByte(Perplexity):
    """Total nats / ln 2 / total bytes, from each document's nats (predictions) and UTF-8 bytes (references)."""

    names = ("bits_per_byte",)


class PassAtK(AlignkitMetric):
    """The unbiased pass@k (Chen et al. 2021) from lists of right/wrong flags; `compute(…, k=10)`, by default 1."""

    names = ("pass@1",)
    inputs = datasets.Features({"predictions": datasets.List(datasets.Value("bool"))})

    def _names(self, options: dict[str, Any]) -> tuple[str, ...]:
        return (f"pass@{options.pop('k', 1)}",)


class WinRate(AlignkitMetric):
    """The mean of a judge's preferences, 0 to 1."""

    names = ("win_rate",)
    inputs = datasets.Features({"predictions": datasets.Value(_NUMBERS)})


class LengthControlledWinRate(AlignkitMetric):
    """The win rate at equal lengths (Dubois et al. 2024), references being (length, baseline's length)."""

    names = ("length_controlled_win_rate",)
    inputs = datasets.Features(
        {"predictions": datasets.Value(_NUMBERS), "references": datasets.List(datasets.Value("int64"))}
    )


def find_classes() -> dict[str, type[AlignkitMetric]]:
    """Every metric class of this module by its name in the registry (a class of several by each of them)."""
    found: dict[str, type[AlignkitMetric]] = {}
    for value in globals().values():
        if isinstance(value, type) and issubclass(value, AlignkitMetric):
            found.update({name: found.get(name, value) for name in value.names})
    return found
