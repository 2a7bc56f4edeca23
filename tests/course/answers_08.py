"""Chapter 08: solutions, stubs and planted bugs. More programs stand in `programs_08`."""

import itertools
import math
import statistics

from kit import Answers


def groups(As, Bs, alpha, r, rate):
    return [{"params": As, "lr": rate}, {"params": Bs, "lr": alpha / r * rate}]


def groups_stub(As, Bs, alpha, r, rate):
    return [{"params": As, "lr": ...}, {"params": Bs, "lr": ...}]


def with_rates(how):
    """Groups whose rates are `how(s, alpha, rate)` = (of A, of B)."""

    def wrong(As, Bs, alpha, r, rate):
        a, b = how(alpha / r, alpha, rate)
        return [{"params": As, "lr": a}, {"params": Bs, "lr": b}]

    return wrong


def losses(run, rate, seeds=(0, 1, 2)):
    return [run(8, rate, seed) for seed in seeds], [run(64, rate, seed) for seed in seeds]


def settle(run, rate):
    gains = [a - b for a, b in zip(*losses(run, rate))]
    return statistics.fmean(gains), statistics.stdev(gains) / math.sqrt(3)


def settle_stub(run, rate):
    gain = ...
    error = ...
    return gain, error


def told(gain=None, error=None, seeds=(0, 1, 2)):
    """`settle` with another gain or error, made of both sides' losses."""

    def wrong(run, rate):
        eight, sixty_four = losses(run, rate, seeds)
        gains = [a - b for a, b in zip(eight, sixty_four)]
        right = statistics.fmean(gains), statistics.stdev(gains) / math.sqrt(len(gains))
        return gain(eight, sixty_four) if gain else right[0], error(eight, sixty_four) if error else right[1]

    return wrong


def spread(eight, sixty_four):
    return statistics.stdev(a - b for a, b in zip(eight, sixty_four))


def other_seeds(run, rate):
    gains = [run(8, rate, seed) - run(64, rate, seed + 3) for seed in range(3)]
    return statistics.fmean(gains), statistics.stdev(gains) / math.sqrt(3)


def own_rates(run, rate):
    gains = [run(8, rate, seed) - run(64, rate / 3, seed) for seed in range(3)]
    return statistics.fmean(gains), statistics.stdev(gains) / math.sqrt(3)


def scale(run):
    return run["alpha"] / (run["r"] ** 0.5 if run["rslora"] else run["r"])


def by(key):
    """The pair that agrees in `key`, by rounded logarithms."""

    def find_pair(runs):
        keys = [[round(math.log(number), 6) for number in key(run)] for run in runs]
        return next((i, j) for i, j in itertools.combinations(range(len(runs)), 2) if keys[i] == keys[j])

    return find_pair


def two_numbers(run):
    return run["rate_A"] / run["start"], scale(run) * run["start"] * run["rate_B"]


find_pair = by(two_numbers)


def find_pair_stub(runs): ...


ANSWERS = {
    "08.1": Answers(
        groups,
        groups_stub,
        {
            "nothing is changed": with_rates(lambda s, alpha, rate: (rate, rate)),
            "A's rate is changed": with_rates(lambda s, alpha, rate: (s * rate, rate)),
            "both rates are changed": with_rates(lambda s, alpha, rate: (s * rate, s * rate)),
            "B's rate is divided by s": with_rates(lambda s, alpha, rate: (rate, rate / s)),
            "s counts twice": with_rates(lambda s, alpha, rate: (rate, s * s * rate)),
            "s is shared out": with_rates(lambda s, alpha, rate: (s**0.5 * rate, s**0.5 * rate)),
            "the root of s": with_rates(lambda s, alpha, rate: (rate, s**0.5 * rate)),
            "A's rate is divided, beside": with_rates(lambda s, alpha, rate: (rate / s, s * rate)),
            "α, not α/r": with_rates(lambda s, alpha, rate: (rate, alpha * rate)),
            "one factor for every": with_rates(lambda s, alpha, rate: (rate, 2 * rate)),
            "a factor is left out": lambda As, Bs, alpha, r, rate: [{"params": Bs, "lr": alpha / r * rate}],
            "no parameter groups": lambda As, Bs, alpha, r, rate: (rate, alpha / r * rate),
        },
    ),
    "08.3": Answers(
        settle,
        settle_stub,
        {
            "more than six runs": told(seeds=range(4)),
            "runs are left over": told(seeds=(0, 1)),
            "other seeds on either side": other_seeds,
            "another rate": own_rates,
            "one run, made again": told(seeds=(0, 0, 1)),
            "the sign is turned": told(gain=lambda eight, big: statistics.fmean(big) - statistics.fmean(eight)),
            "not all seeds are used": told(gain=lambda eight, big: eight[0] - big[0]),
            "the standard deviation, not": told(error=spread),
            "divided by n inside": told(error=lambda *both: spread(*both) * (2 / 3) ** 0.5 / 3**0.5),
            "the pairs are not used": told(
                error=lambda eight, big: ((statistics.variance(eight) + statistics.variance(big)) / 3) ** 0.5
            ),
            "divided by n, not": told(error=lambda *both: spread(*both) / 3),
            "the pairs do not share": told(error=lambda eight, big: spread(eight, big[1:] + big[:1]) / 3**0.5),
        },
    ),
    "08.2": Answers(
        find_pair,
        find_pair_stub,
        {
            "A's start is forgotten": by(lambda run: (run["rate_A"], scale(run) * run["rate_B"])),
            "α is forgotten": by(lambda run: (run["rate_A"] / run["start"], run["start"] * run["rate_B"])),
            "A's rate is not looked at": by(lambda run: two_numbers(run)[1:]),
            "B's rate is not looked at": by(lambda run: two_numbers(run)[:1]),
            "rsLoRA is forgotten": by(
                lambda run: (run["rate_A"] / run["start"], run["alpha"] / run["r"] * run["start"] * run["rate_B"])
            ),
            "A's rate is multiplied": by(lambda run: (run["rate_A"] * run["start"], two_numbers(run)[1])),
            "as under SGD": by(
                lambda run: (run["rate_A"] / run["start"] ** 2, (scale(run) * run["start"]) ** 2 * run["rate_B"])
            ),
            "counted from 1": lambda runs: [i + 1 for i in find_pair(runs)],
            "a run, and itself": lambda runs: (2, 2),
        },
    ),
}
