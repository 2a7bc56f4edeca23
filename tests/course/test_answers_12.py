"""Exercises of chapter 12 take right answers in any style, whatever is drawn; and name wrong ones beyond those of `ANSWERS`."""

import pytest
from answers_12 import ANSWERS, MORE_WRONG, RIGHT
from kit import ask

from lora_edu.course import exercises


@pytest.mark.parametrize("seed", range(4))
def test_so_it_is_whatever_is_drawn(seed, monkeypatch):
    monkeypatch.setattr(exercises.secrets, "randbits", lambda bits: seed)
    for id, styles in RIGHT.items():
        for answer in (ANSWERS[id].solution, *styles):
            assert (result := ask(id, answer)).passed, str(result)
    for id, answer, bug in [
        *MORE_WRONG,
        *((id, wrong, bug) for id, a in ANSWERS.items() for bug, wrong in a.bugs.items()),
    ]:
        assert bug in ((result := ask(id, answer)).bug or "it passes"), str(result)
