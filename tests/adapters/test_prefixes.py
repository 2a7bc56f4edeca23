"""Trained, saved, loaded, and nothing changed: PEFT loads a folder with dead keys in silence, here it is refused and can be mended."""

import re
import shutil

import peft
import pytest
import torch
from conftest import make_tiny_llama
from helpers import randomise, tokens
from safetensors.torch import load_file, save_file

from lora_edu.adapters import LoRAConfig, adapter_names, inject, load, save
from lora_edu.adapters.folder import WEIGHTS
from lora_edu.adapters.prefixes import mending
from lora_edu.errors import CheckpointError

CONFIG = LoRAConfig(r=2, target_modules=["q_proj", "embed_tokens"])

# How a key gets wrong (a function of the right one), and what the error says mends it.
DEAD = {
    "prefix missing": (lambda k: k.removeprefix("base_model.model."), "put 'base_model.model.' at the beginning"),
    "half of the prefix": (lambda k: k.removeprefix("base_model."), "put 'base_model.' at the beginning"),
    "prefix twice": (lambda k: f"base_model.model.{k}", "take out 'base_model.model.' at the beginning"),
    "model. too few": (lambda k: k.replace(".model.model.", ".model.", 1), "put 'model.' behind 'base_model.'"),
    "model. too many": (
        lambda k: k.replace(".model.model.", ".model.model.model.", 1),
        "take out 'model.' behind 'base_model.'",
    ),
    "of a larger model": (
        lambda k: k.replace(".model.model.", ".model.model.language_model.", 1),
        "take out 'language_model.' behind 'base_model.model.model.'",
    ),
    "another name": (
        lambda k: k.replace(".model.model.", ".model.transformer.", 1),
        "replace 'transformer.' by 'model.' behind 'base_model.model.'",
    ),
    "DDP": (
        lambda k: k.replace("base_model.model.", "base_model.model.module."),
        "take out 'module.' behind 'base_model.model.'",
    ),
    "DDP outside": (lambda k: f"module.{k}", "take out 'module.' at the beginning"),
    "compiled": (
        lambda k: k.replace("base_model.model.", "base_model.model._orig_mod."),
        "take out '_orig_mod.' behind 'base_model.model.'",
    ),
    "compiled layers": (lambda k: k.replace("self_attn.", "_orig_mod.self_attn."), "take out every '_orig_mod.'"),
    "of a state dict": (
        lambda k: (
            k.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default.")
            + (".default" if "embedding" in k else "")
        ),
        "take out the adapter's name",
    ),
    "all at once": (
        lambda k: "module._orig_mod." + k.removeprefix("base_model.model.").replace("lora_A.", "lora_A.x."),
        "take out the adapter's name behind lora_A and lora_B and replace 'module._orig_mod.' by 'base_model.model.' at the",
    ),
}


def folder_of(tmp_path, rename):
    model = randomise(inject(make_tiny_llama(), CONFIG))
    folder = save(model, tmp_path / "adapter")
    tensors = load_file(folder / WEIGHTS)
    renamed = {rename(k): t for k, t in tensors.items()}
    assert len(renamed) == len(tensors) and renamed.keys() != tensors.keys()
    save_file(renamed, folder / WEIGHTS, metadata={"format": "pt"})
    return folder, model(tokens()).logits


@pytest.mark.parametrize("case", DEAD)
def test_dead_keys_do_nothing_in_peft_are_refused_here_and_can_be_mended(case, tmp_path):
    rename, rule = DEAD[case]
    folder, expected = folder_of(tmp_path, rename)
    base = make_tiny_llama()(tokens()).logits
    with pytest.warns(UserWarning, match="missing adapter keys"):
        # (a name in the keys that is, by chance, the one it is loaded under is read by PEFT)
        theirs = peft.PeftModel.from_pretrained(make_tiny_llama(), folder, adapter_name="other").eval()
    logits = theirs(tokens()).logits
    assert not torch.allclose(logits, expected, atol=1e-5)
    if case != "compiled layers":  # (there the embedding's keys are right, and half of the adapter speaks)
        assert torch.equal(logits, base)

    model = make_tiny_llama()
    with pytest.raises(CheckpointError, match=rf"wrong prefix.*What fits: {re.escape(rule)}"):
        load(model, folder)
    assert adapter_names(model) == [] and torch.equal(model(tokens()).logits, base)
    load(model, folder, mend_keys=True)
    assert torch.equal(model(tokens()).logits, expected)
    # saved again, PEFT reads it too
    again = peft.PeftModel.from_pretrained(make_tiny_llama(), save(model, tmp_path / "again")).eval()
    torch.testing.assert_close(again(tokens()).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_what_peft_itself_writes_of_a_compiled_model_is_read_when_asked(tmp_path):
    theirs = peft.get_peft_model(torch.compile(make_tiny_llama()), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))))
    theirs.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"take out '_orig_mod.'"):
        load(make_tiny_llama(), tmp_path)
    ours = load(make_tiny_llama(), tmp_path, mend_keys=True)
    loaded = peft.PeftModel.from_pretrained(make_tiny_llama(), tmp_path).eval()
    assert torch.equal(loaded(tokens()).logits, make_tiny_llama()(tokens()).logits)
    plain = theirs.base_model.model._orig_mod.eval()
    torch.testing.assert_close(ours(tokens()).logits, plain(tokens()).logits, rtol=0, atol=1e-5)


def test_mending_is_only_for_keys_that_one_rule_makes_right(tmp_path):
    folder, _ = folder_of(tmp_path, lambda k: k.replace("layers.1.", "layers.7."))
    for mend in (False, True):
        with pytest.raises(CheckpointError, match=r"missing: .*layers.1(.|\n)*unexpected: .*layers.7") as caught:
            load(make_tiny_llama(), folder, mend_keys=mend)
        assert "prefix" not in str(caught.value)
    shutil.rmtree(folder)
    folder, _ = folder_of(tmp_path, lambda k: "x." + k.replace("layers", "blocks").replace("embed_tokens", "e"))
    with pytest.raises(CheckpointError, match="none of the file's 6 keys is one that this model needs"):
        load(make_tiny_llama(), folder, mend_keys=True)


def test_a_sound_folder_needs_no_mending_and_is_not_changed_by_it(tmp_path):
    model = randomise(inject(make_tiny_llama(), CONFIG))
    folder = save(model, tmp_path)
    assert torch.equal(load(make_tiny_llama(), folder, mend_keys=True)(tokens()).logits, model(tokens()).logits)
    keys = load_file(folder / WEIGHTS).keys()
    assert mending(keys, keys) is None and mending(keys, []) is None
    assert mending(["a.module.lora_A.weight"], ["module.lora_A.weight"]).rule == "put 'a.' at the beginning"


def test_a_mended_file_is_still_checked(tmp_path):
    folder, _ = folder_of(tmp_path, lambda k: k.removeprefix("base_model.model."))
    tensors = load_file(folder / WEIGHTS)
    key = "model.layers.1.self_attn.q_proj.lora_B.weight"
    save_file({**tensors, key: tensors[key][:-1]}, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"has shape \(15, 2\), this model needs \(16, 2\)"):
        load(make_tiny_llama(), folder, mend_keys=True)
