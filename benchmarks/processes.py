"""What several processes send each other in a step, full fine-tuning and LoRA: counted where it is sent, against arithmetic.

    OMP_NUM_THREADS=1 python benchmarks/processes.py

The default model on 4 processes of this machine (gloo, CPU), one short row each, through the ordinary Trainer. With DDP the gradients
of what trains are summed over all processes; with FSDP2 each process keeps a part of every weight, so that the weights themselves
travel, frozen ones too. `payload` is what is summed or gathered; `sent` what each process sends for it if it goes round a ring:
2(N−1)/N of it to sum (reduce-scatter, then all-gather), (N−1)/N to gather or to reduce-scatter. `wire` is what the machine's loopback
interface counted in that step, over all processes, with whatever else used it. (gloo sums in order to reduce and scatter, so that its
wire carries twice the scattered bytes; NCCL does not.) `transient` is the allocations' peak of one more step above what is kept.
"""

import gc
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from common import transient_peak, write
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter

from lora_edu.adapters import LoRAConfig, inject
from lora_edu.models import load_base
from lora_edu.training import Callback, TrainConfig, Trainer, causal_lm_loss
from lora_edu.training.memory import predict_memory, sharded

PROCESSES, TOKENS = 4, 16
WHAT_TRAINS = {
    "full fine-tuning": None,
    "all-linear r=64": LoRAConfig(r=64),
    "all-linear r=8": LoRAConfig(r=8),
    "q,v r=8": LoRAConfig(r=8, target_modules=["q_proj", "v_proj"]),
}
WITH = {"ddp": list(WHAT_TRAINS), "fsdp": ["full fine-tuning", "all-linear r=8"]}


def count_ddp(model: torch.nn.parallel.DistributedDataParallel, counts: Counter) -> None:
    """From now on counts the bytes of the gradients that this model sums over its processes."""

    def hook(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        counts["summed"] += bucket.buffer().nbytes
        return allreduce_hook(None, bucket)

    model.register_comm_hook(None, hook)


def count_fsdp(model: torch.nn.Module, counts: Counter) -> None:
    """From now on counts the bytes of weights gathered and of gradients reduced and scattered, as whole tensors."""

    class Gather(DefaultAllGather):
        def __call__(self, output_tensor, input_tensor, *args, **options):
            counts["gathered"] += output_tensor.nbytes
            return super().__call__(output_tensor, input_tensor, *args, **options)

    class Scatter(DefaultReduceScatter):
        def __call__(self, output_tensor, input_tensor, *args, **options):
            counts["scattered"] += input_tensor.nbytes
            return super().__call__(output_tensor, input_tensor, *args, **options)

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_custom_all_gather(Gather())
            module.set_custom_reduce_scatter(Scatter())


def sent(counts: Counter, processes: int) -> float:
    """Bytes that each process sends for it, in a ring."""
    return (processes - 1) / processes * (2 * counts["summed"] + counts["gathered"] + counts["scattered"])


def loopback() -> int | None:
    """Bytes that this machine has sent to itself so far; None where the system does not say."""
    table = Path("/proc/net/dev")
    line = (
        next((line for line in table.read_text().splitlines() if line.strip().startswith("lo:")), None)
        if table.exists()
        else None
    )
    return int(line.split(":")[1].split()[8]) if line else None


class OneStep(Callback):
    """Counts the second step alone: in the first one DDP still arranges its buckets."""

    def __init__(self, counts: Counter) -> None:
        self.counts = counts

    def on_step_end(self, trainer, record):
        dist.barrier()
        if record["step"] == 1:
            self.counts.clear()
            self.before = loopback()
            dist.barrier()
        elif self.before is not None:
            self.counts["wire"] = loopback() - self.before


def a_run(config: LoRAConfig | None, way: str) -> dict[str, Any]:
    """Two steps of one process's side of a run; the counts of the second."""
    model = load_base(device="cpu").model
    model.requires_grad_(True) if config is None else inject(model, config)
    ledger = predict_memory(model, 1, TOKENS)
    if way == "fsdp":
        expected = sharded(ledger, model, PROCESSES)
        for block in model.model.layers:
            fully_shard(block)
        fully_shard(model)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(100, 40_000, (2 * PROCESSES, TOKENS), generator=generator).tolist()
    counts: Counter = Counter()
    trainer = Trainer(
        model, rows, causal_lm_loss, TrainConfig(batch_size=PROCESSES, learning_rate=1e-4, precision="fp32"),
        collate=lambda rows: {"input_ids": torch.tensor(rows), "labels": torch.tensor(rows)}, callbacks=[OneStep(counts)],
        progress=False,
    )  # fmt: skip
    (count_fsdp if way == "fsdp" else count_ddp)(trainer.model, counts)
    trainer.train()
    result: dict[str, Any] = {"trains": ledger.trainable, "payload": {k: v for k, v in counts.items() if k != "wire"}}
    result |= {"sent": sent(counts, PROCESSES), "wire": counts.get("wire"), "losses": trainer.history.losses}
    if way == "ddp":
        return result | {"expected_payload": {"summed": ledger.gradients}, "weights": ledger.weights}
    state = [t for p in trainer.parameters.values() for key, t in trainer.optimizer.state[p].items()]
    here = {
        "weights": sum(p.to_local().nbytes for p in model.parameters()),
        "optimizer": sum(t.to_local().nbytes if hasattr(t, "to_local") else t.nbytes for t in state),
    }
    batch = trainer.collate(rows[:1])
    transient = transient_peak(lambda: causal_lm_loss(trainer.model, batch).total.backward())
    return result | {
        "kept": here,
        "transient": transient,
        "expected": expected.entries() | {"gathered": expected.gathered},
        "ledger_of_one_process": ledger.entries(),
    }


def one_process(folder: Path) -> None:
    results: dict[str, dict] = {"ddp": {}, "fsdp": {}}
    dist.init_process_group("gloo")
    for way, table in results.items():
        for name in WITH[way]:
            config = WHAT_TRAINS[name]
            table[name] = a_run(config, way)
            gc.collect()
            if dist.get_rank() == 0:
                print(way, name, {key: value for key, value in table[name].items() if key != "losses"}, flush=True)
    if dist.get_rank() == 0:
        (folder / "results.json").write_text(json.dumps(results))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)]
        subprocess.run([sys.executable, "-m", *launch, __file__, folder], check=True)
        results = json.loads((Path(folder) / "results.json").read_text())
    for table in results.values():
        whole = table["full fine-tuning"]["sent"]
        for entry in table.values():
            entry["times_less_than_full"] = whole / entry["sent"]
    write("processes", {"processes": PROCESSES, "tokens": TOKENS, **results})


if __name__ == "__main__":
    one_process(Path(sys.argv[1])) if dist.is_torchelastic_launched() else main()
