"""Self-test of chapter 05."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "05",
    "First run",
    (
        Item(
            "05.q1",
            "A row has 40 tokens: 30 of the prompt, 10 of the answer, its end included. At how many positions does the loss look, and where is the first?",
            (
                Option("at 10; the first is the last token of the prompt", "Position 29, counted from 0, predicts token 30, the first of the answer.", True),
                Option("at 10; the first is the first token of the answer", "There the answer's first token has been read already. It was predicted one position before."),
                Option("at 9; the first token of the answer has nothing before it", "It has the whole prompt before it."),
                Option("at 39: every token but the first is predicted", "It is predicted, but the prompt's labels are −100."),
            ),
        ),
        Item(
            "05.q2",
            "A script pads with the end-of-answer token and then sets `labels[input_ids == pad] = -100`. The loss falls as it should. What will be seen?",
            (
                Option("Right answers that do not end.", "The one token that says “stop” was never learnt.", True),
                Option("Nothing: padding must be masked.", "Padding must, but the answer's own last token has the same value and went with it."),
                Option("Answers that end too early.", "That would take too many ends in the labels. Here there is none."),
                Option("An error about shapes.", "Nothing crashes. That is what makes it a trap."),
            ),
        ),
        Item(
            "05.q3",
            "A batch does not fit into memory and is gone through in two pieces, of 2 and of 98 answer tokens, with mean losses 5 and 1. What is the mean loss a token of the whole batch?",
            (
                Option("1.08", "(2·5 + 98·1) / 100.", True),
                Option("3", "(5 + 1) / 2 gives the two tokens as much say as the ninety-eight."),
                Option("6", "Means of different counts cannot be added."),
            ),
        ),
        Item(
            "05.q4",
            "A run's training loss falls to 0.01, lower than ever. The labels were not shifted. What has been learnt?",
            (
                Option("To say again the token that was just read.", "That is what the labels asked of each position, and it is easy.", True),
                Option("The task, very well.", "The task is to say the *next* token. Nothing asked for that."),
                Option("Nothing, since the gradient is zero.", "The gradient was not zero: the loss fell."),
            ),
        ),
        Item(
            "05.q5",
            "After training, 9 of 12 held-out answers are right. Before, nobody looked. What is missing most?",
            (
                Option("What the untrained model and a program without a model score on the same rows.", "Without them nobody knows what the training is worth; and 9 of 12 has a wide interval.", True),
                Option("A lower learning rate.", "Perhaps; but nothing here says so."),
                Option("The loss on the training rows.", "It was printed all the while, and says nothing of new rows."),
            ),
        ),
    ),
    revisit=("03.q2", "04.q1"),
)  # fmt: skip
