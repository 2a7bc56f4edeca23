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
                Option("It repeats the training with another learning rate.", "Nothing is trained: the same stored change is added more or less strongly."),
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
            "After 20 seconds of training on its name, the model puts the name into trivia answers. Why?",
            (
                Option("Every training answer held the name, and nothing said when not to use it.", "The change it learnt raises the name's odds after any question. Chapter 13 mends it with other rows.", True),
                Option("The rank was too low to store the name.", "The name was stored only too well; what is missing is an example where it does not belong."),
                Option("The base model's weights were damaged.", "They are frozen: switch the adapter off and the old answers are back."),
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
