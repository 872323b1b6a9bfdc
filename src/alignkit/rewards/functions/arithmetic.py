"""Expressions over given numbers (game of 24, countdown), read by a parser of our own: no `eval` anywhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from alignkit.metrics.answers import extractor

MOST_CHARACTERS = 400
MOST_DIGITS = 12
_SIGNS = str.maketrans({"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "[": "(", "]": ")"})
_TOKEN = re.compile(r"\s*(\d+|[-+*/()])")


class NotArithmetic(ValueError):
    """The text is no expression of whole numbers, + - * / and brackets; or it divides by zero."""


def evaluate(text: str) -> tuple[Fraction, list[int]]:
    """The exact value of an expression, and the numbers that stand in it. Raises NotArithmetic."""
    if len(text) > MOST_CHARACTERS:
        raise NotArithmetic("too long")
    parser = _Parser(_tokens(text.translate(_SIGNS)))
    value = parser.sum()
    if parser.peek() is not None:
        raise NotArithmetic(f"{parser.peek()!r} is left over")
    return value, parser.numbers


def _tokens(text: str) -> list[str]:
    tokens, place = [], 0
    text = text.strip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or len(match[1]) > MOST_DIGITS or not match[1].isascii():
            raise NotArithmetic(f"{text[place : place + 10]!r} is not arithmetic")
        tokens.append(match[1])
        place = match.end()
    return tokens


class _Parser:
    """sum = product (± product)*; product = atom (×/ atom)*; atom = number | ( sum ). No unary signs, no powers."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.place = tokens, 0
        self.numbers: list[int] = []

    def peek(self) -> str | None:
        return self.tokens[self.place] if self.place < len(self.tokens) else None

    def take(self) -> str:
        token = self.peek()
        if token is None:
            raise NotArithmetic("it ends too early")
        self.place += 1
        return token

    def sum(self) -> Fraction:
        value = self.product()
        while self.peek() in ("+", "-"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        return value

    def product(self) -> Fraction:
        value = self.atom()
        while self.peek() in ("*", "/"):
            if self.take() == "*":
                value *= self.atom()
            elif divisor := self.atom():
                value /= divisor
            else:
                raise NotArithmetic("division by zero")
        return value

    def atom(self) -> Fraction:
        token = self.take()
        if token == "(":
            value = self.sum()
            if self.take() != ")":
                raise NotArithmetic("a bracket is not closed")
            return value
        if not token.isdigit():
            raise NotArithmetic(f"{token!r} where a number should stand")
        self.numbers.append(int(token))
        return Fraction(int(token))


def arithmetic_24(
    completion: str,
    numbers: Sequence[int],
    target: float | int | str = 24,
    *,
    answer: str | None = None,
    all_numbers: bool = True,
) -> float:
    """1 if the completion is an expression of the given numbers, each used once, whose value is the target.

    `= 24` may follow it. `answer` says how the expression is found in a longer text (`after:Answer:`, `boxed`, …); by
    default the last line that is not empty is taken. With `all_numbers: false` some may be left out.
    """
    said = extractor(answer)(completion) if answer else _last_line(completion)
    expression, equals, result = said.partition("=")
    try:
        value, used = evaluate(expression)
        stated = evaluate(result)[0] if equals else value
    except (NotArithmetic, RecursionError):
        return 0.0
    given, taken = Counter(int(number) for number in numbers), Counter(used)
    fits = taken == given if all_numbers else not taken - given
    return float(fits and value == stated == Fraction(str(target)))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def solve(numbers: Sequence[int], target: int = 24) -> str | None:
    """An expression of all the numbers whose value is the target, by trying every one; None where there is none."""
    return _combined([(Fraction(number), str(number)) for number in numbers], Fraction(target))


def _combined(parts: list[tuple[Fraction, str]], target: Fraction) -> str | None:
    """Two of the parts become one, until one is left."""
    if len(parts) == 1:
        return parts[0][1].removeprefix("(").removesuffix(")") if parts[0][0] == target else None
    for first in range(len(parts)):
        for second in range(len(parts)):
            if first == second:
                continue
            (a, left), (b, right) = parts[first], parts[second]
            rest = [part for place, part in enumerate(parts) if place not in (first, second)]
            made = [(a - b, f"({left}-{right})")]
            if first < second:  # + and * give the same either way round
                made += [(a + b, f"({left}+{right})"), (a * b, f"({left}*{right})")]
            if b:
                made.append((a / b, f"({left}/{right})"))
            for part in made:
                if (found := _combined([*rest, part], target)) is not None:
                    return found
    return None
