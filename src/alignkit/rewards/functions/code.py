"""Running code that a model wrote. It limits accidents; it is NOT a security boundary (docs/rewards.md)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

_FENCE = re.compile(r"```(?:python|py)?\s*\n(.*?)```", re.DOTALL)

# Runs first in the child: limits, then no network, then the program. Written as text so that the child imports nothing
# of ours. An audit hook can't be removed from inside Python, but native code gets round it; a network namespace of its
# own (where the kernel allows one to be made) can't be left.
_CHILD = """
import ctypes, json, resource, sys
task = json.loads(sys.stdin.read())
for name, value in task["limits"].items():
    resource.setrlimit(getattr(resource, name), (value, value))
try:
    ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)
except Exception:
    pass
def no_network(event, arguments):
    started = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.fork")
    if event.startswith("socket.") or event in started:
        raise PermissionError("not allowed in a test: " + event)
sys.addaudithook(no_network)
sys.stdin = open("/dev/null")
scope = {"__name__": "__candidate__"}
exec(compile(task["code"], "<completion>", "exec"), scope)
passed = 0
for test in task["tests"]:
    try:
        exec(compile(test, "<test>", "exec"), scope)
        passed += 1
    except BaseException:
        pass
import os
os.write(task["report"], str(passed).encode())
os._exit(0)
"""


def code_tests(
    completion: str,
    tests: str | Sequence[str],
    *,
    run_code: bool,
    partial: bool = False,
    wall_seconds: float = 10.0,
    cpu_seconds: int = 5,
    memory_mb: int = 512,
    file_mb: int = 1,
) -> float:
    """1 if the completion's Python code passes all `tests` (statements, `assert …`); with `partial`, the share passed.

    The code is the last fenced block, else the whole completion. It runs in a process of its own, in an empty folder
    that is removed, with limits on CPU, memory, file size and wall clock, and without network.
    """
    assert run_code, "refused when the recipe is read"
    listed = [tests] if isinstance(tests, str) else [str(test) for test in tests]
    blocks = _FENCE.findall(completion)
    limits = {
        "RLIMIT_CPU": cpu_seconds,
        "RLIMIT_AS": memory_mb * 2**20,
        "RLIMIT_FSIZE": file_mb * 2**20,
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
    }
    task = {"code": blocks[-1] if blocks else completion, "tests": listed, "limits": limits}
    passed = _run(task, wall_seconds)
    if not listed:
        return 0.0
    return passed / len(listed) if partial else float(passed == len(listed))


def _run(task: dict[str, Any], wall_seconds: float) -> int:
    """How many of the task's tests passed; 0 where it ended in any other way than by itself."""
    with tempfile.TemporaryDirectory(prefix="alignkit-code-") as folder:
        reading, writing = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder},
            pass_fds=[writing],
            start_new_session=True,
        )
        os.close(writing)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(json.dumps({**task, "report": writing}).encode(), timeout=wall_seconds)
        finally:
            _kill_group(process.pid)
            process.wait()
            os.set_blocking(reading, False)
            said = _read(reading)
            os.close(reading)
    return int(said) if said.isdigit() and process.returncode == 0 else 0


def _read(handle: int) -> bytes:
    try:
        return os.read(handle, 32)
    except BlockingIOError:
        return b""


def _kill_group(leader: int) -> None:
    """Kill the process group that `leader` leads; nothing where it has gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
