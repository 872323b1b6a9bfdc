"""`alignkit reward-test`: a recipe's rewards over right, wrong and adversarial answers, before anything is trained."""

from __future__ import annotations

import statistics
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from alignkit.errors import UserError
from alignkit.examples import Dropped, Example, local_files, read_source
from alignkit.metrics.answers import find_numbers
from alignkit.metrics.references import references_of
from alignkit.recipe.rewards import OnlineRecipe
from alignkit.rewards.build import build_rewards
from alignkit.rewards.call import Call, text_of
from alignkit.rewards.functions.arithmetic import solve
from alignkit.rewards.mixture import Mixture, Scored

SHAPES = ("prompt_only",)
PROMPTS = 32
LONG = 400  # words of the very long answer
CHARACTERS_A_TOKEN = 4  # no tokenizer is loaded: completions are counted roughly
FORMATS: dict[str, Callable[[str], str]] = {
    "right, alone": str,
    "right, boxed": lambda answer: f"So it is $\\boxed{{{answer}}}$.",
    "right, after ####": lambda answer: f"Step by step.\n#### {answer}",
    "right, 'the answer is'": lambda answer: f"Step by step. The answer is {answer}.",
    "right, in tags": lambda answer: f"<think>Step by step.</think><answer>{answer}</answer>",
}
RIGHT, WRONG, GAMED = "right", "wrong", "gamed"


@dataclass(frozen=True)
class Case:
    """One kind of answer: a completion for each prompt, or None where a prompt gives none."""

    name: str
    kind: str  # RIGHT, WRONG or GAMED
    completions: list[str | None]


@dataclass
class Outcome:
    """What one reward said of a case: the mean, and the share of samples to which it gave none."""

    case: Case
    values: dict[str, list[float | None]]  # reward's name (and "total") -> N

    def mean(self, name: str) -> float | None:
        found = [value for value in self.values[name] if value is not None]
        return statistics.fmean(found) if found else None


@dataclass
class Trial:
    """Everything that was found."""

    names: list[str]
    prompts: int
    outcomes: list[Outcome]
    seconds: dict[str, float]  # a call of all prompts
    failures: dict[str, list[str]]
    warnings: list[str]

    def plain(self) -> dict[str, Any]:
        return {
            "prompts": self.prompts,
            "cases": [
                {"case": one.case.name, "kind": one.case.kind, **{name: one.mean(name) for name in self.columns}}
                for one in self.outcomes
            ],
            "seconds_a_call": {name: round(value, 4) for name, value in self.seconds.items()},
            "failures": self.failures,
            "warnings": self.warnings,
        }

    @property
    def columns(self) -> list[str]:
        return [*self.names, "total"] if len(self.names) > 1 else self.names


def try_rewards(recipe: OnlineRecipe, results: Mapping[str, str]) -> Trial:
    """Build the recipe's rewards and ask them. Raises UserError for what can't be read or loaded.

    Args:
        results: where the results of the recipes lie that `rewards[].from_recipe` names.
    """
    samples = _samples(recipe)
    mixture = build_rewards(recipe, token_level=True, results=results)
    for reward in mixture.rewards:
        reward.max_failed = float("inf")  # here failures are what is asked for
    try:
        return _tried(mixture, samples)
    finally:
        mixture.close()


def _samples(recipe: OnlineRecipe) -> list[dict[str, Any]]:
    """The first prompts of the recipe's training data, with their columns."""
    assert recipe.data is not None
    found: list[dict[str, Any]] = []
    for examples in _sources(recipe):
        kept = (dict(one.data) | {"example_id": one.id} for one in examples if not isinstance(one, Dropped))
        found += islice(kept, PROMPTS - len(found))
    if not found:
        raise UserError(recipe.problem("data.train", "no prompt is left to test with"))
    return found


def _sources(recipe: OnlineRecipe) -> Iterator[Iterator[Example | Dropped]]:
    assert recipe.data is not None
    if all(local_files(source, recipe.base_dir) is not None for source in recipe.data.train):
        yield from (read_source(source, recipe.base_dir, SHAPES)[1] for source in recipe.data.train)
        return
    from alignkit.data.sources import open_sources  # of the Hub: seconds of imports

    yield from (opened.read(SHAPES)[1] for opened in open_sources(recipe, "train"))


