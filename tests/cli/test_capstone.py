"""`lora-edu capstone` and `lora-edu report`: kits that write over nothing, a project graded, every planted fault found, the page escaped."""

import json
from pathlib import Path

import pytest
from command_line import run
from report_pages import Page

from lora_edu.cli.project import graded
from lora_edu.cli.report import project_html
from lora_edu.course import thirty_lines
from lora_edu.course.kits import KITS, raw_rows, start_kit
from lora_edu.data import Row, find_personal, mask_personal, normalise, split
from lora_edu.errors import DataError, DiskError


@pytest.mark.parametrize("kit", KITS)
def test_a_kit_is_raw_in_each_way_that_its_protocol_mends(kit, tmp_path):
    assert set(start_kit(kit, tmp_path / "new")) == {path.name for path in (tmp_path / "new").iterdir()}
    rows = [json.loads(line) for line in (tmp_path / "new" / "raw.jsonl").read_text("utf-8").splitlines()]
    assert rows == raw_rows(kit) and len({row["source"] for row in rows}) >= 8
    assert len({normalise(row["text"]) for row in rows}) < len(rows)
    assert any(find_personal(row["text"]) for row in rows)
    assert any(not row["answer"] for row in rows) == (kit != "style")


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "mine.txt").write_text("work")
    with pytest.raises(DiskError, match="not empty"):
        start_kit("style", tmp_path)
    with pytest.raises(DataError, match="there are style, extractor, languages"):
        start_kit("poems", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def write(path: Path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


@pytest.fixture
def project(tmp_path):
    """The kit `languages`, done by its protocol up to the decision not to fine-tune."""
    start_kit("languages", tmp_path / "p")
    seen, rows = set(), []
    for row in raw_rows("languages"):
        text = mask_personal(row["text"]).strip()
        if row["answer"] and normalise(text) not in seen:
            seen.add(normalise(text))
            rows.append(Row.chat(text, row["answer"], source=row["source"]))
    parts = split(rows, 0.2, 0.2, key=lambda row: row.meta["source"])
    for name, part in parts._asdict().items():
        lines = [
            {"prompt": row.messages[1]["content"], "completion": row.answer, "source": row.meta["source"]}
            for row in part
        ]
        write(tmp_path / "p" / f"{name}.jsonl", lines)
    (tmp_path / "p" / "data_sheet.md").write_text("All is said.")
    (tmp_path / "p" / "decision.md").write_text(
        "The nearest row is right in 70 % of the cases. <script>alert(1)</script> " * 8
    )
    return tmp_path / "p"


def status(folder):
    return {item.name: item.status for item in graded(folder).items}


def test_a_reasoned_decision_not_to_fine_tune_passes(project):
    found = graded(project)
    assert found.passed, str(found)
    assert status(project)["Held-out figure"] == status(project)["Adapter"] == "not needed"
    result = run("report", project)
    assert result.exit_code == 0 and "Nothing is missing" in result.output
    html = (project / "report.html").read_text("utf-8")
    page = Page(html)
    assert "<script>" not in html and "70 %" in html
    assert page


def change(project, name, how):
    rows = [json.loads(line) for line in (project / name).read_text("utf-8").splitlines()]
    write(project / name, how(rows))


FAULTS = {
    "Decision: do not fine-tune": lambda p: (p / "decision.md").write_text("No."),
    "Data": lambda p: (p / "valid.jsonl").unlink(),
    "Doubles": lambda p: change(p, "train.jsonl", lambda rows: [*rows, rows[0] | {"prompt": rows[0]["prompt"].upper()}]),
    "Personal data": lambda p: change(p, "test.jsonl", lambda rows: [*rows, rows[0] | {"prompt": "Mail to a@b.org"}]),
    "Leaks": lambda p: change(p, "test.jsonl", lambda rows: [*rows, json.loads((p / "train.jsonl").read_text().splitlines()[0]) | {"prompt": "Quite another text"}]),
    "data_sheet.md": lambda p: (p / "data_sheet.md").write_text("Why: …"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_no_other(name, project):
    FAULTS[name](project)
    failed = [item.name for item in graded(project).items if item.status == "failed"]
    assert failed == [name]
    assert run("report", project).exit_code == 1


def test_without_a_decision_an_adapter_and_its_figures_are_asked_for(project):
    (project / "decision.md").unlink()
    found = status(project)
    assert {name for name, said in found.items() if said == "failed"} == {
        "Held-out figure", "Forgetting", "Adapter", "Another can repeat it", "model_card.md",
    }  # fmt: skip


def test_figures_are_taken_from_what_eval_wrote(project):
    (project / "decision.md").unlink()
    count = len((project / "test.jsonl").read_text("utf-8").splitlines())
    score = {"value": 1.0, "low": 0.9, "high": 1.1}
    gain = {"model": "adapter", "metric": "loss", "value": 0.5, "low": 0.4, "high": 0.6}
    measured = {
        "models": {name: {"rows": count, "scores": {"loss": score}} for name in ("base", "adapter")},
        "against": "base", "gains": [gain], "forgetting": {"adapter": {"nats": score, "trivia": score}},
    }  # fmt: skip
    path = project / "eval.json"
    path.write_text(json.dumps(measured))
    assert status(project)["Held-out figure"] == status(project)["Forgetting"] == "passed"
    assert "Gain over the base" in project_html(graded(project))
    path.write_text(json.dumps(measured | {"gains": [gain | {"low": -0.1}]}))
    assert status(project)["Held-out figure"] == "look"
    measured["models"]["adapter"]["rows"] = count + 1
    path.write_text(json.dumps(measured))
    assert status(project)["Held-out figure"] == "failed"
    path.write_text("[]")
    assert status(project)["Held-out figure"] == status(project)["Forgetting"] == "failed"


def test_a_file_of_ones_own_is_judged(tmp_path):
    path = tmp_path / "my_lora.py"
    path.write_text(Path(thirty_lines.__file__).read_text("utf-8"), "utf-8")
    result = run("capstone", "judge", path)
    assert result.exit_code == 0 and "30 lines of code" in result.output
    path.write_text(path.read_text("utf-8").replace("labels[:, 1:]", "labels[:, :-1]"), "utf-8")
    result = run("capstone", "judge", path)
    assert result.exit_code == 1 and "17.2: not yet" in result.output
