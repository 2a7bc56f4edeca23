"""The grader against answers that are right, wrong, broken, and out to cheat it: none harms anyone, none passes that should not."""

import os
import sys
import threading
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from helpers import NOTEBOOKS, ROOT
from one_answer import LAYER, MERGED, page_with

from lora_edu.course.classroom.answer_cells import answers
from lora_edu.course.classroom.confine import SHIELDS, Limits
from lora_edu.course.classroom.judge import GRADER, HELD_BACK, INSIDE, ITSELF, judge
from lora_edu.course.classroom.pupils import DIES, FORGES, HANGS, LEAVES, MEMORY, OUTPUT, Nursery
from lora_edu.course.classroom.roster import ClassroomError
from lora_edu.course.exercises import check, exercises

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="the grader needs a Unix")]
SOLUTIONS = sorted((NOTEBOOKS / "solutions").glob("*.ipynb"))
BY_ITSELF = {
    "04.3",
    "05.2",
    "05.3",
    "06.4",
    "08.3",
    "11.2",
    "14.1",
} | INSIDE.keys()  # its cases are models, functions, charts


def verdict(nursery, written, exercise="03.4"):
    return judge(page_with(written, exercise), exercise, nursery, "a secret")


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_every_official_answer_is_solved_and_the_grader_itself_says_so(nursery, path):
    page = nbformat.read(path, 4)
    for exercise in answers(page):
        said = judge(page, exercise, nursery, "a secret")
        assert said.solved, said
        if exercise[:2] not in ("12", "13", "15", "16", "17"):
            assert (said.judged_by == ITSELF) == (exercise in BY_ITSELF), said


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("0[0-3]_*.ipynb")), ids=lambda path: path.stem)
def test_an_untouched_page_is_not_attempted(nursery, path):
    page = nbformat.read(path, 4)
    assert {judge(page, exercise, nursery, "s").status for exercise in answers(page)} == {"not attempted"}


def test_a_bug_has_its_name_and_a_right_answer_for_one_size_fails_what_is_held_back(nursery):
    said = verdict(nursery, MERGED.replace("alpha / r", "alpha"))
    assert (said.status, said.bug, said.held_back) == ("wrong", "α is not divided by r", 0)
    calls: list[int] = []
    check("03.4", lambda W0, A, B, alpha, r: calls.append(1) or W0 + alpha / r * B @ A)
    once = "calls = []\ndef merged_weight(W0, A, B, alpha, r):\n    calls.append(1)\n"
    once += f"    return W0 + (alpha / r if len(calls) <= {len(calls)} else 1) * B @ A"
    said = verdict(nursery, once)
    assert said.status == "passed" and said.held_back < HELD_BACK and not said.solved and "held back" in said.message


HARM = {
    "hangs": ("def merged_weight(*given):\n    while True: pass", HANGS),
    "sleeps while it loads": (f"import time\ntime.sleep(1000)\n{MERGED}", HANGS),
    "ends": ("import os\ndef merged_weight(*given):\n    os._exit(0)", LEAVES),
    "exits": ("def merged_weight(*given):\n    raise SystemExit", LEAVES),
    "recurses": ("def merged_weight(*given):\n    return merged_weight(*given)", "it calls itself without an end"),
    "crashes": ("import ctypes\ndef merged_weight(*given):\n    ctypes.string_at(0)", DIES),
    "eats memory": ("def merged_weight(*given):\n    return bytearray(10**10)", MEMORY),
    "prints a gigabyte": ("def merged_weight(*given):\n    for _ in range(1000): print('x' * 10**6)", OUTPUT),
    "writes a gigabyte": ("def merged_weight(*given):\n    open('big', 'wb').write(bytes(10**9))", OUTPUT),
    "returns a gigabyte": ("def merged_weight(*given):\n    return 'x' * 10**8", None),  # refused, or too late
    "is no Python": ("def merged_weight(W0, A, B, alpha, r):\n    return (", "its code is no Python"),
    "fails to load": (f"1 / 0\n{MERGED}", "its code does not run"),
    "kills whom it can": (f"import os, signal\nos.kill(-1, signal.SIGKILL)\n{MERGED}", "its code does not run"),
    "kills its parent": (
        "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\ndef merged_weight(*given): return 0",
        None,
    ),
    "forks without an end": ("import os\nwhile True: os.fork()", None),
    "writes nonsense to the grader": (
        "import os\nfor fd in range(3, 100):\n    try: os.write(fd, b'\\xff' * 64)\n    except OSError: pass\n"
        + MERGED,
        FORGES,
    ),
    "hands over what bites": ("class Bad(dict):\n    def items(self): raise KeyError\nmerged_weight = Bad()", None),
    "goes on in the background": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(1000)\n    os._exit(0)\ndef merged_weight(*given): return 0",
        None,
    ),
}


@pytest.fixture(scope="module")
def hurried():
    nursery = Nursery(Limits(seconds=3.0, memory=1_500_000_000, output=2_000_000), (NOTEBOOKS,))
    yield nursery
    nursery.close()


# What would do its harm where a wall is missing: such a test must not be run there.
NEEDS = {"kills whom it can": "processes", "edits the checker's file": "files"}


