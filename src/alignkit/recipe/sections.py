"""The sections of a recipe that are alignkit's own: where the model and the data come from, and what is evaluated.

The docstring under a field is its documentation: editors show it through the JSON Schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from alignkit.recipe.base import InputPath, Section, UpstreamSection
from alignkit.recipe.upstream import section_class

PathText = Annotated[str, InputPath()]


class ModelSection(Section):
    """Where the model comes from: exactly one of `model_name_or_path`, `init` with `config`, and `from_recipe`."""

    model_name_or_path: PathText | None = None
    """A Hub id, a model folder, or an adapter folder; relative to the recipe's file."""
    revision: str | None = None
    """A branch, tag or commit of the Hub repository."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the frozen weights; `auto` is bfloat16 where the device computes it natively, else float32."""
    attn_implementation: str | None = None
    """transformers' word for the attention: sdpa, flash_attention_2, eager, … (default: transformers' choice)."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run on this machine."""
    use_safetensors: bool = True
    """`false` also allows pickled weights, which can run code when they are loaded."""
    tokenizer_name_or_path: PathText | None = None
    """A tokenizer other than the model's own; `alignkit:characters` is a packaged one of single characters."""
    chat_template_path: PathText | None = None
    """A .jinja file, or a tokenizer's folder or Hub id, whose chat template replaces the model's."""
    init: Literal["random"] | None = None
    """Start from random weights, of the shape that `config` gives."""
    config: dict[Any, Any] | PathText | None = None
    """With `init`: a config's fields (`model_type: llama`, `hidden_size: 128`, …), a config.json or a model folder."""
    from_recipe: PathText | None = None
    """Another recipe, whose result this one starts from; it is trained first if its result is not there."""


class Source(Section):
    """Rows from one place, or from a built-in generator."""

    path: PathText | None = None
    """A Hub id, a file (json, jsonl, csv, tsv, parquet, txt, also .gz), a glob, or a folder of such files."""
    generate: str | None = None
    """A built-in generator, instead of `path`: addition, …"""
    options: dict[str, Any] = Field(default={})
    """The generator's options, or how a file is read: `sample_by` of texts, `delimiter`, `quoting` of csv and tsv."""
    name: str | None = None
    """The configuration of a Hub dataset."""
    split: str | None = None
    """The split of a Hub dataset (`train` by default), or a slice of it: `train[:1000]`."""
    revision: str | None = None
    """A branch, tag or commit of the Hub dataset."""
    data_files: PathText | list[PathText] | dict[str, Any] | None = None
    """Which files of a Hub dataset or folder to read."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """The probability of drawing from this source, relative to the others' weights."""
    columns: dict[str, str] = Field(default={})
    """Our word: theirs. For example `{prompt: question, completion: answer}`."""
    layout: str | None = None
    """Read the rows as this known layout, where recognising it would go wrong."""
    max_rows: Annotated[int, Field(gt=0)] | None = None
    """Read at most this many rows."""


def _as_source_list(value: Any) -> Any:
    """One source may stand where a list of them may; a bare text is its path."""
    if isinstance(value, str | Mapping):
        value = [value]
    if isinstance(value, list):
        return [{"path": item} if isinstance(item, str) else item for item in value]
    return value


Sources = Annotated[list[Source], Field(min_length=1), BeforeValidator(_as_source_list)]


class DataSection(Section):
    """What is trained on, and what is held out."""

    train: Sources
    """The sources to train on: a list, one source, or just its path."""
    eval: Sources | None = None
    """The sources of the eval split."""
    eval_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Hold out this share of the training examples as the eval split, instead of `eval`."""
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Which examples `eval_fraction` holds out (default: the recipe's `seed`); with it, other seeds share one split."""
    loss_on: Literal["assistant", "completion", "all"] | None = None
    """Which tokens are learnt. By default the assistant's in chats, the completion of a prompt, all of a plain text."""
    streaming: bool = False
    """Read the rows while training instead of before; needs `training.max_steps`."""
    stopping_strategy: Literal["first_exhausted", "all_exhausted"] = "first_exhausted"
    """With weights: whether an epoch ends when the first source is used up, or when all are."""


class HarnessSection(Section):
    """What lm-evaluation-harness is asked for: the arguments of its `simple_evaluate`, under its names."""

    tasks: Annotated[list[str], Field(min_length=1)]
    """The harness's tasks and groups: hellaswag, arc_easy, …"""
    include_path: PathText | None = None
    """A folder with tasks of your own."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Worked examples before each question (default: the task's own)."""
    limit: Annotated[float, Field(gt=0)] | None = None
    """Only this many rows of each task, or, below 1, this share of them (default: `max_rows`)."""
    apply_chat_template: bool | str = False
    """Ask through the tokenizer's chat template, or through the one of this name."""
    fewshot_as_multiturn: bool = True
    """With a chat template: each worked example is a turn of its own."""
    system_instruction: str | None = None
    """A system prompt before every question."""
    gen_kwargs: dict[str, Any] | None = None
    """Replaces what the tasks say about generation: `{temperature: 0.7, do_sample: true}`."""
    confirm_run_unsafe_code: bool = False
    """Tasks that execute what the model wrote run only with this."""


