"""The random generators of Python, NumPy and torch: their states as plain tensors and values. Chapter 05."""

import random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class State(NamedTuple):
    """Tensors by name, and plain JSON values."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def capture_rng() -> State:
    """The states of Python's, NumPy's and torch's generators (CPU, CUDA, MPS)."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    tensors = {
        "python": torch.tensor(words, dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "cpu": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        tensors |= {f"cuda{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    if torch.backends.mps.is_available():
        tensors["mps"] = torch.mps.get_rng_state()
    return State(tensors, {"python": [version, gauss], "numpy": [kind, position, has_gauss, cached]})


def restore_rng(state: State) -> None:
    """The inverse of `capture_rng`; the states of devices that are not here are left out."""
    tensors, values = state
    version, gauss = values["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    kind, position, has_gauss, cached = values["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["cpu"])
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            if f"cuda{i}" in tensors:
                torch.cuda.set_rng_state(tensors[f"cuda{i}"], i)
    if torch.backends.mps.is_available() and "mps" in tensors:
        torch.mps.set_rng_state(tensors["mps"])
