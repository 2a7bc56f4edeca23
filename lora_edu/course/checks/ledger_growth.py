"""By how many bytes the ledger grows with the rank: small models, the right formula, and wrong ones by their bugs. Exercise 04.4."""

from collections.abc import Callable, Sequence
from functools import cache

from torch import nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.targets import plan
from lora_edu.training.memory.ledger import predict_memory, sketch

ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")

Shapes = Sequence[tuple[int, int]]


def tiny(lora: LoRAConfig | None, hidden: int = 16, mlp: int = 24, layers: int = 12) -> nn.Module:
    """A Llama's shapes without content. Twelve layers, so that the name of layer 1 is the beginning of layer 10's."""
    from transformers import LlamaConfig

    shape = LlamaConfig(
        vocab_size=32,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    return sketch(shape, lora)


@cache
def growths() -> list[tuple[tuple[Shapes, int, int, int], int]]:
    """(Shapes of the adapted matrices, tokens, the two ranks), and by how many bytes the ledger grows between these."""
    cases = list[tuple[tuple[Shapes, int, int, int], int]]()
    for names, hidden, layers, batch, length, ranks in (
        (("v_proj",), 16, 5, 2, 7, (1, 4)),  # 5 matrices of (8, 16)
        ((*ATTENTION, *MLP), 32, 3, 3, 5, (2, 8)),
        (("down_proj",), 16, 3, 1, 40, (3, 4)),
    ):
        configs = [LoRAConfig(r=r, target_modules=names) for r in ranks]
        before, after = (predict_memory(tiny(config, hidden, layers=layers), batch, length).total for config in configs)
        shapes = tuple(target.shape for target in plan(tiny(None, hidden, layers=layers), configs[0]))
        cases.append(((shapes, batch * length, *ranks), after - before))
    return cases


def _bytes(
    trained: float = 16, remembered: float = 4, numbers: Callable[[int, int], float] = lambda m, n: m + n
) -> Callable[[Shapes, int, int, int], float]:
    """A formula for the growth: bytes a number that trains, bytes a number of A x, and how many numbers train a direction."""
    return lambda shapes, tokens, a, b: (
        (b - a) * (trained * sum(numbers(m, n) for m, n in shapes) + remembered * tokens * len(shapes))
    )


GROWTH = _bytes()
GROWTH_BUGS: dict[str, Callable[[Shapes, int, int, int], float]] = {
    "what is remembered is forgotten": _bytes(remembered=0),
    "what trains is forgotten": _bytes(trained=0),
    "A x is counted once for all matrices": lambda s, t, a, b: GROWTH(s, t, a, b) - 4 * (b - a) * t * (len(s) - 1),
    "A x is counted once for all tokens": lambda s, t, a, b: GROWTH(s, t, a, b) - 4 * (b - a) * (t - 1) * len(s),
    "the four bytes of each number of A x are forgotten": _bytes(remembered=1),
    "A x is counted twice": _bytes(remembered=8),
    "AdamW keeps two numbers for each that trains": _bytes(trained=8),
    "four bytes a trained number are missing": _bytes(trained=12),
    "four bytes a trained number are too many": _bytes(trained=20),
    "an adapter pays for the sides, not for the area": _bytes(numbers=lambda m, n: m * n),
    "A is forgotten": _bytes(numbers=lambda m, n: m),
    "B is forgotten": _bytes(numbers=lambda m, n: n),
    "what is remembered is B's output, not A's": lambda s, t, a, b: (
        (b - a) * sum(16 * (m + n) + 4 * t * m for m, n in s)
    ),
    "only the optimiser is counted": _bytes(trained=8, remembered=0),
    "numbers, not bytes": _bytes(trained=1, remembered=0),
    "numbers, not bytes, of all four entries": _bytes(trained=4, remembered=1),
    "half of it": _bytes(trained=8, remembered=2),
    "the whole cost at the new rank, not the growth": lambda s, t, a, b: GROWTH(s, t, 0, b),
    "the ranks are the wrong way round": lambda s, t, a, b: GROWTH(s, t, b, a),
}
