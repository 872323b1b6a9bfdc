"""What a reader sees first: what was trained from what, how it ended, and the figures that sum it up."""

from __future__ import annotations

from dataclasses import dataclass

from alignkit.report import numbers
from alignkit.report.blocks import Bullets, Fact, Facts, Section, Tone
from alignkit.report.curves import Series
from alignkit.report.data import ReportData, dig
from alignkit.report.sections.classification import beside_simple
from alignkit.report.sections.scores import comparisons

METHODS = {
    "classify": "Classification",
    "sft": "Supervised fine-tuning",
    "reward": "Reward model",
    "dpo": "Direct preference optimisation",
    "kto": "Kahneman-Tversky optimisation",
    "grpo": "Group relative policy optimisation",
    "rloo": "REINFORCE leave-one-out",
    "ppo": "Proximal policy optimisation",
}
ONLINE = ("grpo", "rloo", "ppo")
STATES: dict[str, tuple[Tone, str]] = {
    "finished": ("good", "The run finished."),
    "interrupted": ("warn", "The run was interrupted after a checkpoint; it can go on."),
    "failed": ("bad", "The run failed."),
    "died": ("bad", "The run ended without a word: its process was killed, or the machine went down."),
    "running": ("warn", "The run is still going; these figures are the ones so far."),
    "empty": ("quiet", "Nothing says how this run ended."),
}


@dataclass(frozen=True, slots=True)
class Headline:
    """The top of the report."""

    kicker: str
    title: str
    state: str
    tone: Tone
    sentence: str
    base: str
    result: str
    error: str
    resume: str
    date: str


def headline(data: ReportData) -> Headline:
    """Method, model, base → result, and how the run ended."""
    method = str(data.manifest_at("method") or data.recipe_at("method") or "")
    words = [METHODS.get(method, method), tuning(data)]
    tone, sentence = STATES.get(data.state, STATES["empty"])
    if gain := _gain(data) or beside_simple(data.scores):
        sentence = f"{sentence} {gain}"
    return Headline(
        kicker=" · ".join(word for word in words if word),
        title=data.run_dir.resolve().name,
        state="state unknown" if data.state == "empty" else data.state,
        tone=tone,
        sentence=sentence,
        base=base_model(data),
        result=str(data.result.path) if data.result.kind else "",
        error=data.error,
        resume="" if data.state == "finished" else data.resume,
        date=str(data.manifest.get("created") or ""),
    )


def base_model(data: ReportData) -> str:
    """The name of the model that training started from."""
    model = data.recipe_at("model")
    name = data.manifest_at("model", "name_or_path") or data.recipe_at("model", "model_name_or_path")
    if not name and isinstance(model, dict):
        kind = dig(model, "config", "model_type")
        new = f"a new {kind} model" if isinstance(kind, str) else "a new model"
        name = model.get("from_recipe") or (new if model.get("init") == "random" else "")
    return str(name or data.result.base or "")


def key_figures(data: ReportData) -> Section:
    """Losses, speed, time, memory and size, each with what it is measured against."""
    items = [*_losses(data), *_speed(data), *_size(data)]
    return Section("figures", "Key figures", [Facts(items or [Fact("Logged so far", "nothing")], style="tiles")])


def warnings(data: ReportData) -> Section | None:
    """What the run warned of, and what this report could not read."""
    met = [*data.warnings, *(f"Reading the run folder: {note}" for note in data.notes)]
    return Section("warnings", "Warnings", [Bullets(met, tone="warn")]) if met else None


def tuning(data: ReportData) -> str:
    """`QLoRA, rank 16`, or `full fine-tuning`."""
    quantization, adapter = data.recipe_at("quantization"), data.recipe_at("adapter")
    if not isinstance(adapter, dict) or not adapter:
        return "full fine-tuning" if data.recipe else ""
    kind = str(adapter.get("peft_type") or "LORA").upper()
    name = {"LORA": "LoRA"}.get(kind, kind)
    if adapter.get("use_dora"):
        name = "DoRA"
    rank = f", rank {adapter['r']}" if adapter.get("r") else ""
    four_bit = isinstance(quantization, dict) and quantization.get("load_in_4bit")
    return f"{'Q' if four_bit and name == 'LoRA' else ''}{name}{rank}"


