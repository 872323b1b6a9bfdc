"""`alignkit chat`: talk to a result in the terminal, alone or beside another model."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.console import Voice, logged_to, redirect_libraries
from alignkit.errors import Problem, UserError
from alignkit.importing import importing
from alignkit.launch import set_environment
from alignkit.model_folders import nowhere
from alignkit.predict import Result, find_result

if TYPE_CHECKING:
    from alignkit.chat.speaker import Speaker

BASE = "base"
"""As the model to compare with: the one that training started from."""
HELP = "/system TEXT sets the system prompt, /clear forgets the conversation, /exit ends it; Ctrl-C stops an answer"


def command(
    target: str,
    *,
    prompt: str | None,
    system: str | None,
    compare: str | None,
    generation: Mapping[str, Any],
    seed: int,
) -> None:
    """Answer `prompt` once, or talk until the input ends.

    Raises:
        UserError: no such model, one that writes no text, settings that do nothing.
    """
    set_environment()
    with logged_to(Path(os.devnull)):
        say = Voice()
        try:
            speakers = load(target, compare, generation, say)
        finally:
            say.close()
        talk = Talk(speakers, system, seed)
        if prompt is not None:
            talk.ask(sys.stdin.read() if prompt == "-" else prompt)
        else:
            talk.go_on()


def load(target: str, compare: str | None, generation: Mapping[str, Any], say: Voice) -> list[Speaker]:
    """The model to talk to, and the one to compare it with."""
    asked = _result(target)
    other = None if compare is None else _base_of(asked) if compare == BASE else _result(compare)
    say("loading the libraries")
    with importing():
        from transformers.utils import logging as transformers_logging

        from alignkit.chat.speaker import Speaker
        from alignkit.evaluation.generate import Settings
        from alignkit.evaluation.predictor import loaded

    redirect_libraries()
    transformers_logging.disable_progress_bar()
    settings = Settings.of(dict(generation))
    say(f"loading {asked.model}")
    model, tokenizer = loaded(asked)
    speakers = [Speaker(target, model, tokenizer, settings)]
    if compare == BASE and hasattr(model, "disable_adapter"):
        speakers.append(Speaker("without the adapter", model, tokenizer, settings, silenced=True))
    elif other is not None:
        say(f"loading {other.model}")
        speakers.append(Speaker(compare or "", *loaded(other), settings))
    return speakers


def _result(name: str) -> Result:
    if (problem := nowhere(name)) is not None:
        raise UserError(problem)
    if not Path(name).exists():
        return Result(name, "completions")
    found = find_result(name)
    if found.kind != "completions":
        hint = "alignkit predict asks it about the rows of a file"
        raise UserError(Problem(f"it answers with {found.kind}, not with text", file=name, hint=hint))
    return found


def _base_of(asked: Result) -> Result | None:
    """What the run started from; None where its adapter alone has to be switched off."""
    if (Path(asked.model) / "adapter_config.json").is_file():
        return None
    name = None if asked.recipe is None else asked.recipe.model.model_name_or_path
    if name is None:
        message = "it did not start from a model that could be asked"
        raise UserError(Problem(message, file=asked.model, field="--compare", hint="name a model folder or a Hub id"))
    return _result(str(Path(name)) if Path(name).is_dir() else name)


class Talk:
    """One conversation, with one model or with two side by side, each with its own answers."""

    def __init__(self, speakers: Sequence[Speaker], system: str | None, seed: int) -> None:
        from rich.console import Console

        self.speakers = speakers
        self.system = system
        self.seed = seed
        self.said: list[list[dict[str, str]]] = [[] for _ in speakers]
        self.console = Console(highlight=False)

    def go_on(self) -> None:
        """Read messages until the input ends."""
        shown = sys.stdin.isatty()
        if shown:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  lines can be edited, and earlier ones brought back
            self.console.print(f"[dim]{HELP}[/dim]")
        while True:
            try:
                line = input("> " if shown else "").strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                print()
                continue
            word, _, rest = line.partition(" ")
            if word in ("/exit", "/quit"):
                return
            if word == "/clear":
                self.said = [[] for _ in self.speakers]
            elif word == "/system":
                self.system = rest or None
            elif word.startswith("/") and word[1:].isalpha():
                self.console.print(HELP, style="dim")
            elif line:
                self._try(line)

    def _try(self, line: str) -> None:
        try:
            self.ask(line)
        except UserError as error:
            for messages in self.said:
                messages[:] = messages[: len(messages) // 2 * 2]  # the question that had no answer
            print(f"error: {error}", file=sys.stderr)

    def ask(self, text: str) -> None:
        """Say `text` to each model and print the answers: one as it is written, two side by side when both are done."""
        alone = len(self.speakers) == 1
        for speaker, messages in zip(self.speakers, self.said, strict=True):
            messages.append({"role": "user", "content": text})
            system = [{"role": "system", "content": self.system}] if self.system else []
            seed = self.seed + len(messages)
            answer = speaker.answer([*system, *messages], seed, _print_piece if alone else _nothing)
            messages.append({"role": "assistant", "content": answer})
        if alone:
            print(flush=True)
        else:
            self._print_beside([messages[-1]["content"] for messages in self.said])

    def _print_beside(self, answers: Sequence[str]) -> None:
        from rich.table import Table
        from rich.text import Text

        if not self.console.is_terminal:
            for speaker, answer in zip(self.speakers, answers, strict=True):
                print(f"{speaker.name}:\n{answer}\n", flush=True)
            return
        table = Table(expand=True)
        for speaker in self.speakers:
            table.add_column(Text(speaker.name), ratio=1)
        table.add_row(*map(Text, answers))
        self.console.print(table)


def _print_piece(text: str) -> None:
    print(text, end="", flush=True)


def _nothing(_text: str) -> None:
    return
