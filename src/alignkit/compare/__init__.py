"""`alignkit compare`: are the differences between runs real, and where do they come from?"""

from __future__ import annotations

import json
import sys
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignkit import statistics
from alignkit.compare.systems import (
    SHARES,
    Item,
    System,
    find_systems,
    labels_in,
    measure,
    more_is_better,
    references_of,
)
from alignkit.compare.table import markdown, print_tables
from alignkit.errors import Problem, UserError
from alignkit.metrics import Measurement

__all__ = ["command", "compare"]

MOST_CHANGED = 3  # each way
ROUNDING = 2e-5  # samples hold six digits of each item's score
Result = dict[str, Any]


def compare(
    runs: Sequence[str | Path],
    *,
    allow_different: bool = False,
    metric: Sequence[str] = (),
    changed: int = MOST_CHANGED,
    resamples: int = statistics.RESAMPLES,
    seed: int = statistics.SEED,
) -> Result:
    """Every score that the systems share, each system against the first, over the same items.

    `runs` are run folders (their tuned model) or `FOLDER:MODEL`; one folder alone is compared with its baseline.
    Returns `{systems, rows, changed, notes}`: a row has the task's name, the metric, each system's value and interval,
    and for each system after the first a comparison (difference with its interval, p-values of the paired bootstrap and
    of approximate randomization, the latter also corrected by Holm over all rows, McNemar's exact p where items are
    right or wrong, wins, losses and ties by item). `changed` holds, for each task, up to `changed` items that gained
    most by its first metric and as many that lost most.

    Raises UserError where the systems saw different items, references or settings, unless `allow_different`: then only
    the items they share are compared, and `notes` says what differed.
    """
    systems = find_systems(runs)
    if len({(system.run.resolve(), system.model) for system in systems}) < len(systems):
        raise UserError("a run is named twice: there is nothing to compare")
    shared = [key for key in systems[0].scores if all(key in system.scores for system in systems)]
    shared = [key for key in shared if not metric or key[1] in metric]
    if not shared:
        raise UserError(_nothing_shared(systems, metric))
    problems, notes = _differences(systems, shared)
    if problems and not allow_different:
        hint = "--allow-different compares the items they share"
        raise UserError([Problem(message, hint=hint) for message in problems])
    notes = [*problems, *notes]
    rows: list[Result] = []
    shifts: list[Result] = []
    for name in dict.fromkeys(name for name, _ in shared):
        task_rows, task_shifts = _compare_task(
            name, [metric for task, metric in shared if task == name], systems, changed, resamples, seed, notes
        )
        rows += task_rows
        shifts += task_shifts
    _correct(rows)
    described = [{"name": system.name, "run": str(system.run), "model": system.model} for system in systems]
    return {"systems": described, "rows": rows, "changed": shifts, "notes": notes}


def _nothing_shared(systems: Sequence[System], metric: Sequence[str]) -> Problem:
    lists = "; ".join(f"{s.name} has {', '.join(f'{n}/{m}' for n, m in s.scores) or 'none'}" for s in systems)
    wanted = f" of {', '.join(metric)}" if metric else ""
    return Problem(f"the runs share no score{wanted} (task/metric): {lists}")


