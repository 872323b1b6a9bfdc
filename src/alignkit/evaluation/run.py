"""A run's evaluation: its tasks on the tuned model, then on the model that training started from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, set_seed

from alignkit.errors import Problem, UserError
from alignkit.evaluation.scores import Score
from alignkit.evaluation.split import eval_split, train_split
from alignkit.evaluation.stage import Say
from alignkit.evaluation.tasks import evaluate_tasks
from alignkit.model_folders import describe_folder, head_of, start_of
from alignkit.models import build_model, build_tokenizer, choose_precision, load_result
from alignkit.models.adapters import changes_base
from alignkit.models.start import recipe_start

if TYPE_CHECKING:
    from alignkit.data import Prepared
    from alignkit.models import Precision
    from alignkit.recipe import EvaluationTask, Recipe

TUNED, BASELINE = "tuned", "baseline"
FOLDER = "evaluation"


def evaluate_run(
    recipe: Recipe,
    run_dir: Path,
    tuned_model: Any | None,
    tokenizer: Any,
    *,
    start: str | None = None,
    precision: Precision | None = None,
    prepared: Prepared | None = None,
    load_baseline: Callable[[], Any] | None = None,
    out_dir: Path | None = None,
    say: Say = print,
) -> list[Score]:
    """Run `recipe.evaluation`; scores.json and its companions go into `out_dir` (by default run_dir/evaluation).

    Args:
        tuned_model: None scores the baseline alone, on every task.
        start: the folder that `model.from_recipe` came to.
        prepared: the run's data, whose eval split tasks without data of their own are given.
        load_baseline: builds the model that training started from; by default from the recipe. A model whose adapter
            alone was trained is not loaded twice: its baseline is the same model with the adapter switched off.

    Raises:
        UserError, RunFailed: see `evaluate_tasks`.
    """
    if not recipe.tasks():
        return []
    precision = precision or choose_precision(recipe, start)

    def evaluate(model: Any, label: str) -> list[Score]:
        every = enumerate(recipe.tasks())
        alone = label == TUNED or tuned_model is None
        wanted = {f"evaluation.{number}": task for number, task in every if task.baseline is not False or alone}
        return evaluate_tasks(
            list(wanted.values()),
            model,
            tokenizer,
            base_dir=recipe.base_dir,
            model_label=label,
            out_dir=out_dir or run_dir / FOLDER,
            eval_examples=eval_split(recipe, prepared),
            seed=recipe.seed,
            say=say,
            loss_on=None if recipe.data is None else recipe.data.loss_on,
            precision=precision,
            problem=recipe.problem,
            fields=list(wanted),
            train_examples=train_split(recipe, prepared),
            place=str(run_dir / "model") if label == TUNED else start_of(recipe, start),
        )

    scores = [] if tuned_model is None else evaluate(tuned_model, TUNED)
    asked = any(task.baseline is not False for task in recipe.tasks())
    if asked and tuned_model is not None and _has_no_head(recipe, start):
        say("the model that training started from has no head yet, and would answer by chance: it is not scored")
    elif asked or tuned_model is None:
        with _baseline(recipe, tuned_model, tokenizer, precision, start, load_baseline, say) as model:
            scores += evaluate(model, BASELINE)
    return scores


@contextlib.contextmanager
def _baseline(
    recipe: Recipe,
    tuned: Any | None,
    tokenizer: Any,
    precision: Precision,
    start: str | None,
    load: Callable[[], Any] | None,
    say: Say,
) -> Iterator[Any]:
    """The model that training started from, for as long as it is needed."""
    if load is None and recipe.adapter is not None and adapter_alone(tuned):
        assert tuned is not None
        with tuned.disable_adapter():
            yield tuned
        return
    say("loading the baseline, the model that training starts from")
    if load is not None:
        yield load()
        return
    set_seed(recipe.seed)  # `init: random` draws the weights that training drew
    plain = recipe.model_copy(update={"adapter": None})
    merged = getattr(recipe.adapter, "on_top_of", None)
    model = build_model(recipe if merged else plain, tokenizer, precision, recipe.head, start=start)
    model = model if recipe.quantization is not None else model.to(precision.device)
    with model.disable_adapter() if merged else contextlib.nullcontext():
        yield model


def _has_no_head(recipe: Recipe, start: str | None) -> bool:
    """Whether a classifier's head was new when training started: what it answered then is chance."""
    if recipe.head == "causal_lm":
        return False
    found = recipe_start(recipe, start)
    if found is None or found.adapter is not None:
        return found is None
    config = AutoConfig.from_pretrained(
        found.base, revision=found.base_revision, trust_remote_code=recipe.model.trust_remote_code
    )
    return head_of(config.to_dict()) != recipe.head


