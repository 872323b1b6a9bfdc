"""`alignkit judge`: pairs compared by another model, in both orders; what comes of it is a preference file.

Each reply is kept in `judgements.jsonl` as soon as it is there. Starting the same command again asks only what has no
readable reply yet, so an endpoint that fails, stalls or talks nonsense loses nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignkit import launch, statistics
from alignkit.console import Voice, logged_to
from alignkit.errors import Problem, RunFailed, UserError
from alignkit.examples import Dropped, Example, local_files, read_source
from alignkit.methods.judge import JudgeRecipe
from alignkit.metrics.preference import win_rate
from alignkit.recipe import judging
from alignkit.rewards import comparing
from alignkit.rewards.comparing import ORDERS, PROMPT, Ask, Journal, Order, Question, decide, verdict_of
from alignkit.runs import Run

MOST_TOKENS = 64


def judge(recipe: JudgeRecipe) -> dict[str, Any]:
    """Compare the recipe's pairs; preferences.jsonl, ties.jsonl and summary.json in `output_dir`. Returns the summary.

    Raises:
        UserError: the recipe's data or prompt can't be used.
        RunFailed: some comparisons have no readable reply; what has is kept, and the next start goes on from there.
    """
    launch.set_environment()
    if recipe.endpoint is not None and (found := list(judging.key_problems(recipe.endpoint))):
        raise UserError([recipe.problem(f"endpoint.{name}", what, hint) for name, what, hint in found])
    pairs, dropped = _pairs(recipe)
    questions = list(_questions(recipe, pairs))
    folder = Path(recipe.output_dir)
    run = Run(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with logged_to(run.log_path):
        say = Voice()
        journal = Journal(folder / "judgements.jsonl")
        waiting = [one for one in questions if verdict_of(journal.replies.get(one.key)) is None]
        if done := len(questions) - len(waiting):
            say(f"{done:,} of {len(questions):,} comparisons were made before")
        say.release()
        failures = comparing.ask_all(_asker(recipe, say), waiting, journal, say) if waiting else Counter()
    summary = _write(recipe, folder, pairs, questions, journal.replies, dropped)
    left = sum(verdict_of(journal.replies.get(one.key)) is None for one in questions)
    if left:
        why = "; ".join(f"{count} × {reason}" for reason, count in failures.most_common(3))
        raise RunFailed(
            f"{left:,} of {len(questions):,} comparisons have no readable verdict ({why}); the others are kept in "
            f"{folder}: the same command asks only these again"
        )
    return summary


# ---------------------------------------------------------------------- what is asked
def _pairs(recipe: JudgeRecipe) -> tuple[list[Example], Counter[str]]:
    assert recipe.data is not None
    pairs: list[Example] = []
    dropped: Counter[str] = Counter()
    for index, source in enumerate(recipe.data.train):
        rows = None
        if local_files(source, recipe.base_dir) is None:
            from alignkit.evaluation.stage import hub_rows

            rows = hub_rows(source)
        try:
            items = list(read_source(source, recipe.base_dir, ("preference",), rows)[1])
        except UserError as error:
            raise UserError([_placed(recipe, index, one) for one in error.problems]) from error
        dropped.update(item.reason for item in items if isinstance(item, Dropped))
        pairs += [item for item in items if not isinstance(item, Dropped)]
    if not pairs:
        raise UserError(recipe.problem("data.train", "no pair is left to compare"))
    return pairs, dropped


def _placed(recipe: JudgeRecipe, index: int, problem: Problem) -> Problem:
    if problem.file is not None:
        return problem
    field = f"data.train.{index}" + (f".{problem.field}" if problem.field else "")
    return recipe.problem(field, problem.message, problem.hint)


def _questions(recipe: JudgeRecipe, pairs: Sequence[Example]) -> Iterator[Question]:
    path = PROMPT if recipe.prompt_path is None else recipe.base_dir / Path(recipe.prompt_path).expanduser()
    texts = [tuple(_said(pair.data[word]) for word in ("prompt", "chosen", "rejected")) for pair in pairs]
    judge = [recipe.model.model_name_or_path, recipe.generation.given()]
    return comparing.questions(texts, path.read_text(encoding="utf-8"), judge)  # type: ignore[arg-type]


def _said(value: Any) -> str:
    """A text as it is; one message's text; of a chat each turn with whose it is."""
    if isinstance(value, str):
        return value
    if len(value) == 1:
        return str(value[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in value)


# ---------------------------------------------------------------------- asking
def _asker(recipe: JudgeRecipe, say: Voice) -> Ask:
    name, fields = str(recipe.model.model_name_or_path), recipe.generation.given()
    if recipe.endpoint is None:
        from alignkit.evaluation.asking import ask_locally

        say("loading the judge")
        return ask_locally(recipe, {"max_new_tokens": MOST_TOKENS, **fields})
    return comparing.ask_endpoint(
        name,
        recipe.endpoint,
        temperature=float(fields.get("temperature", 0.0)),
        max_tokens=int(fields.get("max_new_tokens", MOST_TOKENS)),
    )


# ---------------------------------------------------------------------- what comes of it
def _write(
    recipe: JudgeRecipe,
    folder: Path,
    pairs: Sequence[Example],
    questions: Sequence[Question],
    replies: Mapping[str, str],
    dropped: Counter[str],
) -> dict[str, Any]:
    found: list[dict[Order, str | None]] = [{} for _ in pairs]
    for one in questions:
        found[one.pair][one.order] = verdict_of(replies.get(one.key))
    decided = [None if None in (each["ab"], each["ba"]) else decide(each["ab"], each["ba"]) for each in found]
    kept, ties = [], []
    for pair, decision in zip(pairs, decided, strict=True):
        if decision in ("chosen", "rejected"):
            kept.append(_preference(pair, str(decision)))
        elif decision is not None and (decision == "tie" or recipe.when_unsure == "tie"):
            ties.append({"id": pair.id, "prompt": pair.data["prompt"], "why": decision,
                         "responses": [pair.data["chosen"], pair.data["rejected"]]})  # fmt: skip
    _lines(folder / "preferences.jsonl", kept)
    _lines(folder / "ties.jsonl", ties)
    both = [each for each, decision in zip(found, decided, strict=True) if decision is not None]
    summary = {
        "judge": recipe.model.model_name_or_path,
        "pairs": len(pairs),
        "dropped": dict(dropped),
        "compared": len(both),
        "preferences": len(kept),
        "ties": decided.count("tie"),
        "position_decided": decided.count("position"),
        "agreement_rate": _rate([each != "position" for each in decided if each is not None]),
        "first_position_rate": _rate([each[order] == "a" for each in both for order in ORDERS if each[order] != "tie"]),
        "agrees_with_data": _rate([each == "chosen" for each in decided if each in ("chosen", "rejected")]),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return summary


def _preference(pair: Example, better: str) -> dict[str, Any]:
    worse = "rejected" if better == "chosen" else "chosen"
    rest = {key: value for key, value in pair.data.items() if key in ("tools", "chat_template_kwargs")}
    return {
        "id": pair.id,
        "prompt": pair.data["prompt"],
        "chosen": pair.data[better],
        "rejected": pair.data[worse],
        **rest,
    }


def _rate(values: Sequence[bool]) -> dict[str, Any] | None:
    """A share with its 95 % interval; None of nothing."""
    if not values:
        return None
    measured = win_rate([float(value) for value in values])
    ((low, high),) = statistics.intervals([measured])
    return {"value": measured.value, "ci95": [low, high], "n": len(values)}


def _lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), encoding="utf-8")
