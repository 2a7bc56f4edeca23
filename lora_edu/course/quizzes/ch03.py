"""Self-test of chapter 03."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "03",
    "The LoRA layer",
    (
        Item(
            "03.q1",
            "A fresh LoRA layer has A random and B = 0. After one step of SGD, which of the two has moved?",
            (
                Option("B alone", "∂A = s·Bᵀ G is 0 while B is 0; ∂B = s·G Aᵀ is not.", True),
                Option("A alone", "It is the other way round: A's gradient passes through B, which is 0."),
                Option("both", "From the second step on. At the first one, A's gradient is exactly 0."),
                Option("neither", "Then it could never learn. Silent is not dead."),
            ),
        ),
        Item(
            "03.q2",
            "Someone starts both A and B at zero. What happens?",
            (
                Option("The layer is silent and stays so for ever.", "Both gradients hold the other factor, and both are 0.", True),
                Option("It learns, only slower at first.", "Exactly zero is not small: no step ever leaves it."),
                Option("The output changes at once.", "B A = 0: nothing is added."),
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
            "A merge adds A.T @ B.T to W₀ by mistake. On which layers does nobody get an error?",
            (
                Option("on square ones", "(in, out) equals (out, in) there: it runs, and the answers are wrong.", True),
                Option("on all of them", "On a rectangular layer the shapes do not fit."),
                Option("on none", "On square layers, as q_proj often is, the shapes fit."),
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
