"""PEFT as the oracle: the same forward, gradients, trained weights, merged weights and files, in float64 to 1e-9."""

import warnings

import peft
import pytest
import torch
from conftest import make_tiny_llama
from helpers import tokens

from lora_edu.adapters import LoRAConfig, LoRALayer, inject, load, lora_layers, merge, save, set_adapter, unload

pytestmark = pytest.mark.filterwarnings("ignore")


def make_tiny_gpt2(dtype=torch.float64):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return (
        GPT2LMHeadModel(
            GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=2, n_head=2, tie_word_embeddings=False)
        )
        .to(dtype)
        .eval()
    )


def llama():
    return make_tiny_llama(dtype=torch.float64)


CASES = {
    "suffixes": (llama, {"target_modules": ["q_proj", "v_proj"]}),
    "regex": (llama, {"target_modules": r".*\.1\.(self_attn|mlp)\..*_proj"}),
    "all-linear": (llama, {"target_modules": "all-linear"}),
    "layers": (llama, {"target_modules": ["up_proj"], "layers_to_transform": [1]}),
    "rslora": (llama, {"target_modules": "all-linear", "use_rslora": True, "r": 4}),
    "patterns": (llama, {"target_modules": "all-linear", "rank_pattern": {"q_proj": 5, r"layers\.1\.mlp\.up_proj": 1}, "alpha_pattern": {"q_proj": 7}}),
    "embedding": (llama, {"target_modules": ["embed_tokens", "q_proj"]}),
    "modules_to_save": (llama, {"target_modules": ["k_proj"], "modules_to_save": ["lm_head"]}),
    "dropout": (llama, {"target_modules": "all-linear", "lora_dropout": 0.3}),
    "conv1d": (make_tiny_gpt2, {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "conv1d all-linear": (make_tiny_gpt2, {"target_modules": "all-linear", "fan_in_fan_out": True}),
}  # fmt: skip


def pair(case, tmp_path):
    """(ours, PEFT's) with the same base and the same random factors; theirs came through our folder, so it is loaded too."""
    make, settings = CASES[case]
    settings = {"r": 3, "lora_alpha": 8, **settings}
    theirs = peft.get_peft_model(make(), peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=True, **settings))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in (p for _, p in sorted((n, p) for n, p in theirs.named_parameters() if p.requires_grad)):
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.3)
    theirs.save_pretrained(tmp_path / "peft")
    ours = make()
    load(ours, tmp_path / "peft", trainable=True)
    # PEFT keeps factors of a float64 base in float32 unless told otherwise; both in float64 here (ours are), to compare to 1e-9.
    theirs.double()
    return ours, theirs


def grads(model):
    """{PEFT's key: gradient} for either library, so that the two can be compared tensor by tensor."""
    found = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            key = name.removeprefix("base_model.model.").replace(".default", "")
            found[key.replace(".modules_to_save", "").replace(".copies", "").removesuffix(".weight")] = p
    return found


