"""LoRA on a base in four bits: as on a dense base that holds the rounded weights, bit for bit; what is kept, and what is refused."""

import copy
import warnings
from dataclasses import replace

import peft
import pytest
import torch
from conftest import make_tiny_llama
from helpers import randomise, tokens
from torch import nn

from lora_edu.adapters import (
    FullFineTuning,
    LoRAConfig,
    attach,
    audit,
    disabled,
    fingerprint,
    fused,
    inject,
    load,
    lora_layers,
    merge,
    merge_drift,
    save,
    set_adapter,
    set_scale,
    unload,
    unmerge,
)
from lora_edu.adapters.variants.dora import DoRA
from lora_edu.adapters.variants.pissa import PiSSA
from lora_edu.errors import ConfigError, MergeError, ModelError, TargetError
from lora_edu.models.quantized import (
    Quantization,
    QuantizedLinear,
    dequantize,
    quantization_of,
    quantize,
    quantized_layers,
)

CONFIG = LoRAConfig(r=3, lora_alpha=8)


def four_bits(how=None, **options):
    model = make_tiny_llama(**options)
    quantize(model, how)
    return model


def twins(config=CONFIG, how=None):
    """A model in four bits, and a dense one that holds its rounded weights; the same random adapter on both."""
    ours = four_bits(how)
    dense = dequantize(four_bits(how))
    for model in (ours, dense):
        torch.manual_seed(5)  # for a variant that draws
        randomise(inject(model, config))
    return ours, dense


def logits(model, ids=None):
    with torch.no_grad():
        return model(tokens() if ids is None else ids).logits


# -- the model -----------------------------------------------------------------------------------------------------------
def test_what_is_rounded_and_what_stays_dense():
    model = make_tiny_llama(tied=True)
    report = quantize(model)
    assert report.matrices == len(quantized_layers(model)) == 14
    assert dict(report.dense) == {"lm_head": "the output head"}
    assert type(model.model.embed_tokens) is nn.Embedding and type(model.lm_head) is nn.Linear
    assert model.lm_head.weight is model.model.embed_tokens.weight, "still tied"
    assert report.before == 4 * report.parameters and "14 matrices" in str(report) and "lm_head" in str(report)
    assert quantization_of(model) == Quantization() and quantization_of(make_tiny_llama()) is None
    assert report.after == sum(b.nbytes for layer in quantized_layers(model).values() for b in layer.buffers())


def test_what_cannot_be_rounded_is_left_or_refused_with_words():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.plain, self.head, self.listened = nn.Linear(8, 8), nn.Linear(8, 2), nn.Linear(8, 8)
            self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
            self.other.weight = self.one.weight
            self.again = self.plain
            self.attention = nn.MultiheadAttention(8, 2)
            self.listened.register_forward_hook(lambda *_: None)

    model = Odd()
    report = quantize(model, dense=("head",))
    assert report.matrices == 1 and model.again is model.plain and type(model.plain) is QuantizedLinear
    assert set(report.dense) == {"head", "listened", "one", "other", "attention.out_proj"}
    with pytest.raises(ModelError, match="no linear layer to round"):
        quantize(model, dense=("head",))
    with pytest.raises(ModelError, match="nothing in this model is quantised"):
        dequantize(make_tiny_llama())
    merged = randomise(inject(make_tiny_llama(), CONFIG))
    merge(merged)
    with pytest.raises(ModelError, match=r"unmerge\(model\) first"):
        quantize(merged)


def test_gpt2_is_told_that_its_layers_are_of_another_kind():
    from transformers import GPT2Config, GPT2LMHeadModel

    with pytest.raises(ModelError, match="Conv1D"):
        quantize(GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=1, n_head=2)))


def test_there_and_back_is_the_rounded_model():
    ours = four_bits()
    want = logits(ours)
    dequantize(ours)
    assert not quantized_layers(ours) and torch.equal(logits(ours), want)
    quantize(ours)  # on the numbers of four bits: the codes are the same
    assert torch.allclose(logits(ours), want, atol=1e-3)


