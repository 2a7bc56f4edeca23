"""DPO with the adapter switched off as its reference: the same loss and gradients as two models held side by side."""

import copy
import math
from functools import partial

import pytest
import torch
from conftest import make_tiny_llama
from tiny_tokenizer import make_tokenizer

from lora_edu.adapters import LoRAConfig, inject, lora_layers, merge
from lora_edu.errors import AdapterError, DataError
from lora_edu.training import TrainConfig, Trainer, collate_preferences, dpo_loss, encode_preferences

TOKENIZER = make_tokenizer()
PAIRS = [("hi", "yes", "no, not at all"), ("who?", "a long answer it is", "x"), ("so", "ab", "ba")]
PREFERENCES = encode_preferences(PAIRS, TOKENIZER)


@pytest.fixture
def base():
    return make_tiny_llama(vocab_size=len(TOKENIZER), max_position_embeddings=256)


def tuned(base, dropout=0.0):
    model = inject(copy.deepcopy(base), LoRAConfig(r=4, lora_alpha=6, lora_dropout=dropout))
    generator = torch.Generator().manual_seed(0)
    for layer in lora_layers(model).values():
        layer.B.data.normal_(0, 0.3, generator=generator)
    return model


def log_prob(model, example):
    """Of one answer, a row at a time: no padding, no batch."""
    logs = model(torch.tensor([example.input_ids])).logits[0].log_softmax(-1)
    return sum(logs[t - 1, token] for t, token in enumerate(example.labels) if token != -100)


def two_models(policy, reference, beta):
    """Equation 7 of the paper, with a model that is never switched."""
    total = 0.0
    for chosen, rejected in PREFERENCES:
        with torch.no_grad():
            before = [log_prob(reference, each) for each in (chosen, rejected)]
        now = [log_prob(policy, each) for each in (chosen, rejected)]
        total = total - torch.log(torch.sigmoid(beta * ((now[0] - before[0]) - (now[1] - before[1]))))
    return total


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_loss_and_gradients_are_those_of_two_models(base, beta):
    base = base.double()
    model = tuned(base)
    batch = collate_preferences(PREFERENCES, TOKENIZER.pad_token_id)
    loss = dpo_loss(model, batch, beta)
    assert loss.count == 3
    loss.total.backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    dense = two_models(model, base, beta)
    dense.backward()
    assert loss.total.item() == pytest.approx(dense.item(), rel=1e-9) and abs(dense.item() - 3 * math.log(2)) > 1e-3
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-6, atol=1e-10)


def test_an_adapter_that_changes_nothing_yet_is_at_log_two(base):
    model = inject(base, LoRAConfig(r=4))
    loss = dpo_loss(model, collate_preferences(PREFERENCES, TOKENIZER.pad_token_id))
    assert loss.total.item() == pytest.approx(3 * math.log(2))


def test_the_reference_is_without_dropout_and_the_model_is_given_back_in_training(base):
    model = tuned(base, dropout=0.9).train()
    batch = collate_preferences(PREFERENCES, TOKENIZER.pad_token_id)
    values = {round(dpo_loss(model, batch, 2.0).total.item(), 6) for _ in range(3)}
    assert len(values) == 3 and model.training, "the policy has its dropout"


def test_training_makes_the_preferred_answers_likelier_than_the_others(base):
    model = inject(base, LoRAConfig(r=4, lora_alpha=8))
    pad = partial(collate_preferences, pad_token_id=TOKENIZER.pad_token_id)
    config = TrainConfig(learning_rate=5e-2, max_steps=40, batch_size=3, precision="fp32")
    Trainer(model, PREFERENCES, partial(dpo_loss, beta=0.5), config, collate=pad, progress=False).train()
    assert dpo_loss(model, pad(PREFERENCES), 0.5).total.item() < 0.75 * 3 * math.log(2)


def test_without_a_base_to_switch_to_it_is_refused(base):
    model = tuned(base)
    merge(model)
    with pytest.raises(Exception, match="unmerge"):
        dpo_loss(model, collate_preferences(PREFERENCES, 0))
    with pytest.raises(AdapterError):
        dpo_loss(base, collate_preferences(PREFERENCES, 0))


def test_a_pair_without_a_difference_is_named():
    with pytest.raises(DataError, match="pair 2: both answers are the same"):
        encode_preferences([PAIRS[0], ("a", "b", "b")], TOKENIZER)
    with pytest.raises(DataError, match=r"pair 1: .*max_length"):
        encode_preferences(PAIRS, TOKENIZER, max_length=5)
