"""EleutherAI's lm-evaluation-harness on the model that is already loaded, through its Python API (extra `lm-eval`)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alignkit.errors import Problem, UserError
from alignkit.evaluation.scores import SAMPLES, Score, replace_lines, scores_of
from alignkit.evaluation.stage import Stage
from alignkit.metrics.measurement import mean_of

if TYPE_CHECKING:
    from alignkit.recipe import EvaluationTask
    from alignkit.recipe.sections import HarnessSection

NORMAL_95 = 1.959964


def evaluate(task: EvaluationTask, stage: Stage) -> list[Score]:
    """Run the harness's tasks; each of their metrics is a score of the task `NAME/HARNESS TASK`.

    A metric that is the mean of its items gets alignkit's own interval, over items; another (a corpus score, a group's
    mean) the harness's value ± 1.96 of its standard errors, or none where it gives no error.

    Raises:
        UserError: lm_eval is not installed, a task is unknown or can't be read, or needs code to be run.
    """
    assert task.lm_eval is not None, "the recipe's rules want the section"
    results = _run(task, task.lm_eval, stage)
    about = stage.about(task, "test")
    scores: list[Score] = []
    for name, values in results["results"].items():
        samples = results["samples"].get(name, [])
        where = {**about, "name": f"{task.name}/{name}"}
        signature = _signature(results, name, stage)
        for key in values:
            metric, comma, filtered = key.partition(",")
            if comma and not metric.endswith("_stderr"):
                up = results["higher_is_better"].get(name, {}).get(metric) is not False
                scores += _scored(metric, filtered, values, samples, where, signature, up)
        records = [_record(sample, where) for sample in samples]
        if records:
            replace_lines(stage.out_dir / SAMPLES, records, name=where["name"], model=stage.label)
    return scores


def _run(task: EvaluationTask, section: HarnessSection, stage: Stage) -> dict[str, Any]:
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        hint = "pip install 'alignkit[lm-eval]'"
        raise UserError(Problem(f"lm-evaluation-harness is not installed ({error})", field="task", hint=hint)) from None
    for name in ("lm_eval", "lm-eval"):
        logging.getLogger(name).setLevel(logging.ERROR)
    folder = None if section.include_path is None else str((stage.base_dir / section.include_path).resolve())
    manager = TaskManager(include_path=folder)
    if unknown := [name for name in section.tasks if not manager.match_tasks([name])]:
        hint = "`python -m lm_eval ls tasks` lists them; tasks of your own lie in include_path"
        raise UserError(Problem(f"the harness has no task {unknown[0]}", field="lm_eval.tasks", hint=hint))
    stage.say(f"{task.name} ({stage.label}): lm-evaluation-harness runs {', '.join(section.tasks)}")
    try:
        with stage.evaluating():
            model = HFLM(pretrained=stage.model, tokenizer=stage.tokenizer, batch_size=task.batch_size)
            found: dict[str, Any] = simple_evaluate(
                model,
                tasks=list(section.tasks),
                task_manager=manager,
                log_samples=True,
                bootstrap_iters=1000,
                random_seed=stage.seed,
                numpy_random_seed=stage.seed,
                torch_random_seed=stage.seed,
                fewshot_random_seed=stage.seed,
                num_fewshot=section.num_fewshot,
                limit=task.max_rows if section.limit is None else section.limit,
                apply_chat_template=section.apply_chat_template,
                fewshot_as_multiturn=section.fewshot_as_multiturn,
                system_instruction=section.system_instruction,
                gen_kwargs=section.gen_kwargs,
                confirm_run_unsafe_code=section.confirm_run_unsafe_code,
            )
    except (ValueError, KeyError, FileNotFoundError, ConnectionError) as error:
        text = " ".join(str(error).split())
        raise UserError(Problem(f"the harness can't run this: {text[:300]}", field="lm_eval")) from error
    return found


def _signature(results: Mapping[str, Any], name: str, stage: Stage) -> str:
    shots, version = results["n-shot"].get(name), results["versions"].get(name)
    parts = [f"lm_eval:{results['lm_eval_version']}", f"shots:{shots}", f"task_version:{version}", stage.arithmetic]
    return "|".join(parts)


def _scored(
    metric: str,
    filtered: str,
    values: Mapping[str, Any],
    samples: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
    signature: str,
    up: bool,
) -> list[Score]:
    value = values[f"{metric},{filtered}"]
    if not isinstance(value, int | float | np.number) or not math.isfinite(value):
        return []
    name = metric if filtered == "none" else f"{metric} ({filtered})"
    signature = signature if filtered == "none" else f"{signature}|filter:{filtered}"
    items = [sample[metric] for sample in samples if sample["filter"] == filtered and metric in sample]
    plain = bool(items) and all(isinstance(item, int | float | bool | np.number) for item in items)
    if plain and math.isclose(float(np.mean(items)), value, rel_tol=1e-9, abs_tol=1e-12):
        right_or_wrong = bool(np.isin(items, (0, 1)).all())
        measured = mean_of(name, np.array(items, float), "", higher_is_better=up, right_or_wrong=right_or_wrong)
        return scores_of([measured], about, signature=signature)
    error = values.get(f"{metric}_stderr,{filtered}")
    known = isinstance(error, int | float | np.number) and math.isfinite(error)
    half = NORMAL_95 * float(error) if known else None  # type: ignore[arg-type]
    interval = None if half is None else [float(value) - half, float(value) + half]
    count = values.get("sample_len") or len(items)
    return [{**about, "metric": name, "value": float(value), "ci95": interval, "n": count, "signature": signature}]


def _record(sample: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """A line of samples.jsonl: what was asked, what was answered, and what each metric says of it."""
    asked = sample["arguments"][0][0] if sample["arguments"] else ""
    answered = sample["filtered_resps"]
    if isinstance(answered, list) and answered and not isinstance(answered[0], str):
        # A choice among continuations: the likeliest is the answer. Each response begins with its log-likelihood.
        likelihoods = [one[0] if isinstance(one, list | tuple) else one for one in answered]
        best = int(np.argmax(likelihoods))
        answered = sample["arguments"][best][1] if len(sample["arguments"]) == len(likelihoods) else answered
    prediction = answered[0] if isinstance(answered, list) and answered else answered
    metrics = {name: sample[name] for name in sample["metrics"] if isinstance(sample.get(name), int | float)}
    filtered = sample["filter"]
    return {
        **about,
        "id": str(sample["doc_id"]) if filtered == "none" else f"{sample['doc_id']} ({filtered})",
        "prompt": str(asked),
        "references": [str(sample["target"])],
        "prediction": str(prediction),
        "metrics": {name: float(value) for name, value in metrics.items() if math.isfinite(value)},
    }
