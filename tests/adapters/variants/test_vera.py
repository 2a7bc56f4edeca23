"""VeRA against PEFT's: the same drawn pair, forward, training, merge and folders."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file
from variant_pairs import LAYERS, agreed, fill, folders_apart, merged_apart, net, outputs, pair, train_both

from lora_edu.adapters import LoRAConfig, audit, convert, inject, load, lora_layers, save
from lora_edu.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")
CASES = {"plain": {}, "dropout": {"vera_dropout": 0.3}, "made again": {"save_projection": False}}


@pytest.mark.parametrize("case", CASES)
def test_forward_gradients_20_steps_merge_and_folders_are_pefts(case, tmp_path):
    ours, theirs = pair(peft.VeraConfig(r=4, target_modules=LAYERS, **CASES[case]), tmp_path / "theirs")
    found = {"forward": float((outputs(ours)[0] - outputs(theirs.eval())[0]).abs().max())}
    found |= train_both(ours, theirs, words=("lora_", "vera_lambda_"))
    found |= folders_apart(ours, tmp_path / "ours")
    found |= merged_apart(ours, theirs)
    agreed(found)


def test_it_draws_the_numbers_that_peft_draws(tmp_path):
    ours = inject(net(), LoRAConfig(r=4, target_modules=LAYERS, variant="vera:projection_prng_key=7,d_initial=0.2"))
    theirs = peft.get_peft_model(
        net(), peft.VeraConfig(r=4, target_modules=LAYERS, projection_prng_key=7, d_initial=0.2)
    )
    layer = lora_layers(ours)["first"]
    for slot, reference in (("A", theirs.base_model.vera_A), ("B", theirs.base_model.vera_B)):
        assert torch.equal(layer.tensor(f"lora_vera_{slot}", "default").float(), reference["default"])
    assert torch.equal(layer.tensor("lora_d", "default"), torch.full((4,), 0.2, dtype=torch.float64))
    assert torch.equal(*outputs(ours, net())) and audit(ours).trainable == 3 * 4 + (10 + 6 + 9)


def test_the_pair_is_one_tensor_and_written_once_or_not_at_all(tmp_path):
    """And the configuration holds no word that PEFT's VeRA does not know."""
    model = inject(net(), LoRAConfig(r=4, target_modules=LAYERS, variant="vera"))
    assert len({id(layer.tensor("lora_vera_A", "default")) for layer in lora_layers(model).values()}) == 1
    keys = set(load_file(save(model, tmp_path / "a") / "adapter_model.safetensors"))
    assert {"base_model.vera_A", "base_model.vera_B"} <= keys and len(keys) == 2 + 2 * 3
    known = set(peft.VeraConfig().to_dict())
    assert set(json.loads((tmp_path / "a" / "adapter_config.json").read_text())) <= known
    again = inject(
        net(), LoRAConfig(r=4, lora_dropout=0.1, target_modules=LAYERS, variant="vera:save_projection=false")
    )
    fill(again)
    assert len(load_file(save(again, tmp_path / "b") / "adapter_model.safetensors")) == 2 * 3
    loaded = load(net(), tmp_path / "b")
    assert torch.equal(*outputs(loaded, again)) and lora_layers(loaded)["last"].dropouts["default"] == 0.1


def test_more_random_directions_than_a_matrix_has_become_no_larger_a_lora():
    model = inject(net(), LoRAConfig(r=7, target_modules=LAYERS, variant="vera"))  # last is 9 × 6
    fill(model)
    [said] = outputs(model)
    assert convert(model).ranks == {"first": 7, "middle": 6, "last": 6}
    torch.testing.assert_close(outputs(model)[0], said, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "more",
    [{"use_rslora": True}, {"rank_pattern": {"q": 3}}, {"init_lora_weights": "gaussian"}, {"exclude_modules": ["q"]}],
)
def test_what_means_nothing_to_it_is_refused(more):
    with pytest.raises(ConfigError, match="VeRA has"):
        LoRAConfig(variant="vera", **more)
