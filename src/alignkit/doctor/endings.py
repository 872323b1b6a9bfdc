"""How a run ended: what its last words mean, and what to try."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from alignkit.doctor.examples import shown_rows
from alignkit.doctor.findings import Case, Finding
from alignkit.model_folders import safetensors_problem
from alignkit.report.numbers import finite, general, size

NOT_FINITE = re.compile(r"the (loss|gradient norm) is (-?\w+) at step (\d+) \(examples: (.*?)\)(?:;|$)")
NO_SPACE = ("No space left on device", "Errno 28", "Disk quota exceeded", "Errno 122", "MiB free")
SPIKE = 10.0
"""A gradient norm of so many times the median is a spike."""
HIGH = 0.1
"""A learning rate above it is a mistake for any model, under any optimizer that transformers has."""
NAMED = 8  # examples of a batch that are named


def ending(case: Case) -> Iterator[Finding]:
    """What the state, and the error that stands in it, say."""
    if case.state == "running":
        yield Finding("running", "note", "The run is still going; what follows holds for the part that is logged.")
    elif case.state == "interrupted":
        yield Finding("interrupted", "note", f"It was stopped: {case.data.error or 'no word of why'}.", _go_on(case))
    elif case.state == "died":
        yield from _died(case)
    elif case.state == "failed":
        yield next(finding for explain in FAILURES if (finding := explain(case)) is not None)
    elif case.state == "empty":
        last = _last_words(case)
        said = f"; the last words of log.txt: {last}" if last else ""
        yield Finding("empty", "warn", f"No training began in this folder{said}.", "start it again")


def _go_on(case: Case) -> str:
    return f"go on with: {case.data.resume}" if case.data.resume else ""


# ---------------------------------------------------------------------- killed
def _died(case: Case) -> Iterator[Finding]:
    logged = _last_step(case)
    found = checkpoints(case)
    known = max([*found, *([] if logged is None else [logged])], default=None)
    place = "before the first step was logged" if known is None else f"after step {known:.0f}"
    half = (case.data.run_dir / "checkpoints" / ".saving").exists()
    saving = ", while it wrote a checkpoint (half of one stands in checkpoints/.saving; it is not used)" if half else ""
    what = f"The process ended {place} without a word{saving}: it was killed (kill -9, the kernel for want of memory, "
    what += "the scheduler's limit), or the machine went down."
    if killed := _killed_for_memory():
        what += f" The kernel has ended {killed} process(es) of this container for want of memory since it started."
    advice = [_go_on(case)]
    if found and logged is not None and logged > found[-1]:
        lost = logged - found[-1]
        advice.append(f"it goes on from checkpoint-{found[-1]}: {lost:.0f} logged steps are computed again")
        if lost > 50:
            advice.append("a smaller training.save_steps loses less")
    elif not found:
        advice.append("no checkpoint was written, so that it begins anew; a smaller training.save_steps keeps more")
    advice.append("whether it was for memory: `dmesg | grep -i 'killed process'`, or the scheduler's log" + _plan(case))
    yield Finding("died", "bad", what, "; ".join(filter(None, advice)))


def _killed_for_memory() -> int:
    try:
        text = Path("/sys/fs/cgroup/memory.events").read_text(encoding="ascii")
    except (OSError, ValueError):
        return 0
    found = re.search(r"^oom_kill (\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _last_step(case: Case) -> float | None:
    return max((series.steps[-1] for series in case.data.curves.values() if series.steps), default=None)


# ---------------------------------------------------------------------- failed
def _not_finite(case: Case) -> Finding | None:
    found = NOT_FINITE.search(case.data.error)
    if found is None:
        return None
    what, value, step, examples = found.groups()
    names = examples.split(", ")
    batch = ", ".join(names[:NAMED]) + (" and others" if len(names) > NAMED else "")
    told = [f"At step {step} the {what} became {value}; the weights were not touched by it. Its batch: {batch}."]
    advice = []
    norms, losses, rate = case.curve("grad_norm"), case.curve("loss"), _rate(case)
    values = [number for _, number in norms.finite] if norms is not None else []
    if (len(values) > 1 and values[-1] > SPIKE * median(values[:-1])) or _rising(case):
        told.append("Before it the numbers had blown up" + _trail(case) + ": the steps were too large.")
        advice.append(_lower_rate(case))
    elif rate > HIGH:
        told.append(f"The learning rate was {general(rate)}{_trail(case)}: no model stands such steps.")
        advice.append(_lower_rate(case))
    else:
        before = "Nothing was odd before it" if losses is not None else "Nothing was logged before it"
        told.append(f"{before}{_trail(case)}: look at these rows first.")
        advice.append("look at these rows with `alignkit inspect` (an empty answer, a label out of range)")
        advice.append("fp16 overflows where bfloat16 does not; a lower training.learning_rate or max_grad_norm")
    if rows := shown_rows(case, examples):
        told.append("The rows: " + " | ".join(rows))
    if case.data.resume and checkpoints(case):
        advice.append(f"then, from the last good checkpoint: {case.data.resume}")
    return Finding("not_finite", "bad", " ".join(told), "; ".join(advice))


def _rate(case: Case) -> float:
    """The learning rate at the end, or what the recipe says where none was logged."""
    series = case.curve("learning_rate")
    logged = series.last if series is not None else None
    return max(logged or 0.0, case.training("learning_rate") or 0.0)


def _rising(case: Case) -> bool:
    losses = case.curve("loss")
    values = [number for _, number in losses.finite] if losses is not None else []
    return len(values) > 1 and values[-1] > 2 * min(values)


def _trail(case: Case) -> str:
    """The last figures before it went wrong."""
    shown = []
    for name in ("loss", "grad_norm"):
        series = case.curve(name)
        if series is not None and len(series.finite) > 1:
            shown.append(f"{name} " + " → ".join(general(value) for _, value in series.finite[-3:]))
    return f" ({', '.join(shown)})" if shown else ""


def _lower_rate(case: Case) -> str:
    rate = case.training("learning_rate") or 0.0
    if rate > HIGH:
        return f"lower training.learning_rate: it is {rate:g}; 1e-5 (all weights) to 1e-3 (an adapter) are usual"
    return "lower training.learning_rate" + (f": it is {rate:g}, try {rate / 10:g}" if rate else "")


def _out_of_memory(case: Case) -> Finding | None:
    error = case.data.error
    if "out of memory" not in error.lower() and "can't allocate memory" not in error:
        return None
    what, _, advice = error.partition("; try ")
    what = f"It ran {what}." if what.startswith("out of memory") else f"Memory ran out: {what}."
    hint = advice.removesuffix(".") or "a smaller training.per_device_train_batch_size, or gradient_checkpointing: true"
    return Finding("out_of_memory", "bad", f"{what}{_plan(case)}", f"try {hint}; `alignkit plan` says what each saves")


def _plan(case: Case) -> str:
    """What the run's plan says of the memory that it needs, beside what the device has."""
    told = case.data.section("out_of_memory") or case.data.section("result")
    planned, held = finite(told.get("planned_peak_memory_bytes")), finite(told.get("device_memory_bytes"))
    if planned is None:
        return ""
    parts = told.get("planned_parts")
    largest = sorted(parts.items(), key=lambda item: -float(item[1]))[:3] if isinstance(parts, dict) else []
    names = f" ({', '.join(f'{name} {size(number)}' for name, number in largest)})" if largest else ""
    text = f" The plan counts {size(planned)} for tensors{names}"
    if held is None:
        return f"{text}."
    fits = planned < 0.9 * held
    why = "so that something else held the rest, or memory was fragmented" if fits else "which is too little"
    return f"{text}; the device has {size(held)}, {why}."


