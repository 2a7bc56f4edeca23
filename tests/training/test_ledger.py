"""The ledger: predictions against what a real step allocates and a real file weighs."""

import json

import pytest
import torch
from conftest import make_tiny_llama
from helpers import ROOT
from safetensors.torch import save_file

from lora_edu.adapters import LoRAConfig, audit, fused, inject, lora_layers, set_adapter
from lora_edu.adapters import save_load as checkpoint
from lora_edu.errors import ConfigError
from lora_edu.training import TrainConfig
from lora_edu.training.memory import ledger as memory
from lora_edu.training.memory import measure_memory, megabytes, predict_memory, sketch
from lora_edu.training.memory.ledger import safetensors_bytes
from lora_edu.training.optimizers import freeze_for

B, T = 2, 24
ADAPTERS = {
    "full fine-tuning": None,
    "all-linear": LoRAConfig(r=2),
    "q and v": LoRAConfig(r=2, target_modules=["q_proj", "v_proj"]),
    "one of the MLP": LoRAConfig(r=3, target_modules=["up_proj"]),
    "dropout": LoRAConfig(r=2, lora_dropout=0.1),
    "embedding": LoRAConfig(r=2, target_modules=["embed_tokens", "q_proj"]),
    "modules_to_save": LoRAConfig(r=2, target_modules=["v_proj"], modules_to_save=["lm_head"]),
    "B alone": LoRAConfig(r=2),
    "B alone, dropout": LoRAConfig(r=2, lora_dropout=0.1),
}


def batch(padded: bool) -> tuple[dict[str, torch.Tensor], int]:
    """B rows of T tokens, 8 of each answered, the second row shorter if padded; and the number of answer tokens."""
    ids = torch.randint(1, 32, (B, T), generator=torch.Generator().manual_seed(0))
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[:, : T - 8] = -100
    if padded:
        labels[1, -2:], mask[1, -2:] = -100, 0
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}, int((labels[:, 1:] != -100).sum())


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"padded": True},
        {"autocast": True},
        {"gradient_checkpointing": True},
        {"dtype": torch.bfloat16},
        {"dtype": torch.float64},
        {"dtype": torch.bfloat16, "gradient_checkpointing": True},
        {"dtype": torch.bfloat16, "autocast": True},
    ],
    ids=lambda setting: ", ".join(str(value).removeprefix("torch.") if key == "dtype" else key for key, value in setting.items()) or "fp32",
)  # fmt: skip
def test_predicted_equals_measured(adapter, setting, fast):
    with fused.switched(fast):
        predicted_equals_measured(adapter, setting)


def predicted_equals_measured(adapter, setting):
    model = make_tiny_llama(dtype=setting.get("dtype", torch.float32))
    if ADAPTERS[adapter]:
        inject(model, ADAPTERS[adapter])
    if adapter.startswith("B alone"):
        freeze_for(model, TrainConfig(optimizer="lorafa"))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    padded = setting.get("padded", False)
    rows, answers = batch(padded)
    how = {key: value for key, value in setting.items() if key in ("autocast", "gradient_checkpointing")}
    found = measure_memory(model, rows, **how)
    worked_out = predict_memory(model, B, T, answer_tokens=answers, padded=padded, **how)
    for entry in ("weights", "gradients", "optimizer", "trainable", "parameters", "file"):
        assert getattr(worked_out, entry) == getattr(found, entry) > 0, entry
    assert worked_out.activations == pytest.approx(found.activations, rel=0.03)
    assert sum(worked_out.parts.values()) == worked_out.activations
    for name, p in model.named_parameters():  # measuring is a real step, and changes nothing
        assert torch.equal(p, before[name]) and p.grad is None
    assert not model.training and not model.is_activation_checkpointing


def test_lora_fa_remembers_a_x_and_not_x():
    """Of what LoRA-FA is for: r numbers a token where all-linear LoRA keeps in numbers."""
    rows, _ = batch(False)
    model = inject(make_tiny_llama(), LoRAConfig(r=2))
    with fused.disabled():
        plain = measure_memory(model, rows).activations
        freeze_for(model, TrainConfig(optimizer="lorafa"))
        assert measure_memory(model, rows).activations < 0.8 * plain


