"""What a model can read: how many tokens its table holds, and how many positions. Chapter 05."""

from typing import Any, NamedTuple

from torch import nn


class Limits(NamedTuple):
    """How many tokens a model's table holds, and how many positions: a table's length (`learnt`), or what it was made for. None: unknown."""

    tokens: int | None
    positions: int | None
    learnt: bool


def limits_of(model: nn.Module) -> Limits:
    """Read off the model itself; a model of another kind than transformers' has none."""
    find: Any = getattr(model, "get_input_embeddings", None)
    try:
        table: Any = find() if find else None
    except NotImplementedError:
        table = None
    for inner in ("base_layer", "original_module"):  # under an adapter, or trained in full
        table = getattr(table, inner, table)
    tokens = getattr(table, "num_embeddings", None)
    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        if isinstance(module, nn.Embedding) and ("pos" in last or last == "wpe"):
            # Where there is a padding position (RoBERTa's kind), counting begins behind it.
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1
            return Limits(tokens, module.num_embeddings - reserved, True)
    return Limits(tokens, getattr(getattr(model, "config", None), "max_position_embeddings", None), False)
