"""Chapter 14: solutions, stubs and planted bugs."""

from math import comb

import numpy as np
from kit import Answers

from lora_edu.evaluation import Score, paired_bootstrap, paired_gain, share


def choose(need, rows, room, fits=lambda size, room: size <= room, flags=(False, True), every=True):
    for checkpointing in flags:
        for size in range(rows, 0, -1):
            if (rows % size == 0 or not every) and fits(need(size, checkpointing), room):
                return size, rows // size, checkpointing
    raise ValueError("nothing fits")


def choose_blank(need, rows, room): ...


def one_at_a_time(need, rows, room):
    _, _, checkpointing = choose(need, rows, room)
    return 1, rows, checkpointing


def says_nothing(need, rows, room):
    try:
        return choose(need, rows, room)
    except ValueError:
        return None


def half_at_most(need, rows, room):
    """The second pass begins at half of the rows."""
    size, times, checkpointing = choose(need, rows, room)
    return (
        (size // 2, times * 2, True)
        if checkpointing and size == rows and rows % 2 == 0
        else (size, times, checkpointing)
    )


def by_a_straight_line(need, rows, room):
    def line(size, checkpointing):
        one, two = need(1, checkpointing), need(2, checkpointing)
        return one + (size - 1) * (two - one)

    return choose(line, rows, room)


def stumbles(need, rows, room):
    sizes = [size for size in range(1, rows + 1) if rows % size == 0]
    best = max(size for size in sizes if need(size, False) <= room)  # of nothing: ValueError
    return best, rows // best, False


def never_refuses(need, rows, room):
    try:
        return choose(need, rows, room)
    except ValueError:
        return 1, rows, True


def weights(counts):
    return [len(counts) * count / sum(counts) for count in counts]


def weights_blank(counts): ...


def per_process(weights, gradients, optimizer, activations, gathered, processes, shards):
    kept = weights + gradients + optimizer
    return (kept + activations) / processes + gathered if shards else kept + activations / processes


def per_process_blank(weights, gradients, optimizer, activations, gathered, processes, shards): ...


def verdict(before, after, least=0.05):
    gain, p = paired_gain(share(before), share(after))
    return "cannot tell" if p > least else "better" if gain.value > 0 else "worse"


def verdict_blank(before, after): ...


def by_two_intervals(before, after):
    one, other = (Score(np.array(each, float)).interval() for each in (before, after))
    return "better" if other.low > one.high else "worse" if other.high < one.low else "cannot tell"


def by_the_mean(before, after, least=1, share=False):
    gain = (sum(after) - sum(before)) / (len(before) if share else 1)
    return "better" if gain >= least else "worse" if gain <= -least else "cannot tell"


def by_score(before, after, z=1.96):
    """The normal approximation of the paired gain."""
    changes = np.array(after, float) - np.array(before, float)
    edge = z * changes.std() / len(changes) ** 0.5
    return "better" if changes.mean() > edge else "worse" if changes.mean() < -edge else "cannot tell"


def by_sign_test(before, after):
    gained, lost = (sum(one > other for one, other in zip(*pair)) for pair in ((after, before), (before, after)))
    n = gained + lost
    tail = sum(comb(n, k) for k in range(min(gained, lost) + 1)) / 2**n
    return "cannot tell" if 2 * tail > 0.05 else "better" if gained > lost else "worse"


def by_the_paired_bootstrap(before, after):
    gain, _ = paired_bootstrap(share(before), share(after))
    return "better" if gain.low > 0 else "worse" if gain.high < 0 else "cannot tell"


def by_one_throw(before, after):
    """The chance of just this throw, without those that are more uneven."""
    gained, lost = (sum(one > other for one, other in zip(*pair)) for pair in ((after, before), (before, after)))
    chance = 2 * comb(gained + lost, gained) / 2 ** (gained + lost)
    return "cannot tell" if chance > 0.05 else "better" if gained > lost else "worse"


def by_the_interval(before, after):
    low, high = paired_gain(share(before), share(after)).interval[1:]
    return "better" if low > 0 else "worse" if high < 0 else "cannot tell"


def by_redrawing(before, after):
    changes = np.array(after) - np.array(before)
    means = np.random.default_rng().choice(changes, size=(1000, len(changes))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return "better" if low > 0 else "worse" if high < 0 else "cannot tell"


def by_share_alone(before, after):
    return by_the_mean(before, after, 0.075, share=True)


def by_the_ratio(before, after):
    gained, lost = (sum(one > other for one, other in zip(*pair)) for pair in ((after, before), (before, after)))
    return "better" if gained > 2 * lost + 3 else "worse" if lost > 2 * gained + 3 else "cannot tell"


SWAP = {"better": "worse", "worse": "better", "cannot tell": "cannot tell"}

ANSWERS = {
    "14.1": Answers(
        choose,
        choose_blank,
        {
            "the step has other rows": lambda need, rows, room: choose(need, rows, room, every=False),
            "just enough is refused": lambda need, rows, room: choose(need, rows, room, lambda size, room: size < room),
            "where it is not needed": lambda need, rows, room: choose(need, rows, room, flags=(True,)),
            "although something fits": lambda need, rows, room: choose(need, rows, room, flags=(False,)),
            "fewer rows at once": one_at_a_time,
            "not whole numbers": lambda need, rows, room: (
                (size := choose(need, rows, room)[0]),
                rows / size,
                choose(need, rows, room)[2],
            ),
            "the first two": lambda need, rows, room: (
                *choose(need, rows, room)[1::-1],
                choose(need, rows, room)[2],
            ),
            "nothing is said": never_refuses,
            "does not fit": lambda need, rows, room: (
                (rows, 1, False) if need(1, True) <= room else choose(need, rows, room)
            ),
            "not three values": lambda need, rows, room: choose(need, rows, room)[:2],
            "not True or False": lambda need, rows, room: (*choose(need, rows, room)[:2], "on"),
        },
    ),
    "14.4": Answers(
        weights,
        weights_blank,
        {
            "counts the same": lambda counts: [1.0] * len(counts),
            "is 1/N of the wanted": lambda counts: [count / sum(counts) for count in counts],
            "is 1/N² of the wanted": lambda counts: [count / sum(counts) / len(counts) for count in counts],
            "a sum, and not a mean": lambda counts: counts,
            "turned round": lambda counts: [sum(counts) / (len(counts) * max(1, count)) for count in counts],
            "not divided by all": lambda counts: [len(counts) * count for count in counts],
            "left out of N": lambda counts: [
                share * sum(count > 0 for count in counts) / len(counts) for share in weights(counts)
            ],
            "other weights": lambda counts: [count / max(counts) for count in counts],
            "not a number for each": lambda counts: sum(counts),
            "the processes' order": lambda counts: dict(enumerate(weights(counts))),
        },
    ),
    "14.3": Answers(
        per_process,
        per_process_blank,
        {
            "sees its own rows": lambda w, g, o, a, b, n, s: per_process(w, g, o, a * n, b, n, s),
            "DDP does not divide": lambda w, g, o, a, b, n, s: (w + g + o + a) / n + b * s,
            "DDP gathers nothing": lambda w, g, o, a, b, n, s: per_process(w, g, o, a, b, n, s) + (0 if s else b),
            "as if it were DDP": lambda w, g, o, a, b, n, s: w + g + o + a / n,
            "gathered is forgotten": lambda w, g, o, a, b, n, s: per_process(w, g, o, a, 0, n, s),
            "gathered is whole": lambda w, g, o, a, b, n, s: per_process(w, g, o, a, b / n, n, s),
            "optimiser is shared": lambda w, g, o, a, b, n, s: per_process(w, g, o * n if s else o, a, b, n, s),
            "gradients are shared": lambda w, g, o, a, b, n, s: per_process(w, g * n if s else g, o, a, b, n, s),
            "activations are forgotten": lambda w, g, o, a, b, n, s: per_process(w, g, o, 0, b, n, s),
            "activations grow": lambda w, g, o, a, b, n, s: per_process(w, g, o, a * n * n, b, n, s),
            "only the weights": lambda w, g, o, a, b, n, s: per_process(w, (g + o) * (n if s else 1), 0, a, b, n, s),
            "exchanged": lambda w, g, o, a, b, n, s: per_process(w, g, o, a, b, n, not s),
            "as if it were FSDP": lambda w, g, o, a, b, n, s: per_process(w, g, o, a, b, n, True),
            "optimiser is forgotten": lambda w, g, o, a, b, n, s: per_process(w, g, 0, a, b, n, s),
            "gradients are forgotten": lambda w, g, o, a, b, n, s: per_process(w, 0, o, a, b, n, s),
            "weights are kept whole": lambda w, g, o, a, b, n, s: per_process(w * n if s else w, g, o, a, b, n, s),
            "the weights are forgotten": lambda w, g, o, a, b, n, s: per_process(0 if s else w, g, o, a, b, n, s),
            "all processes together": lambda w, g, o, a, b, n, s: n * per_process(w, g, o, a, b, n, s),
            "not a number": lambda w, g, o, a, b, n, s: "a lot",
        },
    ),
    "14.2": Answers(
        verdict,
        verdict_blank,
        {
            "a difference is taken": by_the_mean,
            "one by one": by_two_intervals,
            "clear gain": lambda before, after: "cannot tell",
            "a loss is overlooked": lambda before, after: verdict(before, after).replace("worse", "cannot tell"),
            "exchanged": lambda before, after: SWAP[verdict(before, after)],
            "many changes": lambda before, after: (
                verdict(before, after) if sum(a != b for a, b in zip(after, before)) < 45 else "better"
            ),
            "something is found": lambda before, after: "worse" if before == after else verdict(before, after),
            "only the totals": lambda before, after: by_the_mean(before, after, 6),
            "large share": by_share_alone,
            "more is asked for": lambda before, after: verdict(before, after, 0.01),
            "less is asked for": lambda before, after: by_score(before, after, 1.645),
            "lost rows hide": by_the_ratio,
            "few rows": lambda before, after: "cannot tell" if len(after) < 30 else verdict(before, after),
            "four coins": by_the_paired_bootstrap,
            "only one side": lambda before, after: verdict(before, after, 0.1),
            "more uneven still": by_one_throw,
            "another word": lambda before, after: verdict(before, after) == "better",
        },
    ),
}  # fmt: skip
