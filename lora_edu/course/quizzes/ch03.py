"""Self-test of chapter 03."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "03",
    "The LoRA layer",
    (
        Item(
            "03.q1",
            "W₀ = 0, B is the column (1, 2), A is the row (3, 0), r = 1 and α = 2. What does the layer answer to x = (1, 5)? (There is no bias.)",
            (
                Option("(6, 12)", "A x = 3: the 5 meets A's zero. B times 3 is (3, 6), and α/r = 2 doubles it.", True),
                Option("(3, 6)", "That is B (A x). The scale α/r = 2 is still to come."),
                Option("(36, 72)", "That is 3 times both entries of x. A's second entry is 0, so it does not hear the 5."),
                Option("(66, 0)", "With rows and columns exchanged, B listens to x and A speaks: that is (B A)ᵀ, the transposed product."),
            ),
        ),
        Item(
            "03.q2",
            "A layer draws a new random A at every call of `forward` and trains B alone. Of a silent start (Law 1), agreement with W₀ + s·B A "
            "at B ≠ 0 (Law 2) and exactly A and B training (Law 3), which still holds?",
            (
                Option("Law 1 alone", "B = 0 silences every A, also one that changes. At B ≠ 0 two calls already disagree, and A is no parameter.", True),
                Option("Laws 1 and 2", "Law 2 compares with one fixed matrix. This layer answers the same x differently each time."),
                Option("Laws 1 and 3", "Law 3 wants A among what trains, and here A is thrown away after each call."),
                Option("none of them", "Law 1 compares at B = 0, where A does not matter. So it cannot see this bug."),
            ),
        ),
        Item(
            "03.q3",
            "With r = 32 and α = 16 the division by r is forgotten. By what is the update too large?",
            (
                Option("16 times", "16 is what now stands before B A; what should stand there is 16/32."),
                Option("32 times", "Added is α·B A in place of (α/32)·B A.", True),
                Option("not at all: α is 16 in both", "α alone does not set the scale; α/r does."),
            ),
        ),
        Item(
            "03.q4",
            "A layer of 768×768 gets an adapter with r = 16. Then r is doubled and α is left alone. What happens to the number of trained entries "
            "and to the scale?",
            (
                Option("24,576 becomes 49,152; the scale halves", "r·(in + out) = 16·1536, and α/r has r below.", True),
                Option("12,288 becomes 24,576; the scale halves", "16·768 = 12,288 counts one factor. There are two."),
                Option("24,576 becomes 49,152; the scale stays", "The scale is α/r. It stays only if α is doubled too."),
                Option("589,824 stays; the scale halves", "768·768 = 589,824 is the full ΔW. The factors have r·(in + out) entries."),
            ),
        ),
        Item(
            "03.q5",
            "Cutting a fully trained ΔW down to rank 1 ruined it; training at rank 1 did well. Why is that no contradiction?",
            (
                Option("Training at rank 1 looks for the best rank-1 answer; cutting keeps a part of another answer.", "The best matrix near ΔW is not the best matrix for the task.", True),
                Option("Training at rank 1 ends with a higher rank.", "B A with r = 1 has rank 1 at every step."),
                Option("The cut was not the best one.", "Eckart–Young: no rank-1 matrix is nearer to ΔW. Near is not good."),
            ),
        ),
    ),
    revisit=("01.q1", "01.q2"),
)  # fmt: skip
