"""Rewards for how a completion is written: its form, length, language, and how much it repeats."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence


def format(completion: str, *, tags: Sequence[str] = ("think", "answer"), partial: bool = False) -> float:
    """1 if the completion is `<think>…</think><answer>…</answer>`: each tag once, in order, nothing outside.

    With `partial`, the share of the opening and closing tags that occur exactly once, 1 only for the whole form.
    """
    body = r"((?:(?!</?(?:" + "|".join(map(re.escape, tags)) + r")>).)*)"
    whole = r"\s*".join(rf"<{re.escape(tag)}>{body}</{re.escape(tag)}>" for tag in tags)
    if re.fullmatch(rf"\s*{whole}\s*", completion, re.DOTALL):
        return 1.0
    if not partial:
        return 0.0
    marks = [mark for tag in tags for mark in (f"<{tag}>", f"</{tag}>")]
    return sum(completion.count(mark) == 1 for mark in marks) / (len(marks) + 1)


def length(
    completion: str, tokens: int, *, min: int = 0, max: int | None = None, soft: int = 0, unit: str = "tokens"
) -> float:
    """1 between `min` and `max` of the unit (tokens, words or characters), falling to 0 over `soft` more or fewer."""
    size = {"tokens": tokens, "words": len(completion.split()), "characters": len(completion)}[unit]
    over = 0 if max is None else size - max
    outside = over if over > 0 else min - size
    if outside <= 0:
        return 1.0
    return 1.0 - outside / (soft + 1) if outside <= soft else 0.0


def repetition(completion: str, *, n: int = 3, penalty: float = -1.0) -> float:
    """`penalty` × the share of the completion's word n-grams that are repeats; 0 where nothing is repeated.

    Yeo et al., Demystifying Long Chain-of-Thought Reasoning in LLMs, 2025, appendix on the repetition penalty.
    """
    words = completion.lower().split()
    grams = [tuple(words[place : place + n]) for place in range(len(words) - n + 1)]
    return penalty * (1 - len(set(grams)) / len(grams)) if grams else 0.0


SCRIPTS = {
    "ar": ("ARABIC",),
    "el": ("GREEK",),
    "fa": ("ARABIC",),
    "he": ("HEBREW",),
    "hi": ("DEVANAGARI",),
    "ja": ("HIRAGANA", "KATAKANA", "CJK"),
    "ko": ("HANGUL",),
    "ru": ("CYRILLIC",),
    "th": ("THAI",),
    "uk": ("CYRILLIC",),
    "zh": ("CJK",),
}
WORDS = {
    "de": "der die das und ist nicht ein eine zu den mit von auf für im dem es auch als sich wird sind ich sie",
    "en": "the of and to is in that it for as was with be on not by are this from or have an at we you",
    "es": "el la de que y en los se del las un por con no una su para es lo como más pero sus está",
    "fr": "le la les de des et est en un une que du dans qui pour pas au sur plus par ce il ne se",
    "it": "il di che e la per un in non è si con le una da del i sono al come della ma gli ha",
    "nl": "de het een van en is dat niet te in op met voor zijn er aan die ook als maar om bij was",
    "pt": "o a de que e do da em um para é com não uma os no se na por mais as dos como mas",
}


def language(completion: str, *, expected: str) -> float:
    """The share of the completion that is in the language `expected` (en, zh, ar, …), estimated without a model.

    Languages with a script of their own: the share of letters in it. Those in Latin letters: that share, times how
    clearly the language's commonest words lead over the other languages' (1 while there are too few to tell).
    """
    letters = [unicodedata.name(letter, "").partition(" ")[0] for letter in completion if letter.isalpha()]
    if not letters:
        return 0.0
    scripts = SCRIPTS.get(expected, ("LATIN",))
    share = sum(script.partition("-")[0] in scripts for script in letters) / len(letters)
    if expected in SCRIPTS:
        return share
    words = re.findall(r"[^\W\d_]+", completion.lower())
    hits = {code: sum(word in common.split() for word in words) for code, common in WORDS.items()}
    best = max(hits.values())
    return share if best < 3 else share * hits[expected] / best


LANGUAGES = tuple(sorted({*SCRIPTS, *WORDS}))
