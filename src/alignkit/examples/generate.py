"""Data from nothing, for the embedded default and for tests: small, deterministic, with held-out problems.

A generator is an options model and a function in GENERATORS; rows of `split: test` never occur in `split: train`,
whatever the seed.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from alignkit.errors import Problem, UserError
from alignkit.examples.types import did_you_mean

TEST_SHARE = 10  # one problem in ten is held out


class Options(BaseModel):
    """What every generator takes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    rows: int = Field(1000, gt=0)
    """How many rows to make."""
    seed: int = 0
    """Which of the possible rows, and their order."""
    split: Literal["train", "test"] = "train"
    """train, or the held-out tenth of all problems."""


class AdditionOptions(Options):
    digits: int = Field(2, ge=1, le=9)
    """Both numbers have up to this many digits."""
    style: Literal["chat", "text"] = "chat"
    """Messages of user and assistant, or plain prompt and completion."""


def _held_out(problem: str) -> bool:
    return zlib.crc32(problem.encode()) % TEST_SHARE == 0


def _sums(options: AdditionOptions) -> Iterator[tuple[int, int]]:
    """Distinct problems of the split. a+b and b+a are one problem to the split, so neither gives the other away."""
    top = 10**options.digits

    def wanted(a: int, b: int) -> bool:
        return _held_out(f"{min(a, b)}+{max(a, b)}") == (options.split == "test")

    chance = random.Random(f"addition:{options.seed}:{options.split}")
    if options.digits <= 2:
        every = [(a, b) for a in range(top) for b in range(top) if wanted(a, b)]
        if options.rows > len(every):
            message = f"there are only {len(every)} sums of {options.digits} digits in the {options.split} split"
            hint = "raise digits, or train for more epochs"
            raise UserError(Problem(message, field="options.rows", hint=hint))
        yield from chance.sample(every, options.rows)
        return
    if options.rows > top * top // 50:
        message = f"at most {top * top // 50} rows with {options.digits} digits"
        raise UserError(Problem(message, field="options.rows"))
    seen: set[tuple[int, int]] = set()
    while len(seen) < options.rows:
        pair = (chance.randrange(top), chance.randrange(top))
        if pair not in seen and wanted(*pair):
            seen.add(pair)
            yield pair


def _answered(prompt: str, style: str, **answers: str) -> dict[str, Any]:
    if style == "text":
        return {"prompt": prompt, **answers}
    said = {name: [{"role": "assistant", "content": answer}] for name, answer in answers.items()}
    return {"prompt": [{"role": "user", "content": prompt}], **said}


def addition(options: AdditionOptions) -> Iterator[dict[str, Any]]:
    """`12+34=` answered by `46`, and the sum as a number in `answer`."""
    for a, b in _sums(options):
        yield {**_answered(f"{a}+{b}=", options.style, completion=str(a + b)), "answer": a + b}


class SortingOptions(Options):
    digits: int = Field(5, ge=2, le=9)
    """How many digits there are to sort."""
    slips: float = Field(0.0, ge=0, le=1)
    """This share of the completions leaves repeated digits out, as a careless teacher would; `answer` never does."""
    style: Literal["chat", "text"] = "chat"
    """Messages of user and assistant, or plain prompt and completion."""


def _unsorted(name: str, options: Options, digits: int) -> Iterator[tuple[str, random.Random]]:
    """Problems of the split, none twice, and the generator that drew them."""
    if options.rows > 10**digits // 20:
        message = f"at most {10**digits // 20} rows with {digits} digits"
        raise UserError(Problem(message, field="options.rows"))
    chance = random.Random(f"{name}:{options.seed}:{options.split}")
    seen: set[str] = set()
    while len(seen) < options.rows:
        problem = f"{chance.randrange(10**digits):0{digits}d}"
        if problem in seen or _held_out(problem) != (options.split == "test"):
            continue
        seen.add(problem)
        yield problem, chance


