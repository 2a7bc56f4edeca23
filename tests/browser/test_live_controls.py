"""The training dashboard in a real JupyterLab: its controls reach a run while its cell is running."""

import json

import pytest
from helpers import TESTS

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.browser

CELLS = [
    "import json\nfrom small_run import regression\nfrom lora_edu.widgets import TrainingDashboard",
    "trainer = regression(TrainingDashboard(), seconds=0.03, max_steps=3000)\ntrainer.train();",
    "history = trainer.history\nprint(json.dumps([history.stopped, [r['learning_rate'] for r in history.steps]]))",
    "trainer = regression(TrainingDashboard(), seconds=0.03, max_steps=3000, output_dir='run')\n"
    "try:\n    trainer.train()\nexcept KeyboardInterrupt as stopped:\n    print(stopped)",
]


def test_a_run_is_steered_while_its_cell_runs(open_lab):
    lab = open_lab("live.ipynb", CELLS, [TESTS / "small_run.py"])
    page = lab.page
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")  # not waited for
    first, printed, second = (page.locator(f".jp-Cell:nth-of-type({n})") for n in (2, 3, 4))

    first.get_by_role("button", name="Pause").wait_for(timeout=90_000)
    lab.busy_cell(first)
    first.locator(".noUi-handle").nth(1).focus()
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    first.get_by_text("You set the learning rate to 0.1 ").first.wait_for()

    first.get_by_role("button", name="Pause").click()
    first.get_by_text("Paused at step").wait_for()
    at = first.get_by_text("Paused at step").text_content()
    page.wait_for_timeout(1500)
    assert first.get_by_text("Paused at step").text_content() == at
    first.get_by_role("button", name="Continue").click()
    first.get_by_text("Running at step").wait_for()
    first.get_by_role("button", name="Stop").click()
    first.get_by_text("Stopped by hand").first.wait_for()
    expect(first.get_by_role("button", name="Stop")).to_have_count(0)  # nothing is left to press

    printed.locator(".jp-OutputArea-output").wait_for(timeout=60_000)
    stopped, rates = json.loads(printed.locator(".jp-OutputArea-output").inner_text())
    assert stopped == "stopped by hand" and len(rates) < 3000
    assert rates[0] == 0.3 and rates[-1] == 0.1
    assert sorted(rates, reverse=True) == rates

    second.get_by_role("button", name="Pause").click()
    second.get_by_text("Paused at step").wait_for()
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.interrupt()")
    second.get_by_text("and saved run").wait_for()
    second.get_by_text("Interrupted at step").first.wait_for()
    assert lab.shown_errors() == [] and lab.errors == []
