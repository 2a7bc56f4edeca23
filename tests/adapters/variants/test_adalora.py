"""AdaLoRA against PEFT's: forward, the orthogonality term, twenty steps of its budget, merge, and folders that PEFT has cut."""

from types import SimpleNamespace

import peft
import pytest
import torch
import torch.nn.functional as F
from variant_pairs import (
    LAYERS,
    NEAR,
    Net,
    agreed,
    batch,
    fill,
    folders_apart,
    largest,
    merged_apart,
    net,
    outputs,
    trained,
)

from lora_edu.adapters import LoRAConfig, after_step, inject, load, lora_layers, save, variant_loss
from lora_edu.adapters.finding import state_of
from lora_edu.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS = 20
PLAN = {"target_r": 2, "tinit": 3, "tfinal": 5, "deltaT": 2, "beta1": 0.8, "beta2": 0.9, "orth_reg_weight": 0.3}
TEXT = "adalora:" + ",".join(f"{key}={value}" for key, value in PLAN.items())


class WithLoss(Net):
    """PEFT adds its term only to an output that has a `loss`."""

    def forward(self, x, wanted=None):
        y = super().forward(x)
        return y if wanted is None else SimpleNamespace(loss=F.mse_loss(y, wanted))


def make(dtype=torch.float64):
    torch.manual_seed(0)
    return WithLoss().to(dtype).eval()


def pair(folder, **more):
    settings = {"init_r": 4, "lora_alpha": 7, "target_modules": LAYERS, "total_step": STEPS} | PLAN | more
    theirs = peft.get_peft_model(make(), peft.AdaLoraConfig(**settings)).double()
    for name, p in theirs.named_parameters():
        if "ranknum" in name:  # PEFT lets it train where the base is not float32, by moving it
            p.requires_grad_(False)
    fill(theirs)
    theirs.save_pretrained(folder)
    return load(make(), folder, trainable=True).double(), theirs


def scores_apart(ours, allocator) -> float:
    """The largest relative difference of the means from which the triplets are scored."""
    means = {"importance": allocator.exp_avg_ipt, "uncertainty": allocator.exp_avg_unc}
    pairs = [
        (layer.tensor(f"{slot}_{mean}", "default"), reference[f"{path}.{slot}.default"])
        for path, layer in lora_layers(ours).items()
        for slot in ("lora_A", "lora_E", "lora_B")
        for mean, reference in means.items()
    ]
    return max(float((mine - theirs).abs().max() / theirs.abs().max()) for mine, theirs in pairs)


def train_both(ours, theirs):
    """Largest differences over a whole run, the sets of triplets left included at each step."""
    mine, other = trained(ours), trained(theirs)
    start = {key: p.detach().clone() for key, p in mine.items()}
    optimizers = [torch.optim.AdamW(list(params.values()), lr=1e-2) for params in (mine, other)]
    found, left = {"loss": 0.0, "gradients": 0.0}, []
    for model in (ours, theirs):
        model.train()
    for step in range(1, STEPS + 1):
        losses = []
        for model, optimizer in zip((ours, theirs), optimizers):
            torch.manual_seed(step)
            optimizer.zero_grad()
            if model is ours:
                loss = model(*batch(step)).loss + variant_loss(model)
            else:  # PEFT's own term is in what the inner model gives, as it is where a task is named
                loss = model.base_model(*batch(step)).loss
            loss.backward()
            losses.append(loss.item())
        found["loss"] = max(found["loss"], abs(losses[0] - losses[1]))
        found["gradients"] = max(
            found["gradients"], largest(*({k: p.grad for k, p in params.items()} for params in (mine, other)))
        )
        for optimizer in optimizers:
            optimizer.step()
        after_step(ours, step, STEPS)
        theirs.base_model.update_and_allocate(step)
        if step < STEPS - PLAN["tfinal"]:
            found["scores"] = max(found.get("scores", 0.0), scores_apart(ours, theirs.base_model.rankallocator))
        counts = [
            {k: (p != 0).flatten().tolist() for k, p in params.items() if k.endswith("lora_E")}
            for params in (mine, other)
        ]
        assert counts[0] == counts[1], step
        left.append(sum(map(sum, counts[0].values())))
    found["weights"] = largest(mine, other)
    assert min((start[key] - p).abs().max() for key, p in mine.items()) > 1e-4
    for model in (ours, theirs):
        model.eval()
    return found, left


