"""Chapter 14 runs on any causal LM that its one variable names, whether the ledger knows its shape or not."""

import re

import nbformat
import pytest
import torch
from helpers import NOTEBOOKS

CHAPTER = NOTEBOOKS / "14_a_real_llm.ipynb"
SHAPE = {
    "vocab_size": 49152, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip


def tiny(kind: str):
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    torch.manual_seed(0)
    if kind == "gpt2":  # with the dropout it brings: a tenth, in three kinds of places
        names = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
        size = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
        return GPT2LMHeadModel(GPT2Config(**{name: SHAPE[name] for name in names}, **size))
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**SHAPE, attention_dropout=0.1))
    return Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=8))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen", "gpt2"])
def test_the_whole_chapter_runs_on_a_folder(kind, base, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LORA_EDU_PROGRESS", "off")
    folder = tmp_path / kind
    tiny(kind).save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    names: dict = {"__name__": "__main__"}
    for cell in nbformat.read(CHAPTER, as_version=4).cells:
        if cell.cell_type == "code":
            source, _ = re.subn(r'^MODEL = ".*?"', f'MODEL = "{folder.as_posix()}"', cell.source, flags=re.MULTILINE)
            source = source.replace("MINUTES = 0.35", "MINUTES = 0.05")
            exec(compile(source, str(CHAPTER), "exec"), names)
    said = capsys.readouterr().out
    weights = sum(p.numel() for p in tiny(kind).parameters())
    assert f"{weights:,} weights, 2 layers" in said and "equal to the byte: True" in said
    assert "largest difference below 0.1%: True" in said and (kind == "qwen") == ("now off: 0" in said)
    assert "the same loss: True" in said and "both learnt in these few steps" in said
