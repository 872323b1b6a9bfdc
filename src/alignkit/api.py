"""The Python API: the words of the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from alignkit import gpus, launch, methods, preflight
from alignkit import recipe as recipes
from alignkit.errors import Problem, UserError
from alignkit.examples import recognised
from alignkit.importing import importing
from alignkit.recipe import EvaluationTask, OnlineRecipe, Recipe
from alignkit.runs import Run

if TYPE_CHECKING:
    from alignkit.rewards.trial import Trial
    from alignkit.verify_resume import Result as VerifiedResume


def load_recipe(recipe: str | Path | Mapping[str, Any], sets: Sequence[str] = (), method: str | None = None) -> Recipe:
    """Read and validate a recipe: a YAML file, or the same as a mapping (its paths are relative to the current folder).

    Args:
        sets: changes, each as `section.field=value`.
        method: the method that the recipe must be of, or None.

    Raises:
        UserError: with every problem found, each at its file and line.
    """
    if isinstance(recipe, Mapping):
        return recipes.load_mapping(recipe, methods.recipe_classes(), base_dir=Path.cwd())
    return methods.load_recipe(recipe, sets, method)


def check(recipe: Recipe) -> list[tuple[str, str, str]]:
    """How each local source is read: (field, source, layout), once nothing is wrong with it. Imports no torch.

    Raises:
        UserError: with everything that the recipe's files alone can tell to be wrong.
    """
    shapes = methods.get(recipe.method).shapes
    preflight.require(recipe, shapes)
    found = recognised(recipe, shapes)
    return [(field, source.path or f"generate:{source.generate}", layout.name) for field, source, layout in found]


def plan(recipes: Sequence[str | Path], sets: Sequence[str] = (), **options: Any) -> list[dict[str, Any]]:
    """What each recipe needs: memory in bytes and where it stands, FLOPs, tokens, time, and which GPUs it fits.

    Args:
        options: those of `plan_each`.

    Raises:
        UserError: a recipe that does not validate, an unknown GPU, or a model that cannot be simulated.
    """
    found = list(plan_each(recipes, sets, **options))
    problems = [problem for one in found if isinstance(one, UserError) for problem in one.problems]
    if problems:
        raise UserError(problems)
    return [one for one in found if isinstance(one, dict)]


def plan_each(
    recipes: Sequence[str | Path],
    sets: Sequence[str] = (),
    *,
    gpu: str | None = None,
    num_gpus: int = 1,
    accelerate: str | None = None,
    max_batch: bool = False,
    what_helps: bool = False,
) -> Iterator[dict[str, Any] | UserError]:
    """Each recipe's plan as soon as it is made, or what keeps it from being made.

    Recipes that train nothing are left out where there are others.

    Args:
        gpu: a name of the table in `alignkit.gpus`, "cpu" for this machine's processor, or None for what suits.
        num_gpus: GPUs that share the work, with the sharding that `accelerate` names (ddp, zero2, zero3, fsdp2).
        max_batch: also find the largest micro-batch that fits on `gpu`.
        what_helps: also simulate what would need less memory; done anyway where it does not fit on `gpu`.

    Raises:
        UserError: an option that no recipe can be planned with.
    """
    target = gpu if gpu is None or gpu.lower() == gpus.CPU else gpus.find(gpu)
    if max_batch and not isinstance(target, gpus.Gpu):
        raise UserError(Problem("it needs a GPU to fit on", field="--max-batch", hint="add --gpu h100-80gb"))
    given = {"num_gpus": num_gpus, "accelerate": accelerate, "max_batch": max_batch, "what_helps": what_helps}
    idle: list[Problem] = []
    for number, path in enumerate(recipes, start=1):

        def reload(more: list[str], path: str | Path = path) -> Recipe:
            return load_recipe(path, [*sets, *more])

        label = f"{number} of {len(recipes)}, {path}: " if len(recipes) > 1 else ""
        try:
            one = reload([])
            if "training" not in getattr(one, "refused_sections", ()):
                yield launch.plan(one, target, reload, label, **given)
            else:
                idle.append(one.problem("method", "nothing is trained by it, so there is nothing to plan"))
        except UserError as error:
            yield error
    if idle and len(idle) == len(recipes):
        yield UserError(idle)


def evaluate(
    target: Recipe | str | Path,
    *,
    tasks: Sequence[EvaluationTask | Mapping[str, Any]] = (),
    out_dir: Path | None = None,
    sets: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Scores, each with its 95 % interval, of a recipe's result, a run folder, a model folder or a Hub id.

    A recipe or a run is scored beside the model that training started from, and its report is made again.

    Args:
        tasks: instead of the recipe's own; a model alone needs them.
        out_dir: where scores.json and samples.jsonl go; by default `evaluation/` in the run or model folder.
        sets: changes to the recipe, each as `section.field=value`.

    Raises:
        UserError: something the user can mend.
    """
    if isinstance(target, str | Path):
        path = Path(target)
        if (path / "recipe.yaml").is_file():
            # The run's own recipe, for where the run is now: a folder that was moved is still that run.
            recipe = methods.load_for_evaluation(path / "recipe.yaml", sets)
            target = recipe.model_copy(update={"output_dir": str(path)})
        elif path.suffix in (".yaml", ".yml"):
            target = methods.load_for_evaluation(path, sets)
    chosen = [task if isinstance(task, EvaluationTask) else EvaluationTask.model_validate(task) for task in tasks]
    return launch.evaluate(target if isinstance(target, Recipe) else str(target), tasks=chosen, out_dir=out_dir)


