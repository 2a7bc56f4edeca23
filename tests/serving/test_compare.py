"""The comparison of an export with what it was made of: right on cases that are known, and bounds that exports keep."""

import json

import pytest
import torch
from helpers import randomise
from tiny_families import SETTINGS, bpe_tokenizer, tiny

from lora_edu.adapters import LoRAConfig, inject, load, save
from lora_edu.errors import ExportError
from lora_edu.experiments.stored_results import FOLDER
from lora_edu.serving import (
    TOLERANCES,
    LlamaCpp,
    Passage,
    compared,
    gguf_adapter,
    write_adapter_gguf,
    write_gguf,
    write_portable,
)

PASSAGES = [Passage(list(range(3 + seed, 90 + seed, 5)), 2) for seed in range(6)]


def model_with_adapter(settings="rslora"):
    return randomise(inject(tiny("llama", bpe_tokenizer()), LoRAConfig(**SETTINGS[settings])), std=0.25)


def test_the_three_numbers_are_what_their_formulas_say():
    ours, theirs = tiny("llama", bpe_tokenizer()), tiny("llama", bpe_tokenizer(), seed=1)
    found = compared(ours, theirs, PASSAGES, top=10_000)
    p, q, targets = [], [], []
    for ids, start in PASSAGES:
        for model, kept in ((ours, p), (theirs, q)):
            kept.append(model(torch.tensor([ids])).logits[0, start - 1 : -1].double().log_softmax(-1).detach())
        targets += ids[start:]
    p, q, targets = torch.cat(p), torch.cat(q), torch.tensor(targets)[:, None]
    assert found.tokens == len(targets)
    assert found.loss.value == pytest.approx(float((p - q).gather(1, targets).mean()), abs=1e-9)
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), abs=1e-6)
    assert found.agreement == pytest.approx(float((p.argmax(1) == q.argmax(1)).float().mean()))
    assert 0 < compared(ours, theirs, PASSAGES, top=20).kl < found.kl  # a heap of tokens hides differences within it
    assert not found.within(TOLERANCES["q4_0"])


def test_a_model_is_no_distance_from_itself():
    model = tiny("llama", bpe_tokenizer())
    found = compared(model, model, PASSAGES)
    assert (found.loss.value, found.agreement) == (0, 1) and found.kl < 1e-9
    with pytest.raises(ExportError, match="token to predict"):
        compared(model, model, [Passage([1])])


def test_every_way_out_keeps_the_bounds_that_were_stated(tmp_path):
    model, tokenizer = model_with_adapter(), bpe_tokenizer()
    for name, folder in (
        ("peft", save(model, tmp_path / "peft")),
        ("portable", write_portable(model, tmp_path / "portable")),
    ):
        assert compared(model, load(tiny("llama", tokenizer), folder), PASSAGES).within(TOLERANCES[name])
    base = write_gguf(model, tokenizer, tmp_path / "base.gguf", base_only=True, verify=False)
    with LlamaCpp(base, [(write_adapter_gguf(model, tmp_path / "adapter.gguf"), 1.0)]) as engine:
        found = compared(model, engine, PASSAGES, top=1000)
    assert found.within(TOLERANCES["f32"]) and found.kl < 1e-6


def test_tokens_that_end_inside_a_character_and_those_that_end_a_text_are_compared_too(llama, tmp_path):
    """llama.cpp reports nothing of the former unless it is asked otherwise."""
    model, tokenizer = llama
    ids = [*tokenizer("naïve 李 🙂 no").input_ids, 2, 5, 0, 7]
    assert any(
        not tokenizer.decode(ids[: at + 1]).isprintable() or "\ufffd" in tokenizer.decode([ids[at]])
        for at in range(len(ids))
    )
    with LlamaCpp(write_gguf(model, tokenizer, tmp_path / "model.gguf", verify=False)) as engine:
        found = compared(model, engine, [Passage(ids)], top=1000)
    assert found.tokens == len(ids) - 1 and abs(found.loss.value) < 1e-5 and found.kl < 1e-6


def test_a_scale_that_was_lost_breaks_the_bounds_though_it_answers(tmp_path, monkeypatch):
    model, tokenizer = model_with_adapter(), bpe_tokenizer()
    base = write_gguf(model, tokenizer, tmp_path / "base.gguf", base_only=True, verify=False)
    monkeypatch.setattr(gguf_adapter, "left_over", lambda *_: 1.0)
    with LlamaCpp(base, [(write_adapter_gguf(model, tmp_path / "adapter.gguf"), 1.0)]) as engine:
        assert not compared(model, engine, PASSAGES).within(TOLERANCES["f16"])


def test_coarser_files_are_farther_away(tmp_path):
    tokenizer = bpe_tokenizer()
    model, found = tiny("llama", tokenizer, spread=2.0), {}
    for dtype in ("f32", "f16", "q8_0", "q4_0"):
        with LlamaCpp(write_gguf(model, tokenizer, tmp_path / f"{dtype}.gguf", dtype, verify=False)) as engine:
            found[dtype] = compared(model, engine, PASSAGES).kl
    assert found["f32"] < found["f16"] < found["q8_0"] < found["q4_0"]


def test_the_stored_table_says_what_it_measured_and_exhibits_are_outside_the_bounds():
    stored = json.loads((FOLDER / "exports.json").read_text("utf-8"))
    assert stored["about"]["command"] == "python benchmarks/exports.py"
    names = {row["name"]: row for row in stored["exports"]}
    assert len(names) == 11
    for name, row in names.items():
        kept = (
            abs(row["loss"][0]) <= row["bounds"][0]
            and row["kl"] <= row["bounds"][1]
            and row["agreement"] >= row["bounds"][2]
        )
        assert kept == row["within"] == (not name.startswith("exhibit"))
    assert {tuple(row["bounds"]) for row in names.values()} <= {tuple(bounds) for bounds in TOLERANCES.values()}
