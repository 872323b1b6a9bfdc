"""A reward model: a classifier with one output, its own tokenizer and its own chat template."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from alignkit.errors import Problem, UserError
from alignkit.examples import plain_text
from alignkit.models import load_result
from alignkit.rewards.call import Answer, Call, Failure

if TYPE_CHECKING:
    from alignkit.models import Precision


class ModelReward:
    """Callable: a Call to an Answer with the model's score of each prompt and completion together.

    Args:
        place: a folder (a full model, or an adapter with its base) or a Hub id.
        batch_size: samples at once.
        revision: of a Hub id.
    """

    def __init__(
        self, place: str, precision: Precision | None = None, *, batch_size: int = 8, revision: str | None = None
    ) -> None:
        self.model, self.tokenizer = load_result(place, precision, "sequence_classification", revision=revision)
        self.batch_size = batch_size
        if self.model.config.num_labels != 1:
            message = f"{place} has {self.model.config.num_labels} outputs; a reward model has one"
            raise UserError(Problem(message, field="model"))
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self.context = min(context or 2**31, self.tokenizer.model_max_length)
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)

    @torch.inference_mode()
    def __call__(self, call: Call) -> Answer:
        rows = [self.ids(prompt, said) for prompt, said in zip(call.prompts, call.completions, strict=True)]
        values: list[Any] = [Failure(f"{len(row)} tokens, and the model reads {self.context:,}") for row in rows]
        fitting = sorted((i for i, row in enumerate(rows) if 0 < len(row) <= self.context), key=lambda i: len(rows[i]))
        for first in range(0, len(fitting), self.batch_size):
            places = fitting[first : first + self.batch_size]
            for place, score in zip(places, self.scores([rows[place] for place in places]), strict=True):
                values[place] = score
        return Answer(values)

    def backbone(self) -> Any:
        """A copy of the model without its head, its adapter merged: what a critic starts from."""
        model = copy.deepcopy(self.model)
        return (model.merge_and_unload() if hasattr(model, "peft_config") else model).base_model

    def ids(self, prompt: Any, completion: Any) -> list[int]:
        """Prompt and completion as the reward model was taught to read them: closed by its stop token."""
        tokenizer = self.tokenizer
        if isinstance(prompt, list) and tokenizer.chat_template is not None:
            text = tokenizer.apply_chat_template([*prompt, *completion], tokenize=False)
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])
        if isinstance(prompt, list):
            parts = plain_text({"prompt": prompt, "completion": completion})
            prompt, completion = parts["prompt"], parts["completion"]
        ids = list(tokenizer(prompt + completion)["input_ids"])
        end = tokenizer.eos_token_id
        return ids if end is None or (ids and ids[-1] == end) else [*ids, end]

    def scores(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """The model's output for rows of token ids, padded on the right."""
        device = next(self.model.parameters()).device
        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
        scores: list[float] = self.model(input_ids=ids, attention_mask=mask).logits[:, 0].float().tolist()
        return scores
