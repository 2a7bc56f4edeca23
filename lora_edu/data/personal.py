"""Personal data in a text that has a form: e-mail addresses, telephone numbers, IBANs, card numbers. Chapter 17.

What has no form is not found: names, addresses of streets, dates of birth, nicknames, what a sentence says of somebody ("the only
dentist of the village"), numbers that are spelt out, and whatever stands in a picture. A text in which nothing was found is not a
text without personal data; somebody has to read it.
"""

import re
from typing import NamedTuple

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@(?:[\w-]+\.)+[A-Za-z]{2,}")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_CARD = re.compile(r"(?<![\d.,-])\d(?:[ -]?\d){12,18}(?![\d-]|[.,]\d)")
# With a plus or a leading zero, or cut into groups: a bare row of digits is a year, a sum or an order's number as often.
_PHONE = re.compile(r"(?<![\w.,/-])(?:\+|00)\d(?:[ ()/.-]{0,2}\d){7,13}(?!\w)|(?<![\w.,/+-])\(?0\d{1,5}\)?(?:[ /-]{1,2}\d{2,8}){1,4}(?!\w|-\d)|(?<![\w.,/+-])\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?!\w)")  # fmt: skip
_DATE = re.compile(r"(?:0?[1-9]|[12]\d|3[01])[ ./-](?:0?[1-9]|1[0-2])[ ./-](?:19|20)\d\d|(?:19|20)\d\d[ ./-](?:0?[1-9]|1[0-2])[ ./-](?:0?[1-9]|[12]\d|3[01])")  # fmt: skip


class Personal(NamedTuple):
    """What was found: its kind ("e-mail", "IBAN", "card", "phone"), and where it stands in the text, [start, end)."""

    kind: str
    start: int
    end: int
    text: str


def find_personal(text: str) -> list[Personal]:
    """What has the form of personal data, from left to right; none overlaps another. Chapter 17.

    An IBAN is told by its check number (ISO 13616), a card by Luhn's sum, so that most other numbers of that length pass. Names,
    postal addresses and everything without a form are not found.
    """
    found: list[Personal] = []
    for kind, pattern, holds in (
        ("e-mail", _EMAIL, None),
        ("IBAN", _IBAN, iban_holds),
        ("card", _CARD, luhn_holds),
        ("phone", _PHONE, _dialled),
    ):
        for match in pattern.finditer(text):
            apart = all(match.end() <= each.start or each.end <= match.start() for each in found)
            if apart and (holds is None or holds(match.group())):
                found.append(Personal(kind, *match.span(), match.group()))
    return sorted(found, key=lambda each: each.start)


def mask_personal(text: str) -> str:
    """The text with each find replaced by its kind in brackets: "write to [e-mail]"."""
    for each in reversed(find_personal(text)):
        text = f"{text[: each.start]}[{each.kind}]{text[each.end :]}"
    return text


def _dialled(number: str) -> bool:
    """Neither a date, nor noughts."""
    return not _DATE.fullmatch(number) and len({sign for sign in number if sign.isdecimal()}) > 2


def luhn_holds(number: str) -> bool:
    """Whether the digits of a card's number fit its last one: from the right every second is doubled, and the sum of digits ends in 0."""
    digits = [int(sign) for sign in number if sign.isdecimal()]
    if len(set(digits)) == 1:
        return False
    doubled = [sum(divmod(2 * digit, 10)) if place % 2 else digit for place, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def iban_holds(number: str) -> bool:
    """Whether the check number of an IBAN fits: with the first four signs at its end and letters as 10 to 35 it leaves 1, divided by 97."""
    plain = number.replace(" ", "")
    return 15 <= len(plain) <= 34 and int("".join(str(int(sign, 36)) for sign in plain[4:] + plain[:4])) % 97 == 1
