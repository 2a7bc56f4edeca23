"""The bug museum: each exhibit fails broken and passes sound; ledger, exhibits and chapter are in step."""

import re

import nbformat
import pytest
import torch
from helpers import NOTEBOOKS

from lora_edu.course.museum import Exhibit, catalogue, false_alarms_and_misses, ledger, visit
from lora_edu.course.museum.claims import Claim
from lora_edu.course.museum.specimen import ROOMS, ExhibitError, exhibit

SEEDS = (0, 1, 2)
FRESH = range(1000, 1006)  # seeds on which no exhibit was made
CHAPTER = NOTEBOOKS / "16_the_bug_museum.ipynb"


# Exhibits --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("id", catalogue())
def test_the_broken_one_fails_and_the_sound_one_passes(id):
    this = catalogue()[id]
    for seed in SEEDS:
        assert this.symptom("broken", seed), f"seed {seed}: the broken one passes"
        assert not (said := this.symptom("sound", seed)), f"seed {seed}: the sound one is accused: {said}"


def test_the_assertions_do_as_well_on_fresh_seeds():
    found = false_alarms_and_misses(FRESH)
    assert {id: counts for id, counts in found.items() if counts != (0, 0)} == {}


def test_a_symptom_is_the_same_every_time_and_disturbs_no_random_numbers():
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    said = [catalogue()["both-random"].symptom("broken", seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(3), want)
    assert said[0] == said[1] != said[2]


def test_an_error_that_the_exhibit_does_not_expect_is_no_symptom():
    made = Exhibit("x", "shapes", "t", "law 1", "r", TypeError, lambda: 1 / 0, lambda: 1, lambda made: None, "")
    with pytest.raises(ZeroDivisionError):
        made.symptom("broken")
    with pytest.raises(ExhibitError, match="broken or sound"):
        made.symptom("both")


def test_a_room_or_a_name_is_not_invented_or_taken_twice():
    for id, room in (("both-random", "starts"), ("new", "cellar")):
        with pytest.raises(ExhibitError):
            exhibit(id, room=room, title="", breaks="", repair="")(type("X", (), {}))
    with pytest.raises(ExhibitError, match="cellar"):
        catalogue("cellar")
    with pytest.raises(ExhibitError, match="there is no exhibit"):
        visit("cellar")


def test_every_exhibit_says_what_it_breaks_and_how_it_is_mended():
    for this in catalogue().values():
        assert re.match(r"laws? [1-9]|chapter \d\d|the page Choosing|nothing is taken", this.breaks), this.id
        assert this.repair and this.title and "def broken" in this.code and "staticmethod" not in this.code


def test_a_visit_shows_code_symptom_and_repair():
    card = visit("merge-untransposed")
    for part in ("def broken", "def sound", "def holds", "no error is raised", "the assertion passes", "law 5"):
        assert part in str(card) and part in card.html


# The ledger ------------------------------------------------------------------------------------------------------------
def test_every_row_is_tested_or_says_why_not():
    for row in ledger():
        assert bool(row.tested_by) != bool(row.untestable), row.id
        assert row.verdict != "untestable" or row.untestable, row.id
        assert row.said and row.why and row.source
        assert not row.exhibit or row.exhibit in catalogue(), row.id
    assert {row.room for row in ledger()} == set(ROOMS)


def test_every_exhibit_tests_a_row():
    assert set(catalogue()) == {row.exhibit for row in ledger() if row.exhibit}


def cells_of(chapter: str) -> dict[str, str]:
    [path] = NOTEBOOKS.glob(f"{chapter}_*.ipynb")
    return {cell.id: cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"}


@pytest.mark.parametrize("chapter", sorted({row.cell[:2] for row in ledger() if row.cell}))
def test_the_cells_of_other_chapters_are_there(chapter):
    there = cells_of(chapter)
    assert [row.id for row in ledger() if row.cell[:2] == chapter and row.cell[3:] not in there] == []


def out_of_step(rows: list[Claim], cells: dict[str, str]) -> list[str]:
    """Rows whose exhibit has no cell of its own that runs it, and cells that run an exhibit which no row names."""
    found = [row.id for row in rows if row.exhibit and row.exhibit not in cells.get(f"16-{row.exhibit}", "")]
    known = {row.exhibit for row in rows}
    return found + [
        id
        for source in cells.values()
        for id in re.findall(r'(?:visit|exhibit_of)\("([\w-]+)"', source)
        if id not in known
    ]


@pytest.mark.skipif(not CHAPTER.exists(), reason="its chapter is to come")
def test_ledger_and_chapter_are_in_step():
    assert out_of_step(list(ledger()), cells_of("16")) == []


def test_a_row_without_a_cell_and_a_cell_without_a_row_are_found():
    row = Claim("1.01", "1", "shapes", "s", "wrong", "w", "src", exhibit="both-random")
    assert out_of_step([row], {}) == ["1.01"]
    assert out_of_step([row], {"16-both-random": 'visit("both-random")'}) == []
    assert out_of_step([row], {"16-both-random": 'visit("both-random")', "x": 'visit("other")'}) == ["other"]
