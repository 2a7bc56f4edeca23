"""Predictions and self-tests in a real JupyterLab: answered from the keyboard, readable, and no option covers another."""

from itertools import pairwise

import nbformat
import pytest
from lab import CHROMIUM_FLAGS, Lab, chromium, jupyterlab
from nbformat.v4 import new_code_cell, new_notebook

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
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in CELLS], metadata=kernel), root / "forms.ipynb")
    with jupyterlab(root, scratch) as address, playwright.sync_playwright() as driver:
        chrome = driver.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        page = Lab(chrome, address, "forms.ipynb")
        yield page
        page.close()
        chrome.close()


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
    page.wait_for_timeout(3000)  # the form is new, and the last cell sleeps
    slide(lab, number)  # the page sends the first change and holds the others back; the button's press overtakes them
    number.get_by_role("button", name="Lock my answer").focus()
    page.keyboard.press("Enter")
    assert page.locator(".jp-Cell:nth-of-type(6) .jp-InputPrompt").inner_text().strip() == "[*]:"  # busy all the while
    locked(number)
    assert number.locator(".widget-readout").inner_text() == "0.300"
