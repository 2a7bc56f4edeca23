"""What a message quotes: bounded, on one line, and never itself an error."""

import pytest
import torch

from lora_edu.errors import cut, shown, told


class Broken:
    def __repr__(self):
        raise ValueError("no " * 1000)


class Long:
    def __repr__(self):
        return "<" + "long\n" * 1_000_000 + ">"


def inside_itself() -> list:
    ring: list = [1]
    ring.append(ring)
    return ring


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10_000_000, "\ud800" * 1000, b"x" * 10_000_000, 10**20_000, [10**20_000], -(10**20_000), list(range(10**6)),
        {"a" * 10**6: "b" * 10**6}, [["y" * 5000] * 30] * 30, inside_itself(), Broken(), [Broken()], Long(), torch.zeros(500, 500),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_quotation_is_short_and_on_one_line_whatever_it_is_of(value):
    for limit in (60, 200):
        text = shown(value, limit)
        assert 1 < len(text) <= limit + 4 and "\n" not in text
        text.encode("utf-8")  # can be printed


@pytest.mark.parametrize(
    "value", ["it's", "two\nlines  here", 17, -3, 1.5, None, True, ["a", 1], ("a",), {"role": "user"}]
)
def test_a_short_value_is_quoted_in_full(value):
    assert shown(value) == repr(value)


def test_what_was_cut_says_how_much_and_keeps_both_ends():
    assert cut("short") == "short"
    text = cut("begin " + "x" * 1000 + " end")
    assert text.startswith("begin x") and text.endswith("x end") and "more characters" in text
    kept = text.split(" … ")
    assert len(kept[0]) + len(kept[2]) + int(kept[1].strip("()").split()[0].replace(",", "")) == 1010
    assert " … (9,999,8" in shown("x" * 10_000_000) and " … (9,999,9" in shown("x" * 10_000_000, 60)
    assert "20,001 digits" in shown(10**20_000)


class Leaves:
    def __repr__(self):
        raise SystemExit


class Interrupted:
    def __repr__(self):
        raise KeyboardInterrupt


def test_no_address_and_no_error_of_the_values_own():
    assert shown(object()) == "<object object>" and shown([object()]) == "[<object object>]"
    assert (
        "Leaves" in shown(Leaves()) and told(ValueError("bad")) == "ValueError: bad" and told(KeyError()) == "KeyError"
    )
    assert len(told(ValueError("x" * 10**7))) < 250
    with pytest.raises(KeyboardInterrupt):
        shown(Interrupted())
