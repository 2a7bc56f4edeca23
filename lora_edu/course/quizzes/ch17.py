"""Self-test of chapter 17."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "17",
    "Capstone",
    (
        Item(
            "17.q1",
            "A loss of your own falls to 0.02 within twenty steps on rows of chat. Which line do you look at first?",
            (
                Option("the learning rate: it is too high", "Too high a rate makes a loss jump; it does not make text easy to predict."),
                Option("the shift: logits and labels stand at the same place", "The model is asked for the token that it has just been given, and copying is soon learnt.", True),
                Option("the scale α/r", "It changes how fast is learnt, not what is asked."),
            ),
        ),
        Item(
            "17.q2",
            "In a layer of your own A is zero and B random. What is true?",
            (
                Option("it is no LoRA, and does not learn", "B A is zero at the start, and A gets a gradient through B."),
                Option("the start is silent, and at the first step A moves and B does not", "∂L/∂A = s·Bᵀ G is not zero; ∂L/∂B = s·G Aᵀ is, as long as A is zero.", True),
                Option("the start is not silent", "One zero factor makes the product zero, whichever it is."),
            ),
        ),
        Item(
            "17.q3",
            "Your saved keys lack the prefix `base_model.model.`. What does somebody who loads the folder with PEFT notice?",
            (
                Option("an error that names the keys", "That would be kind. PEFT treats them as keys that it was not asked about."),
                Option("an adapter of random numbers", "B starts at zero: what was not loaded is silent."),
                Option("at most a warning; the model answers as the base", "A and B are new ones, and B is zero. Compare one output with and without the adapter.", True),
            ),
        ),
        Item(
            "17.q4",
            "After `merge` your model says the same as before, and still holds its LoRA layers. What else must be true?",
            (
                Option("nothing: the same output is the proof", "If nothing went into the weights and the layers still add, the output is the same as well."),
                Option("the weights are W₀ + s·B A, and the layers add nothing any more", "Both: only then can the layers be thrown away.", True),
                Option("A and B are zero", "They may be, but a layer that is told to add nothing will do."),
            ),
        ),
        Item(
            "17.q5",
            "Thirty lines and PEFT end at the same loss from the same start. What does that show?",
            (
                Option("that thirty lines can replace PEFT", "Other layers, other formats, many adapters at once, four bits: none of this was tried."),
                Option("that for these settings the arithmetic is the same; PEFT adds where it can be used", "Same start, same batches, same loss at the end: where dropout or another kind of layer comes in, nothing was compared.", True),
                Option("nothing: after so few steps any two LoRAs end alike", "With another scale or another loss the weights differ after the first step already, and with them the loss."),
            ),
        ),
    ),
    revisit=("03.q2", "15.q5"),
)  # fmt: skip
