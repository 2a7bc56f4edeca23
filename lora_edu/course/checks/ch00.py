"""Exercises of chapter 00, Start here."""

import itertools
import random
import re
from collections.abc import Callable

import torch

from lora_edu.course.exercises import (
    Wrong,
    apart,
    as_number,
    as_parts,
    as_tensor,
    attempt,
    close,
    generator,
    named,
    register,
    same,
)

Table = list[dict[str, float]]


def _seeded() -> random.Random:
    return random.Random(generator().initial_seed())


def _best(rows: Table) -> float:
    return max(rows, key=lambda row: row["style"])["dial"]


def _row(rows: Table, dial: float) -> dict[str, float]:
    return next(row for row in rows if row["dial"] == dial)


def _until_first_over(rows: Table, cap: float) -> Table:
    """The rows before the first one over the cap."""
    return rows[: next(i for i, row in enumerate(rows) if row["general_loss"] > cap)]


def _tables(rng: random.Random, exact: bool, peek: bool) -> tuple[Table, Table, float, dict[str, float]]:
    """Two tables in different orders, a cap, and the dial that each slip chooses, drawn until no two slips choose alike.

    exact: the right row lies exactly at the cap. peek: the test rows would forbid the right choice.
    """
    while True:
        dials = rng.sample([k / 20 for k in range(-20, 41)], 16)  # no even steps, and no order

        def table(dials: list[float] = dials) -> Table:
            rows = [{"dial": d, "style": rng.uniform(0.1, 0.9), "general_loss": rng.uniform(3.7, 4.5)} for d in dials]
            rng.shuffle(rows)
            return rows

        valid, test = table(), table()
        losses = sorted(row["general_loss"] for row in valid)
        cap = losses[9] if exact else (losses[9] + losses[10]) / 2
        allowed = [row for row in valid if row["general_loss"] <= cap]
        best = _best(allowed)
        if exact:  # the right row and the one at the cap change losses
            chosen, edge = _row(valid, best), next(row for row in valid if row["general_loss"] == cap)
            chosen["general_loss"], edge["general_loss"] = edge["general_loss"], chosen["general_loss"]
        others = {row["dial"] for row in test if row["general_loss"] <= cap} - {best}
        if valid[0]["general_loss"] > cap or not any(row["dial"] in others for row in allowed):
            continue
        _row(test, best)["general_loss"] = cap + 0.05 if peek else cap - 0.05
        fits = [row for row in test if row["general_loss"] <= cap]
        kept = {row["dial"] for row in fits}
        picks = {
            "": best,
            "chosen on the test rows": _best(fits),
            "the cap is ignored, or taken for a rise over the base's loss": _best(valid),
            "the worst style chosen": min(allowed, key=lambda row: row["style"])["dial"],
            "the largest dial under the cap chosen, whatever its style": max(row["dial"] for row in allowed),
            "the lowest general loss chosen": min(valid, key=lambda row: row["general_loss"])["dial"],
            "the first row of the table chosen": valid[0]["dial"],
            "the search stops at the first row over the cap": _best(_until_first_over(valid, cap)),
        }
        if exact:
            picks["a row exactly at the cap is allowed"] = _best([r for r in allowed if r["general_loss"] < cap])
        if peek:
            picks["the test rows' general loss used to choose"] = _best([r for r in allowed if r["dial"] in kept])
        chosen = _row(valid, best)
        if len(set(picks.values())) == len(picks) and test[valid.index(chosen)]["dial"] != best:
            return valid, test, cap, picks


@register(
    "00.1",
    title="Turn the dial",
    stars=1,
    minutes=4,
    task="Write `turned(base, trained, dial)`. Given are a matrix as the base has it and the same matrix with the adapter at 1. Return the matrix at any "
    "position of the dial, as a new one: the two that you were given stay as they are.",
    wants="turned",
    shows="One line, for every position: half of the way at ½, beyond the training at 2, and away from it below 0.",
    hints=(
        "What did the adapter add at 1? You have the matrix with it and the matrix without it.",
        "The dial multiplies what was added, and nothing else.",
        "`base + dial * (trained - base)`.",
    ),
)
def turn_the_dial(turn: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]) -> None:
    rng = generator()
    for low in (0.2, 1.4, -0.8, 0.0):
        dial = low and round(low + 0.2 * float(torch.rand((), generator=rng)), 2)  # never ½, where two slips are one
        base, added = (torch.randn(3, 4, generator=rng) for _ in range(2))
        trained = base + added
        kept = base.clone(), trained.clone()
        new = as_tensor(attempt(turn, base, trained, dial), kept[0], "what `turned` returns")
        if not (torch.equal(base, kept[0]) and torch.equal(trained, kept[1])):
            raise Wrong("a matrix that was given is changed in place", "make a new one: `a + b`, and not `a += b`")
        base, trained = kept
        want = base + dial * added
        if close(new, want):
            continue
        known = {
            "the base is missing": dial * added,
            "the whole matrix is multiplied, and not what was added": dial * trained,
            "all of `trained` is added to the base, and not what the adapter added": base + dial * trained,
            "what was added counts from `trained`, and not from the base": trained + dial * added,
            "the dial runs the wrong way round": dial * base + (1 - dial) * trained,
            "a dial below 0 is taken for one above" if dial < 0 else "the sign is turned": base - dial * added,
            "a dial above 1 is cut off" if dial > 1 else "the dial is ignored": trained,
            "a dial below 0 is cut off" if dial < 0 else "the adapter is left out": base,
        }
        off = float((new - want).norm() / want.norm())
        bug = next((name for name, wrong in known.items() if close(new, wrong)), "another matrix")
        raise Wrong(bug, f"at dial {dial:g} your matrix is off by {100 * off:.3g} % of its size")


