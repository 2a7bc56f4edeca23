"""The causal-LM loss asks for few logits and equals the one that asks for all."""

import functools
import threading

import pytest
import torch
import torch.nn.functional as F
from conftest import make_tiny_llama
from helpers import randomise

from lora_edu.adapters import LoRAConfig, arithmetic, fused, inject
from lora_edu.training import causal_lm_loss, losses
from lora_edu.training.memory import saved_for_backward

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


# -- in chunks ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def chunks(monkeypatch):
    """The fast path on, chunks of two rows, and a list with the rows of each chunked loss."""
    taken: list[int] = []
    apply = losses._ChunkedLoss.apply
    monkeypatch.setattr(losses, "CHUNK_BYTES", 2 * 32 * 8)
    monkeypatch.setattr(losses._ChunkedLoss, "apply", lambda *args: taken.append(len(args[0])) or apply(*args))
    with fused.switched(True):
        yield taken


def loss_and_gradients(model, batch, autocast=False):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        total, count = causal_lm_loss(model, batch)
    total.backward()
    return total.detach(), count, gradients(model)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_chunks_give_the_same_loss_and_gradients(dtype, tolerance, chunks):
    model, batch = adapted(dtype), ragged_batch()
    total, count, found = loss_and_gradients(model, batch)
    assert chunks == [count] and "forward" not in model.lm_head.__dict__
    with fused.disabled():
        plain_total, plain_count, plain = loss_and_gradients(model, batch)
    assert chunks == [count] == [plain_count] and total.dtype == plain_total.dtype
    torch.testing.assert_close(total, plain_total, rtol=tolerance, atol=0)
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance * float(value.abs().max()))


@pytest.mark.parametrize(("dtype", "autocast"), [(torch.float32, True), (torch.bfloat16, False)])
@pytest.mark.parametrize("own_bf16", [True, False])
def test_chunks_in_half_precision(dtype, autocast, own_bf16, chunks, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: own_bf16)
    monkeypatch.setattr(arithmetic, "_BLOCK", 10)
    hidden = torch.randn(9, 64, dtype=dtype, requires_grad=True)
    W, targets = torch.randn(32, 64, dtype=dtype) / 8, torch.randint(0, 32, (9,))
    total = losses._ChunkedLoss.apply(hidden, W, targets, torch.bfloat16 if autocast else None)
    (gradient,) = torch.autograd.grad(total, hidden)
    exact = hidden.detach().double().requires_grad_(True)
    loss = F.cross_entropy(exact @ W.double().T, targets, reduction="sum")
    loss.backward()
    assert total.dtype == torch.float32 and gradient.dtype == dtype
    torch.testing.assert_close(total.double(), loss, rtol=1e-2, atol=0)
    assert (gradient.double() - exact.grad).norm() < 1e-2 * exact.grad.norm()


def test_chunks_keep_no_logits(chunks):
    head = torch.nn.Linear(16, 32, bias=False).requires_grad_(False)
    hidden, targets = torch.randn(11, 16, requires_grad=True), torch.zeros(11, dtype=torch.int64)
    with saved_for_backward(head) as saved:
        losses._ChunkedLoss.apply(hidden, head.weight, targets, None)
    assert saved.total == 11 * (2 * 16 * 4 + 8)
    with saved_for_backward(head) as plain:
        F.cross_entropy(head(hidden), targets, reduction="sum")
    assert plain.total >= 11 * 32 * 4


def test_the_gradient_of_the_chunked_loss_has_a_gradient(chunks):
    W, targets = torch.randn(32, 4, dtype=torch.float64), torch.tensor([1, 5, 31])
    hidden = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(losses._ChunkedLoss.apply, (hidden, W, targets, None))
    assert torch.autograd.gradgradcheck(losses._ChunkedLoss.apply, (hidden, W, targets, None))


def test_no_answer_token_is_no_chunk_to_stumble_over(chunks):
    batch = ragged_batch()
    batch["labels"][:] = -100
    total, count, found = loss_and_gradients(adapted(), batch)
    assert total == 0 and count == 0 and all(grad.abs().max() == 0 for grad in found.values()) and chunks == [0]


def gemma2():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.5)  # fmt: skip
    return inject(Gemma2ForCausalLM(config), LoRAConfig(r=2))


def hooked_head():
    model = adapted()
    model.lm_head.register_forward_hook(lambda module, args, output: output / 2)
    return model


