"""What is handed out holds no answer, and each student's copy draws cases of its own."""

import ast
import json
import re

import nbformat
import pytest
from command_line import run, said
from helpers import NOTEBOOKS

from lora_edu.cli.setup import lab_command
from lora_edu.course import cases, check, exercises, hint
from lora_edu.course.classroom.answer_cells import answers, parse
from lora_edu.course.classroom.handout import release
from lora_edu.course.classroom.roster import ClassroomError, read_roster, seat_number
from lora_edu.course.notebooks import guard, learner
from lora_edu.course.notebooks.files import chapters

SHOWN_LATER = {
    "05.2 in 05_first_run.ipynb"
}  # by design: an optional section compares the exercise's loop with the module's
SOLUTIONS = sorted((NOTEBOOKS / "solutions").glob("*.ipynb"))


def statements(source: str) -> set[str]:
    tree = parse(source)
    return (
        {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.stmt) and not hasattr(n, "body")}
        if tree
        else set()
    )


def telling() -> dict[str, set[str]]:
    """Of each exercise, the statements of the official answer that its stub does not have."""
    found = {}
    for path in SOLUTIONS:
        page = next(NOTEBOOKS.glob(f"{path.name[:2]}_*.ipynb"))
        stubs = answers(nbformat.read(page, 4))
        for exercise, answer in answers(nbformat.read(path, 4)).items():
            if exercise[:2] == "17":  # six cells of its own, tied together in one
                continue
            own = statements(answer.written) - statements(stubs[exercise].written)
            found[exercise] = {each for each in own if not each.startswith(("import ", "from ", "super().__init__"))}
    return found


def told_by(folder, secrets: dict[str, set[str]]) -> list[str]:
    """The exercises whose whole answer stands in one cell (or one file that is no page) of the folder, as code or as text."""
    leaks = []
    for path in folder.rglob("*"):
        if not path.is_file() or path.suffix in (".png", ".jpg", ".svg"):
            continue
        text = path.read_text("utf-8")
        pieces = [c.source for c in nbformat.reads(text, 4).cells] if path.suffix == ".ipynb" else [text]
        for piece in pieces:
            fenced = re.findall(r"```\w*\n(.*?)```", piece, re.DOTALL)
            code, squeezed = set().union(*map(statements, (piece, *fenced))), squeeze(piece)
            for exercise, own in secrets.items():
                if all(each in code or squeeze(each) in squeezed for each in own):
                    leaks.append(f"{exercise} in {path.name}")
    return leaks


def squeeze(text: str) -> str:
    return re.sub(r"\s+", "", re.sub(r"#.*", "", text)).replace("'", '"')


@pytest.fixture(scope="module")
def handed_out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class")
    (folder / "roster.csv").write_text("name,mail\nZebulon,a@x\nBlaise,b@x\n", "utf-8")
    return release(folder / "out", read_roster(folder / "roster.csv"), folder=NOTEBOOKS)


def test_no_answer_no_output_and_no_solutions_are_handed_out(handed_out):
    secrets = telling()
    every = set().union(*(answers(nbformat.read(path, 4)) for path in SOLUTIONS))
    assert set(secrets) == {exercise for exercise in every if exercise[:2] != "17"} and all(secrets.values())
    for home in handed_out:
        assert {page.name for page in home.glob("*.ipynb")} == {
            p.name for p in chapters(folder=NOTEBOOKS) if p.parent == NOTEBOOKS
        }
        assert [path for path in home.rglob("*") if "solution" in path.name] == []
        assert set(told_by(home, secrets)) == SHOWN_LATER
    for page in handed_out[0].glob("*.ipynb"):
        cells = nbformat.read(page, 4).cells
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), page.name


def test_the_scan_finds_an_answer_wherever_it_was_put(tmp_path):
    secrets = telling()
    for path in SOLUTIONS[:6]:
        for exercise, answer in answers(nbformat.read(path, 4)).items():
            (tmp_path / "page.ipynb").write_text(
                nbformat.writes(
                    nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"```python\n{answer.written}\n```")])
                )
            )
            assert f"{exercise} in page.ipynb" in told_by(tmp_path, secrets)


def test_a_seat_has_cases_of_its_own_the_same_each_time(handed_out, monkeypatch):
    monkeypatch.setattr(exercises.secrets, "randbits", lambda bits: pytest.fail("a seat draws its own"))

    def drawn(number):
        seen = []
        with cases.seated(number):
            for _ in range(2):
                check("03.4", lambda W0, A, B, alpha, r: seen.append(float(W0[0, 0])) or W0 + alpha / r * B @ A)
        half = len(seen) // 2
        assert half and seen[:half] == seen[half:], "the second check tries other cases than the first"
        return seen

    numbers = [
        json.loads((home / "03_the_lora_layer.ipynb").read_text("utf-8"))["metadata"]["lora_edu"]["seat"]
        for home in handed_out
    ]
    assert numbers == [seat_number("Zebulon"), seat_number("Blaise")] and drawn(numbers[0]) != drawn(numbers[1])
    source = "\n".join(cell.source for cell in nbformat.read(handed_out[0] / "03_the_lora_layer.ipynb", 4).cells)
    assert f'seat("{numbers[0]}")' in source and "Zebulon" not in source
    assert numbers[0] in (handed_out[0].parent / "seats.csv").read_text("utf-8")


