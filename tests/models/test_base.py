"""Base models of anybody's: what a folder or a name may be, and what each refusal says."""

import json
import os

import pytest
import torch

from lora_edu.errors import ModelError
from lora_edu.models import load_base


def test_a_local_folder_loads(folder):
    model, tokenizer = load_base(folder, device="cpu", dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert tokenizer.pad_token == "<|im_end|>"


def test_pickled_weights_are_never_read(folder):
    weights = folder / "model.safetensors"
    torch.save({"harmless": torch.zeros(1)}, folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelError, match="pickles"):
        load_base(folder)


def test_a_models_own_code_is_never_run(folder):
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "evil", "auto_map": code}))
    (folder / "evil.py").write_text(f"open({str(folder / 'it_ran')!r}, 'w')")
    with pytest.raises(ModelError, match="never runs a model's code"):
        load_base(folder)
    assert not (folder / "it_ran").exists()


def test_a_truncated_file_of_the_users_is_named(folder):
    os.truncate(folder / "model.safetensors", 2000)
    with pytest.raises(ModelError, match="is damaged"):
        load_base(folder)


def test_a_model_of_another_kind_is_refused(tmp_path, folder):
    from transformers import T5Config

    T5Config().save_pretrained(folder)
    with pytest.raises(ModelError, match="not a causal language model"):
        load_base(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./no/such/folder", "There is no folder no/such/folder"),
        ("~/no such folder", "There is no folder"),
        ("nobody/nothing", "HF_ENDPOINT"),
        ("smollm3", "smollm2-135m"),
    ],
)
def test_a_name_that_is_nowhere_is_an_error_with_a_remedy(name, words, cache):
    with pytest.raises(ModelError, match=words):
        load_base(name)


def test_an_adapters_folder_is_recognised(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds an adapter.*load\(model, folder\)"):
        load_base(tmp_path)


@pytest.mark.real_model
def test_the_default_model(base):
    model, tokenizer = base
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert model.dtype == torch.float32 and not model.training
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert "<|im_start|>system" in tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)


def test_four_bits(folder):
    from lora_edu.models.quantized import Quantization, dequantize, quantization_of, quantize

    ids = torch.arange(1, 7)[None]
    model, _ = load_base(folder, device="cpu", bits=4)
    assert quantization_of(model) == Quantization()
    dense = load_base(folder, device="cpu").model
    assert not torch.equal(model(ids).logits, dense(ids).logits)
    quantize(dense)
    assert torch.equal(model(ids).logits, dequantize(dense)(ids).logits)


@pytest.mark.parametrize("bits", [3, 8, "4", True, 4.5])
def test_bits_that_are_none(folder, bits):
    with pytest.raises(ModelError, match="bits must be 4"):
        load_base(folder, bits=bits)
