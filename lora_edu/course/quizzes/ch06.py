"""Self-test of chapter 06."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "06",
    "Reading runs",
    (
        Item(
            "06.q1",
            "The training loss falls to 0.01; the held-out loss was lowest at step 60 and has risen since. `keep_best` hands over step 60. Is that the best reader of this run?",
            (
                Option("by loss yes; whether by accuracy, too, has to be looked at", "Loss asks how sure a reader is of the truth, accuracy only what it says first. In this chapter the accuracy still rose after the loss had turned.", True),
                Option("yes: a higher loss means more wrong answers", "A few wrong answers that are given with certainty raise the loss, while more become right."),
                Option("no: the last weights have the lowest training loss", "They know the training rows by heart. Nobody will ask for those."),
            ),
        ),
        Item(
            "06.q2",
            "Which reading tells a forgotten division by r from a learning rate that is too high, both after one step of Adam from B = 0?",
            (
                Option("‖B‖ beside ‖ΔW‖", "The rate alone sets ‖B‖. The scale leaves ‖B‖ as it is and multiplies ‖ΔW‖.", True),
                Option("the training loss", "Both may push it up or down. It does not say why."),
                Option("the hash of W₀", "It is the same in both: the base is frozen."),
                Option("‖∇A‖", "At B = 0 it is zero in both."),
            ),
        ),
        Item(
            "06.q3",
            "The hash of W₀ is the same after training as before. What does that prove?",
            (
                Option("that the run was sound", "Seven of the eight diseases leave W₀ as it is."),
                Option("that the base did not train; whether the adapter did is another question", "A frozen adapter leaves W₀ alone as well. ‖B‖ or ‖ΔW‖ answers the other one.", True),
                Option("that the adapter trained", "Nothing at all may have trained."),
            ),
        ),
        Item(
            "06.q4",
            "A run's held-out loss is far lower than guessing what nobody can know would cost. What do you check first?",
            (
                Option("nothing: lower is better", "On a few rows luck can do a little. Far below what can be explained, somebody knew the answers."),
                Option("whether held-out rows stand among the training rows", "Too good is a sign of sickness too, and twins in other capitals are the usual cause.", True),
                Option("the learning rate", "Too high a rate makes the loss worse, not better."),
            ),
        ),
        Item(
            "06.q5",
            "A run was interrupted. You load the adapter's weights into a new run with the same rows and settings and go on. What is missing?",
            (
                Option("the optimiser's means and the place in the order of rows", "AdamW starts with empty means and the rows with the first one: the run is another one from the next step on.", True),
                Option("nothing: the weights are all that trains", "They are all that trains, but not all that decides the next step."),
                Option("the base model's weights", "They are frozen: the same file as before."),
            ),
        ),
    ),
    revisit=("03.q3", "04.q1"),
)  # fmt: skip
