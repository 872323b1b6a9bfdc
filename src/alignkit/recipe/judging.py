"""What can be wrong with a judge before it is asked: its endpoint's address, its key, its prompt."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from alignkit.recipe.sections import EndpointSection

WORDS = ("{prompt}", "{first}", "{second}")
Found = Iterator[tuple[str, str, str | None]]
"""(field, what is wrong, the fix)."""


def address_problems(endpoint: EndpointSection) -> Found:
    """An address that is none, or that holds a password: recipes are copied into run folders."""
    url = urlsplit(endpoint.base_url)
    if url.scheme not in ("http", "https") or not url.netloc:
        yield "base_url", "must be the endpoint's address", "http://localhost:8000/v1"
    elif "@" in url.netloc:
        hint = "put it into an environment variable, and that one's name into api_key_env"
        yield "base_url", "holds a user's name or password, which would stand in every copy of the recipe", hint


def key_problems(endpoint: EndpointSection) -> Found:
    """A key that the environment does not hold; asked only before something is run."""
    if endpoint.api_key_env and not os.environ.get(endpoint.api_key_env):
        yield "api_key_env", f"the environment has no {endpoint.api_key_env}", f"export {endpoint.api_key_env}=…"


def prompt_problems(path: Path) -> Found:
    """A prompt file that is missing, or that lacks one of the words."""
    if not path.is_file():
        yield "prompt_path", f"there is no file {path}", None
        return
    text = path.read_text(encoding="utf-8")
    if missing := [word for word in WORDS if word not in text]:
        yield "prompt_path", f"{path} lacks {', '.join(missing)}", None
