"""From labelled sources to rows, and to the head that is trained on them: which labels there are, and of what kind."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alignkit.data.labelled import LabelledSettings, count_labels
from alignkit.data.prepare import Prepared, Say, prepare
from alignkit.errors import UserError
from alignkit.examples.labels import (
    MULTI,
    NUMERIC,
    TOKEN,
    Head,
    Kind,
    as_number,
    decode,
    in_order,
    kind_of_labels,
    mixed,
    recognise_scheme,
)
from alignkit.model_folders import start_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from alignkit.recipe import Recipe

_log = logging.getLogger(__name__)
SHAPES = ("labelled",)
OFFSET_MODELS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet", "roberta-prelayernorm")
"""Kinds of models whose positions begin after the pad token's number."""


@dataclass
class LabelledPrepared(Prepared):
    """Prepared rows, the head that fits them, and how often each label stands in the training rows."""

    head: Head = field(default_factory=lambda: Head("single_label_classification", ()))
    label_counts: Counter[str] = field(default_factory=Counter)


def prepare_labelled(
    recipe: Any, tokenizer: PreTrainedTokenizerBase, *, start: str | None = None, say: Say
) -> LabelledPrepared:
    """The rows of a `classify` recipe (`task`, `labels` and `training` are read), split by label, and their head.

    Raises:
        UserError: data that can't be used: one class only, labels in the eval split that training has not, numbers
            that are none, labels that the checkpoint's own head does not know.
    """
    training, labels = recipe.training, recipe.labels
    max_length = _length(recipe, tokenizer, _config(recipe, start))
    settings = LabelledSettings(
        loss_on=None, max_length=max_length, packing=False, eval_packing=False, strategy="bfd", num_proc=None,
        task=recipe.task, stride=training.stride, names=tuple(labels.names or ()),
        scheme=labels.scheme,
    )  # fmt: skip
    found = prepare(recipe, tokenizer, settings, SHAPES, say)
    counts = count_labels(found.train)
    kind = TOKEN if recipe.task == "token" else labels.problem_type or _kind(found)
    names = _names(recipe, found, kind, counts)
    if kind not in (NUMERIC, TOKEN) and (both := mixed(counts)):
        _log.warning("labels are numbers (%s) as well as words (%s): is that meant?", *both)
    scheme = labels.scheme if labels.scheme or kind != TOKEN else recognise_scheme(_sentences(found.train))
    names = _of_checkpoint(recipe, _config(recipe, start), kind, names)
    head = Head(kind, names, max_length, training.stride, scheme=scheme, names=settings.names)
    for part in ("train", "eval"):
        rows = getattr(found, part)
        if rows is not None and kind != NUMERIC:
            found.counts[part]["labels"] = dict(count_labels(rows).most_common())
    return LabelledPrepared(**vars(found), head=head, label_counts=counts)


def _kind(found: Prepared) -> Kind:
    return kind_of_labels(decode(text) for text in set(found.train["label"]))


def _names(recipe: Any, found: Prepared, kind: Kind, counts: Counter[str]) -> tuple[str, ...]:
    """The labels by class number. Raises UserError for what the data's labels have wrong."""
    if kind == NUMERIC:
        for part in ("train", "eval"):
            _refuse_no_numbers(recipe, part, getattr(found, part))
        return ("value",)
    given = recipe.labels.names
    if given is not None and (strange := sorted(set(counts) - set(given))):
        message = f"the data has the label {strange[0]}, which is not among them"
        raise UserError(recipe.problem("labels.names", message, f"the data's: {', '.join(in_order(counts)[:20])}"))
    if kind not in (MULTI, TOKEN) and len(counts) < 2:
        message = f"every row has the label {next(iter(counts), 'none')}: there is nothing to tell apart"
        raise UserError(recipe.problem("data.train", message, "is the right column the label? columns: {label: …}"))
    if kind != MULTI and "label" in found.train.column_names:
        _refuse_lists(recipe, found)
    if not counts:
        raise UserError(recipe.problem("data.train", "no row has a label"))
    names = tuple(given) if given is not None else in_order(counts)
    if found.eval is not None:
        _refuse_unseen(recipe, found.eval, counts)
    return names


def _rows_with(rows: Any) -> Iterator[tuple[str, Any]]:
    column = "tags" if "tags" in rows.column_names else "label"
    for name, value in zip(rows["example_id"], rows[column], strict=True):
        yield name, value if column == "tags" else decode(value)


def _refuse_unseen(recipe: Recipe, rows: Any, known: Counter[str]) -> None:
    """A label that training never saw can't be learned, and would count as an error of the model."""
    for name, value in _rows_with(rows):
        for label in value if isinstance(value, list) else [value]:
            if str(label) not in known:
                field_name = "data.eval" if recipe.data is not None and recipe.data.eval else "data.eval_fraction"
                message = f"{name} has the label {label}, which no training row has"
                hint = f"training has {', '.join(in_order(known)[:20])}"
                raise UserError(recipe.problem(field_name, message, hint))


