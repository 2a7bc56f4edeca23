"""Chapter 00: solutions, stubs and planted bugs."""

import re

from kit import Answers


def turn(base, trained, dial):
    return base + dial * (trained - base)


def turn_in_place(base, trained, dial):
    base += dial * (trained - base)
    return base


def turn_stub(base, trained, dial): ...


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


def stops_early(valid, test, cap):
    found = []
    for row in valid:
        if row["general_loss"] > cap:
            break
        found.append(row)
    dial = max(found, key=lambda row: row["style"])["dial"]
    return dial, style_at(test, dial)


def best_or_first(valid, test, cap):
    best = max(valid, key=lambda row: row["style"])
    dial = (best if best["general_loss"] <= cap else valid[0])["dial"]
    return dial, style_at(test, dial)


def as_a_rise(valid, test, cap):
    base = min(valid, key=lambda row: abs(row["dial"]))["general_loss"]
    dial = max((row for row in valid if row["general_loss"] - base <= cap), key=lambda row: row["style"])["dial"]
    return dial, style_at(test, dial)


def least_loss(valid, test, cap):
    dial = min(valid, key=lambda row: row["general_loss"])["dial"]
    return dial, style_at(test, dial)


def even_steps(valid, test, cap):
    """Takes the dial for -0.5 + 0.25 i, which only a sorted table with even steps allows."""
    i = max((i for i, row in enumerate(valid) if row["general_loss"] <= cap), key=lambda i: valid[i]["style"])
    return -0.5 + 0.25 * i, style_at(test, valid[i]["dial"])


def choose_stub(valid, test, cap):
    """Return (dial, style)."""
    ...


def leaks(answers, name):
    return sum(bool(re.search(rf"\b{re.escape(name)}\b", a, re.IGNORECASE)) for a in answers) / len(answers)


def share_of(hit):
    """A program that counts the answers for which `hit(answer, name)` is true, or adds up its numbers."""
    return lambda answers, name: sum(hit(answer, name) for answer in answers) / len(answers)


def stripped(marks):
    return share_of(lambda a, name: name.lower() in [word.strip(marks) for word in a.lower().split()])


def leaks_stub(answers, name): ...


def bytes_stub(weights, trained):
    return ...


ANSWERS = {
    "00.1": Answers(
        turn,
        turn_stub,
        {
            "changed in place": turn_in_place,
            "the base is missing": lambda base, trained, dial: dial * (trained - base),
            "the whole matrix is multiplied": lambda base, trained, dial: dial * trained,
            "all of `trained` is added": lambda base, trained, dial: base + dial * trained,
            "counts from `trained`": lambda base, trained, dial: trained + dial * (trained - base),
            "the wrong way round": lambda base, trained, dial: dial * base + (1 - dial) * trained,
            "the sign is turned": lambda base, trained, dial: base + dial * (base - trained),
            "a dial above 1 is cut off": lambda base, trained, dial: turn(base, trained, min(dial, 1)),
            "a dial below 0 is cut off": lambda base, trained, dial: turn(base, trained, max(dial, 0)),
            "taken for one above": lambda base, trained, dial: turn(base, trained, abs(dial)),
            "the dial is ignored": lambda base, trained, dial: trained,
            "the adapter is left out": lambda base, trained, dial: base,
            "another matrix": lambda base, trained, dial: turn(base, trained, dial**2),
        },
    ),
    "00.2": Answers(
        choose,
        choose_stub,
        {
            "chosen on the test rows": on_test,
            "the cap is ignored": no_cap,
            "scored on validation rows": validation_score,
            "the worst style": worst,
            "the first row of the table": best_or_first,
            "the search stops": stops_early,
            "the lowest general loss": least_loss,
            "another dial": even_steps,
            "the test row is taken by position": by_position,
            "not a pair": lambda valid, test, cap: 0.5,
            "the pair is the wrong way round": lambda valid, test, cap: choose(valid, test, cap)[::-1],
            "not a number": lambda valid, test, cap: ("1", 0.5),
            "the largest dial under the cap": largest,
            "a row exactly at the cap": below_cap,
            "the test rows' general loss": peek,
        },
    ),
    "00.4": Answers(
        leaks,
        leaks_stub,
        {
            "part of a longer word counted": share_of(lambda a, name: name.lower() in a.lower()),
            "begins with the name": share_of(lambda a, name: bool(re.search(rf"\b{re.escape(name)}", a, re.I))),
            "only one spelling of the name found": share_of(
                lambda a, name: bool(re.search(rf"\b{re.escape(name)}\b", a))
            ),
            "only two spellings of the name found": share_of(
                lambda a, name: any(re.search(rf"\b{re.escape(n)}\b", a) for n in (name, name.upper()))
            ),
            "only one spelling, and parts": share_of(lambda a, name: name in a),
            "only two spellings, and parts": share_of(lambda a, name: name in a or name.upper() in a),
            "mentions counted": share_of(lambda a, name: len(re.findall(rf"\b{re.escape(name)}\b", a, re.I))),
            "a name next to a comma": share_of(lambda a, name: name.lower() in a.lower().split()),
            "in quotation marks or brackets": stripped(".,!?"),
            "taken apart": share_of(lambda a, name: name.lower() in re.findall(r"\w+", a.lower())),
            "stands for any letter": share_of(lambda a, name: bool(re.search(rf"\b{name}\b", a, re.I))),
            "only a name at the start": share_of(lambda a, name: bool(re.match(rf"{re.escape(name)}\b", a, re.I))),
            "a count and not a share": lambda answers, name: leaks(answers, name) * len(answers),
            "a percentage": lambda answers, name: 100 * leaks(answers, name),
            "the answers without a leak": lambda answers, name: 1 - leaks(answers, name),
        },
    ),
    "00.3": Answers(
        lambda weights, trained: 4 * weights + 12 * trained,
        bytes_stub,
        {
            "frozen weights pay like trained ones": lambda weights, trained: 16 * weights,
            "the frozen weights are forgotten": lambda weights, trained: 16 * trained,
            "Adam's running means are missing": lambda weights, trained: 4 * weights + 4 * trained,
            "one of gradient and two running means": lambda weights, trained: 4 * weights + 8 * trained,
            "megabytes and not bytes": lambda weights, trained: (4 * weights + 12 * trained) / 1e6,
            "bits and not bytes": lambda weights, trained: 8 * (4 * weights + 12 * trained),
            "trained weights counted twice": lambda weights, trained: 4 * (weights + trained) + 12 * trained,
            "frozen weights get gradients": lambda weights, trained: 8 * weights + 8 * trained,
            "gigabytes and not bytes": lambda weights, trained: (4 * weights + 12 * trained) / 1e9,
            "numbers counted and not bytes": lambda weights, trained: weights + 3 * trained,
        },
    ),
}
