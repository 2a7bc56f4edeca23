"""Self-test of chapter 01."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "01",
    "Rank and SVD",
    (
        Item(
            "01.q1",
            "The change b aᵀ (no zeros in a or b) is added to a 576 × 576 matrix. How many of its entries change?",
            (
                Option("1", "Rank counts directions, not entries."),
                Option("1,152", "So many numbers are stored, a and b together; the change spreads over every entry."),
                Option("331,776", "All of them: entry (i, j) changes by b[i]·a[j]. Low rank is not sparse.", True),
            ),
        ),
        Item(
            "01.q2",
            "Which inputs does W + b aᵀ treat exactly as W does?",
            (
                Option("those at right angles to a", "a listens: where a·x = 0, nothing is added.", True),
                Option("those at right angles to b", "b says in which direction the output moves; it does not look at x."),
                Option("none", "All inputs at right angles to one vector are left alone: 575 of 576 directions, in a 576-wide layer."),
            ),
        ),
        Item(
            "01.q3",
            "W is cut to its r strongest directions. What is the squared error, summed over all entries?",
            (
                Option("the sum of the squares of the singular values left out", "And by Eckart and Young nothing of rank r has a smaller one.", True),
                Option("the first singular value left out", "That is the longest output that an input of length 1 loses; the sum over all entries counts every singular value left out."),
                Option("(n − r) / n of the whole, in an n × n matrix", "Only when all singular values are equal."),
            ),
        ),
        Item(
            "01.q4",
            "W₀ of this model was measured. Is it of low rank?",
            (
                Option("No: 90 % of its energy is spread over more than a hundred of its 576 directions.", "LoRA's bet is on the change ΔW, not on W₀.", True),
                Option("Yes, that is why LoRA works.", "A widely copied mistake. LoRA says nothing of W₀'s rank."),
                Option("No: its spectrum is that of noise.", "It lies between: W₀ needs clearly fewer directions than noise of its shape, and still far more than a few."),
            ),
        ),
    ),
    revisit=("00.q1", "00.q4"),
)  # fmt: skip
