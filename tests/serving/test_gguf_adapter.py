"""An adapter as GGUF: llama.cpp puts it beside the base and answers as we do; what such a file cannot hold is refused."""

import gguf
import pytest
import torch
from helpers import randomise
from tiny_families import CUT, FAMILIES, SETTINGS, answers, bpe_tokenizer, ours, tiny

from lora_edu.adapters import LoRAConfig, PrefixTuning, attach, inject, set_scale
from lora_edu.errors import AdapterError, ExportError
from lora_edu.serving import gguf_adapter, gguf_names, write_adapter_gguf, write_gguf


def adapted(family="llama", settings="plain", std=0.25, **form):
    tokenizer = bpe_tokenizer(CUT[family])
    model = tiny(family, tokenizer, **form)
    base = ours(model, tokenizer)
    inject(model, LoRAConfig(**SETTINGS[settings]))
    randomise(model, std=std)
    assert ours(model, tokenizer) != base
    return model, tokenizer, base


def written(model, tokenizer, folder):
    base = write_gguf(model, tokenizer, folder / "base.gguf", base_only=True, verify=False)
    return base, write_adapter_gguf(model, folder / "adapter.gguf")


@pytest.mark.parametrize(
    "family, settings",
    [*((f, "plain") for f in FAMILIES), *(("llama", s) for s in SETTINGS if s != "plain"), ("qwen2", "all")],
)
def test_base_and_adapter_answer_letter_for_letter(family, settings, tmp_path):
    model, tokenizer, plain = adapted(family, settings)
    base, adapter = written(model, tokenizer, tmp_path)
    assert answers(base, tokenizer, adapters=[(adapter, 1.0)]) == ours(model, tokenizer)
    if settings != "pissa":  # whose model without the adapter is none
        assert answers(base, tokenizer, adapters=[(adapter, 0.0)]) == plain
        set_scale(model, 0.5)
        assert answers(base, tokenizer, adapters=[(adapter, 0.5)]) == ours(model, tokenizer)


def test_a_forgotten_permutation_of_the_adapter_alone_is_another_answer(tmp_path, monkeypatch):
    """Exhibit: the base is right, only B of q and k is not."""
    model, tokenizer, _ = adapted()
    base = write_gguf(model, tokenizer, tmp_path / "base.gguf", base_only=True, verify=False)
    monkeypatch.setattr(gguf_names, "permuted", lambda rows, heads: rows)
    adapter = write_adapter_gguf(model, tmp_path / "adapter.gguf")
    said = answers(base, tokenizer, adapters=[(adapter, 1.0)])
    assert all(said) and said != ours(model, tokenizer)


def test_a_forgotten_root_of_the_rank_is_another_answer(tmp_path, monkeypatch):
    """Exhibit: α/r, which is all that llama.cpp knows, for an adapter that was trained at α/√r."""
    model, tokenizer, _ = adapted(settings="rslora")
    monkeypatch.setattr(gguf_adapter, "left_over", lambda *_: 1.0)
    base, adapter = written(model, tokenizer, tmp_path)
    said = answers(base, tokenizer, adapters=[(adapter, 1.0)])
    assert all(said) and said != ours(model, tokenizer)
    assert answers(base, tokenizer, adapters=[(adapter, 2.0)]) == ours(model, tokenizer)  # √4 times: that was the fault


def test_the_file_holds_alpha_pairs_of_factors_and_nothing_else(tmp_path):
    model, _, _ = adapted()
    reader = gguf.GGUFReader(write_adapter_gguf(model, tmp_path / "adapter.gguf"))
    read = {key: field.contents() for key, field in reader.fields.items()}
    assert (read["general.type"], read["adapter.type"], read["adapter.lora.alpha"]) == ("adapter", "lora", 8.0)
    names = {tensor.name for tensor in reader.tensors}
    assert len(names) == 2 * 7 * 2 and all(name.endswith((".weight.lora_a", ".weight.lora_b")) for name in names)
    A = next(tensor.data for tensor in reader.tensors if tensor.name == "blk.0.attn_q.weight.lora_a")
    assert torch.equal(torch.from_numpy(A.copy()), model.model.layers[0].self_attn.q_proj.lora_A["default"])


@pytest.mark.parametrize(
    "config, form, said",
    [
        (LoRAConfig(r=2, variant="dora"), {}, "DoRA"),
        (LoRAConfig(r=2, variant="vera"), {}, "factors B A"),
        (LoRAConfig(r=2, target_modules=("q_proj",), modules_to_save=("lm_head",)), {}, "trained in full"),
        (LoRAConfig(r=2, target_modules=("embed_tokens", "q_proj")), {}, "embedding"),
        (LoRAConfig(r=2, target_modules=("lm_head", "q_proj")), {"tie_word_embeddings": True}, "--untie"),
    ],
)
def test_what_a_gguf_adapter_cannot_hold_is_refused_with_the_way_round(config, form, said, tmp_path):
    model = tiny("llama", bpe_tokenizer(), **form)
    inject(model, config)
    with pytest.raises(ExportError, match=said) as error:
        write_adapter_gguf(model, tmp_path / "adapter.gguf")
    assert "merge it" in str(error.value) and not any(tmp_path.iterdir())


def test_a_neighbour_and_an_adapter_that_is_not_there_are_refused(tmp_path):
    model = tiny("llama", bpe_tokenizer())
    attach(model, PrefixTuning(4))
    with pytest.raises(ExportError, match="a prefix"):
        write_adapter_gguf(model, tmp_path / "adapter.gguf")
    with pytest.raises(AdapterError, match="no adapter 'other'"):
        write_adapter_gguf(model, tmp_path / "adapter.gguf", "other")


def test_an_adapter_on_a_head_of_its_own_survives(tmp_path):
    tokenizer = bpe_tokenizer()
    model = tiny("llama", tokenizer)
    inject(model, LoRAConfig(r=4, target_modules=("lm_head", "v_proj")))
    randomise(model)
    base, adapter = written(model, tokenizer, tmp_path)
    assert answers(base, tokenizer, adapters=[(adapter, 1.0)]) == ours(model, tokenizer)
    assert answers(base, tokenizer) != ours(model, tokenizer)


def test_an_adapter_of_another_architecture_is_refused_by_llama_cpp(tmp_path):
    model, _, _ = adapted("qwen2")
    adapter = write_adapter_gguf(model, tmp_path / "adapter.gguf")
    other = bpe_tokenizer(CUT["llama"])
    base = write_gguf(tiny("llama", other), other, tmp_path / "base.gguf", verify=False)
    with pytest.raises(ExportError, match="does not take"):
        answers(base, other, adapters=[(adapter, 1.0)])
