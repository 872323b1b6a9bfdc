"""A classifier behind `alignkit predict`: labels and probabilities for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignkit.evaluation.classifier import Answer, Classifier
from alignkit.examples.labels import MULTI, NUMERIC, TOKEN
from alignkit.metrics.entities import entities
from alignkit.models import load_result


def load(result: Any) -> LabelPredictor:
    """The classifier behind an `alignkit.predict.Result`: a run's, a model folder's or a Hub id's. Raises UserError."""
    return LabelPredictor(Classifier(*loaded(result)))


def loaded(result: Any) -> tuple[Any, Any]:
    """Model and tokenizer of an `alignkit.predict.Result`; a run's as its recipe loads them. Raises UserError."""
    recipe = result.recipe
    if recipe is None:
        return load_result(result.model, head=result.head)
    return load_result(
        result.model,
        head=recipe.head,
        quantization=None if recipe.quantization is None else recipe.quantization.arguments(),
        trust_remote_code=recipe.model.trust_remote_code,
        use_safetensors=recipe.model.use_safetensors,
        attn_implementation=recipe.model.attn_implementation,
    )


class LabelPredictor:
    """Answers rows by the labels of a classifier."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def answer(self, asked: Sequence[Any]) -> list[dict[str, Any]]:
        """Texts, or lists of words -> `label` and `probabilities` (or `labels`; `value`; `tags` and `entities`)."""
        return [self._line(item, one) for item, one in zip(asked, self.classifier.answers(asked), strict=True)]

    def _line(self, item: Any, answer: Answer) -> dict[str, Any]:
        decided, head = self.classifier.decide(answer), self.classifier.head
        cut = {"truncated": True} if answer.truncated else {}
        if head.kind == NUMERIC:
            return {"value": decided, **cut}
        if head.kind == TOKEN:
            sure = [round(float(row.max()), 6) for row in answer.scores]
            line: dict[str, Any] = {"tokens": list(item), "tags": decided, "probabilities": sure}
            if head.scheme is not None:
                line["entities"] = [
                    {"type": kind, "text": " ".join(item[first : last + 1]), "first": first, "last": last}
                    for kind, first, last in entities(decided)
                ]
            return {**line, **cut}
        shares = {name: round(float(p), 6) for name, p in zip(head.labels, answer.scores, strict=True)}
        return {("labels" if head.kind == MULTI else "label"): decided, "probabilities": shares, **cut}
