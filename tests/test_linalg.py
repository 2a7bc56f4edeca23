"""Eckart–Young, energy, ranks, thin products and angles."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_edu import linalg


def matrix(m, n, seed=0):
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(m=st.integers(1, 12), n=st.integers(1, 12), seed=st.integers(0, 99), data=st.data())
def test_truncation_error_is_what_eckart_young_says_and_no_other_matrix_of_that_rank_is_nearer(m, n, seed, data):
    M = matrix(m, n, seed)
    r = data.draw(st.integers(0, min(m, n)))
    S = torch.linalg.svdvals(M)
    error = torch.linalg.norm(M - linalg.low_rank(M, r)) / torch.linalg.norm(M)
    assert math.isclose(error, linalg.eckart_young_error(S, r), abs_tol=1e-10)
    if r:
        rival = matrix(m, r, seed + 1) @ matrix(r, n, seed + 2)
        rival *= (M * rival).sum() / rival.square().sum()  # at its best length
        assert torch.linalg.norm(M - rival) >= torch.linalg.norm(M - linalg.low_rank(M, r)) - 1e-9


def test_energy_effective_rank_and_numerical_rank():
    S = torch.tensor([3.0, 2.0, 1.0, 0.0])  # squares 9, 4, 1, 0 of 14
    torch.testing.assert_close(linalg.energy(S), torch.tensor([9, 13, 14, 14], dtype=torch.float64) / 14)
    assert [linalg.effective_rank(S, share) for share in (0.5, 0.9, 0.95, 1.0)] == [1, 2, 3, 3]
    assert linalg.effective_rank(torch.zeros(3)) == 0
    product = matrix(20, 3) @ matrix(3, 15, 1)
    assert linalg.numerical_rank(torch.linalg.svdvals(product), (20, 15)) == 3


def test_svd_of_a_thin_product_equals_the_svd_of_the_whole():
    B, A = matrix(30, 4), matrix(4, 20, 1)
    U, S, Vh = linalg.svd_of_product(B, A, 3)
    torch.testing.assert_close(S, torch.linalg.svdvals(B @ A)[:3])
    torch.testing.assert_close((U * S) @ Vh, linalg.low_rank(B @ A, 3))


@pytest.mark.parametrize("decay", [1.0, 0.999, 0.9])
def test_subspace_iteration_is_near_the_best_even_where_the_spectrum_hardly_falls(decay):
    U, V = (torch.linalg.qr(matrix(n, 200, n))[0] for n in (300, 250))
    S = decay ** torch.arange(200, dtype=torch.float64)
    M = (U * S) @ V.T
    left, values, right = linalg.leading_svd(M, 6)
    torch.testing.assert_close(left.T @ left, torch.eye(6, dtype=torch.float64))
    held, best = values.square().sum() / S.square().sum(), S[:6].square().sum() / S.square().sum()
    error = (M - (left * values) @ right).square().sum() / S.square().sum()
    assert float(error) == pytest.approx(1 - float(held), abs=1e-12)  # what it says of itself is so
    assert (0.999 if decay < 0.95 else 0.9) * best < held <= best + 1e-12
    again = linalg.leading_svd(M, 6)
    assert torch.equal(again[1], values)


def test_norms_and_inner_products_of_thin_products_are_those_of_the_whole():
    B1, A1, B2, A2 = matrix(30, 4), matrix(4, 20, 1), matrix(30, 3, 2), matrix(3, 20, 3)
    assert linalg.norm_of_product(B1, A1) == pytest.approx(float(torch.linalg.norm(B1 @ A1)))
    assert linalg.inner_of_products(B1, A1, B2, A2) == pytest.approx(float(((B1 @ A1) * (B2 @ A2)).sum()))
    nearly = B1 + 1e-9 * matrix(30, 4, 5)  # a distance far below the norms, which their difference would lose
    stacked = torch.cat([nearly, -B1], dim=1), torch.cat([A1, A1])
    assert linalg.norm_of_product(*stacked) == pytest.approx(float(torch.linalg.norm((nearly - B1) @ A1)), rel=1e-5)


def test_columns_that_depend_on_others_span_nothing_of_their_own():
    e = torch.eye(4)
    twice = torch.stack([e[0], 2 * e[0], torch.zeros(4)], dim=1)
    torch.testing.assert_close(linalg.principal_angles(twice, e[:, 1:3]), torch.tensor([90.0]).double())
    assert len(linalg.principal_angles(torch.zeros(4, 2), e)) == 0
    assert float(linalg.principal_angles(e[:, :2], e[:, :2]).max()) < 1e-5  # in float32 the arc cosine would say 0.02


def test_half_precision_is_computed_in_float32():
    assert linalg.truncated_svd(matrix(4, 4).bfloat16())[1].dtype == torch.float32


def test_principal_angles_of_known_planes():
    e = torch.eye(3, dtype=torch.float64)
    turned = torch.stack([e[0], math.cos(math.radians(30)) * e[1] + math.sin(math.radians(30)) * e[2]], dim=1)
    torch.testing.assert_close(
        linalg.principal_angles(e[:, :2], turned), torch.tensor([0.0, 30.0]).double(), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: linalg.low_rank(torch.zeros(2, 3, 4), 1), "shape"),
        (lambda: linalg.low_rank(torch.zeros(2, 3), 3), "rank 3"),
        (lambda: linalg.effective_rank(torch.ones(3), 1.5), "share 1.5"),
        (lambda: linalg.principal_angles(torch.zeros(3, 1), torch.zeros(4, 1)), "same space"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