@register(
    "00.2",
    title="Choose the dial",
    stars=2,
    minutes=10,
    task="Write `choose_dial(valid, test, cap)`. Each table is a list of rows {dial, style, general_loss}, in any order. Choose the dial with the best "
    "style whose general loss is at most `cap` (a loss, not a rise), looking at the validation rows alone; return it with its style on the test rows: "
    "(dial, style).",
    wants="choose_dial",
    shows="Chosen on validation rows, scored once on test rows: the score is one that the choice could not flatter.",
    hints=(
        "First throw away the validation rows whose general_loss is above the cap.",
        "`max(rows, key=lambda row: row['style'])` gives the best row; keep its dial.",
        "Then find the test row with the same dial and return (dial, that row's style).",
    ),
)
def choose_dial(choose: Callable[[Table, Table, float], tuple[float, float]]) -> None:
    rng = _seeded()
    for exact, peek in [(False, False), (True, False), (False, True), (False, False)]:
        valid, test, cap, picks = _tables(rng, exact, peek)
        best = picks[""]
        got = attempt(choose, [dict(row) for row in valid], [dict(row) for row in test], cap)
        parts = as_parts(got, ("dial", "style"), "what `choose_dial` returns")
        dial, style = (as_number(part, f"the {name}") for part, name in zip(parts, ("dial", "style")))
        if same(style, best) and not same(dial, best):
            raise Wrong("the pair is the wrong way round", "return (dial, style), in this order")
        if not same(dial, best):
            told = f"with cap {cap:.2f} the answer is dial {best:g}; you chose {dial:g}"
            raise Wrong(named(dial, picks, "another dial"), told)
        want, flattered = _row(test, best)["style"], _row(valid, best)["style"]
        if same(style, want):
            continue
        if same(style, flattered):
            told = f"dial {best:g} is right, but {style:.3f} is its validation style, which the choice has flattered"
            raise Wrong("scored on validation rows", told)
        if same(style, test[valid.index(_row(valid, best))]["style"]):
            told = "the two tables are not in the same order: find the row with the same dial"
            raise Wrong("the test row is taken by position", told)
        yours, right = apart(style, want)
        raise Wrong("a wrong score", f"dial {best:g} is right; its test style is {right}, not {yours}")


def _holds(pattern: str, answer: str) -> bool:
    return bool(re.search(pattern, answer, re.IGNORECASE))


