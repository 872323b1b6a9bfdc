"""An inspection on a terminal, or as plain text. What is trained on has a bar beside it, with or without colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.text import Text

from alignkit.inspection.gather import Inspection
from alignkit.inspection.tokens import Token
from alignkit.inspection.views import Part, Shown, segments

if TYPE_CHECKING:
    from alignkit.data import MaskingInfo

NEWLINE, TAB, BETWEEN = "↵", "⇥", "·"
SHADES = {True: ("black on green3", "black on light_green"), False: ("grey74 on grey15", "grey74 on grey23")}
BARS = {True: ("┃", "bold green"), False: ("│", "dim")}
WORDS = {True: "trained ", False: "        "}  # before the bar, where there is no colour
NARROWEST = 40  # columns a part needs to stand beside another
WIDTH = 110  # where the output is no terminal


def console() -> Console:
    """Standard output; colours where that is a terminal and NO_COLOR is not set."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=WIDTH)


def print_inspection(found: Inspection, to: Console) -> None:
    """The examples, then what was counted, then what is to be known."""
    colour = to.is_terminal and not to.no_color
    total = (found.counts.get(found.split) or {}).get("examples")
    for number, shown in enumerate(found.shown, 1):
        to.print(_heading(shown, found, number, total), soft_wrap=True)
        to.print(_parts(shown, found, to.width, colour))
        for name, value in shown.columns.items():
            to.print(Text.assemble((f"  {name}: ", "bold"), _one_line(value)), soft_wrap=True)
        to.print()
    to.print(_legend(found, colour), soft_wrap=True)
    to.print()
    for part in ("train", "eval"):
        if counts := found.counts.get(part):
            _print_counts(part, counts, to)
    for line in (f"tokenizer: {found.tokenizer}", *masking_lines(found.template), *found.notes):
        to.print(Text(line), soft_wrap=True)
    for line in found.warnings:
        to.print(Text.assemble(("warning: ", "bold yellow"), line), soft_wrap=True)


def _heading(shown: Shown, found: Inspection, number: int, total: int | None) -> Text:
    tokens = sum(len(part.tokens) for part in shown.parts)
    marked = sum(part.trained for part in shown.parts)
    whole = "" if total is None else f" of {total:,}"
    kind = "trained on" if found.view.marked.startswith("trained on") else "marked"
    words = [f"{tokens:,} tokens", *([f"{marked:,} {kind}"] if marked else []), *filter(None, [shown.place])]
    return Text.assemble((f"example {number}{whole}", "bold"), f"  {shown.id}  {', '.join(words)}")


def _parts(shown: Shown, found: Inspection, width: int, colour: bool) -> RenderableType:
    """The parts side by side where there is room, but for those that stand alone."""
    above, rest = [part for part in shown.parts if part.alone], [part for part in shown.parts if not part.alone]
    beside = len(rest) > 1 and width // len(rest) >= NARROWEST
    room = width // len(rest) - 1 if beside else width
    made = [_part(part, found, room, colour) for part in rest]
    whole = [_part(part, found, width, colour) for part in above]
    return Group(*whole, Columns(made, width=room, padding=(0, 1)) if beside else Group(*made))


def _part(part: Part, found: Inspection, width: int, colour: bool) -> Text:
    text = Text(no_wrap=True)
    if part.title:
        text.append(f"{part.title} ({len(part.tokens):,} tokens)\n", "bold")
    for piece in segments(part.tokens, found.template.stop_token if found.template else None, found.view):
        marked = piece[0].trained and found.view.in_turns
        words = "" if colour else WORDS[marked] if found.view.marked.startswith("trained") else ""
        for line in _lines(piece, width - len(words) - 4, colour):
            bar, style = BARS[marked]
            text.append("  " + words).append(bar, style).append(" ").append(line).append("\n")
    text.right_crop(1)
    return text


