"""The causal-LM loss asks for few logits and equals the one that asks for all."""

import pytest
import torch
import torch.nn.functional as F
from conftest import make_tiny_llama
from helpers import randomise

from lora_edu.adapters import inject
from lora_edu.config import LoRAConfig
from lora_edu.losses import causal_lm_loss

PAD = 0


def ragged_batch(seed: int = 0) -> dict[str, torch.Tensor]:
    """Three rows of 9, 7 and 5 tokens with prompts of 4, 5 and 2: the answers' positions overlap in part."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((3, 9), PAD)
    labels = torch.full((3, 9), -100)
    for row, (length, prompt) in enumerate([(9, 4), (7, 5), (5, 2)]):
        ids[row, :length] = torch.randint(1, 32, (length,), generator=generator)
        labels[row, prompt:length] = ids[row, prompt:length]
    return {"input_ids": ids, "labels": labels, "attention_mask": (ids != PAD).long()}


def adapted(dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    return randomise(inject(make_tiny_llama(dtype=dtype), LoRAConfig(r=2, target_modules="all-linear")))


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return grads


def full_loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return F.cross_entropy(logits[:, :-1].reshape(-1, 32), batch["labels"][:, 1:].reshape(-1), reduction="sum")


class NoKeep(torch.nn.Module):
    """A model whose forward cannot be asked for a few positions."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids, attention_mask):
        return self.inner(input_ids=input_ids, attention_mask=attention_mask)


@pytest.mark.parametrize("wrap", [lambda model: model, NoKeep], ids=["logits_to_keep", "full logits"])
def test_equals_cross_entropy_of_all_logits(wrap):
    model, batch = adapted(), ragged_batch()
    expected = full_loss(model, batch)
    expected.backward()
    expected_grads = gradients(model)
    total, count = causal_lm_loss(wrap(model), batch)
    total.backward()
    grads = gradients(model)
    assert count == (9 - 4) + (7 - 5) + (5 - 2)
    torch.testing.assert_close(total, expected, rtol=1e-13, atol=0)
    assert grads.keys() == expected_grads.keys() and len(grads) == 2 * 7 * 2
    for name, grad in grads.items():
        assert grad.abs().max() > 1e-4, f"{name}: this comparison would hold trivially"
        torch.testing.assert_close(grad, expected_grads[name], rtol=1e-11, atol=1e-13)


def test_asks_for_the_union_of_predicting_positions_only():
    model, batch = adapted(), ragged_batch()
    seen = []
    model.lm_head.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    causal_lm_loss(model, batch)
    # answers stand at 4..8, 5..6 and 2..4; they are predicted one earlier: 3..7, 4..5, 1..3, together 1..7
    assert seen == [(3, 7, 16)]


def test_a_label_on_the_first_token_is_not_learnt():
    model, batch = adapted(), ragged_batch()
    before = causal_lm_loss(model, batch)
    batch["labels"][:, 0] = batch["input_ids"][:, 0]  # nothing comes before it that could predict it
    after = causal_lm_loss(model, batch)
    assert after.count == before.count and after.total == before.total


def test_a_batch_without_answers_is_zero_and_keeps_its_graph():
    model, batch = adapted(), ragged_batch()
    batch["labels"][:] = -100
    total, count = causal_lm_loss(model, batch)
    total.backward()
    assert (total.item(), count) == (0.0, 0)
    assert all(not grad.any() for grad in gradients(model).values())


def test_half_precision_logits_are_summed_in_fp32():
    model, batch = adapted(torch.float32).bfloat16(), ragged_batch()
    loss = causal_lm_loss(model, batch)
    assert loss.total.dtype == torch.float32
    assert loss.mean == pytest.approx(loss.total.item() / 10)


def test_no_key_value_cache_is_built():
    model, batch = adapted(), ragged_batch()
    outputs = []
    model.register_forward_hook(lambda module, args, output: outputs.append(output))
    causal_lm_loss(model, batch)
    assert outputs[0].past_key_values is None
