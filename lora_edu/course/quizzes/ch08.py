"""Self-test of chapter 08."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "08",
    "α, r and the learning rate",
    (
        Item(
            "08.q1",
            "A run with Adam, one learning rate and α = 2r. Which run at α = r is the same?",
            (
                Option("both learning rates doubled", "A's steps would be twice as long too, and A's start was not doubled."),
                Option("B's learning rate doubled, A's as it was", "s·B is what the layer uses. Without the factor 2, B has to take steps twice as long.", True),
                Option("none: α is a setting of its own", "Under Adam α and B's rate stand in one product. Only that product counts."),
            ),
        ),
        Item(
            "08.q2",
            "Somebody raises α fourfold, trains with Adam at the old learning rate, and finds a lower loss. What has been shown?",
            (
                Option("a larger α is better", "α was not compared at its own best rate and at the old one's; it moved B's rate."),
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
            "Two ranks, three seeds each, one rate that is best for both. The mean gain is 0.10, its standard error 0.16. What do you say?",
            (
                Option("the larger rank is better by 0.10", "The error is larger than the gain: other seeds may turn the sign."),
                Option("there is no difference", "Three seeds cannot say that either: a gain of 0.3 would fit as well."),
                Option("not shown: more seeds, or a smaller claim", "A gain below about two standard errors has not been shown; with three pairs even two are few.", True),
            ),
        ),
    ),
    revisit=("03.q2", "06.q1"),
)  # fmt: skip