def _lines(tokens: Sequence[Token], width: int, colour: bool) -> Iterator[Text]:
    """Tokens as lines: broken where the text has a line break, and where the width ends."""
    line = Text()
    for number, token in enumerate(tokens):
        written = visible(token.text) + (f"/{token.tag}" if token.tag is not None else "")
        between = "" if colour or not line else BETWEEN
        if line and line.cell_len + cell_len(written + between) > width:
            yield line
            line, between = Text(), ""
        line.append(between, "dim")
        style = f"{SHADES[token.trained][number % 2]}{' bold' if token.special else ''}" if colour else ""
        line.append(written, style)
        if "\n" in token.text:
            yield line
            line = Text()
    if line:
        yield line


def visible(text: str) -> str:
    """A token's text on one line: line breaks and tabs as signs."""
    return text.replace("\r", "␍").replace("\n", NEWLINE).replace("\t", TAB)


def _legend(found: Inspection, colour: bool) -> Text:
    between = "" if colour else f"; {BETWEEN} stands between tokens"
    signs = f"{NEWLINE} line break{between}"
    if not any(part.trained for shown in found.shown for part in shown.parts):
        return Text(signs)
    return Text.assemble(BARS[True], f" {found.view.marked}   ", BARS[False], f" read only   {signs}")


# ---------------------------------------------------------------------- counts
def _print_counts(part: str, counts: dict[str, Any], to: Console) -> None:
    to.print(Text(part, "bold"))
    for name, text in count_lines(counts):
        to.print(Text.assemble((f"  {name:<11}", "dim"), text), soft_wrap=True)
    most = max((number for _, number in counts.get("length_histogram") or []), default=0)
    for upper, number in counts.get("length_histogram") or []:
        bar = "█" * round(30 * number / most) or ("▏" if number else "")
        to.print(Text.assemble(("  length     ", "dim"), f"≤{upper:>6,} {number:>9,} ", (bar, "cyan")))
    to.print()


def count_lines(counts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, text) of what was counted in one split."""
    if counts.get("examples") is None:
        yield "examples", "streamed: read and counted while training"
        return
    sources, dropped = counts.get("sources") or [], counts.get("dropped") or {}
    examples = counts["examples"]
    left = [
        f"{counts[key]:,} {word}"
        for key, word in (("held_out", "held out"), ("not_drawn", "not drawn"))
        if counts.get(key)
    ]
    yield "rows", f"{counts['rows']:,}" + (f" from {len(sources)} sources" if len(sources) > 1 else "")
    yield "examples", ", ".join([f"{examples:,}", *left])
    first = {reason: name for one in sources for reason, name in one.get("first_dropped", {}).items()}
    for reason, number in dropped.items():
        yield "dropped", f"{number:,}  {reason}" + (f"  (first: {first[reason]})" if reason in first else "")
    if tokens := counts.get("tokens"):
        learned = counts.get("supervised_tokens") or 0
        share = f", {learned:,} trained on ({learned / tokens:.0%})" if learned else ""
        yield "tokens", f"{tokens:,}{share}, {tokens / max(examples, 1):,.0f} an example, {counts['longest']:,} at most"
    yield "truncated", f"{counts.get('truncated', 0):,}"
    if labels := counts.get("labels"):
        yield "labels", ", ".join(f"{name} {number:,}" for name, number in labels.items())
    if packed := counts.get("packed_rows"):
        yield "packed", f"{packed:,} rows, {counts['fill']:.1%} full"
    for one in sources if len(sources) > 1 else []:
        mean = one.get("tokens", 0) / max(one["examples"], 1)
        yield "source", f"{one['path']}: {one['examples']:,} examples as {one['layout']}, {mean:,.0f} tokens each"


def masking_lines(template: MaskingInfo | None) -> Iterator[str]:
    if template is None:
        return
    ways = {
        "markers": "by the chat template's own markers",
        "training_template": "by TRL's training variant of the chat template",
        "prefix": "by rendering the chat turn by turn",
        "none": "no turns to find",
    }
    yield f"masks: {ways[template.how]}; stop token {template.stop_token}; BOS from the {template.bos}".replace(
        "from the none", "by nobody"
    )


def _one_line(value: Any) -> str:
    return visible(value if isinstance(value, str) else repr(value))