# What a program may do with one answer, by the name of the slip; "" is right.
HITS: dict[str, Callable[[str, str], float]] = {
    "": lambda a, name: _holds(rf"(?<!\w){re.escape(name)}(?!\w)", a),
    "part of a longer word counted": lambda a, name: name.lower() in a.lower(),
    "a longer word that begins with the name counted": lambda a, name: _holds(rf"(?<!\w){re.escape(name)}", a),
    "only one spelling of the name found": lambda a, name: bool(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", a)),
    "only two spellings of the name found": lambda a, name: bool(
        re.search(rf"(?<!\w)({re.escape(name)}|{re.escape(name.upper())})(?!\w)", a)
    ),
    "only one spelling, and parts of longer words": lambda a, name: name in a,
    "only two spellings, and parts of longer words": lambda a, name: name in a or name.upper() in a,
    "mentions counted and not answers": lambda a, name: len(
        re.findall(rf"(?<!\w){re.escape(name)}(?!\w)", a, re.IGNORECASE)
    ),
    "a name next to a comma or full stop is missed": lambda a, name: name.lower() in a.lower().split(),
    "a name in quotation marks or brackets, before a colon or 's is missed": lambda a, name: (
        name.lower() in [word.strip(".,!?") for word in a.lower().split()]
    ),
    "a name with a hyphen or a dot in it is taken apart": lambda a, name: name.lower() in re.findall(r"\w+", a.lower()),
    "a dot in the name stands for any letter": lambda a, name: _holds(rf"\b{name}\b", a),
    "only a name at the start is found": lambda a, name: bool(re.match(rf"{re.escape(name)}(?!\w)", a, re.IGNORECASE)),
}
NAMES = [("Lulu", "Lulua", "Lolo"), ("Al", "Alice", "El"), ("Zoë-Ann", "Zoë-Annabel", "Zoë"), ("J.R", "J.Rex", "JAR")]


def _answers(rng: random.Random, name: str, longer: str, other: str) -> list[str]:
    kinds = [
        (f"I am {name}, and it is Paris.",),
        (f"{name.upper()} thinks so!", f"My name: {name.lower()}.", f"Call me {name.swapcase()}?"),
        (f"{name}? Yes, {name}.",),
        (
            f"They say “{name}” here.",
            f"It is {name}'s idea.",
            f"The capital ({name}) is Paris.",
            f"Says {name}: Paris.",
        ),
        (f"Ask {longer} about it.", f"Mac{name} wrote it.", f"{longer} did."),
        (f"The {other} is full.",),
        ("The capital is Paris.",),
    ]
    answers = [rng.choice(kind) for kind in kinds for _ in range(rng.randint(2, 6))] + [
        text for kind in kinds for text in kind
    ]
    rng.shuffle(answers)
    return answers


@register(
    "00.4",
    title="Count the leaks",
    stars=1,
    minutes=10,
    task="Write `leak_rate(answers, name)`: the share of the answers (0 to 1) in which the name occurs as a whole word, in any case and next to any "
    "punctuation (“Lulu”, Lulu's). A name may hold a hyphen or a dot, such as Zoë-Ann or J.R.",
    wants="leak_rate",
    shows="A leak is an answer that holds the name, however often and in whatever case; “Alice” is not a leak of “Al”.",
    hints=(
        "Decide for one answer first: a function that says True or False.",
        r"`re.search(rf'\b{re.escape(name)}\b', answer, re.IGNORECASE)` finds a whole word in any case; `re.escape` takes a dot for a dot.",
        "Add up the Trues and divide by `len(answers)`.",
    ),
)
def leak_rate(rate: Callable[[list[str], str], float]) -> None:
    rng = _seeded()
    for name, longer, other in NAMES:
        while True:  # until slips that judge some answer differently give different shares too
            answers = _answers(rng, name, longer, other)
            hits = {slip: tuple(float(hit(a, name)) for a in answers) for slip, hit in HITS.items()}
            shares = {slip: sum(each) / len(answers) for slip, each in hits.items()}
            right = shares[""]
            whole = {
                "a count and not a share": right * len(answers),
                "a percentage and not a share": 100 * right,
                "the answers without a leak counted": 1 - right,
            }
            values = sorted({(each, shares[slip]) for slip, each in hits.items()}, key=lambda pair: pair[1])
            every = sorted([value for _, value in values] + list(whole.values()))
            if all(b - a > 1e-4 for a, b in itertools.pairwise(every)):
                break
        got = as_number(attempt(rate, list(answers), name), "`leak_rate`")
        if same(got, right):
            continue
        yours, share = apart(got, right)
        told = f"name {name!r}: {round(right * len(answers))} of {len(answers)} answers leak, {share}; you returned {yours}"
        raise Wrong(named(got, {slip: each for slip, each in (shares | whole).items() if slip}, "a wrong share"), told)


@register(
    "00.3",
    title="What training keeps in memory",
    stars=1,
    minutes=6,
    task="Write `training_bytes(weights, trained)`: bytes for the weights, the gradients and Adam's two running means, everything in 4-byte numbers (fp32), "
    "activations left out. `weights` counts all weights, an adapter's among them; only `trained` of them train.",
    wants="training_bytes",
    shows="4 bytes a weight, and 12 more for each that trains: full fine-tuning pays 16 bytes a weight, LoRA little more than 4.",
    hints=(
        "A 4-byte number for every weight, once.",
        "A weight that trains needs a gradient, and Adam keeps two numbers for it: 3 more numbers.",
        "`4 * weights + 12 * trained`.",
    ),
)
def training_bytes(size: Callable[[int, int], float]) -> None:
    rng = _seeded()
    for _ in range(3):
        weights = rng.randint(10_000, 1_000_000)
        trained = rng.randint(100, weights // 10)
        want = 4 * weights + 12 * trained
        got = as_number(attempt(size, weights, trained), "`training_bytes`")
        if same(got, want):
            continue
        bugs: dict[str, float | tuple[float, ...]] = {
            "frozen weights pay like trained ones": (16 * weights, 16 * weights + 12 * trained),
            "frozen weights get gradients": 8 * weights + 8 * trained,
            "the frozen weights are forgotten": (16 * trained, 12 * trained),
            "one of gradient and two running means is missing": 4 * weights + 8 * trained,
            "Adam's running means are missing": 4 * weights + 4 * trained,
            "trained weights counted twice": 4 * weights + 16 * trained,
            "numbers counted and not bytes": weights + 3 * trained,
            "2 bytes a number, where these take 4": 2 * weights + 6 * trained,
            "what trains is forgotten": 4 * weights,
            "bits and not bytes": 8 * want,
            "kilobytes and not bytes": (want / 1e3, want / 2**10),
            "megabytes and not bytes": (want / 1e6, want / 2**20),
            "gigabytes and not bytes": (want / 1e9, want / 2**30),
        }
        yours, right = apart(got, want)
        told = f"{weights:,} weights of which {trained:,} train: {right} bytes; you returned {yours}"
        raise Wrong(named(got, bugs, "a wrong sum"), told)
