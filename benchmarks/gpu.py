"""Fine-tuning on one GPU: right first, then how fast, how large and how good. Chapter 14 shows what it stored.

    python benchmarks/gpu.py                        # on a CUDA device
    python benchmarks/gpu.py --device cpu --quick   # the same road in small, as the tests walk it

Four tables go to benchmarks/results/<device>.json: what the device can do at most (`ceilings`), a step of each method on the
default model (`speed`), what each method learnt (`quality`), and steps through layers of larger models' width with random weights,
where only speed is the question (`widths`). The checks of `gpu_checks` come before them: a wrong model is not worth timing.

Quality compares each method at its own best learning rate: validation rows choose it, in runs of a seed of their own, from a grid that
is extended where its edge is best; test rows are read once a seed, at that rate. LoRA's α is 16 at every rank, so that under Adam the
first step is as large at r = 8 as at r = 64 (chapter 03); what is left of a difference in step size, the rates make up for.
"""

import argparse
import copy
import itertools
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import peft
import torch
from common import transient_peak, write
from gpu_checks import check
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from lora_edu.adapters import LoRAConfig, fingerprint, inject
from lora_edu.data import collate, encode_rows
from lora_edu.errors import LoRAEduError
from lora_edu.evaluation import evaluate, mean_nll
from lora_edu.models import DEFAULT_MODEL, Base, load_base
from lora_edu.models.modules import checkpointing
from lora_edu.tasks import get_task
from lora_edu.training import TrainConfig, Trainer, causal_lm_loss
from lora_edu.training.memory import predict_memory

# Widths of models that people fine-tune (Llama 3.2 1B and Llama 2 7B); a few of their layers are enough to time a step.
WIDTHS: dict[str, dict[str, Any]] = {
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8},
    "7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_key_value_heads": 32},
}


ALPHA = 16  # at every rank


def _ours(model: nn.Module, r: int) -> nn.Module:
    return inject(model, LoRAConfig(r=r, lora_alpha=ALPHA))


def _peft(model: nn.Module, r: int) -> nn.Module:
    return peft.get_peft_model(model, peft.LoraConfig(r=r, lora_alpha=ALPHA, target_modules="all-linear"))


@dataclass(frozen=True)
class Method:
    """A way to train: `prepare` changes a fresh copy of the model; `rates` is the grid of learning rates that quality begins with."""

    prepare: Callable[[Any], Any]
    rates: tuple[float, ...]


LORA_RATES = (3e-4, 1e-3, 3e-3)
METHODS = {
    "full fine-tuning": Method(lambda model: model.requires_grad_(True), (3e-5, 1e-4, 3e-4)),
    "LoRA r = 8": Method(partial(_ours, r=8), LORA_RATES),
    "LoRA r = 64": Method(partial(_ours, r=64), LORA_RATES),
    "PEFT r = 8": Method(partial(_peft, r=8), LORA_RATES),
}
CHOOSING = 1000  # the seed of the runs that choose a rate: it is none of those that are scored
MOST_RATES = 6
LIMIT = "limit"  # the frozen base's forward and its backward to the inputs: what any adapter method must pay


# --- clocks and scales ------------------------------------------------------------------------------------------------


def seconds_a_call(call: Callable[[], Any], device: torch.device, warmup: int, rounds: int) -> float:
    """Median seconds of `call`: by the device's own events on CUDA, else by the CPU time of this process."""
    for _ in range(warmup):
        call()
    if device.type != "cuda":
        times = []
        for _ in range(rounds):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
    else:
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
        for start_event, end_event in events:
            start_event.record()
            call()
            end_event.record()
        torch.cuda.synchronize(device)
        times = [start_event.elapsed_time(end_event) / 1e3 for start_event, end_event in events]
    return float(torch.tensor(times).median())


def ceilings(device: torch.device, quick: bool) -> dict[str, float]:
    """What the device can do at most: a large bf16 product (TFLOP/s) and a large copy (GB/s, bytes read and written)."""
    n, numbers = (512, 2**22) if quick else (8192, 2**29)
    factors = [torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(3)]  # in turn: no cached operands
    turn = itertools.count()
    product = seconds_a_call(lambda: factors[next(turn) % 3] @ factors[next(turn) % 3], device, 3, 10)
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)
    copied = seconds_a_call(lambda: target.copy_(source), device, 3, 10)
    return {"matrix_tflops": 2 * n**3 / product / 1e12, "copy_gb_per_s": 2 * source.nbytes / copied / 1e9}


def operations(model: nn.Module, method: str, tokens: int, length: int) -> float:
    """Floating-point operations of one step: the products' alone, without attention masks, norms and optimiser.

    A matrix of n entries costs 2n a token forward, 2n for its input's gradient, and 2n for its own if it trains. The two
    products of attention, with every layer's keys as long as the sequence: 4·T·d a token forward, twice that backward.
    """
    config: Any = model.config
    entries = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    embedding = config.vocab_size * config.hidden_size
    frozen = entries - (0 if config.tie_word_embeddings else embedding)  # a look-up is no product; a tied head is one
    trained = sum(p.numel() for p in model.parameters() if p.ndim == 2 and p.requires_grad)
    attention = 12 * length * config.hidden_size * config.num_hidden_layers
    return tokens * (4 * frozen + (0 if method == LIMIT else 2 * trained) + attention)


