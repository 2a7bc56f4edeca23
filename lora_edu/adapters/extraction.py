"""An adapter out of two full models: the base W₀ and one that was trained from it, W′. Chapter 07.

ΔW = W′ − W₀ of each matrix, cut to a rank or to a share of its energy (Eckart and Young 1936). A full fine-tuning moves more than an
adapter of small rank can hold, and more than matrices: what is lost is measured, and what lies outside the targets is named.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.factors import Factors, balanced, check_size, size_for, uniform
from lora_edu.adapters.finding import adapter_names, base_buffers, state_of
from lora_edu.adapters.injection import check_name, install
from lora_edu.adapters.keys import PREFIX, base_by_key
from lora_edu.adapters.layer import DEFAULT, AdapterState
from lora_edu.adapters.switching import refuse_merged
from lora_edu.adapters.targets import Target, plan
from lora_edu.errors import AdapterError, ConfigError
from lora_edu.linalg import leading_svd
from lora_edu.models.modules import unwrap


@dataclass(frozen=True)
class LayerExtract:
    """One matrix: the adapter's rank, ‖ΔW‖_F² of W′ − W₀ and of what the adapter holds of it, and ‖W₀‖_F²."""

    rank: int
    total: float
    kept: float
    base: float

    @property
    def energy(self) -> float:
        """The share of ‖W′ − W₀‖_F² that the adapter holds."""
        return self.kept / self.total

    @property
    def size(self) -> float:
        """‖W′ − W₀‖_F / ‖W₀‖_F."""
        return (self.total / self.base) ** 0.5 if self.base else float("inf")


@dataclass(frozen=True)
class ExtractReport:
    """What an extraction holds, and what it does not."""

    adapter: str
    layers: dict[str, LayerExtract]
    left_out: dict[str, float]  # {tensor: ‖W′ − W₀‖_F / ‖W₀‖_F} of what differs and is in no target
    settings: dict[str, tuple[Any, Any]]  # {key: (base's, tuned's)} where the two configurations differ in arithmetic

    @property
    def energy(self) -> float:
        """The share of ‖W′ − W₀‖_F², summed over the adapted matrices, that the adapter holds."""
        return sum(layer.kept for layer in self.layers.values()) / sum(layer.total for layer in self.layers.values())

    def __str__(self) -> str:
        ranks = sorted(layer.rank for layer in self.layers.values())
        rank = str(ranks[0]) if ranks[0] == ranks[-1] else f"{ranks[0]}–{ranks[-1]}"
        lines = [f"{self.adapter}: rank {rank} in {len(self.layers)} matrices, {self.energy:.2%} of ‖W′ − W₀‖² held"]
        if self.left_out:
            largest = sorted(self.left_out, key=lambda name: -self.left_out[name])
            shown = ", ".join(f"{name} (by {self.left_out[name]:.2%})" for name in largest[:4])
            more = f" and {len(largest) - 4} more" if len(largest) > 4 else ""
            lines.append(f"left out, though it differs: {shown}{more}")
        if self.settings:
            lines.append(f"the configurations differ too: {', '.join(self.settings)}")
        return "\n".join(lines)


@torch.no_grad()
def extract(
    base: nn.Module,
    tuned: nn.Module,
    rank: int | None = None,
    *,
    energy: float | None = None,
    targets: str | tuple[str, ...] | list[str] = "all-linear",
    name: str = DEFAULT,
) -> ExtractReport:
    """Put an adapter on `base`, in place and active, whose ΔW is nearest to `tuned` − `base` in every target. Chapter 07.

    Of each matrix W′ − W₀ (out, in), one at a time, the `rank` largest singular triplets, or as many as keep the share `energy` of its
    ‖·‖_F². α = r, so s = 1, and both factors of equal length. `targets` are LoRAConfig's target_modules; a target that does not differ
    gets no adapter. The adapter does not train; `save(base, folder, name)` writes it.

    What differs elsewhere (norms, biases, embeddings, an output head) is in the report's `left_out`, by how much: the adapter does not
    have it. `tuned` is not changed, may lie on another device and have another dtype; where it was rounded to half precision and the
    base was not, the difference is largely that rounding, which has no low rank: a warning says so.

    Raises AdapterError, with `base` as it was, for models of other names or shapes (a grown vocabulary, another architecture), a tuned
    model with adapters still in it, values that are not finite, and two models that do not differ in any target; ConfigError for no
    size or an impossible one. Source of the cut: Eckart and Young 1936.
    """
    base, tuned = unwrap(base), unwrap(tuned)
    check_size(rank, energy)
    if names := adapter_names(tuned):
        raise AdapterError(
            f"the tuned model has the adapter {', '.join(names)} in it: save that, or merge and unload it to extract from the sum"
        )
    state = state_of(base) if adapter_names(base) else AdapterState()
    check_name(state, name)
    refuse_merged(state)
    config = LoRAConfig(r=1, target_modules=targets if isinstance(targets, str) else tuple(targets))
    chosen = {target.name: target for target in plan(base, config)}
    if rank is not None and rank > (most := max(min(target.shape) for target in chosen.values())):
        raise ConfigError(f"rank={rank}: no update here has a rank above {most}")
    old, new = _tensors(base), _tensors(tuned)
    _compare_names(old, new)
    made: dict[str, tuple[Factors, LayerExtract]] = {}
    left_out: dict[str, float] = {}
    roundings = _Roundings()
    for key, before in old.items():
        path = key.removesuffix(".weight")
        target = chosen.get(path) if key.endswith(".weight") else None
        difference = _difference(key, before, new[key])
        total = float(difference.double().square().sum())
        if not total:
            continue
        weight = float(before.double().square().sum())
        if target is None:
            left_out[key] = (total / weight) ** 0.5 if weight else float("inf")
            continue
        roundings.add(before, new[key], total)
        made[path] = _cut(target, difference, rank, energy, total, weight)
    if not made:
        raise AdapterError(
            f"the two models do not differ in any of the {len(chosen)} targets"
            + (f"; they differ in {', '.join(list(left_out)[:4])}: name these as targets" if left_out else "")
        )
    roundings.warn()
    ranks = {path: report.rank for path, (_, report) in made.items()}
    config = uniform(LoRAConfig(target_modules=tuple(ranks)), ranks)
    plain = [Target(t.name, t.kind, t.shape, r, r) for path, r in ranks.items() for t in (chosen[path],)]
    install(base, config, name, plain, [], empty=True)
    for path, (factors, _) in made.items():
        layer: Any = base.get_submodule(path)
        for held, value in zip(layer.factors, factors, strict=True):
            held[name].copy_(value)
            held[name].requires_grad_(False)
    return ExtractReport(name, {path: report for path, (_, report) in made.items()}, left_out, _settings(base, tuned))


