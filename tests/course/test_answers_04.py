"""Chapter 04's checkers take right answers in any style, and a coincidence in one case names no bug."""

import re

import pytest
from answers_04 import TARGETS, growth, impostors
from kit import ask


@pytest.mark.parametrize(
    "kind", [re.compile, lambda pattern: re.compile(f"^{pattern}$"), lambda pattern: f"(?:{pattern})"]
)
def test_an_expression_may_be_written_in_any_way(kind):
    assert (found := ask("04.2", TARGETS | {"late down": kind(TARGETS["late down"])})).passed, str(found)


@pytest.mark.parametrize("kind", [tuple, set, iter, lambda names: (name for name in names)])
def test_names_may_come_in_any_collection(kind):
    assert (found := ask("04.2", TARGETS | {"attention": kind(TARGETS["attention"])})).passed, str(found)
    assert (found := ask("04.3", lambda model, paths: kind(impostors(model, paths)))).passed, str(found)


def test_names_may_be_yielded_one_by_one():
    def one_by_one(model, paths):
        for name, parameter in model.named_parameters():
            path, _, factor = name.rpartition(".lora_")
            should = path in paths and factor in ("A.default", "B.default")
            if parameter.requires_grad != should:
                yield name

    assert (found := ask("04.3", one_by_one)).passed, str(found)


def test_a_factor_of_a_number_is_no_forgotten_matrix():
    """5 matrices and 3, never 4 or 2: what is missing from one entry must not look like another entry's bug."""
    for wrong in (1, 2, 3):
        found = ask("04.4", lambda s, t, a, b, wrong=wrong: growth(s, t, a, b) - wrong * (b - a) * t * len(s))
        assert "counted once" not in found.bug, str(found)


def test_what_is_no_name_is_told_by_its_kind():
    for wrong in (lambda model, paths: list(model.parameters()), lambda model, paths: list(model.named_parameters())):
        found = ask("04.3", wrong)
        assert found.bug == "not a set of names" and len(found.message) < 200, str(found)
