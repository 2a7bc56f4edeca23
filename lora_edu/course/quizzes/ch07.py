"""Self-test of chapter 07."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "07",
    "Keep it",
    (
        Item(
            "07.q1",
            "Two adapters were trained on one base. You average their A's, and their B's. What do you have?",
            (
                Option("half the sum of both changes", "That would be ½(B₁A₁ + B₂A₂). The product of the means has B₁A₂ and B₂A₁ in it as well."),
                Option("a change that also holds B₁A₂ and B₂A₁, which nobody trained", "(B₁ + B₂)(A₁ + A₂) / 4 is four products. Two of them pair the ears of one adapter with the mouth of the other.", True),
                Option("the same change as either, if both were trained on the same task", "Even one and the same change has endlessly many pairs of factors, and their means are different changes."),
            ),
        ),
        Item(
            "07.q2",
            "A is replaced by 2·A and B by B/2. What changes?",
            (
                Option("nothing that the model does", "(B/2)(2A) = B A. Any invertible M in place of 2 would do as well.", True),
                Option("the output: the update is twice as large", "B was halved: the product is the same."),
                Option("the rank", "The rank of a product does not change when a factor is multiplied by 2."),
            ),
        ),
        Item(
            "07.q3",
            "You load an adapter, and the model answers exactly as before, to the last digit. What do you look at first?",
            (
                Option("whether the names of the file's tensors are those that the model waits for", "Not one number differs: nothing was added. A trained adapter that is loaded changes something.", True),
                Option("the learning rate of the training", "A bad adapter changes the answers for the worse. An absent one changes nothing."),
                Option("whether the merge was done in bf16", "Rounding changes a weight a little. Here nothing at all has changed."),
            ),
        ),
        Item(
            "07.q4",
            "A merge stores W₀ + ΔW in bf16. On which does the lost share of ΔW depend most?",
            (
                Option("on the rank of ΔW", "Rounding looks at each sum alone and knows nothing of ranks."),
                Option("on how small ΔW is beside W₀", "The step between neighbouring bf16 numbers belongs to the size of W₀'s entry. The smaller ΔW is, the more of those steps it falls between.", True),
                Option("on the number of training steps", "Only through the size that ΔW ends with."),
            ),
        ),
        Item(
            "07.q5",
            "Two adapters score well alone. What follows for their sum?",
            (
                Option("it does both tasks: changes add up", "Changes to the weights add up. What the network makes of them does not."),
                Option("nothing, until both tasks are measured on it", "The sum may do both, one or neither. It has to be measured, and its weights chosen on rows that judge nothing.", True),
                Option("it does neither", "It may; but some pairs keep most of both."),
            ),
        ),
    ),
    revisit=("01.q2", "05.q1"),
)  # fmt: skip
