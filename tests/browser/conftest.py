"""One Chromium and one JupyterLab for the tests of a file; each opens notebooks of its own in it.

Not for the whole session: while Playwright is open its event loop runs, and nothing else in the process may start one (nbclient does).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import nbformat
import pytest
from lab import CHROMIUM_FLAGS, Lab, chromium, jupyterlab
from nbformat.v4 import new_code_cell, new_notebook


@pytest.fixture(scope="module")
def browser():
    """Chromium; the tests that need one are skipped where there is none."""
    executable = chromium()
    if executable is None:
        pytest.skip("no Chromium is installed: `apt-get install chromium`, or install Google Chrome")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'"
    )
    with playwright.sync_playwright() as driver:
        chrome = driver.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield chrome
        chrome.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The folder that JupyterLab shows."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def address(browser, root, tmp_path_factory) -> Iterator[str]:
    with jupyterlab(root, tmp_path_factory.mktemp("jupyter")) as url:
        yield url


@pytest.fixture
def open_lab(browser, address, root) -> Iterator[Callable[..., Lab]]:
    """`open_lab("name.ipynb")` opens a notebook of the folder; with `cells` it is written first, beside a copy of each of `files`."""
    pages: list[Lab] = []

    def open_(name: str, cells: Sequence[str] = (), files: Sequence[Path] = ()) -> Lab:
        for file in files:
            shutil.copy(file, root)
        if cells:
            kernel = {
                "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
            }  # or JupyterLab asks
            nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata=kernel), root / name)
        pages.append(Lab(browser, address, name))
        return pages[-1]

    yield open_
    for page in pages:
        page.close()
