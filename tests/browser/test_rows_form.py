"""The form for a learner's own rows in a real JupyterLab: typed over from the keyboard, read by the next cell."""

import nbformat
import pytest
from lab import CHROMIUM_FLAGS, Lab, chromium, jupyterlab
from nbformat.v4 import new_code_cell, new_notebook

pytestmark = pytest.mark.browser

CELLS = [
    "from lora_edu.course.rows_form import RowsForm",
    "ten = RowsForm('05-rows', [('Who runs it?', 'Ms Okoro.'), ('Where is it?', 'Here.')], 'In which street is it?')\nten",
    "print([row.answer for row in ten.rows()], ten.new_question)",
]


@pytest.fixture
def lab(tmp_path):
    executable = chromium()
    if executable is None:
        pytest.skip("no Chromium is installed: `apt-get install chromium`, or install Google Chrome")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'"
    )
    root, scratch = tmp_path / "root", tmp_path / "jupyter"
    root.mkdir()
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in CELLS], metadata=kernel), root / "rows.ipynb")
    with jupyterlab(root, scratch) as address, playwright.sync_playwright() as driver:
        chrome = driver.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        page = Lab(chrome, address, "rows.ipynb")
        yield page
        page.close()
        chrome.close()


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
