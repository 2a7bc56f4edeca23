"""A model as GGUF: llama.cpp itself runs it, and answers letter for letter as transformers does."""

import gguf
import pytest
import torch
from helpers import randomise
from tiny_families import CUT, CUTS, FAMILIES, answers, bpe_tokenizer, ids_of, ours, tiny

from lora_edu.adapters import LoRAConfig, inject, merge, unload
from lora_edu.errors import ExportError
from lora_edu.serving import LlamaCpp, gguf_names, gguf_tokenizer, verify_tokens, write_gguf
from lora_edu.serving.gguf_names import permuted, restored

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
FORMS = [
    *((family, {}) for family in FAMILIES),
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"head_dim": 32}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"num_key_value_heads": 4}),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}}),
    ("llama", {"rope_parameters": LLAMA3}),
    ("mistral", {"head_dim": 32}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen2", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}}),
    ("qwen3", {"head_dim": 32}),
]


@pytest.mark.parametrize(
    "family, form", FORMS, ids=lambda value: value if isinstance(value, str) else "-".join(value) or "plain"
)
def test_llama_cpp_answers_letter_for_letter(family, form, tmp_path):
    tokenizer = bpe_tokenizer(CUT[family])
    model = tiny(family, tokenizer, **form)
    expected = ours(model, tokenizer)
    assert len({tuple(answer) for answer in expected}) > 2  # a model that says one thing to all proves nothing
    assert answers(write_gguf(model, tokenizer, tmp_path / "model.gguf"), tokenizer) == expected


@pytest.mark.parametrize("cut", CUTS)
def test_llama_cpp_makes_the_same_tokens(cut, tmp_path):
    tokenizer = bpe_tokenizer(cut)
    path = write_gguf(tiny("llama", tokenizer), tokenizer, tmp_path / "model.gguf", verify=False)
    assert verify_tokens(path, tokenizer) > 100


def test_a_wrong_name_for_the_cutting_of_text_is_found_and_the_file_does_not_appear(llama, tmp_path, monkeypatch):
    """Exhibit: every name is taken, and only some texts have other tokens then."""
    model, tokenizer = llama
    monkeypatch.setattr(gguf_tokenizer, "_cut", lambda content: "smollm")
    wrong = write_gguf(model, tokenizer, tmp_path / "wrong.gguf", verify=False)
    with LlamaCpp(wrong) as engine:
        assert engine.tokens("hello") == ids_of(tokenizer, "hello")
        assert engine.tokens(" 12") != ids_of(tokenizer, " 12")
    with pytest.raises(ExportError, match="other tokens of"):
        write_gguf(model, tokenizer, tmp_path / "new.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.gguf"]


def test_a_forgotten_permutation_is_no_error_and_another_answer(llama, tmp_path, monkeypatch):
    """Exhibit: llama.cpp loads it and speaks."""
    model, tokenizer = llama
    monkeypatch.setattr(gguf_names, "permuted", lambda rows, heads: rows)
    said = answers(write_gguf(model, tokenizer, tmp_path / "wrong.gguf"), tokenizer)
    assert all(said) and said != ours(model, tokenizer)


def test_the_permutation_interleaves_a_heads_halves_and_has_an_inverse():
    rows = torch.arange(16).reshape(16, 1)
    assert permuted(rows, 2).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    assert torch.equal(restored(permuted(rows, 2), 2), rows)


def test_what_is_merged_is_written_and_the_base_alone_when_asked(tmp_path):
    tokenizer = bpe_tokenizer()
    model = tiny("llama", tokenizer)
    base = ours(model, tokenizer)
    inject(model, LoRAConfig(r=4, use_rslora=True))
    randomise(model, std=0.3)
    adapted = ours(model, tokenizer)
    assert adapted != base
    with pytest.raises(ExportError, match="merge"):
        write_gguf(model, tokenizer, tmp_path / "model.gguf")
    assert answers(write_gguf(model, tokenizer, tmp_path / "base.gguf", base_only=True), tokenizer) == base
    merge(model)  # W₀ is kept, and is the base still
    assert answers(write_gguf(model, tokenizer, tmp_path / "merged.gguf"), tokenizer) == adapted
    assert answers(write_gguf(model, tokenizer, tmp_path / "base.gguf", base_only=True), tokenizer) == base
    unload(model)
    assert answers(write_gguf(model, tokenizer, tmp_path / "merged.gguf"), tokenizer) == adapted


