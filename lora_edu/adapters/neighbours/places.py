"""Where the neighbours go when nobody says so: the parts of a block that their papers name, by the names that models give them. Chapter 12."""

from typing import NamedTuple

from torch import nn

from lora_edu.adapters.patterns import matches
from lora_edu.adapters.targets import adaptable_tree
from lora_edu.errors import TargetError


class Block(NamedTuple):
    """Ends of names: what makes keys and values (with queries, where all are one matrix), and the last matrix of either half."""

    keys_values: tuple[str, ...]
    attention: str
    mlp: str


_BLOCKS = (
    Block(("k_proj", "v_proj"), "o_proj", "down_proj"),  # Llama, and most of today's decoders
    Block(("c_attn",), "attn.c_proj", "mlp.c_proj"),  # GPT-2
    Block(("k_proj", "v_proj"), "out_proj", "fc2"),  # OPT
    Block(("query_key_value",), "attention.dense", "dense_4h_to_h"),  # GPT-NeoX
)


def block_of(model: nn.Module, what: str) -> Block:
    """The block's parts in `model`; `what` is looked for. Raises TargetError where they have no known names."""
    paths = [path for path, _ in adaptable_tree(model)]
    for block in _BLOCKS:
        names = (*block.keys_values, block.attention, block.mlp)
        if all(any(matches((name,), path) for path in paths) for name in names):
            return block
    ends = sorted({path.rsplit(".", 1)[-1] for path, module in adaptable_tree(model) if isinstance(module, nn.Linear)})
    raise TargetError(
        f"where {what} stand is not known of {type(model).__name__}: name them in target_modules; its linear layers end in "
        f"{', '.join(ends[:12]) or 'nothing'}"
    )
