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