@pytest.mark.parametrize("dtype, bits", [("f16", 16), ("q8_0", 8.5), ("q4_0", 4.5)])
def test_rounded_files_hold_what_they_say(llama, tmp_path, dtype, bits):
    model, tokenizer = llama
    reader = gguf.GGUFReader(write_gguf(model, tokenizer, tmp_path / "model.gguf", dtype))
    held = {tensor.name: tensor for tensor in reader.tensors}
    down = held["blk.0.ffn_down.weight"]
    assert down.n_bytes * 8 / down.n_elements == bits
    assert held["output.weight"].n_bytes * 8 / held["output.weight"].n_elements == max(bits, 8.5)
    assert held["blk.0.attn_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    values = torch.from_numpy(gguf.quants.dequantize(down.data, down.tensor_type).astype("float32"))
    exact = model.model.layers[0].mlp.down_proj.weight.detach()
    worst = {"f16": 1e-3, "q8_0": 0.01, "q4_0": 0.15}[dtype]
    assert 0 < float((values - exact).abs().max() / exact.abs().max()) < worst


def test_chat_template_and_special_tokens_are_taken_along(llama, tmp_path):
    model, tokenizer = llama
    reader = gguf.GGUFReader(write_gguf(model, tokenizer, tmp_path / "model.gguf"))
    read = {key: field.contents() for key, field in reader.fields.items()}
    assert read["tokenizer.chat_template"] == tokenizer.chat_template
    assert [read[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding")] == [1, 2, 0]
    assert read["tokenizer.ggml.tokens"] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))


def test_rows_without_a_token_get_a_name_and_are_never_said(tmp_path):
    tokenizer = bpe_tokenizer()
    model = tiny("llama", tokenizer, vocab_size=len(tokenizer) + 13)
    path = write_gguf(model, tokenizer, tmp_path / "model.gguf")
    assert gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"].contents()[-1] == f"[PAD{len(tokenizer) + 12}]"
    with pytest.raises(ExportError, match="resize_token_embeddings"):
        write_gguf(tiny("llama", tokenizer, vocab_size=len(tokenizer) - 1), tokenizer, path)


def test_a_window_bounds_the_context(tmp_path):
    tokenizer = bpe_tokenizer()
    path = write_gguf(tiny("mistral", tokenizer, sliding_window=48), tokenizer, tmp_path / "model.gguf")
    assert gguf.GGUFReader(path).fields["llama.context_length"].contents() == 48


@pytest.mark.parametrize(
    "family, form, said",
    [
        ("gpt2", {"n_embd": 64, "n_head": 4, "n_layer": 1, "n_positions": 64}, "gpt2"),
        ("llama", {"hidden_act": "gelu"}, "SiLU"),
        ("qwen3", {"attention_bias": True}, "biases"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}}, "yarn"),
    ],
)  # fmt: skip
def test_what_was_not_verified_is_refused_with_a_pointer(family, form, said, tmp_path):
    tokenizer = bpe_tokenizer()
    with pytest.raises(ExportError, match=said):
        write_gguf(tiny(family, tokenizer, **form), tokenizer, tmp_path / "model.gguf")
    assert not any(tmp_path.iterdir())


def test_numbers_beyond_float16_are_refused(tmp_path):
    tokenizer = bpe_tokenizer()
    model = tiny("llama", tokenizer)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = 1e5
    with pytest.raises(ExportError, match="65504"):
        write_gguf(model, tokenizer, tmp_path / "model.gguf", "f16")
    assert not any(tmp_path.iterdir())


def test_tokenizers_that_are_no_byte_level_bpe_are_refused_by_name(tmp_path):
    from tiny_tokenizer import make_tokenizer
    from transformers import LlamaTokenizer

    for tokenizer, said in (
        (make_tokenizer(), "WordLevel"),
        (LlamaTokenizer(), "SentencePiece"),
        (bpe_tokenizer("llama-bpe", ignore_merges=False), "ignore_merges"),
    ):
        with pytest.raises(ExportError, match=said):
            write_gguf(tiny("llama", tokenizer), tokenizer, tmp_path / "model.gguf")
    assert not any(tmp_path.iterdir())
