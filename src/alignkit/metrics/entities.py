"""Entity F1 by seqeval's definition: an entity counts when its type, its start and its end are all right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from alignkit.errors import Problem, UserError
from alignkit.metrics.measurement import Measurement, divide
from alignkit.metrics.names import did_you_mean

Entity = tuple[str, int, int]  # type, first token, last token
SCHEMES = ("IOB1", "IOB2", "IOE1", "IOE2", "IOBES", "BILOU")

# (previous prefix, prefix) between which an entity of the same type ends, and starts (conlleval's rules).
_ENDS = frozenset({"EB", "EI", "EE", "ES", "EO", "SB", "SI", "SE", "SS", "SO", "BB", "BS", "BO", "IB", "IS", "IO"})
_STARTS = frozenset({"EE", "EI", "SE", "SI", "OE", "OI"})


def entities(tags: Sequence[str], scheme: str | None = None) -> list[Entity]:
    """The entities of one sentence.

    Without a `scheme`, by the lenient rules of conlleval that seqeval uses by default: they read IOB1, IOB2, IOBES and
    bare IO tags alike. With one (`IOB2`, …, or `BIOES` for `IOBES`), strictly: what does not start as it must is none.
    """
    if scheme is not None:
        return _strict(tags, scheme)
    found = []
    previous, previous_type, start = "O", "", 0
    for place, tag in enumerate([*tags, "O"]):
        prefix, kind = tag[:1] or "O", tag[1:].split("-", maxsplit=1)[-1] or "_"
        changed = kind != previous_type
        step = previous + prefix
        if step in _ENDS or (changed and previous not in "O."):
            found.append((previous_type, start, place - 1))
        if prefix in "BS" or step in _STARTS or (changed and prefix not in "O."):
            start = place
        previous, previous_type = prefix, kind
    return found


def check_scheme(scheme: str) -> str:
    """The scheme's usual name. Raises UserError where there is none such."""
    name = {"BIO": "IOB2", "BIOES": "IOBES", "BIO2": "IOB2"}.get(scheme.upper(), scheme.upper())
    if name not in SCHEMES:
        hint = did_you_mean(scheme, SCHEMES) or f"there are {', '.join(SCHEMES)}"
        raise UserError(Problem(f"unknown tagging scheme {scheme!r}", field="scheme", hint=hint))
    return name


def _strict(tags: Sequence[str], scheme: str) -> list[Entity]:
    from seqeval import scheme as schemes

    try:
        found = schemes.Tokens(list(tags), getattr(schemes, check_scheme(scheme))).entities
    except (KeyError, ValueError) as error:
        raise UserError(Problem(f"tags {sorted(set(tags))} do not follow {scheme}: {error}", field="scheme")) from error
    return [(entity.tag, entity.start, entity.end - 1) for entity in found]


def entity_f1(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]], *, scheme: str | None = None
) -> Measurement:
    """F1 over all entities of all sentences (micro), from tags such as B-PER, by sentence."""
    rows = []
    for tags, expected_tags in zip(predictions, references, strict=True):
        said, expected = set(entities(tags, scheme)), set(entities(expected_tags, scheme))
        rows.append((len(said & expected), len(said), len(expected)))
    signature = f"avg:micro|scheme:{scheme or 'conlleval'}|version:alignkit-1"
    return Measurement("entity_f1", signature, True, np.array(rows, dtype=float), _formula)


def _formula(sums: np.ndarray) -> np.ndarray:
    return divide(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def per_type(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]], *, scheme: str | None = None
) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each entity type; 0 where one is undefined."""
    right: Counter[str] = Counter()
    said: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    for tags, expected_tags in zip(predictions, references, strict=True):
        ours, theirs = set(entities(tags, scheme)), set(entities(expected_tags, scheme))
        right.update(kind for kind, _, _ in ours & theirs)
        said.update(kind for kind, _, _ in ours)
        expected.update(kind for kind, _, _ in theirs)
    return {
        kind: {
            "precision": right[kind] / said[kind] if said[kind] else 0.0,
            "recall": right[kind] / expected[kind] if expected[kind] else 0.0,
            "f1": 2 * right[kind] / (said[kind] + expected[kind]),
            "support": expected[kind],
        }
        for kind in sorted(said | expected)
    }
