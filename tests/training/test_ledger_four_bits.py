"""The ledger of a base in four bits: counted as it is held, against a real step and against published figures."""

import pytest
import torch
from conftest import make_tiny_llama
from helpers import tokens
from safetensors.torch import save_file

from lora_edu.adapters import LoRAConfig, audit, inject, save
from lora_edu.errors import ConfigError
from lora_edu.models.quantized import Quantization, quantize, quantized_layers
from lora_edu.training import TrainConfig
from lora_edu.training.memory import file_bytes, fitting, measure_memory, predict_memory, sharded

B, T = 2, 24
WAYS = [Quantization(), Quantization(double=False), Quantization("int4", 32)]


def model(how=None, **config):
    made = make_tiny_llama()
    quantize(made, how)
    return inject(made, LoRAConfig(r=2, **config))


@pytest.mark.parametrize("how", WAYS, ids=str)
@pytest.mark.parametrize("setting", [{}, {"autocast": True}, {"gradient_checkpointing": True}], ids=str)
@pytest.mark.parametrize("config", [{}, {"target_modules": ["q_proj", "up_proj"]}, {"lora_dropout": 0.1}], ids=str)
def test_predicted_equals_measured(how, setting, config):
    made = model(how, **config)
    ids = tokens(B, T)
    found = measure_memory(made, {"input_ids": ids, "labels": ids}, **setting)
    worked_out = predict_memory(made, B, T, **setting)
    for entry in ("weights", "gradients", "optimizer", "trainable", "parameters", "file"):
        assert getattr(worked_out, entry) == getattr(found, entry) > 0, entry
    assert worked_out.activations == pytest.approx(found.activations, rel=0.03)


def test_every_byte_that_the_model_holds_is_a_weight_of_the_ledger():
    made = model()
    held = {}
    for tensor in (*made.parameters(), *(b for layer in quantized_layers(made).values() for b in layer.buffers())):
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    ledger = predict_memory(made, B, T)
    assert ledger.weights == sum(held.values())
    dense = inject(make_tiny_llama(), LoRAConfig(r=2))
    assert ledger.parameters == predict_memory(dense, B, T).parameters == audit(made).total == audit(dense).total


def test_the_files_size_is_exact(tmp_path):
    made = model()
    assert file_bytes(made) == (save(made, tmp_path) / "adapter_model.safetensors").stat().st_size
    plain = make_tiny_llama()
    quantize(plain)
    save_file({n: t for n, t in plain.state_dict().items()}, tmp_path / "all.safetensors", metadata={"format": "pt"})
    assert file_bytes(plain) == (tmp_path / "all.safetensors").stat().st_size


def test_a_7b_model_fits_into_8_gb_and_what_double_quantisation_saves():
    """bf16 alone takes 13.5 GB. In four bits it trains in 8 GB, with gradient checkpointing; the second rounding is 0.3 GB of it."""
    settings = {"lora": LoRAConfig(r=16), "dtype": torch.bfloat16, "gradient_checkpointing": True}
    sixteen, single, double = (
        predict_memory("llama-2-7b", 1, 512, quantization=how, **settings)
        for how in (None, Quantization(double=False), Quantization())
    )
    assert sixteen.total > 14e9 and single.total < 5.2e9 and double.total < 4.9e9
    assert 0.29e9 < single.weights - double.weights < 0.31e9
    assert sixteen.parameters == double.parameters and sixteen.trainable == double.trainable


def test_a_published_figure_is_met():
    """QLoRA, §3 (arXiv 2305.14314): 0.373 bits a parameter, about 3 GB for a 65B model."""
    single, double = (
        predict_memory("llama-65b", 1, 8, lora=LoRAConfig(r=1), dtype=torch.bfloat16, quantization=how)
        for how in (Quantization(double=False), Quantization())
    )
    saved = single.weights - double.weights
    assert 2.95e9 < saved < 3.05e9 and 8 * saved / single.parameters == pytest.approx(0.373, abs=0.01)


def test_a_model_that_is_there_says_itself_how_it_is_rounded():
    with pytest.raises(ConfigError, match=r"quantize\(model\)"):
        predict_memory(make_tiny_llama(), B, T, quantization=Quantization())


def test_packed_weights_are_not_split_among_processes():
    made = model()
    packed = sum(b.nbytes for layer in quantized_layers(made).values() for b in layer.buffers())
    one, many = (sharded(predict_memory(made, B, T), made, n) for n in (1, 64))
    assert many.weights > packed and one.weights - many.weights < one.weights - packed


def test_a_base_in_four_bits_is_not_told_to_become_one():
    made = make_tiny_llama(dtype=torch.bfloat16, hidden_size=64, intermediate_size=256)
    quantize(made)
    inject(made, LoRAConfig(r=1, target_modules=["q_proj"]))
    said = fitting._nowhere(fitting.Shape(1, 8, 8), lambda shape, again: predict_memory(made, 1, 8), 1000)
    assert "weights alone" in said and "four bits" not in said and "take a smaller base" in said


def test_fit_says_how_the_base_is_held():
    value, why = fitting._base_weights(model(), "fp32", TrainConfig())
    assert value == "nf4 in blocks of 64, double quantisation" and "packed" in why
