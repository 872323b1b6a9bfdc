"""What is said while a command works, and where the libraries' own chatter goes: stderr and log.txt."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from alignkit.secrets import safe

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

LIBRARIES = (
    "transformers",
    "datasets",
    "huggingface_hub",
    "peft",
    "trl",
    "accelerate",
    "torch",
    "bitsandbytes",
    "evaluate",
)
# What the libraries say of each run and no user can act on: it goes to log.txt, and not among a report's warnings.
NOISE = (
    "Failed to load CPU gemm_4bit_forward from kernels-community",  # an optional kernel of bitsandbytes
    "`gradient_checkpointing` is deprecated",  # transformers, of the field by which TRL's configs still go
    "`is_gradient_checkpointing` is deprecated",  # and of the property that TRL reads
    " LOAD REPORT",  # transformers' table of weights without a place; models/loaded.py says what of it matters
)
PATIENCE = 60.0  # seconds that a plain stderr may stay silent before held-back lines are shown after all


class Voice:
    """Progress lines on stderr.

    A command that the user can mend (exit code 2) leaves nothing but its `error:` lines on stderr. So on a terminal
    what is said before training is a status line that vanishes; elsewhere it is held back until training starts, or
    until there was silence for too long.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self.console = console or Console(file=sys.stderr, highlight=False)
        self._held: list[str] | None = []
        self._status: Status | None = None
        self._spoken = time.monotonic()

    @classmethod
    def silent(cls) -> Voice:
        """One that only writes to the log: of the processes of a run, one speaks."""
        from rich.console import Console

        return cls(Console(file=io.StringIO(), highlight=False))

    def __call__(self, text: str) -> None:
        logging.getLogger("alignkit").info(text)
        if self._held is None:
            self._print(text)
        elif self.console.is_terminal:
            self._held.append(text)
            if self._status is None:
                self._status = self.console.status(text)
                self._status.start()
            self._status.update(text)
        else:
            self._held.append(text)
            if time.monotonic() - self._spoken > PATIENCE:
                self.release()

    def release(self) -> None:
        """From here on speak aloud: what was held back first."""
        self.hush()
        held, self._held = self._held, None
        for text in held or ():
            self._print(text)

    def close(self) -> None:
        self.hush()

    def hush(self) -> None:
        """Take the status line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False)


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class SafeFormatter(logging.Formatter):
    """Formats a line for log.txt, tracebacks included, with its secrets hidden and without a terminal's colours."""

    def format(self, record: logging.LogRecord) -> str:
        return safe(_COLOURS.sub("", super().format(record)))


class Warnings(logging.Handler):
    """Collects the distinct warnings of a run, for the report."""

    def __init__(self, limit: int = 50) -> None:
        super().__init__(logging.WARNING)
        self.limit = limit
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = safe(" ".join(_COLOURS.sub("", record.getMessage()).split()))[:500]
        if any(noise in text for noise in NOISE):
            return
        if text not in self.messages and len(self.messages) < self.limit:
            self.messages.append(text)


@contextlib.contextmanager
def logged_to(path: Path) -> Iterator[Warnings]:
    """Send every log line and Python warning of this block to `path` instead of stderr."""
    collected = Warnings()
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(SafeFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    root.handlers[:] = [file, collected]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield collected
    finally:
        logging.captureWarnings(False)
        root.level, root.handlers[:] = before
        file.close()


def redirect_libraries() -> None:
    """Make the libraries' loggers hand their lines to ours. Call it after they are imported: each sets up its own."""
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
