"""Write the packaged tokenizer `alignkit:characters` (src/alignkit/assets/tokenizers/characters).

One token for each printable ASCII character, newline and tab, and eight special ones: a vocabulary of 105, so that a
model of a million parameters spends them on its layers. A character outside it becomes <unk>. The template spends one
token on a role and one (</s>) on the end of an answer, and marks answers with {% generation %}.
"""

from __future__ import annotations

import json
import string
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
CHARACTERS = ["\n", "\t", *sorted(set(string.printable) - set(string.whitespace)), " "]
TEMPLATE = """\
{{- bos_token }}
{%- if tools %}{{ raise_exception('the alignkit:characters template has no place for tools') }}{% endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|assistant|>' }}{% generation %}{{ message.content + eos_token }}{% endgeneration %}
    {%- elif message.role in ['system', 'user', 'tool'] %}
        {{- '<|' + message.role + '|>' + message.content }}
    {%- else %}
        {{- raise_exception('a role is system, user, assistant or tool, not ' + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}
"""


def build() -> Tokenizer:
    vocabulary = {token: number for number, token in enumerate(SPECIAL + CHARACTERS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def main() -> None:
    packaged = Path(__file__).parents[1] / "src" / "alignkit" / "assets" / "tokenizers" / "characters"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else packaged
    folder.mkdir(parents=True, exist_ok=True)
    build().save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "extra_special_tokens": SPECIAL[4:],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")


if __name__ == "__main__":
    main()
