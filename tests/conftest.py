"""Shared fixtures: a tiny random Llama for almost everything, the real model for the few tests that need it."""

import pytest
import torch


def make_tiny_llama(*, tied: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides):
    """A random Llama of two layers (hidden 16, grouped attention 4/2, vocabulary 32), as small as the shapes allow."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    options = {
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "tie_word_embeddings": tied,
    }
    return LlamaForCausalLM(LlamaConfig(**(options | overrides))).to(dtype).eval()


@pytest.fixture
def tiny_llama():
    return make_tiny_llama()


@pytest.fixture(scope="session")
def base():
    """The real default model and its tokenizer. Tests must leave it as they found it (unload what they inject)."""
    from lora_edu.models import load_base

    return load_base()
