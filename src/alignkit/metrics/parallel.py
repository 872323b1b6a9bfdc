"""Map a function over chunks of texts in worker processes.

The workers are plain `python -m` processes that read and write pickles: unlike a fork they are safe after CUDA or
threads have started, and unlike `multiprocessing`'s spawn they never import the caller's script a second time.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, BinaryIO

Progress = Callable[[int, int], None]

CHUNK = 1000
MOST_PROCESSES = 16


def processes_for(items: int, per_process: int) -> int:
    """How many processes `items` are worth when each should get at least `per_process` of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, MOST_PROCESSES, items // per_process))


def map_chunks(
    function: Callable[..., list[Any]],
    columns: Sequence[Sequence[Any]],
    *,
    per_process: int,
    progress: Progress | None = None,
    **options: Any,
) -> list[Any]:
    """`function(*columns, **options)` -> one result for each item, computed in chunks; equal to a single call.

    `function` must be importable (module level). Exceptions of a worker are raised here.
    """
    total = len(columns[0])
    starts = range(0, total, CHUNK)
    results: list[list[Any]] = [[] for _ in starts]
    count = processes_for(total, per_process)
    done = 0
    lock = threading.Lock()

    def finish(index: int, result: list[Any]) -> None:
        nonlocal done
        results[index] = result
        with lock:
            done += len(result)
            if progress is not None:
                progress(done, total)

    def chunk(index: int) -> list[Sequence[Any]]:
        return [column[starts[index] : starts[index] + CHUNK] for column in columns]

    if count == 1:
        for index in range(len(starts)):
            finish(index, function(*chunk(index), **options))
    else:
        _run_workers(count, function, options, len(starts), chunk, finish)
    return [item for part in results for item in part]


def _run_workers(
    count: int,
    function: Callable[..., list[Any]],
    options: dict[str, Any],
    chunks: int,
    chunk: Callable[[int], list[Sequence[Any]]],
    finish: Callable[[int, list[Any]], None],
) -> None:
    """Feed chunks to `count` worker processes, a thread for each, until none is left or one has failed."""
    todo: SimpleQueue[int] = SimpleQueue()
    for index in range(chunks):
        todo.put(index)
    errors: list[BaseException] = []
    workers = [_start_worker() for _ in range(count)]

    def serve(worker: subprocess.Popen[bytes]) -> None:
        assert worker.stdin is not None and worker.stdout is not None
        try:
            _send(worker.stdin, (function, options))
            while not errors:
                try:
                    index = todo.get_nowait()
                except Empty:
                    return
                _send(worker.stdin, chunk(index))
                result = pickle.load(worker.stdout)
                if isinstance(result, BaseException):
                    raise result
                finish(index, result)
        except (EOFError, OSError):
            errors.append(RuntimeError("a worker process that computes metrics died (out of memory?)"))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=serve, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:
        for worker in workers:
            worker.kill()
        for thread in threads:
            thread.join()
        for worker in workers:
            worker.communicate()
    if errors:
        raise errors[0]


def _start_worker() -> subprocess.Popen[bytes]:
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from alignkit.metrics.parallel import work; work()"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _send(stream: BinaryIO | Any, value: Any) -> None:
    pickle.dump(value, stream, protocol=pickle.HIGHEST_PROTOCOL)
    stream.flush()


def work() -> None:
    """The worker's loop: one (function, options), then chunks until the caller hangs up."""
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # a library that prints must not spoil the pickles
    try:
        function, options = pickle.load(stdin)
        while True:
            columns = pickle.load(stdin)
            try:
                result: Any = function(*columns, **options)
            except Exception as error:
                result = error
            _send(stdout, result)
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        return
