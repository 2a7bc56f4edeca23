"""LoRA-FA: PEFT's projection and PEFT's weights; through the trainer; across a stop."""

import peft
import pytest
import torch
import torch.nn.functional as F
from peft.optimizers import create_lorafa_optimizer
from toy_runs import PressCtrlC, adapted, collate, farthest, sentences, weights
from variant_pairs import LAYERS, NEAR, batch, fill, net, trained

from lora_edu.adapters import LoRAConfig, inject, load, lora_layers
from lora_edu.errors import ConfigError, TrainingError
from lora_edu.training import LoRAFA, TrainConfig, Trainer, causal_lm_loss, freeze_for
from lora_edu.training.optimizers import new_optimizer

NO_EPSILON = 1e-200  # PEFT's counts before the bias correction, torch's after it
LORAFA = TrainConfig(optimizer="lorafa", learning_rate=3e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("more", [{}, {"use_rslora": True, "rank_pattern": {"middle": 2}}])
def test_gradients_and_the_weights_after_20_steps_are_pefts(more, tmp_path):
    settings = {"r": 3, "lora_alpha": 8, "target_modules": LAYERS} | more
    theirs = peft.get_peft_model(net(), peft.LoraConfig(**settings)).double()
    fill(theirs)
    theirs.save_pretrained(tmp_path)
    ours = load(net(), tmp_path, trainable=True)
    other = create_lorafa_optimizer(theirs, r=3, lora_alpha=8, lr=LORAFA.learning_rate)
    freeze_for(ours, LORAFA)
    mine = new_optimizer(ours, {n: p for n, p in ours.named_parameters() if p.requires_grad}, LORAFA)
    start = {key: p.detach().clone() for key, p in trained(ours).items()}
    assert set(start) == {f"{path}.lora_B" for path in LAYERS} == set(trained(theirs))
    for optimizer in (mine, other):
        for group in optimizer.param_groups:
            group["eps"] = NO_EPSILON
    for step in range(20):
        for model, optimizer in ((ours, mine), (theirs, other)):
            optimizer.zero_grad()
            x, wanted = batch(step)
            F.mse_loss(model(x), wanted).backward()
            optimizer.step()
    ends = [{key: p.detach() for key, p in trained(model).items()} for model in (ours, theirs)]
    assert farthest(*ends) < NEAR < 1e-3 < min((ends[0][key] - p).abs().max() for key, p in start.items())


def test_the_step_is_the_nearest_to_the_full_gradient():
    """Of all X, s·X A is nearest to G for the projected gradient: what is left of G is orthogonal to A's rows."""
    model = inject(net(), LoRAConfig(r=3, lora_alpha=8, target_modules=["first"]))
    fill(model)
    freeze_for(model, LORAFA)
    optimizer = new_optimizer(model, {n: p for n, p in model.named_parameters() if p.requires_grad}, LORAFA)
    layer = lora_layers(model)["first"]
    layer.base_layer.weight.requires_grad_(True)
    x, wanted = batch(0)
    F.mse_loss(model(x), wanted).backward()
    G = layer.base_layer.weight.grad  # (out, in)
    optimizer.step()
    left = G - layer.scaling * layer.B.grad @ layer.A
    assert float((left @ layer.A.T).abs().max()) < 1e-7 * float((G @ layer.A.T).abs().max())  # 1e-8 on the diagonal


def run(folder=None, callbacks=(), **more):
    config = TrainConfig(
        optimizer="lorafa", max_steps=4, batch_size=2, learning_rate=0.02, precision="fp32",
        output_dir=str(folder) if folder else None, **more,
    )  # fmt: skip
    return Trainer(
        adapted(r=3), sentences(16), causal_lm_loss, config, collate=collate, callbacks=callbacks, progress=False
    )


def test_a_run_trains_b_alone_and_goes_on_where_it_stopped(tmp_path):
    before = adapted(r=3)
    whole = run()
    history = whole.train()
    assert isinstance(whole.optimizer, LoRAFA) and history.losses[-1] < history.losses[0]
    assert all(".lora_B." in name for name in weights(whole.model)) and len(whole.optimizer.state) == 14
    for path, layer in lora_layers(whole.model).items():
        assert torch.equal(layer.A, lora_layers(before)[path].A)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [PressCtrlC(2)]).train()
    again = run(tmp_path)
    again.resume()
    assert farthest(weights(again.model), weights(whole.model)) == 0
    plain = run()
    object.__setattr__(plain.config, "optimizer", "adamw")
    assert plain.config.to_dict() != whole.config.to_dict()


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        ({"variant": "dora"}, "DoRA at .* is not that"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "an embedding's A, which starts at 0"),
    ],
)
def test_where_it_cannot_be_it_says_so(lora, words):
    with pytest.raises(TrainingError, match=words):
        freeze_for(adapted(torch.float32, **lora), LORAFA)
    with pytest.raises(TrainingError, match="none trains here"):
        freeze_for(net(), LORAFA)
    with pytest.raises(ConfigError, match="choose one of them"):
        TrainConfig(optimizer="lorafa", loraplus_lr_ratio=4)