@pytest.mark.parametrize("case", CASES)
def test_same_forward_gradients_and_weights_after_20_adamw_steps(case, tmp_path):
    ours, theirs = pair(case, tmp_path)
    mine, other = grads(ours), grads(theirs)
    assert mine.keys() == other.keys() and len(mine) > 1
    optimizers = [torch.optim.AdamW(list(params.values()), lr=1e-2) for params in (mine, other)]
    ours.train()
    theirs.train()
    if "gpt2" in type(ours).__name__.lower():  # GPT-2's own dropout is not ours to compare
        for model in (ours, theirs):
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
    for step in range(20):
        losses = []
        for model, optimizer in zip((ours, theirs), optimizers):
            torch.manual_seed(step)  # the same dropout masks
            optimizer.zero_grad()
            x = tokens(2, 6, seed=step)
            loss = model(input_ids=x, labels=x).loss
            loss.backward()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], abs=1e-9)
        for key in mine:
            torch.testing.assert_close(mine[key].grad, other[key].grad, rtol=0, atol=1e-9)
        for optimizer in optimizers:
            optimizer.step()
    for key in mine:
        torch.testing.assert_close(mine[key], other[key], rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", [c for c in CASES if c != "dropout"])
def test_same_merged_weights(case, tmp_path):
    ours, theirs = pair(case, tmp_path)
    merge(ours)
    plain, reference = unload(ours).state_dict(), theirs.merge_and_unload().state_dict()
    assert plain.keys() == reference.keys()
    changed = 0
    original = CASES[case][0]().state_dict()
    for key, value in plain.items():
        torch.testing.assert_close(value, reference[key], rtol=0, atol=1e-9)
        changed += not torch.equal(value, original[key])
    assert changed >= 1


@pytest.mark.parametrize("case", CASES)
def test_peft_loads_our_folder_with_the_same_logits(case, tmp_path):
    ours, _ = pair(case, tmp_path)
    ours.eval()
    folder = save(ours, tmp_path / "ours")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        theirs = peft.PeftModel.from_pretrained(CASES[case][0](), folder).double().eval()
    assert not [w for w in caught if "missing" in str(w.message).lower() or "unexpected" in str(w.message).lower()]
    x = tokens(2, 6)
    torch.testing.assert_close(theirs(x).logits, ours(x).logits, rtol=0, atol=1e-6)
    assert not torch.equal(ours(x).logits, CASES[case][0]()(x).logits)


@pytest.mark.parametrize("case", CASES)
def test_we_load_pefts_folder_with_the_same_logits(case, tmp_path):
    ours, theirs = pair(case, tmp_path)
    x = tokens(2, 6)
    torch.testing.assert_close(ours.eval()(x).logits, theirs.eval()(x).logits, rtol=0, atol=1e-9)


def test_several_named_adapters_switch_alike(tmp_path):
    theirs = peft.get_peft_model(llama(), peft.LoraConfig(r=2, target_modules=["q_proj"]), adapter_name="a")
    theirs.add_adapter("b", peft.LoraConfig(r=3, target_modules=["q_proj", "up_proj"]))
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))))
    theirs.save_pretrained(tmp_path)
    ours = llama()
    for name in ("a", "b"):
        load(ours, tmp_path / name, name)
    ours.double()
    theirs.double()
    outputs = []
    for name in ("a", "b", "a"):
        set_adapter(ours, name)
        theirs.set_adapter(name)
        outputs.append(ours(tokens()).logits)
        torch.testing.assert_close(outputs[-1], theirs(tokens()).logits, rtol=0, atol=1e-9)
    assert torch.equal(outputs[0], outputs[2]) and not torch.equal(outputs[0], outputs[1])


@pytest.mark.parametrize("init", [True, "gaussian"])
def test_new_factors_come_from_the_same_distribution_as_pefts(init):
    """Same bounds and standard deviation; the seeds differ, because PEFT draws twice."""
    torch.manual_seed(0)
    base = torch.nn.Sequential(torch.nn.Linear(400, 300))
    ours = inject(base, LoRAConfig(r=64, target_modules=["0"], init_lora_weights=init))
    A = next(iter(lora_layers(ours).values())).A
    theirs = peft.get_peft_model(
        torch.nn.Sequential(torch.nn.Linear(400, 300)),
        peft.LoraConfig(r=64, target_modules=["0"], init_lora_weights=init),
    )
    reference = next(p for n, p in theirs.named_parameters() if "lora_A" in n)
    assert A.std().item() == pytest.approx(reference.std().item(), rel=0.03)
    assert A.abs().max().item() == pytest.approx(reference.abs().max().item(), rel=0.2)


def test_a_model_holds_our_layers_not_pefts(tmp_path):
    ours, theirs = pair("suffixes", tmp_path)
    assert any(isinstance(m, LoRALayer) for m in ours.modules()) and not any(
        isinstance(m, LoRALayer) for m in theirs.modules()
    )