def test_an_adapter_stays_on_the_model_that_is_rounded_under_it():
    model = randomise(inject(make_tiny_llama(), CONFIG))
    quantize(model)
    ours, _ = twins()
    assert torch.equal(logits(model), logits(ours)) and len(lora_layers(model)) == 14


# -- LoRA on it ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", [Quantization(), Quantization("int4", 32, double=False)], ids=str)
@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, lora_dropout=0.3), replace(CONFIG, target_modules=("q_proj",))], ids=["plain", "dropout", "one"])  # fmt: skip
def test_twenty_steps_are_those_on_the_rounded_dense_base(config, how):
    """Bit for bit by the plain formula."""
    factors = []
    with fused.disabled():
        for model in twins(config, how):
            model.train()
            optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
            torch.manual_seed(7)
            for step in range(20):
                optimizer.zero_grad()
                model(tokens(seed=step), labels=tokens(seed=step)).loss.backward()
                optimizer.step()
            factors.append({n: p for n, p in model.named_parameters() if p.requires_grad})
    ours, dense = factors
    assert ours.keys() == dense.keys() and all(torch.equal(ours[n], dense[n]) for n in ours)


def test_gradients_are_those_of_the_dense_bases_fast_path_to_rounding():
    found = []
    with fused.switched(True):
        for model in twins():
            model(tokens(), labels=tokens()).loss.backward()
            found.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    ours, dense = found
    assert all(torch.allclose(ours[n], dense[n], atol=1e-6, rtol=1e-4) for n in ours)


