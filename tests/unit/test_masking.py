"""Which tokens are learned, token by token, for templates of five families and for plain text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import trl
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from alignkit.data.render import Rendered, Renderer
from alignkit.data.templates import ChatTemplate
from alignkit.errors import UserError
from alignkit.examples.types import Dropped, Example, Row

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_MARKED = (  # markers around the content only: the stop token is outside
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant') }}{% endif %}{% endfor %}"
)
MISTRAL_SYSTEM_LAST = (  # as Mistral 7B v0.3: the system text moves to the last user turn
    "{% set system = messages[0].content if messages[0].role == 'system' else '' %}{{ bos_token }}"
    "{% for m in messages %}{% if m.role == 'user' %}[INST] "
    "{% if system and (loop.last or (loop.index0 == messages | length - 2 and messages[-1].role == 'assistant')) %}"
    "{{ system }}\n\n{% endif %}{{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
CUSTOM = (  # no stop token, no markers
    "{% for m in messages %}{{ 'Q: ' if m.role == 'user' else 'A: ' }}{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}A: {% endif %}"
)
THINK = (  # as Qwen 3: an empty thought in the last turn only
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OPEN_THINK = (  # as DeepSeek R1: the prompt opens a thought that the history does not hold
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}"
    "{% else %}<|assistant|>{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
HEADER_STOP = (  # as GLM 4: the next turn's header is all that ends a turn
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
BACKWARDS = "{% for m in messages | reverse %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"

SPECIAL = [
    "<pad>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<|user|>", "<|assistant|>", "<|eom_id|>",
]  # fmt: skip
WORDS = [
    "system",
    "user",
    "assistant",
    "model",
    "hi",
    "yes",
    "why",
    "so",
    "be",
    "nice",
    "tool",
    "\n",
    "\n\n",
    " ",
    "Q:",
    "A:",
]


def tokenizer(template: str | None = None, *, bos: bool = True, **changes: str) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that keeps every character: words, spaces and newlines are tokens of their own."""
    letters = [chr(code) for code in range(33, 127)] + ["é", "<think>", "</think>"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*SPECIAL, *WORDS, *letters]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(
        __import__("tokenizers").Regex(r"\n+| |</?think>|\w+:?|[^\w\s]"), behavior="isolated"
    )
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocabulary["<s>"])]
        )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", **changes}
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    made.chat_template = template
    return made


def chat(*turns: str, **more: object) -> Example:
    """user, assistant, user, … from texts; `system=` and other columns by name."""
    messages = [
        {"role": "user" if index % 2 == 0 else "assistant", "content": turn} for index, turn in enumerate(turns)
    ]
    if system := more.pop("system", None):
        messages.insert(0, {"role": "system", "content": system})
    return example({"messages": messages, **more})


def example(data: dict) -> Example:
    return Example("rows.jsonl:1", data, Row("rows.jsonl", 1, 1, data))


def learned(made: PreTrainedTokenizerFast, item: Example, loss_on: str | None = None, **options: object) -> str:
    """The example's tokens, those learned in [ ]."""
    (rendered,) = Renderer(made, loss_on, **options).render([item])  # type: ignore[arg-type]
    assert isinstance(rendered, Rendered), rendered
    text, inside = "", False
    for token, label in zip(rendered.input_ids.tolist(), rendered.labels.tolist(), strict=True):
        assert label in (-100, token)
        if (label != -100) != inside:
            text, inside = text + ("⟦" if not inside else "⟧"), not inside
        text += made.convert_ids_to_tokens(token)
    return text + ("⟧" if inside else "")


TURNS = ("hi", "yes", "why", "so")


