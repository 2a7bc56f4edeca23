"""IA³ against PEFT, in float64 to 1e-9, and the laws that it keeps as a variant of the LoRA layer."""

import peft
import pytest
import torch
from helpers import tokens
from neighbour_runs import MODELS, batch, gpt2, llama, twenty_steps, values

from lora_edu.adapters import (
    IA3,
    LoRAConfig,
    adapter_parameters,
    attach,
    audit,
    disabled,
    inject,
    load,
    merge,
    save,
    set_adapter,
    set_scale,
    trainable_count,
    unload,
    unmerge,
)
from lora_edu.errors import ConfigError, TargetError

pytestmark = pytest.mark.filterwarnings("ignore")
CASES = {
    "llama": ("llama", {}),
    "gpt2": ("gpt2", {}),  # its first matrix holds queries, keys and values in one, and has a bias
    "by name": ("llama", {"target_modules": ["k_proj", "o_proj", "up_proj", "down_proj"], "feedforward_modules": ["up_proj", "down_proj"]}),
    "regex": ("llama", {"target_modules": r".*\.1\..*_proj", "feedforward_modules": r".*\.mlp\..*"}),
}  # fmt: skip


def method(settings) -> IA3:
    return IA3(**{key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()})


def factors(model) -> dict:
    """{PEFT's key: factor} of either library's model."""
    found = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            path = name.removeprefix("base_model.model.").removesuffix(".default").rpartition(".")[0]
            found[path] = p
    return found


def pair(case, tmp_path):
    """(ours, PEFT's) with the same random factors; theirs came to ours through its folder."""
    make, settings = CASES[case]
    theirs = peft.get_peft_model(MODELS[make](), peft.IA3Config(task_type="CAUSAL_LM", **settings)).double()
    for i, p in enumerate(factors(theirs).values()):
        values(p, i, around=1.0)
    theirs.save_pretrained(tmp_path / "peft")
    ours = MODELS[make]()
    load(ours, tmp_path / "peft", trainable=True)
    return ours, theirs.eval()


@pytest.mark.parametrize("case", CASES)
def test_the_same_forward_gradients_and_weights_after_20_adamw_steps(case, tmp_path):
    ours, theirs = pair(case, tmp_path)
    x = tokens()
    torch.testing.assert_close(ours(x).logits, theirs(x).logits, rtol=0, atol=1e-9)
    assert not torch.allclose(ours(x).logits, MODELS[CASES[case][0]]()(x).logits, atol=1e-3)
    twenty_steps(ours, theirs, factors(ours), factors(theirs))


@pytest.mark.parametrize("case", CASES)
def test_the_same_merged_weights_and_unmerge_bit_for_bit(case, tmp_path):
    ours, theirs = pair(case, tmp_path)
    speaking, original = ours(tokens()).logits, MODELS[CASES[case][0]]().state_dict()
    merge(ours)
    torch.testing.assert_close(ours(tokens()).logits, speaking, rtol=0, atol=1e-9)
    unmerge(ours)
    assert torch.equal(ours(tokens()).logits, speaking)
    merge(ours)
    plain, reference = unload(ours).state_dict(), theirs.merge_and_unload().state_dict()
    assert plain.keys() == reference.keys()
    for key in plain:
        torch.testing.assert_close(plain[key], reference[key], rtol=0, atol=1e-9)
    assert sum(not torch.equal(plain[key], original[key]) for key in plain) >= 2


@pytest.mark.parametrize("case", CASES)
def test_peft_loads_our_folder_with_the_same_logits(case, tmp_path, recwarn):
    ours = attach(MODELS[CASES[case][0]](), method(CASES[case][1]))
    for i, p in enumerate(adapter_parameters(ours).values()):
        values(p, i, around=1.0)
    folder = save(ours, tmp_path / "ours")
    recwarn.clear()
    theirs = peft.PeftModel.from_pretrained(MODELS[CASES[case][0]](), folder).double().eval()
    assert not [w for w in recwarn if "key" in str(w.message).lower() or "unexpected" in str(w.message).lower()]
    torch.testing.assert_close(
        theirs(tokens()).logits, ours(tokens()).logits, rtol=0, atol=1e-6
    )  # PEFT loads in float32
    again = load(MODELS[CASES[case][0]](), folder)
    assert torch.equal(again(tokens()).logits, ours(tokens()).logits)


