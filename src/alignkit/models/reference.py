"""The reference: the frozen model that a policy is held near, in preference tuning and in reinforcement learning.

By default it is what training starts from. What that is, and how little memory it takes, depends on what is trained:

| trained | the reference |
|---|---|
| every weight | a frozen copy of the policy |
| a new adapter | the same model, its adapter switched off |
| the adapter that training starts from | the same model with a frozen copy of that adapter |
| an adapter whose initialisation changes the base (PiSSA, OLoRA, …) | likewise: without it the base is not the start |

`reference:` in the recipe names another one, a model or an adapter, which is loaded beside the policy.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alignkit.model_folders import model_place, result_folder, start_of
from alignkit.models.adapters import changes_base, merge_adapter
from alignkit.models.build import load_base, load_options, settle_token_ids
from alignkit.models.stack import stack_adapter
from alignkit.models.start import recipe_start, resolve_start
from alignkit.models.upstream import complain_about

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from alignkit.models.precision import Precision
    from alignkit.recipe import ReferenceRecipe

ADAPTER = "ref"
"""The name under which TRL keeps the frozen copy of an adapter in the policy."""


@dataclass(frozen=True)
class Reference:
    """What a policy is held near. `model` is set where it is a model of its own; otherwise it is the policy's own base,
    with its adapter off or with a frozen copy of it."""

    kind: Literal["model", "adapter_off", "adapter_copy"]
    name: str
    """What it is called in messages: a folder, a Hub id, or where training starts."""
    model: PreTrainedModel | None = None
    named: bool = False
    """Whether the recipe names another model than the one that training starts from."""

    def settle(self, policy: Any) -> None:
        """After TRL has built its trainer around `policy`: keep its frozen copy of the adapter, or take it away.

        TRL copies every adapter it is given as `ref`. For a new adapter that copy would hold the new adapter's own
        initialisation, and would be trained memory for nothing.
        """
        if self.kind != "adapter_copy" and ADAPTER in getattr(policy, "peft_config", {}):
            policy.delete_adapter(ADAPTER)


def build_reference(
    recipe: ReferenceRecipe,
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    precision: Precision,
    *,
    start: str | Path | None = None,
    precomputed: bool = False,
) -> Reference:
    """The recipe's reference for `policy`, which must not have been trained yet; see the table above.

    `start` replaces `model.model_name_or_path`, as everywhere. Where all of the reference's log-probabilities are
    computed before the first step (`precomputed`), the policy serves as its own reference and no copy is made.
    Raises UserError for a named one that can't be loaded.
    """
    begun = start_of(recipe, start)
    place = None if recipe.reference is None else _place(recipe, recipe.reference)
    if place is not None and place != begun:
        return Reference("model", place, frozen_model(recipe, place, tokenizer, precision), named=True)
    name = begun or "the random weights that training starts from"
    if not hasattr(policy, "peft_config"):
        return Reference("model", name, None if precomputed else freeze(copy.deepcopy(policy)))
    goes_on = recipe.adapter is None
    return Reference("adapter_copy" if goes_on or changes_base(policy) else "adapter_off", name)


def freeze(model: PreTrainedModel) -> PreTrainedModel:
    """The model in evaluation mode, none of its weights trainable."""
    return model.requires_grad_(False).eval()


def frozen_model(
    recipe: ReferenceRecipe, source: str, tokenizer: PreTrainedTokenizerBase, precision: Precision
) -> PreTrainedModel:
    """The causal language model at `source` (an adapter folder: with that adapter), loaded like the policy's base.

    An adapter becomes part of the model: merged, or on quantised weights beside them, which is exact.
    """
    complain = complain_about(recipe, "reference")
    found = resolve_start(source, None, complain)
    dtype = precision.frozen_dtype if recipe.adapter is not None else precision.trainable_dtype
    model = load_base(found, "causal_lm", complain, **load_options(recipe, precision, found, dtype))
    settle_token_ids(model, tokenizer)
    if found.adapter is not None:
        put_on = merge_adapter if recipe.quantization is None else stack_adapter
        model = put_on(model, found, complain)
    if recipe.quantization is None:
        model.to(precision.device)
    return freeze(model)


def start_afresh(
    recipe: ReferenceRecipe,
    tokenizer: PreTrainedTokenizerBase,
    precision: Precision,
    *,
    start: str | Path | None = None,
) -> PreTrainedModel | None:
    """What the recipe says training starts from, loaded anew; None for random weights. For telling who strayed."""
    if recipe_start(recipe, start) is None:
        return None
    source = start_of(recipe, start)
    assert source is not None
    return frozen_model(recipe, source, tokenizer, precision)


def _place(recipe: ReferenceRecipe, name: str) -> str:
    """The folder (absolute; a run stands for its result) or Hub id that `name` means."""
    place = model_place(name, recipe.base_dir)
    return name if place is None else str(result_folder(place))
