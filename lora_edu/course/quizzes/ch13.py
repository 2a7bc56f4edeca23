"""Self-test of chapter 13."""

from lora_edu.course.selftest import Item, Option, Quiz

QUIZ = Quiz(
    "13",
    "Is it any good?",
    (
        Item(
            "13.q1",
            "A classifier of ten labels scores .85; the commonest label alone .13. What is missing before “it has learnt a lot” may be said?",
            (
                Option("nothing: .85 is far above .13", "The commonest label is the weakest baseline there is. On this page a look-up of the nearest training sentence has beaten it many times over."),
                Option("a stronger program without learning, on the same rows", "What a look-up reaches, nobody has to train for.", True),
                Option("the training accuracy", "It says how well the training rows are known, and nothing of other rows."),
            ),
        ),
        Item(
            "13.q2",
            "Every row is written in three ways, and then all are shuffled and split. What do the test rows measure?",
            (
                Option("robustness to how things are written", "For that the three ways of one row must stand on one side, and the test rows must be new."),
                Option("partly memory: most test rows have a sister among the training rows", "Split first, by what must not stand on two sides; then write the rows in other ways.", True),
                Option("the same as before, only with more rows", "More rows, and fewer questions that training has not seen."),
            ),
        ),
        Item(
            "13.q3",
            "Two models on the same 100 rows: .80 [.71, .87] and .86 [.78, .91]. The intervals overlap. What follows?",
            (
                Option("there is no difference", "Each interval is about how hard the rows are, which is the same for both."),
                Option("nothing yet: how many rows did each gain and lose?", "6 gained and 0 lost is p = .03; 20 gained and 14 lost is p = .39. Both are six points.", True),
                Option("the second is better: its figure is higher", "One of the two is always higher, also of two equal ones."),
            ),
        ),
        Item(
            "13.q4",
            "A run with replayed general rows forgets less than one without, at the same learning rate. What does that not show?",
            (
                Option("that replay is better than a lower rate", "A lower rate forgets less as well. The two have to be compared at the same task loss.", True),
                Option("that replay helped at that rate", "That is what it does show, for these seeds."),
                Option("that the general rows were read", "They were trained on: that is what replay is."),
            ),
        ),
        Item(
            "13.q5",
            "Perplexity on general passages has hardly risen. Is nothing forgotten?",
            (
                Option("nothing: perplexity is an average over all tokens", "An average over passages. Questions are another kind of text."),
                Option("not shown: what the model *answers* may have changed all the same", "In this chapter's runs the passages rise little where half of the trivia answers hold the name.", True),
                Option("something is, because perplexity never stays equal", "It may stay equal within its interval; then the passages say nothing either way."),
            ),
        ),
    ),
    revisit=("06.q1", "00.q3"),
)  # fmt: skip
