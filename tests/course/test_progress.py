"""Progress: kept, atomic, never lost to a broken file, and never touched by a test run; self-tests."""

import json
import multiprocessing
import os

import pytest
import torch

from lora_edu.course import predict, progress, reveal, store
from lora_edu.course.chapters import CHAPTERS
from lora_edu.course.exercises import ExerciseError, check
from lora_edu.course.selftest import Item, Option, quiz, quizzes


def test_progress_survives_a_restart(own_progress):
    assert "none yet" in str(progress())
    predict("03-a", "?", ["x", "y"], answer="x")
    reveal("03-a", "x")
    predict("03-b", "?", ["x", "y"], answer="x")
    reveal("03-b", "y")
    check("03.3", {"A random, B zero": (1, 1), "A zero, B random": (1, 1), "both zero": (1, 0), "both random": (0, 1)})
    stored = json.loads((own_progress / "progress.json").read_text(encoding="utf-8"))
    assert stored["exercises"]["03.3"] == {"solved": True, "tries": 1}
    line = next(line for line in str(progress()).splitlines() if line.startswith("03"))
    assert "1 of 2 right" in line and "1 of 4 solved" in line
    assert "1 of 2 right" in progress()._repr_html_()


@pytest.mark.parametrize(
    "broken", [b"{", b"[]", b'{"version": 99}', b'{"version": 1, "quizzes": 3}', b"\xff\xfe", b"[" * 100_000]
)
def test_an_unreadable_file_is_set_aside(own_progress, capsys, broken):
    path = own_progress / "progress.json"
    path.write_bytes(broken)
    store.put("exercises", "03.1", {"solved": True, "tries": 1})
    aside = own_progress / "progress.unreadable-1.json"
    assert aside.read_bytes() == broken and store.get("exercises", "03.1")["solved"]
    assert str(aside) in capsys.readouterr().out
    path.write_bytes(broken)
    assert store.load()["exercises"] == {} and (own_progress / "progress.unreadable-2.json").exists()


DONE, TRIED = {"solved": True, "tries": 1}, {"solved": False, "tries": 2}


def test_a_failed_write_loses_nothing_and_is_tried_again(own_progress, monkeypatch, capsys):
    store.put("exercises", "03.1", DONE)
    store.put("exercises", "03.9", DONE)
    before = (own_progress / "progress.json").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "replace", full)
        store.put("exercises", "03.2", TRIED)
        assert store.forget("03.9") == "Forgotten: 1 entry."
        assert (own_progress / "progress.json").read_bytes() == before
        assert store.load()["exercises"] == {"03.1": DONE, "03.2": TRIED}  # what was there, and what was done since
        assert capsys.readouterr().out.count("No space left") == 1
        assert sorted(p.name for p in own_progress.iterdir() if p.suffix == ".json") == ["progress.json"]
    store.put("exercises", "03.3", DONE)
    stored = json.loads((own_progress / "progress.json").read_text(encoding="utf-8"))
    assert stored["exercises"] == {"03.1": DONE, "03.2": TRIED, "03.3": DONE}
    assert "kept again" in capsys.readouterr().out


def test_a_folder_that_vanishes_takes_no_progress_with_it(own_progress, monkeypatch):
    store.put("exercises", "03.1", DONE)
    (own_progress / "in the way").write_text("a file", encoding="utf-8")
    monkeypatch.setattr(store, "path", lambda: own_progress / "in the way" / "progress.json")
    store.put("exercises", "03.2", DONE)
    assert store.get("exercises", "03.1") == DONE and store.get("exercises", "03.2") == DONE


def test_a_folder_that_cannot_be_read_is_said_once(own_progress, capsys):
    (own_progress / "progress.json").mkdir()
    assert store.load()["exercises"] == {} and store.get("quizzes", "03") is None
    assert capsys.readouterr().out.count("LORA_EDU_HOME") == 1


def test_a_tilde_is_the_home_folder_and_a_link_stays_a_link(own_progress, monkeypatch):
    monkeypatch.setenv("HOME", str(own_progress))
    monkeypatch.setenv("LORA_EDU_HOME", "~/here")
    (own_progress / "here").mkdir()
    (own_progress / "elsewhere").mkdir()
    link, target = own_progress / "here" / "progress.json", own_progress / "elsewhere" / "mine.json"
    link.symlink_to(target)
    for exercise in ("03.1", "03.2"):  # a link that points to nothing yet, and one that points to a file
        store.put("exercises", exercise, DONE)
        assert link.is_symlink() and json.loads(target.read_text(encoding="utf-8"))["exercises"][exercise] == DONE


