"""Wrong answers in groups: each planted mistake lands in its own, and right answers in none."""

import pytest
from tiny_tokenizer import make_tokenizer

from lora_edu.data import Row
from lora_edu.errors import DataError
from lora_edu.evaluation import Report, Score, bleu, exact_match, extremes, json_slots, wrong_answers


def report(asked, said, wanted, loss=None, **meta):
    rows = [Row.chat(f"Label this: {q}", w, input=q, **meta) for q, w in zip(asked, wanted, strict=True)]
    scores = {"exact match": exact_match(said, wanted)} | ({"loss": loss} if loss else {})
    return Report("a task", "test", "exact match", [*rows, Row.text("a passage")], list(said), scores)


LABELS = ["joy", "anger"] * 6
SAID = ["", "anger", "JOY.", "It is anger", "anger", "q5", "dunno", "anger", "joy", "joy", "joy", "anger"]


def test_each_mistake_has_its_group():
    found = wrong_answers(report([f"q{n}" for n in range(12)], SAID, LABELS))
    assert found.counts() == {
        "copied input": 1,
        "empty": 1,
        "no label": 1,
        "right but for case or punctuation": 1,
        "right, and more around it": 1,
        "“anger” called “joy”": 1,
        "“joy” called “anger”": 1,
    }
    assert [wrong.row for wrong in found.groups["“joy” called “anger”"]] == [5] and len(found) == 7
    assert "7 of 12 answers are wrong" in str(found)
    assert found.html().count("<details>") == 7


def test_the_largest_group_comes_first_and_free_answers_are_no_labels():
    wanted = [f"answer {n}" for n in range(10)]
    said = [*wanted[:2], *["Paris"] * 5, *[""] * 3]
    found = wrong_answers(report(wanted, said, [f"{w}!" for w in wanted]))
    assert list(found.counts().items()) == [
        ("another answer", 5),
        ("empty", 3),
        ("right but for case or punctuation", 2),
    ]


def test_cut_off_and_unreadable_answers():
    wanted = [f'{{"n": {n}}}' for n in range(3)]
    said = ["so be it", '{"n": 1, "and', '{"n": 7}']
    made = report(["a", "b", "c"], said, wanted)
    assert wrong_answers(made, reads=json_slots).counts() == {"cannot be read": 2, "another answer": 1}
    tokenizer = make_tokenizer()  # a token a character
    found = wrong_answers(made, tokenizer=tokenizer, max_new_tokens=12, reads=json_slots)
    assert found.counts() == {"another answer": 1, "cannot be read": 1, "cut off": 1}


def test_accepted_answers_count_as_wanted():
    made = report(["a"], ["The answer is 8."], ["eight"], accepted=["8", "eight"])
    assert wrong_answers(made).counts() == {"right, and more around it": 1}


def test_what_an_answer_holds_is_text_and_not_a_page():
    page = wrong_answers(report(["<b>q</b>"], ["<script>alert(1)</script>"], ["x"])).html()
    assert "<script" not in page and "&lt;script&gt;" in page and "<b>" not in page


def test_a_score_that_calls_no_row_right_is_refused():
    made = report(["a"], ["b"], ["c"])
    made.scores["BLEU"] = bleu(["b"], ["c"])
    with pytest.raises(DataError, match="no share of right answers"):
        wrong_answers(made, "BLEU")
    with pytest.raises(DataError, match="it has exact match, BLEU"):
        wrong_answers(made, "accuracy")


def test_best_and_worst_by_verdict_then_by_loss():
    import numpy as np

    loss = Score(np.array([[4.0, 2], [1.0, 2], [9.0, 1], [1.0, 10]]))
    made = report(["a", "b", "c", "d"], ["x", "b", "c", "x"], ["a", "b", "c", "d"], loss)
    best, worst = extremes(made, 2)
    assert [wrong.asked for wrong in best] == ["b", "c"] and [wrong.asked for wrong in worst] == ["a", "d"]
    best, worst = extremes(made, 3)
    assert len(best) == 3 and len(worst) == 1, "no row is both"
