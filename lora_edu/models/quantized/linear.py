"""A frozen linear layer that holds packed four-bit codes, and no dense weight beside them. Chapter 11."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from lora_edu.errors import ModelError
from lora_edu.models.quantized import kernels
from lora_edu.models.quantized.blockwise import check_block_size, quantize_blockwise, scale_blocks_
from lora_edu.models.quantized.codebooks import codebook, pairs
from lora_edu.models.quantized.packing import pack_codes
from lora_edu.models.quantized.scales import SCALES_A_BLOCK, Scales, double_dequantize, double_quantize


@dataclass(frozen=True)
class Quantization:
    """How weights are rounded to four bits. Source: Dettmers et al. 2023 (QLoRA), arXiv:2305.14314. Chapter 11.

    kind: "nf4" or "int4". block_size: so many weights share a scale. double: the scales are rounded to eight bits.
    Raises ConfigError for another kind, or a block size below 1.
    """

    kind: str = "nf4"
    block_size: int = 64
    double: bool = True

    def __post_init__(self) -> None:
        codebook(self.kind)
        check_block_size(self.block_size)

    @property
    def bits(self) -> float:
        """Bits a weight, scales included, of a large matrix: 4 + 32/block, or 4 + 8/block + 32/(256·block)."""
        scale = 8 + 32 / SCALES_A_BLOCK if self.double else 32
        return 4 + scale / self.block_size

    def to_json(self) -> str:
        """As a line of text, for a file's own metadata."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | None) -> "Quantization | None":
        """What `to_json` wrote; None for no text, or one that means nothing here."""
        try:
            return cls(**json.loads(text)) if text else None
        except (ValueError, TypeError):
            return None

    def __str__(self) -> str:
        return f"{self.kind} in blocks of {self.block_size}{', double quantisation' if self.double else ''}"


