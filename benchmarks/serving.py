"""How many tokens a second an engine answers with, three adapters and the base mixed: `python benchmarks/serving.py`. Chapter 15.

The stored adapters intents, reminders and (of chapter 00) kjv, and the base, four questions each, greedily. Ways to answer them:

  torch, mixed        all sixteen questions at once: rows of all four share a batch by per-row deltas
  torch, by adapter   the same engine, but one adapter's four questions at a time
  torch, one by one   one question at a time
  llama.cpp           all sixteen at once, as its server schedules them
  llama.cpp, one by one

All in one process, a round after the other, the order turning: CPU seconds of the process, and ratios round by round. Also how many of the
answers are letter for letter those of torch, one by one. `--quick` is a rehearsal that stores nothing; stored in benchmarks/results.
"""

import argparse
import queue
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import interleaved, ratios, write

from lora_edu.adapters import fingerprint
from lora_edu.data import prompt_ids
from lora_edu.errors import LoRAEduError
from lora_edu.experiments.stored_results import FOLDER
from lora_edu.models import load_base
from lora_edu.serving import Engine, Limits, Question, TorchEngine, ask
from lora_edu.serving.llama_engine import LlamaEngine

ADAPTERS = {
    "kjv": FOLDER / "kjv_adapter",
    "intents": FOLDER / "three_adapters" / "intents",
    "reminders": FOLDER / "three_adapters" / "reminders",
}
ASKED = (
    "What should I do when a friend is sad?",
    "Wake me at six tomorrow",
    "Remind Zelda to fold the laundry on Friday.",
    "Name three things that swim.",
)
TOKENS = 24


def at_once(engine: Engine, questions: Sequence[Question]) -> list[str]:
    """All answers, asked together."""
    found: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in questions]
    for question, pieces in zip(questions, found):
        engine.submit(question, pieces.put)
    texts = []
    for pieces in found:
        text, finish = "", None
        while finish is None:
            piece = pieces.get()
            text, finish = text + piece.text, piece.finish
        texts.append(text)
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    model, tokenizer = load_base(device="cpu")
    base = fingerprint(model)
    limits, tokens = Limits(context=512, answer_tokens=256), 6 if quick else TOKENS
    names = [None, *ADAPTERS]
    with tempfile.TemporaryDirectory() as scratch:
        llama = llama_engine(model, tokenizer, Path(scratch), limits)
        engine = TorchEngine(model, tokenizer, limits)
        for name, folder in ADAPTERS.items():
            engine.add(name, folder)
            if llama is not None:
                path = Path(scratch) / f"{name}.gguf"
                engine.work(lambda model, path=path, name=name: write_adapter(model, path, name))
                llama.add(name, path)
        questions = [
            Question(tuple(prompt_ids([{"role": "system", "content": ""}, {"role": "user", "content": text}], tokenizer)), name, max_tokens=tokens)
            for text in ASKED for name in names
        ]  # fmt: skip
        by_adapter = [[q for q in questions if q.adapter == name] for name in names]
        answers: dict[str, list[str]] = {}

        def kept(name: str, work: Any) -> Any:
            def run() -> None:
                answers[name] = work()

            return run

        ways: dict[str, Any] = {
            "torch, mixed": lambda: at_once(engine, questions),
            "torch, by adapter": lambda: in_order(
                questions, by_adapter, [at_once(engine, group) for group in by_adapter]
            ),
            "torch, one by one": lambda: [ask(engine, q).text for q in questions],
        }
        if llama is not None:
            ways["llama.cpp"] = lambda: at_once(llama, questions)
            ways["llama.cpp, one by one"] = lambda: [ask(llama, q).text for q in questions]
        seconds = interleaved(
            {name: kept(name, work) for name, work in ways.items()}, 1 if quick else 3, 0 if quick else 1
        )
        table = ratios(seconds, "torch, one by one")
        written = sum(
            len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in answers["torch, one by one"]
        )
        for name, row in table.items():
            row["tokens a CPU second"] = written / row["seconds"]
            row["equal answers"] = sum(a == b for a, b in zip(answers[name], answers["torch, one by one"]))
            print(
                f"{name:<24}{row['tokens a CPU second']:8.1f} tokens/s  ratio {row['ratio']:.3f}  equal {row['equal answers']}/{len(questions)}"
            )
        engine.close()
        if llama is not None:
            llama.close()
    if not quick:
        write(
            "serving", {"base": base, "questions": len(questions), "tokens": tokens, "written": written, "ways": table}
        )


def in_order(questions: list[Question], groups: list[list[Question]], answers: list[list[str]]) -> list[str]:
    """The answers of groups, as the questions stand."""
    found = {id(q): text for group, texts in zip(groups, answers) for q, text in zip(group, texts)}
    return [found[id(q)] for q in questions]


def llama_engine(model: Any, tokenizer: Any, scratch: Path, limits: Limits) -> LlamaEngine | None:
    """llama.cpp with the base in fp32, or None, said, where it cannot be had."""
    from lora_edu.serving.gguf_model import write_gguf

    try:
        return LlamaEngine(
            write_gguf(model, tokenizer, scratch / "base.gguf", "f32", base_only=True), limits=limits, threads=1
        )
    except (LoRAEduError, ImportError) as error:
        print("without llama.cpp:", error)
        return None


def write_adapter(model: Any, path: Path, name: str) -> None:
    from lora_edu.serving.gguf_adapter import write_adapter_gguf

    write_adapter_gguf(model, path, name)


if __name__ == "__main__":
    main()
