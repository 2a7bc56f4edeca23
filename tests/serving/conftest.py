"""What the tests of a room share: a tiny Llama for files that llama.cpp reads, and one in a folder with adapters of several kinds for it."""

import pytest
from command_line import write_tiny_model
from helpers import randomise
from tiny_families import bpe_tokenizer, tiny

from lora_edu.adapters import IA3, LoRAConfig, attach, inject, save
from lora_edu.models import load_base

KINDS = {
    "small": LoRAConfig(r=2, lora_alpha=6),
    "wide": LoRAConfig(r=5, lora_alpha=16, target_modules=("q_proj", "v_proj", "down_proj"), use_rslora=True),
    "table": LoRAConfig(r=3, lora_alpha=5, target_modules=("embed_tokens", "o_proj"), alpha_pattern={"o_proj": 9}),
    "dora": LoRAConfig(r=2, lora_alpha=6, variant="dora"),
    "ia3": IA3(),
}


@pytest.fixture(scope="session")
def llama():
    """(tiny Llama, its tokenizer); tests must leave it as they found it."""
    tokenizer = bpe_tokenizer("gpt-2")
    return tiny("llama", tokenizer), tokenizer


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def adapters(model_folder, tmp_path_factory):
    """{name: folder}; no factor is zero."""
    place = tmp_path_factory.mktemp("adapters")
    for seed, (name, config) in enumerate(KINDS.items()):
        model = load_base(model_folder, device="cpu").model
        (inject if isinstance(config, LoRAConfig) else attach)(model, config)
        save(randomise(model, seed=seed + 1, std=0.5), place / name)
    return {name: place / name for name in KINDS}
