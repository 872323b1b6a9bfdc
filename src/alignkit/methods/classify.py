"""Classifiers: one label a text, several, or a number; or a tag for each token. On transformers' Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from alignkit.errors import Problem, UserError
from alignkit.examples.labels import MEASURED, MULTI, NUMERIC, TOKEN, Head
from alignkit.methods.base import Method, Stage
from alignkit.recipe import EvaluationTask, Recipe, Section, TrainingSection
from alignkit.recipe import Head as ModelHead

if TYPE_CHECKING:
    from alignkit.data import LabelledPrepared

SHAPES = ("labelled",)
HELD_OUT = EvaluationTask(name="held_out", task="classification", baseline=False)


class LabelsSection(Section):
    """What the labels are. Everything here is found in the data where it is left out."""

    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] | None = None
    """One label a text, several, or a number (default: lists are several, numbers with a fraction are numbers)."""
    names: Annotated[list[str], Field(min_length=1)] | None = None
    """The labels by class number, for data that holds numbers (default: the names in the data, sorted)."""
    scheme: Literal["IO", "IOB1", "IOB2", "BIOES"] | None = None
    """Of tags: every sentence must follow it (default: the strictest that all follow)."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of several labels: from which probability one holds (default: each label's own, chosen on the training rows)."""
    new_head: bool = False
    """Put a new head on a checkpoint that has one for other labels."""


class ClassifyTraining(TrainingSection):
    """The fields of TrainingArguments, and these of alignkit's own."""

    max_length: Annotated[int, Field(ge=4)] = 512
    """Tokens of a text at most; a longer one is cut off, or cut into windows (`stride`)."""
    stride: Annotated[int, Field(ge=0)] = 0
    """Tokens that the windows of a long text share; 0: its end is cut off."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """How much each label counts in the loss: `balanced` for the inverse of how often it occurs, or by name."""


class ClassifyRecipe(Recipe):
    """A classifier of texts (`task: sequence`) or of tokens (`task: token`), of any encoder or decoder."""

    method: Literal["classify"]
    training_config: ClassVar[str] = "TrainingArguments"
    training_section: ClassVar[type[TrainingSection]] = ClassifyTraining
    task: Literal["sequence", "token"] = "sequence"
    """What gets a label: a whole text, or each of its tokens."""
    labels: LabelsSection = LabelsSection()
    """What the labels are, where the data does not say it."""

    @property
    def head(self) -> ModelHead:
        return "token_classification" if self.task == "token" else "sequence_classification"

    def tasks(self) -> list[EvaluationTask]:
        """A classifier is always evaluated: on its eval split, if the recipe names no task."""
        # The start of training has no head for these labels, as a rule: it is measured only where the recipe says so.
        named = [
            task if task.baseline is not None else task.model_copy(update={"baseline": False})
            for task in self.evaluation
        ]
        return named or [HELD_OUT]

    def contradictions(self) -> Iterator[Problem]:
        training, labels, data = self.training, self.labels, self.data
        if data is not None and data.streaming:
            yield self.problem("data.streaming", "which labels there are is known only once all rows are read")
        if not self.evaluation and data is not None and data.eval is None and data.eval_fraction is None:
            hint = "say data.eval_fraction: 0.1, or name data.eval"
            yield self.problem("data", "nothing is held out, so nothing would say how good the classifier is", hint)
        if training.stride and training.stride >= training.max_length - 2:
            message = f"windows of {training.max_length} tokens that share {training.stride} would not move on"
            yield self.problem("training.stride", message, "take at most half of max_length")
        kind = TOKEN if self.task == "token" else labels.problem_type
        if self.task == "token" and labels.problem_type is not None:
            yield self.problem("labels.problem_type", "is for whole texts; tokens have one tag each", "leave it out")
        if self.task == "sequence" and labels.scheme is not None:
            yield self.problem("labels.scheme", "is for tags", "say task: token, or leave it out")
        if kind == NUMERIC and training.class_weights is not None:
            yield self.problem("training.class_weights", "a numeric target has no classes", "leave it out")
        known = MEASURED.get(kind or "", tuple(name for names in MEASURED.values() for name in names))
        metric = training.metric_for_best_model
        if metric is not None and metric.removeprefix("eval_") not in ("loss", *known):
            hint = f"it is one of loss, {', '.join(dict.fromkeys(known))}"
            yield self.problem("training.metric_for_best_model", f"an evaluation here gives no {metric}", hint)


def prepare(stage: Stage) -> LabelledPrepared:
    """Cut and count the texts, split them by label, and find out which labels there are."""
    from alignkit.data import prepare_labelled

    return prepare_labelled(stage.recipe, stage.tokenizer, start=stage.start, say=stage.say)


def build_model(stage: Stage) -> Any:
    """The base with a head for the labels; a checkpoint's own head where it is for these labels."""
    from alignkit.models import build_model as build

    assert stage.tokenizer is not None
    head, recipe = _head(stage), stage.recipe
    return build(
        recipe, stage.tokenizer, stage.precision, head=recipe.head, start=stage.start, head_config=head.config,
        new_head=recipe.labels.new_head,  # type: ignore[attr-defined]
    )  # fmt: skip