def test_silent_at_the_start_and_the_count_is_the_formula():
    model = llama(torch.float32)
    before = model(tokens()).logits
    expected = 2 * (2 * 2 * 4 + 24)  # layers · (keys and values of 2 heads of 4 numbers each, 24 units of the MLP)
    assert trainable_count(model, IA3()) == expected
    attach(model, IA3())
    assert torch.equal(model(tokens()).logits, before)
    assert audit(model).trainable == expected
    model(**batch()).loss.backward()
    assert all(p.grad.abs().max() > 0 for p in adapter_parameters(model).values())


def test_the_dial_and_the_company_of_other_adapters():
    """Off is the base; half the dial is l half way to 1; beside a LoRA on the same layer both changes add up, merged or not."""
    base, model = llama(), llama()
    attach(model, IA3(), "scale")
    inject(model, LoRAConfig(r=2, target_modules=["down_proj", "k_proj"]), "lora")
    for i, p in enumerate((adapter_parameters(model, "scale") | adapter_parameters(model, "lora")).values()):
        values(p, i, around=1.0)
    set_adapter(model, "scale")
    set_scale(model, 0.5)
    half = model(tokens()).logits
    with disabled(model):
        assert torch.equal(model(tokens()).logits, base(tokens()).logits)
    set_scale(model, 1.0)
    assert not torch.allclose(model(tokens()).logits, half, atol=1e-3)
    with torch.no_grad():
        for p in adapter_parameters(model, "scale").values():
            p.copy_(1 + 0.5 * (p - 1))
    torch.testing.assert_close(model(tokens()).logits, half, rtol=0, atol=1e-12)
    set_adapter(model, ["scale", "lora"])
    both = model(tokens()).logits
    merge(model)
    torch.testing.assert_close(model(tokens()).logits, both, rtol=0, atol=1e-9)
    assert not torch.allclose(both, half, atol=1e-3)


def test_beside_another_adapter_a_layers_own_bias_counts_once():
    """W (l ⊙ x) + b plus the LoRA's part: where the factor cannot be alone, W ((l − 1) ⊙ x) is added, and b not once more."""
    base, model = gpt2(), attach(gpt2(), IA3(), "scale")
    inject(model, LoRAConfig(r=2, target_modules=["mlp.c_proj"]), "lora")
    for i, p in enumerate(adapter_parameters(model, "scale").values()):
        values(p, i, around=1.0)
    set_adapter(model, "scale")
    alone = model(tokens()).logits  # B = 0: the LoRA says nothing yet
    set_adapter(model, ["scale", "lora"])
    torch.testing.assert_close(model(tokens()).logits, alone, rtol=0, atol=1e-12)
    assert not torch.allclose(alone, base(tokens()).logits, atol=1e-3)


def test_one_product_a_layer_where_it_is_alone():
    """W (l ⊙ x): the MLP's matrix is not multiplied twice, so that a measured time is IA³'s own."""
    model, calls = attach(llama(), IA3()), []
    layer = model.model.layers[0].mlp.down_proj
    layer.base_layer.register_forward_hook(lambda *_: calls.append(1))
    model(tokens())
    assert len(calls) == 1


def test_what_is_refused():
    with pytest.raises(TargetError, match="target_modules"):
        attach(torch.nn.Sequential(torch.nn.Linear(3, 3)), IA3())
    with pytest.raises(ConfigError, match="no method"):
        attach(llama(), "ia3")
    with pytest.raises(ConfigError, match="IA3"):
        LoRAConfig.from_dict({"peft_type": "IA3"})