@pytest.mark.parametrize(
    ("section", "key", "entry"),
    [
        ("exercises", "03.4", 5), ("exercises", "03.4", {"solved": True}), ("exercises", "03.4", {"solved": 1, "tries": "x"}), ("exercises", "03.4", None),
        ("predictions", "03-start", ["a"]), ("predictions", "03-start", {"answer": "x"}), ("quizzes", "03", True), ("quizzes", "03", {"03.q1": "yes"}),
        ("forms", "05-own-rows", 3),
    ],
)  # fmt: skip
def test_a_malformed_entry_is_left_out_and_its_file_kept(own_progress, capsys, section, key, entry):
    state = {"version": 1, "exercises": {"03.1": DONE}}
    state[section] = state.get(section, {}) | {key: entry}
    (own_progress / "progress.json").write_text(broken := json.dumps(state), encoding="utf-8")
    assert check("03.4", 3).status == "wrong" and quiz("03")._repr_mimebundle_() and progress()
    predict("03-start", "?", ["x", "y"], answer="x")
    assert "right" in str(reveal("03-start", "x"))
    assert store.get("exercises", "03.1") == DONE and store.get("exercises", "03.4")["tries"] == 1
    assert (own_progress / "progress.unreadable-1.json").read_text(encoding="utf-8") == broken
    assert not (own_progress / "progress.unreadable-2.json").exists() and repr(key) in capsys.readouterr().out


def test_any_text_can_be_kept(own_progress):
    store.put("forms", "05-own-rows", {"new": "\ud800 – ж"})
    assert store.get("forms", "05-own-rows") == {"new": "\ud800 – ж"}


def _count(folder, name):
    os.environ["LORA_EDU_HOME"] = folder
    for step in range(10):
        store.put("exercises", f"{name}.{step}", DONE | {"tries": step})


def test_two_notebooks_at_once_lose_nothing(own_progress):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_count, args=(str(own_progress), name)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(store.load()["exercises"]) == 20


def test_switched_off_nothing_is_touched(own_progress, monkeypatch):
    store.put("exercises", "03.1", {"solved": True, "tries": 1})
    before = (own_progress / "progress.json").read_bytes()
    monkeypatch.setenv("LORA_EDU_PROGRESS", "off")
    assert store.get("exercises", "03.1") is None
    predict("03-a", "?", ["x", "y"], answer="x")
    assert "right" in str(reveal("03-a", "x"))  # within the run it works, in memory
    assert (own_progress / "progress.json").read_bytes() == before
    assert "switched off" in str(progress()) and str(own_progress) not in str(progress())


@pytest.mark.parametrize("name", ["PYTEST_CURRENT_TEST", "CI"])
def test_a_test_run_never_touches_the_users_folder(monkeypatch, name):
    monkeypatch.delenv("LORA_EDU_HOME")
    for other in ("PYTEST_CURRENT_TEST", "CI"):
        monkeypatch.delenv(other, raising=False)
    assert not store.is_off()
    monkeypatch.setenv(name, "1")
    assert store.is_off()


@pytest.mark.parametrize("key", quizzes())
def test_quiz_as_text_and_form(key):
    card = quiz(key)
    bundle = card._repr_mimebundle_()
    for item in card.items:
        assert item.text in bundle["text/plain"]
        assert all(option.text in bundle["text/plain"] and option.why for option in item.options)
    assert bundle["text/html"].count("<details>") == len(card.items)
    assert "<ol" not in bundle["text/html"]  # JupyterLab would number a list that the answers letter
    assert quiz(key).text == card.text
    right = {item.id: next(option for option in item.options if option.right) for item in card.items}
    for item, row in zip(card.items, card.rows):
        _, choice, button, answer = row.children
        button.click()
        assert "Choose an answer first" in answer.value
        choice.value = next(option for option in item.options if not option.right)
        button.click()
        assert "✗" in answer.value
        choice.value = right[item.id]
        button.click()
        assert "✓" in answer.value
    assert f"0 of {len(card.items)} right at the first answer" in card.summary.value
    assert set(store.get("quizzes", key).values()) == {False}


def test_placement_gives_advice():
    card = quiz("placement")
    card.form()
    for item, row in zip(card.items, card.rows):
        row.children[1].value = next(option for option in item.options if option.right)
        row.children[2].click()
    assert "go on to chapter 01" in card.summary.value


@pytest.mark.parametrize("key", [key for key in quizzes() if key in CHAPTERS and key > "00"])
def test_chapter_quiz_revisits_two_earlier_questions(key):
    chosen = quizzes()[key]
    assert len(chosen.revisit) == 2 and all(id[:2] < key for id in chosen.revisit)
    assert len(quiz(key).items) == len(chosen.items) + 2


def test_right_answers_are_not_always_in_one_place():
    places = [
        letter for one in quizzes().values() for item in one.items for letter, option in item.shuffled() if option.right
    ]
    assert max(places.count(letter) for letter in "abc") < 0.6 * len(places)


def test_bad_quizzes_are_refused():
    with pytest.raises(ExerciseError, match="03"):
        quiz("no such")
    with pytest.raises(ExerciseError, match="exactly one"):
        Item("00.x", "?", (Option("a", "", True), Option("b", "", True)))
    with pytest.raises(ExerciseError, match="same text"):
        Item("00.x", "?", (Option("a", "", True), Option("a", "")))


def test_quiz_03_computes_what_it_says_and_names_nothing_of_later_chapters():
    answers = {item.id: next(o.text for o in item.options if o.right) for item in quizzes()["03"].items}
    A, B, x = torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 5.0])
    assert answers["03.q1"] == f"({', '.join(f'{value:g}' for value in (2 / 1 * B @ (A @ x)).tolist())})"
    assert answers["03.q4"].startswith(f"{16 * (768 + 768):,} becomes {32 * (768 + 768):,}")
    assert "q_proj" not in str(quiz("03"))