@pytest.mark.parametrize("more", [{}, {"lora_dropout": 0.3}])
def test_forward_gradients_20_steps_merge_and_folders_are_pefts(more, tmp_path):
    ours, theirs = pair(tmp_path / "theirs", **more)
    found = {"forward": float((outputs(ours)[0] - outputs(theirs.eval())[0]).abs().max())}
    apart, left = train_both(ours, theirs)
    cuts = left[3:14:2]  # after steps 4, 6 … 14; between them Adam's momentum may wake what was cut, in PEFT too
    assert left[:3] == [12] * 3 and left[14:] == [6] * 6
    assert sorted(cuts, reverse=True) == cuts and len(set(cuts)) > 3
    found |= apart | folders_apart(ours, tmp_path / "ours", make)
    # PEFT writes what is left of each layer; we read it, and what we then write PEFT reads.
    theirs.save_pretrained(tmp_path / "cut")
    cut = load(make(), tmp_path / "cut").double()
    ranks = [len(layer.tensor("lora_A", "default")) for layer in lora_layers(cut).values()]
    assert sum(ranks) == 6 and len(set(ranks)) > 1
    found["we read PEFT's cut one"] = float((outputs(cut)[0] - outputs(theirs)[0]).abs().max())
    again = peft.PeftModel.from_pretrained(make(), save(cut, tmp_path / "again")).double().eval()
    found["PEFT reads it again"] = float((outputs(cut)[0] - outputs(again)[0]).abs().max())
    found |= merged_apart(ours, theirs, make)
    agreed(found)


def test_a_layer_that_peft_cut_to_nothing_is_read_too(tmp_path):
    _, theirs = pair(tmp_path / "whole")
    mask = {"first.lora_E": [False] * 4, "middle.lora_E": [True] * 4, "last.lora_E": [True, True, False, False]}
    theirs.base_model.rankallocator.mask_using_rank_pattern(theirs.base_model.model, mask)
    theirs.peft_config["default"].rank_pattern = {f"{key}.default": value for key, value in mask.items()}
    theirs.save_pretrained(tmp_path / "cut")
    ours = load(make(), tmp_path / "cut")
    assert lora_layers(ours)["first"].tensor("lora_A", "default").shape == (0, 7)
    torch.testing.assert_close(*outputs(ours, theirs.eval()), rtol=0, atol=NEAR)


def test_the_start_is_pefts():
    torch.manual_seed(0)
    model = inject(net(), LoRAConfig(r=4, lora_alpha=7, target_modules=LAYERS, variant=TEXT))
    assert torch.equal(*outputs(model, net()))
    assert state_of(model).configs["default"].variant.target_r == 2
    stacked = torch.cat(
        [layer.tensor("lora_A", "default").flatten() for layer in lora_layers(model).values()]
        + [layer.tensor("lora_B", "default").flatten() for layer in lora_layers(model).values()]
    )
    assert float(stacked.std()) == pytest.approx(0.02, rel=0.15)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"r": 8}, r"cuts from r=8 to target_r=8"),
        ({"r": 12, "use_rslora": True}, "finds the ranks itself"),
        ({"r": 12, "rank_pattern": {"q": 3}}, "finds the ranks itself"),
        ({"r": 12, "variant": "adalora:deltaT=0"}, "deltaT at least 1"),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        LoRAConfig(**{"variant": "adalora"} | settings)


def test_a_run_too_short_to_cut_is_refused():
    model = inject(net(), LoRAConfig(r=4, target_modules=LAYERS, variant=TEXT))
    with pytest.raises(ConfigError, match="no step is left to cut"):
        after_step(model, 1, 8)
