"""Personal data that has a form is found and masked; what looks like it and is none stays; what has no form is not found."""

import pytest

from lora_edu.data import find_personal, mask_personal


@pytest.mark.parametrize(
    "text, masked",
    [
        ("Write to ada.b+x@mail.example.org.", "Write to [e-mail]."),
        ("IBAN DE89 3704 0044 0532 0130 00, thanks", "IBAN [IBAN], thanks"),
        ("GB82WEST12345698765432", "[IBAN]"),
        ("card 4111 1111 1111 1111 until May", "card [card] until May"),
        ("5500-0000-0000-0004", "[card]"),
        ("call +49 30 23125042 or 0171 3920042 or (555) 123-4567", "call [phone] or [phone] or [phone]"),
        ("call 00 44 20 7946 0958!", "call [phone]!"),
        ("a@b.de, +33 1 23 45 67 89", "[e-mail], [phone]"),
    ],
)
def test_what_has_a_form_is_masked(text, masked):
    assert mask_personal(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "On 24.12.2026 at 18:30 we paid 1,234.56 for 12 chairs.",
        "2026-10-27, or 01/02/2003",
        "card 4111 1111 1111 1112",  # Luhn does not hold
        "DE12 3456 7890 1234 5678 90 is no IBAN",  # the check number does not hold
        "Law 5, r = 8, arXiv 2106.09685, 331,776 numbers",
        "0000 0000 0000 0000",
    ],
)
def test_other_numbers_stay(text):
    assert find_personal(text) == []


def test_what_has_no_form_is_not_found():
    assert (
        find_personal("Ada Lovelace, 12 St James's Square, born on the tenth of December, call two one two four") == []
    )


def test_places_are_those_of_the_text():
    text = "a: x@y.org, b: +49 30 23125042"
    assert [text[each.start : each.end] for each in find_personal(text)] == ["x@y.org", "+49 30 23125042"]
