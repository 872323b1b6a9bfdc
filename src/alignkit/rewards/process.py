"""The process in which rewards run that can hang or crash: `python -m alignkit.rewards.process FD`.

It is sent pickles over a socket: first what to load, then calls. It answers `("ready",)` or `("refused", why)`; then,
for each call, `("one", place, value)` for every sample as it is done, or `("all", Answer)`, or `("raised", why)`.
What a function prints goes to the run's log.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.util
import inspect
import math
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from numbers import Real
from pathlib import Path
from typing import Any

from alignkit.rewards.call import Answer, Call, Failure, text_of


def main(handle: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # Linux: end with the parent, even inside a call that hangs
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(handle)
    try:
        answer = _loaded(connection.recv())
    except BaseException as error:
        connection.send(("refused", _last_line(error)))
        return
    connection.send(("ready",))
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            answer(connection, connection.recv())


def _loaded(spec: Mapping[str, Any]) -> Callable[[Connection, Call], None]:
    if spec["kind"] == "name":
        from alignkit.rewards.functions.registry import Bound

        bound = Bound(spec["name"], spec["options"], spec["column"])
        if spec["name"] == "math_answer":
            bound("1", 1, {"answer": "1"})  # its libraries take a second to load: now, not in the first call
        return lambda connection, call: _each(bound, connection, call)
    if spec["kind"] == "judge":
        from alignkit.rewards.judge import Judge

        return _batch(Judge(spec["judge"], spec["column"], **spec["options"]))
    function = load_function(spec["file"])
    return _batch(lambda call: _call_user(function, call, spec["options"]))


def _each(bound: Any, connection: Connection, call: Call) -> None:
    for place in range(len(call)):
        said = bound(text_of(call.completions[place]), len(call.completion_ids[place]), call.sample(place))
        connection.send(("one", place, said))


def _batch(ask: Callable[[Call], Answer]) -> Callable[[Connection, Call], None]:
    def answer(connection: Connection, call: Call) -> None:
        try:
            said = ask(call)
        except BaseException as error:  # also SystemExit: a function that calls exit() must not end us
            traceback.print_exc()
            connection.send(("raised", _last_line(error)))
            return
        connection.send(("all", said))

    return answer


def _last_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


# ---------------------------------------------------------------------- a user's function
def load_function(place: str) -> Callable[..., Any]:
    """What `FILE.py:NAME` defines. The file's folder can be imported from, as where it is run as a script."""
    path, _, name = place.rpartition(":")
    sys.path.insert(0, str(Path(path).parent))
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    function = getattr(module, name)
    if not callable(function):
        raise TypeError(f"{name} is no function")
    return function


def _call_user(function: Callable[..., Any], call: Call, options: Mapping[str, Any]) -> Answer:
    """TRL's signature: prompts, completions, completion_ids, every column, trainer_state, log_extra, log_metric."""
    answer = Answer([])
    said = function(
        prompts=list(call.prompts),
        completions=list(call.completions),
        completion_ids=[list(ids) for ids in call.completion_ids],
        trainer_state=call.trainer_state,
        log_extra=lambda column, values: answer.extra.append((str(column), list(values))),
        log_metric=lambda name, value: answer.metrics.append((str(name), float(value))),
        **{**call.columns, **options},
    )
    if inspect.isawaitable(said):

        async def wait() -> Any:
            return await said

        said = asyncio.run(wait())
    if said is None or isinstance(said, str | bytes | dict) or not hasattr(said, "__iter__"):
        raise TypeError(f"it returned {_shown(said)}, not a list of rewards")
    answer.values = [as_plain(value) for value in said]
    return answer


def as_plain(value: Any) -> Any:
    """A reward as plain Python: numbers of numpy and torch become floats. What is no reward becomes a Failure."""
    if value is None or isinstance(value, Failure):
        return value
    if hasattr(value, "tolist"):  # numpy and torch, without importing either
        value = value.tolist()
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else Failure(f"it returned {float(value)}")
    if isinstance(value, Mapping):
        return _all_numbers({int(place): as_plain(one) for place, one in value.items()}, value)
    if isinstance(value, list | tuple):
        return _all_numbers([as_plain(one) for one in value], value)
    return Failure(f"it returned {_shown(value)}, which is no number")


def _all_numbers(made: Any, value: Any) -> Any:
    numbers = made.values() if isinstance(made, dict) else made
    return made if all(isinstance(one, float) for one in numbers) else Failure(f"it returned {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


if __name__ == "__main__":
    main(int(sys.argv[1]))
