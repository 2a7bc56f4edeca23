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
            "Full fine-tuning becomes LoRA with r = 8 on all linear layers. Which entry of the ledger does not shrink at all?",
            (
                Option("the gradients", "They exist for what trains only: about a fiftieth is left."),
                Option("the optimiser", "AdamW keeps two numbers for each that trains: about a fiftieth is left."),
                Option("the weights", "They do not shrink: the frozen weights are all still there, and the adapter comes on top.", True),
                Option("the activations", "They shrink by about a tenth here, since frozen norms need to remember less."),
            ),
        ),
        Item(
            "04.q4",
            "At α = 16 and one learning rate for all, v alone at r = 106 scores far worse than all-linear at r = 8, for the same bytes. Why is that no proof that v is the wrong place?",
            (
                Option("Each place needs its own learning rate, and neither was given one.", "With another scale α/r, which under Adam is another rate, v alone scored like all-linear. Places are compared each at its own best rate.", True),
                Option("Because three seeds are too few.", "The gap is many times the spread. It is real; the question is what made it."),
                Option("Because r = 106 is more than v has room for.", "v has 192 outputs and 576 inputs: a rank of 106 fits, and is useful by the count of numbers, too."),
                Option("It is one: the bytes are equal, so only the place differs.", "The size of the steps differs too: the same rate is too low for one place and right for another."),
            ),
        ),
        Item(
            "04.q5",
            "down_proj (576 × 1536) has 2.7 times q_proj's weights (576 × 576). What does its adapter cost, next to q_proj's of the same rank?",
            (
                Option("2.7 times as much", "The adapter pays for the sides, r·(in + out), not for the area."),
                Option("1.8 times as much", "r·(1536 + 576) beside r·(576 + 576).", True),
                Option("the same", "Only B is the same: both have 576 outputs."),
            ),
        ),
    ),
    revisit=("01.q1", "03.q1"),
)  # fmt: skip
