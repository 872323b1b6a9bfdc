"""Prompts alone: rendered and tokenized exactly as in supervised training, up to where the answer would begin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from alignkit.data.prepare import Prepared, Say, Settings, Store, prepare
from alignkit.data.render import NO_TEMPLATE, Renders
from alignkit.data.rows import RenderedRow, RowStore
from alignkit.data.templates import ChatTemplate, MaskingInfo, adds_bos
from alignkit.data.turns import CannotRender
from alignkit.errors import UserError
from alignkit.examples import Dropped, Example, plain_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from alignkit.recipe import Recipe

SHAPES = ("prompt_only",)
SCHEMA = pa.schema([pa.field("prompt_ids", pa.list_(pa.int32())), pa.field("row", pa.string())])


def prompt_text(prompt: Any, data: Mapping[str, Any], chat: ChatTemplate | None) -> tuple[str, bool]:
    """A prompt (a text or messages) as the model reads it, and whether the tokenizer adds its special tokens.

    Raises CannotRender for messages without a template, or that the template refuses.
    """
    if isinstance(prompt, str):
        return prompt, True
    if chat is None:
        raise CannotRender(NO_TEMPLATE)
    try:
        text = chat.text(prompt, data.get("tools"), data.get("chat_template_kwargs"), generation_prompt=True)
    except Exception as error:  # a template is a program, and may refuse a chat in any way it likes
        raise CannotRender(str(error)) from error
    return text, False


def encode_prompt(tokenizer: Any, text: str, special: bool) -> list[int]:
    """Token ids as training has them before the answer: no EOS after the prompt, one BOS at most, and never nothing."""
    ids = list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    if special and eos is not None and len(ids) > 1 and ids[-1] == eos and not text.endswith(str(tokenizer.eos_token)):
        ids = ids[:-1]  # a tokenizer that closes each text itself
    while bos is not None and len(ids) > 1 and ids[0] == bos and ids[1] == bos:
        ids = ids[1:]
    if not ids and (first := bos if bos is not None else eos) is not None:
        ids = [first]
    return ids


class PromptRenderer:
    """Examples to rows of `prompt_ids`, and in `row` (JSON) the prompt as rewards see it and every other column.

    Args:
        max_length: longer prompts are dropped: one that is cut asks something else.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length

    @cached_property
    def chat(self) -> ChatTemplate | None:
        return ChatTemplate(self.tokenizer, "all") if self.tokenizer.chat_template is not None else None

    def info(self) -> MaskingInfo:
        if (chat := self.__dict__.get("chat")) is not None:
            return chat.info()
        bos = "tokenizer" if adds_bos(self.tokenizer) else "none"
        return MaskingInfo("none", self.tokenizer.eos_token, bos)  # type: ignore[arg-type]

    def check(self, recipe: Recipe, example: Example) -> None:
        if isinstance(example.data["prompt"], str) or example.plain or self.chat is not None:
            return
        message = f"{NO_TEMPLATE}, and {example.row.origin} holds chats"
        hint = "name a .jinja file, or a model that has a template; or give prompts as texts"
        raise UserError(recipe.problem("model.chat_template_path", message, hint))

    def render(self, examples: Sequence[Example]) -> list[RenderedRow | Dropped]:
        return [self._row(example) for example in examples]

    def _row(self, example: Example) -> RenderedRow | Dropped:
        data = example.data
        if self.chat is None and example.plain:
            data = plain_text(dict(data), example.transcript)
        try:
            text, special = prompt_text(data["prompt"], data, self.chat)
        except CannotRender as error:
            return Dropped(example.id, str(error), example.row)
        ids = encode_prompt(self.tokenizer, text, special)
        if self.max_length is not None and len(ids) > self.max_length:
            return Dropped(example.id, f"prompt longer than {self.max_length} tokens", example.row)
        row = json.dumps(dict(data), ensure_ascii=False, default=str)
        return RenderedRow(example.id, {"prompt_ids": ids, "row": row}, len(ids), supervised=0)


@dataclass(frozen=True)
class PromptSettings(Settings):
    """Prompts as rows."""

    @classmethod
    def of(cls, recipe: Recipe) -> PromptSettings:
        training = recipe.training.resolved()
        return cls(None, training.get("max_prompt_length"), False, False, "bfd", None)

    def renderer(self, tokenizer: PreTrainedTokenizerBase, packing: bool) -> Renders:
        assert not packing, "refused when the recipe is read"
        return PromptRenderer(tokenizer, self.max_length)

    def store(self, folder: Path, part: str) -> Store:
        return RowStore(folder, part, SCHEMA)


def prepare_prompts(recipe: Recipe, tokenizer: Any, *, say: Say) -> Prepared:
    """The recipe's prompts, tokenized, with the columns that rewards read. Raises UserError."""
    return prepare(recipe, tokenizer, PromptSettings.of(recipe), SHAPES, say)


def as_sample(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the data set as rewards see it: `prompt`, the data's other columns, `example_id`."""
    return {**json.loads(row["row"]), "example_id": row["example_id"]}
