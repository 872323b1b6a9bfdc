"""What a run with rewards earned: its curves, how much of it taught nothing, and completions through training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignkit.report import numbers
from alignkit.report.blocks import Block, Cell, Charts, Column, Fact, Facts, Fold, Prose, Section, Table
from alignkit.report.charts import line_chart
from alignkit.report.curves import Panel, Series
from alignkit.report.data import ReportData, as_text

WATCHED = (
    "frac_reward_zero_std",
    "reward_std",
    "completions/mean_length",
    "completions/clipped_ratio",
    "entropy",
    "kl",
    "clip_ratio/region_mean",
    "cispo_clip_ratio",
)
STEPS = 8  # of which completions are shown
CHARACTERS = 300


def rewards(data: ReportData) -> Section | None:
    """Only for runs whose log holds rewards of completions."""
    if "frac_reward_zero_std" not in data.curves:
        return None
    blocks: list[Block] = [Facts(_facts(data), "tiles")]
    blocks.append(Charts(_charts(data.curves, ["eval_exact_match", *_functions(data.curves), *WATCHED]), small=True))
    blocks += _completions(data.completions)
    return Section("rewards", "Rewards", blocks)


def _functions(curves: Mapping[str, Series]) -> list[str]:
    return [name for name in curves if name.startswith("rewards/") and name.endswith("/mean")]


def _charts(curves: Mapping[str, Series], names: Sequence[str]) -> list[Any]:
    found = [line_chart(Panel(name, (curves[name],)), True) for name in names if name in curves]
    return [chart for chart in found if chart is not None]


def _facts(data: ReportData) -> list[Fact]:
    """Figures over the whole run."""
    curves, facts = data.curves, []
    reward = curves.get("reward")
    if reward is not None and reward.first is not None and reward.last is not None:
        facts.append(Fact("Reward", f"{reward.first:.3f} → {reward.last:.3f}", "first and last logged"))
    check = curves.get("eval_exact_match")
    if check is not None and check.first is not None and check.last is not None:
        facts.append(Fact("Held-out exact match, greedy", f"{check.first:.1%} → {check.last:.1%}", "while training"))
    flat = _mean(curves["frac_reward_zero_std"])
    if flat is not None:
        facts.append(Fact("Groups without spread", f"{flat:.0%}", "all rewards equal: nothing is learned from them"))
    for name, series in curves.items():
        mean = _mean(series)
        if name.startswith("rewards/") and name.endswith("/none") and mean:
            label = name.removeprefix("rewards/").removesuffix("/none")
            facts.append(Fact(f"No reward from {label}", f"{mean:.1%}", "of its samples", "warn"))
    left_out = curves.get("difficulty/left_out")
    if left_out is not None and left_out.last:
        group = numbers.finite(data.recipe_at("training", "num_generations")) or 1
        saved = numbers.count(round(left_out.last * group))
        detail = f"{numbers.count(round(left_out.last))} turns of prompts that are nearly always or never solved"
        facts.append(Fact("Completions saved by difficulty sampling", saved, detail, "good"))
    return facts


def _mean(series: Series) -> float | None:
    values = [value for _, value in series.finite]
    return sum(values) / len(values) if values else None


# ---------------------------------------------------------------------- completions
def _completions(lines: Sequence[Mapping[str, Any]]) -> list[Block]:
    if not lines:
        return []
    trained = [line for line in lines if line.get("kind") in ("best", "worst")]
    blocks: list[Block] = []
    if changed := _changed([line for line in lines if line.get("kind") == "held_out"]):
        blocks.append(changed)
    if trained:
        blocks.append(Fold("Completions through training: the best and the worst", [_extremes(trained)], open=True))
    blocks.append(Prose("All of them are in samples.jsonl.", tone="quiet"))
    return blocks


def _extremes(lines: Sequence[Mapping[str, Any]]) -> Table:
    """Of some steps, evenly spread, the first and the last among them."""
    steps = sorted({line["step"] for line in lines})
    shown = {steps[round(place * (len(steps) - 1) / max(1, STEPS - 1))] for place in range(min(STEPS, len(steps)))}
    rows = [
        [as_text(line.get("step")), as_text(line.get("kind")), _reward(line.get("reward")), _cut(line.get("prompt")),
         _cut(line.get("completion"))]
        for line in lines if line["step"] in shown
    ]  # fmt: skip
    columns = [Column("Step", True), Column("Of its batch"), Column("Reward", True), Column("Prompt"),
               Column("Completion")]  # fmt: skip
    return Table(columns, rows, stack=True)


def _changed(lines: Sequence[Mapping[str, Any]]) -> Table | None:
    """Held-out prompts by how much the reward of their greedy completion has changed."""
    first: dict[str, Mapping[str, Any]] = {}
    last: dict[str, Mapping[str, Any]] = {}
    for line in lines:
        name = as_text(line.get("id"))
        first.setdefault(name, line)
        last[name] = line
    pairs = [(first[name], last[name]) for name in first if first[name] is not last[name]]
    if not pairs:
        return None
    pairs.sort(key=lambda pair: -abs(_number(pair[1]) - _number(pair[0])))
    rows: list[list[Cell | str]] = [
        [_cut(before.get("prompt")), _said(before), _said(after)] for before, after in pairs
    ]
    columns = [Column("Held-out prompt"), Column("At first"), Column("At the end")]
    return Table(columns, rows, "Greedy completions of held-out prompts, the most changed first", stack=True)


def _said(line: Mapping[str, Any]) -> Cell:
    return Cell(_cut(line.get("completion")) or "(nothing)", f"reward {_reward(line.get('reward'))}")


def _number(line: Mapping[str, Any]) -> float:
    return numbers.finite(line.get("reward")) or 0.0


def _reward(value: Any) -> str:
    return "–" if value is None else numbers.general(value)


def _cut(value: Any) -> str:
    text = as_text(value)
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]} …"