def build_trainer(stage: Stage) -> Any:
    """transformers' Trainer with a loss that weighs every example alike, over batches padded to their longest row."""
    from alignkit import metrics
    from alignkit.trainers import guarded
    from alignkit.trainers.classify import ClassificationTrainer, LabelledBatches

    assert stage.data is not None and stage.model is not None and stage.tokenizer is not None
    arguments, head = stage.arguments, _head(stage)
    arguments.length_column_name = "length"
    metric = str(arguments.metric_for_best_model or "").removeprefix("eval_")
    error = metric in metrics.REGISTRY and not metrics.get(metric).higher_is_better
    if error and stage.recipe.training.greater_is_better is None:
        arguments.greater_is_better = False  # upstream takes everything but a loss to be better when it is greater
    return guarded(ClassificationTrainer)(
        model=stage.model,
        args=arguments,
        train_dataset=stage.data.train,
        eval_dataset=stage.data.eval,
        data_collator=LabelledBatches(head, _pad(stage.tokenizer)),
        processing_class=stage.tokenizer,
        callbacks=stage.callbacks,
        head=head,
        class_weights=_class_weights(stage, head),
        before_saving=_thresholds(stage),
    )


def _head(stage: Stage) -> Head:
    data: Any = stage.data
    head: Head = data.head
    return head


def _pad(tokenizer: Any) -> int:
    return 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)


def _class_weights(stage: Stage, head: Head) -> list[float] | None:
    """The weight of each label, (L,); for several labels a text, that of a label that holds (its negatives count 1)."""
    from alignkit.examples.labels import balanced

    given = stage.recipe.training.class_weights
    if given is None:
        return None
    data: Any = stage.data
    if head.kind == NUMERIC:
        raise UserError(stage.recipe.problem("training.class_weights", "a numeric target has no classes"))
    if isinstance(given, dict):
        unknown = sorted(set(given) - set(head.labels))
        if unknown:
            known = ", ".join(head.labels)
            message = f"there is no label {unknown[0]}; there are {known}"
            raise UserError(stage.recipe.problem("training.class_weights", message))
        return [float(given.get(label, 1.0)) for label in head.labels]
    if head.kind == MULTI:
        rows = len(data.train)
        return [(rows - data.label_counts[label]) / max(1, data.label_counts[label]) for label in head.labels]
    return balanced(data.label_counts, head.labels)


def _thresholds(stage: Stage) -> Any:
    """What settles a multi-label model's thresholds when it is trained; None for other models."""
    head = _head(stage)
    if head.kind != MULTI:
        return None

    def settle(trainer: Any) -> None:
        from alignkit.evaluation.thresholds import settle_thresholds

        given = stage.recipe.labels.threshold  # type: ignore[attr-defined]
        settle_thresholds(trainer.model, head, given, trainer.train_dataset, _pad(stage.tokenizer))

    return settle


METHOD = Method(
    name="classify",
    recipe=ClassifyRecipe,
    shapes=SHAPES,
    config="transformers:TrainingArguments",
    prepare=prepare,
    build_trainer=build_trainer,
    answers="labels",
    build_model=build_model,
)
