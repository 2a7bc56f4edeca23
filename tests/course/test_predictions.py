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
    assert str(show()).startswith(
        "○ Measured: b) nothing. No prediction was locked for this question. (This is said once"
    )
    assert str(show()).endswith("\nB = 0.")
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
        card.button.click()  # nothing was given yet: the control's start is not an answer
        assert store.get("predictions", "01-m") is None and ("Move the slider" in card.status.value) == bool(between)
        card.choice.value = 20.0 if between else "20"
        card.button.click()
        assert "20 %" in card.status.value and store.get("predictions", "01-m")["answer"] == 20.0


@pytest.mark.parametrize(
    ("more", "early", "shown", "stored"),
    [
        ({"between": (0.0, 1.0)}, 0.2, 0.6, 0.6),
        ({}, "2", "6,000.5", 6000.5),
        ({"options": OPTIONS}, "a lot", "nothing", "nothing"),
    ],
)
def test_what_is_locked_is_what_the_page_shows_though_the_kernel_hears_of_it_late(more, early, shown, stored):
    """A busy kernel gets the first change, then the button, and only then the change that the page held back."""
    card = predict("01-late", "How much?", **more)
    card.form()
    card.choice.value = early
    card.button.click()
    reveal("01-late", stored)  # the measuring cells may run in between, too
    card.choice.value = shown
    assert store.get("predictions", "01-late")["answer"] == stored and str(shown)[:5] in card.status.value
    assert reveal("01-late", stored).kind == "right"


def test_a_change_that_another_thread_takes_in_while_the_answer_is_stored_counts(monkeypatch):
    card = predict("01-late", "How much?", between=(0.0, 1.0))
    card.form()
    card.choice.value = 0.1
    put = store.put

    def meanwhile(section, key, entry):
        monkeypatch.setattr(store, "put", put)
        card.choice.unobserve_all()  # the other thread looked before there was an entry
        card.choice.value = 0.3
        put(section, key, entry)

    monkeypatch.setattr(store, "put", meanwhile)
    card.button.click()
    assert store.get("predictions", "01-late")["answer"] == 0.3 and "Locked: 0.3" in card.status.value


def test_a_late_change_never_touches_an_answer_that_this_form_did_not_lock():
    card = predict("01-late", "How much?", between=(0.0, 1.0))
    card.form()
    predict("01-late", "How much?", between=(0.0, 1.0), answer=0.3)
    card.choice.value = 0.6
    card.button.click()
    card.choice.value = 0.9
    assert store.get("predictions", "01-late")["answer"] == 0.3 and "Locked: 0.3" in card.status.value
    store.forget("")
    card.choice.value = 0.5
    assert store.get("predictions", "01-late") is None


def test_a_field_takes_numbers_as_the_page_writes_them_and_nothing_else():
    card = predict("01-f", "How many?")
    card.form()
    for text in ("", "many", "nan", "inf", "1,2"):
        card.choice.value = text
        card.button.click()
        assert "Give a number" in card.status.value and store.get("predictions", "01-f") is None
    card.choice.value = "331,776"
    card.button.click()
    assert store.get("predictions", "01-f")["answer"] == 331776


def test_a_reveal_says_where_the_truth_is_from():
    predict("01-how", "How much?", answer=2)
    assert "Measured: 2." in str(reveal("01-how", 2)) and "Worked out: 2." in str(reveal("01-how", 2, how="Worked out"))


def test_the_margin_cannot_be_read_in_two_ways():
    assert "off by at most a quarter of the measured value" in str(predict("01-a", "?", unit="%", tolerance=0.25))
    assert "off by at most 0.3 times the measured value" in str(predict("01-b", "?", unit="%", tolerance=0.3))
    assert "off by at most 12 percentage points" in str(predict("01-c", "?", unit="%", within=12))
    assert "off by at most 2 GB" in str(predict("01-d", "?", unit="GB", within=2))


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
    assert "No prediction" in str(reveal("01-never", 2))
    assert str(reveal("01-none", "b", misconceptions={"c": "…"})) == "○ Measured: b."


def test_who_just_runs_all_is_told_once_and_never_shown_a_wrong_option():
    ask()
    first, again = str(show()), str(show())
    predict("03-two", "?", OPTIONS)
    other = reveal("03-two", "nothing", misconceptions=WHY, because="B = 0.")
    assert "No prediction was locked" in first and again == first  # the same cell says the same when it is run again
    assert str(other) == "○ Measured: b) nothing.\nB = 0."
    for text in (first, str(other), other.html):
        assert "a lot" not in text and "a little" not in text and not any(why in text for why in WHY.values())


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
