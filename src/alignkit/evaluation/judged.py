"""The judge task: the model's answers against others, compared by a judge at an endpoint in both orders.

Asked last of all, once there are answers on both sides: against the baseline, that is when the baseline has answered.
Replies are kept in `judgements.jsonl`; an evaluation that is started again asks only what has no readable verdict yet.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignkit.errors import Problem, RunFailed, UserError
from alignkit.evaluation.generate import Settings
from alignkit.evaluation.generation import Answers, answers_of, shares
from alignkit.evaluation.scores import SAMPLES, Score, replace_lines, scores_of
from alignkit.evaluation.stage import Stage, slices_of
from alignkit.examples import Example
from alignkit.metrics import Measurement
from alignkit.metrics.measurement import mean_of
from alignkit.metrics.preference import length_controlled_win_rate, win_rate
from alignkit.rewards.comparing import (
    ORDERS,
    PROMPT,
    Journal,
    Order,
    ask_all,
    ask_endpoint,
    decide,
    questions,
    verdict_of,
)

if TYPE_CHECKING:
    from alignkit.recipe import EvaluationTask, JudgeSection

TUNED, BASELINE = "tuned", "baseline"
JUDGEMENTS = "judgements.jsonl"
WORTH = {"a": 1.0, "tie": 0.5, "b": 0.0}


@dataclass(frozen=True)
class Duel:
    """One prompt and two answers to it: ours, which is judged, and theirs, which it is held against."""

    line: dict[str, Any]  # our answer's, as samples.jsonl has it
    example: Example
    theirs: str


@dataclass(frozen=True)
class Judged:
    """What the judge said of a duel: how far it prefers ours, and whether its two verdicts agree."""

    duel: Duel
    preference: float
    verdicts: dict[Order, str]

    @property
    def by_position(self) -> bool:
        return decide(self.verdicts["ab"], self.verdicts["ba"]) == "position"


def evaluate(task: EvaluationTask, stage: Stage) -> list[Score]:
    """Complete the task's prompts, and have the judge compare where both sides' answers are there.

    Raises:
        UserError: nothing to compare with.
        RunFailed: the judge gave no verdict at all, or its endpoint is gone; what it has said is kept.
    """
    judge = task.judge
    assert judge is not None
    answers = answers_of(task, stage, Settings.of(task.generation.arguments()))
    about = stage.about(task, answers.split)
    lines = [_line(about, item) for item in answers.items]
    replace_lines(stage.out_dir / SAMPLES, lines, name=task.name, model=stage.label)
    scores = scores_of(shares(answers.items), about, signature=answers.signature)
    if judge.against_run is None and judge.against != "reference":
        if stage.label == TUNED:
            return scores  # the baseline answers next
        ours = _samples_of(stage.out_dir / SAMPLES, task.name)
        if not ours:
            stage.say(f"{task.name}: there is no tuned model's answer to compare with the baseline's")
            return scores
        about, theirs = {**about, "model": TUNED}, {line["id"]: line["prediction"] for line in lines}
    else:
        ours, theirs = lines, _others(task, judge, stage, answers)
    duels = list(_duels(ours, theirs, answers))
    if not duels:
        raise UserError(Problem("no prompt has an answer on both sides", field="judge"))
    judged, unjudged = _ask(task, judge, stage, duels)
    signature = _signature(judge, answers, len(lines) - len(duels), unjudged)
    scores += _scores(task, about, judged, len(duels), signature)
    told = {one.duel.line["id"]: one for one in judged}
    lines = [_told(line, told.get(line["id"]), theirs) for line in ours]
    replace_lines(stage.out_dir / SAMPLES, lines, name=task.name, model=about["model"])
    return scores


# ---------------------------------------------------------------------- the two sides
def _line(about: dict[str, Any], item: Any) -> dict[str, Any]:
    completion = item.completions[0]
    return {
        **about,
        "id": item.prompt.example.id,
        "prompt": item.prompt.text,
        "references": item.prompt.references,
        "prediction": completion.text,
        "metrics": {},
        "tokens": completion.tokens,
        "finish": completion.finish,
    }


def _others(task: EvaluationTask, judge: JudgeSection, stage: Stage, answers: Answers) -> dict[str, str]:
    """Answers by the prompt's id: the data's first references, or those of another run's tuned model."""
    if judge.against_run is None:
        found = {item.prompt.example.id: item.prompt.references for item in answers.items}
        if (without := next((name for name, texts in found.items() if not texts), None)) is not None:
            hint = "map a column: columns: {answer: THEIR_NAME}"
            raise UserError(Problem(f"{without} has no answer to be held against", field="data", hint=hint))
        return {name: texts[0] for name, texts in found.items()}
    path = stage.base_dir / Path(judge.against_run).expanduser() / "evaluation" / SAMPLES
    lines = _samples_of(path, task.name)
    prompts = {item.prompt.example.id: item.prompt.text for item in answers.items}
    other = next((line for line in lines if prompts.get(line["id"], line["prompt"]) != line["prompt"]), None)
    if other is not None:
        message = f"{path} was made with another prompt for {other['id']}: the two answered different questions"
        raise UserError(Problem(message, field="judge.against_run"))
    if not lines:
        message = f"{path} has no answer of a tuned model in a task named {task.name}"
        raise UserError(Problem(message, field="judge.against_run", hint="give both tasks the same name"))
    return {line["id"]: line["prediction"] for line in lines}


