"""A plan as text. No torch."""

from __future__ import annotations

from typing import Any

PART_NOTES = {
    "weights": "as they are held, quantised ones packed",
    "activations": "kept from the forward pass for the backward pass",
    "temporaries": "alive at that moment only",
    "logits": "rows as long as the vocabulary",
}


def as_text(plan: dict[str, Any]) -> str:
    """Everything that a reader decides by, the figure first."""
    lines = [
        f"{plan['recipe']}: {plan['method']}, {_count(plan['parameters'])} parameters, "
        f"{_count(plan['trainable_parameters'])} trained",
        f"peak memory {size(plan['peak_memory_bytes'])} on {plan['device']}, {plan['moment']}",
        *_parts(plan),
        *_work(plan),
        *_fits(plan),
        *_options(plan),
        *(f"note: {note}" for note in plan["notes"]),
    ]
    return "\n".join(lines)


def _parts(plan: dict[str, Any]) -> list[str]:
    rows = sorted(plan["parts"].items(), key=lambda item: -item[1])
    notes = [PART_NOTES.get(part, "") for part, _ in rows]
    return [f"  {part:<14} {size(value):>10}  {note}".rstrip() for (part, value), note in zip(rows, notes, strict=True)]


def _work(plan: dict[str, Any]) -> list[str]:
    rows, columns = plan["micro_batch"]
    accumulated = f" × {plan['accumulation']} accumulated" if plan["accumulation"] > 1 else ""
    steps = "" if plan["steps"] is None else f", {plan['steps']:,} steps"
    return [
        f"a step: {rows} × {columns} tokens{accumulated} = {plan['tokens_per_step']:,} real tokens, "
        f"{_flops(plan['flops_per_step'])}{steps}"
    ]


def _fits(plan: dict[str, Any]) -> list[str]:
    lines = []
    for gpu in plan["gpus"]:
        time = "" if gpu["step_seconds"] is None else f"  {_seconds(gpu['step_seconds'])} a step"
        total = "" if gpu["total_seconds"] is None else f", {_seconds(gpu['total_seconds'])} in all"
        lines.append(f"  {gpu['name']:<16} {gpu['verdict']:<12}{time}{total}")
    share = f"at {plan['utilisation']:.0%} of its speed, assumed" if lines else ""
    asked = len(plan["gpus"]) < 2 or plan["options"]
    hint = [] if asked else ["  (with --gpu NAME or --options: what would make it fit, each change simulated)"]
    return [f"GPUs ({share}):", *lines, *hint] if lines else []


def _options(plan: dict[str, Any]) -> list[str]:
    lines = [
        f"  {size(option['peak_memory_bytes']):>10}  {_where(option):<20} {option['change']}"
        for option in plan.get("options", ())
    ]
    if plan.get("max_batch") is not None:
        lines.append(f"largest micro-batch that fits: {plan['max_batch']}")
    return (["what would help, each simulated:", *lines] if plan.get("options") else lines) if lines else []


def _where(option: dict[str, Any]) -> str:
    if option["verdict"] is not None:
        return str(option["verdict"])
    return f"fits {option['smallest_gpu']}" if option["smallest_gpu"] else "fits none of them"


def comparison(plans: list[dict[str, Any]]) -> str:
    """Several plans, a line each."""
    head = ["recipe", "method", "parameters", "trained", "peak memory", "work a step", "smallest GPU"]
    rows = [head] + [
        [
            plan["recipe"],
            plan["method"],
            _count(plan["parameters"]),
            _count(plan["trainable_parameters"]),
            size(plan["peak_memory_bytes"]),
            _flops(plan["flops_per_step"]),
            (plan["smallest_gpu"] or "none of the common") if "smallest_gpu" in plan else plan["device"],
        ]
        for plan in plans
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 2 <= place <= 5 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def size(number: int) -> str:
    """Bytes in GiB, or in MiB where that says more."""
    return f"{number / 2**30:,.2f} GiB" if number >= 2**30 else f"{number / 2**20:,.2f} MiB"


def _count(number: int) -> str:
    for unit, divisor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= divisor:
            return f"{number / divisor:,.2f}{unit}"
    return str(number)


def _flops(number: int) -> str:
    return f"{number / 1e12:,.1f} TFLOP" if number >= 1e11 else f"{number / 1e9:,.1f} GFLOP"


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
