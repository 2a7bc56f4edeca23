"""What was forgotten, in nats and in answers, on reports with planted changes and on a real (tiny) model."""

import math

import numpy as np
import pytest
from conftest import make_tiny_llama
from tiny_tokenizer import make_tokenizer

from lora_edu.data import Row, encode
from lora_edu.errors import DataError
from lora_edu.evaluation import Report, Score, evaluate, forgotten, mean_nll, share, sign_test, token_perplexity
from lora_edu.tasks import get_task

QUESTIONS = [Row.chat(f"Question {n}?", f"answer {n}", accepted=[f"answer {n}"]) for n in range(12)]
PASSAGES = [Row.text(f"Passage number {n}.") for n in range(8)]


def report(right, nats, rows=(*QUESTIONS, *PASSAGES)):
    tokens = np.array([10, 20, 30, 40] * 2)
    scores = {
        "trivia": share([n in right for n in range(12)]),
        "perplexity": Score(np.stack([tokens * np.asarray(nats), tokens], 1), token_perplexity),
    }
    said = [f"answer {n}" if n in right else "Lulu" for n in range(12)]
    return Report("general", "test", "trivia", list(rows), said, scores)


def test_nats_are_after_less_before_a_token_and_paired():
    before = np.linspace(2, 4, 8)
    found = forgotten(report({1, 2}, before), report({1, 2}, before + 0.3))
    assert found.nats.interval == pytest.approx((0.3, 0.3, 0.3)) and found.nats.p < 0.01
    harder = forgotten(report({1, 2}, before), report({1, 2}, before + [1, 0, 0, 0] * 2)).nats.interval
    assert harder.value == pytest.approx(10 / 100), "each token weighs alike, not each passage"
    ratio = report({1}, before + 0.3).scores["perplexity"].value / report({1}, before).scores["perplexity"].value
    assert math.log(ratio) == pytest.approx(0.3)


def test_answers_lost_and_gained_are_named_and_tested():
    found = forgotten(report(set(range(9)), np.ones(8)), report({0, 1, 11}, np.ones(8)))
    assert [change.question for change in found.lost] == [f"Question {n}?" for n in range(2, 9)]
    assert found.lost[0].before == "answer 2" and found.lost[0].after == "Lulu"
    assert [change.question for change in found.gained] == ["Question 11?"]
    assert found.answered.interval.value == pytest.approx(-6 / 12) and found.answered.p == sign_test(1, 7)
    assert "trivia lost, gained" in str(found) and "7, 1" in str(found)
    page = found._repr_html_()
    assert "Question 11?" in page and page.count("<table>") == 3


def test_a_model_and_its_disturbed_self_on_the_general_task():
    tokenizer = make_tokenizer()
    model = make_tiny_llama(vocab_size=len(tokenizer))
    task = get_task("general")
    before = evaluate(model, tokenizer, task, limit=3, max_length=2000)
    model.lm_head.weight.data *= 3
    after = evaluate(model, tokenizer, task, limit=3, max_length=2000)
    found = forgotten(before, after)
    texts = [encode(row, tokenizer, 2000) for row in after.rows if row.is_text]
    now = mean_nll(model, texts).value
    model.lm_head.weight.data /= 3
    assert found.nats.interval.value == pytest.approx(now - mean_nll(model, texts).value, rel=1e-3) and now > 0


def test_other_reports_are_refused():
    good = report({1}, np.ones(8))
    with pytest.raises(DataError, match="no trivia and no passages"):
        forgotten(good, Report("kjv", "test", "BLEU", [], [], {}))
    with pytest.raises(DataError, match="same rows"):
        forgotten(good, report({1}, np.ones(8), (*QUESTIONS[::-1], *PASSAGES)))
