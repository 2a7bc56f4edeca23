"""A room of its own for files that llama.cpp reads."""

import pytest
from tiny_families import bpe_tokenizer, tiny


@pytest.fixture(scope="session")
def llama():
    """(tiny Llama, its tokenizer); tests must leave it as they found it."""
    tokenizer = bpe_tokenizer("gpt-2")
    return tiny("llama", tokenizer), tokenizer