def test_a_handed_out_page_is_as_sound_as_its_original_and_says_who_has_the_answer(handed_out):
    faults = [fault for page in sorted(handed_out[1].glob("[01]*.ipynb")) for fault in guard(page)]
    assert [fault for fault in faults if "never run" not in fault and "is bare" not in fault] == []
    with cases.seated("1"):
        said = [str(hint("03.4")) for _ in range(9)][-1]
    assert "teacher" in said and "solutions" not in said


def test_nothing_is_written_over(handed_out, tmp_path):
    page = handed_out[0] / "05_first_run.ipynb"
    before = page.read_bytes()
    with pytest.raises(ClassroomError, match="writes over nothing"):
        release(handed_out[0], wanted=["05"], folder=NOTEBOOKS)
    assert page.read_bytes() == before


@pytest.mark.parametrize("made", ["release", "release without a roster", "build"])
def test_lab_opens_a_handed_out_folder_and_adds_nothing_to_it(made, tmp_path, monkeypatch):
    """Else a student who opens their copy gets the solutions beside it, and pages without their seat."""
    (tmp_path / "roster.txt").write_text("Bob\n", "utf-8")
    roster = ("--roster", tmp_path / "roster.txt") if made == "release" else ()
    command = (
        ("build", "class90", tmp_path / "out")
        if made == "build"
        else ("release", tmp_path / "out", "--chapters", "03", *roster)
    )
    assert run("course", *command).exit_code == 0
    if roster:
        keyed = run("course", "release", tmp_path / "keyed", "--chapters", "03", *roster, "--key", "k")
        assert "Wrote 5 pages for each of 1 student to" in said(keyed) and "compute its seat" not in said(keyed)
    home = tmp_path / "out" / "Bob" if roster else tmp_path / "out"
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    opened = run("lab", "--folder", home, "--copy-only")
    assert opened.exit_code == 0 and "nothing of the course is added" in said(opened)
    assert "ask your teacher" in said(run("fresh", "03", "--folder", home))
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before
    monkeypatch.setattr("lora_edu.course.notebooks.files.install_overrides", lambda: None)
    first = sorted(home.glob("[0-9]*.ipynb"))[0].name
    assert f"--LabApp.default_url=/lab/tree/{first}" in lab_command(home, False, None)
    monkeypatch.chdir(home)
    monkeypatch.setattr(learner, "in_clone", lambda: False)
    assert learner.learners_folder() == home, "a student with the installed course stands in their folder"
    learner.copy_course(NOTEBOOKS, tmp_path / "mine")
    assert not learner.is_handed_out(tmp_path / "mine")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "nobody"),
        ("name\n", "nobody"),
        ("Ada\nada\n", "twice"),
        ("../Ada\n", "folder"),
        (".ssh\n", "folder"),
        ("CON\n", "folder"),
        ("a/b", "folder"),
    ],
)
def test_a_roster_that_cannot_be_is_refused(tmp_path, text, says):
    (tmp_path / "roster").write_text(text, "utf-8")
    with pytest.raises(ClassroomError, match=says):
        read_roster(tmp_path / "roster")


def test_nbgraders_cells_keep_its_schema_and_its_points_are_held_by_the_check(tmp_path):
    """The rules are those of nbgrader's own validator for schema version 3."""
    result = run("course", "release", tmp_path, "--nbgrader", "--chapters", "3,04", "--key", "k")
    assert result.exit_code == 0 and "ch03, ch04" in said(result), result.output
    for path in (tmp_path / "source").rglob("*.ipynb"):
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        marked = [(cell, cell.metadata.nbgrader) for cell in notebook.cells if "nbgrader" in cell.metadata]
        ids = [meta.grade_id for _, meta in marked]
        assert len(ids) == len(set(ids)) == 3 * len(answers(nbformat.read(NOTEBOOKS / path.name, 4)))
        for cell, meta in marked:
            assert set(meta) - {"points"} == {
                "schema_version",
                "cell_type",
                "grade_id",
                "grade",
                "solution",
                "locked",
                "task",
            }
            assert (meta.schema_version, meta.cell_type, meta.task) == (3, cell.cell_type, False)
            assert re.fullmatch(r"[\w.-]+", meta.grade_id) and ("points" in meta) == meta.grade
            assert not (meta.solution and meta.locked)
            if meta.grade:
                shown, hidden = cell.source.split("### BEGIN HIDDEN TESTS")
                assert shown.startswith("assert check(") and hidden.rstrip().endswith("### END HIDDEN TESTS")
        assert told_by(path.parent, telling()) == []
    points = next(c.source for c in nbformat.read(next(tmp_path.rglob("04_*.ipynb")), 4).cells if c.id == "points-04-1")
    good = {"check": check, "largest_useful_rank": lambda n_out, n_in: (n_out * n_in - 1) // (n_out + n_in)}
    for name, passes in (("right", True), ("wrong", False)):
        names = good | ({} if passes else {"largest_useful_rank": lambda n_out, n_in: n_in})
        try:
            exec(points, names)
            solved = True
        except AssertionError:
            solved = False
        assert solved is passes, name
