"""DPO and KTO: each start has the right reference, wrong ones are refused, and a stopped run goes on exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import alignkit
from alignkit.errors import Interrupted, UserError
from alignkit.models import reference
from alignkit.runs import Run

ADAPTER = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
PAIRS = {"generate": "preferences", "options": {"rows": 48}}
Train = Callable[..., Run]


@pytest.fixture
def train(tmp_path: Path, tiny_model: Path) -> Train:
    """`train(method, model, **training)`: a few steps from `model` (the tiny one), in `tmp_path/run`."""

    def run(method: str = "dpo", model: Path = tiny_model, resume: bool = False, **sections: Any) -> Run:
        training = {
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 8,
            "learning_rate": 1e-2,
            "max_length": 48,
            "logging_steps": 1,
            "save_steps": 2,
            **sections.pop("training", {}),
        }
        recipe = {
            "method": method,
            "output_dir": str(tmp_path / sections.pop("name", "run")),
            "model": {"model_name_or_path": str(model), "dtype": "float32"},
            "data": {"train": [PAIRS], "eval_fraction": 0.25},
            "training": training,
            **sections,
        }
        return alignkit.train(alignkit.load_recipe(recipe), resume=resume)

    return run


@pytest.fixture(scope="module")
def sft_adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that supervised fine-tuning has moved well away from its base."""
    folder = tmp_path_factory.mktemp("sft") / "run"
    recipe = {
        "method": "sft",
        "output_dir": str(folder),
        "model": {"model_name_or_path": str(tiny_model), "dtype": "float32"},
        "adapter": ADAPTER,
        "data": {"train": [{"generate": "addition", "options": {"rows": 64}}]},
        "training": {"max_steps": 8, "per_device_train_batch_size": 8, "learning_rate": 5e-2, "max_length": 48},
    }
    return alignkit.train(alignkit.load_recipe(recipe)).model_dir


def losses(run: Run) -> list[float]:
    return [line["eval_loss"] for line in run.metrics() if "eval_loss" in line]


STARTS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"adapter": ADAPTER},
    "qlora": {"adapter": ADAPTER, "quantization": {"load_in_4bit": True}},
    "pissa": {"adapter": {**ADAPTER, "init_lora_weights": "pissa"}},
    "precomputed": {"training": {"precompute_ref_log_probs": True}},
    "precomputed_lora": {"adapter": ADAPTER, "training": {"precompute_ref_log_probs": True}},
}
FROM_ADAPTER: dict[str, dict[str, Any]] = {
    "goes_on": {},
    "goes_on_precomputed": {"training": {"precompute_ref_log_probs": True}},
    "goes_on_quantised": {"quantization": {"load_in_4bit": True}},
    "merged": {"adapter": {**ADAPTER, "on_top_of": "merge"}},
    "stacked": {"adapter": {**ADAPTER, "on_top_of": "stack"}},
}


@pytest.mark.parametrize("start", STARTS)
def test_the_first_loss_is_that_of_equals_and_it_falls(train: Train, start: str) -> None:
    """At step 0 policy and reference are one model: each pair's loss is -log σ(0)."""
    found = losses(train(**STARTS[start]))
    assert found[0] == pytest.approx(math.log(2), abs=1e-5)
    assert found[-1] < found[0] - 0.003, found


@pytest.mark.parametrize("start", FROM_ADAPTER)
def test_from_an_sft_adapter_the_reference_is_that_adapter(train: Train, sft_adapter: Path, start: str) -> None:
    run = train(model=sft_adapter, **FROM_ADAPTER[start])
    found = losses(run)
    assert found[0] == pytest.approx(math.log(2), abs=1e-5)
    assert found[-1] < found[0] - 0.003, found
    assert not (run.model_dir / "ref").exists()  # the copy that was held against is no result


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ("dpo", {"loss_type": "ipo"}),
        ("dpo", {"loss_type": "hinge"}),
        ("dpo", {"loss_type": "robust", "label_smoothing": 0.1}),
        ("dpo", {"loss_type": "exo_pair", "label_smoothing": 0.001}),
        *(("dpo", {"loss_type": name}) for name in ("nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired")),
        *(("dpo", {"loss_type": name}) for name in ("apo_zero", "apo_down", "discopop", "sigmoid_norm")),
        ("dpo", {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
        ("dpo", {"use_weighting": True}),
        ("dpo", {"f_divergence_type": "js_divergence", "ld_alpha": 0.5}),
        ("dpo", {"sync_ref_model": True, "ref_model_sync_steps": 1}),
        ("kto", {}),
        ("kto", {"loss_type": "apo_zero_unpaired", "precompute_ref_log_probs": True}),
        ("kto", {"precompute_ref_log_probs": True}),
    ],
    ids=str,
)
def test_every_loss_trains(train: Train, kind: str, loss: dict[str, Any]) -> None:
    run = train(kind, training={"max_steps": 1, "save_strategy": "no", **loss}, data={"train": [PAIRS]})
    (line,) = [line for line in run.metrics() if "loss" in line]
    assert math.isfinite(line["loss"]) and math.isfinite(line["grad_norm"])


