"""Self-test of chapter 06."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "06",
    "Reading runs",
    (
        Item(
            "06.q1",
            "The training loss falls to 0.01; the held-out loss fell until step 60 and has risen since. What do you keep?",
            (
                Option("the weights of step 60", "Held-out rows stand for all the rows that are still to come, and step 60 did best there.", True),
                Option("the last weights: the training loss is lowest there", "They know the training rows by heart. Nobody will ask for those."),
                Option("none: overfitting means the run is worthless", "Up to step 60 it learnt what carries over. `keep_best` hands those weights over."),
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
                Option("that the base did not train; whether the adapter did is another question", "A frozen adapter leaves W₀ alone as well. ‖B‖ or ‖ΔW‖ answers the other one.", True),
                Option("that the run was sound", "Seven of the eight diseases leave W₀ as it is."),
                Option("that the adapter trained", "Nothing at all may have trained."),
            ),
        ),
        Item(
            "06.q4",
            "A run's held-out loss is far lower than you thought possible. What do you check first?",
            (
                Option("whether held-out rows stand among the training rows", "Too good is a sign of sickness too, and twins in other capitals are the usual cause.", True),
                Option("nothing: lower is better", "Lower than possible is not better, it is impossible."),
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
