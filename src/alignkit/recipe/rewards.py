"""What the online methods (GRPO, RLOO, PPO) add to a recipe: `rewards:`, and fields of `training:`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from alignkit.errors import Problem
from alignkit.recipe.base import Section
from alignkit.recipe.recipe import ReferenceRecipe
from alignkit.recipe.sections import PathText, TrainingSection

BuiltIn = Literal[
    "exact_match",
    "math_answer",
    "numeric",
    "regex",
    "format",
    "length",
    "language",
    "repetition",
    "json_schema",
    "arithmetic_24",
    "code_tests",
]


KINDS = ("name", "file", "model", "from_recipe", "judge")
"""The fields that say where a reward comes from."""


class RewardSection(Section):
    """One reward. It comes from one place: `name`, `file`, `model`, `from_recipe` or `judge`."""

    name: BuiltIn | None = None
    """A built-in function (docs/rewards.md says what each gives)."""
    file: PathText | None = None
    """A function of yours, `rewards.py:polite`, with TRL's signature."""
    model: PathText | None = None
    """A reward model: a folder (full or adapter) or a Hub id; it keeps its own tokenizer and chat template."""
    from_recipe: PathText | None = None
    """A recipe of method `reward`, whose result is the model; it is trained first if its result is not there."""
    judge: str | None = None
    """A model's name at an OpenAI-compatible endpoint, which `options.base_url` names."""
    weight: float = 1.0
    """By how much it counts in the sum."""
    options: dict[str, Any] = Field(default={})
    """Its own keyword arguments."""
    column: str | None = None
    """The data column that it compares with (default: the first of answer, solution, … that the rows have)."""
    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds it may take: a built-in function for a sample (default 10), a file for a call (60), a judge (300)."""
    max_failed: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Stop the run when more than this share of the last 256 samples came back without a usable reward."""

    @property
    def kind(self) -> str:
        """The one field that says where it comes from; "" where none or several are given."""
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        return given[0] if len(given) == 1 else ""

    @property
    def label(self) -> str:
        """What logs and reports call it: the function's name, or the last part of the model's."""
        text = str(getattr(self, self.kind)) if self.kind else "reward"
        if self.kind == "from_recipe":
            return text.rpartition("/")[2].removesuffix(".yaml")
        return text.rpartition(":")[2] if self.kind == "file" else text.rstrip("/").rpartition("/")[2]


def labels(rewards: list[RewardSection]) -> list[str]:
    """A name for each reward, none twice: `regex`, `regex_2`."""
    found: list[str] = []
    for reward in rewards:
        same = sum(name == reward.label or name.startswith(f"{reward.label}_") for name in found)
        found.append(reward.label if not same else f"{reward.label}_{same + 1}")
    return found


class OnlineTraining(TrainingSection):
    """`training:` of a method that learns from its own completions: upstream's fields, and these."""

    max_prompt_length: Annotated[int, Field(ge=1)] | None = None
    """Leave out prompts of more tokens than this, and count them (default: what the model's context has room for)."""
    difficulty_sampling: bool = False
    """Sample prompts less that are always or never solved, by a rolling estimate of each one's success rate."""
    answer: str | None = None
    """How the answer is found in a held-out completion: last_number, boxed, `after:####`, … (default: all of it)."""


