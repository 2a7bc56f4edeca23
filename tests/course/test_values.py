"""Every kind of number and tensor that a learner may hand over, and what is said of the rest."""

import decimal
import fractions
import math

import numpy as np
import pytest
import torch

from lora_edu.course.exercises import (
    NotAttempted,
    Wrong,
    apart,
    as_list,
    as_number,
    as_numbers,
    as_parts,
    as_tensor,
    as_truth,
    as_whole,
    close,
    named,
    same,
)

NUMBERS = [int, float, np.int64, np.float32, np.float64, np.array, torch.tensor, fractions.Fraction, decimal.Decimal]
NUMBERS += [lambda n: np.array([n]), lambda n: torch.tensor([[n]]), lambda n: torch.tensor(n, dtype=torch.float32)]


@pytest.mark.parametrize("kind", NUMBERS)
def test_a_number_of_any_kind(kind):
    assert as_number(kind(3), "it") == 3 and isinstance(as_number(kind(3), "it"), int)
    assert as_whole(kind(3), "it") == 3


@pytest.mark.parametrize("half", [0.5, np.float16(0.5), torch.tensor(0.5), fractions.Fraction(1, 2)])
def test_a_half_is_a_number_and_no_whole_one(half):
    assert as_number(half, "it") == 0.5
    with pytest.raises(Wrong) as wrong:
        as_whole(half, "it")
    assert wrong.value.bug == "not a whole number"


@pytest.mark.parametrize(
    "strange", ["3", b"3", True, np.True_, [3], (3,), {}, {3}, 3j, math.nan, math.inf, object(), np.ones(2), torch.ones(2)]
)  # fmt: skip
def test_what_is_no_number_is_named(strange):
    with pytest.raises(Wrong) as wrong:
        as_number(strange, "`f`")
    assert wrong.value.bug == "not a number" and " at 0x" not in wrong.value.detail


def test_truth_counts_as_a_number_only_where_asked():
    assert as_number(np.True_, "it", truth=True) == 1 and as_number(False, "it", truth=True) == 0
    assert (
        as_truth(np.False_, "it") is False
        and as_truth(torch.tensor(True), "it") is True
        and as_truth(1.0, "it") is True
    )
    for strange in ("True", 2, [True], object()):
        with pytest.raises(Wrong):
            as_truth(strange, "it")


@pytest.mark.parametrize("value", [..., None])
def test_what_is_left_open_is_named(value):
    for take in (as_number, as_whole, as_truth, lambda v, what: as_tensor(v, torch.ones(2), what)):
        with pytest.raises(NotAttempted) as left:
            take(value, "grad_B")
        assert left.value.args == ("grad_B",)
    with pytest.raises(NotAttempted) as left:
        as_parts((1, value), ("dial", "style"), "what `f` returns")
    assert left.value.args == ("style",)
    with pytest.raises(NotAttempted) as left:
        as_list([1, value, 2], "labels")
    assert left.value.args == ("labels[1]",)


@pytest.mark.parametrize("pair", [(1, 2), [1, 2], torch.tensor([1, 2]), np.array([1, 2])])
def test_a_pair_of_any_kind(pair):
    assert [int(part) for part in as_parts(pair, ("a", "b"), "it")] == [1, 2]
    assert as_numbers(pair, "it") == [1, 2]


@pytest.mark.parametrize("strange", ["ab", {1: 2, 3: 4}, {1, 2}, 3, (1,), (1, 2, 3), torch.tensor(1.0), np.float64(2)])
def test_what_is_no_pair_is_named(strange):
    with pytest.raises(Wrong) as wrong:
        as_parts(strange, ("a", "b"), "it")
    assert wrong.value.bug == "not a pair" and "(a, b)" in wrong.value.detail


LIKE = torch.ones(2, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    "value",
    [
        LIKE.float(), LIKE.int(), LIKE.bool(), LIKE.numpy(), LIKE.tolist(), [[1, 1, 1], [1, 1, 1]], list(LIKE), tuple(LIKE), list(LIKE.numpy()),
        torch.nn.Parameter(LIKE), LIKE.to_sparse(), [[torch.tensor(1.0)] * 3] * 2, LIKE.numpy()[::-1], LIKE.numpy().T[:, ::-1].T,
    ],
)  # fmt: skip
def test_a_tensor_of_any_kind(value):
    found = as_tensor(value, LIKE, "it")
    assert torch.equal(found, LIKE) and found.dtype == LIKE.dtype and not found.requires_grad


@pytest.mark.parametrize(
    "strange", ["text", 3, 3.0, object(), {1: 2}, [[1, 2], [3]], ["a", "b"], LIKE.to(torch.complex64), np.array("x")]
)
def test_what_is_no_tensor_is_named(strange):
    with pytest.raises(Wrong) as wrong:
        as_tensor(strange, LIKE, "it")
    assert wrong.value.bug == "not a tensor" and "(2, 3)" in wrong.value.detail
    with pytest.raises(Wrong) as wrong:
        as_tensor(LIKE.T, LIKE, "it")
    assert wrong.value.bug == "wrong shape"


def test_single_precision_is_the_same_and_one_more_is_not():
    for want in (0.6, 1 / 3, 12.3456789, 1e-3, 5e7 / 7):
        assert same(float(np.float32(want)), want) and not same(want * 1.00001, want)
    for want in (1, 1_000, 4_000_000):
        assert same(want, want) and not same(want + 1, want) and not same(want - 1, want)
    assert same(float(np.float32(331_776_001)), 331_776_001) and not same(331_776_001 + 64, 331_776_001)
    rng = torch.Generator().manual_seed(0)
    M = torch.randn(6, 5, generator=rng, dtype=torch.float64)
    assert (
        close(M.float().double(), M, 1e-9)
        and not close(M.bfloat16().double(), M, 1e-9)
        and not close(M * 1.001, M, 1e-4)
    )


def test_two_numbers_that_differ_are_never_printed_alike():
    for got, want in [(0.6000001, 0.6), (1e6 + 0.25, 1e6), (3, 4), (12_345_678, 12_345_679), (0.1 + 0.2, 0.3)]:
        one, other = apart(got, want)
        assert one != other
    assert apart(1234, 1233) == ("1,234", "1,233") and apart(0.25, 0.5) == ("0.25", "0.5")


def test_a_bug_is_named_by_the_number_it_leads_to():
    bugs = {"doubled": 1.2, "one off": (3, 5)}
    assert named(np.float32(1.2).item(), bugs, "?") == "doubled" and named(5, bugs, "?") == "one off"
    assert named(4, bugs, "?") == "?"
