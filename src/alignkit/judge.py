"""`alignkit judge`: pairs compared by another model, in both orders; what comes of it is a preference file.

Each reply is kept in `judgements.jsonl` as soon as it is there. Starting the same command again asks only what has no
readable reply yet, so an endpoint that fails, stalls or talks nonsense loses nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from alignkit import launch, statistics
from alignkit.console import Voice, logged_to
from alignkit.errors import Problem, RunFailed, UserError
from alignkit.examples import Dropped, Example, local_files, read_source
from alignkit.methods.judge import JudgeRecipe
from alignkit.metrics.preference import win_rate
from alignkit.rewards.call import Failure
from alignkit.rewards.judge import Judge
from alignkit.runs import Run

Order = Literal["ab", "ba"]
Ask = Callable[[Sequence[str]], Iterator[tuple[int, "str | Failure"]]]
"""Questions -> (place, reply) of each, in any order, as replies come."""
ORDERS: tuple[Order, Order] = ("ab", "ba")
VERDICT = re.compile(r"^\s*\**verdict\**\s*:\s*\**\s*(a|b|tie)\s*\**\s*\.?\s*$", re.IGNORECASE | re.MULTILINE)
GIVE_UP_AFTER = 20  # failures in a row: the endpoint is gone, and asking on would only cost time
PROMPT = Path(__file__).parent / "assets" / "judge" / "compare.txt"
MOST_TOKENS = 64


@dataclass(frozen=True)
class Question:
    """One comparison in one order; `key` is the same for the same judge, prompt and answers."""

    pair: int
    order: Order
    text: str
    key: str


def judge(recipe: JudgeRecipe) -> dict[str, Any]:
    """Compare the recipe's pairs; preferences.jsonl, ties.jsonl and summary.json in `output_dir`. Returns the summary.

    Raises:
        UserError: the recipe's data or prompt can't be used.
        RunFailed: some comparisons have no readable reply; what has is kept, and the next start goes on from there.
    """
    launch.set_environment()
    pairs, dropped = _pairs(recipe)
    questions = list(_questions(recipe, pairs))
    folder = Path(recipe.output_dir)
    run = Run(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with logged_to(run.log_path):
        say = Voice()
        journal = _Journal(folder / "judgements.jsonl")
        waiting = [one for one in questions if verdict_of(journal.replies.get(one.key)) is None]
        if done := len(questions) - len(waiting):
            say(f"{done:,} of {len(questions):,} comparisons were made before")
        say.release()
        failures = _ask_all(_asker(recipe, say), waiting, journal, say) if waiting else Counter()
    summary = _write(recipe, folder, pairs, questions, journal.replies, dropped)
    left = sum(verdict_of(journal.replies.get(one.key)) is None for one in questions)
    if left:
        why = "; ".join(f"{count} × {reason}" for reason, count in failures.most_common(3))
        raise RunFailed(
            f"{left:,} of {len(questions):,} comparisons have no readable verdict ({why}); the others are kept in "
            f"{folder}: the same command asks only these again"
        )
    return summary


def verdict_of(reply: str | None) -> str | None:
    """`a`, `b` or `tie`, where a reply says exactly one of them in a line of its own; None for anything else."""
    found = {match.lower() for match in VERDICT.findall(reply or "")}
    return found.pop() if len(found) == 1 else None


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
    template = path.read_text(encoding="utf-8")
    asked = json.dumps([recipe.model.model_name_or_path, recipe.generation.given()], sort_keys=True)
    for number, pair in enumerate(pairs):
        sides = {"ab": ("chosen", "rejected"), "ba": ("rejected", "chosen")}
        for order in ORDERS:
            first, second = (_said(pair.data[word]) for word in sides[order])
            values = {"prompt": _said(pair.data["prompt"]), "first": first, "second": second}
            # Not str.format: an answer with braces in it is no template.
            text = re.sub(r"\{(\w+)\}", lambda match, v=values: v.get(match[1], match[0]), template)  # type: ignore[misc]
            yield Question(number, order, text, hashlib.sha256((asked + text).encode()).hexdigest()[:24])


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
    one = recipe.endpoint
    client = Judge(
        name,
        base_url=one.base_url,
        api_key_env=one.api_key_env,
        temperature=float(fields.get("temperature", 0.0)),
        max_tokens=int(fields.get("max_new_tokens", MOST_TOKENS)),
        concurrency=one.concurrency,
        request_timeout=one.request_timeout,
        retries=one.retries,
    )

    def ask(texts: Sequence[str]) -> Iterator[tuple[int, str | Failure]]:
        with ThreadPoolExecutor(one.concurrency) as pool:
            futures = {pool.submit(client.ask, text): place for place, text in enumerate(texts)}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    return ask


def _ask_all(ask: Ask, waiting: Sequence[Question], journal: _Journal, say: Voice) -> Counter[str]:
    """Ask what is waiting, keeping each reply; why there was none, counted."""
    failures: Counter[str] = Counter()
    in_a_row = 0
    for number, (place, reply) in enumerate(ask([one.text for one in waiting]), 1):
        if isinstance(reply, Failure):
            failures[str(reply.reason)] += 1
            in_a_row += 1
            if in_a_row >= GIVE_UP_AFTER:
                break
        else:
            in_a_row = 0
            journal.add(waiting[place], reply)
            if verdict_of(reply) is None:
                failures["a reply without a verdict"] += 1
        if number % 100 == 0 or number == len(waiting):
            say(f"{number:,} of {len(waiting):,} comparisons")
    return failures


class _Journal:
    """Replies by question, each written down before the next is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.replies: dict[str, str] = {}
        self._lock = threading.Lock()
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        if text and not text.endswith("\n"):  # a kill cut the last line short
            path.write_text(text + "\n", encoding="utf-8")
        for line in text.split("\n"):
            try:
                record = json.loads(line)
                self.replies[str(record["key"])] = str(record["reply"])
            except (ValueError, KeyError, TypeError):
                continue

    def add(self, question: Question, reply: str) -> None:
        record = {"key": question.key, "pair": question.pair, "order": question.order, "reply": reply}
        with self._lock:
            self.replies[question.key] = reply
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


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


def decide(forward: str | None, backward: str | None) -> str:
    """What two verdicts come to: `chosen` or `rejected` (the data's names for the answers), `tie`, or `position`.

    Forward, the data's chosen answer stands first (A); backward, it stands second (B).
    """
    one = {"a": "chosen", "b": "rejected"}.get(str(forward), "tie")
    other = {"b": "chosen", "a": "rejected"}.get(str(backward), "tie")
    return one if one == other else "position"


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
