"""Self-test of chapter 14."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "14",
    "A real LLM, all the way",
    (
        Item(
            "14.q1",
            "A recipe says: 32 rows a step. Your machine holds 4 at once. What do you change?",
            (
                Option("Four rows at once, eight times a step.", "The step still sees 32 rows, so nothing else of the recipe has to change.", True),
                Option("Four rows a step, and an eighth of the learning rate.", "That is another run, with eight times as many and noisier steps. Whether a smaller rate makes up for it would have to be measured."),
                Option("Shorter rows, cut until 32 fit.", "What is cut is not learnt, and with a prompt in front it is the answer that is cut."),
            ),
        ),
        Item(
            "14.q2",
            "Full fine-tuning becomes LoRA with r = 8 on a model of 7 billion weights in fp32. What does it still need, at the least?",
            (
                Option("About a fiftieth of the memory: that is what trains.", "Gradients and optimiser shrink so. The frozen weights are all still there."),
                Option("27 GB for the frozen weights, and what must be remembered.", "4 bytes for each of the 6.7 billion weights, trained or not; bf16 would halve them.", True),
                Option("108 GB: LoRA adds weights, it takes none away.", "That is full fine-tuning with AdamW: 16 bytes a weight. A frozen weight costs 4."),
            ),
        ),
        Item(
            "14.q3",
            "Four processes train one adapter under DDP. What travels between them in each step?",
            (
                Option("All weights of the base.", "They are frozen, and every process has had its copy from the start."),
                Option("The rows of the step.", "Each process takes its own share of the rows; the rows do not travel."),
                Option("The gradients of the adapter.", "Only what trains has a gradient that the processes must agree upon.", True),
            ),
        ),
        Item(
            "14.q4",
            "The base answers 101 of 200 held-out rows rightly, your model 115. Their 95 % intervals overlap. What follows?",
            (
                Option("Nothing was gained.", "Two intervals that overlap may hide a sure gain: both models were asked the same rows."),
                Option("Look at the rows that changed, then decide.", "With 15 gained and 1 lost the gain is sure; with 60 gained and 46 lost it is not.", True),
                Option("The gain is 7 percentage points, and that settles it.", "Other rows would have given another number. How far off it may be is what the interval is for."),
            ),
        ),
        Item(
            "14.q5",
            "Gradient checkpointing makes a run fit. What does it cost?",
            (
                Option("A little accuracy: the recomputed numbers differ.", "They are the same numbers, computed twice."),
                Option("Time: most of the forward pass is done again.", "Each layer's inside is forgotten and computed anew when the backward pass comes to it.", True),
                Option("Nothing but disk: activations are written there.", "Nothing is written. What was forgotten is computed again."),
            ),
        ),
    ),
    revisit=("04.q4", "05.q2"),
)  # fmt: skip
