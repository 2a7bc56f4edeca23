"""What each way out keeps of the King James adapter of chapter 00, measured: `python benchmarks/exports.py`. About six CPU minutes.

Each export is written, read by the tool it is for (PEFT, transformers, llama.cpp), and compared with the adapter on the answers of
validation rows of the King James task: the paired difference of loss, KL divergence, the share of tokens with the same favourite, against
the bounds that `serving.TOLERANCES` states. Exhibits are what a careless converter writes. Speed is that of llama.cpp on one thread, as a
ratio to the float32 file, the two interleaved. Stored in lora_edu/experiments/stored/exports.json; `--quick` is a rehearsal that stores nothing.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lora_edu.adapters import LoRAConfig, fingerprint, inject, load, merge, save, unload
from lora_edu.data import encode_rows
from lora_edu.experiments import environment
from lora_edu.experiments.stored_results import FOLDER
from lora_edu.files import write_whole
from lora_edu.models import load_base
from lora_edu.serving import (
    TOLERANCES,
    LlamaCpp,
    Passage,
    compared,
    write_adapter_gguf,
    write_gguf,
    write_merged,
    write_portable,
)
from lora_edu.tasks import get_task

ADAPTER = FOLDER / "kjv_adapter"
PASSAGES, NEW, ROUNDS = 10, 32, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    count = 2 if options.quick else PASSAGES
    ours, tokenizer = with_adapter()
    rows = sorted(get_task("kjv").splits().valid, key=lambda row: len(row.answer))[40 : 40 + count]
    passages = [Passage.of(example) for example in encode_rows(rows, tokenizer)]
    table: list[dict[str, Any]] = []

    def add(name: str, kind: str, path: Path, theirs: Any, **more: Any) -> None:
        found = compared(ours, theirs, passages)
        size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size
        table.append({
            "name": name, "bytes": size, "loss": list(found.loss), "kl": found.kl, "agreement": found.agreement, "tokens": found.tokens,
            "bounds": list(TOLERANCES[kind]), "within": found.within(TOLERANCES[kind]), **more,
        })  # fmt: skip
        print(f"{name}: {size / 1e6:.1f} MB, {found}, {'within' if table[-1]['within'] else 'OUTSIDE'}", flush=True)

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        read_by_torch(folder, ours, tokenizer, add)
        base = write_gguf(ours, tokenizer, folder / "base.gguf", base_only=True)
        adapter = write_adapter_gguf(ours, folder / "adapter.gguf")
        ids = list(passages[0].ids[: passages[0].start])
        with LlamaCpp(base, [(adapter, 1.0)]) as engine:
            add("GGUF f32 base + adapter", "f32", adapter, engine)
        exhibits(folder, ours, tokenizer, base, add)
        merged, _ = with_adapter()
        merge(merged, keep_base=False)
        unload(merged)
        for dtype in ("f32", "f16", "q8_0", "q4_0"):
            write_gguf(merged, tokenizer, folder / f"{dtype}.gguf", dtype, verify=dtype == "f32")
        with LlamaCpp(folder / "f32.gguf") as exact:
            for dtype in ("f32", "f16", "q8_0", "q4_0"):
                with other(folder / f"{dtype}.gguf", exact if dtype == "f32" else None) as engine:
                    speed = {} if dtype == "f32" else {"speed": relative_speed(engine, exact, ids)}
                    add(f"GGUF {dtype} merged", dtype, folder / f"{dtype}.gguf", engine, **speed)
    about = {
        "command": "python benchmarks/exports.py",
        "fingerprint": fingerprint(ours),
        **environment(),
        "passages": count,
    }
    if not options.quick:
        write_whole(FOLDER / "exports.json", json.dumps({"about": about, "exports": table}, indent=1) + "\n")


def with_adapter() -> Any:
    model, tokenizer = load_base(device="cpu")
    return load(model, ADAPTER), tokenizer


@contextmanager
def other(path: Path, engine: LlamaCpp | None) -> Iterator[LlamaCpp]:
    """The engine that is there already, or one for `path`."""
    if engine is not None:
        yield engine
        return
    with LlamaCpp(path) as made:
        yield made


def read_by_torch(folder: Path, ours: Any, tokenizer: Any, add: Any) -> None:
    """The folders, read by PEFT and by transformers."""
    from peft import PeftModel

    for name, kind, written in (
        ("PEFT folder", "peft", save(ours, folder / "peft")),
        ("portable folder", "portable", write_portable(ours, folder / "portable")),
    ):
        plain, _ = load_base(device="cpu")
        add(f"{name}, read by PEFT", kind, written, PeftModel.from_pretrained(plain, written))
    merged, _ = with_adapter()
    write_merged(merged, tokenizer, folder / "merged")
    add("merged model", "merged", folder / "merged", load_base(folder / "merged", device="cpu").model)


def exhibits(folder: Path, ours: Any, tokenizer: Any, base: Path, add: Any) -> None:
    """What a careless converter writes: no error, and another model."""
    with patch("lora_edu.serving.gguf_names.permuted", lambda rows, heads: rows):
        wrong = write_adapter_gguf(ours, folder / "wrong.gguf")
        with LlamaCpp(base, [(wrong, 1.0)]) as engine:
            add("exhibit: q and k of the adapter not permuted", "f32", wrong, engine)
        whole = write_gguf(ours, tokenizer, folder / "wrong_base.gguf", base_only=True, verify=False)
    with LlamaCpp(whole, [(write_adapter_gguf(ours, folder / "right.gguf"), 1.0)]) as engine:
        add("exhibit: q and k of the base not permuted", "f32", whole, engine)
    config = LoRAConfig(r=8, lora_alpha=16 / 8**0.5, use_rslora=True, target_modules=("q_proj", "v_proj"))
    rescaled, _ = load_base(device="cpu")  # the same update, trained as rsLoRA would be: α/√8 = 16/8
    inject(rescaled, config)
    copy_factors(ours, rescaled)
    with patch("lora_edu.serving.gguf_adapter.left_over", lambda *_: 1.0):
        wrong = write_adapter_gguf(rescaled, folder / "unscaled.gguf")
    with LlamaCpp(base, [(wrong, 1.0)]) as engine:
        add("exhibit: the same update as rsLoRA, √r forgotten", "f32", wrong, engine)


def copy_factors(source: Any, target: Any) -> None:
    from lora_edu.adapters import adapter_parameters

    theirs = adapter_parameters(source)
    for name, parameter in adapter_parameters(target).items():
        parameter.data.copy_(theirs[name])


def relative_speed(engine: LlamaCpp, exact: LlamaCpp, ids: list[int]) -> list[float]:
    """Tokens a second as a ratio to the float32 file's: median, least and greatest of interleaved rounds."""
    found = []
    for _ in range(ROUNDS):
        seconds = []
        for each in (exact, engine):
            start = time.process_time()
            tokens = len(each.greedy(ids, NEW))
            seconds.append((time.process_time() - start) / max(tokens, 1))
        found.append(seconds[0] / seconds[1])
    return [statistics.median(found), min(found), max(found)]


if __name__ == "__main__":
    main()