# --- one step ---------------------------------------------------------------------------------------------------------


def step_of(model: Any, batches: Sequence[dict[str, Tensor]], method: str, device: torch.device) -> Callable[[], None]:
    """One training step in bf16 autocast on the next of `batches`; for the limit only the base and its inputs' gradients."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=device.type == "cuda") if trained else None
    turn = itertools.cycle(batches)
    embed = model.get_input_embeddings()

    def step() -> None:
        batch = next(turn)
        with torch.autocast(device.type, torch.bfloat16):
            if method == LIMIT:
                x = embed(batch["input_ids"]).detach().requires_grad_(True)  # (B, T, d)
                batch = {"inputs_embeds": x, "labels": batch["labels"]}
            loss = causal_lm_loss(model, batch)
        (loss.total / loss.count).backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def measured(
    base: Any, method: str, option: str, batches: Sequence[dict[str, Tensor]], device: torch.device, top: float, rounds: int
) -> dict[str, Any]:  # fmt: skip
    """One row of a table: a fresh copy of `base` is prepared, timed, weighed and thrown away."""
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    model = copy.deepcopy(base).to(torch.bfloat16 if option == "bf16 base" else None).train().requires_grad_(False)
    if method != LIMIT:
        model = METHODS[method].prepare(model)
    (rows, length), tokens = batches[0]["input_ids"].shape, batches[0]["input_ids"].numel()
    row: dict[str, Any] = {"method": method, "option": option}
    try:
        inner = model.get_base_model() if isinstance(model, peft.PeftModel) else model
        with checkpointing(inner, option == "checkpointing"):
            compiled = torch.compile(model) if option == "compile" else model
            step = step_of(compiled, batches, method, device)
            seconds = seconds_a_call(step, device, warmup=3, rounds=rounds)
            row |= {"seconds": seconds, "tokens_per_s": tokens / seconds}
            if option != "checkpointing":  # what is computed twice would count as speed
                row["share_of_matrix_rate"] = operations(inner, method, tokens, length) / seconds / 1e12 / top
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
                step()
                torch.cuda.synchronize(device)
                row["peak_bytes"] = torch.cuda.max_memory_allocated(device) - before
            else:
                row["transient_bytes"] = transient_peak(step)
    except torch.OutOfMemoryError as error:
        row["failed"] = f"out of memory: {error}"
    if method.startswith(("full", "LoRA")) and option != "compile":
        ledger = predict_memory(model, rows, length, autocast=True, gradient_checkpointing=option == "checkpointing")
        row["ledger_bytes"] = ledger.total
    said = f"{row['seconds'] * 1e3:9.1f} ms {row['tokens_per_s']:10.0f} tokens/s" if "seconds" in row else row["failed"]
    print(
        f"  {method:<18}{option:<15}{said}  {row.get('peak_bytes', row.get('transient_bytes', 0)) / 1e9:7.2f} GB",
        flush=True,
    )
    return row


def random_batches(
    vocabulary: int, rows: int, length: int, device: torch.device, count: int = 4
) -> list[dict[str, Tensor]]:
    """A few different batches, so that no call finds its inputs in a cache."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (count, rows, length), generator=draw).to(device)  # (count, B, T)
    return [{"input_ids": each, "labels": each} for each in ids]


# --- the tables -------------------------------------------------------------------------------------------------------


def speed(base: Any, device: torch.device, top: float, quick: bool) -> list[dict[str, Any]]:
    """Every method on the default model, plain, with checkpointing, compiled, and (adapters) on a base in bf16."""
    rows, length, rounds = (1, 6, 1) if quick else (16, 512, 20)  # a CPU without bf16 of its own takes a second a token
    batches = random_batches(base.config.vocab_size, rows, length, device)
    options = ["plain", "checkpointing"] if quick else ["plain", "checkpointing", "compile", "bf16 base"]
    print(f"\na step of {rows} × {length} tokens, bf16 autocast")
    return [measured(base, LIMIT, "plain", batches, device, top, rounds)] + [
        measured(base, method, option, batches, device, top, rounds)
        for method in METHODS
        for option in options
        if not (option == "bf16 base" and method.startswith("full"))
    ]