@pytest.mark.parametrize(
    ("template", "how", "assistant", "completion"),
    [
        pytest.param(
            CHATML,
            "prefix",
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n⟦yes<|im_end|>⟧\n"
            "<|im_start|>user\nwhy<|im_end|>\n<|im_start|>assistant\n⟦so<|im_end|>⟧\n",
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
            "<|im_start|>user\nwhy<|im_end|>\n<|im_start|>assistant\n⟦so<|im_end|>⟧\n",
            id="chatml",
        ),
        pytest.param(
            CHATML_MARKED,
            "markers",
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n⟦yes<|im_end|>⟧\n"
            "<|im_start|>user\nwhy<|im_end|>\n<|im_start|>assistant\n⟦so<|im_end|>⟧\n",
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
            "<|im_start|>user\nwhy<|im_end|>\n<|im_start|>assistant\n⟦so<|im_end|>⟧\n",
            id="chatml, stop outside its markers",
        ),
        pytest.param(
            LLAMA3,
            "prefix",
            "<s><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
            "⟦yes<|eot_id|>⟧<|start_header_id|>user<|end_header_id|>\n\nwhy<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n⟦so<|eot_id|>⟧",
            "<s><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
            "yes<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nwhy<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n⟦so<|eot_id|>⟧",
            id="llama 3",
        ),
        pytest.param(
            MISTRAL,
            "prefix",
            "<s>[INST] hi [/INST]⟦ yes</s>⟧[INST] why [/INST]⟦ so</s>⟧",
            "<s>[INST] hi [/INST] yes</s>[INST] why [/INST]⟦ so</s>⟧",
            id="mistral",
        ),
        pytest.param(
            GEMMA,
            "prefix",
            "<s><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n⟦yes<end_of_turn>⟧\n"
            "<start_of_turn>user\nwhy<end_of_turn>\n<start_of_turn>model\n⟦so<end_of_turn>⟧\n",
            "<s><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\nyes<end_of_turn>\n"
            "<start_of_turn>user\nwhy<end_of_turn>\n<start_of_turn>model\n⟦so<end_of_turn>⟧\n",
            id="gemma",
        ),
        pytest.param(
            CUSTOM,
            "prefix",
            "Q: hi\nA: ⟦yes\n⟧Q: why\nA: ⟦so\n</s>⟧",
            "Q: hi\nA: yes\nQ: why\nA: ⟦so\n</s>⟧",
            id="custom, no stop token",
        ),
        pytest.param(
            THINK,
            "prefix",
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n⟦yes<|im_end|>⟧\n"
            "<|im_start|>user\nwhy<|im_end|>\n<|im_start|>assistant\n⟦<think>\n\n</think>\n\nso<|im_end|>⟧\n",
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
            "<|im_start|>user\nwhy<|im_end|>\n<|im_start|>assistant\n⟦<think>\n\n</think>\n\nso<|im_end|>⟧\n",
            id="a thought in the last turn only",
        ),
        pytest.param(
            OPEN_THINK,
            "prefix",
            "<s><|user|>hi<|assistant|>⟦yes</s>⟧<|user|>why<|assistant|>⟦so</s>⟧",
            "<s><|user|>hi<|assistant|>yes</s><|user|>why<|assistant|>⟦so</s>⟧",
            id="a prompt that opens a thought",
        ),
        pytest.param(
            HEADER_STOP,
            "prefix",
            "<|user|>\nhi<|assistant|>\n⟦yes⟧<|user|>\nwhy<|assistant|>\n⟦so</s>⟧",
            "<|user|>\nhi<|assistant|>\nyes<|user|>\nwhy<|assistant|>\n⟦so</s>⟧",
            id="the next header ends a turn",
        ),
    ],
)
def test_masks_of_template_families(template: str, how: str, assistant: str, completion: str) -> None:
    made = tokenizer(template)
    assert learned(made, chat(*TURNS)) == assistant
    assert learned(made, chat(*TURNS), "completion") == completion
    whole = assistant.replace("⟦", "").replace("⟧", "")
    first = (
        "<s>"
        if whole.startswith("<s>")
        else made.convert_ids_to_tokens(made(whole, add_special_tokens=False)["input_ids"][0])
    )
    assert learned(made, chat(*TURNS), "all") == first + "⟦" + whole.removeprefix(first) + "⟧"
    pair = example({"prompt": chat(*TURNS).data["messages"][:3], "completion": chat(*TURNS).data["messages"][3:]})
    assert learned(made, pair) == completion
    renderer = Renderer(made)
    renderer.render([pair])
    assert renderer.info().how == how


def test_text_is_what_the_tokenizer_renders() -> None:
    for template in (CHATML, CHATML_MARKED, LLAMA3, MISTRAL, GEMMA, CUSTOM, THINK, OPEN_THINK):
        made = tokenizer(template)
        (rendered,) = Renderer(made).render([chat(*TURNS)])
        ids = made.apply_chat_template(chat(*TURNS).data["messages"], return_dict=False)
        assert rendered.input_ids.tolist()[: len(ids)] == ids
        assert rendered.input_ids.tolist()[len(ids) :] in ([], [made.eos_token_id])


def test_system_text_that_moves_with_the_turns() -> None:
    made = tokenizer(MISTRAL_SYSTEM_LAST)
    assert learned(made, chat(*TURNS, system="be nice")) == (
        "<s>[INST] hi [/INST] ⟦yes</s>⟧[INST] be nice\n\nwhy [/INST]⟦ so</s>⟧"
    )