def test_an_adapter_that_begins_as_a_change_is_refused(train: Train, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the policy is not .*tiny") as caught:
        train(adapter={**ADAPTER, "init_lora_weights": False})
    assert caught.value.problems[0].field == "adapter" and not (tmp_path / "run").exists()


def test_a_reference_that_forgot_the_adapter_is_refused(
    train: Train, sft_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What TRL's users met (#872): the reference is the base, though the policy starts from an adapter on it."""
    build = reference.build_reference

    def forgetful(*args: Any, **kwargs: Any) -> reference.Reference:
        found = build(*args, **kwargs)
        return reference.Reference("adapter_off", found.name)

    monkeypatch.setattr("alignkit.models.build_reference", forgetful)
    with pytest.raises(UserError, match=r"the reference is not .*sft"):
        train(model=sft_adapter)


def test_a_named_reference_is_another_model_on_purpose(train: Train, sft_adapter: Path, tiny_model: Path) -> None:
    run = train(model=sft_adapter, reference=str(tiny_model))
    assert losses(run)[0] != pytest.approx(math.log(2), abs=1e-3)
    assert any("nats a token away" in note for note in run.manifest["model"]["precision_notes"])
    same = train(model=sft_adapter, reference=str(sft_adapter.parent), name="same")
    assert losses(same)[0] == pytest.approx(math.log(2), abs=1e-5)
    with pytest.raises(UserError, match="reference: there is no folder"):
        alignkit.api.check(
            alignkit.load_recipe(
                {
                    "method": "dpo",
                    "output_dir": "x",
                    "model": {"model_name_or_path": str(tiny_model)},
                    "reference": "./nowhere",
                    "data": {"train": [PAIRS]},
                }
            )
        )


def test_kto_refuses_answers_of_one_kind(train: Train, tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
    for label, words in ((True, "all 6 answers are good ones.*sft"), (False, "all 6 answers are bad ones")):
        rows = [{"prompt": f"{n}+1=", "completion": str(n + 1), "label": label} for n in range(6)]
        with pytest.raises(UserError, match=words):
            train("kto", data={"train": str(write_jsonl(rows))})


def test_kto_prints_no_bar_of_upstreams(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    train("kto")
    assert "Map" not in capfd.readouterr().err


def test_a_weight_for_each_loss(train: Train) -> None:
    with pytest.raises(UserError, match=r"training.loss_weights: 2 for 1 of training.loss_type \(sigmoid\)"):
        train(training={"loss_weights": [1.0, 2.0]})


def test_kto_from_an_adapter(train: Train, sft_adapter: Path) -> None:
    run = train("kto", model=sft_adapter)
    assert losses(run)[-1] < losses(run)[0]


RESUMED: list[tuple[str, bool, dict[str, Any]]] = [
    ("dpo", False, {}),
    ("dpo", False, {"adapter": {**ADAPTER, "lora_dropout": 0.1}}),
    ("dpo", True, {}),
    ("dpo", True, {"training": {"precompute_ref_log_probs": True}}),
    ("kto", False, {"adapter": ADAPTER}),
]


@pytest.mark.parametrize(("method", "from_adapter", "sections"), RESUMED, ids=str)
def test_an_interrupted_run_goes_on_exactly(
    train: Train, sft_adapter: Path, tiny_model: Path, method: str, from_adapter: bool, sections: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model = sft_adapter if from_adapter else tiny_model
    whole = train(method, model, name="whole", **sections)
    stop_after(monkeypatch, 2)
    with pytest.raises(Interrupted):
        train(method, model, name="parts", **sections)
    monkeypatch.undo()
    parts = train(method, model, name="parts", resume=True, **sections)
    one, other = (weights(run.model_dir) for run in (whole, parts))
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """As a SIGTERM after that step would."""
    import signal

    from alignkit.trainers import StopRequests

    on_step_end = StopRequests.on_step_end

    def stopping(self: StopRequests, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == step:
            signal.raise_signal(signal.SIGTERM)
        return on_step_end(self, args, state, control, **kwargs)

    monkeypatch.setattr(StopRequests, "on_step_end", stopping)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    name = "adapter_model.safetensors" if (folder / "adapter_config.json").exists() else "model.safetensors"
    return load_file(folder / name)
