"""Where a classifier is right and wrong: the confusion matrix, the reliability diagram, the most confident mistakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignkit.examples.labels import MULTI, NUMERIC, TOKEN, Head
from alignkit.metrics.classification import per_class, reliability
from alignkit.metrics.entities import entities, per_type
from alignkit.statistics import wilson

MISTAKES = 20
CHARACTERS = 500  # of a text among the mistakes
MOST_CLASSES = 40  # of a confusion matrix; rarer classes are left out


def diagnose(
    head: Head,
    items: Sequence[Any],
    labels: Sequence[Any],
    decisions: Sequence[Any],
    scores: Sequence[np.ndarray],
    ids: Sequence[str],
) -> dict[str, Any]:
    """What details.json holds of one model: plain data, all finite.

    Args:
        items: texts, or lists of words.
        labels, decisions: names, lists of names, numbers, or tags a word.
        scores: as `evaluation.classifier.Answer` has them.
        ids: of the examples.
    """
    found: dict[str, Any] = {"kind": head.kind, "labels": list(head.labels), "n": len(items)}
    if head.kind == NUMERIC:
        errors = np.array(decisions, dtype=float) - np.array(labels, dtype=float)
        order = np.argsort(-np.abs(errors), kind="stable")[:MISTAKES].tolist()
        found["mistakes"] = [
            {"id": ids[i], "text": items[i][:CHARACTERS], "label": float(labels[i]), "prediction": float(decisions[i])}
            for i in order
        ]
        return found
    if head.kind == TOKEN:
        return found | _of_tags(head, items, labels, decisions, scores, ids)
    if head.kind == MULTI:  # each label's probability against whether it holds
        confidence = np.concatenate(list(scores))
        right = np.array([name in names for names in labels for name in head.labels])
        found |= {"per_class": _per_label(head, labels, decisions), "thresholds": list(head.thresholds)}
        sure = [_sureness(head, *one) for one in zip(scores, labels, decisions, strict=True)]
    else:
        confidence = np.array([one.max() for one in scores])
        right = np.array([said == true for said, true in zip(decisions, labels, strict=True)])
        found |= _confusion(labels, decisions, head.labels)
        found["per_class"] = {str(name): row for name, row in per_class(decisions, labels).items()}
        sure = [0.0 if good else float(one) for one, good in zip(confidence, right, strict=True)]
    found["reliability"] = _diagram(confidence, right)
    order = np.argsort(-np.array(sure), kind="stable")[:MISTAKES].tolist()
    found["mistakes"] = [
        {
            "id": ids[place],
            "text": items[place][:CHARACTERS],
            "label": _plain(labels[place]),
            "prediction": _plain(decisions[place]),
            "confidence": round(sure[place], 4),
        }
        for place in order
        if sure[place] > 0
    ]
    return found


def _sureness(head: Head, scores: np.ndarray, label: list[str], decision: list[str]) -> float:
    """How sure a model was of the label that it has most surely wrong; 0 where it has none wrong."""
    wrong = set(label) ^ set(decision)
    return max(
        (max(float(p), 1 - float(p)) for name, p in zip(head.labels, scores, strict=True) if name in wrong), default=0.0
    )


def _diagram(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, Any]]:
    """The points of a reliability diagram, with Wilson's interval of the share that is right."""
    points = reliability(confidence, right)
    return [{**point, "ci95": list(wilson(point["right"], int(point["n"])))} for point in points]


def _plain(label: Any) -> str:
    return ", ".join(label) if isinstance(label, list) else str(label)


def _confusion(labels: Sequence[str], decisions: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """How often each label (rows) was answered by each (columns); of many labels the most frequent ones."""
    often = Counter(labels) + Counter(decisions)
    kept = set(sorted(names, key=lambda name: -often[name])[:MOST_CLASSES])
    shown_names = [name for name in names if name in kept]
    pairs = Counter(zip(labels, decisions, strict=True))
    matrix = [[pairs[true, said] for said in shown_names] for true in shown_names]
    return {"confusion": {"labels": shown_names, "matrix": matrix, "left_out": len(names) - len(shown_names)}}


def _per_label(head: Head, labels: Sequence[list[str]], decisions: Sequence[list[str]]) -> dict[str, dict[str, float]]:
    found = {}
    for name in head.labels:
        flags = per_class([name in said for said in decisions], [name in true for true in labels])
        found[name] = flags.get(True, {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0})
    return found


def _of_tags(
    head: Head,
    items: Sequence[Sequence[str]],
    labels: Sequence[list[str]],
    decisions: Sequence[list[str]],
    scores: Sequence[np.ndarray],
    ids: Sequence[str],
) -> dict[str, Any]:
    """Of tags: words by type of entity (or by tag), entities by type, and the surest wrong words."""
    entity = head.scheme is not None

    def kind(tag: str) -> str:
        return tag.partition("-")[2] or tag if entity else tag

    pairs = [(kind(a), kind(b)) for one in zip(labels, decisions, strict=True) for a, b in zip(*one, strict=True)]
    names = list(dict.fromkeys(kind(label) for label in head.labels))
    found = _confusion([a for a, _ in pairs], [b for _, b in pairs], names)
    found["per_class"] = (
        per_type(decisions, labels) if entity else per_class([b for _, b in pairs], [a for a, _ in pairs])
    )
    confidence = np.array([float(row.max()) for one in scores for row in one])
    right = np.array([a == b for one in zip(labels, decisions, strict=True) for a, b in zip(*one, strict=True)])
    found["reliability"] = _diagram(confidence, right) if len(confidence) else []
    place = [(sentence, word) for sentence, words in enumerate(items) for word in range(len(words))]
    wrong = [i for i in np.argsort(-confidence, kind="stable").tolist() if not right[i]][:MISTAKES]
    found["mistakes"] = []
    for i in wrong:
        sentence, word = place[i]
        words = items[sentence]
        before, after = " ".join(words[max(0, word - 8) : word]), " ".join(words[word + 1 : word + 9])
        found["mistakes"].append(
            {
                "id": ids[sentence],
                "text": f"{before} [{words[word]}] {after}".strip(),
                "label": labels[sentence][word],
                "prediction": decisions[sentence][word],
                "confidence": round(float(confidence[i]), 4),
            }
        )
    return found


def shown(head: Head, words: Sequence[str], tags: Sequence[str]) -> str:
    """A sentence's tags for a reader: its entities, or the tags of its words."""
    if head.scheme is None:
        return " ".join(f"{word}/{tag}" for word, tag in zip(words, tags, strict=True))
    found = [f"{' '.join(words[first : last + 1])} [{kind}]" for kind, first, last in entities(tags)]
    return "; ".join(found) or "no entity"