def test_template_whose_turns_cannot_be_told_apart() -> None:
    with pytest.raises(UserError) as error:
        Renderer(tokenizer(BACKWARDS)).render([chat(*TURNS)])
    assert "chat_template_path" in str(error.value) and "loss_on: all" in str(error.value)
    assert "⟦" in learned(tokenizer(BACKWARDS), chat(*TURNS), "all")


def test_training_templates_of_trl() -> None:
    from trl.chat_template_utils import llama3_chat_template, qwen3_chat_template

    made = tokenizer(llama3_chat_template)
    renderer = Renderer(made)
    assert learned(made, chat(*TURNS)) == learned(tokenizer(LLAMA3), chat(*TURNS))
    renderer.render([chat(*TURNS)])
    assert renderer.info().how == "training_template"
    # TRL's variant for Qwen 3 writes thoughts that the original leaves out: the original's text is what is trained.
    made = tokenizer(qwen3_chat_template)
    assert learned(made, chat(*TURNS)) == learned(tokenizer(THINK), chat(*TURNS))


BUNDLED = Path(trl.__file__).parent / "chat_templates"
PICTURES = ("idefics3", "llava_next", "smolvlm")  # these want content in parts


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(BUNDLED.glob("*.jinja")) if "_training" not in path.stem and path.stem not in PICTURES],
    ids=lambda path: path.stem,
)
def test_every_template_that_trl_ships(path: Path) -> None:
    """Real templates: a turn is what follows its generation prompt, up to its stop token."""
    template = path.read_text()
    made = tokenizer(template)
    tokens = set(re.findall(r"<[|｜][^<>{}\s']+?[|｜]>|<turn\|>|<\|turn>", template)) - set(made.get_vocab())
    made.add_special_tokens({"additional_special_tokens": sorted(tokens)})
    chats = ChatTemplate(made)
    messages = chat(*TURNS).data["messages"]
    rendered = chats.render(messages)
    assert rendered.text == made.apply_chat_template(messages, tokenize=False)
    assert rendered.append_eos == path.stem.startswith("glm")
    for (start, end), index in zip(rendered.spans, (1, 3), strict=True):
        prompt = made.apply_chat_template(messages[:index], tokenize=False, add_generation_prompt=True)
        if rendered.text.startswith(prompt):
            assert start == len(prompt)
        learned_text = rendered.text[start:end]
        content, _, stop = learned_text.partition(messages[index]["content"])
        assert stop.strip() == stop and (stop or rendered.append_eos)
        assert all(token in made.added_tokens_encoder for token in made.tokenize(stop))
        assert not re.search(r"\b(hi|why)\b", content)


def test_a_row_the_template_refuses_is_dropped_with_its_words() -> None:
    (dropped,) = Renderer(tokenizer(MISTRAL)).render([chat(*TURNS, system="be nice")])
    assert isinstance(dropped, Dropped) and "Only user and assistant" in dropped.reason


def test_bos_is_single() -> None:
    made = tokenizer(LLAMA3)
    assert made("hi")["input_ids"][0] == made.bos_token_id  # this tokenizer adds one, and the template writes one
    for item in (
        chat("hi", "yes"),
        example({"text": "hi"}),
        example({"text": "<s>hi"}),
        example({"prompt": "<s>hi", "completion": "yes"}),
    ):
        (rendered,) = Renderer(made).render([item])
        ids = rendered.input_ids.tolist()
        assert ids[0] == made.bos_token_id and ids.count(made.bos_token_id) == 1


def test_plain_text_ends_with_a_learned_eos() -> None:
    made = tokenizer()
    assert learned(made, example({"text": "hi so"})) == "<s>⟦hi so</s>⟧"
    assert learned(made, example({"text": "hi so</s>"})) == "<s>⟦hi so</s>⟧"
    pair = {"prompt": "Q: hi\n", "completion": "yes"}
    assert learned(made, example(pair)) == "<s>Q: hi\n⟦yes</s>⟧"
    assert learned(made, example(pair), "all") == "<s>⟦Q: hi\nyes</s>⟧"
    assert learned(tokenizer(bos=False), example(pair)) == "Q: hi\n⟦yes</s>⟧"


def test_pad_equal_to_the_stop_token_keeps_it_learned() -> None:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    made = tokenizer(CHATML, pad_token="<|im_end|>", eos_token="<|im_end|>")
    rows = [
        {"input_ids": row.input_ids.tolist(), "labels": row.labels.tolist()}
        for row in Renderer(made).render([chat("hi", "yes"), chat(*TURNS)])
    ]
    batch = DataCollatorForLanguageModeling(pad_token_id=made.pad_token_id)(rows)
    stop = made.convert_tokens_to_ids("<|im_end|>")
    assert (batch["labels"] == stop).sum(1).tolist() == [1, 2]
    padding = batch["attention_mask"] == 0
    assert padding.any() and torch.all(batch["labels"][padding] == -100)


