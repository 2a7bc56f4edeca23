"""A packed batch is the padded one, without the padding: the same loss, the same gradients, and no example sees another."""

from functools import partial

import pytest
import torch
from conftest import make_tiny_llama
from helpers import randomise

from lora_edu.adapters import LoRAConfig, inject
from lora_edu.data import IGNORE, Example, collate, pack
from lora_edu.training import TrainConfig, Trainer, causal_lm_loss


def examples(lengths=(9, 4, 13, 2, 7)) -> list[Example]:
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(1, 32, (length,), generator=draw).tolist() for length in lengths]
    masked = [Example(row, [IGNORE] * (len(row) - 2) + row[-2:]) for row in ids[:-1]]
    return [
        *masked,
        Example(ids[-1], list(ids[-1])),
    ]  # the last is plain text: every token is a label, its first as well


def loss_and_gradients(model, batch):
    model.zero_grad()
    total, count = causal_lm_loss(model, batch)
    total.backward()
    return total.detach(), count, torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


def qwen():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    shape = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 4,
    }
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=32, num_key_value_heads=2, max_position_embeddings=64, **shape))


@pytest.mark.parametrize("make", [make_tiny_llama, qwen])
def test_the_same_loss_and_gradients_as_padded(make):
    model = randomise(inject(make().double(), LoRAConfig(r=2)))
    total, count, gradients = loss_and_gradients(model, collate(examples(), pad_token_id=0))
    packed, same, others = loss_and_gradients(model, pack(examples()))
    assert same == count
    torch.testing.assert_close(packed, total, rtol=1e-9, atol=0)
    torch.testing.assert_close(others, gradients, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("lost", ["position_ids", "first label"])
def test_without_positions_or_with_every_label_it_would_be_another_loss(lost):
    """The test above can fail: these are the two ways in which packing goes wrong in silence."""
    model = randomise(inject(make_tiny_llama(), LoRAConfig(r=2)))
    total, count, _ = loss_and_gradients(model, collate(examples(), pad_token_id=0))
    batch = pack(examples())
    if lost == "position_ids":
        del batch["position_ids"]
    else:
        batch["labels"] = torch.tensor([[label for example in examples() for label in example.labels]])
    packed, same, _ = loss_and_gradients(model, batch)
    assert abs(packed / same - total / count) > 1e-4 * total / count


def test_nothing_is_lost_and_nothing_is_padding():
    batch = pack(examples())
    assert {name: tuple(each.shape) for name, each in batch.items()} == dict.fromkeys(
        ("input_ids", "position_ids", "labels"), (1, 35)
    )
    assert batch["input_ids"][0].tolist() == [token for example in examples() for token in example.input_ids]
    assert batch["position_ids"][0].tolist() == [*range(9), *range(4), *range(13), *range(2), *range(7)]


def test_a_run_on_packed_batches_is_the_run_on_padded_ones():
    runs = []
    for make_batch in (partial(collate, pad_token_id=0), pack):
        model = inject(make_tiny_llama(), LoRAConfig(r=2))
        config = TrainConfig(learning_rate=1e-2, batch_size=2, epochs=4, precision="fp32")
        runs.append(
            Trainer(model, examples(), causal_lm_loss, config, collate=make_batch, progress=False).train().losses
        )
    assert runs[0][-1] < runs[0][0]
    torch.testing.assert_close(torch.tensor(runs[1]), torch.tensor(runs[0]), rtol=1e-4, atol=0)
