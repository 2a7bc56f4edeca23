"""Self-test of chapter 16."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "16",
    "The bug museum",
    (
        Item(
            "16.q1",
            "A merge is tried on a square layer, raises nothing, and the merged output is another one. Which test would have spoken earlier?",
            (
                Option("the same merge on a rectangular layer", "There A B has the weight's shape turned round, and the sum raises an error.", True),
                Option("the same merge with B = 0", "B A is zero then, whichever way round: nothing can differ."),
                Option("the same merge in fp64", "More digits do not turn a product round."),
            ),
        ),
        Item(
            "16.q2",
            "After loading an adapter the loss is *exactly* the base's, to the last digit. What does that say?",
            (
                Option("the adapter was trained too little", "Then it would answer a little differently. Not one digit does."),
                Option("nothing was added: no key found its place, or the adapter is off", "A trained adapter that is added changes digits.", True),
                Option("the adapter is good at keeping what the base knows", "Not one digit would be a miracle."),
            ),
        ),
        Item(
            "16.q3",
            "An assertion passes on every sound one of twenty fresh seeds, and on every broken one too. What is it worth?",
            (
                Option("much: it never raises a false alarm", "Nor any other: it cannot fail."),
                Option("nothing: it misses every broken one", "`assert True` does as well. An assertion is measured on both.", True),
                Option("half: it is right in half of the cases", "Right by chance; it tells the two apart in no case."),
            ),
        ),
        Item(
            "16.q4",
            "A page reports that method M beats LoRA at a rate of 1e-4, with five seeds and intervals that do not touch. What is still open?",
            (
                Option("nothing: five seeds and intervals settle it", "They settle it for that rate."),
                Option("whether it does so with each at its own best rate", "A method that only scales differently wins at one rate and ties at its own.", True),
                Option("whether the seeds were lucky", "That is what seeds and intervals speak about."),
            ),
        ),
        Item(
            "16.q5",
            "A statement in a tutorial has no source, no task and no model. What is its verdict?",
            (
                Option("wrong", "Nobody has shown that. It may be right somewhere."),
                Option("correct until somebody refutes it", "Nothing is taken on trust, and nothing can be repeated here."),
                Option("untestable, and that is said with its reason", "A verdict needs something that can be run or looked up.", True),
            ),
        ),
    ),
    revisit=("03.q1", "07.q3"),
)  # fmt: skip
