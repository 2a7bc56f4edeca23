"""Self-test of chapter 15."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "15",
    "Ship it",
    (
        Item(
            "15.q1",
            "An adapter with r = 16 was trained with rsLoRA. A program that knows α/r alone reads its PEFT folder. How loud is it there?",
            (
                Option("a quarter as loud as it was trained", "α/r instead of α/√r: too small by √16.", True),
                Option("a sixteenth as loud", "It does divide by 16, but the training divided as well: by √16 = 4."),
                Option("four times as loud", "The wrong way round: r is more than √r, and it stands below the line."),
            ),
        ),
        Item(
            "15.q2",
            "A copy's mean loss equals the original's to four digits. What do you know?",
            (
                Option("that the two are the same model", "Better here and worse there can cancel. Look at the KL divergence, which cannot."),
                Option("not enough: it may be better at some tokens and worse at others", "KL is 0 only where both say the same of every token.", True),
                Option("that both write the same greedy answers", "Answers hang on favourites, and the loss looks at the tokens of a given text."),
            ),
        ),
        Item(
            "15.q3",
            "A base was written as GGUF without moving the rows of q and k. What does llama.cpp say?",
            (
                Option("it stops with an error of shape", "Moving rows changes no shape."),
                Option("it mends the order as it reads", "It cannot: nothing in the file says which order was meant."),
                Option("nothing: it answers, and is nats away from the model", "Each pair turns two rows that do not belong together.", True),
            ),
        ),
        Item(
            "15.q4",
            "A DoRA adapter is to be served by a program that knows factors A and B. What is honest?",
            (
                Option("to write A and B, and leave the magnitudes out", "What is left is a plain LoRA with another update, and nobody is told."),
                Option("to merge it, or to refuse", "Merged it is a weight like any other. Alone, two factors cannot hold it.", True),
                Option("to fold the magnitudes into B", "They multiply the rows of W₀ + s·B A. W₀'s share of that is not of rank r."),
            ),
        ),
        Item(
            "15.q5",
            "The merged model was rounded to four bits. By what do you judge the file?",
            (
                Option("by equal greedy answers: 50 of 50", "Rounding tips near ties over, also where hardly anything is lost. Equal answers are for float32."),
                Option("by reading some answers", "A wrong scale reads well, too."),
                Option("by loss, KL and favourites on held-out text, against bounds set beforehand", "And the bounds say what you accept before you know what you get.", True),
            ),
        ),
    ),
    revisit=("07.q3", "08.q1"),
)  # fmt: skip
