"""PiSSA and OLoRA against PEFT's, which change the base: the same start, training, merged weights and converted folder."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file
from variant_pairs import (
    LAYERS,
    Net,
    agreed,
    batch,
    folders_apart,
    largest,
    merged_apart,
    net,
    outputs,
    train_both,
    trained,
)

from lora_edu.adapters import LoRAConfig, inject, load, lora_layers, save
from lora_edu.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")
SETTINGS = {"r": 3, "lora_alpha": 8}
# PEFT's OLoRA cannot do Conv1D: there ours is checked against its definition alone.
PLACES = {"pissa": LAYERS, "olora": ["first", "last"]}
CASES = {
    "plain": {},
    "dropout": {"lora_dropout": 0.3},
    "α/√r": {"use_rslora": True},
    "other ranks": {"rank_pattern": {"first": 2}, "alpha_pattern": {"last": 5}},
    "both": {
        "use_rslora": True,
        "rank_pattern": {"first": 2},
        "alpha_pattern": {"last": 5},
    },  # PEFT does not write this
}


def pair(start, more):
    """(ours, PEFT's, as both were at the start): PEFT's start is taken in float32, as it demands; then all is float64, and PEFT's
    frozen rest is W₀ − s·B₀ A₀ of these factors without float32's rounding."""
    settings = SETTINGS | {"target_modules": PLACES[start]} | more
    theirs = peft.get_peft_model(net(torch.float32), peft.LoraConfig(init_lora_weights=start, **settings))
    ours = inject(net(torch.float32), LoRAConfig(**settings, variant=start))
    apart = {"start": largest(trained(ours), trained(theirs))}
    ours, theirs, base = ours.double(), theirs.double(), net().state_dict()
    with torch.no_grad():
        reference = trained(theirs)
        for key, p in trained(ours).items():
            p.copy_(reference[key])
        for path, layer in lora_layers(ours).items():
            for slot in ("lora_A", "lora_B"):
                layer.tensor(f"{slot}0", "default").copy_(layer.tensor(slot, "default"))
            A, B = layer.tensor("lora_A", "default"), layer.tensor("lora_B", "default")
            rest = base[f"{path}.weight"] - layer.oriented(layer.scalings["default"] * B @ A)
            held = theirs.get_submodule(f"base_model.model.{path}").base_layer.weight
            apart["frozen rest"] = max(apart.get("frozen rest", 0), float((held - rest).abs().max()))
            held.copy_(rest)
    return ours, theirs, apart


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("start", PLACES)
def test_start_training_merge_and_folders_are_pefts(start, case, tmp_path):
    ours, theirs, apart = pair(start, CASES[case])
    assert max(apart.values()) < 3e-6, apart
    theirs.peft_config["default"].init_lora_weights = True  # as PEFT's guide to the conversion has it
    theirs.save_pretrained(tmp_path / "initial")
    found = {"forward": float((outputs(ours)[0] - outputs(theirs.eval())[0]).abs().max())}
    found |= train_both(ours, theirs)
    found |= folders_apart(ours, tmp_path / "ours")
    if case != "both":
        theirs.peft_config["default"].init_lora_weights = start
        theirs.save_pretrained(tmp_path / "theirs", path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
        mine, other = (load_file(tmp_path / who / "adapter_model.safetensors") for who in ("ours", "theirs"))
        found["file"] = largest(mine, other)
        said, peft_said = (
            json.loads((tmp_path / who / "adapter_config.json").read_text()) for who in ("ours", "theirs")
        )
        for key in ("r", "lora_alpha", "use_rslora", "init_lora_weights", "rank_pattern", "alpha_pattern"):
            assert said[key] == pytest.approx(peft_said[key]), key
    found |= merged_apart(ours, theirs, changed=len(PLACES[start]))
    agreed(found)


@pytest.mark.parametrize("start", PLACES)
def test_the_definition_on_every_kind_of_layer(start):
    """PiSSA: s·B₀ A₀ is the best of its rank. OLoRA: an orthonormal B₀, and B₀ A₀ holds W₀'s first r columns whole."""
    model = inject(net(), LoRAConfig(**SETTINGS, target_modules=LAYERS, variant=start))
    assert torch.equal(*outputs(model, net()))
    for layer in lora_layers(model).values():
        A, B, s = layer.tensor("lora_A0", "default"), layer.tensor("lora_B0", "default"), layer.scalings["default"]
        W = layer.oriented(layer.base_layer.weight)
        if start == "pissa":
            U, S, Vh = torch.linalg.svd(W, full_matrices=False)
            torch.testing.assert_close(s * B @ A, (U[:, :3] * S[:3]) @ Vh[:3])
            torch.testing.assert_close(B.norm(dim=0), A.norm(dim=1))
        else:
            torch.testing.assert_close(B.T @ B, torch.eye(3, dtype=B.dtype))
            torch.testing.assert_close((B @ A)[:, :3], W[:, :3])


def test_a_fast_start_is_nearly_the_best_and_silent():
    torch.manual_seed(0)
    layer = torch.nn.Linear(300, 200, bias=False)
    best = float(torch.linalg.svdvals(layer.weight)[:8].square().sum())
    model = inject(torch.nn.Sequential(layer), LoRAConfig(target_modules=["0"], variant="pissa:exact=false"))
    held = model[0].tensor("lora_B0", "default") @ model[0].tensor("lora_A0", "default") * model[0].scalings["default"]
    assert 0.9 * best < float(held.square().sum()) < 0.99999 * best  # of flat singular values, the worst case
    x = torch.randn(2, 300)
    assert torch.equal(model(x), layer(x))


def test_more_ranks_than_a_matrix_has_directions_start_as_plain_lora():
    """A head of two labels beside large matrices: PEFT would give its factors another shape."""
    model = inject(net(), LoRAConfig(r=7, target_modules=["first", "last"], variant="pissa"))
    layer = lora_layers(model)["last"]  # (9, 6): six directions
    A, B = layer.tensor("lora_A", "default"), layer.tensor("lora_B", "default")
    assert A.shape == (7, 6) and bool(A[6:].any()) and not B[:, 6:].any() and torch.equal(*outputs(model, net()))


def test_wrong_combinations_are_refused(tmp_path):
    for start in PLACES:
        with pytest.raises(ConfigError, match="is a start of its own"):
            LoRAConfig(variant=start, init_lora_weights="gaussian")
        with pytest.raises(ConfigError, match=rf"variant=…, one of .*{start}"):
            LoRAConfig(init_lora_weights=start)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    model[0].weight = torch.nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ConfigError, match="PiSSA computes with the weights themselves"):
        inject(model, LoRAConfig(r=2, target_modules=["0"], variant="pissa"))


def test_a_start_survives_a_second_adapter_which_pefts_does_not(tmp_path):
    """Two PiSSA adapters on one base, each loaded beside the other: neither is disturbed, and both off is the base."""
    first = inject(net(), LoRAConfig(**SETTINGS, target_modules=LAYERS, variant="pissa"))
    optimizer = torch.optim.SGD([p for p in first.parameters() if p.requires_grad], lr=0.5)
    x, wanted = batch(0)
    (first(x) - wanted).square().mean().backward()
    optimizer.step()
    alone = outputs(first)[0]
    save(first, tmp_path)
    other = inject(net(), LoRAConfig(**SETTINGS, target_modules=LAYERS, variant="pissa"), "other")
    load(other, tmp_path)
    torch.testing.assert_close(outputs(other)[0], alone, rtol=0, atol=1e-12)
    assert isinstance(other, Net)
