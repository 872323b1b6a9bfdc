"""What transformers, peft, bitsandbytes and the Hub raise, as one line about the recipe's field."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from alignkit.errors import Problem, UserError

if TYPE_CHECKING:
    from alignkit.recipe import Recipe

Complain = Callable[[str | None, str, str | None], Problem]
"""(field, or None for the one that names what is loaded; message; hint) -> the problem."""

Finding = tuple[str | None, str, str | None]


def complain_about(recipe: Recipe, field: str) -> Complain:
    """Problems of what the recipe's `field` names."""

    def complain(other: str | None, message: str, hint: str | None = None) -> Problem:
        return recipe.problem(other or field, message, hint)

    return complain


@contextmanager
def raised_upstream(complain: Complain, name: str) -> Iterator[None]:
    """Turn what loading `name` raises inside the block into a UserError.

    Errors that are neither the user's nor the network's (a bug, memory that ran out) pass through.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        found = _finding(name, error)
        if found is None:
            raise
        raise UserError(complain(*found)) from error


def _finding(name: str, error: Exception) -> Finding | None:
    """Field (None: the one that names what is loaded), message and hint; None for an error to pass on."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError, AssertionError, AttributeError)):
        return None
    hub = _hub_problem(name, error)
    if hub is not None:
        return None, *hub
    text, why = str(error), shortened(error)
    lowered = text.lower()
    if "bitsandbytes" in lowered:
        return "quantization", f"bitsandbytes cannot be used here ({why})", "pip install -U bitsandbytes"
    if "flash_attn" in lowered or "flashattention" in lowered or "attn_implementation" in lowered:
        return "model.attn_implementation", f"not possible here ({why})", "leave it out for PyTorch's own (sdpa)"
    if "trust_remote_code" in text:
        hint = "read that code, then set model.trust_remote_code: true if you trust it"
        return None, f"{name} comes with its own code", hint
    if "Unrecognized configuration class" in text:
        kind = text.split("configuration_", 1)[-1].split(".", 1)[0]
        return None, f"{name} is a {kind} model, which transformers has no class of this kind for", None
    if "Unrecognized model" in text or "does not recognize this architecture" in text:
        return None, f"transformers does not know the kind of model that {name} is ({why})", None
    if "Couldn't instantiate the backend tokenizer" in text:
        return None, f"{name} has no tokenizer that can be loaded", "set model.tokenizer_name_or_path"
    if isinstance(error, RuntimeError):
        if "size mismatch" in text or "ignore_mismatched_sizes" in text:
            return None, f"the weights of {name} do not fit its config ({why})", None
        return None  # anything else at run time is not of the user's making
    return None, f"{name} cannot be loaded ({why})", None


def _hub_problem(name: str, error: Exception) -> tuple[str, str | None] | None:
    """The message and hint for an error of the Hub's, wherever in the chain of causes it stands."""
    from huggingface_hub import errors

    link: BaseException | None = error
    while link is not None:
        if isinstance(link, errors.GatedRepoError):
            hint = f"ask for access at https://huggingface.co/{name}, then log in with `hf auth login`"
            return f"{name} is gated, and this machine has no access to it", hint
        if isinstance(link, errors.RevisionNotFoundError):
            return f"{name} has no such revision", "see model.revision"
        if isinstance(link, errors.RepositoryNotFoundError):
            hint = "check the spelling; a private one needs `hf auth login`"
            return f"{name} is neither a local folder nor a model on the Hub", hint
        if isinstance(link, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
            return f"{name} is not in the local Hub cache, and the Hub cannot be reached", None
        link = link.__cause__ or link.__context__
    if "couldn't connect to 'https://huggingface.co'" in str(error):
        return f"{name} is not in the local Hub cache, and the Hub cannot be reached", None
    return None


def shortened(error: Exception) -> str:
    """An exception's text on one line of at most 200 characters."""
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= 200 else line[:197] + "…"
