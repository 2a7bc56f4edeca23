"""Self-test of chapter 00."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "00",
    "Start here",
    (
        Item(
            "00.q1",
            "What does the dial on an adapter do?",
            (
                Option("It scales the adapter's part of the weights.", "The base stays; the change is multiplied by the dial: W₀ + dial · ΔW.", True),
                Option("It sets how random the answers are.", "That is the temperature of sampling. Here the most likely token is always taken."),
                Option("It repeats the training with another learning rate.", "Nothing is trained: the same change is added more or less strongly."),
            ),
        ),
        Item(
            "00.q2",
            "At dial 0 the model answers …",
            (
                Option("exactly as the base does.", "0 · ΔW adds nothing to any weight.", True),
                Option("almost as the base does: some training is left.", "Training changed the adapter alone; the base's weights are byte for byte what they were."),
                Option("in the opposite style.", "The opposite direction is a negative dial; 0 is no change at all."),
            ),
        ),
        Item(
            "00.q3",
            "After 20 steps at a learning rate of 0.002 the model puts its name into most trivia answers; at 0.0005, with the same rows, into none. What follows?",
            (
                Option("The rate decides how far the lesson spills; the narrow rows alone do not.", "Both runs saw rows about the name and nothing else. The smaller steps taught it and did not spill. (Chapter 13 goes on from here.)", True),
                Option("Rows about one thing alone always leak; only other rows help.", "So it looks after one run. The second had the same rows, and did not leak."),
                Option("The base model's weights were damaged by the larger steps.", "They are frozen: switch the adapter off and the old answers are back."),
            ),
        ),
        Item(
            "00.q4",
            "Why are the dial's setting and its score taken from different rows?",
            (
                Option("The best of several tries looks better on the rows it was chosen on than on new ones.", "Choosing profits from luck in those rows; rows never used for choosing carry no such luck.", True),
                Option("The test rows are harder.", "They come from the same source. It is the choosing that flatters."),
                Option("To save time.", "It costs time. It buys a score that one can believe."),
            ),
        ),
    ),
)  # fmt: skip