def test_truncation_keeps_the_start_and_drops_what_has_nothing_left() -> None:
    made = tokenizer(CHATML)
    text = learned(made, chat("hi", "yes so"), max_length=11)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n⟦yes ⟧"
    kept, dropped = Renderer(made, None, 11).render([chat("hi", "yes so"), chat("hi hi hi", "yes")])
    assert kept.truncated and len(kept.input_ids) == 11
    assert dropped.reason == "no supervised token within max_length 11"


def test_tools_and_template_kwargs_reach_the_template() -> None:
    template = "{% if tools %}[INST] {{ tools[0].name }} [/INST]{% endif %}{% if mood %}{{ mood }} {% endif %}" + CHATML
    item = chat("hi", "yes", tools=[{"name": "tool"}], chat_template_kwargs={"mood": "nice"})
    assert learned(tokenizer(template), item).startswith("[INST] tool [/INST]nice <|im_start|>user")
    assert learned(tokenizer(template), chat("hi", "yes")).startswith("<|im_start|>user")


def test_tool_turns_are_not_learned_and_another_stop_is() -> None:
    template = LLAMA3.replace("<|eot_id|>", "{{ '<|eom_id|>' if m.tool_calls else '<|eot_id|>' }}").replace(
        "{{ m.content | trim }}", "{{ m.content or m.tool_calls[0].name }}"
    )
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "why"}]},
        {"role": "tool", "content": "so"},
        {"role": "assistant", "content": "yes"},
    ]
    header = "<|start_header_id|>{}<|end_header_id|>\n\n".format
    expected = (
        f"<s>{header('user')}hi<|eot_id|>{header('assistant')}⟦why<|eom_id|>⟧"
        f"{header('tool')}so<|eot_id|>{header('assistant')}⟦yes<|eot_id|>⟧"
    )
    assert learned(tokenizer(template), example({"messages": messages})) == expected
    assert learned(tokenizer(template), example({"prompt": messages[:1], "completion": messages[1:]})) == expected


def test_without_a_template_chats_are_refused_and_pairs_become_text() -> None:
    made = tokenizer()
    (dropped,) = Renderer(made).render([chat(*TURNS)])
    assert dropped.reason == "the tokenizer has no chat template"
    data = {"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "yes"}]}
    pair = Example("rows.jsonl:1", data, Row("rows.jsonl", 1, 1, data), plain=True)
    assert learned(made, pair) == "<s>hi\n\n⟦yes</s>⟧"
    assert isinstance(Renderer(made).render([example(data)])[0], Dropped)


class CharacterTokenizer(PreTrainedTokenizer):
    """A tokenizer without offsets (transformers' pure Python kind)."""

    def __init__(self, **more: str) -> None:
        self.vocabulary = {chr(code): code for code in range(128)}
        super().__init__(**more)

    @property
    def vocab_size(self) -> int:
        return 128

    def get_vocab(self) -> dict[str, int]:
        return {**self.vocabulary, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **_: object) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.vocabulary[token]

    def _convert_id_to_token(self, index: int) -> str:
        return chr(index)


def test_tokenizers_without_offsets() -> None:
    made = CharacterTokenizer(
        eos_token="</s>", pad_token="<pad>", additional_special_tokens=["<|im_start|>", "<|im_end|>"]
    )
    assert not made.is_fast
    made.chat_template = CHATML
    assert learned(made, chat(*TURNS)) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n⟦yes<|im_end|>⟧\n"
        "<|im_start|>user\nwhy<|im_end|>\n<|im_start|>assistant\n⟦so<|im_end|>⟧\n"
    )
    assert learned(made, example({"prompt": "hi ", "completion": "so"})) == "hi ⟦so</s>⟧"


def test_bytes_and_accents_at_a_span_edge() -> None:
    """A character that takes several tokens is learned whole (byte-level BPE), in fast tokenizers with offsets."""
    backend = Tokenizer(
        models.BPE({**{c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, "</s>": 256}, [])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.normalizer = normalizers.NFC()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    (row,) = Renderer(made).render([example({"prompt": "né", "completion": "日本é"})])
    decoded = made.decode(row.input_ids[row.labels != -100].tolist())
    assert decoded == "日本é</s>"