def _no_space(case: Case) -> Finding | None:
    if not any(words in case.data.error for words in NO_SPACE):
        return None
    what = f"The disk was full: {case.data.error}."
    advice = "free some space, lower training.save_total_limit, set training.save_only_model, or move the run's folder"
    return Finding("disk_full", "bad", what, "; ".join(filter(None, [advice, "then " + _go_on(case)])))


def _not_allowed(case: Case) -> Finding | None:
    if not any(words in case.data.error for words in ("Errno 13", "Permission denied", "Errno 30", "Read-only")):
        return None
    advice = "; ".join(filter(None, ["make the folder writable again", _go_on(case)]))
    return Finding("not_writable", "bad", f"A file could not be written: {case.data.error}.", advice)


def _rewards(case: Case) -> Finding | None:
    if "gave no usable reward" not in case.data.error and "can't be started again" not in case.data.error:
        return None
    recipe = case.data.run_dir / "recipe.yaml"
    advice = f"mend it and try it with `alignkit reward-test {recipe}`; {_go_on(case)}".removesuffix("; ")
    return Finding("reward_failed", "bad", f"A reward failed: {case.data.error}.", advice)


def _rank(case: Case) -> Finding | None:
    found = re.match(r"rank (\d+)", case.data.error)
    if found is None:
        return None
    what = f"One of the processes ended the run: {case.data.error}."
    advice = "its own log is named there, or its words stand in log.txt; exit code -9 is the kernel's, for memory"
    return Finding("rank_died", "bad", what, "; ".join(filter(None, [advice, _go_on(case)])))


