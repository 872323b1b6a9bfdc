"""Texts and sentences of words as the tokens of a classifier: cut off at its length, or in windows that overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of a text as the model sees it.

    `input_ids`: (T,) with special tokens. `firsts`: where in it the first pieces of the words `words` stand, (W,) each;
    both are empty for plain texts. A word without a piece of its own (a character that the tokenizer drops) is in none.
    """

    input_ids: np.ndarray
    firsts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    words: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int32))


@dataclass(frozen=True, slots=True)
class Cut:
    """A text's windows; `truncated`: its end is in none of them."""

    windows: list[Window]
    truncated: bool


def cut(
    tokenizer: PreTrainedTokenizerBase, items: Sequence[str | Sequence[str]], max_length: int | None, stride: int = 0
) -> list[Cut]:
    """The windows of each text, or of each sentence given as a list of words. Fastest with hundreds at a time.

    Words are joined by spaces, as other tools join them, so that plain `transformers.pipeline` sees the same tokens.

    Args:
        max_length: tokens of a window at most, special tokens among them; None cuts nothing.
        stride: tokens that neighbouring windows share; 0: only the first window is kept. Needs a fast tokenizer, and so
            do words.
    """
    if not items:
        return []
    words = [None if isinstance(item, str) else list(item) for item in items]
    texts = [item if isinstance(item, str) else " ".join(item) for item in items]
    tagging = any(one is not None for one in words)
    if not tokenizer.is_fast:
        assert not tagging and not stride, "checked: words and windows need a fast tokenizer"
        return [_cut_slowly(tokenizer, text, max_length) for text in texts]
    batch = tokenizer(
        texts,
        truncation=max_length is not None,
        max_length=max_length,
        stride=stride if max_length is not None else 0,
        return_overflowing_tokens=max_length is not None,
        return_offsets_mapping=tagging,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    of = batch.get("overflow_to_sample_mapping", range(len(texts)))
    pieces: list[list[int]] = [[] for _ in texts]
    for number, text in enumerate(of):
        pieces[int(text)].append(number)
    found = []
    for text, numbers in enumerate(pieces):
        kept = numbers if stride else numbers[:1]
        ids = [_ids(batch["input_ids"][number], tokenizer) for number in kept]
        if words[text] is None:
            windows = [Window(one) for one in ids]
        else:
            offsets = [np.array(batch["offset_mapping"][number], dtype=np.int64).reshape(-1, 2) for number in kept]
            windows = _with_words(ids, offsets, words[text] or [])
        found.append(Cut(windows, len(kept) < len(numbers)))
    return found


def _ids(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Token ids; an empty text of a tokenizer without special tokens is one token that says nothing."""
    if len(ids):
        return np.array(ids, dtype=np.int32)
    filler: Any = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return np.array([filler or 0], dtype=np.int32)


def _cut_slowly(tokenizer: PreTrainedTokenizerBase, text: str, max_length: int | None) -> Cut:
    options: dict[str, Any] = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    ids = tokenizer(text, **options)["input_ids"]
    too_long = max_length is not None and len(ids) > max_length
    if too_long:
        ids = tokenizer(text, truncation=True, max_length=max_length, **options)["input_ids"]
    return Cut([Window(_ids(ids, tokenizer))], too_long)


def _with_words(ids: list[np.ndarray], offsets: list[np.ndarray], words: Sequence[str]) -> list[Window]:
    """The windows of one sentence with the places of each word's first piece.

    A piece belongs to the word that holds its last character: some tokenizers count the space before it in.
    """
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths + 1)[:-1]]).astype(np.int64)
    word_of: np.ndarray = np.full(int(lengths.sum()) + len(words) + 1, -1, dtype=np.int64)
    for number, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        word_of[start : start + length] = number
    seen: dict[int, int] = {}  # word -> where its first piece starts: in a later window, a later piece comes first
    found = []
    for tokens, spans in zip(ids, offsets, strict=True):
        spans = spans if len(spans) == len(tokens) else np.zeros((len(tokens), 2), dtype=np.int64)
        real = spans[:, 1] > spans[:, 0]
        word = np.where(real, word_of[np.maximum(spans[:, 1] - 1, 0)], -1)
        distinct, places = np.unique(word, return_index=True)
        firsts, kept = [], []
        for number, place in zip(distinct.tolist(), places.tolist(), strict=True):
            if number >= 0 and seen.setdefault(number, int(spans[place, 0])) == int(spans[place, 0]):
                firsts.append(place)
                kept.append(number)
        found.append(Window(tokens, np.array(firsts, dtype=np.int32), np.array(kept, dtype=np.int32)))
    return found
