"""A class's predictions: counted once each, without names, shown to the teacher alone; from files and from a room."""

import json
import threading

import pytest
from command_line import run, said
from helpers import NOTEBOOKS

from lora_edu.course import forget, predict, predictions
from lora_edu.course.classroom import room
from lora_edu.course.classroom.ballots import Box, as_html, histogram, questions
from lora_edu.course.classroom.roster import ClassroomError
from lora_edu.course.predictions import Question
from lora_edu.course.store import path

START, SHARE = "03-silent-start", "03-parameters"
KEY = "the teacher's key"


@pytest.fixture(scope="module")
def known():
    return questions(NOTEBOOKS)


def counts(bars):
    return [bar.votes for bar in bars]


def test_questions_are_the_pages_own(known):
    assert known[START].options[0] == "not at all" and known[SHARE].between == (0.0, 20.0) and known[SHARE].unit == "%"
    assert len(known) > 60


def test_the_first_answer_of_a_voter_counts_and_nonsense_does_not(known):
    box = Box(known)
    for voter, answer in (("a" * 8, "b"), ("b" * 8, "not at all"), ("a" * 8, "c")):
        box.vote(START, voter, answer)
    assert counts(box.bars(START)) == [1, 1, 0]
    for question, voter, answer in (
        (START, "c" * 8, "d"),
        ("03-none", "c" * 8, "a"),
        (START, "Ada Lovelace", "a"),
        (SHARE, "c" * 8, "much"),
    ):
        with pytest.raises(ClassroomError):
            box.vote(question, voter, answer)
    assert counts(box.bars(START)) == [1, 1, 0]


def test_numbers_fall_into_bars_that_lose_none():
    question = Question("03-x", "How much?", unit="%")
    assert histogram(question, []) == [] and counts(histogram(question, [2.0, 2.0])) == [2]
    bars = histogram(question, [0.0, 1.0, 9.9, 10.0, 10.0])
    assert counts(bars) == [2, 0, 0, 3]
    assert "<script>" not in as_html(Question("03-x", "<script>"), bars)


def test_files_that_were_handed_in(tmp_path, known):
    for name, answer in (("one", "a"), ("two", "a"), ("three", "b")):
        forget("")
        predict(START, known[START].text, known[START].options, answer=answer)
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.json").write_bytes(path().read_bytes())
    (tmp_path / "in" / "broken.json").write_text('{"predictions": {"03-silent-start": 3}}', "utf-8")
    result = run("course", "collect", tmp_path / "in", "--question", START)
    assert (
        result.exit_code == 0
        and "3 locked answers" in said(result)
        and "a) not at all" in said(result)
        and "Not read:" in said(result)
        and "broken.json" in said(result)
    )
    assert run("course", "collect", tmp_path / "in", "--question", "03-none").exit_code == 1
    (tmp_path / "in" / "Ada").mkdir()
    (tmp_path / "in" / "Ada" / "progress.json").write_text("{}", "utf-8")
    named = said(run("course", "collect", tmp_path / "in"))
    assert "Ada/progress.json: it is no progress.json" in named.replace("\\", "/")
    listed = said(run("course", "collect", "--list"))
    assert START in listed and known[START].text in listed
    (tmp_path / "empty").mkdir()
    assert "no file of predictions" in said(run("course", "collect", tmp_path / "empty"))


@pytest.fixture
def visitor(known):
    from starlette.testclient import TestClient

    box = Box(known)
    return TestClient(room.create_room(box, "K7QDX", KEY, START)), box


def test_a_room_takes_votes_and_shows_them_to_the_teacher_alone(visitor):
    client, box = visitor
    page = client.get("/k7qdx")
    assert page.status_code == 200 and "a) not at all" in page.text and "locked answers" not in page.text
    assert client.post("/K7QDX/vote", json={"question": START, "voter": "a" * 16, "answer": "b"}).json() == {
        "locked": True
    }
    assert client.post("/K7QDX/vote", json={"question": START, "voter": "a" * 16, "answer": "a"}).json() == {
        "locked": True
    }
    assert counts(box.bars(START)) == [0, 1, 0]
    assert client.get("/WRONG").status_code == client.post("/WRONG/vote", json={}).status_code == 404
    assert client.get("/K7QDX/show").status_code == 403
    before = client.get("/K7QDX/show", params={"key": KEY}).text
    assert "1 locked answer<" in before and "<table" not in before, "what was voted shows before the teacher wants it to"
    assert ">1</td>" in client.get("/K7QDX/show", params={"key": KEY, "bars": ""}).text
    client.get("/K7QDX/show", params={"key": KEY, "question": SHARE})
    assert "A number" in client.get("/K7QDX").text


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"[" * 3_000, b"x" * 5_000, b'{"question": [], "voter": 1, "answer": {}}', b"\xff"]
)
def test_a_room_stands_what_is_no_vote(visitor, body):
    client, box = visitor
    assert client.post("/K7QDX/vote", content=body).status_code in (400, 413)
    assert box.votes.get(START, {}) == {}


def test_what_is_locked_in_a_notebook_reaches_the_room_without_a_name(known, monkeypatch):
    """Over a socket, as in a class."""
    import time

    import uvicorn

    from lora_edu.serving.running import bind

    box, place = Box(known), bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(room.create_room(box, "K7QDX", KEY, START), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{place.getsockname()[1]}"
    monkeypatch.setattr(predictions, "on_lock", [])
    try:
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(ClassroomError, match="no room answers"):
            room.join(f"{address}/WRONG")
        assert "Joined" in str(room.join(f"{address}/K7QDX"))
        predict(START, known[START].text, known[START].options, answer="c")
        predict(START, known[START].text, known[START].options, answer="a")  # locked already: not sent again
    finally:
        server.should_exit = True
        thread.join(10)
    assert counts(box.bars(START)) == [0, 0, 1]
    assert "name" not in json.dumps(box.votes)