class QuantizedLinear(nn.Linear):
    """y = x Wᵀ + b whose W (out, in) is kept as packed codes and scales, made dense for each call and dropped again. Chapter 11.

    It computes, bit for bit, what `nn.Linear` with the dequantised weight computes, and takes and gives the same types. W is frozen: a
    gradient reaches x (and b, where it trains), and nothing dense is kept for the backward pass, which makes W once more.

    Its buffers, by which it is saved: `nf4_codes` (or `int4_codes`) (⌈out·in/2⌉,) uint8; `absmax`, float32, or with double
    quantisation uint8, then with `outer_absmax` and `offset`, float32. They stay in these types when the model is cast, and `dtype`,
    the type in which W is made dense, changes instead. `weight` is a fresh dense copy: writing into it changes nothing.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        quantization: Quantization | None = None,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> None:
        nn.Module.__init__(self)  # not nn.Linear's, which would make the dense weight
        self.in_features, self.out_features = in_features, out_features
        self.quantization = how = quantization or Quantization()
        self.dtype = dtype or torch.get_default_dtype()
        blocks = -(-in_features * out_features // how.block_size)

        def empty(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> None:
            self.register_buffer(name, torch.zeros(shape, dtype=dtype, device=device))

        empty(self._codes, (in_features * out_features + 1) // 2, dtype=torch.uint8)
        empty("absmax", blocks, dtype=torch.uint8 if how.double else torch.float32)
        if how.double:
            empty("outer_absmax", -(-blocks // SCALES_A_BLOCK))
            empty("offset")
        made = torch.zeros(out_features, dtype=self.dtype, device=device) if bias else None
        self.register_parameter("bias", None if made is None else nn.Parameter(made, requires_grad=False))

    @classmethod
    def from_dense(cls, linear: nn.Linear, quantization: Quantization | None = None) -> "QuantizedLinear":
        """The layer that holds `linear`'s weight rounded, and its bias as it is (the same tensor)."""
        weight = linear.weight
        made = cls(
            linear.in_features, linear.out_features, False, quantization, dtype=weight.dtype, device=weight.device
        )
        if not weight.is_meta:
            made.put(weight)
        made.bias = linear.bias
        return made.train(linear.training)

    @torch.no_grad()
    def put(self, weight: Tensor) -> None:
        """Round `weight` (out, in) into this layer's buffers. Raises ConfigError for values that are not finite."""
        codes, absmax = quantize_blockwise(weight, codebook(self.quantization.kind, weight.device), self._block)
        setattr(self, self._codes, pack_codes(codes))
        if self.quantization.double:
            self.absmax, self.outer_absmax, self.offset = double_quantize(absmax)
        else:
            self.absmax = absmax

    @property
    def _codes(self) -> str:
        # Kind in the name: a file of one kind does not load as the other in silence.
        return f"{self.quantization.kind}_codes"

    @property
    def _block(self) -> int:
        return self.quantization.block_size

    @property
    def codes(self) -> Tensor:
        """The packed codes (⌈out·in/2⌉,), uint8."""
        return getattr(self, self._codes)

    @property
    def device(self) -> torch.device:
        return self.codes.device

    @property
    def weight(self) -> Tensor:
        """W (out, in) made dense anew at every read; what is written into it is lost."""
        return self.dequantized()

    @weight.setter
    def weight(self, value: Any) -> None:
        raise ModelError("a quantised layer's weight cannot be replaced: dequantize(model) first, or layer.put(weight)")

    @torch.no_grad()
    def dequantized(self, dtype: torch.dtype | None = None) -> Tensor:
        """W (out, in) = codebook[codes] · absmax, worked out in float32 and rounded once to `dtype` (the layer's, if not given)."""
        absmax = self.absmax
        if self.quantization.double:
            absmax = double_dequantize(Scales(self.absmax, self.outer_absmax, self.offset))
        shape, dtype = (self.out_features, self.in_features), dtype or self.dtype
        if kernels.applies(self.codes, self.quantization.kind, self._block):
            return kernels.dense(self.codes, absmax, self._block, shape, dtype)
        table = pairs(self.quantization.kind, self.device)  # (256, 2)
        values = torch.index_select(table, 0, self.codes.int()).view(-1)[: shape[0] * shape[1]]
        return scale_blocks_(values, absmax, self._block).view(shape).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) → (..., out)."""
        return _Product.apply(x, self.bias, self, self.dtype, False)

    def _apply(self, fn, recurse=True):
        """`.to(device)` moves the buffers; `.to(dtype)` must not round the scales, and changes the type of the dense weight instead."""
        kept = {name: buffer.dtype for name, buffer in self._buffers.items() if buffer is not None}
        before = dict(self._buffers)
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.device)).dtype
        super()._apply(fn, recurse)
        for name, dtype in kept.items():
            buffer, old = self._buffers[name], before[name]
            if buffer is not None and old is not None and buffer.dtype != dtype:
                self._buffers[name] = old.to(buffer.device)
        return self

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, {self.quantization}"


def is_quantized(module: Any) -> bool:
    """Whether a layer's weight is packed: by this module's own layer, by bitsandbytes', or as whole numbers of any other kind."""
    if isinstance(module, QuantizedLinear):
        return True
    weight = module.weight
    return hasattr(weight, "quant_state") or not weight.is_floating_point()


class _Product(Function):
    """x Wᵀ + b, or x W (`back`). Its backward pass is the same step the other way round, so that it can be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, bias: Tensor | None, layer: QuantizedLinear, dtype: torch.dtype, back: bool) -> Tensor:
        W = layer.dequantized(dtype)
        return x @ W if back else F.linear(x, W, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, bias, ctx.layer, _, ctx.back = inputs
        ctx.x_dtype, ctx.bias_dtype = x.dtype, None if bias is None else bias.dtype

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        dx = dbias = None
        if ctx.needs_input_grad[0]:
            dx = _Product.apply(dy, None, ctx.layer, dy.dtype, not ctx.back).to(ctx.x_dtype)
        if ctx.needs_input_grad[1]:
            dbias = dy.reshape(-1, dy.shape[-1]).sum(0).to(ctx.bias_dtype)
        return dx, dbias, None, None, None

    @staticmethod
    def jvp(ctx: Any, dx: Any, dbias: Any, *_: Any) -> Any:
        dy = 0 if dx is None else _Product.apply(dx, None, ctx.layer, dx.dtype, ctx.back)
        return dy if dbias is None else dy + dbias
