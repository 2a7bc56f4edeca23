"""The concept inventory's questions: what the course is about, asked before chapter 00 and after 17. `sittings.py` shows them.

They ask for ideas, not for words: whoever has never heard of LoRA can answer after the five lines of `ABOUT`. A wrong option is something
that people really believe: a statement of the museum's ledger, or an answer that learners gave. The order in which the options stand here
decides their letters.
"""

from dataclasses import dataclass

from lora_edu.course.selftest import Item, Option

ABOUT = (
    "A layer of a trained model multiplies its input by a matrix W₀ of numbers, its weights. LoRA adds something to that matrix: the product B A of two "
    "thin matrices, times a scale s. A has r rows and as many columns as W₀, B has as many rows as W₀ and r columns; r is a small number such as 8. "
    "Training changes A and B. The two, for all layers, are the *adapter*; they can be kept in a file of their own, or be added into W₀ for good, "
    "which is called to *merge*."
)


@dataclass(frozen=True)
class Concept:
    """One question, and where the course shows its answer.

    `shown_by` is "law 3", "exhibit NAME" (the bug museum's) or "07:CELL" (a chapter's cell). `rows`: what of the ledger its wrong options say.
    """

    item: Item
    chapter: str
    shown_by: str
    rows: tuple[str, ...] = ()


def _concept(
    id: str, chapter: str, shown_by: str, rows: str, text: str, *options: tuple[str, str] | tuple[str, str, bool]
) -> Concept:
    return Concept(
        Item(f"inventory.{id}", text, tuple(Option(*option) for option in options)),
        chapter,
        shown_by,
        tuple(rows.split()),
    )


