"""Chapter 08's exercises in the styles of many hands: RIGHT, which must pass, and MORE_WRONG, each with the name of its bug."""

import functools
import itertools
import math
import statistics
from fractions import Fraction

import numpy as np
import torch
from answers_08 import by, find_pair, groups, losses, scale, settle, spread, told, two_numbers


def yielded(As, Bs, alpha, r, rate):
    for A in As:
        yield {"params": A, "lr": rate}
    for B in Bs:
        yield {"params": B, "lr": rate * alpha / r}


def by_shape(As, Bs, alpha, r, rate):
    """One group a factor; r is read off the factors."""
    every = [*As, *Bs]
    return tuple({"params": [p], "lr": rate if p.shape[0] == r else rate * (alpha / As[0].shape[0])} for p in every)


def by_adam_itself(As, Bs, alpha, r, rate):
    optimizer = torch.optim.Adam(As, lr=rate)
    optimizer.add_param_group({"params": Bs, "lr": rate * alpha / r})
    return optimizer.param_groups


def bit_by_bit(As, Bs, alpha, r, rate):
    """It empties the lists it was given."""
    each = [{"params": [], "factor": "A"}, {"params": [], "factor": "B"}]
    while As:
        each[0]["params"].append(As.pop())
    while Bs:
        each[1]["params"].append(Bs.pop())
    each[1]["lr"] = math.exp(math.log(rate) + math.log(alpha) - math.log(r))
    return each


def of_rate(number):
    """Groups whose rates are of another type."""
    return lambda As, Bs, alpha, r, rate: [
        {"params": As, "lr": number(rate)},
        {"params": Bs, "lr": number(alpha) / number(r) * number(rate)},
    ]


class Made:
    def __call__(self, As, Bs, alpha, r, rate):
        return [dict(params=iter(Bs), lr=alpha / r * rate), dict(params=tuple(As))]


def of_b(how):
    """Groups whose rate of B is `how(alpha, r, rate)`."""
    return lambda As, Bs, alpha, r, rate: [{"params": As, "lr": rate}, {"params": Bs, "lr": how(alpha, r, rate)}]


def of_a_and_b(how):
    return lambda As, Bs, alpha, r, rate: [
        {"params": p, "lr": x} for p, x in zip((As, Bs), how(alpha, r, rate), strict=True)
    ]


def misspelt(As, Bs, alpha, r, rate):
    return [{"params": As}, {"params": Bs, "learning_rate": alpha / r * rate}]


def with_more(**settings):
    return lambda As, Bs, alpha, r, rate: [{"params": As}, {"params": Bs, "lr": alpha / r * rate, **settings}]


def scales_the_start(As, Bs, alpha, r, rate):
    for A in As:
        A.data.mul_(alpha / r)
    return groups(As, Bs, alpha, r, rate)


def freezes(As, Bs, alpha, r, rate):
    for A in As:
        A.requires_grad_(False)
    return groups(As, Bs, alpha, r, rate)


def copies(how):
    return lambda As, Bs, *given: groups([how(A) for A in As], [how(B) for B in Bs], *given)


def gains_of(run, rate):
    return [run(8, rate, seed) - run(64, rate, seed) for seed in range(3)]


def in_single(run, rate):
    """As the chapter's own cell does it: losses in single precision, which leaves 1e-7 of a loss and more of a gain."""
    eight, sixty_four = (torch.tensor([run(r, rate, seed) for seed in (3, 4, 5)]) for r in (8, 64))
    gains = eight - sixty_four
    return gains.mean(), gains.std() / 3**0.5


def in_numpy(run, rate):
    table = np.array([[run(r, rate, seed) for r in (64, 8)] for seed in (7, 1, 0)], dtype=np.float32)
    gains = table[:, 1] - table[:, 0]
    return np.array([gains.mean(), gains.std(ddof=1) / np.sqrt(3)])


def in_fractions(run, rate):
    gains = [Fraction(run(8, rate, seed)) - Fraction(run(64, rate, seed)) for seed in (11, 12, 13)]
    mean = sum(gains) / 3
    return mean, math.sqrt(sum((gain - mean) ** 2 for gain in gains) / 6)


def by_welford(run, rate):
    mean, squares = 0.0, 0.0
    for n, seed in enumerate((1000, -1, 5), start=1):
        gain = run(seed=seed, rate=rate, r=8) - run(seed=seed, rate=rate, r=64)
        delta = gain - mean
        mean += delta / n
        squares += delta * (gain - mean)
    return [mean, (squares / 2 / 3) ** 0.5]


