"""A model that answers: a conversation in, text out, a piece at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from transformers import TextStreamer

from alignkit.data.prompts import encode_prompt, prompt_text
from alignkit.data.templates import ChatTemplate
from alignkit.data.turns import CannotRender
from alignkit.errors import Problem, UserError
from alignkit.evaluation.generate import Settings, TransformersGenerator
from alignkit.evaluation.likelihood import context_of

Message = dict[str, str]
Hear = Callable[[str], None]
"""Told each piece of an answer as it is written."""


class Speaker:
    """One model with its tokenizer and settings.

    Args:
        silenced: a PeftModel that speaks as its base, its adapter switched off.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any, settings: Settings, silenced: bool = False) -> None:
        self.name = name
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.settings = settings
        self.silenced = silenced
        self.context = context_of(model, tokenizer)
        # `all`: asking needs the template alone, not a way to tell the assistant's turns apart.
        self.template = ChatTemplate(tokenizer, "all") if tokenizer.chat_template is not None else None

    def answer(self, messages: Sequence[Message], seed: int, hear: Hear) -> str:
        """The answer to a conversation. Stopped by Ctrl-C it is what was written until then.

        Without a chat template the last message is continued as it stands. Turns that the context has no room for are
        forgotten, the oldest first.

        Raises:
            UserError: the template refuses the conversation, or its last message alone fills the context.
        """
        ids, room = self._fitting(list(messages))
        heard = _Heard(self.tokenizer, hear)
        generator = TransformersGenerator(self.model, self.tokenizer)
        silence = self.model.disable_adapter() if self.silenced else contextlib.nullcontext()
        try:
            with silence:
                ((done,),) = generator.complete([ids], self.settings, max_new_tokens=room, seed=seed, streamer=heard)
        except KeyboardInterrupt:
            return heard.text
        return done.text

    def _fitting(self, messages: list[Message]) -> tuple[list[int], int]:
        """Token ids of the conversation, and how many may follow."""
        most = self.settings.max_new_tokens
        while True:
            ids = self._encoded(messages)
            room = most if self.context is None else min(most, self.context - len(ids))
            turns = [place for place, message in enumerate(messages) if message["role"] != "system"]
            if room >= min(most, (self.context or most) // 4) or (len(turns) <= 1 and room > 0):
                return ids, room
            if len(turns) <= 1:
                message = f"the message has {len(ids):,} tokens, and the context of {self.name} {self.context:,}"
                raise UserError(Problem(message, hint="say it shorter"))
            del messages[turns[0] : turns[0] + 2]  # the oldest question and its answer

    def _encoded(self, messages: Sequence[Message]) -> list[int]:
        prompt: Any = list(messages) if self.template is not None else messages[-1]["content"]
        try:
            text, special = prompt_text(prompt, {}, self.template)
        except CannotRender as error:
            raise UserError(f"the chat template of {self.name} refuses this conversation: {error}") from error
        return encode_prompt(self.tokenizer, text, special)


class _Heard(TextStreamer):
    """Hands over the text as words are complete, and keeps it."""

    def __init__(self, tokenizer: Any, hear: Hear) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        self.hear = hear
        self.text = ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002
        self.text += text
        self.hear(text)
