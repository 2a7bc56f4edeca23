"""Chapter 05's checkers take right answers in any style, and tell what is wrong before anything else."""

import math

import numpy as np
import torch
from answers_05 import (
    accumulate,
    counts_first,
    keeps_the_running_sum,
    pad_batch,
    shifted_labels,
    train_by_hand,
    two_passes,
)
from kit import ask


def test_a_right_answer_in_another_style_passes():
    def tensor(ids, p):
        return torch.tensor(shifted_labels(ids, p))

    for made in (tensor, lambda ids, p: list(tensor(ids, p)), lambda ids, p: tensor(ids, p).numpy()):
        assert ask("05.1", made).passed
    assert ask("05.1", lambda ids, p: [np.int64(label) for label in shifted_labels(ids, p)]).passed
    assert ask("05.2", lambda *given: np.array(train_by_hand(*given))).passed
    for number in (np.float32, np.float64, torch.tensor, lambda mean: torch.tensor(mean, requires_grad=True)):
        assert ask("05.3", lambda *given, number=number: number(accumulate(*given))).passed
    assert ask("05.3", two_passes).passed
    assert ask("05.3", counts_first).passed
    assert ask("05.4", lambda r, p, pad: [t.tolist() for t in pad_batch(r, p, pad)]).passed
    assert ask("05.4", lambda r, p, pad: tuple(t.numpy() for t in pad_batch(r, p, pad))).passed


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