def test_the_fast_path_steps_aside():
    """It would keep the dense weight for the backward pass. A layer that stays dense still takes it."""
    ours, dense = twins(replace(CONFIG, target_modules=["q_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]))
    assert fused.gated_parts(dense.model.layers[0].mlp) is not None
    assert fused.gated_parts(ours.model.layers[0].mlp) is None
    assert lora_layers(ours)["model.layers.0.self_attn.q_proj"].fused_part() is None
    assert lora_layers(ours)["lm_head"].fused_part() is not None


def test_no_dense_weight_is_kept_for_the_backward_pass():
    ours, _ = twins()
    shapes = {tuple(layer.weight.shape) for layer in quantized_layers(ours).values()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        ours(tokens(batch=3, length=5)).logits.sum()
    assert kept and not shapes & set(kept)


def test_audit_switch_dial_and_disabled_are_the_dense_bases():
    ours, dense = twins()
    assert audit(ours) == audit(dense)
    inject(ours, replace(CONFIG, r=2), "second")
    randomise(ours, "second")
    assert not torch.equal(logits(ours), logits(dense))
    set_adapter(ours, "default")
    assert torch.equal(logits(ours), logits(dense))
    for model in (ours, dense):
        set_scale(model, 0.4)
    assert torch.equal(logits(ours), logits(dense))
    with disabled(ours):
        assert torch.equal(logits(ours), logits(four_bits()))
    unload(ours)
    assert torch.equal(logits(ours), logits(four_bits())) and len(quantized_layers(ours)) == 14


def test_the_adapter_is_float32_on_a_half_precision_base():
    model = inject(four_bits(dtype=torch.bfloat16), CONFIG)
    layer = lora_layers(model)["model.layers.0.self_attn.q_proj"]
    assert layer.A.dtype == torch.float32 and layer.base_layer.dtype == torch.bfloat16
    assert model(tokens()).logits.dtype == torch.bfloat16


def test_a_copy_is_a_model_of_its_own():
    ours, _ = twins()
    want = logits(ours)
    copied = copy.deepcopy(ours)
    for layer in quantized_layers(ours).values():
        layer.codes.zero_()
    assert torch.equal(logits(copied), want)


@pytest.mark.parametrize("variant", [DoRA(), PiSSA()], ids=lambda v: type(v).__name__)
def test_variants_that_compute_with_the_weights_themselves_are_refused(variant):
    model = four_bits()
    before = logits(model)
    with pytest.raises(ConfigError, match="plain LoRA trains on a quantised base"):
        inject(model, replace(CONFIG, variant=variant))
    assert torch.equal(logits(model), before)


def test_full_fine_tuning_of_codes_is_refused():
    model = four_bits()
    with pytest.raises(TargetError, match=r"codes cannot be trained.*dequantize\(model\)"):
        attach(model, FullFineTuning())
    assert attach(dequantize(model), FullFineTuning()) is model


# -- on disk -------------------------------------------------------------------------------------------------------------
def test_its_folder_fits_the_base_it_was_trained_on_without_a_word(tmp_path):
    ours, _ = twins()
    save(ours, tmp_path)
    again = four_bits()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(again, tmp_path)
    assert torch.equal(logits(again), logits(ours))


@pytest.mark.parametrize("other", [None, Quantization("int4")], ids=str)
def test_on_another_base_it_runs_with_a_word(tmp_path, other):
    ours, _ = twins()
    save(ours, tmp_path)
    model = four_bits(other) if other else make_tiny_llama()
    with pytest.warns(UserWarning, match=r"in four bits \(nf4 in blocks of 64, double quantisation\), and this is one"):
        load(model, tmp_path)
    dense = inject(make_tiny_llama(), CONFIG)
    save(dense, tmp_path / "dense")
    with pytest.warns(UserWarning, match="not rounded to four bits, and this is one in four bits"):
        load(four_bits(), tmp_path / "dense")
    if not other:
        factors = {n: p for n, p in ours.named_parameters() if ".lora_" in n}
        assert all(torch.equal(p, factors[n]) for n, p in model.named_parameters() if ".lora_" in n)


@pytest.mark.filterwarnings("ignore")
def test_peft_reads_it_on_the_dense_base_and_we_read_what_peft_writes(tmp_path):
    ours, _ = twins()
    save(ours, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(make_tiny_llama(), tmp_path / "ours")
    mine = load(make_tiny_llama(), tmp_path / "ours")
    assert torch.allclose(logits(theirs), logits(mine), atol=1e-6)
    theirs.save_pretrained(tmp_path / "theirs")
    back = load(four_bits(), tmp_path / "theirs")
    assert torch.equal(logits(back), logits(ours))


def test_a_fingerprint_tells_the_bases_apart():
    seen = {fingerprint(m) for m in (make_tiny_llama(), four_bits(), four_bits(Quantization("int4")), four_bits(Quantization(double=False)))}  # fmt: skip
    assert len(seen) == 4 and fingerprint(four_bits()) in seen


# -- merging -------------------------------------------------------------------------------------------------------------
def test_a_merge_is_refused_with_both_ways_out_and_the_model_as_it_was():
    ours, _ = twins()
    before = logits(ours)
    with pytest.raises(MergeError, match=r"16 or 32 bits \(load_base without bits\).*dequantize\(model\)") as refused:
        merge(ours)
    assert "model.layers.0.self_attn.q_proj" in str(refused.value)
    with pytest.raises(MergeError, match="dequantize"):
        merge_drift(ours)
    with pytest.raises(MergeError, match="dequantize"):
        lora_layers(ours)["model.layers.0.mlp.up_proj"].merge()
    assert torch.equal(logits(ours), before)


def test_the_two_ways_out_work(tmp_path):
    ours, _ = twins()
    want = logits(ours)
    save(ours, tmp_path)
    dequantize(ours)
    assert torch.allclose(logits(ours), want, atol=1e-6)
    merge(ours)
    assert torch.allclose(logits(ours), want, atol=1e-5)
    unmerge(ours)
    with disabled(ours):
        assert torch.equal(logits(ours), logits(four_bits()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dense = load(make_tiny_llama(), tmp_path)
    on_dense = logits(dense)
    merge(dense)
    assert torch.allclose(logits(dense), on_dense, atol=1e-5) and not torch.allclose(on_dense, want, atol=1e-3)
