"""Chapter 00: solutions, stubs and planted bugs."""

import re

from kit import Answers


def choose(valid, test, cap):
    allowed = [row for row in valid if row["general_loss"] <= cap]
    dial = max(allowed, key=lambda row: row["style"])["dial"]
    return dial, next(row["style"] for row in test if row["dial"] == dial)


def style_at(rows, dial):
    return next(row["style"] for row in rows if row["dial"] == dial)


def on_test(valid, test, cap):
    best = max((row for row in test if row["general_loss"] <= cap), key=lambda row: row["style"])
    return best["dial"], best["style"]


def no_cap(valid, test, cap):
    dial = max(valid, key=lambda row: row["style"])["dial"]
    return dial, style_at(test, dial)


def validation_score(valid, test, cap):
    dial, _ = choose(valid, test, cap)
    return dial, style_at(valid, dial)


def worst(valid, test, cap):
    dial = min((row for row in valid if row["general_loss"] <= cap), key=lambda row: row["style"])["dial"]
    return dial, style_at(test, dial)


def largest(valid, test, cap):
    dial = max(row["dial"] for row in valid if row["general_loss"] <= cap)
    return dial, style_at(test, dial)


def below_cap(valid, test, cap):
    dial = max((row for row in valid if row["general_loss"] < cap), key=lambda row: row["style"])["dial"]
    return dial, style_at(test, dial)


def peek(valid, test, cap):
    fits = {row["dial"] for row in test if row["general_loss"] <= cap}
    allowed = [row for row in valid if row["general_loss"] <= cap and row["dial"] in fits]
    dial = max(allowed, key=lambda row: row["style"])["dial"]
    return dial, style_at(test, dial)


def by_position(valid, test, cap):
    dial, _ = choose(valid, test, cap)
    return dial, test[[row["dial"] for row in valid].index(dial)]["style"]


def choose_stub(valid, test, cap):
    """Return (dial, style)."""
    ...


def leaks(answers, name):
    return sum(bool(re.search(rf"\b{re.escape(name)}\b", a, re.IGNORECASE)) for a in answers) / len(answers)


def leaks_stub(answers, name): ...


def bytes_stub(weights, trained):
    return ...


ANSWERS = {
    "00.1": Answers(
        choose,
        choose_stub,
        {
            "chosen on the test rows": on_test,
            "the cap is ignored": no_cap,
            "scored on validation rows": validation_score,
            "the worst style": worst,
            "the test row is taken by position": by_position,
            "not a pair": lambda valid, test, cap: 0.5,
            "the pair is the wrong way round": lambda valid, test, cap: choose(valid, test, cap)[::-1],
            "not a number": lambda valid, test, cap: ("1", 0.5),
            "the largest dial under the cap": largest,
            "a row exactly at the cap": below_cap,
            "the test rows' general loss": peek,
        },
    ),
    "00.2": Answers(
        leaks,
        leaks_stub,
        {
            "part of a longer word": lambda answers, name: (
                sum(name.lower() in a.lower() for a in answers) / len(answers)
            ),
            "only one spelling of the name found": lambda answers, name: (
                sum(name in re.findall(r"\w+", a) for a in answers) / len(answers)
            ),
            "mentions counted": lambda answers, name: (
                sum(len(re.findall(rf"\b{name}\b", a, re.I)) for a in answers) / len(answers)
            ),
            "a count and not a share": lambda answers, name: leaks(answers, name) * len(answers),
            "a percentage": lambda answers, name: 100 * leaks(answers, name),
            "a name next to a comma": lambda answers, name: (
                sum(name.lower() in a.lower().split() for a in answers) / len(answers)
            ),
            "only a name at the start": lambda answers, name: (
                sum(
                    a.lower().startswith(name.lower() + " ") or a.lower().startswith(name.lower() + "?")
                    for a in answers
                )
                / len(answers)
            ),
            "the answers without a leak": lambda answers, name: 1 - leaks(answers, name),
        },
    ),
    "00.3": Answers(
        lambda weights, trained: 4 * weights + 12 * trained,
        bytes_stub,
        {
            "frozen weights pay like trained ones": lambda weights, trained: 16 * weights,
            "the frozen weights are forgotten": lambda weights, trained: 16 * trained,
            "Adam's moments are missing": lambda weights, trained: 4 * weights + 4 * trained,
            "one of gradient and two moments": lambda weights, trained: 4 * weights + 8 * trained,
            "gigabytes and not bytes": lambda weights, trained: (4 * weights + 12 * trained) / 1e9,
            "numbers counted and not bytes": lambda weights, trained: weights + 3 * trained,
        },
    ),
}
