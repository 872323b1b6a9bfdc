"""Token ids as text that a person can read: what each token adds to the text, nothing hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BROKEN = "\ufffd"  # what decoding writes for part of a character
PART = "‥"  # stands for the rest of a character that takes several tokens
LONGEST_CHARACTER = 6  # tokens


@dataclass(frozen=True, slots=True)
class Token:
    """One token: its text, whether it is learned from, whether it stands outside the plain vocabulary, and its tag."""

    id: int
    text: str
    trained: bool = False
    special: bool = False
    tag: str | None = None


class TokenTexts:
    """The texts of one tokenizer's tokens.

    A token is decoded behind another one, because a decoder drops the space before the first token. A character that
    takes several tokens stands with the first of them; the others are shown as `‥`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        plain = tokenizer("a", add_special_tokens=False)["input_ids"]
        self._before = [number for number in plain if number not in self.special][-1:]
        self._start = len(self._decode(self._before))
        self._known: dict[int, str] = {}

    def of(self, ids: Sequence[int]) -> list[str]:
        """The text of each token, in order."""
        texts: list[str] = []
        at = 0
        while at < len(ids):
            text, taken = self._one(ids[at]), 1
            while BROKEN in text and taken < LONGEST_CHARACTER and at + taken < len(ids):
                taken += 1
                text = self._behind(ids[at : at + taken])
            if BROKEN in text:  # no character comes of it: the token as the vocabulary writes it
                text, taken = str(self.tokenizer.convert_ids_to_tokens(ids[at])), 1
            texts += [text, *[PART] * (taken - 1)]
            at += taken
        return texts

    def _one(self, number: int) -> str:
        if number not in self._known:
            if number in self.special or not 0 <= number < len(self.tokenizer):
                text = str(self.tokenizer.convert_ids_to_tokens(number))
            else:
                text = self._behind([number])
            self._known[number] = text
        return self._known[number]

    def _behind(self, ids: Sequence[int]) -> str:
        return self._decode([*self._before, *ids])[self._start :]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
