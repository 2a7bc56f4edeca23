"""Chapter 01's checkers take right answers in any style, and refuse a wrong one under its own name on any random inputs."""

import answers_01 as answers
import numpy as np
import pytest
import torch
from kit import ask


@pytest.mark.parametrize("kind", [int, float, np.int64, np.float32, torch.tensor, lambda n: torch.tensor([n])])
def test_a_number_of_any_kind_passes(kind):
    assert ask("01.1", {name: kind(rank) for name, rank in answers.RIGHT.items()}).passed
    assert ask("01.3", lambda b, a: kind(answers.changed(b, a))).passed
    assert ask("01.5", lambda *given: (kind(answers.rank_for(*given)[0]), answers.rank_for(*given)[1])).passed


@pytest.mark.parametrize(
    "count", [np.count_nonzero, torch.count_nonzero, lambda M: (M != 0).sum(), lambda M: len(M.nonzero())]
)
def test_entries_may_be_counted_in_the_whole_matrix(count):
    assert ask("01.3", lambda b, a: count(torch.outer(b, a))).passed


def test_entries_lost_by_rounding_are_named():
    said = ask("01.3", lambda b, a: (torch.ones(len(b), len(a)) + torch.outer(b, a) != 1).sum())
    assert "rounding" in said.bug
    for slack in (1e-3, 1e-5, 1e-8):
        wrong = ask("01.3", lambda b, a, slack=slack: (torch.outer(b, a).abs() > slack).sum())
        assert "small numbers taken for zeros" in wrong.bug


@pytest.mark.parametrize("kind", [torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.double])
def test_a_matrix_of_any_kind_passes(kind):
    assert ask("01.2", lambda *given: kind(answers.edit(*given))).passed
    assert ask("01.4", lambda M, r: [*map(kind, answers.cut(M, r)[:2]), answers.cut(M, r)[2]]).passed


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_singular_values_may_go_into_either_factor(power):
    def cut(M, r):
        U, S, Vh = torch.linalg.svd(M)
        B, A = U[:, :r] * S[:r] ** power, S[:r, None] ** (1 - power) * Vh[:r]
        return B, A, (M - B @ A).norm() / M.norm()

    assert ask("01.4", cut).passed


def test_factors_of_another_basis_pass():
    def cut(M, r):
        B, A, error = answers.cut(M, r)
        turn = torch.linalg.qr(torch.randn(r, r, generator=torch.Generator().manual_seed(0))).Q
        return B @ turn, turn.T @ A, np.float32(error)

    assert ask("01.4", cut).passed


@pytest.mark.parametrize("most", [max, lambda m, n: m, lambda m, n: n])
def test_a_rank_capped_at_the_wrong_side_is_named(most):
    wrong = answers.with_rank(lambda m, n, budget: min(budget // (4 * (m + n)), most(m, n)))
    assert "more directions than the matrix has" in ask("01.5", wrong).bug
