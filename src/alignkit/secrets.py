"""Secrets stay out of everything that is written down: access tokens, keys, passwords in URLs, secret variables."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

HIDDEN = "(hidden)"
NAME = re.compile(r"token|key|secret|passw|pwd|credential|auth|cookie|session|dsn|signature", re.IGNORECASE)
"""What the name of a setting speaks of when its value is not for others."""

# Shapes that nothing but a secret has: an ordinary word (`skateboarding`, `hf-internal-testing`) is none.
_TOKENS = (
    r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|\bsk-[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic
    r"|\bgh[pousr]_\w{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}"  # GitHub, GitLab
    r"|\bxox[abprs]-[\w-]{10,}|\bAKIA[A-Z0-9]{16}\b|\bAIza[\w-]{30,}"  # Slack, AWS, Google
)
_IN_A_URL = (
    r"(?<=://)[^/@\s:]*:[^/@\s]+(?=@)"  # user:password@
    r"|(?<=://)[A-Za-z0-9_-]{16,}(?=@)"  # TOKEN@
    r"|(?<=[?&])(?:access_token|token|api_?key|key|sig|signature|x-amz-[a-z-]+)=[^&\s'\"]+"
)
VALUES = re.compile(f"{_TOKENS}|{_IN_A_URL}", re.IGNORECASE)
_BEARER = re.compile(r"(?i)(?<=bearer )[\w.~+/=-]{8,}")
LONG = 20  # characters that no single word has
_SHORTEST = 8  # characters of a variable's value that is looked for in texts: "1" and "true" stand everywhere


def safe(text: str) -> str:
    """`text` without secrets: those that show by their shape, and the values of this process's secret variables."""
    for value in _secret_variables():
        text = text.replace(value, HIDDEN)
    return VALUES.sub(HIDDEN, _BEARER.sub(HIDDEN, text))


def safe_setting(name: str, value: str) -> str:
    """A setting's value as it may be shown: nothing of one whose name speaks of a secret."""
    if NAME.search(name.removeprefix("TOKENIZERS_")):
        return HIDDEN if value else ""
    return safe(value)


def safely(value: Any) -> Any:
    """Plain data with every text in it made safe; names of fields stay as they are."""
    if isinstance(value, str):
        return safe(value)
    if isinstance(value, Mapping):
        return {key: safely(item) for key, item in value.items()}
    return [safely(item) for item in value] if isinstance(value, list | tuple) else value


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in nested mappings and lists a text holds a secret."""
    if isinstance(value, str):
        if safe(value) != value:
            yield path
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*path, index))


def _secret_variables() -> list[str]:
    """The longest first: one may hold another."""
    found = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and NAME.search(name.removeprefix("TOKENIZERS_")) and not _harmless(name, value)
    }
    return sorted(found, key=len, reverse=True)


def _harmless(name: str, value: str) -> bool:
    """A path to a secret (HF_TOKEN_PATH, SSH_AUTH_SOCK), a desktop's session, or a plain word."""
    if value.startswith("/") or name.startswith(("XDG_", "DESKTOP_", "SESSION", "DBUS_", "GNOME_", "KDE_")):
        return True
    return len(value) < LONG and value.isalpha() and value in (value.lower(), value.upper(), value.capitalize())
