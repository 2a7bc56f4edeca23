"""EVA and LoRA-GA against PEFT's: the directions they start from, and (LoRA-GA) the training that follows."""

from types import SimpleNamespace

import peft
import pytest
import torch
import torch.nn.functional as F
from conftest import make_tiny_llama
from helpers import tokens
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

from lora_edu.adapters import LoRAConfig, adapter_names, audit, inject, load, lora_layers, save
from lora_edu.adapters.finding import state_of
from lora_edu.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")


class WithLoss(Net):
    def forward(self, x, wanted=None):
        y = super().forward(x)
        return y if wanted is None else SimpleNamespace(loss=F.mse_loss(y, wanted))


def make(dtype=torch.float64):
    torch.manual_seed(0)
    return WithLoss().to(dtype).eval()


def rows(seed, n=60):
    """Inputs that vary more in some directions than in others, and have a mean."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 7, generator=generator) * torch.tensor([3.0, 2.2, 1.6, 1.1, 0.7, 0.4, 0.2]) + 1.0


# -- EVA ---------------------------------------------------------------------------------------------------------------
def test_eva_starts_in_pefts_directions_and_is_plain_lora_from_there(tmp_path):
    data, settings = [rows(1)], {"r": 3, "lora_alpha": 8, "target_modules": LAYERS}
    theirs = peft.get_peft_model(
        net(torch.float32),
        peft.LoraConfig(init_lora_weights="eva", eva_config=peft.EvaConfig(rho=1.0), **settings),
    )
    peft.initialize_lora_eva_weights(
        theirs, data, forward_fn=lambda model, x: model(x), prepare_model_inputs_fn=None,
        prepare_layer_inputs_fn=None, show_progress_bar=False,
    )  # fmt: skip
    ours = inject(net(torch.float32), LoRAConfig(**settings, variant="eva"), data=data)
    assert torch.equal(*outputs(ours.double(), net()))
    for path, layer in lora_layers(ours).items():
        reference = theirs.get_submodule(f"base_model.model.{path}").lora_A["default"].weight.double()
        cosines = (layer.A * reference).sum(1).abs()
        torch.testing.assert_close(cosines, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-5)
        assert not layer.B.any() and not layer.variants
    assert state_of(ours).configs["default"].variant is None and lora_layers(ours)["first"].fused_part() is not None
    with torch.no_grad():
        for p in trained(ours).values():
            p.add_(0.1)
    loaded = load(net(), save(ours, tmp_path))
    assert torch.equal(*outputs(loaded, ours))


def test_evas_directions_are_those_of_all_batches_together_without_their_mean():
    data = [rows(1, 30), rows(2, 50)]
    model = inject(net(torch.float32), LoRAConfig(r=3, target_modules=["first"], variant="eva"), data=data)
    together = torch.cat(data).double()
    _, _, Vh = torch.linalg.svd(together - together.mean(0), full_matrices=False)
    A = lora_layers(model)["first"].A.detach().double()
    torch.testing.assert_close((A * Vh[:3]).sum(1).abs(), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-5)
    white = inject(net(torch.float32), LoRAConfig(r=3, target_modules=["first"], variant="eva:whiten=true"), data=data)
    variances = (lora_layers(white)["first"].A.detach().double() @ (together - together.mean(0)).T).var(1, correction=0)
    torch.testing.assert_close(variances, torch.ones(3, dtype=torch.float64), rtol=1e-4, atol=0)


def test_eva_counts_the_tokens_that_are_answered():
    """A language model's batch: padding and the prompt say nothing, unless asked for."""
    ids, labels, mask = tokens(), tokens().clone(), torch.ones(2, 7, dtype=torch.long)
    labels[:, :4], mask[1, 5:] = -100, 0
    data = [{"input_ids": ids, "labels": labels, "attention_mask": mask}]
    config = {"r": 2, "target_modules": ["q_proj"]}
    seen = []
    base = make_tiny_llama()
    base.model.layers[0].self_attn.q_proj.register_forward_pre_hook(lambda m, x: seen.append(x[0].detach()))
    base(**data[0])
    for text, kept in (("eva", mask.bool() & (labels != -100)), ("eva:use_label_mask=false", mask.bool())):
        model = inject(make_tiny_llama(), LoRAConfig(**config, variant=text), data=data)
        x = seen[0][kept].double()
        Vh = torch.linalg.svd(x - x.mean(0), full_matrices=False)[2]
        A = next(iter(lora_layers(model).values())).A.detach().double()
        torch.testing.assert_close((A * Vh[:2]).sum(1).abs(), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-4)
    labels[:] = -100
    with pytest.raises(ConfigError, match=r"q_proj read 0 rows"):
        inject(make_tiny_llama(), LoRAConfig(**config, variant="eva"), data=data)


