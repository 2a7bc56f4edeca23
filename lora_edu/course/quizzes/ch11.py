"""Self-test of chapter 11."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "11",
    "Four bits",
    (
        Item(
            "11.q1",
            "One weight in a block of 64 is far larger than the others. What does rounding to four bits do to the other 63?",
            (
                Option("nothing: each weight has a code of its own", "The code is its own, the scale is not: all 64 share one absmax, and the large weight sets it."),
                Option("they share the few places around 0, and their error grows", "The places lie between −absmax and absmax. The others use only the middle of that.", True),
                Option("their error grows, and so does that of every other block of the matrix", "Each block has a scale of its own. That is what blocks are for."),
            ),
        ),
        Item(
            "11.q2",
            "Weights that were once rounded to a grid are rounded to the same grid again. What changes?",
            (
                Option("nothing: each stands on a place already", "The nearest place to a place is itself. Any other grid moves it.", True),
                Option("the error doubles", "An error is added where a weight stands between places. Here none does."),
                Option("the error halves, because the weights are nearer by now", "There is no error left to halve: the second rounding finds every weight on a place."),
            ),
        ),
        Item(
            "11.q3",
            "ΔW pushes each weight by a tenth of the grid's step. The weights stood anywhere between two places. How much of ΔW is left, on average, after rounding?",
            (
                Option("nothing: a tenth of a step is rounded away", "That is so for a weight that stands *on* a place. From between two places one in ten crosses a border."),
                Option("a tenth of it", "One weight in ten moves, but by a whole step: ten times as far as it was pushed."),
                Option("all of it, with much noise", "One in ten moves by a whole step. The mean is a tenth of a step, which is what ΔW pushed; what single weights do is noise.", True),
            ),
        ),
        Item(
            "11.q4",
            "You trained with QLoRA on a base in NF4. Why is the adapter not simply merged, and the sum stored in NF4 again?",
            (
                Option("because the sum would be rounded to the grid on which the base stands", "Pushes of less than half a step are taken back, and most of ΔW's are.", True),
                Option("because NF4 cannot hold the sum of two matrices", "It can hold any matrix, rounded. The question is what the rounding leaves of ΔW."),
                Option("because B A has rank r, and packed codes have none", "The rank of ΔW plays no part in rounding: it looks at each weight alone."),
            ),
        ),
        Item(
            "11.q5",
            "In QLoRA, what is kept in four bits?",
            (
                Option("everything that trains", "What trains moves in small steps, and four bits have none. The adapter stays in finer numbers."),
                Option("the frozen weights of the linear layers", "They never move, so no step is lost on them; each is made dense for a product, and dropped again.", True),
                Option("the gradients and AdamW's means", "Those belong to the adapter, are few, and stay in float32 here."),
            ),
        ),
    ),
    revisit=("07.q4", "05.q1"),
)  # fmt: skip
