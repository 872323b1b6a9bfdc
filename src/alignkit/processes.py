"""Several processes of one run: which Accelerate config says so, how they are started, watched and ended.

Accelerate's launcher starts no process group on CPUs, so those processes are started here, each with the variables of
torch's `env://` start. For GPUs it is `accelerate launch` that starts them. Either way every rank writes how it ended
into a folder that this process reads, and the first that went wrong is the one that is told.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from alignkit.errors import Interrupted, Problem, RunFailed, UserError
from alignkit.recipe.shipped import folder as shipped_folder
from alignkit.recipe.suggest import closest

OPTION = "--accelerate"
CONFIG_FIELDS = ("compute_environment", "distributed_type", "num_processes", "num_machines", "use_cpu")
"""A file with none of these is no Accelerate config."""
GRACE_S = 3.0  # what the other ranks get, once one has ended badly, before they are killed
POLL_S = 0.05
FOLDER = "ALIGNKIT_RANK_FOLDER"  # where a rank writes its pid and how it ended; set in launched processes only
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # SIGUSR1 is what SLURM sends before a time limit


@dataclass(frozen=True)
class Processes:
    """What an Accelerate config asks for."""

    path: Path
    kind: Literal["here", "cpu", "accelerate"]
    num_processes: int
    num_machines: int
    machine_rank: int
    address: str
    port: int

    @property
    def per_machine(self) -> int:
        return self.num_processes // self.num_machines


# ---------------------------------------------------------------------- configs
def shipped() -> dict[str, Path]:
    """The shipped configs by name."""
    return {path.stem: path for path in shipped_folder("accelerate_configs").glob("*.yaml")}


def read_config(name: str) -> Processes:
    """The config of this name (a shipped one) or path.

    On several machines `NODE_RANK` or `SLURM_NODEID`, `MASTER_ADDR` and `MASTER_PORT` win over the file: one file
    serves all machines.

    Raises:
        UserError: no such config, or one that can't be used.
    """
    path = shipped().get(name) or Path(name)
    if not path.is_file():
        known = shipped()
        near = closest(name, known)
        hint = f"did you mean {near}?" if near else f"there are {', '.join(sorted(known))}, or a path"
        raise UserError(Problem(f"no Accelerate config {name}", field=OPTION, hint=hint))
    try:
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (YAMLError, OSError, UnicodeDecodeError) as error:
        raise UserError(Problem(f"can't be read: {' '.join(str(error).split())}", path)) from error
    if not isinstance(values, dict):
        raise UserError(Problem("is no Accelerate config: it holds no fields", path))
    if not any(name in values for name in CONFIG_FIELDS):
        raise UserError(Problem(f"is no Accelerate config: it has none of {', '.join(CONFIG_FIELDS)}", path))
    return _processes(path, values)


def _processes(path: Path, values: Mapping[str, Any]) -> Processes:
    if str(values.get("mixed_precision", "no")).lower() not in ("no", "false"):
        hint = "say mixed_precision: 'no' here, and model.dtype in the recipe"
        raise UserError(Problem("the recipe decides the precision", path, field="mixed_precision", hint=hint))
    machines = _whole(path, values, "num_machines", 1)
    number = _whole(path, values, "num_processes", 0) or machines * (1 if values.get("use_cpu") else _gpus(path))
    if number % machines:
        message = f"{number} processes can't be shared out to {machines} machines evenly"
        raise UserError(Problem(message, path, field="num_processes"))
    sharded = values.get("distributed_type") in ("FSDP", "DEEPSPEED")
    kind: Literal["here", "cpu", "accelerate"] = "accelerate"
    if number == 1 and not sharded:
        kind = "here"
    elif values.get("use_cpu"):
        kind = "cpu"
    rank = os.environ.get("NODE_RANK") or os.environ.get("SLURM_NODEID") if machines > 1 else None
    address = os.environ.get("MASTER_ADDR") if machines > 1 else None
    port = os.environ.get("MASTER_PORT") if machines > 1 else None
    default_port = 29500 if machines > 1 else _free_port()
    found = Processes(
        path=path,
        kind=kind,
        num_processes=number,
        num_machines=machines,
        machine_rank=_number(path, "machine_rank", rank or values.get("machine_rank") or 0),
        address=address or str(values.get("main_process_ip") or "127.0.0.1"),
        port=_number(path, "main_process_port", port or values.get("main_process_port") or default_port),
    )
    if not 0 <= found.machine_rank < machines:
        message = f"{found.machine_rank} is no rank of {machines} machines"
        raise UserError(Problem(message, path, field="machine_rank", hint="they count from 0"))
    return found


def _number(path: Path, name: str, value: Any) -> int:
    """A number of the file, or of the environment, where it is text."""
    try:
        return int(value)
    except (TypeError, ValueError):
        raise UserError(Problem(f"must be a whole number, got {value!r}", path, field=name)) from None


def _gpus(path: Path) -> int:
    """The GPUs that this machine's processes may use, counted without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return max(1, len([name for name in visible.split(",") if name.strip() not in ("", "-1")]))
    try:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        hint = "say num_processes in a copy of the file, or use --accelerate cpu"
        raise UserError(Problem("nvidia-smi finds no GPU here", path, field="num_processes", hint=hint)) from None
    return max(1, sum(line.startswith("GPU ") for line in found.splitlines()))


