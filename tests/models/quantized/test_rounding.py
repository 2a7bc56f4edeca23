"""Codebooks, rounding, packing and double quantisation, bit for bit against bitsandbytes on the CPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_edu.errors import ConfigError
from lora_edu.models.quantized import (
    CODEBOOKS,
    RUNGS,
    dequantize_blockwise,
    dequantize_rows,
    double_dequantize,
    double_quantize,
    dynamic8,
    nearest,
    nf4,
    pack_codes,
    quantize_blockwise,
    quantize_rows,
    unpack_codes,
)

# As QLoRA's paper prints them in its appendix E.
PUBLISHED = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(scope="module")
def theirs():
    return pytest.importorskip("bitsandbytes").functional


def weights(shape, dtype=torch.float32, seed=0, std=0.05):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std).to(dtype)


def test_nf4_is_the_published_list():
    assert nf4().tolist() == torch.tensor(PUBLISHED).tolist()


def test_the_codebooks_are_theirs(theirs):
    assert torch.equal(nf4(), theirs.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(dynamic8(), theirs.create_dynamic_map())


def test_both_codebooks_have_zero_at_one_place_and_are_sorted():
    for made in CODEBOOKS.values():
        assert made()[7] == 0 and made()[0] == -1 and made()[-1] == 1
        assert bool((made().diff() > 0).all())


def edge_cases():
    """Midpoints, the floats beside them, ±absmax, zeros and denormal numbers: where two ways to round part first."""
    middle = (nf4()[1:] + nf4()[:-1]) / 2
    beside = [middle, torch.nextafter(middle, torch.tensor(9.0)), torch.nextafter(middle, torch.tensor(-9.0))]
    return torch.cat([torch.tensor([1.0, -1.0, 0.0, -0.0, 1e-42, -1e-42]), *beside])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block", [32, 64, 256])
@pytest.mark.parametrize(
    "x",
    [weights((40, 64)), weights((7, 9)), weights((13, 33)), weights(1), edge_cases(), 1e-4 * edge_cases(), 0.7 * edge_cases()],
    ids=["whole", "odd", "partial", "one", "edges", "tiny", "scaled"],
)  # fmt: skip
def test_nf4_is_theirs_bit_for_bit(theirs, x, block, dtype):
    x = x.to(dtype)
    packed, state = theirs.quantize_4bit(x, blocksize=block, quant_type="nf4")
    codes, absmax = quantize_blockwise(x, nf4(), block)
    assert torch.equal(pack_codes(codes), packed.view(-1))
    assert torch.equal(absmax, state.absmax)
    dense = dequantize_blockwise(codes, absmax, nf4(), block).view(x.shape).to(dtype)
    assert torch.equal(dense, theirs.dequantize_4bit(packed, state).view(x.shape))


@pytest.mark.parametrize("n", [128, 130])
def test_blocks_of_zeros(theirs, n):
    """Theirs divides a short last block by 1e-38 and keeps that as its scale; ours keeps 0. The codes and the numbers are the same."""
    packed, state = theirs.quantize_4bit(torch.zeros(n), blocksize=64, quant_type="nf4")
    codes, absmax = quantize_blockwise(torch.zeros(n), nf4(), 64)
    assert torch.equal(pack_codes(codes), packed.view(-1)) and set(codes.tolist()) == {7}
    assert not absmax.any() and float(state.absmax.max()) <= 1.1e-38
    assert not dequantize_blockwise(codes, absmax, nf4(), 64).any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block", [64, 256, 4096])
@pytest.mark.parametrize("shape", [(64, 64), (7, 9), (130, 33)], ids=str)
def test_eight_bits_are_theirs_bit_for_bit(theirs, shape, block, dtype):
    x = weights(shape, dtype, seed=2)
    theirs_codes, state = theirs.quantize_blockwise(x, blocksize=block)
    codes, absmax = quantize_blockwise(x, dynamic8(), block, RUNGS)
    assert torch.equal(codes.view(shape), theirs_codes) and torch.equal(absmax, state.absmax)
    dense = dequantize_blockwise(codes, absmax, dynamic8(), block).view(shape).to(dtype)
    assert torch.equal(dense, theirs.dequantize_blockwise(theirs_codes, state))


def test_eight_bits_without_rungs_are_nearer_and_differ_only_beside_midpoints(theirs):
    x = weights(100_000, seed=3)
    rough, absmax = quantize_blockwise(x, dynamic8(), 256, RUNGS)
    exact, _ = quantize_blockwise(x, dynamic8(), 256)
    off = [(dequantize_blockwise(codes, absmax, dynamic8(), 256) - x).abs() for codes in (rough, exact)]
    assert 0 < (rough != exact).float().mean() < 0.003
    assert bool((off[1] <= off[0]).all()) and float(off[0].sum() / off[1].sum()) < 1.00001
    assert torch.equal(theirs.quantize_blockwise(x, blocksize=256)[0], rough)


@pytest.mark.parametrize("shape", [(64, 300), (128, 128), (9, 33), (300, 311)], ids=str)
def test_double_quantisation_is_theirs_bit_for_bit(theirs, shape):
    x = weights(shape, seed=4)
    packed, state = theirs.quantize_4bit(x, blocksize=64, quant_type="nf4", compress_statistics=True)
    codes, absmax = quantize_blockwise(x, nf4(), 64)
    scales = double_quantize(absmax, RUNGS)
    assert torch.equal(scales.codes, state.absmax) and torch.equal(scales.offset, state.offset)
    assert torch.equal(scales.absmax, state.state2.absmax)
    dense = dequantize_blockwise(codes, double_dequantize(scales), nf4(), 64).view(shape)
    assert torch.equal(dense, theirs.dequantize_4bit(packed, state))


def test_one_scale_alone_is_its_own_mean():
    """Behind it nothing is left, so the code does not matter (theirs writes 0, ours that of 0), and the scale comes back exactly."""
    scales = double_quantize(torch.tensor([0.25]))
    assert scales.absmax.tolist() == [0.0] and double_dequantize(scales).tolist() == [0.25]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_rows_of_eight_bits_are_theirs(theirs, dtype):
    x = weights((33, 65), dtype, seed=5)
    theirs_codes, theirs_absmax, _ = theirs.int8_vectorwise_quant(x.clone())
    codes, absmax = quantize_rows(x)
    assert torch.equal(codes, theirs_codes) and torch.equal(absmax, theirs_absmax)
    half_a_step = absmax[:, None] / 254
    assert bool(((dequantize_rows(codes, absmax) - x.float()).abs() <= half_a_step * 1.0001).all())
    assert not quantize_rows(torch.zeros(2, 3))[0].any()


# -- properties that need no reference ---------------------------------------------------------------------------------
@given(st.lists(st.integers(0, 15), max_size=40))
def test_packing_gives_back_what_was_packed(codes):
    given_codes = torch.tensor(codes, dtype=torch.uint8)
    packed = pack_codes(given_codes)
    assert packed.numel() == (len(codes) + 1) // 2
    assert unpack_codes(packed, len(codes)).tolist() == codes


def test_the_even_place_is_the_high_half():
    assert pack_codes(torch.tensor([1, 2, 3], dtype=torch.uint8)).tolist() == [0x12, 0x37]


@settings(deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=70),
    st.integers(1, 80),
    st.sampled_from(sorted(CODEBOOKS)),
)
def test_every_number_gets_the_nearest_code_whatever_the_block(numbers, block, kind):
    x, book = torch.tensor(numbers), CODEBOOKS[kind]()
    codes, absmax = quantize_blockwise(x, book, block)
    assert absmax.tolist() == [float(part.abs().max()) for part in x.split(block)]
    back = dequantize_blockwise(codes, absmax, book, block)
    each = absmax.repeat_interleave(block)[: len(numbers)]
    best = (book.double()[None] * each[:, None].double() - x[:, None].double()).abs().min(dim=1).values
    slack = 1e-6 * each.double() + 1e-37
    assert bool(((back.double() - x.double()).abs() <= best + slack).all())


def test_rounding_twice_changes_nothing_more():
    """On the numbers that four bits can hold the error is 0: what is rounded lies on its own grid."""
    for made in CODEBOOKS.values():
        codes, absmax = quantize_blockwise(weights((32, 64)), made(), 64)
        again, absmax_again = quantize_blockwise(dequantize_blockwise(codes, absmax, made(), 64), made(), 64)
        assert torch.equal(codes, again) and torch.equal(absmax, absmax_again)


def test_the_error_on_gaussian_weights():
    """9.2 % of the weights' size for NF4 and 10.7 % for INT4, in blocks of 64."""
    x = weights((512, 512), seed=6)
    for kind, expected in (("nf4", 0.092), ("int4", 0.107)):
        codes, absmax = quantize_blockwise(x, CODEBOOKS[kind](), 64)
        error = dequantize_blockwise(codes, absmax, CODEBOOKS[kind](), 64) - x.view(-1)
        assert float(error.norm() / x.norm()) == pytest.approx(expected, abs=0.001)


def test_ties_go_down():
    assert nearest((nf4()[1:] + nf4()[:-1]) / 2, nf4()).tolist() == list(range(15))


@pytest.mark.parametrize("block", [0, -1, 1.5, True, "64"])
def test_a_block_size_that_is_none(block):
    with pytest.raises(ConfigError, match="block_size"):
        quantize_blockwise(torch.ones(4), nf4(), block)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(bad):
    with pytest.raises(ConfigError, match="not finite"):
        quantize_blockwise(torch.tensor([1.0, bad, 2.0]), nf4(), 2)