# -- LoRA-GA -----------------------------------------------------------------------------------------------------------
def ga_pair(**more):
    """(ours, PEFT's): both started in float32 from two batches, then set to the same factors in float64 (signs are free)."""
    settings = {"r": 2, "lora_alpha": 5, "target_modules": LAYERS} | more
    data = [{"x": x.float(), "wanted": wanted.float()} for x, wanted in map(batch, (1, 2))]
    base, config = (
        make(torch.float32),
        peft.LoraConfig(init_lora_weights="lora_ga", lora_ga_config=peft.LoraGAConfig(), **settings),
    )

    def train_step():
        for each in data:
            base(**each).loss.backward()

    from peft.tuners.lora.loraga import preprocess_loraga

    preprocess_loraga(base, config, train_step)
    theirs = peft.get_peft_model(base, config)
    ours = inject(make(torch.float32), LoRAConfig(**settings, variant="lora_ga"), data=data)
    mine, other = trained(ours), trained(theirs)
    apart = max(float((mine[k].abs() - other[k].abs()).abs().max()) for k in mine)
    ours, theirs, original = ours.double(), theirs.double(), make().state_dict()
    with torch.no_grad():
        for path, layer in lora_layers(ours).items():
            for slot in ("lora_A", "lora_B"):
                for held in (slot, f"{slot}0"):
                    layer.tensor(held, "default").copy_(trained(theirs)[f"{path}.{slot}"])
            A, B = layer.tensor("lora_A", "default"), layer.tensor("lora_B", "default")
            rest = original[f"{path}.weight"] - layer.oriented(layer.scalings["default"] * B @ A)
            theirs.get_submodule(f"base_model.model.{path}").base_layer.weight.copy_(rest)
    return ours, theirs, apart


@pytest.mark.parametrize("more", [{}, {"use_rslora": True, "lora_dropout": 0.3}])
def test_lora_ga_starts_trains_merges_and_is_written_as_pefts(more, tmp_path):
    ours, theirs, apart = ga_pair(**more)
    assert apart < 1e-4
    assert float((outputs(ours)[0] - outputs(make())[0]).abs().max()) == 0
    found = {"forward": float((outputs(ours)[0] - outputs(theirs.eval())[0]).abs().max())}
    found |= train_both(ours, theirs)
    found |= folders_apart(ours, tmp_path, make)
    found |= merged_apart(ours, theirs, make)
    agreed(found)


def test_lora_gas_first_step_is_the_full_gradients_best():
    """dW of the first SGD step, s²(B₀B₀ᵀ G + G A₀ᵀA₀): with orthonormal factors no pair of rank r gives more of G than 2r directions."""
    data = [{"x": x, "wanted": wanted} for x, wanted in map(batch, (1, 2))]
    model = inject(make(), LoRAConfig(r=2, lora_alpha=2, target_modules=["first"], variant="lora_ga"), data=data)
    base = make()
    sum(base(**each).loss for each in data).div(2).backward()
    G = base.first.weight.grad
    U, S, Vh = torch.linalg.svd(G)
    layer = lora_layers(model)["first"]
    torch.testing.assert_close(layer.A.abs(), Vh[:2].abs())
    scale = 10**0.25 / 4
    torch.testing.assert_close(layer.B.abs(), scale * (U[:, 2:4] * S[2:4]).abs())
    assert not model.first.base_layer.weight.requires_grad and model.first.base_layer.weight.grad is None


def test_what_they_need_is_asked_for_and_a_failure_leaves_the_model_as_it_was():
    for name in ("eva", "lora_ga"):
        model = make()
        with pytest.raises(ConfigError, match="data=batches"):
            inject(model, LoRAConfig(r=2, target_modules=LAYERS, variant=name))
        with pytest.raises(ConfigError, match="is a start of its own"):
            LoRAConfig(variant=name, init_lora_weights="gaussian")
        with pytest.raises(ConfigError):
            inject(model, LoRAConfig(r=2, target_modules=LAYERS, variant=name), data=[])
        assert adapter_names(model) == [] and all(p.requires_grad for p in model.parameters())
    with pytest.raises(ConfigError, match=r"2r = 8 directions of first"):
        inject(
            make(),
            LoRAConfig(r=4, target_modules=LAYERS, variant="lora_ga"),
            data=[dict(zip(("x", "wanted"), batch(0)))],
        )
    with pytest.raises(ConfigError, match="gives a `loss`"):
        inject(make(), LoRAConfig(r=2, target_modules=LAYERS, variant="lora_ga"), data=[{"x": batch(0)[0]}])


def test_they_begin_beside_another_adapter_from_the_base_alone():
    """While a start looks at data, no other adapter speaks; the model's mode is what it was."""
    data = [{"x": x, "wanted": wanted} for x, wanted in map(batch, (1, 2))]
    alone = inject(make(), LoRAConfig(r=2, target_modules=LAYERS, variant="lora_ga"), data=data)
    other = inject(make(), LoRAConfig(r=2, target_modules=LAYERS), "first")
    with torch.no_grad():
        for p in trained(other).values():
            p.add_(0.5)
    inject(other.train(), LoRAConfig(r=2, target_modules=LAYERS, variant="lora_ga"), data=data)
    assert other.training and largest(trained(alone), trained(other)) == 0
    assert all("default" in name for name in audit(other).names)