def with_tensors(run, rate):
    """Everything that `run` is given is a tensor, and so is what comes back."""
    ranks, seeds = torch.tensor([8, 64]), torch.arange(3)
    losses = torch.tensor([[run(r, torch.tensor(rate), seed) for r in ranks] for seed in seeds], dtype=torch.float64)
    gains = -losses.diff(dim=1).squeeze(1)
    return torch.stack([gains.mean(), gains.std(unbiased=False) / 2**0.5])


def with_numpys_numbers(run, rate):
    seeds = np.random.default_rng(0).permutation(50)[:3]
    eight, sixty_four = (np.array([run(np.int64(r), np.float32(rate), seed) for seed in seeds]) for r in (8, 64))
    gains = eight - sixty_four
    return np.mean(gains), np.sqrt(np.var(gains, ddof=1) / len(gains))


def kept(run, rate):
    """A run that was made is not made again."""
    once = functools.cache(run)
    mean = statistics.mean(once(8, rate, seed) - once(64, rate, seed) for seed in range(3))
    error = statistics.stdev(once(8, rate, seed) - once(64, rate, seed) for seed in range(3)) / math.sqrt(3)
    return mean, error


def by_covariance(run, rate):
    eight, big = losses(run, rate, (4, 2, 9))
    both = statistics.variance(eight) + statistics.variance(big) - 2 * statistics.covariance(eight, big)
    return statistics.fmean(eight) - statistics.fmean(big), math.sqrt(both / 3)


def by_scipy(run, rate):
    from scipy import stats

    gains = np.subtract(*losses(run, rate, (5, 6, 8)))
    return gains.mean(), stats.sem(gains)


def by_hand(run, rate):
    a, b, c = gains_of(run, rate)
    mean = (a + b + c) / 3
    return mean, (((a - mean) ** 2 + (b - mean) ** 2 + (c - mean) ** 2) / (3 * 2)) ** 0.5


def by_differences(run, rate):
    """The standard error of three from the distances of all pairs of them."""
    a, b, c = gains_of(run, rate)
    return torch.tensor([(a + b + c) / 3, math.sqrt(((a - b) ** 2 + (b - c) ** 2 + (c - a) ** 2) / 18)])


def again_and_again(run, rate):
    mean = statistics.mean(gains_of(run, rate))
    return mean, statistics.stdev(gains_of(run, rate)) / 3**0.5


def until_it_falls(run, rate):
    while run(64, rate, 0) < 100:
        pass


def one_line_left(run, rate):
    gains = gains_of(run, rate)
    gain = statistics.fmean(gains)
    error = ...
    return gain, error


def se(eight, big):
    return spread(eight, big) / 3**0.5


def mean_gain(eight, big):
    return statistics.fmean(eight) - statistics.fmean(big)


def log_keys(run):
    return math.log2(run["rate_A"]) - math.log2(run["start"]), sum(
        map(math.log2, (scale(run), run["start"], run["rate_B"]))
    )


def with_a_dict(runs):
    seen = {}
    for j, run in enumerate(runs):
        key = tuple(f"{number:.6g}" for number in two_numbers(run))
        if key in seen:
            return {seen[key], j}
        seen[key] = j


def with_numpy(runs):
    points = np.array([two_numbers(run) for run in runs])  # (5, 2)
    i, j = np.nonzero(np.triu(np.isclose(points[:, None], points[None]).all(-1), 1))
    return np.array([i[0], j[0]])


def with_torch(runs):
    points = torch.tensor([two_numbers(run) for run in runs]).log()  # (5, 2), in single precision
    apart = torch.cdist(points, points) + 100 * torch.eye(5)
    return torch.tensor(divmod(apart.argmin().item(), 5))


def with_fractions(runs):
    points = [
        (
            Fraction(run["rate_A"]) / Fraction(run["start"]),
            Fraction(run["alpha"]) / Fraction(run["r"] ** 0.5 if run["rslora"] else run["r"])
            * Fraction(run["start"]) * Fraction(run["rate_B"]),
        )
        for run in runs
    ]  # fmt: skip
    return [i for i, point in enumerate(points) if points.count(point) == 2]


def sorted_first(runs):
    order = sorted(range(5), key=lambda i: two_numbers(runs[i]))
    for i, j in itertools.pairwise(order):
        if np.allclose(two_numbers(runs[i]), two_numbers(runs[j])):
            return j, i


