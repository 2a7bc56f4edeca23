"""The portable folder: PEFT reads the same model out of it, and its content keeps the rules that vLLM and llama.cpp's converter go by."""

import json

import pytest
import torch
from helpers import randomise
from tiny_families import SETTINGS, bpe_tokenizer, tiny

from lora_edu.adapters import Bottleneck, FullFineTuning, LoRAConfig, PrefixTuning, attach, inject, load, save
from lora_edu.adapters.folder import read
from lora_edu.adapters.neighbours.known import METHODS
from lora_edu.errors import ExportError
from lora_edu.serving import RULES, features_of, write_portable
from lora_edu.serving.rules import FOLDED, KEPT, OURS, REFUSED, WAYS, refuse

IDS = torch.arange(3, 19).reshape(2, 8)


def adapted(settings):
    model = tiny("llama", bpe_tokenizer())
    inject(model, LoRAConfig(**settings))
    return randomise(model, std=0.25)


@pytest.mark.parametrize("settings", SETTINGS)
def test_peft_and_we_read_the_same_model(settings, tmp_path):
    from peft import PeftModel

    model = adapted(SETTINGS[settings])
    expected = model(IDS).logits
    folder = write_portable(model, tmp_path / "portable")
    plain = tiny("llama", bpe_tokenizer())
    assert not torch.allclose(plain(IDS).logits, expected, atol=1e-2)
    theirs = PeftModel.from_pretrained(plain, folder)
    assert torch.allclose(theirs(IDS).logits, expected, atol=2e-4)
    assert torch.allclose(load(tiny("llama", bpe_tokenizer()), folder)(IDS).logits, expected, atol=2e-4)


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_reader_that_knows_alpha_over_r_alone_reads_the_same_update(settings, tmp_path):
    """vLLM's rules, as it loads a folder: r, lora_alpha, target_modules; one scale; factors under two endings and nothing else."""
    model = adapted(SETTINGS[settings])
    config = json.loads((write_portable(model, tmp_path / "p") / "adapter_config.json").read_text())
    _, tensors, metadata = read(tmp_path / "p")
    assert metadata["format"] == "pt"
    assert config["r"] == config["lora_alpha"] and not config["use_rslora"] and not config["use_dora"]
    assert not config["modules_to_save"] and not config["rank_pattern"] and not config["alpha_pattern"]
    assert config["bias"] == "none" and config["target_modules"]
    assert all(key.endswith((".lora_A.weight", ".lora_B.weight")) for key in tensors)
    plain, ids = tiny("llama", bpe_tokenizer()), IDS
    expected = model(ids).logits
    with torch.no_grad():
        for key in (key for key in tensors if ".lora_A." in key):
            A, B = tensors[key], tensors[key.replace("lora_A", "lora_B")]
            assert len(A) == B.shape[1] == config["r"]
            weight = plain.get_submodule(key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")).weight
            weight += config["lora_alpha"] / config["r"] * B @ A
    assert torch.allclose(plain(ids).logits, expected, atol=2e-4)


def test_a_reader_that_knows_one_scale_alone_misreads_the_folder_as_it_was_saved(tmp_path):
    """Exhibit: the same rule on the folder that `save` writes is silently another model."""
    from lora_edu.adapters import save

    model = adapted(SETTINGS["rslora"])
    config = json.loads((save(model, tmp_path / "p") / "adapter_config.json").read_text())
    plain, (_, tensors, _) = tiny("llama", bpe_tokenizer()), read(tmp_path / "p")
    with torch.no_grad():
        for key in (key for key in tensors if ".lora_A." in key):
            weight = plain.get_submodule(key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")).weight
            weight += config["lora_alpha"] / config["r"] * tensors[key.replace("lora_A", "lora_B")] @ tensors[key]
    assert not torch.allclose(plain(IDS).logits, model(IDS).logits, atol=1e-2)


HARD = {
    "variant": (LoRAConfig(r=2, variant="dora"), {}),
    "modules_to_save": (LoRAConfig(r=2, target_modules=("q_proj",), modules_to_save=("lm_head",)), {}),
    "embedding": (LoRAConfig(r=2, target_modules=("embed_tokens", "q_proj")), {}),
    "tied_head": (LoRAConfig(r=2, target_modules=("lm_head", "q_proj")), {"tie_word_embeddings": True}),
    "bottleneck": (Bottleneck(m=4), {}),
    "in_place": (FullFineTuning(), {}),
    "neighbour": (PrefixTuning(4), {}),
}


@pytest.mark.parametrize("feature", HARD)
def test_what_the_folder_cannot_hold_is_refused(feature, tmp_path):
    config, form = HARD[feature]
    model = tiny("llama", bpe_tokenizer(), **form)
    attach(model, config)
    assert features_of(model, "default") == [feature]
    with pytest.raises(ExportError, match="nothing is dropped in silence"):
        write_portable(model, tmp_path / "p")
    assert not any(tmp_path.iterdir())


def test_rows_of_new_tokens_are_refused(tmp_path):
    from transformers import AutoModelForCausalLM

    tiny("llama", bpe_tokenizer()).save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model.resize_token_embeddings(model.config.vocab_size + 3)
    inject(model, LoRAConfig(r=2, target_modules=("q_proj",)))
    assert features_of(model, "default") == ["new_tokens"]
    with pytest.raises(ExportError, match="no such rows"):
        write_portable(model, tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_an_adapter_on_a_convolution_is_refused(tmp_path):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4, 4))
    inject(net, LoRAConfig(r=2, target_modules=("0", "2")))
    assert features_of(net, "default") == ["convolution"]
    with pytest.raises(ExportError, match="no such layer"):
        write_portable(net, tmp_path / "p")
    assert not any(tmp_path.iterdir())


def test_each_refusal_has_a_test_of_its_own():
    refused = {key for key, rule in RULES.items() if rule.portable == REFUSED}
    assert refused == {*HARD, "new_tokens", "convolution"}


@pytest.mark.parametrize("word", METHODS)
def test_a_folder_that_peft_cannot_read_is_called_ours(word, tmp_path):
    """By the method's name in the folder, and by whether PEFT knows it."""
    from peft import PeftType

    model = tiny("llama", bpe_tokenizer())
    attach(model, METHODS[word](**({"norms": True} if word == "bitfit" else {})))
    kind = json.loads((save(model, tmp_path / "p") / "adapter_config.json").read_text())["peft_type"]
    verdicts = {RULES[key].peft for key in features_of(model, "default")}
    assert (OURS in verdicts) == (kind not in list(PeftType))
    if OURS in verdicts:
        with pytest.raises(ExportError, match=r"lora_edu\.load reads|merge it instead"):
            refuse(model, "default", "portable")


def test_every_rule_says_something_of_every_way_and_features_are_told_apart():
    assert all(
        rule.verdict(way) in (KEPT, OURS, FOLDED, REFUSED) and rule.in_silence
        for rule in RULES.values()
        for way in WAYS
    )
    assert features_of(adapted(SETTINGS["plain"]), "default") == []
    assert features_of(adapted(SETTINGS["all"]), "default") == ["rslora", "rank_pattern", "alpha_pattern"]
    assert features_of(adapted(SETTINGS["pissa"]), "default") == []  # it is written as plain LoRA