def sorting(options: SortingOptions) -> Iterator[dict[str, Any]]:
    """`35303>` answered by `03335`, the digits in order; also as a text in `answer`. No problem comes twice."""
    for digits, chance in _unsorted("sorting", options, options.digits):
        right = "".join(sorted(digits))
        said = "".join(sorted(set(digits))) if chance.random() < options.slips else right
        yield {**_answered(f"{digits}>", options.style, completion=said), "answer": right}


class SortingPairsOptions(Options):
    digits: int = Field(5, ge=2, le=9)
    """How many digits there are to sort."""
    foreign: float = Field(0.0, ge=0, le=1)
    """The share of pairs whose rejected answer has a digit that the problem has not. A reward model that has seen none
    prefers any digits in order, and a policy that is trained against it finds that out."""
    style: Literal["chat", "text"] = "chat"
    """Messages of user and assistant, or plain prompt and two answers."""


def sorting_preferences(options: SortingPairsOptions) -> Iterator[dict[str, Any]]:
    """Pairs of answers to sorting problems, by one rule: right beats wrong, and of two right ones the shorter.

    Rejected is most often an answer that leaves repeated digits out; else one with two digits changed round, or the
    right one in words: neither the longer nor the shorter answer wins as a matter of course.
    """
    for digits, chance in _unsorted("sorting_preferences", options, options.digits):
        right = "".join(sorted(digits))
        once = "".join(sorted(set(digits)))
        worse = [*[once] * 4, _changed_round(right, chance), chance.choice(("in order: ", "sorted: ")) + right]
        rejected = chance.choice([answer for answer in worse if answer != right])
        if options.foreign and chance.random() < options.foreign:
            rejected = _one_replaced(right, chance)
        yield {**_answered(f"{digits}>", options.style, chosen=right, rejected=rejected), "answer": right}


def _one_replaced(digits: str, chance: random.Random) -> str:
    """One digit replaced by another, in order again."""
    place = chance.randrange(len(digits))
    other = chance.choice([digit for digit in "0123456789" if digit != digits[place]])
    return "".join(sorted(digits[:place] + other + digits[place + 1 :]))


def _changed_round(digits: str, chance: random.Random) -> str:
    """Two neighbouring digits changed round: the same where they are alike."""
    place = chance.randrange(len(digits) - 1)
    return digits[:place] + digits[place + 1] + digits[place] + digits[place + 2 :]


WORDY = ("{a}+{b}={sum}", "it is {sum}", "the sum is {sum}", "{sum}, I think")


def preferences(options: AdditionOptions) -> Iterator[dict[str, Any]]:
    """Two right answers to a sum, of which the shorter is preferred."""
    chance = random.Random(f"preferences:{options.seed}:{options.split}")
    for a, b in _sums(options):
        wordy = chance.choice(WORDY).format(a=a, b=b, sum=a + b)
        yield {**_answered(f"{a}+{b}=", options.style, chosen=str(a + b), rejected=wordy), "answer": a + b}


GOOD = ("great", "lovely", "superb", "moving", "funny", "brilliant", "charming", "a joy")
BAD = ("dull", "awful", "clumsy", "boring", "tiresome", "a mess", "hollow", "dreadful")
THINGS = ("the film", "the book", "this song", "the play", "the last scene", "her new album", "the ending", "that show")
VERY = ("", "really ", "quite ", "truly ", "simply ", "so very ")
TAILS = ("", " from start to end", " to my taste", " as everyone says", " in every way", " once more")


def sentiment(options: Options) -> Iterator[dict[str, Any]]:
    """Short reviews, some of them negated, labelled positive or negative."""
    phrases = []
    for thing in THINGS:
        for very in VERY:
            for tail in TAILS:
                for word in (*GOOD, *BAD):
                    for negated in (False, True):
                        label = "positive" if (word in GOOD) != negated else "negative"
                        verb = "was not" if negated else "was"
                        phrases.append((f"{thing} {verb} {very}{word}{tail}", label))
    for text, label in _drawn("sentiment", phrases, options):
        yield {"text": text, "label": label}