def _whole(path: Path, values: Mapping[str, Any], name: str, default: int) -> int:
    if name not in values:
        return default
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(Problem(f"must be a whole number from 1 on, got {value!r}", path, field=name))
    return value


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# ---------------------------------------------------------------------- in a rank
def world_size() -> int:
    """Processes of this run; 1 where it was not launched as several."""
    return int(os.environ.get("WORLD_SIZE", "1")) if FOLDER in os.environ else 1


def is_main() -> bool:
    """Whether this process is the one that writes and speaks."""
    return world_size() == 1 or int(os.environ.get("RANK", "0")) == 0


@contextlib.contextmanager
def first_on_this_machine() -> Iterator[None]:
    """The machine's first rank runs the block alone, then the others: what it leaves in a cache, they find.

    Nothing waits in a collective meanwhile, so nothing times out, however long it takes.
    """
    if world_size() == 1:
        yield
        return
    done = Path(os.environ[FOLDER]) / "first-is-done"
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        yield
        done.touch()
    else:
        while not done.exists():
            time.sleep(POLL_S)
        yield


def end_with_parent() -> None:
    """When the process that started this rank is killed, stop as by SIGTERM: finish the step, write a checkpoint."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="watches the launcher").start()


def announce() -> None:
    """Tell the launcher this rank's process id: signals come to it directly, past any launcher between."""
    (Path(os.environ[FOLDER]) / f"rank-{os.environ['RANK']}.pid").write_text(str(os.getpid()))


def tell(ending: BaseException | None) -> None:
    """Write down how this rank ended; None for well."""
    words: dict[str, Any] = {"kind": "finished", "time": time.time()}
    if isinstance(ending, UserError):
        problems = [(p.message, str(p.file) if p.file else None, p.line, p.field, p.hint) for p in ending.problems]
        words |= {"kind": "user", "problems": problems}
    elif isinstance(ending, Interrupted):
        words |= {"kind": "interrupted", "message": str(ending), "resume": ending.resume}
    elif ending is not None:
        words |= {"kind": "failed", "message": str(ending) or type(ending).__name__}
    path = Path(os.environ[FOLDER]) / f"rank-{os.environ['RANK']}.json"
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(words))
    aside.replace(path)


