"""LoRA+: PEFT's groups and PEFT's weights; through the trainer; across a stop. Chapter 08."""

import warnings
from dataclasses import replace

import peft
import pytest
import torch
import torch.nn.functional as F
from conftest import make_tiny_llama
from helpers import randomise, tokens
from peft.optimizers import create_loraplus_optimizer
from torch import nn
from toy_runs import adapted, collate, farthest, sentences, weights

from lora_edu.adapters import LoRAConfig, inject, load
from lora_edu.errors import ConfigError, TrainingError
from lora_edu.training import Callback, TrainConfig, Trainer, causal_lm_loss, loraplus_groups
from lora_edu.training.optimizers import new_optimizer

RATE, RATIO, DECAY = 3e-3, 16.0, 0.1
WITH_LORAPLUS = {"learning_rate": RATE, "loraplus_lr_ratio": RATIO, "weight_decay": DECAY, "precision": "fp32"}


class Mixed(nn.Module):
    """A kind of each: a table, matrices, LayerNorm with a bias, RMSNorm, a layer that trains in full with its bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(32, 8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.layer_norm, self.rms_norm = nn.LayerNorm(8), nn.RMSNorm(8)
        self.head = nn.Linear(8, 32)

    def forward(self, ids):
        x = self.layer_norm(self.first(self.table(ids)))  # (batch, length, 8)
        return self.head(self.rms_norm(self.second(F.silu(x))))  # (batch, length, 32)


SETTINGS = {
    "r": 3,
    "lora_alpha": 6,
    "target_modules": ["table", "first", "second"],
    "modules_to_save": ["layer_norm", "rms_norm", "head"],
}


def pair(tmp_path):
    """(ours, PEFT's): the same base, the same random factors, the same modules that train in full; float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(Mixed().double(), peft.LoraConfig(**SETTINGS)).double()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for _, p in sorted((n, p) for n, p in theirs.named_parameters() if p.requires_grad):
                p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.3)
        theirs.save_pretrained(tmp_path / "theirs")
    ours = load(Mixed().double(), tmp_path / "theirs", trainable=True)
    return ours, theirs


def key(name):
    """One name for a parameter in either library."""
    name = name.removeprefix("base_model.model.").replace(".default", "")
    return name.replace(".modules_to_save", "").replace(".copies", "").removesuffix(".weight")


def trained(model):
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len({key(name) for name in found}) == len(found) == 11
    return found