def adapted_head():
    return inject(make_tiny_llama(dtype=torch.float64), LoRAConfig(r=2, target_modules=["q_proj", "lm_head"]))


def with_bias():
    model = adapted()
    model.lm_head = torch.nn.Linear(16, 32, dtype=torch.float64).requires_grad_(False)
    return model


PLAIN = {
    "logits are capped": gemma2,
    "a hook on the head": hooked_head,
    "the head has an adapter": adapted_head,
    "the head has a bias": with_bias,
    "full fine-tuning": lambda: make_tiny_llama(dtype=torch.float64),
    "the forward cannot be asked for a few positions": lambda: NoKeep(adapted()),
}


@pytest.mark.parametrize("situation", PLAIN)
def test_where_logits_are_not_made_in_chunks(situation, chunks):
    model, batch = PLAIN[situation](), ragged_batch()
    total, _, _ = loss_and_gradients(model, batch)
    with fused.disabled():
        plain, _, _ = loss_and_gradients(model, batch)
    assert not chunks
    torch.testing.assert_close(total, plain, rtol=1e-6, atol=0)


def test_a_wrapper_put_around_the_forward_later_is_seen(chunks, monkeypatch):
    model, batch = adapted(), ragged_batch()
    causal_lm_loss(model, batch)
    assert chunks == [10]
    forward = type(model).forward

    @functools.wraps(forward)
    def capped(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.logits = output.logits.tanh()
        return output

    monkeypatch.setattr(type(model), "forward", capped)
    total = causal_lm_loss(model, batch).total
    assert chunks == [10]
    with fused.disabled():
        torch.testing.assert_close(total, causal_lm_loss(model, batch).total)


def test_without_gradients_and_after_an_error_the_head_is_itself(chunks):
    model, batch = adapted(), ragged_batch()
    with torch.no_grad():
        causal_lm_loss(model, batch)
    assert not chunks
    with pytest.raises(IndexError):
        causal_lm_loss(model, batch | {"input_ids": batch["input_ids"] + 32})
    assert "forward" not in model.lm_head.__dict__ and model(batch["input_ids"]).logits.shape[-1] == 32


def test_another_thread_hears_the_head_while_this_one_trains(chunks):
    """The second thread asks for logits, and takes a loss of its own, exactly while the head is silent in the first."""
    model, batch = adapted(), ragged_batch()
    with torch.no_grad():
        expected = model(batch["input_ids"]).logits
    total, _, gradient = loss_and_gradients(model, batch)
    found: dict[str, torch.Tensor] = {}

    def ask() -> None:
        with torch.no_grad():
            found["logits"] = model(batch["input_ids"]).logits
        found["loss"] = causal_lm_loss(model, batch).total.detach()
        found["head"] = losses.bare_head(model) is model.lm_head

    asked: list[threading.Thread] = []

    def on_the_way(module, args, output) -> None:  # the first thread stands just before the head
        if not asked:
            asked.append(threading.Thread(target=ask))
            asked[0].start()
            asked[0].join()

    handle = model.model.norm.register_forward_hook(on_the_way)
    again, _, same = loss_and_gradients(model, batch)
    handle.remove()
    assert torch.equal(found["logits"], expected) and torch.equal(found["loss"], total) and found["head"]
    assert torch.equal(again, total) and all(torch.equal(same[name], value) for name, value in gradient.items())
    assert chunks == [10, 10, 10] and "forward" not in model.lm_head.__dict__


def test_many_threads_leave_the_head_as_it_was(chunks):
    model, batch = adapted(), ragged_batch()
    total = causal_lm_loss(model, batch).total.detach()
    with torch.no_grad():
        logits = model(batch["input_ids"]).logits
    faults: list[str] = []

    def train() -> None:
        for _ in range(15):
            if not torch.equal(causal_lm_loss(model, batch).total, total):
                faults.append("loss")

    def ask() -> None:
        for _ in range(15):
            with torch.no_grad():
                if not torch.equal(model(batch["input_ids"]).logits, logits):
                    faults.append("logits")

    threads = [threading.Thread(target=work) for work in (train, ask, train, ask)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults and "forward" not in model.lm_head.__dict__ and set(chunks) == {10}


def test_replicas_in_threads_of_their_own_take_the_plain_way(chunks):
    model = adapted()
    assert losses.bare_head(model) is model.lm_head
    assert losses.bare_head(torch.nn.DataParallel(model)) is None
