"""Paths keep their time, run from their first cell, and lean on nothing that they leave out; prerequisites are those of the pages."""

import ast
import re
from itertools import pairwise
from xml.etree import ElementTree

import nbformat
import pytest
from command_line import run, said
from helpers import NOTEBOOKS
from nbformat.v4 import new_code_cell, new_markdown_cell

from lora_edu.course.chapters import CHAPTERS, NEEDS, before
from lora_edu.course.classroom import leftovers
from lora_edu.course.classroom.answer_cells import answers, bound, parse, used
from lora_edu.course.classroom.graph import as_svg, direct, levels
from lora_edu.course.classroom.minutes import PREDICTION, TALK, TRAINS, WORDS, cell_minutes, predictions
from lora_edu.course.classroom.paths import PATHS, Part, _page, sittings


@pytest.fixture(scope="module")
def made():
    return {path: sittings(path, NOTEBOOKS) for path in PATHS}


@pytest.mark.parametrize("path", PATHS)
def test_a_path_takes_the_time_that_it_says(made, path):
    for sitting in made[path]:
        assert sum(page.minutes for page in sitting) <= PATHS[path].most
    first = sum(page.minutes for page in made[path][0])
    assert first > 0.75 * PATHS[path].most, "there is room for more"


@pytest.mark.parametrize("path", PATHS)
def test_every_name_on_a_path_has_a_meaning_before_it_is_used(made, path):
    for page in (page for sitting in made[path] for page in sitting):
        known = {"__name__", "get_ipython"}
        code = [parse(cell.source) for cell in page.notebook.cells if cell.cell_type == "code"]
        late = set().union(
            *(bound(statement) for tree in code for statement in tree.body)
        )  # a function reads when it is called
        for cell in page.notebook.cells:
            assert "optional" not in cell.metadata.get("tags", ())
            for statement in parse(cell.source).body if cell.cell_type == "code" else ():
                known |= bound(statement)  # a function may name itself
                there = known | late if isinstance(statement, ast.FunctionDef | ast.ClassDef) else known
                assert used(statement) <= there, f"{page.name}: {sorted(used(statement) - there)} in\n{cell.source}"


@pytest.mark.parametrize("path", PATHS)
def test_a_page_says_nothing_of_an_exercise_that_it_has_not(made, path):
    parts = {part.chapter: part for sitting in PATHS[path].sittings for part in sitting}
    for page in (page for sitting in made[path] for page in sitting):
        chapter = next(each for each in parts if page.name.startswith(each))
        here = answers(page.notebook)
        every = answers(nbformat.read(NOTEBOOKS / page.name, 4))
        code = [parse(cell.source) for cell in page.notebook.cells if cell.cell_type == "code"]
        known = set().union(*(bound(statement) for tree in code for statement in tree.body))
        cut = set(parts[chapter].without)
        gone = {
            name
            for exercise in cut & set(every)
            for statement in parse(every[exercise].written).body
            for name in bound(statement)
        } - known
        for cell in page.notebook.cells:
            if cell.id.startswith("path-"):
                continue
            named = {exercise for exercise in cut if exercise in cell.source}
            used_ = {
                name
                for name in gone
                if cell.cell_type == "markdown"
                and re.search(rf"\b{name}\b", " ".join(re.findall(r"`[^`]+`", cell.source)))
            }
            assert not named and not used_, f"{page.name}: {named or used_} in\n{cell.source}"
        assert not cut & set(here)
        tagged = [
            cell
            for cell in page.notebook.cells
            if "exercise" in cell.metadata.get("tags", ()) and cell.cell_type == "markdown"
        ]
        assert here or not tagged, f"{page.name} has words of exercises and no exercise: {tagged}"


