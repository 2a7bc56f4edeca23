"""Predictions and self-tests in a real JupyterLab: answered from the keyboard, readable, and no option covers another."""

from itertools import pairwise

import nbformat
import pytest

from lora_edu.course.concepts import CONCEPTS

pytestmark = pytest.mark.browser

LONG = "a long option, " * 12
CELLS = [
    "from lora_edu.course import predict, quiz, reveal",
    f"predict('03-x', 'Which one?', ['the first', {LONG!r}, 'the third'])",
    "reveal('03-x', 'the first', misconceptions={'the third': 'The third is a mistake with a name.'})",
    "predict('03-n', 'How much?', unit='GB', between=(0, 10))",
    "quiz('03')",
    "import time\ntime.sleep(seconds if 'seconds' in globals() else 0)\nseconds = 8",  # the second run keeps the kernel busy
]


@pytest.fixture
def lab(open_lab):
    return open_lab("forms.ipynb", CELLS)


def slide(lab, number):
    """Three steps to the right by keys alone, seen on the screen."""
    number.locator(".noUi-handle").focus()
    for step in (1, 2, 3):
        lab.page.keyboard.press("ArrowRight")
        number.locator(".widget-readout", has_text=f"0.{step}00").wait_for()


def locked(number):
    """The answer on the screen is the one that was stored; the failure says what the form shows instead."""
    from playwright.sync_api import expect

    expect(number).to_contain_text("Locked: 0.3 GB", timeout=30_000)


def test_forms_are_answered_by_keyboard(lab):
    lab.run_all()
    page = lab.page
    first, number, test = (page.locator(f".jp-Cell:nth-of-type({n})") for n in (2, 4, 5))
    page.get_by_text("No prediction was locked").wait_for()

    boxes = [box for label in first.locator("label").all() if (box := label.bounding_box())]
    assert len(boxes) == 3 and boxes[1]["height"] > 1.8 * boxes[0]["height"]  # the long one wraps …
    assert all(above["y"] + above["height"] <= below["y"] for above, below in pairwise(boxes))  # … and covers none

    first.locator("input[type=radio]").nth(2).focus()
    page.keyboard.press("Space")
    first.get_by_role("button", name="Lock my answer").focus()
    page.keyboard.press("Enter")
    first.get_by_text("Locked: c) the third").wait_for()
    assert first.locator("input[type=radio]").nth(0).is_disabled()

    slide(lab, number)
    number.get_by_role("button", name="Lock my answer").focus()
    page.keyboard.press("Enter")
    locked(number)

    test.locator("input[type=radio]").nth(0).focus()
    page.keyboard.press("Space")
    test.get_by_role("button", name="Check 1").focus()
    page.keyboard.press("Enter")
    test.get_by_text("1 of 7 answered").wait_for()

    lab.run_all()
    page.get_by_text("The third is a mistake with a name.", exact=False).last.wait_for()
    assert lab.shown_errors() == [] and lab.errors == []


def test_a_busy_kernel_locks_the_number_on_the_screen(lab):
    lab.run_all()
    page, number = lab.page, lab.page.locator(".jp-Cell:nth-of-type(4)")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")  # not waited for
    lab.busy_cell(page.locator(".jp-Cell:nth-of-type(6)"))  # the form is new, and the last cell sleeps
    number.locator(".noUi-handle").wait_for()
    slide(lab, number)  # the page sends the first change and holds the others back; the button's press overtakes them
    number.get_by_role("button", name="Lock my answer").focus()
    page.keyboard.press("Enter")
    assert page.locator(".jp-Cell:nth-of-type(6) .jp-InputPrompt").inner_text().strip() == "[*]:"  # busy all the while
    locked(number)
    assert number.locator(".widget-readout").inner_text() == "0.300"


