"""The training dashboard in a real JupyterLab: its controls reach a run while its cell is running."""

import json
import shutil

import nbformat
import pytest
from helpers import TESTS
from lab import CHROMIUM_FLAGS, Lab, chromium, jupyterlab
from nbformat.v4 import new_code_cell, new_notebook

SMALL_RUN = TESTS / "small_run.py"
pytestmark = pytest.mark.browser

CELLS = [
    "import json\nfrom small_run import regression\nfrom lora_edu.widgets import TrainingDashboard",
    "trainer = regression(TrainingDashboard(), seconds=0.03, max_steps=3000)\ntrainer.train();",
    "history = trainer.history\nprint(json.dumps([history.stopped, [r['learning_rate'] for r in history.steps]]))",
    "trainer = regression(TrainingDashboard(), seconds=0.03, max_steps=3000, output_dir='run')\n"
    "try:\n    trainer.train()\nexcept KeyboardInterrupt as stopped:\n    print(stopped)",
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
    shutil.copy(SMALL_RUN, root)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in CELLS], metadata=kernel), root / "live.ipynb")
    with jupyterlab(root, scratch) as address, playwright.sync_playwright() as driver:
        chrome = driver.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        page = Lab(chrome, address, "live.ipynb")
        yield page
        page.close()
        chrome.close()


def test_a_run_is_steered_while_its_cell_runs(lab):
    page = lab.page
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")  # not waited for
    first, printed, second = (page.locator(f".jp-Cell:nth-of-type({n})") for n in (2, 3, 4))

    first.get_by_role("button", name="Pause").wait_for(timeout=90_000)
    assert first.locator(".jp-InputPrompt").inner_text().strip() == "[*]:"
    first.locator(".noUi-handle").nth(1).focus()
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    first.get_by_text("You set the learning rate to").first.wait_for()

    first.get_by_role("button", name="Pause").click()
    first.get_by_text("Paused at step").wait_for()
    at = first.get_by_text("Paused at step").text_content()
    page.wait_for_timeout(1500)
    assert first.get_by_text("Paused at step").text_content() == at
    first.get_by_role("button", name="Continue").click()
    first.get_by_text("Running at step").wait_for()
    first.get_by_role("button", name="Stop").click()
    first.get_by_text("Stopped by hand").first.wait_for()
    assert first.get_by_role("button", name="Stop").count() == 0  # nothing is left to press

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
