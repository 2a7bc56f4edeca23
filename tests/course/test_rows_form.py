"""The form for a learner's own rows: what it holds without a reader, what it keeps, and how it names a fault."""

import ipywidgets
import pytest

from lora_edu.course import forget
from lora_edu.course.rows_form import RowsForm
from lora_edu.errors import DataError

PAIRS = [("Who runs it?", "Ms Okoro."), ("Where is it?", "At 4 Mill Lane."), ("", "")]


def form(pairs=PAIRS, new="In which street is it?", id="05-rows"):
    return RowsForm(id, pairs, new)


def test_without_a_reader_it_holds_the_rows_it_was_given():
    rows = form().rows()
    assert [(row.prompt, row.answer) for row in rows] == PAIRS[:2]
    assert rows[0].messages[0] == {"role": "system", "content": ""} and rows[1].where == "row 2"
    assert form().new_question == "In which street is it?"


def test_page_and_terminal_show_every_row():
    shown = form([("<b>", "a & b"), ("c", "d")])
    assert "  1. <b> → a & b" in str(shown) and "In which street" in str(shown)
    assert "&lt;b&gt;" in shown.html and "<td" in shown.html and "<b></td>" not in shown.html
    bundle = form()._repr_mimebundle_()
    assert {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"} <= set(bundle)


def test_what_is_typed_is_used_kept_and_can_be_forgotten():
    first = form()
    first.form()
    first.fields[2][0].value, first.fields[2][1].value = " And the cat? ", "Biscuit. "
    first.new_field.value = "What name has the cat?"
    assert first.rows()[2].prompt == "And the cat?" and first.rows()[2].answer == "Biscuit."
    again = form()  # the cell is run once more, or another day
    assert again.rows()[2].answer == "Biscuit." and again.new_question == "What name has the cat?"
    assert again.form() is not None and again.fields[2][1].value == "Biscuit. "
    assert len(form(id="05-others").rows()) == 2
    forget("05")
    assert len(form().rows()) == 2


@pytest.mark.parametrize(
    "pairs, new",
    [
        ([("Who runs it?", "Mr Bell."), *PAIRS[1:]], "In which street is it?"),  # as many rows: a changed answer
        (PAIRS[:2], "In which street is it?"),
        (PAIRS, "Who is in charge?"),
    ],
)
def test_the_cell_wins_once_it_is_changed_and_run_again(pairs, new):
    first = form()
    first.form()
    first.fields[0][1].value = "Typed."
    edited = form(pairs, new)
    assert edited.rows()[0].answer == pairs[0][1] and edited.new_question == new
    edited.form()
    assert "have changed since something was typed" in edited.status.value
    assert form().rows()[0].answer == "Typed."  # the old list again: nothing was lost
    edited.fields[0][1].value = "Typed again."
    assert "have changed" not in edited.status.value
    assert form(pairs, new).rows()[0].answer == "Typed again." and form().rows()[0].answer == PAIRS[0][1]


@pytest.mark.parametrize(
    "pairs, said",
    [
        ([("Who?", "")], "row 1: the assistant's text is empty"),
        ([("", "Me.")], "row 1: the user's text is empty"),
        ([("Who?", "Me."), ("who", "You.")], "row 2: the question of row 1 again"),
        ([("", ""), (" ", "")], "every row is empty"),
    ],
)
def test_faults_are_named_by_their_line(pairs, said):
    with pytest.raises(DataError, match=said):
        form(pairs).rows()


def test_all_faults_are_named_at_once():
    with pytest.raises(DataError, match="2 faults") as raised:
        form([("Who?", ""), ("Where?", "Here."), ("where", "There.")]).rows()
    assert "row 1" in str(raised.value) and "row 3" in str(raised.value)
    with pytest.raises(DataError, match="2 faults") as raised:
        form([("Who?", ""), ("Where?", "Here.")], new="where").rows()
    assert "row 1" in str(raised.value) and "the new question is row 2 once more" in str(raised.value)


@pytest.mark.parametrize("new, said", [("  ", "the new question is empty"), ("who runs IT", "is row 1 once more")])
def test_a_new_question_must_be_new(new, said):
    with pytest.raises(DataError, match=said):
        _ = form(new=new).new_question


def test_the_form_says_at_once_what_training_would_say():
    shown = form()
    shown.form()
    assert "2 rows and a new question" in shown.status.value
    shown.fields[0][1].value = ""
    assert "row 1: the assistant" in shown.status.value
    shown.fields[0][1].value = "Somebody."
    shown.new_field.value = "Where is it"
    assert "row 2 once more" in shown.status.value


def test_every_field_has_a_label_and_no_output_widget_is_used():
    shown = form()
    page = shown.form()
    fields = [field for pair in shown.fields for field in pair] + [shown.new_field]
    assert all(field.tooltip and field.placeholder == field.tooltip for field in fields)
    assert not any(isinstance(child, ipywidgets.Output) for child in page.children)


def test_the_form_tells_a_bad_row_and_a_missing_question_together_and_counts_one_row_as_one():
    shown = form([("Who?", "")], new=" ")
    shown.form()
    assert "row 1" in shown.status.value and "the new question is empty" in shown.status.value
    shown.fields[0][1].value, shown.new_field.value = "Me.", "Who else?"
    assert "1 row and a new question" in shown.status.value
