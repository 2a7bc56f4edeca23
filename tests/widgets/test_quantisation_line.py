"""The quantisation line of chapter 11: what it says an outlier spoils, and what smaller blocks cost."""

import pytest
import torch

from lora_edu.errors import DataError
from lora_edu.plots.primitives import Text
from lora_edu.widgets.quantisation import PLACE, QuantisationLine


def at(block=64, outlier=1, kind="NF4"):
    widget = QuantisationLine()
    widget.controls["kind"].value, widget.controls["block"].value = kind, block
    widget.controls["outlier"].value = outlier
    return widget, widget._result()


def test_an_outlier_spoils_its_own_block_and_no_other():
    (_, plain), (_, spoilt) = at(), at(outlier=32)
    assert float(spoilt.weights[PLACE]) == pytest.approx(32 * float(plain.weights.square().mean().sqrt()))
    assert spoilt.by_block[0] > 3 * plain.by_block[0]
    assert torch.equal(spoilt.by_block[1:], plain.by_block[1:])
    assert len(set(spoilt.codes[:64].tolist())) < len(set(plain.codes[:64].tolist()))


def test_smaller_blocks_save_the_others_and_cost_bits():
    found = [at(block, outlier=32)[1] for block in (256, 64, 16)]
    errors, bits = [each.error for each in found], [each.bits for each in found]
    assert errors[0] > errors[1] > errors[2]
    assert bits == [4 + 32 / 256, 4.5, 6.0]


def test_without_an_outlier_nf4_is_nearer_than_int4():
    assert at()[1].error < at(kind="INT4")[1].error


@pytest.mark.parametrize("block", [8, 64, 256])
@pytest.mark.parametrize("outlier", [1, 64])
def test_what_is_drawn_is_what_was_computed(block, outlier):
    widget, result = at(block, outlier)
    texts = [item.text for item in widget.canvas().items if isinstance(item, Text)]
    used = len(set(result.codes[:block].tolist()))
    assert f"{used} of 16 used" in texts
    assert f"{used} of them are used" in widget.canvas().alt and f"blocks of {block}" in widget.canvas().alt


def test_weights_of_ones_own():
    own = torch.linspace(-1, 1, 300)
    assert torch.equal(QuantisationLine(own)._result().weights, own[:256])
    for bad in (torch.ones(10), torch.full((256,), float("nan")), torch.zeros(256)):
        with pytest.raises(DataError, match="256 weights"):
            QuantisationLine(bad)
