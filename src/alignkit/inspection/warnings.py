"""What a person would want to know before a run is paid for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from alignkit.data import Prepared

LENGTHS_DIFFER = 4.0  # mean tokens of the longest source, over the shortest's
FEW_LEARNED = 0.02  # a share of tokens below which a template or a mask is usually to blame
MANY_DROPPED = 0.05


def warnings(prepared: Prepared, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """One line each, the costliest first."""
    found: list[str] = []
    for part in ("train", "eval"):
        counts = prepared.counts.get(part)
        if counts and counts.get("examples") is not None:
            found += _of_part(part, counts)
    found += _doubled_bos(prepared, tokenizer)
    return found


def _of_part(part: str, counts: Mapping[str, Any]) -> Iterator[str]:
    examples, tokens = counts["examples"], counts.get("tokens") or 0
    dropped = sum((counts.get("dropped") or {}).values())
    if dropped > MANY_DROPPED * (examples + dropped):
        yield f"{part}: {_share(dropped, examples + dropped)} of the examples are dropped"
    if tokens and 0 < (learned := counts.get("supervised_tokens", 0)) < FEW_LEARNED * tokens:
        yield f"{part}: only {_share(learned, tokens)} of the tokens are trained on"
    if cut := counts.get("truncated"):
        yield f"{part}: {_share(cut, examples)} of the examples are cut off at max_length: their ends are not seen"
    if same := counts.get("also_in_train"):
        yield f"{part}: {_share(same, examples)} of the examples are in the training set too, token for token"
    if copies := counts.get("duplicates"):
        yield f"{part}: {_share(copies, examples)} of the examples are copies of another, token for token"
    sources = counts.get("sources") or []
    systems, all_ = sum(one.get("with_system", 0) for one in sources), sum(one["examples"] for one in sources)
    if 0 < systems < all_:
        where = "; ".join(f"{one['path']}: {one.get('with_system', 0):,} of {one['examples']:,}" for one in sources)
        yield f"{part}: a system text stands in some chats only ({where})"
    yield from _lengths(part, sources)


def _lengths(part: str, sources: list[Mapping[str, Any]]) -> Iterator[str]:
    means = sorted(
        (one["tokens"] / one["examples"], one["path"]) for one in sources if one["examples"] and "tokens" in one
    )
    if len(means) > 1 and means[-1][0] > LENGTHS_DIFFER * means[0][0]:
        (low, short), (high, long) = means[0], means[-1]
        yield (
            f"{part}: lengths differ by source: {short} has {low:,.0f} tokens an example, {long} {high:,.0f}; "
            "the longer one has that much more weight in a loss over tokens"
        )


def _doubled_bos(prepared: Prepared, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Rows in which BOS stands twice in a row. Where BOS also ends texts, packed rows have it so by right."""
    bos = tokenizer.bos_token_id
    for part, data in (("train", prepared.train), ("eval", prepared.eval)):
        table = getattr(data, "data", None)  # a stream has none
        if bos is None or bos == tokenizer.eos_token_id or table is None:
            continue
        for name in (name for name in table.column_names if name.endswith("_ids")):
            number = sum(_doubled(chunk, bos) for chunk in table.column(name).chunks)
            if number:
                yield f"{part}: {number:,} times {tokenizer.bos_token} stands twice in a row ({name})"


def _doubled(lists: Any, bos: int) -> int:
    """How often `bos` follows itself within one row of an Arrow list array."""
    values = lists.flatten().to_numpy(zero_copy_only=False)
    twice = np.flatnonzero((values[:-1] == bos) & (values[1:] == bos))
    starts = np.asarray(lists.offsets) - lists.offsets[0].as_py()
    return int((~np.isin(twice + 1, starts)).sum())


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({part / max(whole, 1):.1%})"
