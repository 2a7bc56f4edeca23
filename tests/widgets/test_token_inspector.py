"""What the token inspector claims, checked against PyTorch's own loss."""

import pytest
import torch
import torch.nn.functional as F
from conftest import make_tiny_llama
from small_rows import ANSWERS, PROMPTS, Words, examples, token_inspector

from lora_edu.data import IGNORE, Example, collate
from lora_edu.errors import DataError
from lora_edu.plots.primitives import Text
from lora_edu.training import causal_lm_loss
from lora_edu.widgets.tokens import ANSWER, EVERY, NO_END, SHIFTED, UNSHIFTED, TokenInspector, look


def at(widget, row=1, model="before training", counts=ANSWER, labels=SHIFTED):
    return widget.compute({"row": row, "model": model, "counts": counts, "labels": labels})


def test_look_is_the_models_cross_entropy_at_every_position():
    model = make_tiny_llama(seed=3)
    model.train()
    (example,) = examples()[:1]
    (seen,) = look(model, [example])
    assert model.training
    ids = torch.tensor([example.input_ids])
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0]
    following = F.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
    same = F.cross_entropy(logits, ids[0], reduction="none")
    torch.testing.assert_close(torch.tensor(seen.following), following)
    torch.testing.assert_close(torch.tensor(seen.same), same)


@pytest.mark.parametrize("row", [1, 2, 3])
def test_the_mean_over_the_answer_is_the_loss_that_trains(row):
    example = examples()[row - 1]
    loss = causal_lm_loss(make_tiny_llama(seed=0), collate([example], 0))
    found = at(token_inspector(), row)
    assert found.mean == pytest.approx(loss.mean, rel=1e-4)
    assert sum(found.counted) == loss.count == ANSWERS[row - 1]


@pytest.mark.parametrize("labels, first", [(SHIFTED, -1), (UNSHIFTED, 0)])
def test_what_counts(labels, first):
    """Shifted, the first position that counts is the last of the prompt; not shifted, the first of the answer."""
    prompt, answer = PROMPTS[0], ANSWERS[0]
    counted = at(token_inspector(), labels=labels).counted
    assert [t for t, counts in enumerate(counted) if counts] == list(range(prompt + first, prompt + first + answer))
    without_end = at(token_inspector(), counts=NO_END, labels=labels).counted
    assert [t for t, counts in enumerate(without_end) if counts] == list(
        range(prompt + first, prompt + first + answer - 1)
    )
    assert sum(at(token_inspector(), counts=EVERY, labels=labels).counted) == prompt + answer + first


def test_the_label_of_a_position_is_the_next_token_or_its_own():
    widget, words = token_inspector(), [Words().decode([i]).replace(" ", "·") for i in examples()[0].input_ids]
    shifted, not_shifted = at(widget), at(widget, labels=UNSHIFTED)
    assert shifted.tokens == words and shifted.labels == [*words[1:], None] and shifted.losses[-1] is None
    assert not_shifted.labels == words


def test_a_masked_position_is_drawn_as_minus_100():
    canvas = token_inspector().canvas()
    said = [item.text for item in canvas.items if isinstance(item, Text)]
    assert said.count("−100") == PROMPTS[0] - 1
    assert "<|im_end|>" in said and "mean of the 4 labels that count" in canvas.alt


def test_another_model_or_row_gives_other_numbers():
    widget = token_inspector()
    assert at(widget).mean != at(widget, model="after training").mean != at(widget, row=2).mean
    assert widget.controls["row"].max == 3


def test_a_long_token_is_cut_and_an_empty_one_is_named():
    class Long:
        def decode(self, ids):
            return "" if ids == [4] else "antidisestablishmentarianism"

    example = Example([3, 4, 5], [IGNORE, 4, 5])
    widget = TokenInspector(Long(), [example], {"the model": look(make_tiny_llama(), [example])})
    said = [item.text for item in widget.canvas().items if isinstance(item, Text)]
    assert "(empty)" in said and any(text.startswith("antidis") and text.endswith("…") for text in said)


@pytest.mark.parametrize("rows, looks", [(0, 0), (2, 1), (2, None)])
def test_rows_and_looks_that_do_not_fit_are_refused(rows, looks):
    chosen = examples()[:rows]
    seen = {} if looks is None else {"the model": look(make_tiny_llama(), chosen[:looks])}
    with pytest.raises(DataError, match="a look at each"):
        TokenInspector(Words(), chosen, seen)
