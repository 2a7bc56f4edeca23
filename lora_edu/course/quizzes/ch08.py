"""Self-test of chapter 08."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "08",
    "α, r and the learning rate",
    (
        Item(
            "08.q1",
            "LoRA+ with ratio 16 at α = r, Adam. Which run with one learning rate for both factors is the same?",
            (
                Option("none: one rate cannot stand for two", "One rate and α are two numbers, and so is a place on the knob map."),
                Option("α = 16r, at LoRA+'s rate of A", "x is A's rate as before, and y has its factor 16 from s.", True),
                Option("α = r, at four times A's rate", "x would be four times as large. It has to stay, and y has to grow sixteenfold."),
            ),
        ),
        Item(
            "08.q2",
            "Somebody raises α fourfold, trains with Adam at the old learning rate, and finds a lower loss. What has been shown?",
            (
                Option("a larger α is better", "Neither α was given its own best rate. A step of α is a step of B's rate."),
                Option("B's learning rate was below its best", "That is what a fourfold α is: a fourfold rate for B. A sweep of the rate would have found it.", True),
                Option("the rank was too small", "The rank was not changed."),
            ),
        ),
        Item(
            "08.q3",
            "What makes “four knobs are two” wrong?",
            (
                Option("a larger rank", "The law holds at each r: it compares runs of one rank."),
                Option("SGD in place of Adam, with the same rates", "SGD's step grows with the gradient, which has s in it: there the rates go with the squares.", True),
                Option("other data", "Nothing in the argument looks at the data."),
            ),
        ),
        Item(
            "08.q4",
            "With α/r and Adam, r = 64 and r = 8 have nearly the same loss after eight steps, at a small rate. What does that say of r = 64?",
            (
                Option("the extra rank is useless", "Eight steps do not use up even a small rank. What is learnt later was not asked."),
                Option("that α/r gives early steps one size; nothing of what the rank is good for later", "The scale divides what the many pairs add up to.", True),
                Option("that it has been trained wrongly", "It is what α/r was made for."),
            ),
        ),
        Item(
            "08.q5",
            "Two ranks, three pairs of runs, α = 16, each rank at its own best rate. The mean gain is 0.10, its standard error 0.04. What do you say?",
            (
                Option("the larger rank is better: 0.10 is more than two errors", "With three pairs it takes 4.3 errors; and α = 16 is one line of the map."),
                Option("there is no difference", "Three pairs cannot say that either: a gain of 0.2 would fit as well."),
                Option("not shown: more seeds, and each rank at its own best point of the map", "Both the bar for three pairs and the line of the map are in that number.", True),
            ),
        ),
    ),
    revisit=("03.q2", "06.q1"),
)  # fmt: skip