# ---------------------------------------------------------------------- are they comparable?
def _differences(systems: Sequence[System], shared: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """What makes the systems hard to compare, and what is only worth a note."""
    problems, notes = [], []
    first = systems[0]
    for other in systems[1:]:
        tasks = list(dict.fromkeys(name for name, _ in shared))
        of_data = [message for name in tasks if (message := _data_difference(first, other, name))]
        tables = [(first.items.get(name, {}), other.items.get(name, {})) for name in tasks]
        if any(a and b for a, b in tables) and not any(a.keys() & b.keys() for a, b in tables):
            raise UserError([Problem(message) for message in of_data])  # which --allow-different would not help
        problems += of_data
        for key in shared:
            ours, theirs = first.scores[key].get("signature"), other.scores[key].get("signature")
            if ours != theirs and not (first.is_simple or other.is_simple):
                what = _signature_difference(str(ours), str(theirs))
                problems.append(f"{'/'.join(key)}: settings differ between {first.name} and {other.name}: {what}")
        lacking = [f"{n}/{m}" for n, m in first.scores if (n, m) not in other.scores]
        if lacking:
            notes.append(f"{other.name} lacks {', '.join(lacking)}")
    return problems, notes


def _signature_difference(ours: str, theirs: str) -> str:
    """The parts in which two signatures differ."""
    left, right = ours.split("|"), theirs.split("|")
    only_left = "|".join(part for part in left if part not in right) or "nothing"
    only_right = "|".join(part for part in right if part not in left) or "nothing"
    return f"{only_left} against {only_right}"


def _data_difference(first: System, other: System, name: str) -> str | None:
    ours, theirs = first.items.get(name, {}), other.items.get(name, {})
    where = f"{name}: the data differ between {first.name} and {other.name}"
    if ours.keys() != theirs.keys():
        both = len(ours.keys() & theirs.keys())
        return f"{where}: {len(ours)} and {len(theirs)} items, {both or 'none'} in common"
    changed = [key for key in ours if _asked(ours[key]) != _asked(theirs[key])]
    if changed:
        return f"{where}: {len(changed)} items with the same id, such as {changed[0][0]}, differ"  # type: ignore[index]
    return None


def _asked(item: Item) -> Any:
    """What an item asks of the model. A prompt as rendered may differ by template; its references and size may not."""
    return references_of(item), item.get("label"), item.get("bytes")


# ---------------------------------------------------------------------- one task
def _compare_task(
    name: str,
    wanted: Sequence[str],
    systems: Sequence[System],
    changed: int,
    resamples: int,
    seed: int,
    notes: list[str],
) -> tuple[list[Result], list[Result]]:
    """The task's rows, and the items whose score by its first metric changed most."""
    tables = [system.items.get(name, {}) for system in systems]
    keys = [key for key in tables[0] if all(key in table and _same(tables[0][key], table[key]) for table in tables)]
    items = [[table[key] for key in keys] for table in tables]
    ids = [item["id"] for item in items[0]]
    clusters = ids if len(set(ids)) < len(ids) else None
    labels = set().union(*map(labels_in, items))
    rows: list[Result] = []
    shifts: list[Result] = []
    for metric in wanted:
        scores = [system.scores[name, metric] for system in systems]
        found = [
            measure(metric, score, part, tuple(labels)) if part else None
            for score, part in zip(scores, items, strict=True)
        ]
        whole = all(len(part) == len(table) for part, table in zip(items, tables, strict=True))
        faithful = all(_agrees(one, score) for one, score in zip(found, scores, strict=True)) or not whole
        row: Result = {"name": name, "metric": metric, "higher_is_better": more_is_better(metric), "comparisons": []}
        measured = [one for one in found if one is not None]
        if len(measured) < len(systems) or not faithful:
            notes.append(f"{name}/{metric}: the items on disk don't give this score again; no test")
            row["systems"] = [{"value": score["value"], "ci95": score["ci95"]} for score in scores]
            row["n"] = scores[0]["n"]
        else:
            grouped = clusters if measured[0].n == len(ids) else None
            row |= _tested(measured, scores if whole else None, grouped, resamples, seed)
            if not shifts and measured[0].n == len(ids) and metric not in SHARES:
                shifts = _most_changed(name, metric, measured, items, row["higher_is_better"], changed)
        rows.append(row)
    return rows, shifts


def _same(ours: Item, theirs: Item) -> bool:
    return bool(_asked(ours) == _asked(theirs))


def _agrees(found: Measurement | None, score: Result) -> bool:
    return found is not None and bool(np.isclose(found.value, score["value"], rtol=ROUNDING, atol=ROUNDING))


def _tested(
    found: Sequence[Measurement],
    scores: Sequence[Result] | None,
    clusters: Sequence[Hashable] | None,
    resamples: int,
    seed: int,
) -> Result:
    """Values and intervals (those on file where all items are compared), and each system against the first."""
    first = found[0]
    if scores is None:
        limits = statistics.intervals(found, clusters=clusters, resamples=resamples, seed=seed)
        systems = [{"value": m.value, "ci95": list(ends)} for m, ends in zip(found, limits, strict=True)]
    else:
        systems = [{"value": score["value"], "ci95": score["ci95"]} for score in scores]
    comparisons = []
    for other in found[1:]:
        if not (first.can_resample and other.can_resample):
            continue
        test = statistics.compare(first, other, clusters=clusters, resamples=resamples, seed=seed)
        gain = (other.items - first.items) * (1 if first.higher_is_better else -1)
        wins, losses = int((gain > 1e-9).sum()), int((gain < -1e-9).sum())
        comparisons.append(
            {
                "difference": test.difference,
                "ci95": [test.low, test.high],
                "p_bootstrap": test.p_bootstrap,
                "p_randomization": test.p_randomization,
                "p_mcnemar": statistics.mcnemar_exact(losses, wins)
                if _right_or_wrong(first, other, clusters)
                else None,
                "wins": wins,
                "losses": losses,
                "ties": first.n - wins - losses,
            }
        )
    return {"n": first.n, "systems": systems, "comparisons": comparisons}


def _right_or_wrong(first: Measurement, other: Measurement, clusters: Sequence[Hashable] | None) -> bool:
    return (
        clusters is None
        and first.name in ("accuracy", "exact_match", "numeric_match", "preference_accuracy")
        and all(np.isin(measured.items, (0.0, 1.0)).all() for measured in (first, other))
    )


def _most_changed(
    name: str, metric: str, found: Sequence[Measurement], items: Sequence[Sequence[Item]], more: bool, most: int
) -> list[Result]:
    """The items that gained most from the first system to the last, then those that lost most."""
    shift = found[-1].items - found[0].items
    gain = shift if more else -shift
    gained = [i for i in np.argsort(-gain, kind="stable")[:most].tolist() if gain[i] > 1e-9]
    lost = [i for i in np.argsort(gain, kind="stable")[:most].tolist() if gain[i] < -1e-9]
    return [
        {
            "name": name,
            "metric": metric,
            "id": items[0][i]["id"],
            "better": i in gained,
            "values": [float(one.items[i]) for one in found],
            "prompt": items[0][i].get("prompt"),
            "references": references_of(items[0][i]),
            "predictions": [part[i].get("prediction") for part in items],
        }
        for i in gained + lost
    ]


def _correct(rows: Sequence[Result]) -> None:
    """Holm over every comparison made: the randomization's p-value, or the bootstrap's where there is none."""
    every = [comparison for row in rows for comparison in row["comparisons"]]
    raw = [c["p_bootstrap"] if c["p_randomization"] is None else c["p_randomization"] for c in every]
    for comparison, adjusted in zip(every, statistics.holm(raw), strict=True):
        comparison["p_holm"] = adjusted


# ---------------------------------------------------------------------- the command
def command(
    runs: Sequence[str | Path],
    *,
    allow_different: bool = False,
    metric: Sequence[str] = (),
    as_json: bool = False,
    out: Path | None = None,
) -> None:
    """Print the comparison, and write it as Markdown and JSON.

    They go to `out` (a file's name without its ending), by default into the last run:
    `evaluation/compare-FIRST.md` and `.json`.
    """
    result = compare(runs, allow_different=allow_different, metric=metric)
    last = result["systems"][-1]
    first_name = result["systems"][0]["name"].replace("/", "-").replace(":", "-")
    target = out or Path(last["run"]) / "evaluation" / f"compare-{first_name}"
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    if as_json:
        print(text)
    else:
        print_tables(result)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_name(target.name + ".json").write_text(text + "\n", encoding="utf-8")
        target.with_name(target.name + ".md").write_text(markdown(result), encoding="utf-8")
    except OSError as error:
        raise UserError(Problem(f"cannot write it: {error.strerror}", file=target, field="--out")) from error
    print(f"written to {target}.md and .json", file=sys.stderr)
