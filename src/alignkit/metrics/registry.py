"""The metrics by name: what each needs, whether more is better, and how to compute several at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from alignkit.errors import Problem, UserError
from alignkit.metrics import (
    classification,
    diversity,
    entities,
    likelihood,
    match,
    pass_at_k,
    preference,
    regression,
    rouge,
)
from alignkit.metrics.bleu import bleu
from alignkit.metrics.chrf import chrf
from alignkit.metrics.measurement import Measurement
from alignkit.metrics.names import did_you_mean
from alignkit.metrics.parallel import Progress
from alignkit.metrics.ter import ter

Needs = Literal[
    "texts",  # predictions: texts; references: a list of texts for each
    "generated",  # predictions: texts; references are not looked at
    "labels",  # a label for each item on both sides
    "label_sets",  # for each item whether each label holds, on both sides: (items, labels)
    "numbers",  # a number for each item on both sides
    "probabilities",  # predictions: (items, classes) or (items,); references: class numbers
    "tags",  # a list of tags for each sentence on both sides
    "rewards",  # predictions: rewards of the chosen answers; references: of the rejected ones
    "preferences",  # predictions: a judge's preferences, 0 to 1; references: (length, baseline's length) for each
    "likelihoods",  # predictions: nats by document; references: tokens (or bytes) by document
    "samples",  # predictions: a list of right/wrong flags for each problem
]


@dataclass(frozen=True)
class Metric:
    """A metric's name and nature. `options` are the keyword options that it understands."""

    name: str
    needs: Needs
    compute: Callable[..., Measurement]
    higher_is_better: bool = True
    scale: Literal["share", "percent", "number"] = "share"
    options: tuple[str, ...] = ()

    def measure(self, predictions: Any, references: Any = None, **options: Any) -> Measurement:
        """Predictions and references in the form that `needs` says; options it does not know are left out."""
        known = {key: value for key, value in options.items() if key in self.options and value is not None}
        if self.needs in ("generated", "samples"):
            return self.compute(predictions, **known)
        return self.compute(predictions, references, **known)


def _rouge(kind: str, predictions: Sequence[str], references: Sequence[Sequence[str]], **options: Any) -> Measurement:
    return rouge.measure(predictions, references, [kind], **options)[0]


def _win_rate(preferences: Sequence[float], _lengths: object = None) -> Measurement:
    return preference.win_rate(preferences)


def _length_controlled(preferences: Sequence[float], lengths: Sequence[tuple[int, int]]) -> Measurement:
    return preference.length_controlled_win_rate(preferences, [a for a, _ in lengths], [b for _, b in lengths])


_SACRE = ("lowercase", "progress")
_IGNORE = ("ignore_case", "ignore_punctuation", "ignore_articles")
_FIXED = (
    Metric("bleu", "texts", bleu, scale="percent", options=("tokenize", *_SACRE)),
    Metric("chrf", "texts", chrf, scale="percent", options=_SACRE),
    Metric("chrf++", "texts", partial(chrf, word_order=2), scale="percent", options=_SACRE),
    Metric("ter", "texts", ter, higher_is_better=False, scale="percent", options=("case_sensitive", "progress")),
    *(
        Metric(kind, "texts", partial(_rouge, kind), options=("stemmer", "progress"))
        for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum")
    ),
    Metric("exact_match", "texts", match.exact_match, options=("answer", *_IGNORE)),
    Metric("numeric_match", "texts", match.numeric_match, options=("answer", "tolerance")),
    Metric("token_f1", "texts", match.token_f1),
    Metric("distinct1", "generated", partial(diversity.distinct, n=1)),
    Metric("distinct2", "generated", partial(diversity.distinct, n=2)),
    Metric("repetition", "generated", diversity.repetition, higher_is_better=False),
    Metric("accuracy", "labels", classification.accuracy),
    Metric("f1_macro", "labels", classification.f1_macro, options=("labels",)),
    Metric("f1_weighted", "labels", classification.f1_weighted, options=("labels",)),
    Metric("matthews_correlation", "labels", classification.matthews_correlation, scale="number", options=("labels",)),
    Metric("f1_micro", "label_sets", classification.f1_micro),
    *(
        Metric(name, "numbers", partial(regression.measure_one, name), higher_is_better=better, scale="number")
        for name, better in (
            ("mean_absolute_error", False),
            ("root_mean_squared_error", False),
            ("r2", True),
            ("pearson_correlation", True),
        )
    ),
    Metric("roc_auc", "probabilities", classification.roc_auc),
    Metric(
        "expected_calibration_error",
        "probabilities",
        classification.expected_calibration_error,
        higher_is_better=False,
        options=("bins",),
    ),
    Metric("entity_f1", "tags", entities.entity_f1, options=("scheme",)),
    Metric("preference_accuracy", "rewards", preference.preference_accuracy),
    Metric("win_rate", "preferences", _win_rate),
    Metric("length_controlled_win_rate", "preferences", _length_controlled),
    Metric("perplexity", "likelihoods", likelihood.perplexity, higher_is_better=False, scale="number"),
    Metric("bits_per_byte", "likelihoods", likelihood.bits_per_byte, higher_is_better=False, scale="number"),
    Metric("pass@1", "samples", partial(pass_at_k.pass_at_k, k=1)),
)
REGISTRY: dict[str, Metric] = {metric.name: metric for metric in _FIXED}
GROUPS = {"rouge": ("rouge1", "rouge2", "rougeL", "rougeLsum")}


def get(name: str) -> Metric:
    """The metric of that name; also `rougeN`, `distinctN` and `pass@K` for any number. Raises UserError."""
    if name in REGISTRY:
        return REGISTRY[name]
    if found := re.fullmatch(r"rouge([1-9])", name):
        return Metric(name, "texts", partial(_rouge, name), options=("stemmer", "progress"))
    if found := re.fullmatch(r"distinct-?([1-9])", name):
        return Metric(f"distinct{found[1]}", "generated", partial(diversity.distinct, n=int(found[1])))
    if found := re.fullmatch(r"pass@([1-9]\d*)", name):
        return Metric(name, "samples", partial(pass_at_k.pass_at_k, k=int(found[1])))
    known = [*REGISTRY, *GROUPS]
    hint = did_you_mean(name, known) or f"there are {', '.join(known)}"
    raise UserError(Problem(f"unknown metric {name!r}", field="metric", hint=hint))


def expand(names: Sequence[str]) -> list[str]:
    """Names with groups spelled out (`rouge` is its four kinds), each once. Raises UserError for all unknown ones."""
    problems: list[Problem] = []
    found: dict[str, None] = {}
    for name in names:
        try:
            found.update(dict.fromkeys(get(single).name for single in GROUPS.get(name, (name,))))
        except UserError as error:
            problems.extend(error.problems)
    if problems:
        raise UserError(problems)
    return list(found)


def measure(
    names: Sequence[str],
    predictions: Any,
    references: Any = None,
    *,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[Measurement]:
    """Several metrics over the same items, in the order of `expand(names)`; the ROUGE kinds share their tokens.

    Each metric takes from `options` what it understands.
    """
    options = {**(options or {}), "progress": progress}
    wanted = expand(names)
    kinds = [name for name in wanted if name.startswith("rouge")]
    done: dict[str, Measurement] = {}
    if kinds:
        stemmer = bool(options.get("stemmer"))
        together = rouge.measure(predictions, references, kinds, stemmer=stemmer, progress=progress)
        done = dict(zip(kinds, together, strict=True))
    return [done[name] if name in done else get(name).measure(predictions, references, **options) for name in wanted]
