"""Placement: who needs the refresher before chapter 01."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "placement",
    "Do you need the refresher?",
    (
        Item(
            "00.p1",
            "`nn.Linear(5, 7)` holds a weight of which shape, and computes what for a batch x?",
            (
                Option("(7, 5); x @ W.T + b", "PyTorch stores (out, in), so a row x meets the transposed weight.", True),
                Option("(5, 7); x @ W + b", "PyTorch stores the weight as (out, in)."),
                Option("(7, 5); W @ x + b", "For one column vector, yes; a batch holds its inputs as rows."),
            ),
        ),
        Item(
            "00.p2",
            "`loss.backward()` was called twice without `zero_grad()`. What does `w.grad` hold?",
            (
                Option("the sum of both gradients", "PyTorch adds to .grad until someone clears it.", True),
                Option("the second gradient", "Nothing clears .grad but zero_grad (or setting it to None)."),
                Option("the average of both", "They are added; dividing is up to you."),
            ),
        ),
        Item(
            "00.p3",
            "A causal language model reads tokens t₁ … t₈. What is it trained to predict at position 3?",
            (
                Option("t₄", "Each position predicts the next token: the labels are the inputs shifted by one.", True),
                Option("t₃", "It sees t₃ already."),
                Option("a masked token somewhere", "That is how BERT is trained."),
            ),
        ),
        Item(
            "00.p4",
            "How many numbers does Adam keep for each weight that trains, besides the weight and its gradient?",
            (
                Option("2", "A running mean of the gradient and one of its square.", True),
                Option("0", "That is plain SGD."),
                Option("1", "That is SGD with momentum."),
            ),
        ),
        Item(
            "00.p5",
            "What does a chat template do?",
            (
                Option("It turns roles and messages into the one string with marker tokens the model was trained on.", "System, user and assistant turns become one sequence of tokens.", True),
                Option("It picks a good prompt.", "It adds no wording of its own, but for a default system turn in some models."),
                Option("It translates between tokenizers.", "It belongs to one tokenizer and its markers."),
            ),
        ),
    ),
    advice=(
        (4, "You can go on to chapter 01."),
        (0, "Take the refresher first: 25 minutes, and chapters 03 to 05 will be easier."),
    ),
)  # fmt: skip