def quick_task(kind: str, data: Path | None, metrics: Sequence[str], max_rows: int | None) -> EvaluationTask:
    """The task that `alignkit eval --task KIND --data FILE` asks for."""
    path = data.absolute() if data is not None and data.exists() else data
    values = {"name": kind, "task": kind, "data": str(path), "metrics": list(metrics), "max_rows": max_rows}
    try:
        return EvaluationTask.model_validate(values)
    except ValidationError as error:
        wrong = error.errors()[0]
        message = (
            f"expected {wrong['ctx']['expected']}, got {kind!r}" if wrong["type"] == "literal_error" else wrong["msg"]
        )
        raise UserError(Problem(message, field=f"--{wrong['loc'][0]}")) from error


def reward_test(recipe: Recipe) -> Trial:
    """What the recipe's rewards say of right, wrong and adversarial answers to its own prompts. Trains nothing.

    Raises:
        UserError: a method without rewards, or what can't be read or loaded.
    """
    if not isinstance(recipe, OnlineRecipe):
        raise UserError(recipe.problem("method", f"{recipe.method} has no rewards", "give a recipe that has `rewards`"))
    from alignkit.rewards.trial import try_rewards

    launch.set_environment()
    return try_rewards(recipe, launch.results_there(recipe))


def judge(recipe: Recipe) -> dict[str, Any]:
    """Compare the recipe's pairs by its judge, in both orders; the preferences lie in `output_dir`.

    Raises:
        UserError: no recipe of a judge's, or what can't be read.
        RunFailed: comparisons without a readable reply; what was judged is kept, and the next start goes on.
    """
    from alignkit.judge import judge as compare
    from alignkit.methods.judge import JudgeRecipe

    if not isinstance(recipe, JudgeRecipe):
        raise UserError(recipe.problem("method", f"{recipe.method} judges nothing", "say `method: judge`"))
    check(recipe)
    return compare(recipe)


def rehearse(recipe: Recipe, *, accelerate: str | None = None) -> tuple[Run, list[str]]:
    """Check `recipe` and run it end to end in small: its model shrunk and random, a slice of its data, a few steps.

    Returns the rehearsal's run, in `output_dir-rehearsal`, and what a rehearsal cannot tell.

    Raises:
        UserError, RunFailed: what the recipe itself would have met too.
    """
    check(recipe)
    launch.set_environment()
    with importing():
        from alignkit import rehearsal

    return rehearsal.rehearse(recipe, accelerate=accelerate)


def train(
    recipe: Recipe,
    *,
    resume: bool = False,
    overwrite: bool = False,
    allow_changes: bool = False,
    accelerate: str | None = None,
) -> Run:
    """Check `recipe`, train it, evaluate it, and return its run folder.

    Args:
        allow_changes: with `resume`, go on though the recipe or the data has changed since; the manifest says what.
        accelerate: the name of a shipped Accelerate config, or the path of one, for several processes or sharding; by
            default everything happens in this process.

    Raises:
        UserError: something the user can mend, before training.
        RunFailed: the run went wrong; the run's state says how.
        Interrupted: stopped by a signal after a checkpoint; `resume=True` goes on.
    """
    check(recipe)
    options: Any = {"resume": resume, "overwrite": overwrite, "allow_changes": allow_changes}
    return launch.train(recipe, accelerate=accelerate, **options)


def verify_resume(
    recipe: Recipe, folder: Path, *, rehearse: bool = False, accelerate: str | None = None, **options: Any
) -> VerifiedResume:
    """Run a short version of `recipe` straight through and once more with SIGKILLs in it, and compare the two.

    Args:
        folder: where the two runs go; new or empty.
        rehearse: with a shrunk random model and a slice of the data.
        options: `steps`, `kills`, `seed`; see `alignkit.verify_resume.verify`.

    Raises:
        UserError: what the recipe's own command refuses.
        RunFailed: a run that fails without being killed.
    """
    from alignkit.console import Voice
    from alignkit.verify_resume import verify

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(Problem("is not a new or empty folder", folder, hint="choose another for the two runs"))
    check(recipe)
    say = Voice()
    if rehearse:
        launch.set_environment()
        with importing():
            from alignkit import rehearsal

        recipe, _ = rehearsal.rehearsed(recipe.model_copy(update={"output_dir": str(folder / "recipe")}))
    say.release()
    words = [] if accelerate is None else ["--accelerate", accelerate]
    return verify(recipe, folder, say, words=words, **options)
