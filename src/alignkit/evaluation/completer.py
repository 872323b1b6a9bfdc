"""A language model behind `alignkit predict`: a completion for each row, or several."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from alignkit.evaluation.generate import Completion, Settings, TransformersGenerator, batches_of, rows_for
from alignkit.evaluation.likelihood import context_of
from alignkit.evaluation.memory import halved_when_full
from alignkit.evaluation.predictor import loaded
from alignkit.evaluation.prompts import as_prompts
from alignkit.examples import Example


def load(result: Any) -> CompletionPredictor:
    """The model behind an `alignkit.predict.Result`, with the settings of its recipe's first generation task.

    Without one: greedy, 256 tokens at most. Raises UserError.
    """
    tasks = [] if result.recipe is None else [one for one in result.recipe.evaluation if one.task == "generation"]
    settings = Settings.of(tasks[0].generation.arguments() if tasks else {})
    seed = 42 if result.recipe is None else result.recipe.seed
    return CompletionPredictor(*loaded(result), settings, seed, tasks[0].batch_size if tasks else 8)


class CompletionPredictor:
    """Answers rows with what the model writes after their prompts."""

    def __init__(self, model: Any, tokenizer: Any, settings: Settings, seed: int, batch_size: int) -> None:
        self.generator = TransformersGenerator(model, tokenizer)
        self.settings = settings
        self.seed = seed
        self.rows = rows_for(batch_size, settings)
        self.context = context_of(model, tokenizer)

    def answer(self, asked: Sequence[Example]) -> list[dict[str, Any]]:
        """`completion`, `tokens` and `finish` for each example, or `error` where its prompt can't be completed.

        With several samples a prompt, `completions` is a list of those.
        """
        prompts = as_prompts(asked, self.generator.tokenizer)
        done: dict[str, list[Completion]] = {}
        lengths = [len(prompt.ids) for prompt in prompts]
        for batch in batches_of(lengths, self.rows, self.settings.max_new_tokens, self.context):

            def complete(places: Sequence[int], most: int = batch.max_new_tokens) -> list[list[Completion]]:
                seed = zlib.crc32(f"{self.seed}:{prompts[places[0]].example.id}".encode())
                ids = [prompts[place].ids for place in places]
                return self.generator.complete(ids, self.settings, max_new_tokens=most, seed=seed)

            for places, completions in halved_when_full(complete, batch.places):
                done.update({prompts[at].example.id: one for at, one in zip(places, completions, strict=True)})
        rendered = {prompt.example.id for prompt in prompts}
        return [self._line(done.get(example.id), example.id in rendered) for example in asked]

    def _line(self, completions: list[Completion] | None, rendered: bool) -> dict[str, Any]:
        if completions is None:
            return {"error": "the prompt fills the model's context" if rendered else "the chat template refuses it"}
        lines = [{"completion": one.text, "tokens": one.tokens, "finish": one.finish} for one in completions]
        return lines[0] if self.settings.samples == 1 else {"completions": lines}
