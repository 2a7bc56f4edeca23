"""The blind comparison: sides that give nothing away, votes that are counted for the right model, and an order told at the end."""

import pytest
import torch
from conftest import make_tiny_llama
from every_widget import blind_pairs
from tiny_tokenizer import make_tokenizer

from lora_edu.adapters import LoRAConfig, inject, lora_layers
from lora_edu.data import Row
from lora_edu.errors import DataError
from lora_edu.evaluation import Pairs, Report, answer_pairs, generate, preferred, sign_test, swapped, verdict
from lora_edu.widgets.blind_ab import CHECKLISTS, HIDDEN, OPEN, SHOWN, BlindAB


def vote_for(widget, word, pairs=None):
    """Vote for the answer that begins with `word`, by looking at the picture alone."""
    for n in range(len(widget.pairs.prompts)) if pairs is None else pairs:
        widget.controls["pair"].value = n
        if f"Left: “{word}" in widget.canvas().alt:
            widget.controls["vote"].value = "left"
        elif f"Right: “{word}" in widget.canvas().alt:
            widget.controls["vote"].value = "right"


def test_votes_are_counted_for_the_model_whatever_the_side():
    for word, better in (("omega", "tuned"), ("alpha", "base")):
        widget = BlindAB(blind_pairs(), seed=3)
        vote_for(widget, word)
        found = widget.verdict
        assert (found.first, found.second) == ((0, 7) if better == "tuned" else (7, 0)) and found.same == 1
        assert found.p == sign_test(7, 0) and 0 < found.left < 7, "the sides were mixed"
        widget.controls["order"].value = SHOWN
        alt = widget.canvas().alt
        assert f"You prefer {better}" in alt and "p = 0.016" in alt and "You chose the left side" in alt
    assert widget.errors == []


def test_nothing_tells_who_is_who_before_all_votes_are_in():
    widget = BlindAB(blind_pairs())
    vote_for(widget, "omega", range(6))
    for order in (HIDDEN, SHOWN):
        widget.controls["order"].value = order
        for n in range(8):
            widget.controls["pair"].value = n
            picture = widget.picture()
            assert "tuned" not in widget._image.value + picture.alt and "base" not in widget._image.value + picture.alt
    assert "1 to go" in widget.canvas().alt and not widget.closed
    vote_for(widget, "omega", [6])
    assert "left: " in widget._image.value and "tuned" in widget._image.value, "the last vote reveals"


def test_votes_become_preferences():
    widget = BlindAB(blind_pairs(), seed=3)
    vote_for(widget, "omega", range(4))
    vote_for(widget, "alpha", range(4, 7))
    found = preferred(widget.pairs, widget.votes, widget.sides)
    words = [(better.split()[0], worse.split()[0]) for _, better, worse in found]
    assert words == [("omega", "alpha")] * 4 + [("alpha", "omega")] * 3, "the pair without a difference is left out"
    assert [prompt for prompt, *_ in found] == widget.pairs.prompts[:7]


def test_votes_are_closed_once_revealed():
    widget = BlindAB(blind_pairs())
    vote_for(widget, "omega")
    widget.controls["order"].value = SHOWN
    before = dict(widget.votes)
    widget.controls["order"].value = HIDDEN
    for n in range(8):
        widget.controls["pair"].value = n
        for vote in (OPEN, "left", "right", "same"):
            widget.controls["vote"].value = vote
    assert widget.votes == before and widget.errors == []


def test_a_vote_can_be_changed_and_taken_back_and_each_pair_keeps_its_own():
    widget = BlindAB(blind_pairs())
    pair, vote = widget.controls["pair"], widget.controls["vote"]
    vote.value = "left"
    pair.value = 1
    assert vote.value == OPEN and widget.votes == {0: "left", 7: "same"}
    vote.value = "right"
    pair.value = 0
    assert vote.value == "left"
    vote.value = OPEN
    assert widget.votes == {1: "right", 7: "same"}
    pair.value = 7
    assert vote.value == "same", "equal answers are the same without a vote"


