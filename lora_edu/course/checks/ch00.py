"""Exercises of chapter 00, Start here."""

import random
from collections.abc import Callable
from typing import Any

from lora_edu.course.exercises import Wrong, attempt, generator, register

Table = list[dict[str, float]]


def _seeded() -> random.Random:
    return random.Random(generator().initial_seed())


def _number(value: Any, name: str) -> float:
    """The value as a float, whatever kind of number it is: int, numpy scalar, tensor of one element."""
    try:
        if not isinstance(value, bool | str):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise Wrong("not a number", f"`{name}` returned {type(value).__name__} where a number is due")


def _table(rng: random.Random, dials: list[float]) -> Table:
    """Style that rises and then falls with the dial, and general loss that rises to both sides of 0."""
    top = rng.uniform(0.9, 1.3)
    return [
        {
            "dial": dial,
            "style": 0.8 - 0.125 * (dial - top) ** 2 + rng.uniform(0, 0.01),
            "general_loss": 3.7 + 0.3 * dial**2 + rng.uniform(0, 0.01),
        }
        for dial in dials
    ]


@register(
    "00.1",
    title="Choose the dial",
    stars=2,
    minutes=10,
    task="Write `choose_dial(valid, test, cap)`. Each table is a list of rows {dial, style, general_loss}. Choose the dial with the best style "
    "whose general loss is at most `cap`, looking at the validation rows alone; return it with its style on the test rows: (dial, style).",
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
    dials = [round(-0.5 + 0.25 * step, 2) for step in range(11)]
    # How far the cap reaches; whether it is some row's very value; whether the test rows would forbid the right choice.
    for reach, exact, peek in [(0.5, 0, 0), (0.75, 1, 0), (1.0, 0, 0), (1.75, 0, 0), (1.75, 0, 1), (0.75, 0, 1)]:
        valid, test = _table(rng, dials), _table(rng, dials)
        cap = next(r["general_loss"] for r in valid if r["dial"] == reach) if exact else 3.72 + 0.3 * reach**2
        rng.shuffle(test)  # the rows of the two tables do not stand in the same order
        allowed = [row for row in valid if row["general_loss"] <= cap]
        best = max(allowed, key=lambda row: row["style"])
        by_dial = {row["dial"]: row for row in test}
        by_dial[best["dial"]]["style"] -= 0.2  # on test the chosen dial is not the best: choosing there would show
        by_dial[best["dial"]]["general_loss"] = cap + 0.05 if peek else cap - 0.05
        flattering = max((row for row in test if row["general_loss"] <= cap), key=lambda row: row["style"])
        got = attempt(choose, [dict(row) for row in valid], [dict(row) for row in test], cap)
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Wrong("not a pair", f"`choose_dial` should return (dial, style); it returned {got!r}")
        dial, style = (_number(part, "choose_dial") for part in got)
        if style == best["dial"] and dial != best["dial"]:
            raise Wrong("the pair is the wrong way round", "return (dial, style), in this order")
        if dial == best["dial"]:
            if abs(style - by_dial[dial]["style"]) < 1e-9:
                continue
            if abs(style - best["style"]) < 1e-9:
                raise Wrong(
                    "scored on validation rows",
                    f"dial {dial:g} is right, but {style:.3f} is its validation style, which the choice has flattered",
                )
            if abs(style - test[valid.index(best)]["style"]) < 1e-9:
                raise Wrong(
                    "the test row is taken by position",
                    "the two tables are not in the same order: find the row with the same dial",
                )
            raise Wrong(
                "a wrong score",
                f"dial {dial:g} is right; its test style is {by_dial[dial]['style']:.3f}, not {style!r}",
            )
        free = max(valid, key=lambda row: row["style"])
        told = f"with cap {cap:.2f} the answer is dial {best['dial']:g}; you chose {dial!r}"
        under = [row for row in allowed if row["general_loss"] < cap]
        both = [row for row in allowed if by_dial[row["dial"]]["general_loss"] <= cap]
        bugs = {
            flattering["dial"]: "chosen on the test rows",
            max(both, key=lambda row: row["style"])["dial"]: "the test rows' general loss used to choose",
            max(under, key=lambda row: row["style"])["dial"]: "a row exactly at the cap is allowed",
            max(allowed, key=lambda row: row["dial"])[
                "dial"
            ]: "the largest dial under the cap chosen, whatever its style",
            min(allowed, key=lambda row: row["style"])["dial"]: "the worst style chosen",
            min(valid, key=lambda row: row["general_loss"])["dial"]: "the lowest general loss chosen",
            free["dial"]: "the cap is ignored",
        }
        raise Wrong(bugs.get(dial, "another dial"), told)


@register(
    "00.2",
    title="Count the leaks",
    stars=1,
    minutes=10,
    task="Write `leak_rate(answers, name)`: the share of the answers (0 to 1) in which the name occurs as a whole word, in any case.",
    wants="leak_rate",
    shows="A leak is an answer that holds the name, however often and in whatever case; “Alice” is not a leak of “Al”.",
    hints=(
        "Decide for one answer first: a function that says True or False.",
        r"`re.search(rf'\b{re.escape(name)}\b', answer, re.IGNORECASE)` finds a whole word in any case.",
        "Add up the Trues and divide by `len(answers)`.",
    ),
)
def leak_rate(rate: Callable[[list[str], str], float]) -> None:
    rng = _seeded()
    for name, longer in [("Lulu", "Lulua"), ("Al", "Alice"), ("Zoë-Ann", "Zoë-Annabel")]:
        bugs: dict[str, float] = {}
        while (
            len({round(value, 9) for value in bugs.values()}) < 10
        ):  # drawn again until every bug gives a number of its own
            plain, upper, twice, part, none = (rng.randint(1, 5) for _ in range(5))
            leaks, total = plain + upper + twice, plain + upper + twice + part + none
            bugs = {
                "": leaks / total,
                "part of a longer word counted": (leaks + part) / total,
                "only one spelling of the name found": (leaks - upper) / total,
                "only one spelling, and parts of longer words": (leaks - upper + part) / total,
                "mentions counted and not answers": (leaks + twice) / total,
                "a name next to a comma or full stop is missed": upper / total,
                "only a name at the start is found": (upper + twice) / total,
                "a count and not a share": float(leaks),
                "a percentage and not a share": 100 * leaks / total,
                "the answers without a leak counted": 1 - leaks / total,
            }
        answers = [f"I am {name}, and it is Paris."] * plain + [f"{name.upper()} thinks so!"] * upper
        answers += (
            [f"{name}? Yes, {name}."] * twice + [f"Ask {longer} about it."] * part + ["The capital is Paris."] * none
        )
        rng.shuffle(answers)
        got = attempt(rate, list(answers), name)
        got = _number(got, "leak_rate")
        bug = next((bug for bug, value in bugs.items() if abs(got - value) < 1e-9), "a wrong share")
        if bug:
            raise Wrong(
                bug, f"name {name!r}: {leaks} of {total} answers leak, {leaks / total:.6f}; you returned {got:.6f}"
            )


@register(
    "00.3",
    title="What training keeps in memory",
    stars=1,
    minutes=6,
    task="Write `training_bytes(weights, trained)`: bytes for the weights, the gradients and Adam's two moments, everything in fp32, "
    "activations left out. All weights are there; only `trained` of them train.",
    wants="training_bytes",
    shows="4 bytes a weight, and 12 more for each that trains: full fine-tuning pays 16 bytes a weight, LoRA little more than 4.",
    hints=(
        "An fp32 number takes 4 bytes, and every weight is in memory once.",
        "A weight that trains needs a gradient, and Adam keeps two numbers for it: 3 more fp32 numbers.",
        "`4 * weights + 12 * trained`.",
    ),
)
def training_bytes(size: Callable[[int, int], float]) -> None:
    rng = _seeded()
    for _ in range(3):
        weights = rng.randint(10_000, 1_000_000)
        trained = rng.randint(100, weights // 10)
        result, want = attempt(size, weights, trained), 4 * weights + 12 * trained
        got = _number(result, "training_bytes")
        if got == want:
            continue
        bugs: dict[float, str] = {
            16 * weights: "frozen weights pay like trained ones",
            16 * weights + 12 * trained: "frozen weights pay like trained ones",
            8 * weights + 8 * trained: "frozen weights get gradients",
            16 * trained: "the frozen weights are forgotten",
            12 * trained: "the frozen weights are forgotten",
            4 * weights + 8 * trained: "one of gradient and two moments is missing",
            4 * weights + 4 * trained: "Adam's moments are missing",
            4 * weights + 16 * trained: "trained weights counted twice",
            weights + 3 * trained: "numbers counted and not bytes",
            2 * weights + 6 * trained: "2 bytes a number, where fp32 takes 4",
            4 * weights: "what trains is forgotten",
            want / 1e9: "gigabytes and not bytes",
        }
        told = f"{weights:,} weights of which {trained:,} train: {want:,} bytes; you returned {got:,}"
        raise Wrong(bugs.get(got, "a wrong sum"), told)
