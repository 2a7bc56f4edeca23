"""Several processes that train one model: how it is spread over them, and what they must agree upon. Chapter 14.

Processes are started by `torchrun` or `accelerate launch`, which watch over them; torch moves the numbers. What is used where:

- DDP, each process with a whole model: accelerate wraps it, on GPUs (NCCL) and on CPUs (gloo, which accelerate wants told: cpu=True).
- FSDP2, each process with a part of every weight. Either the caller calls torch's own `fully_shard` on the model, on GPUs or CPUs,
  and hands it to the Trainer; or, on GPUs, `accelerate launch --use_fsdp --fsdp_version 2`, whose settings then hold. On a CPU
  accelerate turns its FSDP setting into DDP without a word, so there only the first way shards.

Every process has the same examples and works out the same plan; of each micro-batch's rows process k of N takes the k-th and every
N-th after it. So the batch size is that of all processes together, and no row is dropped or seen twice, whatever N is.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, fsdp2_prepare_model
from torch import Tensor, nn

from lora_edu.errors import TrainingError
from lora_edu.models.device import default_device
from lora_edu.models.sharded import has_shards, whole

T = TypeVar("T")
# How long a process waits for the others before it takes them for dead. One that was killed is noticed at once on a CPU.
PATIENCE = timedelta(minutes=10)


def new_accelerator() -> Accelerator:
    """The device, and the other processes where a launcher started several. A process group that is there already is kept."""
    # On a CPU accelerate sees several processes only if told so.
    return Accelerator(cpu=default_device().type == "cpu", kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])


def distribute(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """The model as its forward is to be called: sharded already, sharded here as accelerate's settings say, or wrapped in DDP.

    DDP takes the first process's adapters; before `fully_shard` all processes must draw the same ones (torch.manual_seed).
    Raises TrainingError where accelerate would not do what its FSDP settings say.
    """
    if has_shards(model):
        return model
    if accelerator.is_fsdp2:
        return fsdp2_prepare_model(accelerator, model)
    if os.environ.get("ACCELERATE_USE_FSDP", "false") == "true" and accelerator.num_processes > 1:
        raise TrainingError(
            "accelerate shards on GPUs only: on CPUs call torch's fully_shard on the model and start with torchrun."
            if accelerator.device.type == "cpu"
            else "FSDP is used in its version 2, which lets adapters train beside frozen weights: --use_fsdp --fsdp_version 2."
        )
    return accelerator.prepare_model(model)


def of_the_first(value: T) -> T:
    """The first process's value, in all processes. (A measured choice may differ between them; a run needs one.)"""
    [value] = broadcast_object_list([value])
    return value


def any_process(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """For each flag whether it is up in any process; all processes get the same answer."""
    if accelerator.num_processes == 1:
        return list(flags)
    votes = torch.tensor([float(flag) for flag in flags], device=accelerator.device)
    return [bool(vote > 0) for vote in accelerator.reduce(votes, reduction="sum")]


def gathered(accelerator: Accelerator, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whole, in the first process's main memory; {} in the others. One is gathered after the other."""
    kept = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())  # all processes take part
        if accelerator.is_main_process:
            kept[name] = full.cpu()
    return kept