class EndpointSection(Section):
    """An OpenAI-compatible endpoint, where a judge is asked."""

    base_url: str
    """Its address up to `/v1`."""
    api_key_env: str | None = None
    """The environment variable that holds the key, where one is needed."""
    concurrency: Annotated[int, Field(ge=1)] = 8
    """Requests at once."""
    request_timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds that one request may take."""
    retries: Annotated[int, Field(ge=0)] = 3
    """Further attempts at a request that the endpoint did not answer, with growing pauses."""


class JudgeSection(EndpointSection):
    """With `task: judge`: who judges, where, and what the answers are held against."""

    model: Annotated[str, Field(min_length=1)]
    """The judge's name at the endpoint."""
    against: Literal["baseline", "reference"] | None = None
    """`baseline`: the answers of the model that training started from; `reference`: the data's own (default:
    baseline)."""
    against_run: PathText | None = None
    """Instead: a run folder, whose tuned model's answers in the task of the same name are the others."""
    prompt_path: PathText | None = None
    """A text file with {prompt}, {first} and {second}, whose reply is one line `Verdict: A`, `B` or `tie`."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """The judge's."""
    max_tokens: Annotated[int, Field(ge=1)] = 64
    """Of the judge's reply."""


class EvaluationTask(Section):
    """One thing to measure on the trained model and, unless told otherwise, on the model that training started from."""

    name: str
    """Its name in scores and reports."""
    task: Literal["generation", "perplexity", "classification", "lm_eval", "preference", "judge"]
    """What is done with the examples."""
    data: Sources | None = None
    """Its examples; the eval split by default."""
    metrics: list[str] = Field(default=[])
    """The metrics to compute: bleu, rougeL, exact_match, … (default: the task's own)."""
    generation: UpstreamSection = Field(default_factory=dict, validate_default=True)
    """The fields of transformers' GenerationConfig."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Examples at once."""
    baseline: bool | None = None
    """Whether the model that training started from is measured too (default: yes, but where it has no head yet)."""
    max_rows: Annotated[int, Field(gt=0)] | None = None
    """Use at most this many examples."""
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Perplexity: the window in tokens (default: the model's context)."""
    stride: Annotated[int, Field(ge=1)] | None = None
    """Perplexity: tokens by which the window moves on."""
    slice_by: str | None = None
    """A data column: scores are also given for each of its values."""
    use_vllm: bool = False
    """Generate with vLLM (pip install 'alignkit[vllm]') instead of transformers."""
    vllm: dict[str, Any] = Field(default={})
    """With `use_vllm`: further arguments of vLLM's `LLM`: gpu_memory_utilization, tensor_parallel_size, …"""
    lm_eval: HarnessSection | None = None
    """With `task: lm_eval`: what lm-evaluation-harness is asked for."""
    judge: JudgeSection | None = None
    """With `task: judge`: who compares the answers, and with what."""
    answer: str | None = None
    """How the answer is found in the text: last_number, boxed, `after:####`, `regex:PATTERN`, …"""

    @field_validator("generation", mode="plain")
    @classmethod
    def _generation(cls, value: Any) -> UpstreamSection:
        return section_class("GenerationConfig", UpstreamSection).model_validate(value)


class TrainingSection(UpstreamSection):
    """The fields of the method's upstream config, and these of alignkit's own."""

    global_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Examples, packed rows, pairs or completions per optimizer step over all devices; accumulation follows from it."""
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many evaluations without a better `metric_for_best_model`."""
    early_stopping_threshold: Annotated[float, Field(ge=0)] = 0.0
    """What counts as better: by more than this."""


class AdapterSection(UpstreamSection):
    """The fields of the peft config that `peft_type` names."""

    peft_type: str = "LORA"
    """The kind of adapter: LORA, ADALORA, IA3, … (DoRA and rsLoRA are LORA with `use_dora` or `use_rslora`)."""
    on_top_of: Literal["merge", "stack"] | None = None
    """When training starts from an adapter: merge it into the model first, or train this one beside it."""

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for the peft config, and `peft_type`, which says which one."""
        return {"peft_type": self.peft_type, **super().arguments()}


class QuantizationSection(UpstreamSection):
    """The fields of transformers' BitsAndBytesConfig."""
