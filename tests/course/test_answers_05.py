"""Chapter 05's checkers take right answers in any style, and tell what is wrong before anything else."""

import math

import numpy as np
import pytest
import torch
from answers_05 import (
    accumulate,
    counts_first,
    keeps_the_running_sum,
    loop,
    pad_batch,
    shifted_labels,
    train_by_hand,
    two_passes,
)
from kit import ask

from lora_edu.adapters import lora_layers


def test_a_right_answer_in_another_style_passes():
    def tensor(ids, p):
        return torch.tensor(shifted_labels(ids, p))

    def one_by_one(ids, p):
        yield from shifted_labels(ids, p)

    others = (
        lambda ids, p: list(tensor(ids, p)),
        lambda ids, p: tensor(ids, p).numpy(),
        lambda ids, p: tensor(ids, p)[None],
    )
    for made in (tensor, one_by_one, *others):
        assert ask("05.1", made).passed
    assert ask("05.1", lambda ids, p: [np.int64(label) for label in shifted_labels(ids, p)]).passed
    assert ask("05.2", lambda *given: np.array(train_by_hand(*given))).passed
    for number in (np.float32, np.float64, torch.tensor, lambda mean: torch.tensor(mean, requires_grad=True)):
        assert ask("05.3", lambda *given, number=number: number(accumulate(*given))).passed
    assert ask("05.3", two_passes).passed
    assert ask("05.3", counts_first).passed
    assert ask("05.4", lambda r, p, pad: [t.tolist() for t in pad_batch(r, p, pad)]).passed
    names = ("input_ids", "attention_mask", "labels")
    assert ask("05.4", lambda r, p, pad: dict(zip(names, pad_batch(r, p, pad)))).passed
    assert ask("05.4", lambda r, p, pad: tuple(t.numpy() for t in pad_batch(r, p, pad))).passed


def on_the_device(model, batches):
    return [{name: tensor.to(model.device) for name, tensor in batch.items()} for batch in batches]


CHOICES = {
    "what requires a gradient": lambda model: [p for p in model.parameters() if p.requires_grad],
    "by name": lambda model: [p for name, p in model.named_parameters() if "lora_" in name],
    "by layer": lambda model: [p for layer in lora_layers(model).values() for p in (layer.A, layer.B)],
    "by factor": lambda model: [p for layer in lora_layers(model).values() for f in layer.factors for p in f.values()],
    "a filter": lambda model: filter(lambda p: p.requires_grad, model.parameters()),
    "groups": lambda model: [{"params": [p]} for p in model.parameters() if p.requires_grad],
}


@pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)
def test_what_the_page_teaches_is_accepted(choose):
    def train(model, batches, loss_sum, lr):
        optimizer = torch.optim.AdamW(choose(model), lr=lr, weight_decay=0)
        for batch in on_the_device(model, batches):
            optimizer.zero_grad()
            total, count = loss_sum(model, batch)
            (total / count).backward()
            optimizer.step()
            yield total.item() / count

    assert (found := ask("05.2", train)).passed, str(found)


def test_a_loop_may_move_its_batches_and_divide_what_is_in_the_adapter():
    def accumulates(model, micro_batches, loss_sum):
        total, count = 0.0, 0
        for batch in on_the_device(model, micro_batches):
            loss, tokens = loss_sum(model, batch)
            loss.backward()
            total, count = total + loss.item(), count + tokens
        for layer in lora_layers(model).values():
            layer.A.grad.div_(count)
            layer.B.grad.div_(count)
        return total / count

    assert (found := ask("05.3", accumulates)).passed, str(found)


def test_a_loss_that_is_turned_into_a_number_at_the_end_holds_no_memory_and_passes():
    """`backward()` has freed what its graph kept; only `retain_graph` or a missing `backward()` would hold it."""
    assert (found := ask("05.2", loop(item=False, returned=lambda losses: [x.item() for x in losses]))).passed, str(
        found
    )
    assert (
        ask("05.2", loop(retain=True, item=False, returned=lambda losses: [x.item() for x in losses])).bug
        == "every graph is kept"
    )


@pytest.mark.parametrize("fixed", [0, 1, 2, 3, 50256])
def test_a_padding_token_that_is_written_down_is_caught(fixed):
    found = ask("05.4", lambda rows, prompts, pad: pad_batch(rows, prompts, fixed))
    assert found.bug == "the padding is not the token that was given", str(found)


def test_an_optimiser_for_each_factor_is_the_same_run():
    def two(model, batches, loss_sum, lr):
        optimizers = [torch.optim.AdamW([p], lr=lr, weight_decay=0) for p in model.parameters() if p.requires_grad]
        losses = []
        for batch in batches:
            total, count = loss_sum(model, batch)
            (total / count).backward()
            for optimizer in optimizers:
                optimizer.step()
            model.zero_grad()
            losses.append(total.item() / count)
        return losses

    assert (found := ask("05.2", two)).passed, str(found)


def test_a_step_may_be_given_a_closure():
    def with_closure(model, batches, loss_sum, lr):
        weights, losses = [p for p in model.parameters() if p.requires_grad], []
        optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0)
        for batch in batches:

            def closure(batch=batch):
                optimizer.zero_grad()
                total, count = loss_sum(model, batch)
                (total / count).backward()
                losses.append(total.item() / count)
                return total

            optimizer.step(closure)
        return losses

    assert (found := ask("05.2", with_closure)).passed, str(found)


def test_gradients_that_are_kept_now_and_then_are_named_too():
    def now_and_then(model, batches, loss_sum, lr):
        weights, losses = [p for p in model.parameters() if p.requires_grad], []
        optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0)
        for i, batch in enumerate(batches):
            total, count = loss_sum(model, batch)
            (total / count).backward()
            optimizer.step()
            losses.append(total.item() / count)
            if i % 2:
                optimizer.zero_grad()
        return losses

    assert ask("05.2", now_and_then).bug == "the old gradients are kept"


def test_no_message_shows_an_address():
    for id in ("05.2", "05.3"):
        said = ask(id, lambda *given: 1 / 0).message
        assert " at 0x" not in said and "loss_sum" in said, said


def test_a_running_sum_keeps_every_graph_too():
    assert ask("05.3", keeps_the_running_sum).bug == "every graph is kept"


def test_a_loss_that_is_no_number_is_none():
    for number in (math.nan, math.inf, True, "2.3"):
        assert ask("05.3", lambda *given, number=number: (accumulate(*given), number)[1]).bug == "no loss is returned"


def test_an_error_is_told_before_the_arguments_and_briefly():
    def divides_all(model, micro_batches, loss_sum):
        accumulate(model, micro_batches, loss_sum)
        for p in model.parameters():
            p.grad /= 2

    said = ask("05.3", divides_all).message
    assert "A frozen parameter has no gradient" in said and "tensor(" not in said
    for id, nothing in (("05.2", lambda *given: print(end="")), ("05.3", lambda *given: print(end=""))):
        said = ask(id, nothing).message
        assert said.index("is a `return` missing") < said.index("called with") and len(said) < 250, said
