"""Self-test of chapter 01."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "01",
    "Rank and SVD",
    (
        Item(
            "01.q1",
            "A rank-1 update b aᵀ (no zeros in a or b) is added to a 576 × 576 matrix. How many of its entries change?",
            (
                Option("1", "Rank counts directions, not entries."),
                Option("1,152", "So many numbers store the update; it spreads over every entry."),
                Option("331,776", "All of them: entry (i, j) changes by b[i]·a[j]. Low rank is not sparse.", True),
            ),
        ),
        Item(
            "01.q2",
            "Which inputs does W + b aᵀ treat exactly as W does?",
            (
                Option("those at right angles to a", "a listens: where a·x = 0, nothing is added.", True),
                Option("those at right angles to b", "b says in which direction the output moves; it does not look at x."),
                Option("none", "A whole hyperplane of inputs is left alone."),
            ),
        ),
        Item(
            "01.q3",
            "The best rank-k approximation of W has what squared error (Frobenius)?",
            (
                Option("the sum of the squares of the singular values left out", "Eckart–Young: nothing of rank k does better than cutting the SVD.", True),
                Option("the (k+1)-th singular value", "That is the error in the spectral norm; the Frobenius error counts all that were left out."),
                Option("(n − k) / n of the whole", "Only when all singular values are equal."),
            ),
        ),
        Item(
            "01.q4",
            "W₀ of this model was measured. Is it of low rank?",
            (
                Option("No: it takes hundreds of 576 directions to hold 90 % of its energy.", "LoRA's bet is on the change ΔW, not on W₀.", True),
                Option("Yes, that is why LoRA works.", "A widely copied mistake. LoRA says nothing of W₀'s rank."),
                Option("It cannot be said: it was rounded to 4 bits.", "Rounding adds noise in every direction; it does not hide a low rank, and the spectrum can be measured."),
            ),
        ),
    ),
    revisit=("00.q1", "00.q4"),
)  # fmt: skip