def written_over(runs):
    """It writes every run as one with α = r, in the very dicts that it was given."""
    for run in runs:
        run["rate_B"] *= run.pop("alpha") / run.pop("r") ** (0.5 if run.pop("rslora") else 1) * run["start"]
        run["rate_A"] /= run.pop("start")
    return next((i, j) for j in range(5) for i in range(j) if runs[i] == runs[j])


def in_place_of_the_last(runs):
    found = None
    for i in range(5):
        for j in range(5):
            if i != j and math.isclose(math.prod(x := two_numbers(runs[i])), math.prod(y := two_numbers(runs[j]))):
                found = (float(i), float(j)) if math.isclose(x[0], y[0]) else found
    return found


def by_the_rates_alone(runs):
    """Every run at s = 1 and start 1, by its logarithms in whole steps."""

    def steps(number):
        return round(math.log2(number / 1e-3))

    points = [tuple(map(steps, two_numbers(run))) for run in runs]
    (twice,) = {point for point in points if points.count(point) > 1}
    first = points.index(twice)
    return torch.tensor(first), np.int64(points.index(twice, first + 1))


def last_of(key):
    """As `by`, and the last pair wins."""

    def find_pair(runs):
        found = None
        for i, j in itertools.combinations(range(5), 2):
            if np.allclose(key(runs[i]), key(runs[j])):
                found = i, j
        return found

    return find_pair


def dict_of(key):
    """As `by`, in the order of a dict, and (0, 1) where nothing is found."""

    def find_pair(runs):
        seen = {}
        for j, run in enumerate(runs):
            i = seen.setdefault(tuple(round(math.log(number), 6) for number in key(run)), j)
            if i != j:
                return i, j
        return 0, 1

    return find_pair


def near(tolerance):
    def find_pair(runs):
        points = np.array([two_numbers(run) for run in runs])
        for i, j in itertools.combinations(range(5), 2):
            if (abs(points[i] - points[j]) < tolerance).all():
                return i, j

    return find_pair


def rules_swapped(run):
    return run["rate_A"] / run["start"], run["alpha"] / run["r"] ** (1 if run["rslora"] else 0.5) * run["start"] * run["rate_B"]  # fmt: skip


def always_root(run):
    return run["rate_A"] / run["start"], run["alpha"] / run["r"] ** 0.5 * run["start"] * run["rate_B"]


def root_of_all(run):
    s = run["alpha"] / run["r"]
    return run["rate_A"] / run["start"], (s**0.5 if run["rslora"] else s) * run["start"] * run["rate_B"]


def turned_over(run):
    return run["rate_A"] / run["start"], run["start"] * run["rate_B"] / scale(run)


def start_in_x_only(run):
    return run["rate_A"] / run["start"], scale(run) * run["rate_B"]


def start_in_y_only(run):
    return run["rate_A"], scale(run) * run["start"] * run["rate_B"]


def start_divides_both(run):
    return run["rate_A"] / run["start"], scale(run) / run["start"] * run["rate_B"]


def rates_swapped(run):
    return run["rate_B"] / run["start"], scale(run) * run["start"] * run["rate_A"]


def forgets_rslora(run):
    return two_numbers(run | {"rslora": False})


def raises_if_rslora(runs):
    return find_pair([run | {"rslora": run["rs_lora"]} if run["rslora"] else run for run in runs])