def test_half_stand_on_either_side_in_an_order_of_the_seed():
    for count in (2, 7, 40):
        for seed in range(20):
            assert abs(sum(swapped(count, seed)) - count / 2) <= 0.5
    assert swapped(40, 1) == swapped(40, 1) != swapped(40, 2)
    assert 5 < sum(swapped(1, seed)[0] for seed in range(20)) < 15
    lefts = verdict(dict.fromkeys(range(40), "left"), swapped(40, 0))
    assert (lefts.first, lefts.second, lefts.p) == (20, 20, 1), "who always takes the left prefers neither"


def test_few_votes_and_even_votes_are_no_finding():
    few = BlindAB(Pairs(["a"] * 5, ["x"] * 5, ["y"] * 5))
    vote_for(few, "y")
    few.controls["order"].value = SHOWN
    assert "5 decided votes are too few" in few.canvas().alt
    even = BlindAB(Pairs([str(n) for n in range(8)], ["x"] * 8, ["y"] * 8))
    vote_for(even, "x", range(4))
    vote_for(even, "y", range(4, 8))
    even.controls["order"].value = SHOWN
    assert "No preference is shown" in even.canvas().alt and even.verdict.p == 1


def test_three_checklists_can_be_ticked():
    widget = BlindAB(blind_pairs())
    assert len(CHECKLISTS) == 3
    for key, _ in CHECKLISTS["The judging"]:
        widget.controls[f"tick_{key}"].value = True
    assert "The rows: 0 of 4, The judging: 4 of 4, The claim: 0 of 4" in widget.canvas().alt


def test_a_question_of_ones_own_is_asked_of_both_and_added():
    widget = BlindAB(blind_pairs(2), ask=lambda asked: (f"alpha {asked}", f"omega {asked}"))
    widget.own.value = "  why? "
    widget.button.click()
    assert widget.controls["pair"].value == 2 and widget.controls["pair"].options[-1][0] == "3 of 3"
    assert "Asked: “why?”" in widget.canvas().alt and widget.to_come == 2
    vote_for(widget, "omega")
    assert widget.verdict.second == 2 and widget.errors == []
    widget.own.value = ""
    widget.button.click()
    assert len(widget.pairs.prompts) == 3


def test_pairs_come_from_a_live_model_whose_adapter_is_switched_off_for_the_first():
    tokenizer = make_tokenizer()
    model = make_tiny_llama(vocab_size=len(tokenizer), max_position_embeddings=256)
    prompts = ["hi", "so", Row.chat("As JSON: one", "x", input="one")]
    base = generate(model, tokenizer, prompts, 6)
    inject(model, LoRAConfig(r=4, lora_alpha=32))
    for layer in lora_layers(model).values():
        layer.B.data.normal_(0, 1, generator=torch.Generator().manual_seed(3))
    pairs = answer_pairs(model, tokenizer, prompts, max_new_tokens=6)
    assert pairs.first == base and pairs.second == generate(model, tokenizer, prompts, 6) != base
    assert pairs.prompts == ["hi", "so", "one"]
    other = make_tiny_llama(vocab_size=len(tokenizer), max_position_embeddings=256, seed=5)
    assert answer_pairs(model, tokenizer, prompts, other, 6).first == generate(other, tokenizer, prompts, 6)


def test_pairs_are_kept_and_made_of_reports_on_the_same_rows(tmp_path):
    rows = [Row.chat("As JSON: a", "A", input="a"), Row.text("prose")]
    before, after = (Report("t", "test", "m", rows, [said], {}) for said in ("x", "y"))
    pairs = Pairs.of(before, after)
    assert (pairs.prompts, pairs.first, pairs.second) == (["a"], ["x"], ["y"])
    pairs.write(tmp_path / "pairs.json")
    assert Pairs.read(tmp_path / "pairs.json") == pairs
    with pytest.raises(DataError, match="same rows"):
        Pairs.of(before, Report("t", "test", "m", rows[:1], ["y"], {}))
    (tmp_path / "pairs.json").write_text("{}")
    with pytest.raises(DataError, match="holds no pairs"):
        Pairs.read(tmp_path / "pairs.json")


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Pairs([], [], []), "at least one prompt"),
        (lambda: Pairs(["a"], ["b"], []), "1 prompts have 1 and 0 answers"),
        (lambda: verdict({0: "up"}, [True]), "left, same or right"),
        (lambda: verdict({1: "left"}, [True]), "on pair 1"),
    ],
)
def test_what_is_no_pair_and_no_vote_is_named(make, words):
    with pytest.raises(DataError, match=words):
        make()
