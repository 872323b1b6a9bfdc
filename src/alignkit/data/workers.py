"""Rendering in several processes, where one is too slow.

The workers are plain subprocesses that read pickles from stdin: unlike `multiprocessing`'s they neither copy the
threads of this process (fork) nor import the user's main script again (spawn).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any

from alignkit.data.render import Rendered, Renders
from alignkit.data.rows import RenderedRow
from alignkit.examples import Dropped, Example

Chunk = list[Example]
Result = Sequence[Rendered | RenderedRow | Dropped]

CHUNK = 512  # examples
# Rendering in this process is quick to start, and the tokenizer has threads of its own: other processes pay only on
# machines with some cores, and once it has taken this many seconds.
PATIENCE_S = 10.0
MIN_CORES = 4


def render_all(renderer: Renders, examples: Iterable[Example], processes: int | None = None) -> Iterator[Result]:
    """Results of chunks of examples, in order.

    Args:
        processes: how many; None: one, and all cores once that has taken long.
    """
    chunks = _chunks(examples)
    spent = 0.0
    limit = processes or _cores()
    for chunk in chunks:
        if limit > 1 and (processes is not None or (spent > PATIENCE_S and limit >= MIN_CORES)):
            yield from _render_apart(renderer, itertools.chain([chunk], chunks), limit)
            return
        began = time.perf_counter()
        result = renderer.render(chunk)
        spent += time.perf_counter() - began
        yield result


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _chunks(examples: Iterable[Example]) -> Iterator[Chunk]:
    stream = iter(examples)
    while chunk := list(itertools.islice(stream, CHUNK)):
        yield chunk


def _render_apart(renderer: Renders, chunks: Iterable[Chunk], processes: int) -> Iterator[Result]:
    try:
        pickled = pickle.dumps(renderer)
    except (pickle.PicklingError, AttributeError, TypeError):  # a tokenizer of the user's own making
        yield from map(renderer.render, chunks)
        return
    with contextlib.ExitStack() as stack:
        idle: deque[_Worker] = deque(stack.enter_context(_Worker(pickled)) for _ in range(processes))
        threads = stack.enter_context(ThreadPoolExecutor(processes))

        def render(chunk: Chunk) -> Result:
            worker = idle.popleft()
            try:
                return worker.render(chunk)
            except (OSError, EOFError, pickle.UnpicklingError, struct.error):
                return renderer.render(chunk)  # a worker that died: what it was given is not lost
            finally:
                idle.append(worker)

        waiting: deque[Future[Result]] = deque()
        for chunk in chunks:
            waiting.append(threads.submit(render, chunk))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Worker:
    """One subprocess; ends when its stdin does."""

    def __init__(self, renderer: bytes) -> None:
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-c", "from alignkit.data.workers import serve; serve()"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._renderer: bytes | None = renderer

    def __enter__(self) -> _Worker:
        return self

    def render(self, chunk: Chunk) -> Result:
        assert self.process.stdin is not None and self.process.stdout is not None
        if self._renderer is not None:
            _send(self.process.stdin, self._renderer)
            self._renderer = None
        _send(self.process.stdin, pickle.dumps(chunk))
        result: Result = pickle.loads(_receive(self.process.stdout))
        return result

    def __exit__(self, *_: Any) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()


def _send(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(struct.pack("<Q", len(data)) + data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes:
    header = pipe.read(8)
    if len(header) < 8:
        raise EOFError
    (length,) = struct.unpack("<Q", header)
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return data


def serve() -> None:
    """What a worker does: a renderer first, then chunks, until stdin ends."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the results
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        renderer = pickle.loads(_receive(sys.stdin.buffer))
        while True:
            _send(results, pickle.dumps(renderer.render(pickle.loads(_receive(sys.stdin.buffer)))))