# Words of an error -> what they usually mean.
KNOWN = (
    ("device-side assert", "a token or a label is out of range; CUDA_LAUNCH_BLOCKING=1 names the operation"),
    ("illegal memory access", "a kernel went wrong: try attn_implementation: sdpa, and no custom kernels"),
    ("NCCL", "the processes lost each other: NCCL_DEBUG=INFO says which; check the network and the other ranks' logs"),
    ("CUBLAS", "often memory that ran out within a kernel: try a smaller training.per_device_train_batch_size"),
    ("ConnectionError", "the Hub was not reached: try again, or set HF_HUB_OFFLINE=1 with everything in the cache"),
    ("Too many open files", "raise the limit with `ulimit -n`, or lower training.dataloader_num_workers"),
    ("DataLoader worker", "a worker that reads data was killed, most often for memory: fewer dataloader_num_workers"),
)


def _anything_else(case: Case) -> Finding:
    error = case.data.error or _last_words(case) or "it left no error behind"
    advice = [meaning for words, meaning in KNOWN if words in error or words in case.session]
    if frame := _last_frame(case):
        advice.append(f"it was raised at {frame}")
    advice += ["the whole traceback is in log.txt", _go_on(case)]
    return Finding("failed", "bad", f"It failed: {error.removesuffix('.')}.", "; ".join(filter(None, advice)))


FAILURES: tuple[Callable[[Case], Finding | None], ...] = (
    _not_finite, _out_of_memory, _no_space, _not_allowed, _rewards, _rank, _anything_else,
)  # fmt: skip


def _last_words(case: Case) -> str:
    lines = [line.strip() for line in case.session.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _last_frame(case: Case) -> str:
    """FILE:LINE, the innermost of the last traceback in the log."""
    frames = re.findall(r'^  File "([^"]+)", line (\d+)', case.session, re.MULTILINE)
    return "{}:{}".format(*frames[-1]) if frames else ""


# ---------------------------------------------------------------------- what it left behind
def checkpoints(case: Case) -> list[int]:
    """The steps of those that look complete, in order."""
    return sorted(step for step, problem in _checkpoints(case.data.run_dir / "checkpoints") if not problem)


def left_behind(case: Case) -> Iterator[Finding]:
    """Checkpoints and results that are not whole."""
    folder = case.data.run_dir
    for step, problem in _checkpoints(folder / "checkpoints"):
        if problem:
            advice = f"remove {folder / 'checkpoints' / f'checkpoint-{step}'}: `--resume` then takes the one before it"
            yield Finding("checkpoint", "bad", f"checkpoint-{step} is not whole: {problem}.", advice)
    model = folder / "model"
    for path in sorted(model.glob("*.safetensors")) if model.is_dir() else ():
        if broken := safetensors_problem(path):
            yield Finding(
                "result", "bad", f"The result cannot be loaded: {broken}.", "copy it again, or " + _go_on(case)
            )
    if case.state == "finished" and not case.data.result.kind:
        yield Finding("result", "bad", "The run is finished, but model/ holds no model.", "it was moved or removed")


def _checkpoints(folder: Path) -> list[tuple[int, str]]:
    """(step, what is wrong or nothing) of each checkpoint, by what its files show; no hash is computed."""
    found = []
    for entry in sorted(folder.glob("checkpoint-*")) if folder.is_dir() else ():
        number = entry.name.removeprefix("checkpoint-")
        if not number.isdigit():
            continue
        problem = "" if (entry / "trainer_state.json").is_file() else "it has no trainer_state.json"
        for path in sorted(entry.glob("*")):
            if path.is_file() and path.stat().st_size == 0:
                problem = problem or f"{path.name} is empty"
            elif path.suffix == ".safetensors":
                problem = problem or safetensors_problem(path) or ""
        found.append((int(number), problem))
    return sorted(found)
