"""Self-test of chapter 02."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "02",
    "Is the update low-rank?",
    (
        Item(
            "02.q1",
            "A teacher's change has rank 6. You train W₀ + B A at r = 5, for as long as you like. What happens?",
            (
                Option("The error stops falling above zero.", "No matrix of rank 5 is the teacher's change; the best one misses the sixth singular value.", True),
                Option("The error reaches zero, only later.", "Time does not buy a direction that B A does not have."),
                Option("Training fails: the loss does not fall at all.", "It falls as far as five directions go. Only the rest is missing."),
            ),
        ),
        Item(
            "02.q2",
            "And at r = 12, with the same teacher of rank 6 and no noise?",
            (
                Option("It works as at r = 6; the room left over is not needed.", "A product of rank at most 12 can be a matrix of rank 6.", True),
                Option("It fails: r has to be 6 exactly.", "r is an upper limit on the rank of B A, and the change may stay below it."),
                Option("It is twice as exact.", "At r = 6 the error is zero but for rounding and unfinished steps. There is nothing left to halve."),
            ),
        ),
        Item(
            "02.q3",
            "ΔW of a 576 × 576 matrix holds 90 % of its energy in 90 directions. Why is that number alone no finding?",
            (
                Option("It must be held against what a Gaussian matrix of the same shape and W₀ need.", "“Few” is a comparison: noise of this shape needs about 294.", True),
                Option("Because 90 is more than 8.", "The count says nothing about the r that a task needs; it describes one matrix."),
                Option("Because the exact rank should be given.", "The exact rank of a trained ΔW is nearly always full, and says nothing."),
            ),
        ),
        Item(
            "02.q4",
            "On the digits network AdamW's ΔW needs about 14 directions for 90 % of its energy, and training at r = 2 reads more than 90 % of what training everything does. How do the two fit together?",
            (
                Option("The energy of one ΔW and the rank that a task needs are two questions.", "Training at r = 2 finds another change, one that has rank 2.", True),
                Option("They do not: r must be at least 14.", "That would hold if the change of rank 2 had to be a copy of that ΔW."),
                Option("At r = 2 training raises the rank of B A as it goes on.", "B A never has a rank above r."),
            ),
        ),
        Item(
            "02.q5",
            "“Pretrained weights are low-rank, so their updates are too.” What do the measurements of this chapter say?",
            (
                Option("W₀ is not low-rank, and an update needs fewer directions. The second does not follow from the first.", "Two matrices, two spectra. How few, the optimiser decides as well; and a network trained from random weights changed along as few.", True),
                Option("Both are low-rank.", "W₀ comes near noise in most matrices: count its directions in the widget."),
                Option("Neither: ΔW is as flat as noise.", "ΔW needs far fewer directions than W₀ and than noise."),
            ),
        ),
    ),
    revisit=("01.q3", "00.q2"),
)  # fmt: skip
