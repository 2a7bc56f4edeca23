"""Self-test of chapter 09."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "09",
    "Where and how much",
    (
        Item(
            "09.q1",
            "At one learning rate, an adapter on the last layers is worse than one on all of them, at equal parameters. What does that show?",
            (
                Option("the last layers are the wrong place", "It shows it for that rate. At another rate the order may be another."),
                Option("that at this rate they are worse; each place has to be tried at its own", "A place is compared at the best rate it has, chosen on validation rows, inside its grid.", True),
                Option("the parameters were not really equal", "They were. The rate was equal too, and that is what should not have been taken for granted."),
            ),
        ),
        Item(
            "09.q2",
            "Four places are compared with a fifth, five paired seeds each. One of the four 95 % intervals just leaves out 0. What do you say?",
            (
                Option("that place is different, at 95 %", "One comparison is wrong by chance one time in twenty. Of four, one or another is wrong far more often."),
                Option("nothing can be learnt from five seeds", "A large difference shows with five pairs. How large it has to be is what the interval says."),
                Option("it may be one of four tries that was lucky: repeat this one with new seeds", "The interval is about one comparison. Whoever makes several picks the luckiest without wanting to.", True),
            ),
        ),
        Item(
            "09.q3",
            "Why are random labels used to measure how much an adapter can hold?",
            (
                Option("they have no rule: what the net knows of them can only lie in what was trained", "Nothing of a coin toss is known beforehand, and nothing can be worked out from the row.", True),
                Option("they are harder than real ones, so the adapter tries harder", "Training does not try harder. It is about what can be said of the outcome."),
                Option("so that held-out rows measure overfitting", "Held-out coins are guessed right half of the time by every net: they measure nothing."),
            ),
        ),
        Item(
            "09.q4",
            "A matrix is 10 × 10. An adapter of rank 10 has 200 numbers in A and B. How many directions does its change have?",
            (
                Option("200", "Twice as many as ΔW has entries: it cannot be. M and its inverse cancel."),
                Option("100", "r(in + out) − r² = 200 − 100: all of ΔW, as it has to be at full rank.", True),
                Option("10", "That is the rank. A matrix of full rank has in · out numbers."),
            ),
        ),
        Item(
            "09.q5",
            "Your rows ask for a hundredth of the bits that r = 8 has room for. What does that number *not* tell you?",
            (
                Option("that these rows cannot fill r = 8", "It does tell that: they ask for far less."),
                Option("that r = 8 is enough to learn the task in the steps that you have", "On the digits 400 labels fill a third of rank 1's room, and r = 8 beats it all the same.", True),
                Option("that r = 64 is not needed for its room", "It does tell that. What r = 64 may be good for is something else."),
            ),
        ),
    ),
    revisit=("04.q4", "07.q2"),
)  # fmt: skip
