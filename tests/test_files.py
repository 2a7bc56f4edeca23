"""Files are written whole or not at all: one definition of it, and who may have their own."""

import re
from pathlib import Path

import pytest
from helpers import ROOT

from lora_edu.files import replacing, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_text_takes_the_place_of_the_old_one_and_a_folder_is_made(tmp_path):
    path = tmp_path / "new" / "a.json"
    for text in ("eins ß", "zwei"):
        write_whole(path, text)
        assert path.read_text("utf-8") == text and names(path.parent) == ["a.json"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("there", [True, False])
def test_a_write_that_breaks_off_leaves_what_was_there_and_nothing_else(tmp_path, error, there):
    path = tmp_path / "a.txt"
    if there:
        path.write_text("old")
    with pytest.raises(error), replacing(path) as unfinished:
        unfinished.write_text("half of")
        assert names(tmp_path) == sorted([unfinished.name, *["a.txt"] * there])
        raise error
    assert names(tmp_path) == ["a.txt"] * there and (not there or path.read_text() == "old")


def test_nobody_sees_half_of_it_and_what_a_kill_left_is_written_over(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    unfinished.mkdir()  # as a kill would leave a folder
    (unfinished / "x").write_text("half")
    write_whole(path, "newer")
    assert path.read_text() == "newer" and names(tmp_path) == ["a.txt"]


def test_a_link_stays_one_and_a_folder_works_alike(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a.txt").write_text("old")
    (tmp_path / "a.txt").symlink_to(tmp_path / "kept" / "a.txt")
    write_whole(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").is_symlink() and (tmp_path / "kept" / "a.txt").read_text() == "new"
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "folder") as part:
        part.mkdir()
        (part / "x").write_text("x")
        raise ZeroDivisionError
    assert names(tmp_path) == ["a.txt", "kept"]
    with replacing(tmp_path / "folder") as part:
        part.mkdir()
        (part / "x").write_text("x")
    assert names(tmp_path) == ["a.txt", "folder", "kept"] and names(tmp_path / "folder") == ["x"]


# Two files that must belong together; a folder that is flushed to the disk; a copy that goes on from what a broken download left; a move.
OF_THEIR_OWN = {"files.py", "adapters/folder.py", "training/checkpoints.py", "models/cache.py", "models/packages.py"}


def test_who_renames_what_was_written():
    module = Path(ROOT, "lora_edu")
    found = {
        path.relative_to(module).as_posix()
        for path in module.rglob("*.py")
        if re.search(r"os\.(replace|rename)\(|mkstemp|NamedTemporaryFile", path.read_text("utf-8"))
    }
    assert found == OF_THEIR_OWN
