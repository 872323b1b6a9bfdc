"""A local model that answers questions: the judge of `alignkit judge`, where it is no endpoint's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from alignkit.data.templates import ChatTemplate
from alignkit.evaluation.generate import Settings, TransformersGenerator
from alignkit.evaluation.memory import halved_when_full
from alignkit.models import load_result


def ask_locally(recipe: Any, generation: dict[str, Any]) -> Callable[[Sequence[str]], Iterator[tuple[int, str]]]:
    """Loads the recipe's model; the function returned yields (place, reply) of questions, the longest first."""
    settings = Settings.of(generation)
    model, tokenizer = load_result(
        str(recipe.model.model_name_or_path),
        revision=recipe.model.revision,
        quantization=None if recipe.quantization is None else recipe.quantization.arguments(),
        trust_remote_code=recipe.model.trust_remote_code,
        use_safetensors=recipe.model.use_safetensors,
        attn_implementation=recipe.model.attn_implementation,
    )
    generator = TransformersGenerator(model, tokenizer)
    chat = None if tokenizer.chat_template is None else ChatTemplate(tokenizer, "all")

    def tokens(text: str) -> list[int]:
        if chat is None:
            return list(tokenizer(text)["input_ids"])
        said = chat.text([{"role": "user", "content": text}], generation_prompt=True)
        return list(tokenizer(said, add_special_tokens=False)["input_ids"])

    def ask(texts: Sequence[str]) -> Iterator[tuple[int, str]]:
        prompts = [tokens(text) for text in texts]
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))

        def complete(places: Sequence[int]) -> list[str]:
            rows = [prompts[place] for place in places]
            done = generator.complete(rows, settings, max_new_tokens=settings.max_new_tokens, seed=recipe.seed)
            return [completions[0].text for completions in done]

        for first in range(0, len(order), recipe.batch_size):
            for places, replies in halved_when_full(complete, order[first : first + recipe.batch_size]):
                yield from zip(places, replies, strict=True)

    return ask