RIGHT = [
    ("08.1", yielded),
    ("08.1", by_shape),
    ("08.1", by_adam_itself),
    ("08.1", bit_by_bit),
    ("08.1", Made()),
    ("08.1", of_rate(np.float32)),
    ("08.1", of_rate(np.float64)),
    ("08.1", of_rate(Fraction)),
    ("08.1", of_rate(torch.tensor)),
    ("08.1", of_rate(lambda number: np.array([number]))),
    ("08.1", of_rate(lambda number: torch.tensor(number, dtype=torch.float64))),
    ("08.1", of_b(lambda alpha, r, rate: rate / (r / alpha))),
    ("08.1", of_b(lambda alpha, r, rate: sum([rate * alpha * (1 / r)]))),
    ("08.1", with_more(weight_decay=0, eps=1e-8, betas=[0.9, 0.999])),
    ("08.1", functools.partial(lambda scale, As, Bs, *given: [{"params": As}, {"params": Bs, "lr": scale(*given)}],
                               lambda alpha, r, rate: alpha * rate / r)),
    ("08.3", in_single),
    ("08.3", in_numpy),
    ("08.3", in_fractions),
    ("08.3", by_welford),
    ("08.3", with_tensors),
    ("08.3", with_numpys_numbers),
    ("08.3", kept),
    ("08.3", by_covariance),
    ("08.3", by_scipy),
    ("08.3", by_hand),
    ("08.3", by_differences),
    ("08.3", functools.partial(told(seeds=(0.0, 41.0, 40.0)))),
    ("08.3", told(seeds=(2**40, 200, 400))),
    ("08.3", told(seeds=(0, 200, 400))),
    ("08.3", lambda run, rate: settle(lambda r, rate, seed: run(rate=rate, seed=seed, r=r), rate)),
    ("08.3", lambda run, rate: np.float64(settle(run, rate)).reshape(2, 1)),
    ("08.2", by(lambda run: [2**number for number in log_keys(run)])),
    ("08.2", with_a_dict),
    ("08.2", with_numpy),
    ("08.2", with_torch),
    ("08.2", with_fractions),
    ("08.2", sorted_first),
    ("08.2", written_over),
    ("08.2", in_place_of_the_last),
    ("08.2", by_the_rates_alone),
    ("08.2", last_of(two_numbers)),
    ("08.2", dict_of(two_numbers)),
    ("08.2", near(1e-6)),
    ("08.2", near(1e-5)),
    ("08.2", lambda runs: find_pair(runs)[::-1]),
    ("08.2", lambda runs: frozenset(find_pair(runs))),
    ("08.2", by(lambda run: np.float32(two_numbers(run)))),
    ("08.2", by(lambda run: [round(number, 6) for number in two_numbers(run)])),
]  # fmt: skip