def test_words_that_a_path_cuts_stand_in_their_chapters_and_not_on_its_page(made):
    parts = {(part.chapter, part.without) for path in PATHS.values() for sitting in path.sittings for part in sitting}
    for chapter, changes in (
        *leftovers.OF_ALL_PATHS.items(),
        *((exercise[:2], changes) for exercise, changes in leftovers.OF_EXERCISES.items()),
    ):
        source = next(NOTEBOOKS.glob(f"{chapter}_*.ipynb"))
        text = "\n\n".join(cell.source for cell in nbformat.read(source, 4).cells)
        for old, _ in changes:
            assert text.count(old) == 1, old
    for chapter, goals in leftovers.GOALS_OF_SECTIONS.items():
        header = nbformat.read(next(NOTEBOOKS.glob(f"{chapter}_*.ipynb")), 4).cells[0].source
        assert all(f"\n{goal}" in header for _, goal in goals), chapter
    assert set(leftovers.OF_EXERCISES) <= {exercise for _, without in parts for exercise in without}
    for sitting in made["class90"]:
        text = "\n".join(cell.source for page in sitting for cell in page.notebook.cells)
        for gone in (
            "The other factor is yours",
            "MyLoRALinear",
            "before you read on",
            "write a LoRA layer",
            "transposed product in the merge",
            "at the end.”",
            "fifteen questions",
            "take a matrix apart",
            "low-rank, and what r",
            "“Your name is not learnt”",
        ):
            assert gone not in text, gone


@pytest.mark.parametrize("path", PATHS)
def test_a_header_says_the_minutes_of_its_path(made, path):
    for page in (page for sitting in made[path] for page in sitting):
        assert f"**Minutes:** about {page.minutes:.0f} on this path." in page.notebook.cells[0].source
        assert (
            page.notebook.cells[0].source.count("**Minutes:**") == 1
            and "optional sections" not in page.notebook.cells[0].source
        )


def test_a_lesson_has_time_to_train_and_to_talk(made):
    pages = made["class90"][0]
    alone = [page for page in (_page(part, NOTEBOOKS) for part in PATHS["class90"].sittings[0])]
    asked = sum(predictions(page.notebook.cells) for page in pages)
    assert asked >= 6
    assert sum(page.minutes for page in pages) == pytest.approx(sum(page.minutes for page in alone) + TALK * asked)
    assert "of them to talk about 3 predictions" in pages[0].notebook.cells[1].source
    assert cell_minutes(new_code_cell("teach(model, tokenizer, name)")) >= TRAINS["teach"]


def test_a_part_brings_what_it_leans_on_and_leaves_out_what_it_should():
    part = _page(Part("03", (7,), ("03.3",)), NOTEBOOKS)
    sources = "\n".join(cell.source for cell in part.notebook.cells)
    assert "class TenLines" in sources, "section 7 uses section 2's layer"
    assert "## 7 ·" in sources and "## 8 ·" not in sources and "## Self-test" not in sources
    assert answers(part.notebook) == {} and part.minutes < 30


@pytest.mark.parametrize("path", PATHS)
def test_a_path_has_what_its_chapters_lean_on_before_them(path):
    seen: list[str] = []
    for part in (part for sitting in PATHS[path].sittings for part in sitting):
        assert set(before(part.chapter)) <= set(seen), part.chapter
        seen.append(part.chapter)


def test_minutes_are_counted():
    assert cell_minutes(new_markdown_cell("word " * int(WORDS))) == pytest.approx(1)
    ask = new_code_cell("predict('03-x', 'Which?', ['a'])", metadata={"jupyter": {"source_hidden": True}})
    assert PREDICTION <= cell_minutes(ask) < PREDICTION + 0.5
    assert cell_minutes(new_code_cell("exercise('03.1')")) > 20
    assert cell_minutes(new_code_cell("from lora_edu.widgets import ShapesAndStarts\n\nShapesAndStarts()")) > 3


def test_a_lesson_is_written_and_its_links_lead_somewhere(tmp_path):
    result = run("course", "build", "class90", tmp_path / "lesson")
    assert result.exit_code == 0 and "of 90 minutes" in said(result), result.output
    there = {path.name for path in (tmp_path / "lesson").iterdir()}
    assert there == {
        "00_start_here.ipynb",
        "01_rank_and_svd.ipynb",
        "03_the_lora_layer.ipynb",
        "card.ipynb",
        "refresher.ipynb",
        "images",
    }
    for path in (tmp_path / "lesson").glob("*.ipynb"):
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        for cell in notebook.cells:
            assert not cell.get("outputs")
            assert set(re.findall(r"\]\((?!\w+:)([^)#]*\.ipynb)", cell.source)) <= there
    assert "not empty" in said(run("course", "build", "class90", tmp_path / "lesson"))


