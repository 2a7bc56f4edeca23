"""What `test_processes.py` compares: runs of two processes, each scenario once with DDP and once with FSDP2 where that matters.

    torchrun --standalone --nproc-per-node 2 run_processes.py FOLDER     the scenarios; in the last one process 1 kills itself
    python run_processes.py FOLDER                                       what wants processes that outlive a dead one

Process k leaves FOLDER/<scenario>.<k>.json and .safetensors. One process alone does the same runs in `test_processes.py` itself.
"""

import contextlib
import io
import json
import os
import signal
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin, PartialState
from accelerate.state import AcceleratorState
from conftest import make_tiny_llama
from run_and_kill import child, die, end_of, free_port
from safetensors.torch import save_file
from torch import nn
from torch.distributed.fsdp import fully_shard

from lora_edu.adapters import LoRAConfig, inject
from lora_edu.adapters import folder as adapter_folder
from lora_edu.adapters import save_load as checkpoint
from lora_edu.errors import LoRAEduError
from lora_edu.models.sharded import is_sharded, whole
from lora_edu.training import Callback, LossSum, TrainConfig, Trainer, causal_lm_loss, step_rows
from lora_edu.training import checkpoints as train_state
from lora_edu.training import run as run_module
from lora_edu.training.processes import new_accelerator

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from processes import count_ddp, count_fsdp

WAYS = ("ddp", "fsdp")
# 9 rows in steps of 8 and 1: the last micro-batch of an epoch leaves process 1 without a share. Rank 3: shards of 2 and 1.
CONFIG = {
    "learning_rate": 0.01, "batch_size": 4, "gradient_accumulation_steps": 2, "epochs": 3, "eval_every": 2, "precision": "fp32",
}  # fmt: skip
ROWS, HELD_OUT = 9, 3
BEST = {
    "keep_best": True,
    "learning_rate": 0.1,
    "scheduler": "constant",
    "eval_every": 1,
}  # the third evaluation of six is it


def rows(count: int, seed: int = 0) -> list[list[int]]:
    return torch.randint(1, 32, (count, 7), generator=torch.Generator().manual_seed(seed)).tolist()


