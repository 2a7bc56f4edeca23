"""What the pages promise a learner, read from their cells: reveals that were measured, stubs without their solution, folded plumbing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from helpers import NOTEBOOKS

from lora_edu.course.exercises import exercises

PAGES = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
SOLUTIONS = sorted((NOTEBOOKS / "solutions").glob("*.ipynb"))


def code(path: Path) -> list[tuple[str, dict]]:
    """(source, metadata) of each code cell."""
    return [
        (cell.source, cell.metadata) for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"
    ]


def parsed(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError:  # a cell with a shell line or a magic
        return ast.parse("")


def calls(source: str, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Call) and name in (getattr(node.func, "id", ""), getattr(node.func, "attr", "")):
            yield node


# Reveals ---------------------------------------------------------------------------------------------------------------
# What was measured is handed over as a value of the cells above, so that a page which measures something else says something else.
# A question about what nothing runs says `how="Worked out"`.


def told_and_not_measured(source: str) -> list[str]:
    """The ids of reveals whose second argument holds no value of the page, and that do not say that it was worked out."""
    found = []
    for call in calls(source, "reveal"):
        named = [keyword.value for keyword in call.keywords if keyword.arg == "measured"]
        names = {node.id for part in [*call.args[1:2], *named] for node in ast.walk(part) if isinstance(node, ast.Name)}
        how = next((ast.literal_eval(k.value) for k in call.keywords if k.arg == "how"), "Measured")
        if not names and how == "Measured":
            found.append(ast.literal_eval(call.args[0]))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_reveal_is_given_what_was_measured(page):
    told = [id for source, _ in code(page) for id in told_and_not_measured(source)]
    assert told == []


def test_the_rule_on_reveals_can_fail():
    assert told_and_not_measured("reveal('a', 'B only')") == ["a"] and told_and_not_measured("reveal('a', 3 + 4)") == [
        "a"
    ]
    assert told_and_not_measured("course.reveal('a', measured='x')") == ["a"]
    assert told_and_not_measured("reveal('a', share)\nreveal('b', 'x' if y else 'z')") == []
    assert told_and_not_measured("reveal('a', 'x', how='Worked out')") == []


# Stubs -----------------------------------------------------------------------------------------------------------------
# The page's own, simpler doctor, which the exercise is to outdo, reads the plainest signs the same way.
SAID_BEFORE = {
    "06.4": (
        "first, last, usual = (chart.readings[0], chart.readings[-1], healthy.readings[0])",
        "return 'frozen adapter'",
        "return 'learning rate too high'",
    )
}


def statements(node: ast.AST) -> set[str]:
    """The simple statements in it, in one spelling each."""
    return {ast.unparse(each) for each in ast.walk(node) if isinstance(each, ast.stmt) and not hasattr(each, "body")}


def definition(source: str, name: str) -> ast.stmt | None:
    """The function, class or assignment of that name."""
    for node in parsed(source).body:
        assigned = [getattr(target, "id", "") for target in node.targets] if isinstance(node, ast.Assign) else []
        if name in (getattr(node, "name", ""), *assigned):
            return node
    return None


def given_away(page: list[str], solution: list[str], name: str, id: str) -> list[str]:
    """What of a solution stands in the page's cells up to the exercise's check, though its stub leaves it open."""
    last = next(
        n for n, source in enumerate(page) if any(ast.unparse(c.args[0]) == repr(id) for c in calls(source, "check"))
    )
    before = page[: last + 1]
    solved = [found for source in solution if (found := definition(source, name))]
    stub = [found for source in before if (found := definition(source, name))]
    assert solved and stub, f"{name} is not defined in the page and in its solutions"
    if not any("..." in line for line in statements(stub[-1])):
        return [f"{name} is no stub"]
    own = set().union(*map(statements, solved)) - statements(stub[-1])
    own = {line for line in own if len(line) >= 20}  # shorter ones stand on any page
    return sorted(own & set().union(*(statements(parsed(source)) for source in before)))


@pytest.mark.parametrize("id", exercises())
def test_no_page_holds_a_solution_before_its_check(id):
    if not any(path.name.startswith(id[:2]) for path in PAGES):
        pytest.skip("its page is to come")
    page, solution = (next(path for path in paths if path.name.startswith(id[:2])) for paths in (PAGES, SOLUTIONS))
    sources = [[source for source, _ in code(path)] for path in (page, solution)]
    found = given_away(*sources, exercises()[id].wants, id)
    assert [line for line in found if line not in SAID_BEFORE.get(id, ())] == []


def test_the_rule_on_stubs_can_fail():
    solution = ["def f(A, B, s):\n    product = s * B.T @ A.T\n    return product + product.sum()"]
    stub, asked = "def f(A, B, s): ...\n\n\ncheck('09.1', f)", "09.1"
    assert given_away([stub], solution, "f", asked) == []
    assert given_away([solution[0] + "\ncheck('09.1', f)"], solution, "f", asked) == ["f is no stub"]
    assert given_away(["product = s * B.T @ A.T", stub], solution, "f", asked) == ["product = s * B.T @ A.T"]
    assert given_away([stub, "product = s * B.T @ A.T"], solution, "f", asked) == []  # after it, the text may say it


# Folded cells ----------------------------------------------------------------------------------------------------------
PLUMBING = ("predict", "reveal", "exercise", "hint")


def unfolded(source: str, metadata: dict) -> str:
    """The id of a cell whose plumbing a reader would see: options, misconceptions and hints give answers away."""
    if metadata.get("jupyter", {}).get("source_hidden"):
        return ""
    ids = [ast.literal_eval(call.args[0]) for name in PLUMBING for call in calls(source, name) if call.args]
    return next(iter(ids), "")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_the_source_of_predictions_reveals_and_hints_is_folded(page):
    assert [id for source, metadata in code(page) if (id := unfolded(source, metadata))] == []


def test_the_rule_on_folded_cells_can_fail():
    source = "reveal('09-x', y, misconceptions={'a': 'b'})"
    assert unfolded(source, {}) == "09-x" and unfolded(source, {"jupyter": {"source_hidden": True}}) == ""
