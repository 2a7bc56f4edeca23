"""An adapter out of two full models: nearest of its rank, with everything named that it does not have."""

import copy
import warnings

import peft
import pytest
import torch
from conftest import make_tiny_llama
from helpers import randomise, tokens
from torch import nn

from lora_edu.adapters import LoRAConfig, adapter_names, audit, extract, inject, lora_layers, merge, save, unload
from lora_edu.errors import AdapterError, ConfigError, TargetError
from lora_edu.linalg import low_rank


def base(**more):
    return make_tiny_llama(**({"dtype": torch.float64} | more))


def tuned_by(rank=3, **more):
    """The base with a known update of that rank in its q_proj and down_proj."""
    model = randomise(inject(base(**more), LoRAConfig(r=rank, target_modules=["q_proj", "down_proj"])))
    merge(model, keep_base=False)
    return unload(model)


def fully_tuned(seed=1, std=0.02, **more):
    model = base(**more)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype) * std)
    return model


def differences(model, tuned):
    new = dict(tuned.named_parameters())
    return {p: new[f"{p}.weight"].detach() - m.base_layer.weight for p, m in lora_layers(model).items()}


def test_an_update_of_rank_3_comes_back_whole(tmp_path):
    model, tuned = base(), tuned_by(3)
    report = extract(model, tuned, energy=1.0)
    assert set(report.layers) == {p for p, _ in model.named_modules() if p.endswith(("q_proj", "down_proj"))}
    assert {layer.rank for layer in report.layers.values()} == {3} and not report.left_out
    assert report.energy == pytest.approx(1)
    expected = tuned(tokens()).logits
    torch.testing.assert_close(model(tokens()).logits, expected)
    assert not torch.allclose(base()(tokens()).logits, expected, atol=1e-3)
    assert not audit(model).names
    theirs = peft.PeftModel.from_pretrained(base(), save(model, tmp_path)).double().eval()
    torch.testing.assert_close(theirs(tokens()).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("targets", ["all-linear", ["embed_tokens", "lm_head", "up_proj"], r".*\.1\..*_proj"])
def test_a_full_tuning_is_cut_to_the_nearest_and_the_rest_is_named(targets):
    model, tuned = base(), fully_tuned()
    untouched = copy.deepcopy(tuned.state_dict())
    before = {n: p.clone() for n, p in model.named_parameters()}
    report = extract(model, tuned, 2, targets=targets)
    kept = total = 0.0
    for path, D in differences(model, tuned).items():
        layer = lora_layers(model)[path]
        torch.testing.assert_close(layer.delta_weight("default"), low_rank(D, 2), rtol=0, atol=1e-10)
        S = torch.linalg.svdvals(D)
        assert report.layers[path].energy == pytest.approx(float(S[:2].square().sum() / S.square().sum()))
        size = float(torch.linalg.norm(D) / torch.linalg.norm(layer.base_layer.weight))
        assert report.layers[path].size == pytest.approx(size)
        kept, total = kept + float(S[:2].square().sum()), total + float(S.square().sum())
    assert report.energy == pytest.approx(kept / total)
    # every tensor that differs is either adapted or named
    adapted = {f"{path}.weight" for path in report.layers}
    assert set(report.left_out) == set(before) - adapted and "model.norm.weight" in report.left_out
    norm = dict(tuned.named_parameters())["model.norm.weight"].detach() - before["model.norm.weight"]
    assert report.left_out["model.norm.weight"] == pytest.approx(
        float(norm.norm() / before["model.norm.weight"].norm())
    )
    assert "left out, though it differs" in str(report)
    assert all(torch.equal(untouched[n], t) for n, t in tuned.state_dict().items())
    assert all(
        torch.equal(before[n.replace(".base_layer", "")], p) for n, p in model.named_parameters() if "lora" not in n
    )


def test_an_energy_gives_each_matrix_the_least_rank_that_keeps_it():
    model, tuned = base(), fully_tuned()
    report = extract(model, tuned, energy=0.7)
    for path, D in differences(model, tuned).items():
        squares = torch.linalg.svdvals(D).square()
        share = squares.cumsum(0) / squares.sum()
        assert report.layers[path].rank == int((share < 0.7).sum()) + 1
        assert report.layers[path].energy >= 0.7
    assert len({layer.rank for layer in report.layers.values()}) > 1


def test_a_tied_table_is_adapted_as_an_embedding_and_its_other_use_is_named():
    model, tuned = base(tied=True), base(tied=True)
    with torch.no_grad():
        tuned.model.embed_tokens.weight.add_(0.1)
    report = extract(model, tuned, 1, targets=["embed_tokens"])
    assert set(report.left_out) == {"lm_head.weight"} and report.energy == pytest.approx(1)


def test_beside_an_adapter_that_is_there():
    model, tuned = base(), tuned_by(2)
    randomise(inject(model, LoRAConfig(r=2, target_modules=["q_proj"]), "mine"), "mine")
    assert extract(model, tuned, 2, name="new").energy == pytest.approx(1)
    torch.testing.assert_close(model(tokens()).logits, tuned(tokens()).logits)
    assert adapter_names(model) == ["mine", "new"]


def test_a_tuned_model_rounded_to_half_precision_is_noticed():
    for rounded, std, warned in ((True, 1e-4, True), (False, 1e-4, False), (True, 0.3, False)):
        tuned = fully_tuned(std=std, dtype=torch.float32)
        tuned = tuned.bfloat16() if rounded else tuned
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            extract(base(dtype=torch.float32), tuned, 2)
        assert bool(caught) == warned
        if warned:
            assert "rounded to torch.bfloat16 and the base was not" in str(caught[0].message)


def test_a_setting_that_is_in_no_tensor_is_named():
    model, tuned = base(), tuned_by(2)
    tuned.config.rms_norm_eps = 1e-3
    report = extract(model, tuned, 2)
    assert report.settings == {"rms_norm_eps": (1e-6, 1e-3)} and "rms_norm_eps" in str(report)


def test_big_matrices_by_subspace_iteration_say_what_they_really_hold():
    torch.manual_seed(0)
    W0 = torch.randn(400, 300, dtype=torch.float64)
    S = 10 * 0.9 ** torch.arange(300, dtype=torch.float64)
    U, V = (torch.linalg.qr(torch.randn(n, 300, dtype=torch.float64))[0] for n in (400, 300))
    D = (U * S) @ V.T
    models = []
    for weight in (W0, W0 + D):
        models.append(nn.Sequential(nn.Linear(300, 400, bias=False).double()))
        models[-1][0].weight.data = weight.clone()
    report = extract(*models, 8, targets=["0"])  # (8 + 16) · 4 < 300: not the exact SVD
    held = lora_layers(models[0])["0"].delta_weight("default").detach()
    error = float((D - held).square().sum() / D.square().sum())
    assert report.energy == pytest.approx(1 - error, abs=1e-12)
    assert error == pytest.approx(float(S[8:].square().sum() / S.square().sum()), rel=1e-6)


@pytest.mark.parametrize(
    ("make", "arguments", "error", "words"),
    [
        (
            lambda: base(vocab_size=40),
            {},
            AdapterError,
            r"embed_tokens.weight is \(32, 16\).*\(40, 16\).*resize the base",
        ),
        (lambda: base(num_hidden_layers=3), {}, AdapterError, "the tuned model alone has model.layers.2"),
        (lambda: base(num_hidden_layers=1), {}, AdapterError, "the base alone has model.layers.1"),
        (lambda: base(hidden_size=32), {}, AdapterError, "these are not two states of one model"),
        (lambda: inject(base(), LoRAConfig(r=2)), {}, AdapterError, "merge and unload it"),
        (base, {}, AdapterError, "do not differ in any of the 14 targets"),
        (fully_tuned, {"targets": ["qq_proj"]}, TargetError, "q_proj"),
        (fully_tuned, {"rank": None}, ConfigError, "give one of them"),
        (fully_tuned, {"rank": 99}, ConfigError, "no update here has a rank above 16"),
        (fully_tuned, {"name": "a.b"}, AdapterError, "cannot name an adapter"),
    ],
)
def test_what_cannot_be_extracted_is_refused_and_changes_nothing(make, arguments, error, words):
    model = base()
    names = list(model.state_dict())
    with pytest.raises(error, match=words):
        extract(model, make(), **({"rank": 2} | arguments))
    assert list(model.state_dict()) == names


def test_values_that_are_not_finite_and_differences_outside_the_targets_are_named():
    tuned = fully_tuned()
    tuned.model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(AdapterError, match=r"layers.0.mlp.up_proj.weight holds values that are not finite"):
        extract(base(), tuned, 2)
    tuned = base()
    tuned.model.norm.weight.data += 1
    with pytest.raises(AdapterError, match=r"they differ in model.norm.weight"):
        extract(base(), tuned, 2)
