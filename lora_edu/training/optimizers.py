"""What the optimiser is given, and which it is: AdamW over one group, or LoRA+'s groups; LoRA-FA; GaLore. Chapters 08 and 10.

A group's rate is a multiple of the run's, so that a schedule, and a callback that changes the peak, move all groups alike.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.errors import TrainingError
from lora_edu.training.config import TrainConfig
from lora_edu.training.galore import GaLore

TIMES = "times"  # key of a group: its learning rate as a multiple of the run's


def new_optimizer(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], config: TrainConfig
) -> torch.optim.Optimizer:
    """The config's optimiser over `parameters` (what trains in `model`, by name), with LoRA+'s groups if it has a `loraplus_lr_ratio`."""
    if config.loraplus_lr_ratio is None:
        groups = [{"params": list(parameters.values()), "weight_decay": config.weight_decay, TIMES: 1.0}]
    else:
        groups = loraplus_groups(
            model,
            parameters,
            learning_rate=config.learning_rate,
            ratio=config.loraplus_lr_ratio,
            embedding=config.loraplus_lr_embedding,
            weight_decay=config.weight_decay,
        )
    optimizer: torch.optim.Optimizer
    if config.optimizer == "galore":
        optimizer = GaLore(
            groups,
            rank=config.galore_rank,
            every=config.galore_every,
            scale=config.galore_scale,
            lr=config.learning_rate,
        )
    elif config.optimizer == "lorafa":
        optimizer = LoRAFA(groups, lorafa_projections(model), lr=config.learning_rate)
    else:
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
    set_rate(optimizer, config.learning_rate)
    return optimizer


def state_like(optimizer: torch.optim.Optimizer, p: nn.Parameter) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """{key: (dtype, shape)} of what the optimiser keeps of `p` from its first step on."""
    if isinstance(optimizer, GaLore):
        return optimizer.state_like(p)
    moment = p.dtype, tuple(p.shape)
    return {"exp_avg": moment, "exp_avg_sq": moment, "step": (torch.float32, ())}


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives each group its multiple of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[TIMES]


def loraplus_groups(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    *,
    learning_rate: float,
    ratio: float,
    embedding: float = 1e-6,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """LoRA+: lr_A = learning_rate, lr_B = ratio · learning_rate. A list of groups {params, weight_decay, times}; no group is empty.

    The groups are those of PEFT's `create_loraplus_optimizer`. With A go all matrices that are no factor (modules trained in full);
    with B go all vectors: biases, norms, magnitudes. Adapters at an embedding, both factors, get the rate `embedding`, which is PEFT's 1e-6 and
    a thousand times less than usual: give a larger one to train them. Biases and LayerNorm's weights do not decay; other norms' weights do.

    parameters: what trains, by its name in `model`. Raises TrainingError when no B is among it: then there is nothing to divide.
    Source: Hayou, Ghosh and Yu 2024, LoRA+ (arXiv 2402.12354), §4; PEFT. Chapter 08.
    """
    if not any("lora_B" in name for name in parameters):
        raise TrainingError(
            "LoRA+ gives B another learning rate than A, and no factor B trains here: inject an adapter, or leave loraplus_lr_ratio out."
        )
    a: list[nn.Parameter] = []
    at_embedding: list[nn.Parameter] = []
    b: list[nn.Parameter] = []
    b_undecayed: list[nn.Parameter] = []
    for name, p in parameters.items():
        owner = model.get_submodule(name.rpartition(".")[0])
        if "lora_embedding_" in name:
            at_embedding.append(p)
        elif "lora_B" not in name and p.ndim != 1:
            a.append(p)
        elif "bias" in name or isinstance(owner, nn.LayerNorm):
            b_undecayed.append(p)
        else:
            b.append(p)
    groups = (
        (a, 1.0, weight_decay),
        (at_embedding, embedding / learning_rate, weight_decay),
        (b, ratio, weight_decay),
        (b_undecayed, ratio, 0.0),
    )
    return [{"params": ps, TIMES: times, "weight_decay": decay} for ps, times, decay in groups if ps]


# -- LoRA-FA -----------------------------------------------------------------------------------------------------------
class LoRAFA(torch.optim.AdamW):
    """AdamW over B alone, on the gradient g_B (s² A Aᵀ)⁻¹. Make it with `new_optimizer`; `freeze_for` freezes A before. Chapter 10.

    Of all changes of B, this one moves ΔW = s·B A nearest to the full matrix's gradient G: it minimises ‖s·X A − G‖_F, and
    g_B = s·G Aᵀ is what backpropagation gives. A never changes, so the (in)-wide inputs need not be kept, only A x (r numbers a token).

    Source: Zhang, Zhang, Shi, Chu and Li 2023, LoRA-FA (arXiv 2308.03303); the projection is that of PEFT's `LoraFAOptimizer`, which adds
    1e-8 to A Aᵀ's diagonal, as here. PEFT's AdamW differs from torch's, which is used here: its ε counts before the bias correction, its
    weights decay after the step; and it rounds the projection to bf16 where the weights are float32.
    """

    def __init__(self, groups: Any, projections: Mapping[nn.Parameter, Tensor], **defaults: Any) -> None:
        super().__init__(groups, **defaults)
        self._projections = dict(projections)  # B → (s² A Aᵀ)⁻¹ (r, r): constant, as A is

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; each B's `.grad` is then the projected one."""
        for B, projection in self._projections.items():
            if B.grad is not None:
                B.grad.copy_(B.grad @ projection)  # (out, r)
        return super().step(closure)


def freeze_for(model: nn.Module, config: TrainConfig) -> None:
    """Before what trains is listed: under LoRA-FA every A stops training.

    Raises TrainingError where LoRA-FA cannot be: without an adapter that trains, for a variant, at an embedding (A starts at 0 there).
    """
    if config.optimizer == "lorafa":
        for A, _, _ in _lorafa_factors(model):
            A.requires_grad_(False)


def lorafa_projections(model: nn.Module) -> dict[nn.Parameter, Tensor]:
    """{B: (s² A Aᵀ)⁻¹ (r, r)} of every adapter that trains."""
    found = {}
    for A, B, s in _lorafa_factors(model):
        gram = A.detach() @ A.detach().T  # (r, r)
        found[B] = torch.linalg.pinv(gram + 1e-8 * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)) / s**2
    return found


def _lorafa_factors(model: nn.Module) -> list[tuple[nn.Parameter, nn.Parameter, float]]:
    """(A, B, s) of every adapter whose B trains."""
    found = []
    for path, module in model.named_modules():
        for factor, held in getattr(module, "named_children", dict)():
            if factor not in ("lora_B", "lora_embedding_B") or not isinstance(held, nn.ParameterDict):
                continue
            for name in (n for n, p in held.items() if p.requires_grad):
                layer: Any = module
                if name in layer.variants or factor != "lora_B":
                    what = (
                        type(layer.variants[name]).__name__
                        if name in layer.variants
                        else "an embedding's A, which starts at 0,"
                    )
                    raise TrainingError(
                        f'LoRA-FA freezes A and projects the gradient of s·B A; {what} at {path} is not that: use optimizer="adamw".'
                    )
                if type(held[name]) is not nn.Parameter:
                    raise TrainingError("LoRA-FA does not know sharded weights: run it in one process, or with copies.")
                found.append((layer.tensor("lora_A", name), held[name], layer.scalings[name]))
    if not found:
        raise TrainingError("LoRA-FA trains B of an adapter, and none trains here: inject an adapter first.")
    return found
