"""Rewards that run apart: a process that can be killed, asked from a thread so that the trainer does not wait."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from alignkit.rewards.call import Answer, Call, Failure

STARTING_S = 120.0  # libraries load slowly from a network's disk, and a user's file may load much


class Refused(Exception):
    """The reward can't be loaded."""


class Isolated:
    """One reward in a process of its own: started now, started anew after each kill.

    One thread asks it, so that calls come back in order; `ask` returns a Future at once.

    Args:
        spec: what `process.main` loads.
        timeout: seconds for a sample (kind `name`), else for a call.
        max_failed: the share of a call's samples that may fail before the rest is not tried.
        log: where what the function prints goes.
    """

    def __init__(self, spec: Mapping[str, Any], timeout: float, max_failed: float, log: Path | None) -> None:
        self.spec, self.timeout, self.max_failed, self.log = dict(spec), timeout, max_failed, log
        # The process ends with the thread that started it (prctl): this thread lives as long as the reward.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="alignkit-reward")
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._started = self._thread.submit(self._start)

    def require(self) -> None:
        """Wait until it is loaded. Raises Refused with the reason where it can't be."""
        self._started.result()

    def ask(self, call: Call) -> Future[Answer]:
        answer = self._thread.submit(self._answer, call)
        self._thread.submit(self._ensure)  # after a kill: before the next call needs it
        return answer

    def close(self) -> None:
        """Kill the process, also in the middle of a call: whoever waits for its answer is told Refused."""
        self._closed = True
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self._thread.submit(self._stop)
        self._thread.shutdown(wait=False)

    # ------------------------------------------------------------------ in the thread
    def _start(self) -> None:
        ours, theirs = Pipe()
        output: int | IO[bytes] = subprocess.DEVNULL if self.log is None else self.log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "alignkit.rewards.process", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": _import_path()},
            start_new_session=True,  # a Ctrl-C at the terminal is for the trainer
        )
        theirs.close()
        if not isinstance(output, int):
            output.close()
        self._connection = ours
        ours.send(self.spec)
        reply = self._receive(STARTING_S)
        if reply is None or reply[0] != "ready":
            self._stop()
            raise Refused(reply[1] if reply else "its process ended, or did not start in time")

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _receive(self, seconds: float) -> Any:
        """The next reply; None where there is none in time or the process has ended."""
        assert self._connection is not None
        try:
            return self._connection.recv() if self._connection.poll(seconds) else None
        except (EOFError, OSError):
            return None

    def _ensure(self) -> None:
        if self._closed:
            raise Refused("it was closed")
        if self._process is None or self._process.poll() is not None:
            self._stop()
            self._start()

    def _send(self, call: Call) -> None:
        self._ensure()
        assert self._connection is not None
        self._connection.send(call)

    def _died(self) -> Failure:
        """Kill what does not answer, and say how it went."""
        assert self._process is not None
        code = self._process.poll()
        if code is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(0.05)
        self._stop()
        if code is None:
            return Failure(f"it took longer than {self.timeout:g} s, and was killed")
        return Failure(f"its process ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}")

    def _too_many(self, failed: int, tried: int) -> bool:
        return failed > self.max_failed * max(tried, 16)

    def _answer(self, call: Call) -> Answer:
        return self._one_by_one(call) if self.spec["kind"] == "name" else self._together(call)

    def _one_by_one(self, call: Call) -> Answer:
        """A built-in function: the samples in order; after one that hangs, the rest in a new process."""
        values: list[Any] = []
        failed = 0
        while len(values) < len(call):
            if self._too_many(failed, len(call)):
                return Answer([*values, *[Failure("not tried: too many before it failed")] * (len(call) - len(values))])
            self._send(call.only(range(len(values), len(call))))
            while len(values) < len(call):
                reply = self._receive(self.timeout)
                if reply is None:
                    values.append(self._died())
                    failed += 1
                    break
                values.append(reply[2])
        return Answer(values)

    def _together(self, call: Call) -> Answer:
        """A function that scores a whole call. Where that fails, each sample is tried alone, to find out the bad ones,
        and the good ones are scored together once more: a function may compare them."""
        answer = self._once(call)
        if isinstance(answer, Answer):
            return answer
        if len(call) == 1:
            return Answer([answer])
        values: list[Any] = []
        for place in range(len(call)):
            if self._too_many(sum(isinstance(value, Failure) for value in values), len(call)):
                values += [Failure("not tried: too many before it failed")] * (len(call) - place)
                break
            alone = self._once(call.only([place]))
            values.append(alone if isinstance(alone, Failure) else alone.values[0])
        good = [place for place, value in enumerate(values) if not isinstance(value, Failure)]
        if not good:
            return Answer(values)
        again = self._once(call.only(good))
        if isinstance(again, Failure):
            return Answer([again] * len(call))  # it works alone and not together: nothing it says can be trusted
        for place, value in zip(good, again.values, strict=True):
            values[place] = value
        # What was logged for some samples only would shift the columns of TRL's table: it is filled up.
        extra = [(name, _filled(logged, good, len(call))) for name, logged in again.extra]
        return Answer(values, extra, again.metrics)

    def _once(self, call: Call) -> Answer | Failure:
        self._send(call)
        reply = self._receive(self.timeout)
        if reply is None:
            return self._died()
        if reply[0] == "raised":
            return Failure(reply[1])
        answer: Answer = reply[1]
        if len(answer.values) != len(call):
            return Failure(f"it returned {len(answer.values)} rewards for {len(call)} samples")
        return answer


def _filled(values: list[Any], places: list[int], size: int) -> list[Any]:
    if len(values) != len(places):
        return values
    filled: list[Any] = [None] * size
    for place, value in zip(places, values, strict=True):
        filled[place] = value
    return filled


def _import_path() -> str:
    """So that the process finds this package, however this one found it."""
    package = str(Path(__file__).parents[2])
    return os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
