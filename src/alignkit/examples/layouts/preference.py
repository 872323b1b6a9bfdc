"""Layouts for preferences: pairs in their many spellings, and ranked or rated lists expanded to pairs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

from alignkit.examples.layouts.base import (
    OPENING,
    Data,
    Layout,
    as_messages,
    assistant,
    carried,
    chat_in,
    opening,
    text_in,
    user,
)
from alignkit.examples.messages import (
    BadRow,
    Message,
    Skip,
    as_list,
    is_messages,
    is_transcript,
    kind_of,
    read_messages,
    shared_turns,
    split_transcript,
)

Answer = str | list[Message]
NUMBERS = ("margin", "score_chosen", "score_rejected")
LISTS = ("responses", "completions", "answers")
SCORES = ("scores", "ratings")
RANKS = ("ranks", "ranking")
ASKED = ("question", "instruction", "query", "input")


def _words(answer: Answer) -> str:
    """What an answer says, without its white space."""
    if isinstance(answer, str):
        return "".join(answer.split())
    said = (f"{message['role']}:{message['content']}{message.get('tool_calls', '')}" for message in answer)
    return "".join("".join(said).split())


def _pair(prompt: Answer, chosen: Answer, rejected: Answer, extra: Data) -> Data:
    """A preference example, unless its answers are the same."""
    if chosen == rejected:
        raise Skip("identical answers")
    if _words(chosen) == _words(rejected):
        raise Skip("answers differ only in white space")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **extra}


def _number(value: Any, column: str) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise BadRow(f"must be a number, not {value!r}", column) from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRow(f"must be a number, not {kind_of(value)}", column)
    return float(value)


def _extra(data: Data) -> Data:
    numbers = {word: _number(data[word], word) for word in NUMBERS if data.get(word) not in (None, "")}
    return {**numbers, **carried(data)}


def _split_chats(chosen: list[Message], rejected: list[Message], extra: Data) -> Data:
    """Two whole chats: their shared turns are the prompt."""
    count = shared_turns(chosen, rejected)
    prompt, answers = chosen[:count], (chosen[count:], rejected[count:])
    for answer in answers:
        if answer[0]["role"] != "assistant":
            raise BadRow("chosen and rejected share no prompt after which the assistant answers", "chosen")
        _check_answer(answer)
    if not any(message["content"].strip() for message in prompt):
        raise Skip("empty prompt")
    return _pair(prompt, *answers, extra)


def _check_answer(answer: list[Message]) -> None:
    last = answer[-1]
    if not (last["content"].strip() or last.get("tool_calls") or last.get("reasoning_content")):
        raise Skip("empty answer")


def _split_texts(chosen: str, rejected: str, extra: Data) -> Data:
    """Two whole texts: the words that both start with are the prompt, as TRL's extract_prompt has it, but never a
    part of a word. Nothing in common leaves the prompt empty."""
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    while same > 0 and not (chosen[same : same + 1].isspace() and rejected[same : same + 1].isspace()):
        same -= 1
    if not (chosen[same:].strip() and rejected[same:].strip()):
        same = 0
    return _pair(chosen[:same], chosen[same:], rejected[same:], extra)


def _implicit(data: Data) -> list[Data]:
    chosen = _whole_chat(data, "chosen")
    rejected = _whole_chat(data, "rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        return [_split_texts(chosen, rejected, _extra(data))]
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise BadRow("must be text or messages, as chosen is", "rejected")
    return [_split_chats(chosen, rejected, _extra(data))]


def _whole_chat(data: Data, word: str) -> Answer:
    """An answer column: messages, a transcript as messages, or text. Blank turns are for the caller to judge."""
    value = data.get(word)
    if is_messages(value):
        return read_messages(value, word, sharegpt=True)
    if isinstance(value, list) and not value:
        raise Skip("empty answer")
    text = text_in(data, word, "empty answer")
    return split_transcript(text, word) if is_transcript(text) else text


def _preference(data: Data) -> list[Data]:
    if is_messages(data.get("chosen")) and is_messages(data.get("rejected")):
        return [_chat_preference(data)]
    prompt = chat_in(data, "prompt", "empty prompt", "user")
    chosen = chat_in(data, "chosen", "empty answer", "assistant")
    rejected = chat_in(data, "rejected", "empty answer", "assistant")
    if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
        return [_pair(prompt, chosen, rejected, _extra(data))]
    answers = as_messages(chosen, "assistant"), as_messages(rejected, "assistant")
    return [_pair(as_messages(prompt, "user"), *answers, _extra(data))]


def _chat_preference(data: Data) -> Data:
    """Answers as messages: alone after the prompt, or as whole chats that repeat it (UltraFeedback)."""
    chosen = read_messages(data["chosen"], "chosen", sharegpt=True)
    rejected = read_messages(data["rejected"], "rejected", sharegpt=True)
    if chosen[0]["role"] != "assistant" and rejected[0]["role"] != "assistant":
        return _split_chats(chosen, rejected, _extra(data))
    prompt = as_messages(chat_in(data, "prompt", "empty prompt", "user"), "user")
    for word, answer in (("chosen", chosen), ("rejected", rejected)):
        if answer[0]["role"] != "assistant":
            raise BadRow("must start with the assistant's turn, as the other answer does", word)
        _check_answer(answer)
    return _pair(prompt, chosen, rejected, _extra(data))


def _asked(data: Data) -> list[Data]:
    if is_messages(data.get("chosen")) and is_messages(data.get("rejected")):
        return [_chat_preference({**data, "prompt": data.get("question")})]
    prompt = [*opening(data), user(text_in(data, "question", "empty prompt"))]
    chosen, rejected = (text_in(data, word, "empty answer") for word in ("chosen", "rejected"))
    return [_pair(prompt, [assistant(chosen)], [assistant(rejected)], _extra(data))]


def _stack_exchange(data: Data) -> list[Data]:
    prompt = [user(text_in(data, "question", "empty prompt"))]
    chosen, rejected = (text_in(data, word, "empty answer") for word in ("response_j", "response_k"))
    return [_pair(prompt, [assistant(chosen)], [assistant(rejected)], _extra(data))]


def _shp(data: Data) -> list[Data]:
    prompt = [user(text_in(data, "history", "empty prompt"))]
    first, second = (text_in(data, word, "empty answer") for word in ("human_ref_A", "human_ref_B"))
    if str(data["labels"]) not in ("0", "1"):
        raise BadRow("must be 1 (A is preferred) or 0 (B is)", "labels")
    chosen, rejected = (first, second) if str(data["labels"]) == "1" else (second, first)
    return [_pair(prompt, [assistant(chosen)], [assistant(rejected)], _extra(data))]


def _arena(data: Data) -> list[Data]:
    winner = text_in(data, "winner", "no winner").lower()
    if winner.startswith("tie"):
        raise Skip("a tie")
    if winner not in ("model_a", "model_b"):
        raise BadRow(f"must be model_a, model_b or tie, not {winner!r}", "winner")
    sides = [read_messages(data.get(word), word, sharegpt=True) for word in ("conversation_a", "conversation_b")]
    chosen, rejected = sides if winner == "model_a" else reversed(sides)
    return [_split_chats(chosen, rejected, _extra(data))]


def _first(data: Data, words: tuple[str, ...]) -> str | None:
    return next((word for word in words if data.get(word) is not None), None)


@dataclass(frozen=True)
class _Graded:
    """An answer and its grade, a higher one being better: a score, or a rank with its sign turned."""

    answer: str
    grade: float | None
    is_score: bool


def _graded(data: Data) -> list[_Graded]:
    column = _first(data, LISTS)
    if column is None:
        raise Skip("empty answer")
    items = as_list(data[column], column)
    beside = _first(data, SCORES) or _first(data, RANKS)
    grades = as_list(data[beside], beside) if beside else [None] * len(items)
    if len(grades) != len(items):
        raise BadRow(f"{len(grades)} values for {len(items)} answers", beside)
    graded = [_grade(item, grade, column, beside) for item, grade in zip(items, grades, strict=True)]
    if len(graded) > 1 and all(item.grade is None for item in graded):
        raise BadRow("no scores, ratings or ranks say which of the answers is better", column)
    return graded


def _grade(item: Any, grade: Any, column: str, beside: str | None) -> _Graded:
    """One answer: a text with its grade beside the list, or an object that holds both."""
    named = beside
    if isinstance(item, dict):
        if beside is None:
            named = _first(item, ("score", "rating", "overall_score", "rank"))
            grade = item[named] if named else None
        item = item.get(_first(item, ("response", "answer", "text", "content", "completion")) or "")
    if not isinstance(item, str):
        raise BadRow(f"holds {kind_of(item)} where an answer's text must be", column)
    is_score = named not in (*RANKS, "rank")
    value = None if grade is None or grade == "" else _number(grade, beside or column)
    return _Graded(item, value if value is None or is_score else -value, is_score)


def _ranked(data: Data) -> list[Data | Skip]:
    """All pairs of answers with different grades."""
    prompt = [*opening(data), user(text_in(data, _first(data, ("prompt", *ASKED)) or "prompt", "empty prompt"))]
    made: list[Data | Skip] = []
    for one, other in combinations(_graded(data), 2):
        try:
            made.append(_compared(prompt, one, other, carried(data)))
        except Skip as skip:
            made.append(skip)
    if not made:
        raise Skip("fewer than two answers")
    return made


def _compared(prompt: list[Message], one: _Graded, other: _Graded, extra: Data) -> Data:
    if one.grade is None or other.grade is None:
        raise Skip("no grade")
    if one.grade == other.grade:
        raise Skip("equal grades")
    if not (one.answer.strip() and other.answer.strip()):
        raise Skip("empty answer")
    better, worse = (one, other) if one.grade > other.grade else (other, one)
    if better.is_score:
        extra = {**extra, "score_chosen": better.grade, "score_rejected": worse.grade}
    return _pair(prompt, [assistant(better.answer)], [assistant(worse.answer)], extra)


def _is_graded(sample: Data) -> bool:
    column = _first(sample, LISTS)
    if column is None or _first(sample, ("prompt", *ASKED)) is None or not isinstance(sample[column], list | str):
        return False
    items = sample[column]
    inside = isinstance(items, list) and items and isinstance(items[0], dict)
    return _first(sample, (*SCORES, *RANKS)) is not None or bool(inside)


YES_OR_NO = {"true": True, "1": True, "false": False, "0": False}


def _unpaired(data: Data) -> list[Data]:
    prompt = chat_in(data, "prompt", "empty prompt", "user")
    completion = chat_in(data, "completion", "empty answer", "assistant")
    label = data.get("label")
    if label is None:
        raise Skip("no label")
    good = YES_OR_NO.get(str(label).lower().removesuffix(".0"))
    if good is None:
        raise BadRow(f"must be true (a good answer) or false, not {label!r}", "label")
    if not (isinstance(prompt, str) and isinstance(completion, str)):
        prompt, completion = as_messages(prompt, "user"), as_messages(completion, "assistant")
    return [{"prompt": prompt, "completion": completion, "label": good, **carried(data)}]


LAYOUTS = (
    Layout(
        "unpaired_preference",
        "unpaired_preference",
        "a prompt, an answer, and whether it is a good one (`label`: true or false)",
        ("prompt", "completion", "label"),
        _unpaired,
        rank=0,
    ),
    Layout(
        "preference",
        "preference",
        "texts as they stand, or messages; answers that repeat the prompt's turns (UltraFeedback) are cut there",
        ("prompt", "chosen", "rejected"),
        _preference,
        NUMBERS,
        rank=0,
    ),
    Layout(
        "question_preference",
        "preference",
        "a question as the user's turn, and two answers",
        ("question", "chosen", "rejected"),
        _asked,
        (*OPENING, *NUMBERS),
        {"question": ASKED[1:]},
        plain=True,
    ),
    Layout(
        "implicit_preference",
        "preference",
        "two whole chats, HH-RLHF transcripts or texts; what both start with is the prompt",
        ("chosen", "rejected"),
        _implicit,
        NUMBERS,
    ),
    Layout(
        "stack_exchange",
        "preference",
        "a question with the better answer (`response_j`) and the worse",
        ("question", "response_j", "response_k"),
        _stack_exchange,
        NUMBERS,
        plain=True,
    ),
    Layout(
        "shp",
        "preference",
        "Stanford Human Preferences: `labels` is 1 where A is preferred",
        ("history", "human_ref_A", "human_ref_B", "labels"),
        _shp,
        NUMBERS,
        plain=True,
    ),
    Layout(
        "arena",
        "preference",
        "two chats and the `winner` (model_a, model_b; ties are dropped)",
        ("conversation_a", "conversation_b", "winner"),
        _arena,
        NUMBERS,
    ),
    Layout(
        "ranked",
        "preference",
        "a prompt (or question, …) and a list of answers (`responses`, `completions` or `answers`) with `scores` or "
        "`ratings` (higher is better) or `ranks` (1 is best), beside the list or in it: every pair of unequal ones",
        (),
        _ranked,
        ("prompt", *ASKED, *LISTS, *SCORES, *RANKS, *OPENING),
        when=_is_graded,
        plain=True,
    ),
)
