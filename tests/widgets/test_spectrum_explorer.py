"""What the widget of chapter 02 claims: its counts, sizes and shapes are those of the matrices it is given."""

import re

import pytest
import torch
from every_widget import spectrum_explorer

from lora_edu.experiments import stored
from lora_edu.linalg import effective_rank
from lora_edu.widgets.spectrum import Change, SpectrumExplorer, gaussian


def said(widget: SpectrumExplorer) -> dict[str, int]:
    """The counts that the drawing's text names, by spectrum."""
    return {
        name: int(count) for count, name in re.findall(r"(\d+) of (?:the )?(W₀|ΔW|Gaussian)'s", widget.canvas().alt)
    }


def test_a_change_of_rank_k_needs_at_most_k_directions_and_noise_needs_many():
    widget = spectrum_explorer()
    widget.controls["share"].value = 99
    for layer, rank in enumerate((1, 2, 3)):
        widget.controls["layer"].value = layer
        counts = said(widget)
        assert 1 <= counts["ΔW"] <= rank < 10 < counts["Gaussian"]
        assert widget._result()[layer] == counts


@pytest.mark.parametrize("share", [50, 90])
def test_counts_and_sizes_are_those_of_the_matrices(share):
    draw = torch.Generator().manual_seed(3)
    before, after = torch.randn(30, 18, generator=draw), torch.randn(30, 18, generator=draw)
    change = Change.between(before, after)
    assert change.size == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-4)
    widget = SpectrumExplorer({"one": [change]})
    widget.controls["share"].value = share
    for name, matrix in (("W₀", before), ("ΔW", after - before)):
        assert said(widget)[name] == effective_rank(torch.linalg.svdvals(matrix), share / 100)
    assert said(widget)["Gaussian"] == effective_rank(gaussian((30, 18)), share / 100)
    assert widget.errors == []


def test_the_layer_stays_within_its_group_and_the_largest_change_is_named():
    widget = spectrum_explorer()
    assert "largest in layer 2" in widget.canvas().alt
    widget.controls["layer"].value = 2
    widget.controls["matrix"].value = "tall"
    assert widget.controls["layer"].max == 1 and widget.controls["layer"].value == 1
    assert "tall, layer 1 (60 × 24)" in widget.canvas().alt and widget.errors == []


def test_a_matrix_that_did_not_change_is_drawn():
    W0 = torch.randn(12, 8)
    widget = SpectrumExplorer({"still": [Change.between(W0, W0)]})
    assert said(widget)["ΔW"] == 0 and "0 % of W₀" in widget.canvas().alt


def test_nothing_to_show_is_refused():
    for groups in ({}, {"empty": []}):
        with pytest.raises(ValueError, match="at least one group"):
            SpectrumExplorer(groups)


def test_the_stored_spectra_are_whole_and_belong_to_the_stored_change_of_chapter_01():
    tensors, about = stored("full_finetuning_spectra")
    delta, other = stored("full_finetuning_delta")
    assert about["fingerprint"] == other["fingerprint"] and about["runs"][0]["losses"] == other["losses"]
    S = torch.linalg.svdvals(delta["delta"].float())
    torch.testing.assert_close(S, tensors["delta.q_proj"][15], rtol=2e-2, atol=1e-4)
    for kind in ("q_proj", "k_proj", "down_proj"):
        W0, change = tensors[f"W0.{kind}"], tensors[f"delta.{kind}"]
        assert W0.shape == change.shape and len(W0) == 30 and bool((change > 0).any(1).all())
        assert tensors[f"count.0.{kind}"].tolist() == [effective_rank(row) for row in change]
        torch.testing.assert_close(tensors[f"size.0.{kind}"], change.norm(dim=1) / W0.norm(dim=1))