@pytest.mark.parametrize("variant", ["dora", "pissa"])
def test_a_variant_is_counted_but_not_worked_out(variant, tmp_path):
    model = inject(make_tiny_llama(), LoRAConfig(r=2, variant=variant))
    found = measure_memory(model, batch(False)[0])
    trained = [p for p in model.parameters() if p.requires_grad]
    assert found.trainable == sum(p.numel() for p in trained) == audit(model).trainable
    assert found.optimizer == 2 * sum(p.nbytes for p in trained) + 4 * len(trained)
    assert found.parameters == sum(p.numel() for p in make_tiny_llama().parameters()) + sum(
        t.numel() for layer in lora_layers(model).values() for t in layer.tensors("default").values()
    )
    assert found.file == (checkpoint.save(model, tmp_path) / "adapter_model.safetensors").stat().st_size
    with pytest.raises(ConfigError, match="is not worked out here: measure_memory"):
        predict_memory(model, B, T)


@pytest.mark.parametrize("adapter", ["all-linear", "embedding", "modules_to_save", None])
def test_file_size_is_exact(tmp_path, adapter):
    model = make_tiny_llama(dtype=torch.bfloat16, tied=adapter is None)
    if adapter is None:
        model.save_pretrained(tmp_path)
        file = tmp_path / "model.safetensors"
    else:
        inject(model, ADAPTERS[adapter])
        file = checkpoint.save(model, tmp_path) / "adapter_model.safetensors"
    assert memory.file_bytes(model) == file.stat().st_size


def test_safetensors_size_of_mixed_types(tmp_path):
    tensors = {
        "ä": torch.zeros(3, dtype=torch.float64),
        "b": torch.zeros(5, 1, dtype=torch.int8),
        "a": torch.tensor(1.5),
    }
    save_file(tensors, tmp_path / "x", metadata={"k": "v"})
    assert safetensors_bytes(tensors, {"k": "v"}) == (tmp_path / "x").stat().st_size


@pytest.mark.parametrize(
    ("name", "parameters", "tensors"),
    [
        ("smollm2-135m", 134_515_008, 30 * 9 + 2),
        ("llama-3.2-1b", 1_235_814_400, 16 * 9 + 2),
        ("llama-2-7b", 6_738_415_616, 32 * 9 + 3),
        ("llama-65b", 65_285_660_672, 80 * 9 + 3),
        ("llama-2-70b", 68_976_648_192, 80 * 9 + 3),
    ],
)
def test_models_that_are_too_large_to_build(name, parameters, tensors):
    full = predict_memory(name, 1, 512, dtype=torch.bfloat16)
    with fused.switched(True):
        fast = predict_memory(name, 1, 512, lora=LoRAConfig(r=8), dtype=torch.bfloat16)
    with fused.disabled():
        lora = predict_memory(name, 1, 512, lora=LoRAConfig(r=8), dtype=torch.bfloat16)
    assert full.parameters == full.trainable == parameters
    assert full.weights == full.gradients == 2 * parameters
    assert full.optimizer == 2 * 2 * parameters + 4 * tensors
    assert lora.gradients == 4 * lora.trainable and lora.optimizer < full.optimizer / 20
    assert lora.activations > 0.8 * full.activations, "what is remembered does not shrink with what trains"
    assert 0.4 * full.activations < fast.activations < 0.9 * lora.activations, (
        "nor to nothing where less of it is needed"
    )
    checkpointed = predict_memory(name, 1, 512, lora=LoRAConfig(r=8), dtype=torch.bfloat16, gradient_checkpointing=True)
    assert checkpointed.activations < lora.activations / 4
    assert next(sketch(name).parameters()).device.type == "meta"