def _samples_of(path: Path, name: str) -> list[dict[str, Any]]:
    """The tuned model's lines of a samples.jsonl in the task of that name, one a prompt."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    mine = [line for line in lines if line.get("name") == name and line.get("model") == TUNED]
    return list({line["id"]: line for line in mine if "prediction" in line}.values())


def _duels(ours: Sequence[dict[str, Any]], theirs: dict[str, str], answers: Answers) -> Iterator[Duel]:
    examples = {item.prompt.example.id: item.prompt.example for item in answers.items}
    for line in ours:
        if line["id"] in theirs and line["id"] in examples:
            yield Duel(line, examples[line["id"]], theirs[line["id"]])


# ---------------------------------------------------------------------- asking
def _ask(task: EvaluationTask, judge: JudgeSection, stage: Stage, duels: Sequence[Duel]) -> tuple[list[Judged], int]:
    """What the judge said of each duel that it gave two verdicts on, and the number of the others."""
    path = PROMPT if judge.prompt_path is None else stage.base_dir / Path(judge.prompt_path).expanduser()
    texts = [(duel.line["prompt"], duel.line["prediction"], duel.theirs) for duel in duels]
    shape = [judge.model, judge.temperature, judge.max_tokens]
    asked = list(questions(texts, path.read_text(encoding="utf-8"), shape))
    stage.out_dir.mkdir(parents=True, exist_ok=True)
    journal = Journal(stage.out_dir / JUDGEMENTS)
    waiting = [one for one in asked if verdict_of(journal.replies.get(one.key)) is None]
    if done := len(asked) - len(waiting):
        stage.say(f"{task.name}: {done:,} of {len(asked):,} comparisons were made before")
    failures: Counter[str] = Counter()
    if waiting:
        ask = ask_endpoint(judge.model, judge, temperature=judge.temperature, max_tokens=judge.max_tokens)
        failures = ask_all(ask, waiting, journal, lambda text: stage.say(f"{task.name}: {text}"))
    found: list[dict[Order, str]] = [{} for _ in duels]
    for one in asked:
        if (verdict := verdict_of(journal.replies.get(one.key))) is not None:
            found[one.pair][one.order] = verdict
    judged = [
        Judged(duel, (WORTH[said["ab"]] + 1 - WORTH[said["ba"]]) / 2, said)
        for duel, said in zip(duels, found, strict=True)
        if len(said) == len(ORDERS)
    ]
    unjudged = len(duels) - len(judged)
    why = "; ".join(f"{count} × {reason}" for reason, count in failures.most_common(3))
    if unjudged * 2 > len(duels):
        raise RunFailed(
            f"{task.name}: the judge gave no two verdicts on {unjudged:,} of {len(duels):,} answers ({why}); what it "
            f"said is kept in {journal.path}: alignkit eval asks only the rest"
        )
    if unjudged:
        stage.say(f"{task.name}: {unjudged:,} of {len(duels):,} answers were not judged and are left out ({why})")
    return judged, unjudged


# ---------------------------------------------------------------------- scoring
def _signature(judge: JudgeSection, answers: Answers, unpaired: int, unjudged: int) -> str:
    against = "run" if judge.against_run is not None else judge.against or BASELINE
    parts = [f"judge:{judge.model}", "orders:both", f"against:{against}", "lengths:characters", answers.signature]
    if judge.prompt_path is not None:
        parts.append(f"prompt:{Path(judge.prompt_path).name}")
    parts += [f"unpaired:{unpaired}"] if unpaired else []
    return "|".join(parts + ([f"unjudged:{unjudged}"] if unjudged else []))


def _measured(judged: Sequence[Judged]) -> list[Measurement]:
    preferences = [one.preference for one in judged]
    ours, theirs = [len(one.duel.line["prediction"]) for one in judged], [len(one.duel.theirs) for one in judged]
    position = np.array([one.by_position for one in judged])
    version = "version:alignkit-1"
    return [
        win_rate(preferences),
        length_controlled_win_rate(preferences, ours, theirs),
        mean_of("position_share", position, version, higher_is_better=False, right_or_wrong=True),
    ]


def _scores(
    task: EvaluationTask, about: dict[str, Any], judged: Sequence[Judged], asked: int, signature: str
) -> list[Score]:
    unjudged = np.arange(asked) >= len(judged)
    share = mean_of("unjudged_share", unjudged, "version:alignkit-1", higher_is_better=False, right_or_wrong=True)
    scores = scores_of([*_measured(judged), share], about, signature=signature)
    for value, places in slices_of(task, [one.duel.example for one in judged]).items():
        where = {**about, "slice": {"column": task.slice_by, "value": value}}
        scores += scores_of(_measured([judged[place] for place in places]), where, signature=signature)
    return scores


def _told(line: dict[str, Any], judged: Judged | None, theirs: dict[str, str]) -> dict[str, Any]:
    """A line of samples.jsonl with what it was held against, and what the judge said of it."""
    if line["id"] in theirs:
        line = {**line, "references": [theirs[line["id"]]]}
    if judged is None:
        return line
    return {**line, "metrics": {"win_rate": judged.preference}, "verdicts": judged.verdicts}