def test_what_is_typed_in_a_form_stays_in_it(lab):
    """Options are lettered: to JupyterLab `b` would mean a new cell below, `dd` delete this one, an arrow the next cell."""
    lab.run_all()
    page, first = lab.page, lab.page.locator(".jp-Cell:nth-of-type(2)")
    first.locator("input[type=radio]").nth(0).wait_for()
    first.locator(".jp-InputPrompt").click()  # the cell is selected; from here on there is no mouse
    lab.press_tab_until(".jp-Cell:nth-of-type(2) input[type=radio]")
    before = lab.cells()
    for key in ("b", "a", "x", "d", "d", "c", "v", "m"):
        page.keyboard.press(key)
    page.wait_for_timeout(300)
    assert lab.cells() == before
    page.keyboard.press("Space")
    page.keyboard.press("ArrowDown")  # the next option, and not the next cell
    lab.until(
        lambda: first.locator("input[type=radio]").nth(1).is_checked(), "the arrow did not choose the next option"
    )
    lab.press_tab_until(".jp-Cell:nth-of-type(2) button")
    page.keyboard.press("Enter")
    first.get_by_text("Locked: b) a long option").wait_for()
    lab.press_tab_until(".jp-Cell:nth-of-type(4) .noUi-handle")
    assert page.evaluate("() => document.activeElement.getAttribute('aria-label')") == "Your answer"
    page.keyboard.press("ArrowRight")
    page.locator(".jp-Cell:nth-of-type(4) .widget-readout", has_text="0.100").wait_for()
    assert lab.cells() == before
    page.keyboard.press("Shift+Enter")  # a command with a modifier still reaches JupyterLab: the cell runs again
    lab.until(lambda: first.locator(".jp-InputPrompt").count() == 1, "the page is gone")
    assert lab.errors == []


def test_a_form_whose_kernel_is_gone_says_run_again(lab):
    lab.run_all()
    form = lab.page.locator(".jp-Cell:nth-of-type(4) .lora-edu")
    form.locator(".noUi-handle").wait_for()
    say = "e => getComputedStyle(e, '::before').content"
    assert "run this cell again" not in form.evaluate(say)
    lab.page.evaluate(
        "async () => { await window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart() }"
    )
    lab.until(lambda: "run this cell again" in form.evaluate(say), "nothing is said of the lost kernel")
    assert form.locator(".jupyter-widgets-disconnected").first.evaluate(say) == "none"  # once, and not on every part


def test_a_page_that_is_not_trusted_keeps_its_cards(open_lab, root):
    from lora_edu.course.card import panel

    page = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    output = nbformat.v4.new_output("display_data", data={"text/html": panel("a card", "ask"), "text/plain": "a card"})
    page.cells = [nbformat.v4.new_code_cell("card", outputs=[output], execution_count=1)]
    nbformat.write(page, root / "untrusted.ipynb")
    lab = open_lab("untrusted.ipynb")
    assert not lab.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.model.cells.get(0).trusted")
    card = lab.page.get_by_text("a card").last
    card.wait_for()
    style = card.evaluate(
        "e => { const s = getComputedStyle(e); return [s.borderLeftWidth, s.borderLeftColor, s.backgroundColor] }"
    )
    assert style[:2] == ["4px", "rgb(25, 118, 210)"] and style[2] != "rgba(0, 0, 0, 0)"


def test_the_inventory_keeps_what_is_chosen_and_tells_nothing(open_lab):
    lab = open_lab("sitting.ipynb", ["from lora_edu.course import inventory", "inventory('before')"])
    lab.run_all()
    form = lab.page.locator(".jp-Cell:nth-of-type(2)")
    form.locator("input[type=radio]").nth(3).focus()
    lab.page.keyboard.press("Space")
    form.get_by_role("button", name="Hand in").focus()
    lab.page.keyboard.press("Enter")
    form.get_by_text("Still open: questions 2, 3, 4").wait_for()
    lab.run_all()  # as after a restart: the choice is there, the others are open
    lab.until(lambda: form.locator("input[type=radio]:checked").count() == 1, "the choice is lost")
    for question in form.locator(".widget-radio-box").all()[1:]:
        question.locator("input").last.check()  # I do not know
    form.get_by_role("button", name="Hand in").click()
    form.get_by_text("Handed in: 15 answers").wait_for()
    shown = form.inner_text()
    assert not [option.why for concept in CONCEPTS for option in concept.item.options if option.why in shown]
    assert lab.errors == [] and lab.shown_errors() == []