MORE_WRONG = [
    ("08.1", of_b(lambda alpha, r, rate: alpha // r * rate), "s is rounded"),
    ("08.1", of_b(lambda alpha, r, rate: round(alpha / r) * rate), "s is rounded"),
    ("08.1", of_b(lambda alpha, r, rate: max(alpha / r, 1) * rate), "s is rounded"),
    ("08.1", of_b(lambda alpha, r, rate: alpha / 8 * rate), "r is always 8"),
    ("08.1", of_b(lambda alpha, r, rate: 16 / r * rate), "α is always 16"),
    ("08.1", of_b(lambda alpha, r, rate: alpha / r), "the rate is forgotten"),
    ("08.1", of_b(lambda alpha, r, rate: 2e-3), "one rate for every run"),
    ("08.1", of_a_and_b(lambda alpha, r, rate: (1e-3, 2e-3)), "one rate for every run"),
    ("08.1", of_b(lambda alpha, r, rate: 16 * rate), "one factor for every"),
    ("08.1", of_b(lambda alpha, r, rate: alpha / r**0.5 * rate), "α/√r"),
    ("08.1", of_b(lambda alpha, r, rate: rate / r), "α is left out"),
    ("08.1", of_b(lambda alpha, r, rate: r / alpha * rate), "B's rate is divided by s"),
    ("08.1", of_a_and_b(lambda alpha, r, rate: (r / alpha * rate, rate)), "A's rate is divided by s"),
    ("08.1", of_a_and_b(lambda alpha, r, rate: (alpha / r * rate, r / alpha * rate)), "A's rate is multiplied, beside B's"),
    ("08.1", of_b(lambda alpha, r, rate: -alpha / r * rate), "other rates"),
    ("08.1", misspelt, "does not stand under `lr`"),
    ("08.1", with_more(weight_decay=0.01), "another setting"),
    ("08.1", with_more(betas=(0.9, 0.99)), "another setting"),
    ("08.1", scales_the_start, "a factor is changed"),
    ("08.1", freezes, "a factor is changed"),
    ("08.1", copies(lambda p: torch.nn.Parameter(p.clone())), "copies"),
    ("08.1", copies(lambda p: p.detach()), "copies"),
    ("08.1", copies(lambda p: p.data * 1), "copies"),
    ("08.1", lambda As, Bs, alpha, r, rate: [*groups(As, [], alpha, r, rate), *groups(As, Bs, alpha, r, rate)], "a factor stands twice"),
    ("08.1", lambda As, Bs, *given: groups(As, Bs + Bs, *given), "a factor stands twice"),
    ("08.1", lambda As, Bs, *given: groups(As + Bs, Bs, *given), "a factor stands twice"),
    ("08.1", lambda As, Bs, *given: groups(As, Bs[:1], *given), "a factor is left out"),
    ("08.1", lambda As, Bs, *given: torch.optim.Adam(groups(As, Bs, *given)), "an optimiser, not its groups"),
    ("08.1", lambda *given: groups(*given)[1], "no parameter groups"),
    ("08.1", lambda *given: {"A": groups(*given)[0], "B": groups(*given)[1]}, "no parameter groups"),
    ("08.1", lambda As, Bs, *given: groups(set(As), set(Bs), *given), "no parameter groups"),
    ("08.1", lambda As, Bs, *given: [As, Bs], "no parameter groups"),
    ("08.1", of_b(lambda alpha, r, rate: f"{alpha / r * rate}"), "not a number"),
    ("08.1", of_b(lambda alpha, r, rate: math.nan), "not a number"),
    ("08.1", of_b(lambda alpha, r, rate: alpha / 0), "it raises an error"),
    ("08.1", lambda As, Bs, alpha, r, rate: ({"params": p, "lr": alpha / 0} for p in (As, Bs)), "no parameter groups"),
    ("08.1", lambda As, Bs, alpha, r, rate: print(end=""), "nothing is returned"),
    ("08.3", again_and_again, "more than six runs"),
    ("08.3", until_it_falls, "more than six runs"),
    ("08.3", lambda run, rate: (0.3, 0.05), "no run is made"),
    ("08.3", lambda run, rate: (gains_of(run, rate), (0.3, 0.05))[1], "another gain"),
    ("08.3", lambda run, rate: settle(run, rate)[::-1], "the two are swapped"),
    ("08.3", lambda run, rate: settle(lambda r, rate, seed: run(seed, rate, r), rate), "not these two ranks"),
    ("08.3", lambda run, rate: settle(lambda r, rate, seed: run(r, seed, rate), rate), "run is called with something else"),
    ("08.3", lambda run, rate: settle(lambda r, rate, seed: run(rate, r, seed), rate), "run is called with something else"),
    ("08.3", lambda run, rate: settle(lambda r, rate, seed: run(r, rate, None), rate), "run is called with something else"),
    ("08.3", lambda run, rate: settle(lambda r, rate, seed: run(r, rate, f"seed {seed}"), rate), "run is called with something else"),
    ("08.3", told(seeds=(0.1, 0.2, 0.3)), "run is called with something else"),
    ("08.3", lambda run, rate: settle(lambda r, rate, seed: run(r // 8, rate, seed), rate), "not these two ranks"),
    ("08.3", lambda run, rate: settle(lambda r, rate, seed: run(r, 0.01, seed), rate), "another rate"),
    ("08.3", lambda run, rate: settle(lambda r, rate, seed: run(r, rate * 8 / r, seed), rate), "another rate"),
    ("08.3", told(seeds=(0, 0, 0)), "one run, made again"),
    ("08.3", told(gain=lambda eight, big: sum(eight) - sum(big)), "a sum, not a mean"),
    ("08.3", told(gain=lambda eight, big: min(eight) - min(big)), "the best run of each side"),
    ("08.3", told(gain=lambda eight, big: max(a - b for a, b in zip(eight, big))), "the largest gain"),
    ("08.3", told(gain=lambda eight, big: statistics.median(a - b for a, b in zip(eight, big))), "the median"),
    ("08.3", told(gain=lambda eight, big: abs(mean_gain(eight, big))), "without its sign"),
    ("08.3", told(gain=lambda eight, big: mean_gain(eight, big) / statistics.fmean(eight)), "a ratio"),
    ("08.3", told(gain=lambda eight, big: statistics.fmean(big)), "one side's loss"),
    ("08.3", told(gain=lambda eight, big: mean_gain(eight, big) / 2), "divided by six runs"),
    ("08.3", told(gain=lambda eight, big: mean_gain(eight, big) * 1.5), "divided by n − 1"),
    ("08.3", told(gain=lambda eight, big: eight[-1] - big[-1]), "not all seeds are used"),
    ("08.3", told(gain=lambda eight, big: round(mean_gain(eight, big), 2)), "rounded"),
    ("08.3", told(error=lambda *both: spread(*both) ** 2), "a variance"),
    ("08.3", told(error=lambda *both: se(*both) ** 2), "a variance"),
    ("08.3", told(error=lambda *both: 1.96 * se(*both)), "an interval"),
    ("08.3", told(error=lambda *both: 4.302653 * se(*both)), "an interval"),
    ("08.3", told(error=lambda *both: spread(*both) / 6**0.5), "divided by six runs"),
    ("08.3", told(error=lambda *both: spread(*both) / 2**0.5), "n − 1 counts twice"),
    ("08.3", told(error=lambda *both: spread(*both) * 3**0.5), "multiplied by the root"),
    ("08.3", told(error=lambda eight, big: statistics.stdev(eight) / 3**0.5), "one side's error"),
    ("08.3", told(error=lambda eight, big: statistics.stdev(eight + big) / 6**0.5), "the pairs are not used"),
    ("08.3", told(error=lambda eight, big: se(sorted(eight), sorted(big))), "the pairs do not share"),
    ("08.3", told(error=lambda eight, big: round(se(eight, big), 2)), "rounded"),
    ("08.3", told(error=lambda *both: 0.05), "another error"),
    ("08.3", told(error=lambda *both: "0.05"), "not a number"),
    ("08.3", told(error=lambda *both: math.nan), "not a number"),
    ("08.3", gains_of, "not a pair"),
    ("08.3", lambda run, rate: statistics.fmean(gains_of(run, rate)), "not a pair"),
    ("08.3", lambda run, rate: (*settle(run, rate), 3), "not a pair"),
    ("08.3", lambda run, rate: f"{settle(run, rate)}", "not a pair"),
    ("08.3", lambda run, rate: run(8, rate), "it raises an error"),
    ("08.2", last_of(lambda run: two_numbers(run)[:1]), "B's rate is not looked at"),
    ("08.2", last_of(lambda run: two_numbers(run)[1:]), "A's rate is not looked at"),
    ("08.2", dict_of(lambda run: two_numbers(run)[1:]), "A's rate is not looked at"),
    ("08.2", last_of(lambda run: (scale(run),)), "only the scale"),
    ("08.2", dict_of(forgets_rslora), "rsLoRA is forgotten"),
    ("08.2", by(always_root), "rsLoRA is forgotten"),
    ("08.2", by(rules_swapped), "the two rules are swapped"),
    ("08.2", last_of(rules_swapped), "the two rules are swapped"),
    ("08.2", by(root_of_all), "the root is taken of α"),
    ("08.2", dict_of(turned_over), "the scale is turned over"),
    ("08.2", by(start_in_x_only), "A's start is forgotten beside B's rate"),
    ("08.2", dict_of(start_in_y_only), "A's start is forgotten beside A's rate"),
    ("08.2", by(start_divides_both), "B's rate is divided by A's start"),
    ("08.2", by(rates_swapped), "A's and B's rates are swapped"),
    ("08.2", by(lambda run: (math.prod(two_numbers(run)),)), "one number in place of two"),
    ("08.2", by(lambda run: (scale(run), run["rate_A"] / run["rate_B"])), "only the ratio of the rates"),
    ("08.2", lambda runs: (len({run["alpha"] for run in runs}) % 4, 4), "another pair"),
    ("08.2", near(2e-3), "the tolerance is too wide"),
    ("08.2", near(1e-2), "the tolerance is too wide"),
    ("08.2", lambda runs: (0, 1), "one answer for any five runs"),
    ("08.2", lambda runs: (1, 2), "one answer for any five runs"),
    ("08.2", lambda runs: [pair for pair in itertools.combinations(range(5), 2) if pair == find_pair(runs)], "not a pair"),
    ("08.2", lambda runs: find_pair(runs)[0], "not a pair"),
    ("08.2", lambda runs: "0 and 1", "not a pair"),
    ("08.2", lambda runs: dict(enumerate(find_pair(runs))), "not a pair"),
    ("08.2", lambda runs: [runs[i] for i in find_pair(runs)], "not a number"),
    ("08.2", lambda runs: [i + 0.5 for i in find_pair(runs)], "not a whole number"),
    ("08.2", lambda runs: [i - 5 for i in find_pair(runs)], "no position"),
    ("08.2", lambda runs: (find_pair(runs)[0], 7), "no position"),
    ("08.2", lambda runs: [str(i) for i in find_pair(runs)], "not a number"),
    ("08.2", by(lambda run: tuple(number + 1 for number in run.values())), "no pair is found"),
    ("08.2", last_of(lambda run: tuple(map(float, run.values()))), "nothing is returned"),
    ("08.2", raises_if_rslora, "it raises an error"),
    ("08.2", lambda runs: find_pair(runs) and None, "nothing is returned"),
]  # fmt: skip
