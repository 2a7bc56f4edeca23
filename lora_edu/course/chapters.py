"""The course's chapters: number → title."""

CHAPTERS = {
    "00": "Start here",
    "01": "Rank and SVD",
    "02": "Is the update low-rank?",
    "03": "The LoRA layer",
    "04": "Into the transformer",
    "05": "First run",
    "06": "Reading runs",
    "07": "Keep it",
    "08": "α, r and the learning rate",
    "09": "Where and how much",
    "10": "Variants, honestly",
    "11": "Four bits",
    "12": "The neighbours",
    "13": "Is it any good?",
    "14": "A real LLM, all the way",
    "15": "Ship it",
    "16": "The bug museum",
    "17": "Capstone",
}

# What each chapter leans on directly, as its own page says under “Prerequisites”; "choosing" is the page before 08.
NEEDS: dict[str, tuple[str, ...]] = {
    "00": (),
    "01": ("00",),
    "02": ("01",),
    "03": ("00", "01"),
    "04": ("03",),
    "05": ("00", "01", "02", "03", "04"),
    "06": ("03", "04", "05"),
    "07": ("01", "03", "05"),
    "choosing": ("03", "05"),
    "08": ("03", "choosing"),
    "09": ("04", "07", "08", "choosing"),
    "10": ("01", "07", "08", "choosing"),
    "11": ("03", "04", "05", "07"),
    "12": ("03", "04", "09", "choosing"),
    "13": ("00", "05", "06", "choosing"),
    "14": ("00", "01", "02", "03", "04", "05", "06"),
    "15": ("03", "07", "08", "11"),
    "16": ("03", "05", "06", "07", "choosing"),
    "17": ("03", "05", "07", "13"),
}


def before(*wanted: str) -> list[str]:
    """All that the chapters `wanted` lean on, directly or not, in the course's order; they themselves are not in it.

    Raises KeyError for a chapter that is none.
    """
    found: set[str] = set()
    waiting = [need for chapter in wanted for need in NEEDS[chapter]]
    while waiting:
        if (chapter := waiting.pop()) not in found:
            found.add(chapter)
            waiting += NEEDS[chapter]
    return [chapter for chapter in NEEDS if chapter in found - set(wanted)]