def needs_of(page) -> set[str]:
    """What a page says under “Prerequisites”, as numbers."""
    text = "\n".join(cell.source for cell in nbformat.read(page, 4).cells[:2])
    line = re.search(r"\*\*Prerequisites:\*\*(.*)", text)[1].split("Refresher")[0].split("PyTorch:")[0]
    line = re.sub(r"\([^)]*\)", "", line.replace("(choosing.ipynb)", " choosing.ipynb "))
    found = {f"{n:02}" for a, b in re.findall(r"\b(\d\d) to (\d\d)\b", line) for n in range(int(a), int(b) + 1)}
    return found | set(re.findall(r"\b\d\d\b", line)) | ({"choosing"} if "choosing.ipynb" in line else set())


def test_prerequisites_are_those_that_the_pages_name():
    assert set(NEEDS) == {*CHAPTERS, "choosing"}
    for page in (*NOTEBOOKS.glob("[01]*.ipynb"), NOTEBOOKS / "choosing.ipynb"):
        name = page.name[:2] if page.name[0].isdigit() else page.stem
        assert needs_of(page) == set(NEEDS[name]), page.name


def test_prerequisites_go_round_in_no_circle():
    seen: set[str] = set()
    for chapter, needs in NEEDS.items():
        assert set(needs) <= seen, f"{chapter} leans on what comes later"
        seen.add(chapter)
    assert before("03") == ["00", "01"] and before("03", "01") == ["00"] and "03" in before("13")


def test_the_graph_is_drawn_and_said():
    picture = ElementTree.fromstring(as_svg())
    lines = [part for part in picture.iter() if part.tag.endswith("polyline")]
    assert len(lines) == sum(len(direct(chapter)) for chapter in NEEDS)
    assert len([part for part in picture.iter() if part.tag.endswith("rect")]) == len(NEEDS)
    assert all(levels()[need] < levels()[chapter] for chapter in NEEDS for need in NEEDS[chapter])
    assert "13 leans on" in as_svg().split("<desc>")[1]
    assert "no chapter '99'" in said(run("course", "graph", "99"))
    assert "in turn: 00, 01, 02, 04, 06, choosing." in said(run("course", "graph", "03,05,13"))


def corners(part) -> list[tuple[float, float]]:
    return [tuple(map(float, point.split(","))) for point in part.get("points").split()]


def test_no_arrow_of_the_graph_runs_through_a_box_and_what_is_wanted_is_marked(tmp_path):
    result = run("course", "graph", "03,05,13", "--svg", tmp_path / "graph.svg")
    assert result.exit_code == 0 and "Drawn:" in said(result)
    picture = ElementTree.parse(tmp_path / "graph.svg").getroot()
    boxes = [
        tuple(float(part.get(name)) for name in ("x", "y", "width", "height"))
        for part in picture.iter()
        if part.tag.endswith("rect")
    ]
    for line in (part for part in picture.iter() if part.tag.endswith("polyline")):
        points = corners(line)
        for (x0, y0), (x1, y1) in pairwise(points):
            for step in range(1, 200):  # the ends lie on the edges of their own boxes
                x, y = x0 + (x1 - x0) * step / 200, y0 + (y1 - y0) * step / 200
                assert not any(a < x < a + w and b < y < b + h for a, b, w, h in boxes), points
    fills = [part.get("fill") for part in picture.iter() if part.tag.endswith("rect")]
    assert fills.count("#0b4f8a") == 3 and fills.count("#cfe3f5") == 6
    assert set(re.findall(r"rx='6' fill='(#\w+)'", as_svg())) == {"#f4f4f4"}