def batch(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    ids = torch.tensor(rows)
    labels = ids.clone()
    labels[:, :2] = -100
    return {"input_ids": ids, "labels": labels}


def adapted(way: str = "ddp", dropout: float = 0.0) -> nn.Module:
    """A tiny Llama with adapters, also on the head: it belongs to FSDP's root, whose weights stay gathered after a forward pass."""
    torch.set_num_threads(1)
    model = make_tiny_llama()
    torch.manual_seed(3)
    inject(model, LoRAConfig(r=3, target_modules=["q_proj", "v_proj", "down_proj", "lm_head"], lora_dropout=dropout))
    if way == "fsdp":
        for block in model.model.layers:
            fully_shard(block)
        fully_shard(model)
    return model


def trainer(
    way: str, folder: Path | None, *callbacks: Callback, dropout: float = 0.0, loss_fn=causal_lm_loss, **config
):
    settings = TrainConfig(**CONFIG | {"output_dir": str(folder) if folder else None} | config)
    return Trainer(
        adapted(way, dropout), rows(ROWS), loss_fn, settings, collate=batch, eval_examples=rows(HELD_OUT, seed=1),
        callbacks=callbacks, progress=False,
    )  # fmt: skip


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


class At(Callback):
    """Does something after a step, in one process."""

    def __init__(self, step: int, act, process: int = 1) -> None:
        self.step, self.act, self.process = step, act, process

    def on_step_end(self, trainer, record):
        if (record["step"], rank()) == (self.step, self.process):
            self.act(trainer)


def terminate(trainer: Trainer) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def stop(trainer: Trainer) -> None:
    trainer.stop("process 1 has seen enough")


def leave(folder: Path, name: str, run: Trainer | None = None, **values) -> None:
    """This process's side of a scenario."""
    if run is not None:
        save_file(
            {name: whole(p.detach()).clone() for name, p in run.parameters.items()},
            folder / f"{name}.{rank()}.safetensors",
        )
        steps = [{key: value for key, value in record.items() if key != "seconds"} for record in run.history.steps]
        values |= {"steps": steps, "evaluations": run.history.evaluations, "stopped": run.history.stopped}
    (folder / f"{name}.{rank()}.json").write_text(json.dumps(values))


def words_of(action) -> str:
    """What a run that ends badly says."""
    try:
        action()
    except (LoRAEduError, KeyboardInterrupt) as error:
        return str(error)
    return ""


# --- scenarios that all processes survive -----------------------------------------------------------------------------


def whole_run(folder: Path, way: str, dropout: float, name: str) -> None:
    run = trainer(way, None, dropout=dropout)
    run.train()
    leave(folder, name, run)


def interrupted_run(folder: Path, way: str, dropout: float, name: str) -> None:
    """SIGTERM reaches process 1 alone; what was saved is resumed by a new trainer."""
    words = words_of(trainer(way, folder / name, At(3, terminate), dropout=dropout).train)
    resumed = trainer(way, folder / name, dropout=dropout)
    resumed.resume()
    leave(folder, name, resumed, words=words)


def stopped_for_later(folder: Path, way: str, name: str) -> None:
    """Left interrupted: another number of processes goes on with it."""
    leave(folder, name, words=words_of(trainer(way, folder / name, At(3, terminate)).train))


def begun_by_one(folder: Path, way: str, name: str) -> None:
    """Goes on with what one process has begun."""
    run = trainer(way, folder / name)
    run.resume()
    leave(folder, name, run)


def saved_adapter(folder: Path, way: str, name: str) -> None:
    """keep_best, then the adapter into PEFT's folder: all call `save`, one writes."""
    written = []

    def counted(tensors, path, **options):
        written.append(str(path))
        save_file(tensors, path, **options)

    run = trainer(way, None, **BEST)
    run.train()
    adapter_folder.save_file, original = counted, adapter_folder.save_file
    checkpoint.save(run.model if way == "fsdp" else run.model.module, folder / name)
    adapter_folder.save_file = original
    leave(folder, name, run, written=len(written), best=run.history.best)


def shards(folder: Path) -> None:
    """What a process holds of a sharded model, and of its optimiser's state."""
    run = trainer("fsdp", None, max_steps=1)
    run.eval_examples = None
    run.train()
    parameters = dict(run.model.named_parameters())
    state = [t for p in run.parameters.values() for t in run.optimizer.state[p].values()]
    leave(
        folder, "shards", run, sharded=all(map(is_sharded, parameters.values())), moments=sum(map(is_sharded, state)) == 2 * len(run.parameters),
        numbers=sum(p.numel() for p in parameters.values()), here=sum(p.to_local().numel() for p in parameters.values()),
        wrapped=type(run.model).__name__, weights=kept(parameters.values()), gradients=kept(run.parameters.values()),
        optimizer=kept(state),
    )  # fmt: skip


def kept(tensors) -> int:
    """Bytes of this process's parts."""
    return sum((t.to_local() if is_sharded(t) else t).nbytes for t in tensors)


def volume(folder: Path) -> None:
    """What is sent in a step of two micro-batches, counted as the benchmark counts it."""
    counted = {}
    for name, way, full in (("adapters", "ddp", False), ("all", "ddp", True), ("sharded", "fsdp", False)):
        run = trainer(way, None, max_steps=1)
        run.eval_examples = None
        if full:
            run = Trainer(make_tiny_llama(), run.examples, run.loss_fn, run.config, collate=batch, progress=False)
        counts: Counter = Counter()
        (count_fsdp if way == "fsdp" else count_ddp)(run.model, counts)
        run.train()
        counted[name] = dict(counts)
    leave(folder, "volume", **counted)


class RowCounter(nn.Module):
    """A parameter a row, whose gradient says how often the row was seen."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.seen = nn.Parameter(torch.zeros(count))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.seen[rows]


class Tally(Callback):
    def __init__(self) -> None:
        self.seen: torch.Tensor | int = 0

    def on_step_end(self, trainer, record):
        self.seen = self.seen + trainer.parameters["seen"].grad * record["tokens"]


def every_row_once(folder: Path) -> None:
    tallies = {}
    for count, batch_size, accumulation in [
        (1, 1, 1),
        (2, 3, 1),
        (5, 1, 2),
        (7, 2, 2),
        (9, 4, 2),
        (11, 3, 1),
        (12, 4, 1),
    ]:
        config = TrainConfig(
            batch_size=batch_size, gradient_accumulation_steps=accumulation, epochs=2, max_grad_norm=None, precision="fp32"
        )  # fmt: skip
        tally = Tally()
        Trainer(
            RowCounter(count), list(range(count)), lambda model, rows: LossSum(model(rows).sum(), len(rows)), config,
            collate=torch.tensor, callbacks=[tally], progress=False,
        ).train()  # fmt: skip
        tallies[f"{count} rows, {batch_size} x {accumulation}"] = tally.seen.tolist()
    leave(folder, "rows", **tallies)


def progress(folder: Path) -> None:
    """What each process prints, and warns of: a factor that is dead from the start."""
    run = trainer("ddp", None, max_steps=2)
    run.progress = True
    with torch.no_grad():
        run.parameters["model.layers.0.mlp.down_proj.lora_A.default"].zero_()
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        run.train()
    leave(folder, "progress", printed=printed.getvalue())


def not_a_number(folder: Path, way: str) -> None:
    """A row that process 1 sees is bad; both name it."""

    def poisoned(model, batch):
        total, count = causal_lm_loss(model, batch)
        return LossSum(total * float("nan") if (batch["input_ids"] == 31).any() else total, count)

    run = trainer(way, None, loss_fn=poisoned)
    run.examples = [[1 + token % 30 for token in row] for row in run.examples]
    micro_batch = step_rows(ROWS, 0, run.config)[1]
    run.examples[micro_batch[1]][4] = 31  # the second of a micro-batch is process 1's
    run.eval_examples = None
    leave(folder, f"nan {way}", words=words_of(run.train), row=micro_batch[1])


def stopped_by_one(folder: Path) -> None:
    run = trainer("ddp", None, At(2, stop))
    run.train()
    leave(folder, "stopped", run)


def full_disk(folder: Path) -> None:
    """From its second checkpoint on, process 0 finds the disk full; the run goes on, and both know."""
    calls = iter(range(100))

    def full(tensors, path):
        if next(calls):
            raise OSError(28, "No space left on device")
        save_file(tensors, path)

    train_state.save_file, original = full, train_state.save_file
    run = trainer("ddp", folder / "full", save_every=2)
    run.train()
    words = words_of(run.save)
    train_state.save_file = original
    leave(folder, "full", run, words=words)


def sharded_by_accelerate(folder: Path) -> None:
    """What `accelerate launch --use_fsdp --fsdp_version 2` leads to on GPUs; here accelerate is made to believe that it may."""

    def fooled() -> Accelerator:
        accelerator = new_accelerator()
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
        )
        accelerator.state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        return accelerator

    before = PartialState().distributed_type
    run_module.new_accelerator = fooled
    try:
        run = trainer("ddp", None, gradient_checkpointing=True)
        run.train()
        leave(folder, "whole accelerate", run, wrapped=type(run.model).__name__)
    finally:
        run_module.new_accelerator = new_accelerator
        AcceleratorState().distributed_type = PartialState._shared_state["distributed_type"] = before


def refused(folder: Path) -> None:
    """FSDP settings for accelerate on a CPU, which it turns into DDP without a word."""
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    leave(folder, "refused", words=words_of(lambda: trainer("ddp", None)))
    del os.environ["ACCELERATE_USE_FSDP"]


def living(folder: Path) -> None:
    for way in WAYS:
        whole_run(folder, way, 0.0, f"whole {way}")
        whole_run(folder, way, 0.3, f"dropout {way}")
        interrupted_run(folder, way, 0.3, f"interrupted {way}")
        stopped_for_later(folder, way, f"later {way}")
        begun_by_one(folder, way, f"begun {way}")
        saved_adapter(folder, way, f"adapter {way}")
        not_a_number(folder, way)
    sharded_by_accelerate(folder)
    refused(folder)
    shards(folder)
    volume(folder)
    every_row_once(folder)
    progress(folder)
    stopped_by_one(folder)
    full_disk(folder)


# --- scenarios that one does not survive ------------------------------------------------------------------------------


def killed(folder: Path) -> None:
    """Process 1 is killed after step 3; the checkpoint of step 2 is there."""
    words = words_of(trainer("ddp", folder / "killed", At(3, lambda run: die()), dropout=0.3, save_every=2).train)
    leave(folder, "killed", words=words)
    sys.exit(words)


def after_the_kill(folder: Path) -> None:
    run = trainer("ddp", folder / "killed", dropout=0.3, save_every=2)
    run.resume()
    leave(folder, "after the kill", run)


def stuck(folder: Path) -> None:
    """Process 1 stands still for good; process 0 gives up after its patience, here 3 seconds."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=3))
    words = words_of(trainer("ddp", folder / "stuck", At(2, lambda run: os.kill(os.getpid(), signal.SIGSTOP))).train)
    leave(folder, "stuck", words=words)


def one_is_out_of_memory(folder: Path) -> None:
    """Process 1 finds no memory in step 3, says so and leaves."""

    def full(model, batch):
        if model.training and run.step == 2 and rank() == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return causal_lm_loss(model, batch)

    run = trainer("ddp", folder / "memory", loss_fn=full, save_every=1)
    leave(folder, "memory", words=words_of(run.train))


def pair(work) -> list[int]:
    """Two forked processes that know each other; their process numbers."""
    port = free_port()

    def join(k: int) -> None:
        os.environ.update(
            WORLD_SIZE="2", RANK=str(k), LOCAL_RANK=str(k), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
        )
        work()

    return [child(lambda: join(0)), child(lambda: join(1))]


def outliving(folder: Path) -> None:
    causal_lm_loss(make_tiny_llama(), batch([[1, 2, 3]]))  # what is imported late is imported once, before the forks
    ends = {"after the kill": [end_of(pid) for pid in pair(lambda: after_the_kill(folder))]}
    ends["memory"] = [end_of(pid) for pid in pair(lambda: one_is_out_of_memory(folder))]
    zero, one = pair(lambda: stuck(folder))
    ends["stuck"] = [end_of(zero)]
    os.kill(one, signal.SIGKILL)
    end_of(one)
    (folder / "ends.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if "RANK" in os.environ:
        living(folder)
        killed(folder)
    else:
        outliving(folder)
