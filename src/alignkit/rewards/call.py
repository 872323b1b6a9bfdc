"""What a reward is asked, and what it may answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


@dataclass(frozen=True)
class Call:
    """N samples to be scored together.

    `prompts` and `completions` are texts or lists of messages; `columns` are the data's others, N values each; `state`
    is where training stands (`global_step`, `max_steps`, `epoch`).
    """

    prompts: Sequence[Any]
    completions: Sequence[Any]
    completion_ids: Sequence[Sequence[int]]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    def only(self, places: Sequence[int]) -> Call:
        """The same call with the samples at `places` alone."""
        return Call(
            [self.prompts[place] for place in places],
            [self.completions[place] for place in places],
            [self.completion_ids[place] for place in places],
            {name: [values[place] for place in places] for name, values in self.columns.items()},
            self.state,
        )

    def sample(self, place: int) -> dict[str, Any]:
        """One sample's columns."""
        return {name: values[place] for name, values in self.columns.items()}

    @property
    def trainer_state(self) -> SimpleNamespace:
        """`state` as TRL's functions read it."""
        return SimpleNamespace(**self.state)


@dataclass(frozen=True)
class Failure:
    """Stands for a sample's reward where there is none, and says why."""

    reason: str


Value = float | list[float] | dict[int, float] | None
"""A reward: one number; one for each token of the completion; numbers at the tokens that end its steps (by place); or
None where a function has nothing to say of a sample."""


@dataclass
class Answer:
    """What one reward said of a call: N values or failures, and the logging calls that it made."""

    values: list[Any]
    extra: list[tuple[str, list[Any]]] = field(default_factory=list)
    metrics: list[tuple[str, float]] = field(default_factory=list)


def text_of(said: Any) -> str:
    """A completion's (or a prompt's) text: of messages, what is said in them."""
    if isinstance(said, str):
        return said
    return "\n".join(filter(None, (_content(message) for message in said)))


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""
