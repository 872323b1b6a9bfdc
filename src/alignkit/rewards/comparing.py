"""Two answers to the same request, compared by a judge in both orders. No torch: a judge may be an endpoint.

Each reply is kept in a journal as soon as it is there; what has a readable reply is not asked again.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alignkit.rewards.call import Failure
from alignkit.rewards.judge import Judge

if TYPE_CHECKING:
    from alignkit.recipe import EndpointSection

Order = Literal["ab", "ba"]
Ask = Callable[[Sequence[str]], Iterator[tuple[int, "str | Failure"]]]
"""Questions -> (place, reply) of each, in any order, as replies come."""
ORDERS: tuple[Order, Order] = ("ab", "ba")
VERDICT = re.compile(r"^\s*\**verdict\**\s*:\s*\**\s*(a|b|tie)\s*\**\s*\.?\s*$", re.IGNORECASE | re.MULTILINE)
GIVE_UP_AFTER = 20  # failures in a row: the endpoint is gone, and asking on would only cost time
PROMPT = Path(__file__).parents[1] / "assets" / "judge" / "compare.txt"


@dataclass(frozen=True)
class Question:
    """One comparison in one order; `key` is the same for the same judge, prompt and answers."""

    pair: int
    order: Order
    text: str
    key: str


def questions(pairs: Sequence[tuple[str, str, str]], template: str, judge: Any) -> Iterator[Question]:
    """Both orders of each (request, one answer, other answer). `judge`: whatever shapes its replies, JSON-able."""
    asked = json.dumps(judge, sort_keys=True)
    for number, (request, one, other) in enumerate(pairs):
        for order in ORDERS:
            first, second = (one, other) if order == "ab" else (other, one)
            values = {"prompt": request, "first": first, "second": second}
            # Not str.format: an answer with braces in it is no template.
            text = re.sub(r"\{(\w+)\}", lambda match, v=values: v.get(match[1], match[0]), template)  # type: ignore[misc]
            yield Question(number, order, text, hashlib.sha256((asked + text).encode()).hexdigest()[:24])


def verdict_of(reply: str | None) -> str | None:
    """`a`, `b` or `tie`, where a reply says exactly one of them in a line of its own; None for anything else."""
    found = {match.lower() for match in VERDICT.findall(reply or "")}
    return found.pop() if len(found) == 1 else None


def decide(forward: str | None, backward: str | None) -> str:
    """What two verdicts come to: `chosen` or `rejected` (one answer, the other), `tie`, or `position`.

    Forward, the first of the two stands first (A); backward, it stands second (B).
    """
    one = {"a": "chosen", "b": "rejected"}.get(str(forward), "tie")
    other = {"b": "chosen", "a": "rejected"}.get(str(backward), "tie")
    return one if one == other else "position"


def ask_endpoint(model: str, endpoint: EndpointSection, *, temperature: float, max_tokens: int) -> Ask:
    """Asks `model` at an endpoint, several questions at once."""
    client = Judge(
        model,
        base_url=endpoint.base_url,
        api_key_env=endpoint.api_key_env,
        temperature=temperature,
        max_tokens=max_tokens,
        concurrency=endpoint.concurrency,
        request_timeout=endpoint.request_timeout,
        retries=endpoint.retries,
    )

    def ask(texts: Sequence[str]) -> Iterator[tuple[int, str | Failure]]:
        with ThreadPoolExecutor(endpoint.concurrency) as pool:
            futures = {pool.submit(client.ask, text): place for place, text in enumerate(texts)}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    return ask


def ask_all(ask: Ask, waiting: Sequence[Question], journal: Journal, say: Callable[[str], None]) -> Counter[str]:
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


class Journal:
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
