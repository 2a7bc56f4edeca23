"""`advise` as a form: what it shows without a reader, what the button does, and what it says where nothing fits."""

from lora_edu.course.advice_form import OWN, AdviceForm


def test_without_a_reader_it_shows_the_advice_of_the_cell():
    card = AdviceForm(rows=50)
    assert card.advice is not None and card.advice.lora.r == 8
    assert "rows 50" in str(card) and "how sure: " in str(card) and "<table" in card.html
    assert {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"} <= set(card._repr_mimebundle_())


def test_the_button_asks_for_what_the_controls_say_and_a_refusal_is_shown():
    card = AdviceForm(task=OWN)
    card.form()
    card.controls["memory"].value = "4 GB"
    card.button.click()
    assert "memory 4 GB" in card.answer.value and card.advice.train.batch_size >= 1
    card.controls["model"].value = "llama-2-7b"
    card.button.click()
    assert card.advice is None and "Nothing fits" in card.answer.value and "too little" in card.answer.value
