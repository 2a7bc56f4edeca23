"""What handling adapters costs: load, switch, disable, merge, unmerge, save, combine, ours against PEFT in one run.

    OMP_NUM_THREADS=1 python benchmarks/adapters.py

The default model, all-linear r = 8, two adapters. CPU milliseconds, interleaved, median of the ratios.
"""

import argparse
import copy
import tempfile
from pathlib import Path

import peft
import torch
from common import interleaved, ratios, write

from lora_edu.adapters import (
    LoRAConfig,
    adapter_parameters,
    combine,
    disabled,
    inject,
    load,
    lora_layers,
    merge,
    remove_adapter,
    save,
    set_adapter,
    unmerge,
)
from lora_edu.models import load_base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    ours = load_base().model
    plain = copy.deepcopy(ours)
    folder = Path(tempfile.mkdtemp())
    for seed, name in enumerate(("a", "b")):
        inject(ours, LoRAConfig(r=8, lora_alpha=16), name)
        torch.manual_seed(seed)
        for parameter in adapter_parameters(ours, name).values():
            torch.nn.init.normal_(parameter, std=0.01)
        save(ours, folder, name)
    theirs = peft.PeftModel.from_pretrained(plain, folder / "a", adapter_name="a")
    theirs.load_adapter(str(folder / "b"), adapter_name="b")
    theirs.set_adapter("a")
    set_adapter(ours, "a")

    def peft_disable():
        with theirs.disable_adapter():
            pass

    def our_disable():
        with disabled(ours):
            pass

    def our_load():
        load(ours, folder / "b", "c")

    def peft_load():
        theirs.load_adapter(str(folder / "b"), adapter_name="c")

    def clean_up():
        remove_adapter(ours, "c")
        set_adapter(ours, "a")
        theirs.delete_adapter("c")
        theirs.set_adapter("a")

    def peft_safe_merge():
        theirs.merge_adapter(safe_merge=True)

    def undo():
        unmerge(ours)
        theirs.unmerge_adapter()

    untouched = {path: layer.base_layer.weight.detach().clone() for path, layer in lora_layers(ours).items()}

    def restore():  # as if the base had been loaded again
        for path, layer in lora_layers(ours).items():
            layer.W0 = untouched[path].clone()
        undo()

    def merge_again():
        merge(ours)
        theirs.merge_adapter()

    def switch(chosen, model):
        for name in ("b", "a"):
            chosen(model, name) if model is ours else model.set_adapter(name)

    # (ours, PEFT's, what puts both back); a pair is interleaved, so that the machine's drift falls on both alike.
    operations = {
        "load": (our_load, peft_load, clean_up),
        "switch there and back": (lambda: switch(set_adapter, ours), lambda: switch(None, theirs), None),
        "disable and enable": (our_disable, peft_disable, None),
        "save": (
            lambda: save(ours, folder / "o", "a"),
            lambda: theirs.save_pretrained(folder / "p", selected_adapters=["a"]),
            None,
        ),
        "merge (W₀ kept), PEFT's plain merge": (lambda: merge(ours), theirs.merge_adapter, undo),
        "merge (W₀ kept), PEFT's safe merge": (lambda: merge(ours), peft_safe_merge, undo),
        "merge (W₀ gone), PEFT's plain merge": (lambda: merge(ours, keep_base=False), theirs.merge_adapter, restore),
        "merge (W₀ gone), PEFT's safe merge": (lambda: merge(ours, keep_base=False), peft_safe_merge, restore),
        "unmerge": (lambda: unmerge(ours), theirs.unmerge_adapter, merge_again),
        "combine cat": (
            lambda: combine(ours, {"a": 0.5, "b": 0.5}, "c"),
            lambda: theirs.add_weighted_adapter(["a", "b"], [0.5, 0.5], "c", combination_type="cat"),
            clean_up,
        ),
    }
    table = {}
    for name, (mine, other, after) in operations.items():
        if name == "unmerge":
            merge_again()
        seconds: dict[str, list[float]] = {"ours": [], "peft": []}
        for number in range(rounds + 1):
            once = interleaved({"ours": mine, "peft": other}, rounds=1, warmup=0)
            if after:
                after()
            for key in seconds if number else ():  # the first round warms up
                seconds[key] += once[key]
        if name == "unmerge":
            undo()
        rows = ratios(seconds, "ours")
        table[name] = {
            "ours_ms": rows["ours"]["seconds"] * 1e3,
            "peft_ms": rows["peft"]["seconds"] * 1e3,
            "times_faster": rows["peft"]["ratio"],
        }
        print(
            f"{name:<38} ours {table[name]['ours_ms']:9.3f} ms   PEFT {table[name]['peft_ms']:9.2f} ms   {table[name]['times_faster']:8.1f} × faster"
        )
    write("adapters", {"rounds": rounds, "table": table})


if __name__ == "__main__":
    main()
