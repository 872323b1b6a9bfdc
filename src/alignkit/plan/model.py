"""A recipe's model from its config alone: where the config lies, and a few layers of it instead of all."""

from __future__ import annotations

import copy
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit import methods
from alignkit.errors import UserError
from alignkit.model_folders import cached_snapshot, hub_offline, model_place, result_folder
from alignkit.models.start import Start
from alignkit.models.upstream import Complain, complain_about, raised_upstream

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from alignkit.recipe import Recipe

CONFIGS = Path(__file__).parent / "configs"


def packaged_configs() -> dict[str, dict[str, Any]]:
    """Hub id -> config, of the common families that plans need no download for."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(CONFIGS.glob("*.json")):
        for names, config in json.loads(path.read_text(encoding="utf-8")).items():
            found |= dict.fromkeys(names.split(), config)
    return found


def planned_start(recipe: Recipe, folder: Path) -> Start | None:
    """What training starts from, with its config in place of weights; None for `init: random`.

    `folder` is a temporary one, for adapters that are not trained yet.
    """
    if recipe.model.from_recipe is not None:
        return _from_recipe(methods.load_recipe(recipe.base_dir / recipe.model.from_recipe), folder)
    if recipe.model.model_name_or_path is None:
        return None
    complain = complain_about(recipe, "model.model_name_or_path")
    return start_at(recipe, recipe.model.model_name_or_path, recipe.model.revision, complain)


def start_at(recipe: Recipe, name: str, revision: str | None, complain: Complain) -> Start:
    """The start that `name`, a folder or a Hub id, stands for."""
    place = model_place(name, recipe.base_dir)
    path = None if place is None else result_folder(place)
    adapter = None
    if path is not None and (path / "adapter_config.json").is_file():
        adapter = str(path)
        name = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        base = (path / name) if (path / name).is_dir() else model_place(name, path)
        path = None if base is None else base
    config = _config(complain, name, path, revision, recipe.model.trust_remote_code)
    tokenizer = str(path) if path is not None else name
    return Start(tokenizer, config=config, adapter=adapter, tokenizer=adapter or tokenizer)


def _config(complain: Complain, name: str, path: Path | None, revision: str | None, code: bool) -> PreTrainedConfig:
    from transformers import AutoConfig

    if path is None and cached_snapshot(name, revision) is None:
        packaged = packaged_configs()
        if name in packaged:
            return AutoConfig.for_model(**copy.deepcopy(packaged[name]))
        if hub_offline():
            message = (
                f"the config of {name} is neither in the package nor in the local Hub cache, and the Hub is offline"
            )
            near = [known for known in packaged if known.split("/")[-1].lower() == name.split("/")[-1].lower()]
            hint = f"did you mean {near[0]}?" if near else "a folder with its config.json is enough"
            raise UserError(complain(None, message, hint))
    elif path is not None and not (path / "config.json").is_file():
        raise UserError(complain(None, f"{path} has no config.json", "a plan needs no weights, but the config"))
    with raised_upstream(complain, name):
        return AutoConfig.from_pretrained(str(path or name), revision=revision or "main", trust_remote_code=code)


def _from_recipe(other: Recipe, folder: Path) -> Start | None:
    """The start of the recipe that `model.from_recipe` names, with the adapter that it will have trained."""
    from alignkit.models.build import random_config
    from alignkit.models.tokenizer import build_tokenizer

    start = planned_start(other, folder)
    if start is None:
        tokenizer = build_tokenizer(other)
        place = Path(tempfile.mkdtemp(dir=folder))
        tokenizer.save_pretrained(place)
        start = Start(str(place), config=random_config(other, tokenizer), tokenizer=str(place))
    if other.adapter is not None:
        from peft import PEFT_TYPE_TO_CONFIG_MAPPING

        fields = dict(other.adapter.arguments())
        place = Path(tempfile.mkdtemp(dir=folder))
        PEFT_TYPE_TO_CONFIG_MAPPING[fields.pop("peft_type")](**fields).save_pretrained(place)
        start = replace(start, adapter=str(place))
    return start


# ---------------------------------------------------------------------- depth
def depth_of(config: PreTrainedConfig) -> int:
    return int(getattr(config.get_text_config(), "num_hidden_layers", 0) or 0)


def depths(config: PreTrainedConfig) -> tuple[int, int, int] | None:
    """Three depths from which the whole model follows, or None where it is simulated as it is.

    Layers of several kinds in turn (sliding and full attention) are taken a period at a time.
    """
    total = depth_of(config)
    if getattr(config, "is_encoder_decoder", False) or total < 6:
        return None
    period = max((_period(values) for values in _per_layer(config).values()), default=1)
    first = 2 * period + total % period  # the first layer may differ: nothing below it takes a gradient
    chosen = first, first + period, first + 2 * period
    return chosen if chosen[2] < total else None


def _per_layer(config: PreTrainedConfig) -> dict[str, list[Any]]:
    text = config.get_text_config()
    total = depth_of(config)
    return {name: value for name, value in vars(text).items() if isinstance(value, list) and len(value) == total}


def _period(values: list[Any]) -> int:
    return next(step for step in range(1, len(values) + 1) if values[step:] == values[: len(values) - step])


def cut(config: PreTrainedConfig, depth: int) -> PreTrainedConfig:
    """The same model with fewer layers."""
    shorter = copy.deepcopy(config)
    text = shorter.get_text_config()
    for name, values in _per_layer(config).items():
        setattr(text, name, values[:depth])
    text.num_hidden_layers = depth
    return shorter
