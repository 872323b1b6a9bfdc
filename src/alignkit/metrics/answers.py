"""Taking the answer out of a worked solution."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from alignkit.errors import Problem, UserError
from alignkit.metrics.names import did_you_mean

# A sign counts only where no digit, letter or bracket stands before it: in "10-5" the 5 is not negative.
_SIGN = r"(?:(?<![\w.)\]])[-−+]\s?)?"
_DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+)(?:[eE][-+]?\d+)?"
_NUMBER = re.compile(rf"{_SIGN}(?:[$€£¥₹]\s?)?(?:(?<=[$€£¥₹])[-−])?{_DIGITS}")
_ANSWER_IS = re.compile(r"\banswer(?:\s+is|\s*[:=])[\s:*_]*", re.IGNORECASE)
_FRACTION = re.compile(r"([-−+]?)\s*\\[dt]?frac\s*\{\s*([\d.,]+)\s*\}\s*\{\s*([\d.,]+)\s*\}")
_SLASHED = re.compile(r"([-−+]?\s*[\d.,]+)\s*/\s*([\d.,]+)")
_DRESSING = re.compile(r"\\text\{[^}]*\}|\\(?:left|right|!|,|;|\s)|[$€£¥₹%]|\\%")


def find_numbers(text: str) -> list[str]:
    """Every number in the text, as written but without currency signs, thousands' commas and spaces."""
    return [_plain(match.group()) for match in _NUMBER.finditer(text)]


def _plain(number: str) -> str:
    return re.sub(r"[,$€£¥₹\s]", "", number).replace("−", "-")


def last_number(text: str) -> str:
    """The last number, or ""."""
    numbers = find_numbers(text)
    return numbers[-1] if numbers else ""


def first_number(text: str) -> str:
    """The first number, or ""."""
    numbers = find_numbers(text)
    return numbers[0] if numbers else ""


def boxed(text: str) -> str:
    r"""What the last complete `\boxed{…}` or `\fbox{…}` holds, nested braces and all; or ""."""
    for match in reversed(list(re.finditer(r"\\f?boxed\s*(\{)|\\fbox\s*(\{)", text))):
        start = match.end()
        depth = 1
        for place in range(start, len(text)):
            character = text[place]
            if character in "{}" and text[place - 1] != "\\":
                depth += 1 if character == "{" else -1
            if depth == 0:
                return text[start:place].strip()
    return ""


def after(marker: str, text: str) -> str:
    """The rest of the line after the last `marker` (GSM8K's "####"), or ""."""
    _, found, rest = text.rpartition(marker)
    return rest.strip().split("\n")[0].strip() if found else ""


def the_answer_is(text: str) -> str:
    """What follows the last "the answer is" or "answer:", to the end of its sentence, without Markdown; or ""."""
    matches = list(_ANSWER_IS.finditer(text))
    if not matches:
        return ""
    line = text[matches[-1].end() :].split("\n")[0]
    sentence = re.split(r"\.(?:\s|$)", line.strip(), maxsplit=1)[0]
    return sentence.strip().strip("*_`\"'").strip().rstrip(".")


def by_pattern(pattern: re.Pattern[str], text: str) -> str:
    """The last match's first group (or the whole match where there is no group), or ""."""
    matches = list(pattern.finditer(text))
    if not matches:
        return ""
    return (matches[-1].group(1 if pattern.groups else 0) or "").strip()


_NAMED: dict[str, Callable[[str], str]] = {
    "last_number": last_number,
    "first_number": first_number,
    "boxed": boxed,
    "the_answer_is": the_answer_is,
}


def extractor(how: str) -> Callable[[str], str]:
    """The function that `how` names: text -> answer, "" where there is none.

    `last_number`, `first_number`, `boxed`, `the_answer_is`, `after:MARKER` (for GSM8K `after:####`) or `regex:PATTERN`
    (its first group, else the whole match; the last match counts). Raises UserError for anything else.
    """
    if how in _NAMED:
        return _NAMED[how]
    if how.startswith("after:") and len(how) > len("after:"):
        marker = how.removeprefix("after:")
        return lambda text: after(marker, text)
    if how.startswith("regex:"):
        try:
            pattern = re.compile(how.removeprefix("regex:"), re.DOTALL)
        except re.error as error:
            raise UserError(Problem(f"{how!r} is not a regular expression: {error}", field="answer")) from error
        return lambda text: by_pattern(pattern, text)
    hint = did_you_mean(how, _NAMED) or f"there are {', '.join(_NAMED)}, after:MARKER and regex:PATTERN"
    raise UserError(Problem(f"unknown way to take an answer out of a text: {how!r}", field="answer", hint=hint))


def to_number(text: str) -> Fraction | None:
    r"""The exact value of a text that is one number: `1,234.50`, `$5`, `50%` (50), `3/4`, `\frac{3}{4}`; else None."""
    text = _DRESSING.sub("", text.strip()).strip().rstrip(".")
    for pattern in (_FRACTION, _SLASHED):
        match = pattern.fullmatch(text)
        if match:
            parts = match.groups()
            above = _decimal("".join(parts[:-1]))
            below = _decimal(parts[-1])
            return above / below if above is not None and below else None
    return _decimal(text)


def _decimal(text: str) -> Fraction | None:
    if not text or text[-1] == "," or re.search(r"[^\d.,eE+\-−\s]", text):
        return None
    try:
        value = Decimal(_plain(text))
    except InvalidOperation:
        return None
    # An exponent of a million digits is no answer, and would take for ever as a fraction.
    return Fraction(value) if value.is_finite() and abs(value.adjusted()) < 400 else None
