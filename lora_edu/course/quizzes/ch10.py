"""Self-test of chapter 10."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "10",
    "Variants, honestly",
    (
        Item(
            "10.q1",
            "A paper's method has half of LoRA's loss; both were run at the learning rate 2e-4, three seeds each. What follows?",
            (
                Option("the method is better: the rate was equal, so the comparison is fair", "An equal rate is one point of each method's curve. What is a good rate for one may be far too low for the other."),
                Option("nothing yet about the methods: each needs its own rate, from the same number of trials", "Then, and on rows that did not choose the rate, a gap is the method's.", True),
                Option("the method is better if the three seeds agree", "Seeds say how sure the gap at this rate is. They say nothing of other rates."),
            ),
        ),
        Item(
            "10.q2",
            "What does DoRA train besides LoRA's factors?",
            (
                Option("a number for each row of the weight: its length", "The factors then set the row's direction only.", True),
                Option("a number for each layer: the scale s", "s stays what the configuration says. The lengths are one a row."),
                Option("W₀ itself, in another form", "W₀ stays frozen. Its rows' lengths are only where the magnitudes start."),
            ),
        ),
        Item(
            "10.q3",
            "PiSSA's factors are not silent at the start. Why is the layer's output the base's all the same?",
            (
                Option("because B₀ is so small", "B₀ A₀ is the largest part of W₀, and not small at all."),
                Option("because what they say is taken away again: s·(B A − B₀ A₀) is 0 where B A = B₀ A₀", "PEFT takes it out of the base; here the layer subtracts it, and the base stays whole.", True),
                Option("because B is 0, as in plain LoRA", "Both factors start far from 0; that is the idea."),
            ),
        ),
        Item(
            "10.q4",
            "Eight methods are compared with LoRA on five seeds, 95 % intervals each. One interval leaves 0 out, by a little. What do you say?",
            (
                Option("that method is better, with 95 % certainty", "One interval of twenty leaves 0 out by chance; of eight, one in three times or so does."),
                Option("of eight looks one may well stand out by chance: ask it again, with new seeds", "The page *Choosing* saw it happen with methods that were all the same.", True),
                Option("all eight are equal", "That was not shown either: five seeds see only large gaps."),
            ),
        ),
        Item(
            "10.q5",
            "With Adam, rsLoRA at r = 16 and α = 16, beside plain LoRA at the same r and α. Which change of plain LoRA gives the same run?",
            (
                Option("none: the forward pass is another", "The factors differ by a constant; the product, and so the model, is the same at every step."),
                Option("B's learning rate four times as large", "The scale is √16 = 4 times as large, and α is B's learning rate in disguise (chapter 08).", True),
                Option("both learning rates four times as large", "That would move A four times as far as well."),
            ),
        ),
    ),
    revisit=("08.q1", "07.q2"),
)  # fmt: skip
