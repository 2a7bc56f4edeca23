"""The form for a learner's own rows in a real JupyterLab: typed over from the keyboard, read by the next cell."""

import pytest

pytestmark = pytest.mark.browser

CELLS = [
    "from lora_edu.course.rows_form import RowsForm",
    "ten = RowsForm('05-rows', [('Who runs it?', 'Ms Okoro.'), ('Where is it?', 'Here.')], 'In which street is it?')\nten",
    "print([row.answer for row in ten.rows()], ten.new_question)",
]


@pytest.fixture
def lab(open_lab):
    return open_lab("rows.ipynb", CELLS)


def test_rows_are_typed_and_read_by_the_next_cell(lab):
    lab.run_all()
    page, form, read = lab.page, *(lab.page.locator(f".jp-Cell:nth-of-type({n})") for n in (2, 3))
    form.get_by_text("2 rows and a new question").wait_for()
    answer, new = form.get_by_placeholder("answer 1", exact=True), form.get_by_placeholder("the new question")
    answer.fill("")
    page.keyboard.press("Tab")  # what is typed is taken when the field is left
    form.get_by_text("row 1: the assistant's text is empty").wait_for()
    answer.fill("Nobody.")
    page.keyboard.press("Tab")
    new.fill("Where is it")
    page.keyboard.press("Tab")
    form.get_by_text("is row 2 once more").wait_for()
    new.fill("Who is in charge?")
    page.keyboard.press("Enter")
    form.get_by_text("2 rows and a new question").wait_for()
    read.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    read.get_by_text("['Nobody.', 'Here.'] Who is in charge?").wait_for()
    # the cell's own list, changed and run again, counts; what was typed is not silently put over it
    made = form.locator(".cm-content")
    made.click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(CELLS[1].replace("Ms Okoro.", "Mr Bell."))
    page.keyboard.press("Shift+Enter")
    form.get_by_text("have changed since something was typed").wait_for()
    read.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    read.get_by_text("['Mr Bell.', 'Here.'] In which street is it?").wait_for()
    assert lab.shown_errors() == [] and lab.errors == []