def rules(model, optimizer):
    """{parameter: (rate, decay)}, whatever the groups are called."""
    names = {id(p): key(name) for name, p in model.named_parameters()}
    return {
        names[id(p)]: (pytest.approx(group["lr"]), group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }


def theirs_optimizer(model, **more):
    return create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=RATE, loraplus_lr_ratio=RATIO, loraplus_weight_decay=DECAY, **more
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("embedding", [None, 2e-3])
def test_the_groups_and_the_weights_after_20_steps_are_pefts(tmp_path, embedding):
    ours, theirs = pair(tmp_path)
    config = TrainConfig(**WITH_LORAPLUS | ({"loraplus_lr_embedding": embedding} if embedding else {}))
    mine = new_optimizer(ours, trained(ours), config)
    other = theirs_optimizer(theirs, **({"loraplus_lr_embedding": embedding} if embedding else {}))
    found = rules(ours, mine)
    assert found == rules(theirs, other) and len(found) == 11
    assert len({(repr(rate), decay) for rate, decay in found.values()}) == 4  # all four groups are there
    start = {key(name): p.detach().clone() for name, p in trained(ours).items()}
    ids = tokens()  # (2, 7)
    for model, optimizer in ((ours, mine), (theirs, other)):
        for _ in range(20):
            optimizer.zero_grad()
            F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
            optimizer.step()
    ends = [{key(name): p.detach() for name, p in trained(model).items()} for model in (ours, theirs)]
    assert farthest(*ends) < 1e-9 < 1e-6 < min((ends[0][name] - p).abs().max() for name, p in start.items())


def test_the_names_of_the_groups_members():
    model = inject(Mixed(), LoRAConfig(**SETTINGS))
    names = {id(p): key(name) for name, p in model.named_parameters()}
    groups = loraplus_groups(model, trained(model), learning_rate=1e-3, ratio=8, weight_decay=0.1)
    found = [({names[id(p)] for p in g["params"]}, g["times"], g["weight_decay"]) for g in groups]
    assert found == [
        ({"first.lora_A", "second.lora_A", "head"}, 1.0, 0.1),
        ({"table.lora_embedding_A", "table.lora_embedding_B"}, pytest.approx(1e-3), 0.1),
        ({"first.lora_B", "second.lora_B", "rms_norm"}, 8, 0.1),
        ({"layer_norm", "layer_norm.bias", "head.bias"}, 8, 0.0),
    ]


def trainer(model, folder=None, callbacks=(), **config):
    return Trainer(
        model, sentences(11), causal_lm_loss,
        TrainConfig(**WITH_LORAPLUS | {"batch_size": 4, "epochs": 3, "output_dir": folder} | config),
        collate=collate, callbacks=callbacks, progress=False,
    )  # fmt: skip


class Rates(Callback):
    """The rates of A's and of B's group at each step; halves the peak after the second."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, trainer, record):
        self.seen.append([group["lr"] / record["learning_rate"] for group in trainer.optimizer.param_groups])
        if record["step"] == 2:
            trainer.learning_rate /= 2


def test_schedule_and_callbacks_move_both_rates_alike():
    rates = Rates()
    trainer(adapted(), callbacks=[rates], warmup_steps=3).train()
    assert len(rates.seen) == 9 and all(seen == pytest.approx([1, RATIO]) for seen in rates.seen)


def test_a_ratio_of_one_is_the_run_without_and_another_ratio_is_not():
    ends = {}
    for ratio in (None, 1.0, 4.0):
        model = adapted()
        trainer(model, loraplus_lr_ratio=ratio).train()
        ends[ratio] = weights(model)
    assert farthest(ends[None], ends[1.0]) == 0
    assert farthest(ends[None], ends[4.0]) > 1e-3


class Stop(Callback):
    def on_step_end(self, trainer, record):
        if record["step"] == 4:
            raise KeyboardInterrupt


def test_a_resumed_run_has_both_rates_again_and_no_other_ratio_goes_on_with_it(tmp_path):
    whole, again = adapted(), adapted()
    trainer(whole).train()
    broken = trainer(adapted(), str(tmp_path), [Stop()], save_every=3)
    with pytest.raises((KeyboardInterrupt, TrainingError)):
        broken.train()
    for other in ({"loraplus_lr_ratio": 8.0}, {"loraplus_lr_ratio": None}, {"loraplus_lr_embedding": 1e-3}):
        with pytest.raises(TrainingError, match=next(iter(other))):
            trainer(adapted(), str(tmp_path), save_every=3, **other).resume()
    trainer(again, str(tmp_path), save_every=3).resume()
    assert farthest(weights(whole), weights(again)) == 0


def test_without_loraplus_the_embeddings_rate_decides_nothing():
    """So runs that were begun before there was LoRA+ go on."""
    plain = TrainConfig()
    assert plain.decisive() == replace(plain, loraplus_lr_embedding=1.0).decisive()
    assert "loraplus_lr_embedding" not in plain.decisive()
    assert not [name for name in plain.to_dict() if "loraplus" in name]
    for config in (plain, TrainConfig(loraplus_lr_ratio=4.0), TrainConfig(loraplus_lr_embedding=1e-3)):
        assert TrainConfig.from_dict(config.to_dict()) == config


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="loraplus_lr_ratio must be a positive number"):
        TrainConfig(loraplus_lr_ratio=0)
    model = randomise(adapted())
    for name, p in model.named_parameters():
        p.requires_grad_("norm" in name)
    with pytest.raises(TrainingError, match="no factor B trains here"):
        trainer(model)
    with pytest.raises(TrainingError, match="no factor B trains here"):
        trainer(make_tiny_llama(dtype=torch.float64))
