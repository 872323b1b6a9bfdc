"""A reward model behind `alignkit predict`: the reward of each row's answer, or of both answers of a pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignkit.data.pairs import WholeTexts, side_of
from alignkit.data.render import Rendered
from alignkit.evaluation.likelihood import context_of
from alignkit.evaluation.predictor import loaded
from alignkit.evaluation.rewards import rewards_of
from alignkit.examples import Example


def load(result: Any) -> RewardPredictor:
    """The reward model behind an `alignkit.predict.Result`. Raises UserError."""
    model, tokenizer = loaded(result)
    length = None if result.recipe is None else result.recipe.training.resolved().get("max_length")
    return RewardPredictor(model, tokenizer, length or context_of(model, tokenizer))


class RewardPredictor:
    """Answers rows with rewards; what is longer than `max_length` is cut as it was in training."""

    def __init__(self, model: Any, tokenizer: Any, max_length: int | None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.renderer = WholeTexts(tokenizer, max_length)

    def answer(self, asked: Sequence[Example]) -> list[dict[str, Any]]:
        """`reward`; of a pair `chosen_reward` and `rejected_reward`; `error` where a text can't be rendered."""
        names, sides, places = [], [], []
        for place, example in enumerate(asked):
            pair = "chosen" in example.data
            for word in ("chosen", "rejected") if pair else ("",):
                names.append(f"{word}_reward" if pair else "reward")
                sides.append(side_of(example, word) if pair else example)
                places.append(place)
        rendered = self.renderer.render(sides)
        whole = [number for number, one in enumerate(rendered) if isinstance(one, Rendered)]
        ids = [one.input_ids.tolist() for one in rendered if isinstance(one, Rendered)]
        rewards = dict(zip(whole, rewards_of(self.model, ids, self.tokenizer.pad_token_id or 0), strict=True))
        lines: list[dict[str, Any]] = [{} for _ in asked]
        for number, (name, place, one) in enumerate(zip(names, places, rendered, strict=True)):
            lines[place] |= {name: round(float(rewards[number]), 6)} if number in rewards else {"error": one.reason}  # type: ignore[union-attr]
        return lines