PEOPLE = ("Ada Byron", "Alan", "Grace Hopper", "Emmy", "Kurt", "Sofia", "Leonhard Euler", "Mary")
PLACES = ("Paris", "New York", "Oslo", "Lagos", "Kyoto", "Rio", "Cape Town", "Lima")
SENTENCES = (
    "{PER} lives in {LOC} .",
    "in {LOC} , {PER} met {PER2} .",
    "{PER} flew from {LOC} to {LOC2} .",
    "did {PER} ever see {LOC} ?",
    "{LOC} is far from {LOC2} , said {PER} .",
)


def tags(options: Options) -> Iterator[dict[str, Any]]:
    """Sentences with persons and places, tagged by the IOB2 scheme."""
    phrases = []
    for sentence in SENTENCES:
        for one in PEOPLE:
            for other in PEOPLE:
                for here in PLACES:
                    for there in PLACES:
                        if one != other and here != there:
                            names = {"PER": one, "PER2": other, "LOC": here, "LOC2": there}
                            phrases.append((sentence, names))
    distinct = {sentence.format(**names): (sentence, names) for sentence, names in phrases}
    for _, (sentence, names) in _drawn("tags", list(distinct.items()), options):
        yield _tagged(sentence, names)


def _tagged(sentence: str, names: dict[str, str]) -> dict[str, Any]:
    tokens: list[str] = []
    marks: list[str] = []
    for piece in sentence.split():
        if not piece.startswith("{"):
            tokens.append(piece)
            marks.append("O")
            continue
        kind = piece.strip("{}")
        for place, word in enumerate(names[kind].split()):
            tokens.append(word)
            marks.append(("I-" if place else "B-") + kind.rstrip("2"))
    return {"tokens": tokens, "tags": marks}


def _drawn(name: str, phrases: list[tuple[str, Any]], options: Options) -> list[tuple[str, Any]]:
    """`rows` of the split's phrases, none twice."""
    pool = [phrase for phrase in phrases if _held_out(phrase[0]) == (options.split == "test")]
    if options.rows > len(pool):
        message = f"{name} makes at most {len(pool)} rows in the {options.split} split"
        raise UserError(Problem(message, field="options.rows"))
    return random.Random(f"{name}:{options.seed}:{options.split}").sample(pool, options.rows)


@dataclass(frozen=True)
class Generator:
    """What a generator takes, and how it makes rows of it."""

    options: type[Options]
    make: Callable[[Any], Iterator[dict[str, Any]]]


GENERATORS = {
    "addition": Generator(AdditionOptions, addition),
    "preferences": Generator(AdditionOptions, preferences),
    "sentiment": Generator(Options, sentiment),
    "sorting": Generator(SortingOptions, sorting),
    "sorting_preferences": Generator(SortingPairsOptions, sorting_preferences),
    "tags": Generator(Options, tags),
}


def generated_rows(name: str, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of a generator. Raises UserError at field `generate` or `options.…`."""
    generator = GENERATORS.get(name)
    if generator is None:
        message = f"no generator {name}; known: {', '.join(GENERATORS)}"
        raise UserError(Problem(message, field="generate", hint=did_you_mean(name, GENERATORS)))
    try:
        chosen = generator.options(**options)
    except ValidationError as error:
        raise UserError([_option_problem(name, generator, detail) for detail in error.errors()]) from None
    return generator.make(chosen)


def _option_problem(name: str, generator: Generator, detail: Any) -> Problem:
    option = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = list(generator.options.model_fields)
        message = f"{name} takes {', '.join(known)}"
        return Problem(message, field=f"options.{option}", hint=did_you_mean(option, known))
    return Problem(f"{detail['msg']}, not {detail['input']!r}", field=f"options.{option}")