def safe_to_try(name, nursery):
    """Skips a test that this system's walls would not hold."""
    walls = verdict(nursery, MERGED).shields
    if name in NEEDS and NEEDS[name] not in walls:
        pytest.skip(f"this system gives only {walls}")


@pytest.mark.parametrize("name", HARM)
def test_an_answer_that_misbehaves_is_named_and_harms_no_one(hurried, name):
    safe_to_try(name, hurried)
    written, bug = HARM[name]
    before, start, mine = set(psutil.Process().children(recursive=True)), time.monotonic(), threading.active_count()
    said = verdict(hurried, written)
    assert said.status in ("wrong", "stopped") and not said.solved, said
    if bug:
        assert said.bug == bug, said
    assert time.monotonic() - start < 60
    assert set(psutil.Process().children(recursive=True)) <= before, "something that it started is still there"
    assert threading.active_count() == mine
    assert verdict(hurried, MERGED).solved, "the next answer suffers from it"


OUTSIDE = ROOT / "lora_edu" / "course" / "checks" / "ch03.py"
CHEATS = {
    "replaces the check": "import lora_edu.course.exercises as e\ne.check = e.find = lambda *a: None",
    "makes the comparisons say yes": "import torch, math, builtins\ntorch.equal = torch.allclose = math.isclose = lambda *a, **k: True\nbuiltins.abs = lambda x: 0",
    "replaces the checker in its register": "import lora_edu.course.exercises as e\nfrom dataclasses import replace\n"
    "e.exercises()\nfor k in e._registry: e._registry[k] = replace(e._registry[k], checker=lambda *a: None)",
    "edits the checker's file": f"try:\n    open({str(OUTSIDE)!r}, 'a').write('x = 1')\nexcept OSError: pass",
    "hands in another exercise": "hand_in('03.4', lambda *a: 0)",
    "answers with something equal to everything": "class Yes:\n    def __eq__(self, other): return True\n    shape = (6, 6)\n    def __sub__(self, other): return 0",
    "replaces what hands in": "def hand_in(*a): pass",
    "patches the wire": "import lora_edu.course.classroom.pupil as p\np._check = lambda *a: {'status': 'passed', 'bug': None, 'message': ''}\n"
    "p.changed = lambda before: []",
}


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_changes_nothing_where_the_grader_judges(nursery, name):
    safe_to_try(name, nursery)
    before = OUTSIDE.read_bytes()
    said = verdict(
        nursery, f"{CHEATS[name]}\ndef merged_weight(*given): return Yes() if 'Yes' in globals() else given[0]"
    )
    assert said.judged_by == GRADER and said.status in ("wrong", "stopped", "not attempted") and not said.solved, said
    assert OUTSIDE.read_bytes() == before


@pytest.mark.parametrize("name", [*list(CHEATS)[:3], "edits the checker's file"])
def test_a_cheat_is_seen_where_its_own_process_judges(nursery, name):
    safe_to_try(name, nursery)
    said = verdict(nursery, f"{CHEATS[name]}\nclass MyLoRALinear(nn.Module): pass", "03.1")
    assert not said.solved, said
    assert verdict(nursery, LAYER, "03.1").solved


def test_the_walls_stand_where_linux_gives_them(nursery, tmp_path):
    said = verdict(nursery, MERGED)
    if set(said.shields) != set(SHIELDS):
        pytest.skip(f"this system gives only {said.shields}")
    asks = {
        "the network": "import socket\nsocket.create_connection(('192.0.2.1', 80), 2)",
        "a file outside": f"open({str(tmp_path / 'mark')!r}, 'w').write('x')",
        "the checker's file": f"open({str(OUTSIDE)!r}, 'a')",
        "the solutions": f"import os\nassert os.listdir({str(NOTEBOOKS)!r})",
        "the grader's memory": f"open('/proc/{os.getpid()}/mem', 'rb')",
        "the wall's own way back": "import ctypes, os\nassert ctypes.CDLL(None).mount(None, b'/', None, 0x1020, None) == 0",
    }
    for what, ask in asks.items():
        said = verdict(nursery, f"{ask}\n{MERGED}")
        assert (said.status, said.bug) == ("stopped", "its code does not run"), f"{what}: {said}"
    assert not (tmp_path / "mark").exists()
    assert verdict(nursery, f"open('mine', 'w').write('x')\n{MERGED}").solved


def test_what_a_teacher_may_want_to_read_is_named(nursery):
    assert "sys" in verdict(nursery, f"import sys\n{MERGED}").look_at
    assert verdict(nursery, MERGED).look_at == ()


def test_who_is_judged_by_itself_is_an_exercise():
    assert set(exercises()) >= BY_ITSELF and Path(OUTSIDE).exists()


def test_a_wall_that_cannot_be_built_is_the_graders_fault_and_no_students():
    broken = Nursery(Limits(seconds=20.0, output="much"), ())  # type: ignore[arg-type]
    try:
        with pytest.raises(ClassroomError, match="could not be set up"):
            verdict(broken, MERGED)
    finally:
        broken.close()
