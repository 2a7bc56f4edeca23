"""Chapter 07's checkers take right answers in any style, and name wrong ones beyond those of `answers_07`."""

import answers_07 as answers
import numpy as np
import pytest
import torch
from kit import ask


@pytest.mark.parametrize(
    "id, answer",
    [
        ("07.1", answers.on_A),
        ("07.1", answers.add_up_in_numpy),
        ("07.1", answers.by_svd),
        ("07.1", answers.by_svd_of_the_sum),
        ("07.1", lambda adapters: tuple(M.double().requires_grad_() for M in answers.add_up(adapters))),
        ("07.1", lambda adapters: [M.tolist() for M in answers.add_up(adapters)]),
        ("07.2", lambda *given: answers.share_lost(*given).item()),
        ("07.2", lambda *given: np.float64(answers.share_lost(*given))),
        ("07.2", lambda *given: np.asarray(answers.share_lost(*given))),
        ("07.2", lambda *given: answers.share_lost(*given).reshape(1, 1).requires_grad_()),
        ("07.2", lambda W0, d, t: float((d - ((W0 + d).to(t) - W0)).double().square().sum().sqrt() / d.norm())),
        ("07.3", answers.cut_in_numpy),
        ("07.3", answers.cut_by_eigenvalues),
        ("07.3", lambda A, B, r: [M.tolist() for M in answers.cut(A, B, r)]),
    ],
)
def test_a_right_answer_in_another_style_passes(id, answer):
    assert (result := ask(id, answer)).passed, str(result)


@pytest.mark.parametrize(
    "id, answer, bug",
    [
        ("07.1", answers.pefts_linear, "A is added to A and B to B"),
        ("07.1", answers.factor_to_factor(lambda s, w: w, lambda s, w: w), "A is added to A"),
        ("07.1", answers.factor_to_factor(lambda s, w: 1, lambda s, w: s * w, 0.5), "A is added to A"),
        ("07.1", answers.full, "the rank is too high"),
        ("07.1", lambda adapters: (*answers.add_up(adapters), 1.0), "not a pair"),
        ("07.2", lambda W0, d, t: answers.share_lost(W0, d, torch.bfloat16), "another share"),
        ("07.2", lambda W0, d, t: ((W0 + d) - W0 - d).norm() / d.norm(), "the dtype is not used"),
        ("07.2", lambda W0, d, t: ((W0 + d) - d - W0).norm() / d.norm(), "the dtype is not used"),
        ("07.2", lambda W0, d, t: 4e-6, "the dtype is not used"),  # what another order of the terms may leave
        ("07.2", lambda W0, d, t: ((W0.to(t) + d.to(t)).float() - W0 - d).norm() / d.norm(), "W₀ is rounded too"),
        ("07.2", lambda W0, d, t: (answers.change(W0, d, t) - d).norm() / (W0 + d).norm(), "measured against W₀"),
        ("07.2", lambda W0, d, t: answers.change(W0, d, t).norm() / d.norm(), "what is kept"),
        ("07.3", answers.with_full_q, "the big matrix is built"),
        ("07.3", lambda A, B, r: answers.cut(A, B, r)[::-1], "A and B are exchanged"),
        ("07.3", lambda A, B, r: B @ A, "not a pair"),
    ],
)
def test_more_wrong_answers_are_named(id, answer, bug):
    assert bug in (ask(id, answer).bug or "it passes")
