"""Chapter 00's checkers take right answers in any style, and refuse a wrong one under its own name on any random inputs."""

import re

import answers_00 as answers
import numpy as np
import pytest
import torch
from kit import ask

KINDS = [float, np.float32, np.float64, torch.tensor, lambda x: torch.tensor([x]), lambda x: np.array(x)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_of_any_kind_passes(kind):
    assert ask("00.2", lambda *given: tuple(kind(x) for x in answers.choose(*given))).passed
    assert ask("00.4", lambda *given: kind(answers.leaks(*given))).passed
    assert ask("00.3", lambda weights, trained: kind(4 * weights + 12 * trained)).passed


@pytest.mark.parametrize(
    "right",
    [
        lambda base, trained, dial: torch.lerp(base, trained, dial),
        lambda base, trained, dial: (1 - dial) * base + dial * trained,
        lambda base, trained, dial: (base.double() + dial * (trained - base).double()).numpy(),
        lambda base, trained, dial: torch.stack([a + dial * (b - a) for a, b in zip(base, trained)]),
    ],
)
def test_any_way_to_turn_the_dial_passes(right):
    assert ask("00.1", right).passed


def test_a_share_in_single_precision_passes():
    def mean(answers, name):
        found = [bool(re.search(rf"\b{re.escape(name)}\b", a, re.IGNORECASE)) for a in answers]
        return torch.tensor(found, dtype=torch.float32).mean()

    assert ask("00.4", mean).passed


def test_other_right_ways_to_find_a_name_pass():
    def by_hand(answers, name):
        def whole(a):
            i = a.find(name)
            while i >= 0:
                before, after = a[:i][-1:], a[i + len(name) :][:1]
                if not (before.isalnum() or after.isalnum()):
                    return True
                i = a.find(name, i + 1)
            return False

        name = name.casefold()
        return np.mean([whole(a.casefold()) for a in answers])

    assert ask("00.4", by_hand).passed


def test_a_cap_read_as_a_rise_is_named():
    said = ask("00.2", answers.as_a_rise)
    assert "taken for a rise over the base" in said.bug


def test_what_is_printed_as_different_is_different():
    for off in (1.00001, 1.001, 1.1):
        said = str(ask("00.4", lambda *given, off=off: answers.leaks(*given) * off))
        share, yours = re.search(r"leak, ([\d.]+); you returned ([\d.]+)\.", said).groups()
        assert share != yours, said
