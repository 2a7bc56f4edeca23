"""The failure clinic in a real JupyterLab: readings are bought and a disease is named from the keyboard."""

import pytest

pytestmark = pytest.mark.browser
CELLS = ["from lora_edu.course.clinic.game import clinic\nward = clinic()", "ward"]


def test_the_clinic_is_played_by_keyboard(open_lab):
    lab = open_lab("ward.ipynb", CELLS)
    lab.run_all()
    play(lab.page, lab.page.locator(".jp-Cell:nth-of-type(2)"))
    assert lab.shown_errors() == [] and lab.errors == []


def play(page, form):
    """Patient C: two readings, then one wrong name."""

    def press(locator, key):
        locator.focus()
        page.keyboard.press(key)

    form.get_by_text("0 of 9 named").wait_for()
    press(form.locator(".widget-toggle-buttons button").nth(2), "Space")
    form.locator("img[alt^='Patient C']").wait_for()
    press(form.get_by_role("button", name="norms", exact=True), "Enter")
    form.get_by_text("‖ΔW‖, patient").wait_for()
    press(form.get_by_role("button", name="tokens", exact=True), "Space")
    form.get_by_text("tokens counted, of 8 rows, healthy").wait_for()
    assert form.get_by_role("button", name="norms", exact=True).is_disabled()
    press(form.locator("input[type=radio]").nth(0), "Space")  # a frozen adapter, which C is not
    press(form.get_by_role("button", name="Name it"), "Enter")
    form.get_by_text("C is not “frozen adapter”. That cost 3.").wait_for()
    form.get_by_text("0 of 9 named, 2 readings bought, 1 wrong name: cost 5.").wait_for()
