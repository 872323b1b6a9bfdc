"""How to use the result, how to make it again, and the recipe that made it."""

from __future__ import annotations

import json
import shlex

from alignkit.report.blocks import Block, Cell, Code, Column, Fact, Facts, Fold, Section, Table
from alignkit.report.data import ReportData
from alignkit.report.numbers import DASH


def load(data: ReportData) -> Section | None:
    """Code that loads the result with plain transformers or peft."""
    if not data.result.kind:
        return None
    return Section("load", "Use the result", [Code(snippet(data), "python")])


def reproduce(data: ReportData) -> Section | None:
    """Command, seed, code, versions, hardware and fingerprints."""
    blocks: list[Block] = []
    command = data.manifest.get("command")
    if isinstance(command, list) and command:
        blocks.append(Code(shlex.join(str(word) for word in command), "sh"))
    elif isinstance(command, str):
        blocks.append(Code(command, "sh"))
    facts = _circumstances(data)
    if facts:
        blocks.append(Facts(facts))
    for title, key in (("Fingerprints", "fingerprints"), ("Versions", "versions")):
        values = data.manifest.get(key)
        if isinstance(values, dict) and values:
            rows = [
                [Cell(str(name).replace("_", " ")), Cell(_plain(value))]
                for name, value in values.items()
                if value is not None
            ]
            table = Table([Column(title.removesuffix("s")), Column("Value")], rows)
            blocks.append(Fold(f"{title} ({len(rows)})", [table]))
    return Section("reproduce", "Make it again", blocks) if blocks else None


def recipe(data: ReportData) -> Section | None:
    """The resolved recipe: every value that was used."""
    if not data.recipe_text.strip():
        return None
    code = Code(data.recipe_text.rstrip("\n"), "yaml")
    return Section("recipe", "Recipe", [Fold("recipe.yaml, with every value that was used", [code])])


def snippet(data: ReportData) -> str:
    """Python that loads the result and asks it something."""
    result, path = data.result, json.dumps(str(data.result.path), ensure_ascii=False)
    library, prefix = ("peft", "AutoPeftModelFor") if result.kind == "adapter" else ("transformers", "AutoModelFor")
    name = prefix + result.task
    imports = (
        f"from transformers import {', '.join(sorted(('AutoTokenizer', name)))}"
        if library == "transformers"
        else (f"from peft import {name}\nfrom transformers import AutoTokenizer")
    )
    labels, options = [], ""
    if library == "peft" and result.task != "CausalLM":  # the labels stand in the config beside the adapter
        imports = imports.replace("import AutoTokenizer", "import AutoConfig, AutoTokenizer")
        labels = [f"config = AutoConfig.from_pretrained({path})"]
        options = ", id2label=config.id2label, problem_type=config.problem_type"
    lines = [
        imports,
        "",
        *labels,
        f"model = {name}.from_pretrained({path}{options})",
        f"tokenizer = AutoTokenizer.from_pretrained({path})",
        "",
    ]
    if result.task != "CausalLM":
        lines += ['inputs = tokenizer("…", return_tensors="pt")', "print(model(**inputs).logits)"]
        return "\n".join(lines)
    if result.chat:
        lines += [
            'messages = [{"role": "user", "content": "…"}]',
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
            ")",
        ]
    else:
        lines.append('inputs = tokenizer("…", return_tensors="pt")')
    lines += [
        "output = model.generate(**inputs, max_new_tokens=256)",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))',
    ]
    return "\n".join(lines)


def _circumstances(data: ReportData) -> list[Fact]:
    git, model = data.manifest.get("git"), data.manifest.get("model")
    facts = []
    seed = data.manifest.get("seed", data.recipe.get("seed"))
    if seed is not None:
        facts.append(Fact("Seed", _plain(seed)))
    if isinstance(git, dict) and git.get("commit"):
        dirty = "with uncommitted changes" if git.get("dirty") else "clean"
        facts.append(Fact("Git commit", str(git["commit"]), dirty, "warn" if git.get("dirty") else "plain"))
    if data.manifest.get("alignkit"):
        facts.append(Fact("alignkit", _plain(data.manifest["alignkit"])))
    if isinstance(model, dict):
        notes = model.get("precision_notes")
        detail = "; ".join(str(note) for note in notes) if isinstance(notes, list) else ""
        if model.get("dtype"):
            facts.append(Fact("Precision", _plain(model["dtype"]), detail))
    hardware = data.manifest.get("hardware")
    if isinstance(hardware, dict):
        name = _plain(hardware["name"]) if hardware.get("name") else ""
        for key, value in hardware.items():
            if value is not None and key != "name":
                label = str(key).replace("_", " ").capitalize()
                facts.append(Fact(label, _plain(value), name if key == "device" else ""))
    if data.manifest.get("created"):
        facts.append(Fact("Started", str(data.manifest["created"])))
    return facts


def _plain(value: object) -> str:
    """Any stored value on one line; what JSON stores as NaN is a dash here too."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return DASH
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