def widths(device: torch.device, top: float, quick: bool) -> dict[str, list[dict[str, Any]]]:
    """Steps through a few layers as wide as larger models', with random weights in bf16: only their speed is asked."""
    layers, rows, length, rounds = (1, 1, 16, 1) if quick else (8, 4, 1024, 10)
    tables = {}
    for name, shape in WIDTHS.items():
        shape = {key: size // 4 if quick and "size" in key else size for key, size in shape.items()}
        config = LlamaConfig(
            **shape, num_hidden_layers=layers, vocab_size=1000 if quick else 32000, tie_word_embeddings=False
        )
        with torch.device(device):
            model = LlamaForCausalLM(config).to(torch.bfloat16)
        batches = random_batches(config.vocab_size, rows, length, device)
        print(f"\n{layers} layers of {name} width, {rows} × {length} tokens, weights in bf16")
        tables[name] = [
            measured(model, method, "bf16 base", batches, device, top, rounds) for method in (LIMIT, *METHODS)
        ]
        del model
    return tables


def best_rate(loss_at: Callable[[float], float], rates: Sequence[float]) -> tuple[float, dict[float, float]]:
    """The rate of the lowest loss, and all that was tried. A grid whose edge is best goes on there, threefold, up to MOST_RATES."""
    tried = {rate: loss_at(rate) for rate in sorted(rates)}
    while True:
        best = min(
            tried, key=lambda rate: tried[rate] if tried[rate] == tried[rate] else float("inf")
        )  # nan never wins
        edge = {min(tried): best / 3, max(tried): best * 3}.get(best)
        if edge is None or len(tried) >= MOST_RATES or len(rates) == 1:
            return best, dict(sorted(tried.items()))
        tried[float(f"{edge:.1g}")] = loss_at(float(f"{edge:.1g}"))


def quality(base: Base, device: torch.device, quick: bool, seeds: int) -> list[dict[str, Any]]:
    """Each method trained on dates at the rate that validation rows chose, and scored on the same test rows, a run a seed."""
    task = get_task("iso_dates")
    limit, steps, seeds = (8, 2, 1) if quick else (None, 100, seeds)
    rows = task.splits()
    train, valid = (encode_rows(part[:limit], base.tokenizer) for part in (rows.train, rows.valid))
    general = encode_rows([row for row in get_task("general").splits().test if row.is_text][:limit], base.tokenizer)
    pad = partial(collate, pad_token_id=base.tokenizer.pad_token_id)

    def trained(method: Method, rate: float, seed: int) -> tuple[Any, float]:
        torch.manual_seed(seed)
        model = method.prepare(copy.deepcopy(base.model).requires_grad_(False))
        settings = TrainConfig(learning_rate=rate, batch_size=4, max_steps=steps, warmup_ratio=0.05, seed=seed)
        started = time.perf_counter()
        Trainer(model, train, causal_lm_loss, settings, collate=pad, progress=False).train()
        return model, time.perf_counter() - started

    def loss_at(method: Method, rate: float) -> float:
        return mean_nll(trained(method, rate, CHOOSING)[0], valid).value

    found = []
    print(f"\n{steps} steps on dates, {len(valid)} validation rows, {limit or task.test_rows} test rows")
    for name, method in METHODS.items():
        rates = method.rates[1:2] if quick else method.rates
        rate, tried = best_rate(partial(loss_at, method), rates)
        print(f"  {name:<18}{', '.join(f'{each:g}: {loss:.4f}' for each, loss in tried.items())}", flush=True)
        for seed in range(seeds):
            model, seconds = trained(method, rate, seed)
            report = evaluate(model, base.tokenizer, task, limit=limit, batch_size=64)
            found.append({
                "method": name, "seed": seed, "learning_rate": rate, "validation_loss": tried, "at_edge": rate in (min(tried), max(tried)),
                "training_seconds": round(seconds, 1), "exact_match": report.interval._asdict(),
                "right": report.scores[report.metric].values.astype(int).tolist(), "general_nll": mean_nll(model, general).interval()._asdict(),
            })  # fmt: skip
            print(f"  {name:<18}seed {seed}  exact match {report.interval}  ({seconds:.0f} s)", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="cuda, or cpu (the GPU there is, if not said)")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="what load_base takes")
    parser.add_argument("--seeds", type=int, default=3, help="runs a method in the quality table")
    parser.add_argument(
        "--quick", action="store_true", help="four layers, tiny sizes, nothing stored: does every part run?"
    )
    options = parser.parse_args()
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    base = load_base(options.model, device, torch.float32)
    if options.quick:
        base.model.model.layers = base.model.model.layers[:4]
        base.model.config.num_hidden_layers = 4
    result: dict[str, Any] = {"device": name, "fingerprint": fingerprint(base.model)}
    if device.type == "cuda":
        result["cuda"] = torch.version.cuda
    result["checks"] = check(base, device, steps=3 if options.quick else 20)
    if failed := [row["check"] for row in result["checks"] if not row["passed"]]:
        raise LoRAEduError(f"wrong results on {name}: {', '.join(failed)}; nothing was timed")
    result["ceilings"] = ceilings(device, options.quick)
    print({key: round(value, 1) for key, value in result["ceilings"].items()})
    top = result["ceilings"]["matrix_tflops"]
    result["speed"] = speed(base.model, device, top, options.quick)
    result["quality"] = quality(base, device, options.quick, options.seeds)
    result["widths"] = widths(device, top, options.quick)
    if not options.quick:
        write(re.sub(r"[^a-z0-9]+", "_", name.lower()), result)


if __name__ == "__main__":
    main()