CONCEPTS = (
    _concept(
        "entries", "01", "01:rank-07", "2.03",
        "A layer's weights are a matrix of 1000 × 1000. With r = 1, A and B hold 2,000 random numbers, and B A is added. How many of the million weights change?",
        ("about two thousand, as many as A and B hold", "So many are stored. Their products fill the whole matrix."),
        ("about a thousand, which is one row or one column", "Rank 1 is one direction, not one row: all rows change, in proportion to each other."),
        ("about a million, which is practically all", "Entry (i, j) changes by b[i]·a[j]. Low rank is few directions, not few entries.", True),
        ("only those on which the new task depends", "Every entry changes, wherever neither factor is zero. Which matter is another question."),
    ),
    _concept(
        "bet", "02", "02:02-is-the-update-low-41", "3.01",
        "Two thin matrices are often enough to teach a large model a task. What makes that possible?",
        ("The trained weights W₀ have few directions themselves.", "They do not: most matrices of W₀ are much nearer to noise than the changes are."),
        ("A change that does the task can have few directions.", "The bet is on the change. At r = 2 training finds one that does, on the digits.", True),
        ("Most of the weights in W₀ are zero, or nearly so.", "Nothing in LoRA asks for that: W₀ stays as it is, whatever it is."),
        ("A change that does the task is tiny in each weight.", "Size and number of directions are two things. A small change may need all directions."),
    ),
    _concept(
        "both-zero", "03", "03:03-the-lora-layer-49", "",
        "Somebody lets A and B both start at zero, and trains them alone. What will happen?",
        ("A and B never move: each one's gradient is a product with the other, and so zero.", "B's gradient holds A, and A's holds B. One of them has to be other than zero.", True),
        ("A and B begin slowly, because their first gradients are small, and catch up later.", "They are not small, but zero, and stay so: nothing ever changes them."),
        ("B moves at the first step and A from the second one on, as with any usual start.", "So it goes with B zero and A random. Here B's gradient is zero as well."),
        ("A and B learn as from random numbers; the output is merely undisturbed at the start.", "Undisturbed it is, and it stays as it is."),
    ),
    _concept(
        "what-moves", "03", "exhibit nothing-frozen", "5.07 4.08",
        "Somebody adds A (random) and B (zero) to each layer, does nothing else, gives all parameters of the model to the optimiser, and trains. Which numbers have moved after a hundred steps?",
        ("A and B alone, since adding them freezes the layer", "Nothing freezes by itself: somebody has to switch the gradient of W₀ off."),
        ("B alone, since A is random and is left as it is", "A moves as soon as B is no longer zero."),
        ("W₀ alone, since B A is zero and has no effect", "B gets a gradient at the first step, and is not zero from then on."),
        ("all of them: W₀ from the first step on, and A and B", "What has a gradient and is in the optimiser moves. Frozen is what was frozen.", True),
    ),
    _concept(
        "memory", "04", "exhibit only-the-factors-in-memory", "2.14 2.06",
        "A model's weights fill 14 GB. The adapter holds 20 MB, and it alone is trained. How much memory does training need?",
        ("about 80 MB: the adapter, its gradients, the optimiser's numbers", "The frozen weights have to be there: every step goes through them."),
        ("more than 14 GB, because each step goes through all the weights", "Frozen weights cost no gradient and nothing in the optimiser. They still have to be there.", True),
        ("about 56 GB: weights, gradients and two numbers of the optimiser for each", "That is for a model of which everything trains. Only the adapter has gradients here."),
        ("about 7 GB: the backward pass needs half of the weights", "To hand a gradient down, the backward pass multiplies by each frozen matrix."),
    ),
    _concept(
        "forward", "16", "exhibit forward-gets-cheaper", "1.07 1.16",
        "The adapter holds a hundredth of the numbers of the layers it is added to, and is *not* merged. What does it do to the arithmetic of an answer?",
        ("It grows by a hundredth or so.", "W₀ x is worked out in full, and B (A x) on top of it.", True),
        ("It falls to about one half.", "Nothing of W₀ x is left out, frozen or not."),
        ("It stays exactly the same.", "So it is once the adapter is merged. Here A x and B (A x) come on top."),
        ("It falls to about a hundredth.", "Only the *trained* numbers are a hundredth. W₀ x is worked out as before."),
    ),
    _concept(
        "scale", "08", "08:08-alpha-told", "P.01 1.13",
        "Two runs with the optimiser Adam and the same learning rate differ in the scale alone: s = 1 and s = 2. The second ends with a lower loss. What does that show?",
        ("that s = 2 gives A and B more room to learn the task", "Room is r. B A times 2 is a matrix of the same rank."),
        ("that s = 2 is the better scale for this model and task", "At this rate. At twice the rate for B, s = 1 would have been the same run."),
        ("little, until each has had a learning rate of its own", "With Adam another s is another learning rate for B: the second run took larger steps.", True),
        ("little, since losses at two scales are in other units", "The loss is that of the model's answers, in the same unit for both."),
    ),
    _concept(
        "merge-test", "07", "law 5", "3.14 3.16",
        "A function merges adapters. It is tested on a new one, A random and B still zero: before and after the merge the model's outputs are equal. What does the test show?",
        ("that it merges rightly here, up to rounding", "B A is zero: whatever is done to it, zero is added."),
        ("next to nothing: a wrong merge would pass it too", "The wrong order, the wrong scale, the wrong layer: all add zero. A test must be able to fail.", True),
        ("that B A is added in the right order, but not that s is right", "B A is zero in every order."),
        ("that it is right on square matrices, but not on others", "On a square one a wrong order raises no error. But here it could not even be seen."),
    ),
    _concept(
        "loaded", "07", "exhibit wrong-prefix", "S.01 S.02",
        "The file of a trained adapter is loaded into the model. No error is raised. What is certain now?",
        ("that all numbers of the file have arrived in the model", "A tensor whose name is unknown may be skipped without a word."),
        ("that the file belongs to this model and no other", "Names and shapes may fit a model with quite other weights."),
        ("that the shapes agree, so that at worst the values are off", "What is skipped is not compared, not even by its shape."),
        ("nothing yet: it may be that not one number has arrived", "Names that find no place are often passed over. Compare an output, or the numbers.", True),
    ),
    _concept(
        "two-adapters", "07", "07:07-sum-told", "3.13 5.03",
        "Two adapters were trained on the same model, each on a task of its own. Both are added to the model at once. What can it do now?",
        ("What is left of each task has to be measured for this pair.", "The sum is exact, and both act on the same outputs: what becomes of the scores differs from pair to pair.", True),
        ("Both tasks, each about as well as with its adapter alone.", "For some pairs, about; for others not. Nothing in the sum keeps the two apart."),
        ("The task of the one that was added last, as it overwrites.", "Nothing is overwritten: the order of a sum does not matter."),
        ("Both tasks, each at half strength, as in an average.", "A sum is no average: each adapter is there at full strength."),
    ),
    _concept(
        "question", "05", "05:05-first-run-52", "",
        "A model is taught to answer questions, and the loss is taken over the tokens of the answers alone. What part does a question's text play in training?",
        ("none in the loss, but every answer is predicted from it", "It is read like any text. Only the prediction *of it* is not scored.", True),
        ("none: the model is given the answers without it", "Then it could not learn which answer belongs to which question."),
        ("it is learnt too, though with less weight than the answer", "Its weight in the loss is zero, not small."),
        ("it is what the model learns to repeat before it answers", "To repeat it would need a loss on those tokens."),
    ),
    _concept(
        "by-heart", "06", "06:06-reading-runs-13", "1.03 3.11",
        "An adapter of 1 % of a model's numbers is trained on forty rows, over and over. Can it overfit them?",
        ("Yes: low on these rows, it rises on others.", "The loss on rows not trained on falls, and then rises: rows are learnt by heart.", True),
        ("No: W₀ is frozen, and with it what it knows.", "The adapter acts on every output. What W₀ holds is no protection."),
        ("No: so few numbers cannot hold forty rows.", "They can: the loss on the rows goes towards zero."),
        ("Yes, but only with r larger than forty.", "r is no count of rows. A small r learns them by heart as well."),
    ),
    _concept(
        "best-of-twenty", "00", "exhibit chosen-on-test", "P.02 C.07",
        "Twenty settings are tried, and each is scored on the same 100 rows, on which none was trained. The best one gets 87 right. How will it do on 100 new rows of the same kind?",
        ("probably somewhat worse than 87", "It was picked out of twenty, for its skill and for its luck with these rows. The luck does not come along.", True),
        ("as likely better than 87 as worse", "That holds for a setting that was not chosen by these very rows."),
        ("probably somewhat better than 87", "Nothing more was learnt. Choosing flatters the score; it does not raise the skill."),
        ("just the same if the seed is the same", "A seed fixes the run. Other rows are other rows."),
    ),
    _concept(
        "four-bits", "11", "11:11-train", "S.07",
        "To save memory W₀ is rounded to 4 bits a number, and an adapter is trained on top. What is done to the numbers in training?",
        ("A and B, too, are rounded to 4 bits after each step.", "A push of less than half a step of 4 bits would be rounded back to where it came from."),
        ("W₀ stays as it was rounded, A and B keep more bits.", "What is large is frozen and coarse; what learns is small and fine.", True),
        ("W₀ is put back to 16 bits for training, rounded at its end.", "Then nothing would be saved. A layer's numbers are turned back only while it is computed."),
        ("W₀ learns in 4 bits, and A and B take up its rounding.", "It gets no gradient: it was rounded once, and stays."),
    ),
    _concept(
        "other-model", "07", "07:07-twice", "1.14",
        "A friend gets the file of your adapter, 10 MB, and nothing else. What does she need in order to use it as you do?",
        ("no other file: what was learnt is all in there", "A change without what it changes does nothing."),
        ("a model with matrices of the same shapes as yours", "It can be loaded there, and changes other weights: a warning is all that tells."),
        ("a merged copy: an adapter works only where it was trained", "An adapter can be carried; merging is a choice."),
        ("the same model that it was trained on, weights and all", "It is a change to those weights. To others it is some change or other.", True),
    ),
)  # fmt: skip