# ---------------------------------------------------------------------- in the launcher
def run(config: Processes, job: Any, keep_open: Sequence[int] = ()) -> None:
    """Run `job` in this machine's ranks and wait for all of them.

    Args:
        keep_open: descriptors that the ranks inherit: a lock is held until the last of them has ended.

    Raises:
        UserError, RunFailed, Interrupted: how the first rank that ended badly did.
    """
    folder = Path(tempfile.mkdtemp(prefix="alignkit-ranks-"))
    try:
        (folder / "job").write_bytes(pickle.dumps(job))
        group = _Group(config, folder, keep_open)
        with group.forwarding_signals():
            group.wait()
        group.raise_ending()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Group:
    """The processes of one machine."""

    def __init__(self, config: Processes, folder: Path, keep_open: Sequence[int]) -> None:
        self.folder = folder
        self.asked: signal.Signals | None = None
        self.killed: set[int] = set()  # children that were ended from here
        self.first_rank = config.machine_rank * config.per_machine
        self.expected = range(self.first_rank, self.first_rank + config.per_machine)
        make = _cpu_commands if config.kind == "cpu" else _accelerate_command
        self.children = [
            subprocess.Popen(command, env=environment, start_new_session=True, pass_fds=tuple(keep_open))
            for command, environment in make(config, folder)
        ]
        self.one_each = config.kind == "cpu"

    def wait(self) -> None:
        """Until all have ended. Once one has ended badly, the others follow within `GRACE_S` seconds."""
        deadline: float | None = None
        while None in [child.poll() for child in self.children]:
            bad = any(ending["kind"] in ("failed", "user") for ending in self.endings().values())
            if bad or self.died() is not None:
                deadline = deadline or time.monotonic() + GRACE_S
            if deadline is not None and time.monotonic() > deadline:
                self.kill()
            time.sleep(POLL_S)

    def died(self) -> tuple[int, int] | None:
        """(child, exit code) of one that ended without a word, by no hand of ours: killed, or crashed."""
        told = self.endings()
        for number, child in enumerate(self.children):
            silent = not (self.one_each and self.first_rank + number in told)
            if child.returncode not in (None, 0) and silent and number not in self.killed:
                return number, child.returncode
        return None

    def kill(self) -> None:
        for number, child in enumerate(self.children):
            if child.poll() is None:
                self.killed.add(number)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)

    def endings(self) -> dict[int, dict[str, Any]]:
        """How each rank says that it ended."""
        return {
            int(path.stem.removeprefix("rank-")): json.loads(path.read_text())
            for path in self.folder.glob("rank-*.json")
        }

    @contextlib.contextmanager
    def forwarding_signals(self) -> Iterator[None]:
        """Stop signals go on to every rank; afterwards the handlers from before come back."""

        def forward(number: int, _frame: FrameType | None) -> None:
            self.asked = signal.Signals(number)
            pids = [int(path.read_text() or 0) for path in self.folder.glob("rank-*.pid")]
            if len(pids) < len(self.expected):  # still starting: nothing is lost
                self.kill()
            for pid in filter(None, pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
        try:
            yield
        except BaseException:
            self.kill()
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def raise_ending(self) -> None:
        endings = self.endings()
        if all(endings.get(rank, {}).get("kind") == "finished" for rank in self.expected):
            return
        bad = sorted(
            (ending["time"], rank, ending) for rank, ending in endings.items() if ending["kind"] in ("failed", "user")
        )
        died = self.died()
        if died is not None and self.one_each:
            how = f"was killed by {signal.Signals(-died[1]).name}" if died[1] < 0 else f"exited with {died[1]}"
            raise RunFailed(f"rank {self.first_rank + died[0]} {how}; the other ranks were ended")
        if bad:
            _, rank, ending = bad[0]
            if ending["kind"] == "user":
                raise UserError([Problem(*problem) for problem in ending["problems"]])
            raise RunFailed(f"rank {rank}: {ending['message']}")
        stopped = [ending for ending in endings.values() if ending["kind"] == "interrupted"]
        if stopped:
            resume = next((ending["resume"] for ending in stopped if ending["resume"]), None)
            raise Interrupted(stopped[0]["message"], resume)
        if self.asked is not None:
            raise Interrupted(f"stopped by {self.asked.name}")
        codes = ", ".join(str(child.returncode) for child in self.children)
        raise RunFailed(f"a process ended without a word (exit codes: {codes})")


def _cpu_commands(config: Processes, folder: Path) -> list[tuple[list[str], dict[str, str]]]:
    threads = str(max(1, (os.cpu_count() or 1) // config.per_machine))
    made = []
    for local in range(config.per_machine):
        environment = {
            "OMP_NUM_THREADS": threads,
            **os.environ,
            "RANK": str(config.machine_rank * config.per_machine + local),
            "LOCAL_RANK": str(local),
            "WORLD_SIZE": str(config.num_processes),
            "LOCAL_WORLD_SIZE": str(config.per_machine),
            "MASTER_ADDR": config.address,
            "MASTER_PORT": str(config.port),
            "ACCELERATE_USE_CPU": "true",
            "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),  # DDP's advice, from every rank
            FOLDER: str(folder),
        }
        made.append(([sys.executable, "-m", "alignkit.rank", str(folder / "job")], environment))
    return made


def _accelerate_command(config: Processes, folder: Path) -> list[tuple[list[str], dict[str, str]]]:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config.path)]
    command += ["--num_processes", str(config.num_processes), "--num_machines", str(config.num_machines)]
    command += ["--machine_rank", str(config.machine_rank), "--main_process_port", str(config.port)]
    if config.num_machines > 1:
        command += ["--main_process_ip", config.address]
    command += ["-m", "alignkit.rank", str(folder / "job")]
    return [(command, {**os.environ, FOLDER: str(folder)})]
