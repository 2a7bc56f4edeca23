"""Chapter 16: right answers in other styles pass, and more wrong ones are named."""

import answers_16 as answers
import numpy as np
import pytest
import torch
from kit import ask, prove
from right_layers import Einsum
from torch import nn


@pytest.mark.parametrize("id", answers.ANSWERS)
def test_solution_stub_and_planted_bugs(id):
    prove(id, answers.ANSWERS[id])


class ByAddmm(answers.Repaired):
    @torch.no_grad()
    def merge(self):
        if self.kept is not None:
            raise RuntimeError("merged already")
        self.kept = self.base_layer.weight.detach().clone()
        self.base_layer.weight.addmm_(self.B, self.A, alpha=self.scale)


class UniformA(answers.Repaired):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__(base_layer, r, lora_alpha)
        nn.init.kaiming_uniform_(self.A, a=5**0.5)


@pytest.mark.parametrize(
    "id, answer",
    [
        ("16.1", ByAddmm),
        ("16.1", UniformA),
        ("16.2", {letter: f"law {law}" for letter, law in answers.RIGHT_LAWS.items()}),
        ("16.2", {letter: np.int64(law) for letter, law in answers.RIGHT_LAWS.items()}),
        ("16.2", {letter: str(law) for letter, law in answers.RIGHT_LAWS.items()}),
        ("16.3", answers.by_state_dict),
        ("16.3", answers.raised_by_hand),
        ("16.3", answers.with_a_subclass),
        ("16.3", answers.by_testing),
        ("16.4", answers.in_tensors),
        ("16.4", answers.by_sorting),
    ],
)
def test_a_right_answer_in_another_style_passes(id, answer):
    assert (result := ask(id, answer)).passed, str(result)


@pytest.mark.parametrize(
    "id, answer, bug",
    [
        ("16.1", answers.AlphaAlone, "law 2"),
        ("16.1", answers.Unscaled, "law 5 is broken"),
        ("16.1", Einsum, "law 5 cannot be judged"),
        ("16.1", answers.Repaired(nn.Linear(3, 3), 1, 1), "not a layer class"),
        ("16.2", answers.RIGHT_LAWS | {"e": 1}, "another law for e"),
        ("16.2", [1, 2, 3], "other keys"),
        (
            "16.3",
            lambda model, tensors: print(end=""),
            "a prefix before every key is not noticed",
        ),
        ("16.3", "assert", "not a function"),
        ("16.4", lambda runs: 0.5, "not one loss a method"),
        ("16.4", lambda runs: {"LoRA": 0.5}, "not one loss a method"),
        ("16.4", lambda runs: dict.fromkeys({run["method"] for run in runs}, 0.123), "another number"),
    ],
)
def test_more_wrong_answers_are_named(id, answer, bug):
    assert bug in (ask(id, answer).bug or "it passes")


def test_half_an_answer_says_what_is_open():
    result = ask("16.2", answers.RIGHT_LAWS | {"d": ...})
    assert result.status == "not attempted" and "d" in str(result)
