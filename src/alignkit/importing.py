"""How the heavy libraries are imported: without the garbage collector, which would sift what stays again and again."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

_ours = False  # and nothing but what was imported lives in it yet


def own_process() -> None:
    """Say that nothing else lives in this process: what is imported first is then kept out of later collections too.

    In a user's process there may be things that are to be collected one day, and they stay what they are. So may there
    be here once work has begun (the model and trainer of an earlier stage): only the first imports are kept out.
    """
    global _ours
    _ours = True


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """For a block of imports: torch, transformers, datasets, peft and trl make a million objects, and nearly all stay.

    A sixth of the time of importing them went into collections that found little (10 MiB of cycles).
    """
    global _ours
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if _ours:
            gc.freeze()
            _ours = False
        gc.enable()
