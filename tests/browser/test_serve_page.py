"""The chat page of `lora-edu serve` in a real browser: an adapter, its dial, the base beside it, and no other server asked."""

import pytest
from serving_kit import live, make_catalogue

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    from command_line import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def adapters(model_folder, tmp_path_factory):
    from helpers import randomise

    from lora_edu.adapters import LoRAConfig, inject, save
    from lora_edu.models import load_base

    folder = tmp_path_factory.mktemp("adapters") / "small"
    save(randomise(inject(load_base(model_folder, device="cpu").model, LoRAConfig(r=2)), std=0.5), folder)
    return {"small": folder}


@pytest.fixture
def open_page(browser, model_folder, adapters):
    """`open_page(key)` opens the page of a server of its own; yields (page, what it complained of)."""
    closing = []

    def open_(api_key=None):
        catalogue = make_catalogue(model_folder, adapters, ("small",))
        server = live(catalogue, api_key)
        address, _ = server.__enter__()
        page = browser.new_page()
        faults, asked = [], []
        page.on("console", lambda message: message.type == "error" and faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        closing.extend((page.close, lambda: server.__exit__(None, None, None)))
        return page, faults, asked, address

    yield open_
    for close in closing:
        close()


def say(page, text):
    page.get_by_label("Question").fill(text)
    page.keyboard.press("Enter")


def answers(page, side):
    return page.locator(f"#{side} li.assistant")


def finished(page):
    page.wait_for_function("() => !document.getElementById('send').disabled && document.getElementById('status').textContent === 'Ready.'")  # fmt: skip


def test_an_adapter_and_the_base_answer_side_by_side(open_page):
    page, faults, asked, address = open_page()
    page.get_by_role("heading", name="small", exact=True).wait_for()
    page.get_by_label("Longest answer").fill("6")
    say(page, "hi")
    page.wait_for_function("() => document.querySelector('#left li.assistant')?.textContent && document.querySelector('#right li.assistant')?.textContent")  # fmt: skip
    finished(page)
    left, right = answers(page, "left").inner_text(), answers(page, "right").inner_text()
    assert left != right
    page.get_by_label("Dial").focus()
    for _ in range(4):
        page.keyboard.press("ArrowLeft")  # from 1 to 0: the base
    page.get_by_role("heading", name="small@0", exact=True).wait_for()
    page.wait_for_function("() => !document.querySelector('li')")  # a new talk
    say(page, "hi")
    page.wait_for_function("() => document.querySelector('#left li.assistant')?.textContent")
    finished(page)
    assert answers(page, "left").inner_text() == answers(page, "right").inner_text() == right
    page.get_by_label("Adapter").select_option("tiny")
    page.locator("#right").wait_for(state="hidden")
    assert page.get_by_label("Dial").is_disabled()
    assert faults == [] and asked and all(url.startswith(address) for url in asked)


def test_a_refusal_is_shown_and_the_talk_goes_on(open_page):
    page, _, _, _ = open_page()
    page.get_by_role("heading", name="small", exact=True).wait_for()
    page.get_by_label("Longest answer").fill("6")
    say(page, "x" * 90)
    page.get_by_text("shorten the messages").first.wait_for()
    page.get_by_text("Not every question was answered.").wait_for()
    say(page, "hi")
    page.wait_for_function("() => document.querySelectorAll('#left li.assistant').length === 2")
    finished(page)
    assert "shorten" not in answers(page, "left").nth(1).inner_text()


def test_a_key_is_asked_for_and_text_is_no_markup(open_page):
    page, _, _, _ = open_page("0123456789abcdef")
    page.get_by_label("This server asks for a key").fill("0123456789abcdef")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="small", exact=True).wait_for()
    page.get_by_label("Longest answer").fill("3")
    say(page, "<b id=bold>hi</b>")
    finished(page)
    assert page.locator("#bold").count() == 0 and page.locator("#left li.user").inner_text() == "<b id=bold>hi</b>"
