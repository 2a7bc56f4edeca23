"""Each test of the course keeps its progress in a folder of its own."""

import pytest

from lora_edu.course import exercises, predictions, store


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    """A progress file that no learner has, and no answer left over from another test."""
    monkeypatch.setenv("LORA_EDU_HOME", str(tmp_path))
    monkeypatch.delenv("LORA_EDU_PROGRESS", raising=False)
    monkeypatch.setattr(store, "_memory", {name: {} for name in store.SECTIONS})
    monkeypatch.setattr(store, "_known", {name: {} for name in store.SECTIONS})
    monkeypatch.setattr(store, "_late", [])
    monkeypatch.setattr(store, "_refused", set())
    monkeypatch.setattr(exercises, "_given", {})
    monkeypatch.setattr(predictions, "_asked", {})
    monkeypatch.setattr(predictions, "_reminded", [])
    monkeypatch.setattr(
        exercises.secrets, "randbits", lambda bits: 0
    )  # a learner gets new inputs each time, a test the same
    return tmp_path
