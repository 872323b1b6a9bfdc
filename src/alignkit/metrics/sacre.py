"""What BLEU, chrF and TER share: sacrebleu tokenises and counts; here the counts become additive statistics.

sacrebleu's per-segment counts are reached through `_extract_corpus_statistics`, which its own significance tests use.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from alignkit.errors import Problem, UserError
from alignkit.metrics.measurement import Formula, Measurement
from alignkit.metrics.parallel import Progress, map_chunks

PER_PROCESS = {"BLEU": 4000, "CHRF": 1000, "TER": 500}  # pairs that outweigh starting a process


def count_chunk(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, kind: str, options: dict[str, Any]
) -> list[list[float]]:
    """sacrebleu's statistics of each segment."""
    return build(kind, options)._extract_corpus_statistics(predictions, _streams(references))


def _streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """References by item to sacrebleu's streams; an item with fewer references has None in the later streams."""
    most = max((len(choices) for choices in references), default=1)
    return [[choices[i] if i < len(choices) else None for choices in references] for i in range(most)]


def build(kind: str, options: dict[str, Any]) -> Any:
    """A sacrebleu metric (`BLEU`, `CHRF`, `TER`). Raises UserError where its tokenizer cannot be had here."""
    return _build(kind, tuple(sorted(options.items())))


@cache
def _build(kind: str, options: tuple[tuple[str, Any], ...]) -> Any:
    from sacrebleu import metrics

    given = dict(options)
    try:
        return getattr(metrics, kind)(**given)
    except (RuntimeError, ImportError) as error:  # ja-mecab and ko-mecab without their dictionaries
        name = given["tokenize"]
        hint = f"pip install 'sacrebleu[{name[:2]}]'" if name.endswith("mecab") else None
        raise UserError(
            Problem(f"the tokenizer {name!r} needs more than is installed", field="tokenize", hint=hint)
        ) from error
    except (OSError, SystemExit) as error:  # the flores tokenizers are downloaded once into ~/.sacrebleu/models
        name = given["tokenize"]
        message = f"the model of the tokenizer {name!r} is not in ~/.sacrebleu/models and could not be downloaded"
        raise UserError(Problem(message, field="tokenize")) from error


def measure(
    name: str,
    kind: str,
    options: dict[str, Any],
    formula: Formula,
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    higher_is_better: bool = True,
    item_formula: Formula | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Count in chunks (large sets in several processes) and sign as sacrebleu does."""
    logging.getLogger("sacrebleu").setLevel(logging.ERROR)
    metric = build(kind, options)
    counts = {len(choices) for choices in references}
    metric.num_refs = counts.pop() if len(counts) == 1 else -1
    signature = metric.get_signature().format()
    rows = map_chunks(
        count_chunk,
        (predictions, references),
        per_process=PER_PROCESS[kind],
        progress=progress,
        kind=kind,
        options=options,
    )
    empty = sum(not prediction.strip() for prediction in predictions)
    statistics = np.array(rows, dtype=float)
    return Measurement(name, signature, higher_is_better, statistics, formula, empty=empty, item_formula=item_formula)