def _gain(data: ReportData) -> str:
    """What training changed in the first score that both models have."""
    for row in comparisons(data.scores):
        if row.baseline is not None and row.tuned is not None and row.difference is not None:
            before, after = row.baseline, row.tuned
            words = {"good": "better", "bad": "worse"}.get(row.verdict.tone, "no clear difference")
            return (
                f"{row.metric} on {row.name} went from {numbers.score(before.value, row.metric)} to "
                f"{numbers.score(after.value, row.metric)}: {words}."
            )
    return ""


def _losses(data: ReportData) -> list[Fact]:
    held_out, train = data.curves.get("eval_loss"), data.curves.get("loss")
    if data.manifest_at("method") in ONLINE or data.recipe_at("method") in ONLINE:
        reward = data.curves.get("reward")
        return _reward_facts(reward) if reward is not None else []
    if held_out is not None and held_out.first is not None:
        return _loss_facts(held_out, "Held-out loss")
    return _loss_facts(train, "Training loss") if train is not None and train.first is not None else []


def _reward_facts(series: Series) -> list[Fact]:
    """Where a model learns from its own completions the loss says nothing: the reward is what is to rise."""
    first, last = series.first, series.last
    if first is None or last is None:
        return []
    if len(series.finite) == 1:
        return [Fact("Mean reward", numbers.general(last), f"at step {series.finite[0][0]:,.0f}")]
    tone: Tone = "good" if last > first else "bad" if last < first else "plain"
    return [Fact("Mean reward", numbers.general(last), f"from {numbers.general(first)} at the start", tone)]


def _loss_facts(series: Series, label: str) -> list[Fact]:
    first, last, best = series.first, series.last, series.best()
    if first is None or last is None or best is None:
        return []
    if len(series.finite) == 1:
        return [Fact(label, numbers.general(last), f"at step {series.finite[0][0]:,.0f}")]
    tone: Tone = "good" if last < first else "bad"
    facts = [Fact(label, numbers.general(last), f"from {numbers.general(first)} at the start", tone)]
    if best[1] < last:
        facts.append(Fact(f"Best {label.lower()}", numbers.general(best[1]), f"at step {best[0]:,.0f}"))
    return facts


def _speed(data: ReportData) -> list[Fact]:
    result = data.section("result")
    facts = []
    speed = numbers.finite(result.get("tokens_per_second"))
    if speed is None and (series := data.curves.get("tokens_per_second")) is not None and series.finite:
        ordered = sorted(value for _, value in series.finite)
        speed = ordered[len(ordered) // 2]
    if speed is not None:
        tokens = numbers.finite(result.get("tokens"))
        facts.append(
            Fact("Tokens a second", numbers.compact(speed), f"{numbers.compact(tokens)} tokens" if tokens else "")
        )
    if numbers.finite(result.get("wall_time_s")) is not None:
        training = numbers.finite(result.get("train_time_s"))
        detail = f"{numbers.duration(training)} of it training" if training is not None else ""
        facts.append(Fact("Wall time", numbers.duration(result["wall_time_s"]), detail))
    if (steps := _steps(data)) is not None:
        first = numbers.finite(result.get("first_step_s"))
        detail = f"first one after {numbers.duration(first)}" if first is not None else ""
        facts.append(Fact("Optimizer steps", numbers.count(steps), detail))
    return facts


def _steps(data: ReportData) -> float | None:
    steps = numbers.finite(data.manifest_at("result", "steps"))
    logged = [series.steps[-1] for series in data.curves.values() if series.steps]
    return steps if steps is not None else max(logged, default=None)


def _size(data: ReportData) -> list[Fact]:
    facts = []
    memory = numbers.finite(data.manifest_at("result", "peak_memory_bytes"))
    if memory is not None:
        facts.append(Fact("Peak memory", numbers.size(memory), str(data.section("result").get("peak_memory_of") or "")))
    total = numbers.finite(data.manifest_at("model", "parameters"))
    trained = numbers.finite(data.manifest_at("model", "trainable_parameters"))
    if total is not None and trained is not None:
        detail = f"of {numbers.compact(total)} ({numbers.share(trained, total)})" if trained != total else "all of them"
        facts.append(Fact("Parameters trained", numbers.compact(trained), detail))
    elif total is not None:
        facts.append(Fact("Parameters", numbers.compact(total)))
    return facts
