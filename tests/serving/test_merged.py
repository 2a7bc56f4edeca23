"""The merged folder: read back before it takes its place."""

import pytest
import torch
from helpers import randomise
from tiny_families import bpe_tokenizer, tiny

from lora_edu.adapters import BitFit, LoRAConfig, PrefixTuning, attach, inject
from lora_edu.errors import ExportError, MergeError
from lora_edu.models import load_base
from lora_edu.serving import merged, write_merged

IDS = torch.arange(3, 19).reshape(2, 8)


@pytest.mark.parametrize("variant", [None, "dora"])
def test_transformers_reads_the_adapted_model(variant, tmp_path):
    from transformers import AutoModelForCausalLM

    tokenizer = bpe_tokenizer()
    model = randomise(inject(tiny("llama", tokenizer), LoRAConfig(r=4, variant=variant)), std=0.2)
    expected = model(IDS).logits
    report = write_merged(model, tokenizer, tmp_path / "merged")
    assert report.merge.matrices == 14 and report.difference < 1e-4 * report.reach
    assert torch.allclose(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(IDS).logits, expected, atol=2e-4)
    assert load_base(tmp_path / "merged").tokenizer.chat_template == tokenizer.chat_template


def test_what_was_trained_in_place_is_written_as_it_is(tmp_path):
    tokenizer = bpe_tokenizer("qwen2")
    model = attach(tiny("qwen2", tokenizer), BitFit())
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.bias += 1
    expected = model(IDS).logits
    assert write_merged(model, tokenizer, tmp_path / "merged").merge is None
    assert torch.equal(load_base(tmp_path / "merged").model(IDS).logits, expected)


def test_nothing_is_written_where_nothing_can_be_merged(tmp_path):
    tokenizer = bpe_tokenizer()
    with pytest.raises(ExportError, match="no adapter is active"):
        write_merged(tiny("llama", tokenizer), tokenizer, tmp_path / "merged")
    with pytest.raises(ExportError, match="a prefix"):
        write_merged(attach(tiny("llama", tokenizer), PrefixTuning(4)), tokenizer, tmp_path / "merged")
    tied = inject(tiny("llama", tokenizer, tie_word_embeddings=True), LoRAConfig(r=2, target_modules=("lm_head",)))
    with pytest.raises(MergeError, match="untie"):
        write_merged(randomise(tied), tokenizer, tmp_path / "merged")
    assert not any(tmp_path.iterdir())


def test_a_folder_that_reads_as_another_model_does_not_appear(tmp_path, monkeypatch):
    tokenizer = bpe_tokenizer()
    model = randomise(inject(tiny("llama", tokenizer), LoRAConfig(r=4)))
    other = load_base
    monkeypatch.setattr(
        merged, "load_base", lambda folder, **options: other(folder, **options)._replace(model=tiny("llama", tokenizer))
    )
    with pytest.raises(ExportError, match="another model"):
        write_merged(model, tokenizer, tmp_path / "merged")
    assert not any(tmp_path.iterdir())
