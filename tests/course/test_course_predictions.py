"""Predictions: locked once, compared once measured, named when wrong, readable without a kernel."""

import pytest
import torch

from lora_edu.course import predict, predictions, reveal, store

OPTIONS = ["a lot", "nothing", "a little"]
WHY = {"a": "You think that random means loud.", "a little": "Small is not zero."}


def ask(**more):
    return predict("03-start", "How much does the output change?", OPTIONS, **more)


def show(measured="nothing"):
    return reveal("03-start", measured, misconceptions=WHY, because="B = 0.")


def test_without_an_answer_the_measurement_is_shown_and_nothing_stored():
    ask()
    assert str(show()) == "○ Measured: b) nothing. No prediction was locked for this question.\nB = 0."
    assert store.load()["predictions"] == {}


def test_right_and_wrong_answers():
    ask(answer="b")
    card = show()
    assert str(card).startswith("✓") and "right" in str(card) and "random means loud" not in str(card)
    assert store.get("predictions", "03-start")["right"] is True
    store.forget("03")
    ask(answer="a lot")
    assert "✗" in str(show()) and "You think that random means loud." in str(show())
    assert store.get("predictions", "03-start")["right"] is False


def test_a_locked_answer_stays_until_forgotten():
    ask(answer="a")
    assert "Your locked answer: a) a lot" in str(ask(answer="b"))
    assert store.forget("03-start") == "Forgotten: 1 entry."
    assert "Your locked answer: b) nothing" in str(ask(answer="b"))


def test_the_form_locks_what_was_chosen():
    form = ask()
    view = form.form()
    form.button.click()
    assert "Choose an answer first" in form.status.value and store.load()["predictions"] == {}
    form.choice.value = "a little"
    form.button.click()
    assert form.button.disabled and form.choice.disabled and "Locked: c) a little" in form.status.value
    assert store.get("predictions", "03-start")["answer"] == "a little"
    assert "Small is not zero." in str(show()) and view.children
    again = ask()
    again.form()
    assert again.choice.value == "a little" and again.choice.disabled


@pytest.mark.parametrize(
    ("answer", "measured", "kind", "said"),
    [
        (100, 105, "right", "right"),
        (100, 200, "wrong", "2 times too low"),
        (331776, 1152, "wrong", "288 times too high"),
        (0, 3, "wrong", "3 entries too low"),
        (-2, 3, "wrong", "5 entries too low"),
        (88, 100, "wrong", "12 entries too low"),
        (5, torch.tensor(5.0), "right", "right"),
    ],
)
def test_numbers(answer, measured, kind, said):
    predict("01-n", "How many?", unit="entries", answer=answer)
    card = reveal("01-n", measured, misconceptions={(0, 10): "Directions, not entries."})
    assert card.kind == kind and said in str(card)
    assert ("Directions" in str(card)) == (kind == "wrong" and 0 <= answer <= 10)


def test_absolute_tolerance_and_number_forms():
    predict("01-m", "?", unit="%", within=3, answer=12)
    assert reveal("01-m", 15).kind == "right"
    store.forget("")
    predict("01-m", "?", unit="%", within=3, answer=11.9)
    assert reveal("01-m", 15).kind == "wrong"
    for between in (None, (0.0, 50.0)):
        store.forget("")
        card = predict("01-m", "Which?", unit="%", between=between)
        card.form()
        card.choice.value = 20.0
        card.button.click()
        assert "20 %" in card.status.value and store.get("predictions", "01-m")["answer"] == 20.0


def test_bad_options_are_named():
    with pytest.raises(ValueError, match=r"no option 'z'.*a lot"):
        ask(answer="z")
    with pytest.raises(ValueError, match="no option 'everything'"):
        show("everything")
    with pytest.raises(ValueError, match="no option"):
        reveal("03-start", "nothing", misconceptions={"never": "…"})
    with pytest.raises(ValueError, match="asks for a number"):
        predict("01-n", "?", answer="many")


def test_reveal_after_a_restart_knows_what_was_locked():
    ask(answer="a")
    predict("01-n", "?", unit="GB", within=1, answer=4)
    predictions._asked.clear()
    assert "You predicted a) a lot: not what was measured. You think that random means loud." in str(show())
    assert "right" in str(reveal("01-n", 4.5)) and "GB" in str(reveal("01-n", 4.5))
    assert "No prediction" in str(reveal("01-never", 2)) and "Measured: b." in str(
        reveal("01-none", "b", misconceptions={"c": "…"})
    )


def test_the_page_without_a_kernel_shows_question_and_options():
    card = ask()
    bundle = card._repr_mimebundle_()
    assert bundle["text/plain"] == str(card) == repr(card)
    for text in (bundle["text/plain"], bundle["text/html"]):
        assert "How much does the output change?" in text and all(option in text for option in OPTIONS)
    assert "model_id" not in bundle["text/html"] and "0x" not in bundle["text/plain"]
    assert {k: v for k, v in ask()._repr_mimebundle_().items() if k.startswith("text")} == {
        k: v for k, v in bundle.items() if k.startswith("text")
    }
    assert set(show()._repr_mimebundle_()) == {"text/plain", "text/html"}


def test_html_is_escaped():
    card = predict("03-x", "Is `A` < B & C?", ["<b>", "no"])
    assert "<code>A</code> &lt; B &amp; C" in card.html and "&lt;b&gt;" in card.html