def adapter_alone(model: Any) -> bool:
    """Whether all that was trained is one adapter that can be switched off, which leaves what training started from."""
    alone = len(getattr(model, "peft_config", {})) == 1 and hasattr(model, "disable_adapter")
    return alone and not changes_base(model)


def evaluate_target(
    target: Recipe | str | Path,
    *,
    tasks: Sequence[EvaluationTask] = (),
    out_dir: Path | None = None,
    start: str | None = None,
    prepare: Callable[[Any], Prepared] | None = None,
    say: Say = print,
) -> list[Score]:
    """What `alignkit eval RECIPE|RUN|MODEL` does, once the command line is read.

    Args:
        target: a recipe (for a run: the run's own recipe.yaml): the tuned model is `output_dir/model` if it is there,
            else the start model alone is scored, as the baseline. Or a model: a folder, an adapter folder or a Hub id,
            scored under the label `tuned`.
        tasks: for a recipe, tasks in place of its own; for a model, the tasks.
        out_dir: where the scores go; by default `output_dir/evaluation`, and for a model folder `FOLDER/evaluation`.
        start: the folder that `model.from_recipe` came to.
        prepare: tokenizer -> the recipe's data, asked for where a task needs an eval split held out by
            `data.eval_fraction`.

    Raises:
        UserError: no tasks, or what `evaluate_run` raises.
    """
    if isinstance(target, str | Path):
        return _evaluate_model(str(target), tasks, out_dir, say)
    recipe = target.model_copy(update={"evaluation": list(tasks)}) if tasks else target
    if not recipe.tasks():
        raise UserError(recipe.problem("evaluation", "there is nothing to evaluate", "add tasks, or give --task"))
    run_dir = Path(recipe.output_dir)
    precision = choose_precision(recipe, start)
    tuned, tokenizer = None, None
    if (run_dir / "model").is_dir():
        say(f"loading {run_dir / 'model'}")
        tuned, tokenizer = _load_tuned(recipe, run_dir / "model", precision)
    else:
        say(f"{run_dir} holds no trained model: the model that training would start from is scored")
        tokenizer = build_tokenizer(recipe, start=start)
    held_out = recipe.data is not None and recipe.data.eval_fraction is not None
    needed = held_out and any(task.data is None or task.task == "classification" for task in recipe.tasks())
    prepared = prepare(tokenizer) if needed and prepare is not None else None
    return evaluate_run(
        recipe,
        run_dir,
        tuned,
        tokenizer,
        start=start,
        precision=precision,
        prepared=prepared,
        say=say,
        out_dir=out_dir,
    )


def _load_tuned(recipe: Recipe, folder: Path, precision: Precision) -> tuple[Any, Any]:
    quantization = None if recipe.quantization is None else recipe.quantization.arguments()
    # A full model's weights in the type they were trained in, as the baseline's are: rounding tells them apart.
    full = recipe.adapter is None and recipe.quantization is None
    return load_result(
        folder,
        replace(precision, frozen_dtype=precision.trainable_dtype) if full else precision,
        recipe.head,
        quantization=quantization,
        trust_remote_code=recipe.model.trust_remote_code,
        use_safetensors=recipe.model.use_safetensors,
        attn_implementation=recipe.model.attn_implementation,
    )


def _evaluate_model(name: str, tasks: Sequence[EvaluationTask], out_dir: Path | None, say: Say) -> list[Score]:
    if not tasks:
        raise UserError(Problem("a model alone says nothing of what to evaluate", hint="give --task"))
    say(f"loading {name}")
    local = Path(name).is_dir()
    classifier = any(task.task == "classification" for task in tasks)
    head: Any = describe_folder(name).head if local else "sequence_classification" if classifier else "causal_lm"
    model, tokenizer = load_result(name, head=head)
    folder = Path(name) if local else Path(name.replace("/", "--"))
    return evaluate_tasks(
        tasks,
        model,
        tokenizer,
        base_dir=Path.cwd(),
        model_label=TUNED,
        out_dir=out_dir or folder / FOLDER,
        place=name,
        say=say,
        fields=["--task"] * len(tasks),
    )