def test_a_published_figure_is_met():
    """QLoRA (arXiv 2305.14314): full fine-tuning of a 65B model in 16 bits takes more than 780 GB."""
    full = predict_memory("llama-65b", 1, 512, dtype=torch.bfloat16, gradient_checkpointing=True)
    assert 780e9 < full.weights + full.gradients + 2 * full.optimizer < 790e9  # with Adam's two moments in fp32


def test_only_what_speaks_and_trains_counts():
    model = inject(inject(make_tiny_llama(), LoRAConfig(r=2), "one"), LoRAConfig(r=4), "two")
    with fused.disabled():
        both, two = predict_memory(model, B, T).parts["A x"], 2 * 7 * B * T * 4 * 4
    assert both == two
    set_adapter(model, ["one", "two"])
    rows, answers = batch(padded=False)
    found, worked_out = measure_memory(model, rows), predict_memory(model, B, T, answer_tokens=answers)
    assert worked_out.activations == pytest.approx(found.activations, rel=0.03)


def test_sgd_has_no_state():
    assert predict_memory("smollm2-135m", 1, 8, optimizer="sgd").optimizer == 0


def test_what_cannot_be_predicted_is_named():
    from transformers import GPT2Config, GPT2LMHeadModel

    with pytest.raises(ConfigError, match=r"GPT2LMHeadModel is not Llama-shaped.*measure_memory\(\) counts them"):
        predict_memory(GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=16)), 1, 8)
    with pytest.raises(ConfigError, match="No shape is called 'llama-9'"):
        predict_memory("llama-9", 1, 8)
    with pytest.raises(ConfigError, match="already says itself what trains"):
        predict_memory(make_tiny_llama(), 1, 8, lora=LoRAConfig())
    with pytest.raises(ConfigError, match="optimiser 'adam8bit'"):
        predict_memory("smollm2-135m", 1, 8, optimizer="adam8bit")


def test_readable():
    ledger = predict_memory("llama-2-7b", 1, 512, dtype=torch.bfloat16)
    text, html = str(ledger), ledger._repr_html_()
    assert "13.5 GB" in text and "100.00%" in text and "residual stream" in text
    assert html.startswith("<table>") and html.count("<tr>") == len(text.splitlines())
    assert [megabytes(size) for size in (12, 9_770_000, 538_000_000, 27e9)] == ["12 B", "9.77 MB", "538 MB", "27 GB"]
    assert set(ledger.to_dict()) >= {"weights", "gradients", "optimizer", "activations", "parts"}


def test_a_sharded_ledger_keeps_the_share_and_what_is_whole_for_a_moment():
    """Against what `benchmarks/processes.py` has found on the real model with four processes, full fine-tuning and LoRA."""
    stored = json.loads((ROOT / "benchmarks" / "results" / "processes.json").read_text())
    for name, lora in (("full fine-tuning", None), ("all-linear r=8", LoRAConfig(r=8))):
        found, model = stored["fsdp"][name], sketch("smollm2-135m", lora)
        with fused.disabled():  # as it was measured
            whole = predict_memory(model, 1, stored["tokens"])
        ledger = memory.sharded(whole, model, stored["processes"])
        assert ledger.entries() | {"gathered": ledger.gathered} == found["expected"]
        kept = found["kept"]["weights"] + found["kept"]["optimizer"]
        assert 0.85 * ledger.total < kept + found["transient"] < ledger.total
        assert (
            found["kept"]["optimizer"] == ledger.optimizer
            and whole.gradients == stored["ddp"][name]["payload"]["summed"]
        )


def test_sharding_among_more_processes_leaves_less_to_each():
    model = sketch("llama-2-7b", LoRAConfig(r=8), torch.bfloat16)
    whole = predict_memory(model, 1, 512, gradient_checkpointing=True)
    totals = [memory.sharded(whole, model, n).total for n in (2, 4, 8, 16)]
    assert totals == sorted(totals, reverse=True) and totals[0] < whole.total
    assert str(memory.sharded(whole, model, 8)).splitlines()[2].split() == [
        "of",
        "both,",
        "for",
        "a",
        "moment",
        "2.17",
        "GB",
    ]
