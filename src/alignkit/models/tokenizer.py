"""The tokenizer of a recipe, with its special tokens and its chat template settled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import UserError
from alignkit.model_folders import PACKAGED, TOKENIZERS, find_template, model_place, result_folder
from alignkit.models.start import Start, recipe_start, start_field
from alignkit.models.upstream import Complain, complain_about, raised_upstream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from alignkit.recipe import Recipe

_SPARE_PAD_TOKENS = ("<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>", "<PAD>", "<|PAD_TOKEN|>")
_PROBE = "probe7"


def build_tokenizer(
    recipe: Recipe, start: str | Path | Start | None = None, notes: list[str] | None = None
) -> PreTrainedTokenizerBase:
    """Load the recipe's tokenizer; settle pad, EOS and padding side; set the chat template.

    `start` replaces `model.model_name_or_path` (the trained result of `model.from_recipe`). What the user should know
    is appended to `notes`. Raises UserError for a tokenizer that is missing, unreachable or broken, or a bad template.
    """
    field, name, revision = _tokenizer_place(recipe, start)
    tokenizer = load_tokenizer(complain_about(recipe, field), name, revision, recipe.model.trust_remote_code)
    return settle_tokenizer(recipe, tokenizer, notes if notes is not None else [])


def settle_tokenizer(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, notes: list[str]) -> PreTrainedTokenizerBase:
    """A loaded tokenizer with the recipe's chat template, and its pad token and padding side settled."""
    if recipe.model.chat_template_path is not None:
        tokenizer.chat_template = _other_template(recipe, recipe.model.chat_template_path)
        check_template(recipe, tokenizer)
    settle_special_tokens(tokenizer, notes)
    return tokenizer


def load_tokenizer(
    complain: Complain, name: str, revision: str | None, trust_remote_code: bool
) -> PreTrainedTokenizerBase:
    """AutoTokenizer, with what it raises turned into a UserError."""
    from transformers import AutoTokenizer

    with raised_upstream(complain, name):
        return AutoTokenizer.from_pretrained(name, revision=revision or "main", trust_remote_code=trust_remote_code)


def _tokenizer_place(recipe: Recipe, start: str | Path | Start | None) -> tuple[str, str, str | None]:
    """Which recipe field names the tokenizer, its folder or Hub id, and the revision."""
    model = recipe.model
    if model.tokenizer_name_or_path is not None:
        name = model.tokenizer_name_or_path
        if name.startswith(PACKAGED):
            return "model.tokenizer_name_or_path", str(TOKENIZERS / name.removeprefix(PACKAGED)), None
        place = model_place(name, recipe.base_dir)
        return "model.tokenizer_name_or_path", name if place is None else str(result_folder(place)), None
    found = recipe_start(recipe, start)
    if found is None:  # init: random from a model folder's config
        assert isinstance(model.config, str), "checked: a config given field by field comes with a tokenizer"
        return "model.config", str(recipe.base_dir / model.config), None
    return start_field(recipe, start), found.tokenizer, found.tokenizer_revision


def settle_special_tokens(tokenizer: PreTrainedTokenizerBase, notes: list[str]) -> None:
    """Pad on the right, with a pad token that is not the stop token where the vocabulary has a spare one.

    Masks are built from positions and never from token ids, so a pad token that equals EOS costs no supervision; a
    spare token is still preferred, for everyone who reads the saved model with other tools.
    """
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is not None:
        return
    vocabulary = tokenizer.get_vocab()
    spare = next((token for token in _SPARE_PAD_TOKENS if token in vocabulary), None) or tokenizer.unk_token
    tokenizer.pad_token = spare or tokenizer.eos_token
    if tokenizer.pad_token is not None and spare is None:
        notes.append(f"the tokenizer has no pad token: {tokenizer.pad_token} (EOS) pads; masks do not depend on it")
    elif spare is not None:
        notes.append(f"the tokenizer has no pad token: {spare} pads")


def _other_template(recipe: Recipe, name: str) -> str:
    """The chat template of a .jinja file, a tokenizer's folder or a tokenizer on the Hub."""
    path = recipe.base_dir / Path(name).expanduser()
    complain = complain_about(recipe, "model.chat_template_path")
    if path.exists():
        template = find_template(path)
    else:
        template = load_tokenizer(complain, name, None, recipe.model.trust_remote_code).chat_template
    if not isinstance(template, str) or not template:
        raise UserError(complain(None, f"{name} holds no chat template", "give a .jinja file or a tokenizer's folder"))
    return template


def check_template(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise a UserError where the chat template is not valid Jinja."""
    from jinja2 import TemplateError, TemplateSyntaxError

    try:
        tokenizer.apply_chat_template([{"role": "user", "content": _PROBE}], tokenize=False)
    except TemplateSyntaxError as error:
        message = f"{recipe.model.chat_template_path}:{error.lineno} is not a valid template ({error.message})"
        raise UserError(recipe.problem("model.chat_template_path", message)) from None
    except TemplateError:
        pass  # a template may ask for a system turn or refuse this chat; the data decide


def stop_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that end an answer: EOS and, where it differs, the special token that the template puts after one."""
    found = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    if tokenizer.chat_template is None:
        return found
    chat: list[dict[str, Any]] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _PROBE}]
    try:
        rendered = tokenizer.apply_chat_template(chat, tokenize=False)
    except Exception:  # a template is a program, and may refuse this chat in any way it likes
        return found
    assert isinstance(rendered, str)
    _, probe, rest = rendered.rpartition(_PROBE)
    ids = tokenizer(rest.strip(), add_special_tokens=False)["input_ids"][:1] if probe and rest.strip() else []
    special = set(tokenizer.all_special_ids) | {
        number for number, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    return found + [number for number in ids if number in special and number not in found]
