"""Self-test of chapter 12."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "12",
    "The neighbours",
    (
        Item(
            "12.q1",
            "An adapter of prompt tuning and one of IA³ take the same bytes on disk. Which of them costs more at every question, and for good?",
            (
                Option("IA³: it multiplies in every block", "Its factors can be multiplied into the weights; then nothing is left of them to compute."),
                Option("the prompt: its tokens are read at every question, and no weight can hold them", "Every block computes for them, too, and there is nothing to merge.", True),
                Option("neither: bytes are what a method costs", "Bytes are what is stored and sent. Time and memory are other bills."),
            ),
        ),
        Item(
            "12.q2",
            "Why does a prefix change the model's answers even when all its numbers are 0?",
            (
                Option("it does not: B = 0 is silent as well", "There is no product here of which one factor could be 0."),
                Option("zeros take a share of the attention: a key of 0 has the score 0, and e⁰ = 1", "The softmax divides by one term more for each token of the prefix.", True),
                Option("because it moves the positions of the text", "It does, and relative positions within the text stay as they were. It would change the answers even without."),
            ),
        ),
        Item(
            "12.q3",
            "A bottleneck of width m and a LoRA of rank m stand at the same square matrix. Why can only one of the two be merged?",
            (
                Option("the bottleneck has biases", "A bias could be merged: it is added to the layer's."),
                Option("between the bottleneck's two matrices stands a nonlinearity, so no matrix does what it does", "LoRA's two matrices have nothing between them: their product is a matrix.", True),
                Option("the bottleneck is trained at another place", "Where it stands decides nothing: without the nonlinearity it could be merged there."),
            ),
        ),
        Item(
            "12.q4",
            "“BitFit trains 0.1 % of the numbers and comes near full fine-tuning” (BERT, 2021). You try it on a decoder of Llama's kind. What happens?",
            (
                Option("it trains about 0.1 % of the numbers there, too", "Its linear layers were made without biases."),
                Option("nothing trains: such a model has no biases", "attach says so, and offers the norms' weights instead, which is another method.", True),
                Option("the biases of the norms train", "RMSNorm has a weight, and no bias."),
            ),
        ),
        Item(
            "12.q5",
            "A table says “LoRA: 2–3 × faster, half the memory, 95 % of the quality”. What do you ask first?",
            (
                Option("of which model, at which rank, with how many tokens a step, and against a full fine-tuning at which learning rate", "Each of the three figures depends on one of these, and the last on all.", True),
                Option("whether it was measured on a GPU", "That matters, and is one question of several."),
                Option("nothing: the figures are well known", "They are repeated. Section 5 measured something else."),
            ),
        ),
    ),
    revisit=("04.q4", "09.q1"),
)  # fmt: skip
