"""What labels are: names of classes, several names, a number, or a tag for each token; and which a data set has.

A label travels through the prepared data as its text (`encode`), because which names there are is known only when all
rows have been read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["single_label_classification", "multi_label_classification", "regression", "token_classification"]
SINGLE: Kind = "single_label_classification"
MULTI: Kind = "multi_label_classification"
NUMERIC: Kind = "regression"
TOKEN: Kind = "token_classification"
MEASURED: dict[str, tuple[str, ...]] = {
    "single_label_classification": ("accuracy", "f1_macro", "f1_weighted", "matthews_correlation"),
    MULTI: ("accuracy", "f1_macro", "f1_micro", "f1_weighted"),
    NUMERIC: ("mean_absolute_error", "root_mean_squared_error", "r2", "pearson_correlation"),
    TOKEN: ("accuracy", "matthews_correlation", "entity_f1"),
}
"""What an evaluation while training gives beside the loss: early stopping's metric is one of them."""
SIMPLE_MODELS = ("majority", "tfidf_logreg", "mean", "tfidf_ridge", "most_frequent_tag")
"""The names in scores.json of what stands beside a classifier, fitted in a moment on the same examples."""
TEXT_COLUMNS = ("text", "sentence", "content", "review")
TOKEN_COLUMNS = ("tokens", "words")
CONFIG_KEY = "alignkit_classifier"
"""Where a model's config.json holds its `Head`, beside transformers' own id2label and problem_type."""


@dataclass(frozen=True)
class Head:
    """What a classifier answers, and how texts are cut for it.

    `labels` by class number; one for a numeric target. `thresholds` are a multi-label model's, one a label. `stride`
    is how many tokens neighbouring windows of a long text share; 0: a long text is cut off. `names` are what the data's
    numbers stand for, where the recipe says it.
    """

    kind: Kind
    labels: tuple[str, ...]
    max_length: int | None = None
    stride: int = 0
    thresholds: tuple[float, ...] = ()
    scheme: str | None = None
    names: tuple[str, ...] = ()

    @property
    def config(self) -> dict[str, Any]:
        """The fields of a model's config that make its head this one."""
        fields: dict[str, Any] = {
            "id2label": dict(enumerate(self.labels)),
            "label2id": {name: number for number, name in enumerate(self.labels)},
            CONFIG_KEY: self.stored,
        }
        return fields if self.kind == TOKEN else {**fields, "problem_type": self.kind}

    @property
    def stored(self) -> dict[str, Any]:
        """Itself as plain data."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> Head:
        """The head that `stored` describes."""
        known: dict[str, Any] = {name: stored[name] for name in cls.__dataclass_fields__ if name in stored}
        values: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
        return cls(**values)


# ---------------------------------------------------------------------- values
def encode(value: Any) -> str:
    """A label as it stands in prepared data: JSON, lists sorted and without doubles."""
    if isinstance(value, list):
        return json.dumps(sorted({name_of(item) for item in value}), ensure_ascii=False)
    return json.dumps(value if isinstance(value, float) else name_of(value), ensure_ascii=False)


def decode(text: str) -> Any:
    """A name, a number, or a list of names."""
    return json.loads(text)


def name_of(value: Any) -> str:
    """A class's name: texts as they are, true and false in JSON's words, whole numbers without a point."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def named(value: Any, names: Sequence[str]) -> Any:
    """A label under the recipe's `labels.names`: a whole number is a place among them."""
    if not names or isinstance(value, str | bool | float):
        return value
    if isinstance(value, list):
        return [named(item, names) for item in value]
    return names[value] if 0 <= value < len(names) else value


def kind_of_labels(values: Iterable[Any]) -> Kind:
    """What labels like these are for: lists are several labels a text, numbers with a fraction a numeric target.

    A csv file knows no numbers: texts are taken as such where all of them are, and one has a fraction.
    """
    found = list(values)
    if any(isinstance(value, list) for value in found):
        return MULTI
    if any(isinstance(value, float) and not value.is_integer() for value in found):
        return NUMERIC
    numbers = [as_number(value) for value in found]
    written = any(number is not None and not number.is_integer() for number in numbers)
    return NUMERIC if written and None not in numbers else SINGLE


def mixed(names: Iterable[str]) -> tuple[str, str] | None:
    """A whole number and a word, where labels have both: mostly a column that has gone wrong."""
    of_number: dict[bool, str] = {}
    for name in names:
        of_number.setdefault(name.removeprefix("-").isdigit(), name)
    return (of_number[True], of_number[False]) if len(of_number) == 2 else None


def as_number(value: Any) -> float | None:
    """A numeric target; None for what is no finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) < float("inf") else None


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names sorted: as numbers where all are whole numbers."""
    distinct = set(names)
    numbers = all(name.removeprefix("-").isdigit() for name in distinct)
    return tuple(sorted(distinct, key=int if numbers else None))


# ---------------------------------------------------------------------- tag schemes
SCHEMES = ("IO", "IOB1", "IOB2", "BIOES")
_PREFIXES = {"IO": "I", "IOB1": "IB", "IOB2": "IB", "BIOES": "BIOES"}


def prefix_and_type(tag: str) -> tuple[str, str] | None:
    """("B", "PER") of B-PER, ("O", "") of O; None for what is no entity tag."""
    if tag == "O":
        return "O", ""
    prefix, dash, kind = tag.partition("-")
    return (prefix, kind) if dash and kind and prefix in ("B", "I", "E", "S", "L", "U") else None


def fault(tags: Sequence[str], scheme: str) -> str | None:
    """What is wrong with one sentence's tags under `scheme`; None where nothing is."""
    before = ("O", "")
    for place, tag in enumerate([*tags, "O"]):
        now = prefix_and_type(tag)
        if now is None or (now[0] != "O" and now[0] not in _PREFIXES[scheme]):
            return f"{tag} (token {place + 1}) is no tag of {scheme}"
        if reason := _step(before, now, scheme):
            return f"{tag} (token {place + 1}) {reason}" if place < len(tags) else f"the last tag {reason}"
        before = now
    return None


def _step(before: tuple[str, str], now: tuple[str, str], scheme: str) -> str | None:
    """Why `now` may not follow `before`."""
    inside = before[0] in "BI" and before[1] == now[1]
    if scheme == "IOB2" and now[0] == "I" and not inside:
        return "goes on with an entity that no B- began"
    if scheme == "IOB1" and now[0] == "B" and not inside:
        return "begins with B-, which IOB1 keeps for an entity right after another of its type"
    if scheme == "BIOES":
        if now[0] in "IE" and not inside:
            return "goes on with an entity that no B- began"
        if before[0] in "BI" and not (now[0] in "IE" and inside):
            return "leaves an entity open that no E- ended"
    return None


def recognise_scheme(sentences: Iterable[Sequence[str]]) -> str | None:
    """The strictest scheme that all sentences follow; None where the tags are no entity tags, or follow none."""
    possible = ["IO", "BIOES", "IOB2", "IOB1"]
    any_entity = False
    for tags in sentences:
        possible = [scheme for scheme in possible if fault(tags, scheme) is None]
        any_entity = any_entity or any(tag != "O" for tag in tags)
        if not possible:
            return None
    return possible[0] if any_entity else None


def balanced(counts: Counter[str], labels: Sequence[str]) -> list[float]:
    """scikit-learn's `balanced` weights: rows / (classes × rows of the class)."""
    total = sum(counts[label] for label in labels)
    return [total / (len(labels) * max(1, counts[label])) for label in labels]
