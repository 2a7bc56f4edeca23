"""The written report in a real browser: it shows itself, in light and dark, asks nobody for anything, and runs nothing."""

import pytest
from report_pages import EVIL, Page, report

from lora_edu.evaluation import compare, write_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    reports = {"base": report(2), "tuned": report(7, evil=True)}
    return write_report(
        tmp_path_factory.mktemp("report") / "report.html",
        reports,
        comparison=compare(reports),
        trained={"tuned": {"base": EVIL}},
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_report_opens_by_itself(browser, path, theme):
    page = browser.new_page(color_scheme=theme)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.get_by_role("heading", name="Scores").wait_for()
    page.get_by_role("img", name="exact match: base").wait_for()
    page.get_by_text("another answer", exact=False).first.click()  # a folded group opens without a script
    page.get_by_text("<script>alert", exact=False).first.wait_for()
    ink, paper = (
        page.evaluate(f"() => getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor")
    )
    bright = [max(int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]) for colour in (ink, paper)]
    assert (bright[0] > 180 > 60 > bright[1]) if theme == "dark" else (bright[1] > 180 > 60 > bright[0])
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth"), (
        "it is wider than the window"
    )
    assert said == [] and asked == [path.as_uri()]
    page.close()


def test_the_test_would_see_a_script(browser, path, tmp_path):
    """The same page without its escaping: the policy stops what the answer brings, and the browser says so."""
    broken = tmp_path / "broken.html"
    broken.write_text(
        path.read_text("utf-8")
        .replace("&lt;script&gt;", "<script>")
        .replace("&lt;/script&gt;", "</script>")
        .replace("&quot;", '"')
    )
    assert [tag for tag, _ in Page(broken.read_text("utf-8")).tags if tag == "script"]
    page = browser.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(broken.as_uri())
    page.get_by_role("heading", name="Scores").wait_for()
    assert any("Content Security Policy" in text for text in said)
    page.close()