# ---------------------------------------------------------------------- the answers
def cases(samples: Sequence[dict[str, Any]]) -> list[Case]:
    """Right answers in every format (where the data say what is right), wrong ones, and what a cheat would write."""
    full = [_right(sample) for sample in samples]
    short = [None if answer is None else _short(answer) for answer in full]
    made = []
    if any(answer is not None for answer in full):
        made.append(Case("right, as in the data", RIGHT, full))
        made += [
            Case(name, RIGHT, [None if answer is None else form(answer) for answer in short])
            for name, form in FORMATS.items()
            if name != "right, alone" or short != full
        ]
        made.append(Case("wrong: another prompt's", WRONG, _others(full)))
        made.append(Case("wrong: a number off", WRONG, [None if answer is None else _off(answer) for answer in short]))
    prompts = [text_of(sample["prompt"]) for sample in samples]
    everything = " ".join(dict.fromkeys(answer for answer in short if answer is not None))
    made += [
        Case("empty", GAMED, [""] * len(samples)),
        Case("very long", GAMED, ["I think that it is so, and so on. " * (LONG // 9)] * len(samples)),
        Case("the prompt repeated", GAMED, list(prompts)),
        Case("form without content", GAMED, ["<think></think><answer></answer>\\boxed{}"] * len(samples)),
    ]
    if everything:
        made.append(Case("every answer at once", GAMED, [everything] * len(samples)))
    return made


def _right(sample: dict[str, Any]) -> str | None:
    """A right answer: the data's own, or a puzzle's solution."""
    numbers = sample.get("numbers") or sample.get("nums")
    if isinstance(numbers, list) and numbers and len(numbers) <= 5:
        return solve([int(number) for number in numbers], int(sample.get("target") or 24))
    found = references_of(sample)
    return found[0] if found else None


def _short(answer: str) -> str:
    """The final answer of a worked solution."""
    if "####" in answer:
        return answer.rpartition("####")[2].strip()
    numbers = find_numbers(answer)
    return numbers[-1] if len(answer.split()) > 8 and numbers else answer.strip()


def _off(answer: str) -> str:
    """The answer with its last digit changed; words reversed where there is none."""
    for place in range(len(answer) - 1, -1, -1):
        if answer[place].isdigit():
            return f"{answer[:place]}{(int(answer[place]) + 1) % 10}{answer[place + 1 :]}"
    return answer[::-1] if answer != answer[::-1] else answer + "?"


def _others(answers: list[str | None]) -> list[str | None]:
    """Each prompt is given the next prompt's answer that differs from its own."""
    found: list[str | None] = []
    for place, answer in enumerate(answers):
        later = [*answers[place + 1 :], *answers[:place]]
        found.append(next((other for other in later if other is not None and other != answer), None))
    return found


# ---------------------------------------------------------------------- asking
def _tried(mixture: Mixture, samples: list[dict[str, Any]]) -> Trial:
    names, outcomes = mixture.names, []
    seconds = dict.fromkeys(names, 0.0)
    failures: dict[str, list[str]] = {}
    for case in cases(samples):
        places = [place for place, text in enumerate(case.completions) if text is not None]
        if not places:
            continue
        call = _call([samples[place] for place in places], [str(case.completions[place]) for place in places])
        values: dict[str, list[float | None]] = {}
        for reward in mixture.rewards:
            began = time.perf_counter()
            scored = Mixture([reward], token_level=True).score(call)[0]
            seconds[reward.name] = max(seconds[reward.name], time.perf_counter() - began)
            values[reward.name] = scored.values
            _note(failures.setdefault(reward.name, []), case, scored)
        values["total"] = _totals(values, mixture)
        outcomes.append(Outcome(case, values))
    trial = Trial(names, len(samples), outcomes, seconds, {k: v for k, v in failures.items() if v}, [])
    trial.warnings = list(warnings(trial))
    return trial


def _call(samples: list[dict[str, Any]], texts: list[str]) -> Call:
    keys = list(dict.fromkeys(key for sample in samples for key in sample if key not in ("prompt", "completion")))
    completions: list[Any] = [
        [{"role": "assistant", "content": text}] if isinstance(sample["prompt"], list) else text
        for sample, text in zip(samples, texts, strict=True)
    ]
    columns = {key: [sample.get(key) for sample in samples] for key in keys}
    ids = [[0] * max(1, len(text) // CHARACTERS_A_TOKEN) for text in texts]
    state = {"global_step": 0, "max_steps": 1, "epoch": 0.0}
    return Call([sample["prompt"] for sample in samples], completions, ids, columns, state)


def _note(found: list[str], case: Case, scored: Scored) -> None:
    from alignkit.rewards.call import Failure

    reasons = [value.reason for value in scored.answer.values if isinstance(value, Failure)]
    if reasons:
        found.append(f"{case.name}: {len(reasons)} of {len(scored.values)} samples: {reasons[0]}")


def _totals(values: dict[str, list[float | None]], mixture: Mixture) -> list[float | None]:
    totals: list[float | None] = []
    for row in zip(*(values[name] for name in mixture.names), strict=True):
        pairs = [(value, weight) for value, weight in zip(row, mixture.weights, strict=True) if value is not None]
        totals.append(sum(value * weight for value, weight in pairs) if pairs else None)
    return totals


# ---------------------------------------------------------------------- what looks wrong
def warnings(trial: Trial) -> Iterator[str]:
    """What a training run would suffer from."""
    for name in trial.names:
        every = [value for one in trial.outcomes for value in one.values[name] if value is not None]
        if not every:
            yield f"{name} gave no reward to any answer"
        elif max(every) - min(every) < 1e-9:
            yield f"{name} is constant ({every[0]:g} for every answer): nothing can be learned from it"
    for name, lines in trial.failures.items():
        yield f"{name} failed on {lines[0]}"
    yield from _right_against_wrong(trial)
    yield from _length(trial)


def _right_against_wrong(trial: Trial) -> Iterator[str]:
    means = {kind: [(one.case.name, one.mean("total")) for one in trial.outcomes if one.case.kind == kind]
             for kind in (RIGHT, WRONG, GAMED)}  # fmt: skip
    right = [(name, mean) for name, mean in means[RIGHT] if mean is not None]
    others = [(name, mean) for kind in (WRONG, GAMED) for name, mean in means[kind] if mean is not None]
    if not right:
        yield "the data name no right answers: only wrong and adversarial ones were tried"
        return
    (best_name, best), lowest = max(right, key=lambda pair: pair[1]), min(mean for _, mean in others)
    for _, mean in means[RIGHT][:1]:
        if mean is not None and mean <= lowest + 0.5 * (best - lowest):
            yield f"the data's own right answers score low: {mean:.3g} (best: {best:.3g}, {best_name})"
    for name, mean in others:
        if mean >= best - 0.1 * (best - lowest) - 1e-9:
            yield f"{name!r} scores as high as a right answer: {mean:.3g} against {best:.3g}"
    for name, mean in means[RIGHT][1:]:
        if mean is not None and best > lowest and mean <= lowest + 0.1 * (best - lowest):
            yield f"a right answer in this form scores like a wrong one: {name} ({mean:.3g})"


def _length(trial: Trial) -> Iterator[str]:
    """A reward that grows with length whatever is said."""
    for name in trial.names:
        pairs = [
            (float(len(text)), value)
            for one in trial.outcomes
            if one.case.kind != RIGHT
            for text, value in zip((t for t in one.case.completions if t is not None), one.values[name], strict=True)
            if value is not None
        ]
        lengths, values = [length for length, _ in pairs], [value for _, value in pairs]
        if len(pairs) < 8 or len(set(lengths)) < 2 or len(set(values)) < 2:
            continue
        correlation = statistics.correlation(_ranks(lengths), _ranks(values))
        if abs(correlation) > 0.6:
            word = "longer" if correlation > 0 else "shorter"
            yield f"{name} rewards {word} answers, right or not (rank correlation {correlation:+.2f})"


def _ranks(values: Sequence[float]) -> list[float]:
    """Each value's place in order; equal values share the mean of theirs."""
    order = sorted(values)
    return [(bisect_left(order, value) + bisect_right(order, value)) / 2 for value in values]


def as_text(trial: Trial) -> str:
    """The table for a terminal."""
    heads = ["answers", *trial.columns]
    rows = [
        [one.case.name, *("–" if (mean := one.mean(name)) is None else f"{mean:.3f}" for name in trial.columns)]
        for one in trial.outcomes
    ]
    rows.append(["ms a sample", *(f"{1000 * trial.seconds[name] / trial.prompts:.2f}" for name in trial.names)])
    rows[-1] += [""] * (len(heads) - len(rows[-1]))
    widths = [max(len(row[place]) for row in [heads, *rows]) for place in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(width) if not place else cell.rjust(width)
                  for place, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in [heads, *rows]
    ]  # fmt: skip
    lines.append(f"mean reward over {trial.prompts} prompts; – means no reward")
    lines += [f"warning: {text}" for text in trial.warnings]
    return "\n".join(lines)
