"""Self-test of chapter 04."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "04",
    "Into the transformer",
    (
        Item(
            "04.q1",
            "A run reports exactly the number of trainable parameters that you worked out. What does that prove?",
            (
                Option("Little: other tensors of the same size could be training.", "Only the set of names tells a sound model from one with a frozen factor and a weight of the base in its place.", True),
                Option("That the right matrices train.", "Two tensors of equal size can be exchanged, and the number stays."),
                Option("That W₀ is frozen.", "A weight of the base may train while a factor of the same size stands still."),
            ),
        ),
        Item(
            "04.q2",
            "`target_modules=\"q_proj\"`, a string and not a list. What does it match?",
            (
                Option("nothing, and an error says so", "A string is a regular expression for the whole name, and every name is longer than that.", True),
                Option("the 30 query projections", "That is what the list [\"q_proj\"] does: its entries are ends of names."),
                Option("every module with q_proj somewhere in its name", "The expression must match the whole name: `.*q_proj` would."),
            ),
        ),
        Item(
            "04.q3",
            "Full fine-tuning becomes LoRA with r = 8 on all linear layers. Which entry of the ledger shrinks least?",
            (
                Option("the gradients", "They exist for what trains only: about a fiftieth is left."),
                Option("the optimiser", "AdamW keeps two numbers for each that trains: about a fiftieth is left."),
                Option("the weights", "They do not shrink: the frozen weights are all still there, and the adapter comes on top.", True),
                Option("the activations", "They shrink by about a tenth here; the weights do not shrink at all."),
            ),
        ),
        Item(
            "04.q4",
            "Two adapters train the same number of parameters: one in the first ten layers, one in the last ten. Which run remembers less for the backward pass?",
            (
                Option("the one in the last ten", "Nothing below the first adapter wants a gradient, so nothing is remembered there.", True),
                Option("the one in the first ten", "The gradient has to come down through all thirty layers to reach it."),
                Option("both the same", "The same bytes train. What is remembered depends on how far down the gradient must go."),
            ),
        ),
        Item(
            "04.q5",
            "k_proj has a third of q_proj's weights (192 × 576 beside 576 × 576). What does its adapter cost, next to q_proj's of the same rank?",
            (
                Option("a third", "The adapter pays for the sides, r·(in + out), not for the area."),
                Option("two thirds", "r·(576 + 192) beside r·(576 + 576).", True),
                Option("the same", "Only A is the same: both have 576 inputs."),
            ),
        ),
    ),
    revisit=("01.q1", "03.q1"),
)  # fmt: skip