def _refuse_no_numbers(recipe: Recipe, part: str, rows: Any) -> None:
    for name, value in _rows_with(rows) if rows is not None else ():
        if as_number(value) is None:
            hint = "leave labels.problem_type out, or map the column that holds numbers"
            raise UserError(recipe.problem(f"data.{part}", f"{name} has the label {value!r}, which is no number", hint))


def _refuse_lists(recipe: Recipe, found: Prepared) -> None:
    for rows in (found.train, found.eval):
        for name, value in _rows_with(rows) if rows is not None else ():
            if isinstance(value, list):
                message = f"{name} has a list of labels, and the recipe says that each text has one"
                hint = "say multi_label_classification, or leave it out"
                raise UserError(recipe.problem("labels.problem_type", message, hint))


def _sentences(rows: Any) -> Iterator[list[str]]:
    """The tags of whole sentences: later windows may begin inside an entity."""
    for window, tags in zip(rows["window"], rows["tags"], strict=True):
        if window == 0:
            yield tags


# ---------------------------------------------------------------------- the model that training starts from
def _config(recipe: Recipe, start: str | None) -> Any:
    """The config that training starts from; None where the recipe gives it field by field."""
    from transformers import AutoConfig

    from alignkit.models.start import recipe_start, start_field
    from alignkit.models.upstream import complain_about, raised_upstream

    if start_of(recipe, start) is None:
        return None
    found = recipe_start(recipe, start)
    assert found is not None
    if found.config is not None:
        return found.config
    with raised_upstream(complain_about(recipe, start_field(recipe, start)), found.base):
        own = found.adapter is not None and _has_config(found.adapter)
        place: Any = found.adapter if own else found.base
        revision = found.base_revision or "main"
        return AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=recipe.model.trust_remote_code)


def _has_config(folder: str) -> bool:
    from pathlib import Path

    return (Path(folder) / "config.json").is_file()


def _length(recipe: Any, tokenizer: PreTrainedTokenizerBase, config: Any) -> int:
    """Tokens of a row: `training.max_length`, where the model takes as many; raises UserError where it was asked."""
    wanted: int = recipe.training.max_length
    takes = _positions(recipe, config)
    limit = tokenizer.model_max_length if tokenizer.model_max_length < 10**9 else None
    most = min((number for number in (takes, limit) if number), default=None)
    if most is None or wanted <= most:
        return wanted
    if takes and wanted > takes and "max_length" in recipe.training.model_fields_set:
        message = f"the model takes {takes} tokens, not {wanted}"
        raise UserError(recipe.problem("training.max_length", message, f"say {takes}, and stride for longer texts"))
    return wanted if "max_length" in recipe.training.model_fields_set else most


def _positions(recipe: Recipe, config: Any) -> int | None:
    """How many tokens the model has positions for; None where its config does not say."""
    if config is None:
        values = recipe.model.config if isinstance(recipe.model.config, dict) else {}
        kind, positions, pad = (
            values.get("model_type"),
            values.get("max_position_embeddings"),
            values.get("pad_token_id"),
        )
    else:
        text = config.get_text_config()
        kind, positions = config.model_type, getattr(text, "max_position_embeddings", None)
        pad = getattr(text, "pad_token_id", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    return positions - (1 if pad is None else pad) - 1 if kind in OFFSET_MODELS else positions


def _of_checkpoint(recipe: Any, config: Any, kind: Kind, names: tuple[str, ...]) -> tuple[str, ...]:
    """The labels as the checkpoint's own head orders them, where it has one. Raises UserError where it is another's."""
    ending = "ForTokenClassification" if kind == TOKEN else "ForSequenceClassification"
    has_head = config is not None and any(str(one).endswith(ending) for one in config.architectures or ())
    has_head = has_head or (config is not None and getattr(config, "alignkit_classifier", None) is not None)
    if not has_head or recipe.labels.new_head:
        return names
    own = tuple(str(config.id2label[number]) for number in sorted(config.id2label))
    nameless = all(name == f"LABEL_{number}" for number, name in enumerate(own))
    if len(own) == len(names) and (nameless or kind == NUMERIC):
        return names
    if set(own) == set(names) or set(names) < set(own):
        return own
    message = f"its head is for {', '.join(own[:20])}, the data's labels are {', '.join(names[:20])}"
    hint = "say labels.new_head: true to train a new head, or labels.names to map the data's numbers"
    field_name = "model.from_recipe" if recipe.model.from_recipe else "model.model_name_or_path"
    raise UserError(recipe.problem(field_name, message, hint))


__all__ = ["LabelledPrepared", "prepare_labelled"]