def _cut(
    target: Target, difference: Tensor, rank: int | None, energy: float | None, total: float, weight: float
) -> tuple[Factors, LayerExtract]:
    matrix = difference.T if target.kind in ("conv1d", "embedding") else difference.reshape(target.shape)  # (out, in)
    U, S, Vh = leading_svd(matrix, rank if rank is None else min(rank, *matrix.shape))
    k = size_for(S, target.shape, rank, energy)
    kept = float(
        S[:k].double().square().sum()
    )  # what U holds of the matrix, whether it is the best of that rank or nearly
    return balanced(U[:, :k], S[:k], Vh[:k]), LayerExtract(k, total, min(kept, total), weight)


# -- the two models ----------------------------------------------------------------------------------------------------
def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """{name: tensor} of all that a saved model holds; a tied weight under each of its names."""
    found = {key.removeprefix(PREFIX): tensor.detach() for key, tensor in base_by_key(model).items()}
    return found | dict(base_buffers(model))


def _compare_names(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
    faults = []
    for what, names in (
        ("the base alone has", old.keys() - new.keys()),
        ("the tuned model alone has", new.keys() - old.keys()),
    ):
        if names:
            faults.append(
                f"{what} {', '.join(sorted(names)[:4])}" + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            )
    for name in old.keys() & new.keys():
        if old[name].shape != new[name].shape:
            grown = (
                "; a vocabulary that grew: resize the base's embeddings to it first"
                if old[name].shape[1:] == new[name].shape[1:]
                else ""
            )
            faults.append(
                f"{name} is {tuple(old[name].shape)} in the base and {tuple(new[name].shape)} in the tuned model{grown}"
            )
        elif not old[name].is_floating_point() and not torch.equal(old[name], new[name].to(old[name].device)):
            faults.append(
                f"{name} holds {old[name].dtype} values that differ (a quantised weight?): load both in full precision"
            )
    if faults:
        listed = faults[:6] + ([f"… and {len(faults) - 6} more"] if len(faults) > 6 else [])
        raise AdapterError("these are not two states of one model:\n  " + "\n  ".join(listed))


def _difference(name: str, before: Tensor, after: Tensor) -> Tensor:
    kind = torch.promote_types(torch.promote_types(before.dtype, after.dtype), torch.float32)
    difference = after.to(before.device, kind) - before.to(kind)
    if not bool(torch.isfinite(difference).all()):
        raise AdapterError(f"{name} holds values that are not finite, in one of the two models")
    return difference


class _Roundings:
    """Whether the tuned weights were rounded to half precision and the base's were not, and how much of the difference that is."""

    def __init__(self) -> None:
        self.noise = {torch.bfloat16: 0.0, torch.float16: 0.0}
        self.total = 0.0

    def add(self, before: Tensor, after: Tensor, total: float) -> None:
        self.total += total
        for kind in list(self.noise):
            if torch.equal(after.to(kind).to(after.dtype), after):
                self.noise[kind] += float((before.to(kind).double() - before.double()).square().sum())
            else:
                del self.noise[kind]

    def warn(self) -> None:
        for kind, noise in self.noise.items():
            if noise > 0.1 * self.total:
                warnings.warn(
                    f"the tuned model was rounded to {kind} and the base was not: about {min(1.0, noise / self.total):.0%} of ‖W′ − W₀‖² is "
                    "that rounding, which no small rank holds. Extract from what was saved in full precision, or ask for a rank and "
                    "not for an energy",
                    stacklevel=3,
                )
                return


# What a configuration says of the file or of how it is used, and not of the arithmetic.
_OF_THE_FILE = {
    "_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "bos_token_id", "eos_token_id",
    "pad_token_id", "id2label", "label2id", "tie_word_embeddings", "output_attentions", "output_hidden_states", "return_dict",
}  # fmt: skip


def _settings(base: Any, tuned: Any) -> dict[str, tuple[Any, Any]]:
    """Where the configurations of two transformers models differ: a stretched rope is in no tensor."""
    old, new = (
        model.config.to_dict() if hasattr(getattr(model, "config", None), "to_dict") else {} for model in (base, tuned)
    )
    return {
        key: (old.get(key), new.get(key))
        for key in sorted((old.keys() | new.keys()) - _OF_THE_FILE)
        if old.get(key) != new.get(key)
    }
