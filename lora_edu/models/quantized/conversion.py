"""A model's linear layers to four bits, and back to dense ones. Chapter 11."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from lora_edu.errors import ModelError
from lora_edu.models.modules import unwrap
from lora_edu.models.quantized.linear import Quantization, QuantizedLinear

# Heads: their outputs are the answer itself, and their rounding would be seen at once.
HEADS = ("lm_head", "score", "classifier")


@dataclass(frozen=True)
class QuantizeReport:
    """What `quantize` did: matrices and their weights, the bytes they took and take, and {path: why} of linear layers left dense."""

    quantization: Quantization
    matrices: int
    parameters: int
    before: int
    after: int
    dense: Mapping[str, str]

    @property
    def bits(self) -> float:
        """Bits a weight, scales included, of the matrices that were rounded."""
        return 8 * self.after / self.parameters

    def __str__(self) -> str:
        lines = [
            f"{self.matrices} matrices of {self.parameters:,} weights to {self.quantization}: {self.before / 1e6:.1f} MB → "
            f"{self.after / 1e6:.1f} MB, {self.bits:.3f} bits a weight"
        ]
        lines += [f"dense: {path} ({why})" for path, why in list(self.dense.items())[:4]]
        return "\n".join(lines + ([f"… and {len(self.dense) - 4} more"] if len(self.dense) > 4 else []))


def quantize(
    model: nn.Module, quantization: Quantization | None = None, dense: Sequence[str] = HEADS
) -> QuantizeReport:
    """Put a `QuantizedLinear` in the place of the model's linear layers; in place. Chapter 11.

    As in QLoRA, what is no linear layer stays dense (embeddings, norms), and so does the output head. So do layers whose path ends in a
    name of `dense`, those that share their weight with another module, and those whose weight is not read by calling them. Adapters
    that are on the model stay on it.

    Raises ModelError, with the model as it was, where there is nothing to round, and for a model with merged adapters; ConfigError for
    weights that are not finite.
    """
    inner, how = unwrap(model), quantization or Quantization()
    if any(getattr(module, "merged", False) is True for module in inner.modules()):
        raise ModelError(
            "adapters are merged into this model, and could not be taken out of the rounded weights: unmerge(model) first, or "
            "unload(model) to keep the merged weights"
        )
    chosen, left = _sorted(inner, dense)
    if not chosen:
        reasons = "; ".join(f"{path}: {why}" for path, why in left.items())
        raise ModelError(f"there is no linear layer to round in this model{f' ({reasons})' if reasons else ''}")
    made = {id(linear): QuantizedLinear.from_dense(linear, how) for linear in dict.fromkeys(chosen.values())}
    once = {id(linear): linear for linear in chosen.values()}
    for path, linear in chosen.items():
        _put(inner, path, made[id(linear)])
    return QuantizeReport(
        how, len(made), sum(linear.weight.numel() for linear in once.values()),
        sum(linear.weight.nbytes for linear in once.values()), sum(map(layer_bytes, made.values())), left,
    )  # fmt: skip


def dequantize(model: nn.Module) -> nn.Module:
    """Put ordinary linear layers with the rounded weights in the place of the model's quantised ones; in place. Chapter 11.

    The numbers stay what four bits made of them, and take their full bytes again; adapters stay, and can be merged. Returns the same
    model. Raises ModelError for a model in which nothing is quantised.
    """
    inner = unwrap(model)
    found = {n: m for n, m in inner.named_modules(remove_duplicate=False) if isinstance(m, QuantizedLinear)}
    if not found:
        raise ModelError("nothing in this model is quantised")
    made: dict[int, nn.Linear] = {}
    for path, layer in found.items():
        if id(layer) not in made:
            linear = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
            linear.weight = nn.Parameter(layer.dequantized(), requires_grad=False)
            linear.bias = layer.bias
            made[id(layer)] = linear.train(layer.training)
        _put(inner, path, made[id(layer)])
    return model


# -- what a quantised model holds --------------------------------------------------------------------------------------
def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """{path: quantised layer}, in the model's order; {} for a dense model."""
    return {name: m for name, m in unwrap(model).named_modules() if isinstance(m, QuantizedLinear)}


def quantization_of(model: nn.Module) -> Quantization | None:
    """How the model's weights were rounded; None for a dense model. Of several ways the first."""
    return next((layer.quantization for layer in quantized_layers(model).values()), None)


def packed_bytes(model: nn.Module) -> int:
    """Bytes of all codes and scales, which are buffers and no parameters."""
    return sum(map(layer_bytes, quantized_layers(model).values()))


def packed_weights(model: nn.Module) -> int:
    """How many weights they stand for."""
    return sum(layer.in_features * layer.out_features for layer in quantized_layers(model).values())


def layer_bytes(layer: QuantizedLinear) -> int:
    """Bytes of one layer's codes and scales."""
    return sum(buffer.nbytes for buffer in layer._buffers.values() if buffer is not None)


# -- which layers ------------------------------------------------------------------------------------------------------
def _sorted(model: Any, dense: Sequence[str]) -> tuple[dict[str, nn.Linear], dict[str, str]]:
    """({path: layer to round}, {path: why a linear layer stays dense})."""
    owners: dict[int, set[int]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), set()).add(id(model.get_submodule(name.rpartition(".")[0])))
    head = getattr(model, "get_output_embeddings", lambda: None)()
    head = getattr(head, "base_layer", head)
    chosen: dict[str, nn.Linear] = {}
    left: dict[str, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if type(module).__name__ == "Conv1D":
            left[path] = "GPT-2's Conv1D, which is not rounded here"
        if not isinstance(module, nn.Linear) or isinstance(module, QuantizedLinear):
            continue
        plain = path.removesuffix(".base_layer")
        if ".lora_" in f".{path}" or ".copies." in f".{path}.":
            continue
        if module is head:
            left[plain] = "the output head"
        elif (name := plain.rpartition(".")[2]) in dense or plain in dense:
            left[plain] = f"{name} is to stay dense"
        elif type(module).forward is not nn.Linear.forward or parametrize.is_parametrized(module):
            left[plain] = "it has a forward or a weight of its own"
        elif "forward" in module.__dict__ or module._forward_hooks or module._forward_pre_hooks:
            left[plain] = "something listens to it"
        elif type(model.get_submodule(path.rpartition(".")[0])) is nn.MultiheadAttention:
            left[plain] = "nn.MultiheadAttention reads its weight without calling it"
        elif len(owners.get(id(module.weight), ())) > 1:
            left[plain] = "it shares its weight with another module"
        elif not module.weight.is_floating_point() or hasattr(module.weight, "quant_state"):
            left[plain] = "it is quantised already, by something else"
        else:
            chosen[path] = module
    return chosen, left


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)