class OnlineRecipe(ReferenceRecipe):
    """A recipe whose model learns from rewards for its own completions."""

    training_section: ClassVar[type[TrainingSection]] = OnlineTraining

    rewards: Annotated[list[RewardSection], Field(min_length=1)]
    """What completions are rewarded for; the weighted sum counts."""

    def inputs(self) -> dict[str, str]:
        named = {f"rewards.{index}.from_recipe": reward.from_recipe for index, reward in enumerate(self.rewards)}
        return super().inputs() | {field: path for field, path in named.items() if path is not None}

    def contradictions(self) -> Iterator[Problem]:
        yield from self._origins()
        data, training = self.data, self.training
        if data is None:
            yield self.problem("data", "is missing", "name the prompts with data.train")
            return
        if data.streaming:
            hint = "leave it out: prompts are few, and each is used several times"
            yield self.problem("data.streaming", f"{self.method} does not stream its prompts", hint)
        if data.loss_on is not None:
            hint = "leave it out: what the model writes is learned from"
            yield self.problem("data.loss_on", f"{self.method} has no targets to choose from", hint)
        if (training.num_generations_eval or 1) > 1:
            message = "held-out prompts are answered once, greedily"
            hint = "leave it out; measure samples with a task in `evaluation` (do_sample, num_return_sequences)"
            yield self.problem("training.num_generations_eval", message, hint)
        if self.reference is not None and not training.beta:
            message = "no reference is used while training.beta is 0"
            yield self.problem("reference", message, "leave it out, or say training.beta: 0.04")
        if training.difficulty_sampling and training.dataloader_num_workers:
            message = "what is sampled next depends on what is rewarded now, which workers can't know"
            yield self.problem("training.dataloader_num_workers", message, "leave it out: prompts need no workers")
        yield from self._groups()
        metric = training.metric_for_best_model
        if metric is not None and metric.removeprefix("eval_") not in HELD_OUT:
            hint = f"it is one of {', '.join(HELD_OUT)}"
            yield self.problem("training.metric_for_best_model", f"an evaluation here gives no {metric}", hint)
        elif metric is None and (training.load_best_model_at_end or training.early_stopping_patience):
            hint = "say metric_for_best_model: exact_match and greater_is_better: true"
            yield self.problem("training.metric_for_best_model", "an evaluation here gives no loss", hint)

    def _origins(self) -> Iterator[Problem]:
        for index, reward in enumerate(self.rewards):
            if not reward.kind:
                message = f"a reward comes from one place: {', '.join(KINDS[:-1])} or {KINDS[-1]}"
                yield self.problem(f"rewards.{index}", message, None)
            if reward.column is not None and reward.kind in ("file", "model", "from_recipe"):
                hint = "leave it out"
                what = "every column is handed to the function" if reward.kind == "file" else "the model reads the text"
                yield self.problem(f"rewards.{index}.column", what, hint)

    def _groups(self) -> Iterator[Problem]:
        """Completions of a prompt are compared with each other, so they must share a generation batch."""
        values = self.training.resolved()
        group = values.get("num_generations") or 1
        total = values.get("generation_batch_size")
        if total is None:
            rows = values.get("per_device_train_batch_size") or 1
            steps = values.get("steps_per_generation")
            if steps is None:
                batch = values.get("global_batch_size")
                steps = (batch // rows if batch else values.get("gradient_accumulation_steps")) or 1
            total = rows * steps
        if total % group:
            message = f"{total} completions a generation are not whole groups of num_generations, which is {group}"
            yield self.problem("training.num_generations", message, "say a number that divides it")


HELD_OUT = ("exact_match", "reward", "mean_length", "truncated")
"""What an evaluation of an online method logs, with `eval_` before it; also `rewards/NAME`."""


class CriticSection(Section):
    """PPO's critic: what estimates, at every token, the rewards to come."""

    kind: Literal["model", "head", "trunk", "none"] | None = None
    """`model`: one of its own; `head`: on the policy's backbone; `trunk`: a few layers on the policy's hidden states;
    `none`: advantages are returns (default: trunk with an adapter, else model)."""
    init: Literal["policy", "reward"] | PathText | None = None
    """What a `model` starts from: the policy, the reward model, a model's folder or Hub id, or the folder of a saved
    critic of any kind (default: the reward model where it reads the policy's tokens, else the policy)."""
    layers: Annotated[int, Field(ge=1)] = 2
    """Layers of a trunk."""
    width: Annotated[int, Field(ge=1)] | None = None
    """Width of a trunk (default: the policy's, at most 1024)."""
    detached: bool = False
    """Whether a head leaves the policy's backbone to the policy's own loss."""
