"""Instruments: what to read beside the loss curve, as functions of a model and as one callback that offers them all. Chapter 06.

The loss says whether something is learnt; these say what trains, whether W₀ stayed as it was, what flows back, and how far the
adapter has moved. Every reading is made of plain JSON values.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable
from html import escape
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.adapters.finding import lora_layers
from lora_edu.adapters.identity import fingerprint
from lora_edu.adapters.injection import audit
from lora_edu.errors import ConfigError
from lora_edu.models.modules import modes, unwrap
from lora_edu.tables import html_table, text_table
from lora_edu.training.callbacks import Callback, History, Record
from lora_edu.training.context import own_rng

# --- one model, now ---------------------------------------------------------------------------------------------------


def trained_names(model: nn.Module) -> list[str]:
    """The names of all parameters that train, in the model's order. Law 3 says which they must be. Chapters 04 and 06."""
    return list(audit(model).names)


def norm_of_product(B: Tensor, A: Tensor) -> float:
    """‖B A‖_F of B (out, r) and A (r, in), without the (out, in) matrix: ‖BA‖² = Σᵢⱼ (BᵀB)ᵢⱼ (AAᵀ)ᵢⱼ. Chapter 06.

    r²·(out + in) multiplications in place of r·out·in, in float64: the terms of the sum have both signs.
    """
    A, B = A.detach().double(), B.detach().double()
    # Two (r, r) matrices. The sum is a square, but rounding can leave a tiny negative number where BA is all but zero.
    return math.sqrt(max(0.0, float(((B.T @ B) * (A @ A.T)).sum())))


def factor_norms(model: nn.Module) -> dict[str, float]:
    """‖A‖, ‖B‖ and ‖ΔW‖ = s·‖B A‖ of all adapters in the model together: the root of the sum of squares. Chapter 06.

    "A" and "B" are the first and the second factor of each layer (an embedding's start the other way round: A = 0).
    """
    squares = {"norm_A": 0.0, "norm_B": 0.0, "norm_delta_W": 0.0}
    for layer in lora_layers(model).values():
        As, Bs = layer.factors
        for name, s in layer.scalings.items():  # every adapter of the layer, also one that is switched off
            for key, factors in (("norm_A", As), ("norm_B", Bs)):
                squares[key] += float(factors[name].detach().double().square().sum()) if name in factors else 0.0
            if name not in layer.variants:
                squares["norm_delta_W"] += (s * norm_of_product(Bs[name], As[name])) ** 2
            elif not layer.variants[name].unmergeable:  # what is no change of the weight has no ΔW
                squares["norm_delta_W"] += float(layer.delta_weight(name).detach().double().square().sum())
    return {name: math.sqrt(value) for name, value in squares.items()}


def gradient_norms(model: nn.Module) -> dict[str, float | None]:
    """‖∇A‖ and ‖∇B‖ over all adapters, from `.grad` as it stands; None where no gradient has come. Chapter 06."""
    grads: dict[str, list[Tensor]] = {"grad_A": [], "grad_B": []}
    for layer in lora_layers(model).values():
        for found, factors in zip(grads.values(), layer.factors):
            found += [p.grad for p in factors.values() if p.grad is not None]
    return {
        name: math.sqrt(sum(float(g.double().square().sum()) for g in found)) if found else None
        for name, found in grads.items()
    }


# --- a whole run ------------------------------------------------------------------------------------------------------

# name of the instrument: (the entries of a reading that it gives, what it tells)
INSTRUMENTS: dict[str, tuple[tuple[str, ...], str]] = {
    "names": (("trains", "names"), "how many tensors train, and which"),
    "base": (("base",), "a hash of W₀: has the base changed?"),
    "gradients": (("grad_A", "grad_B"), "‖∇A‖ and ‖∇B‖, before clipping"),
    "norms": (("norm_A", "norm_B", "norm_delta_W"), "‖A‖, ‖B‖ and ‖ΔW‖"),
    "loss": (("loss",), "loss of the step, before its update"),
    "held-out": (("held_out",), "loss of the last evaluation, on rows that are not trained on"),
    "rate": (("learning_rate",), "the learning rate of the step"),
    "tokens": (("tokens",), "how many tokens the step's loss counted"),
    "sample": (("sample",), "what the model says now"),
}


class Instruments(Callback):
    """Reads every instrument while a run goes; `Trainer(..., callbacks=[instruments])`, then `instruments.readings`. Chapter 06.

    Args:
        every: steps between two readings. One costs 33 ms of CPU on SmolLM2-135M (all-linear, r = 8, one thread), where a step of
            four rows takes 1400; in `costs` stand the seconds that each instrument has really taken.
        sample: called without arguments after each reading, with the model in evaluation mode; returns a text. The one dear
            instrument: a generated text takes as long as several steps, so give it a large `every`.

    Attributes:
        readings: one record a reading, of plain JSON values: `step` (0: before the first), and the entries that `INSTRUMENTS`
            names. None where there was nothing to read: no gradient, no evaluation yet.
        costs: seconds spent so far, by instrument.

    Nothing that it reads changes the run: the weights end bit for bit as without it. Norms are read after the step's update,
    gradients as they were before clipping. A resumed run begins with a reading of its own; those of the first part are not kept
    in the checkpoint. Raises ConfigError if `every` is not a whole number of at least 1.
    """

    def __init__(self, every: int = 10, sample: Callable[[], str] | None = None) -> None:
        if type(every) is not int or every < 1:
            raise ConfigError(f"every must be a whole number of steps, at least 1, not {every!r}.")
        self.every, self.sample = every, sample
        self.readings: list[Record] = []
        self.costs: dict[str, float] = defaultdict(float)

    def on_train_begin(self, trainer: Any) -> None:
        self._read(trainer, {"step": trainer.step})

    def on_step_end(self, trainer: Any, record: Record) -> None:
        if record["step"] % self.every == 0 or record["step"] == trainer.total_steps:
            self._read(trainer, record)

    def on_evaluate(self, trainer: Any, record: Record) -> None:
        if self.readings and self.readings[-1]["step"] == record["step"]:
            self.readings[-1]["held_out"] = record["loss"]

    def on_train_end(self, trainer: Any, history: History) -> None:
        if self.readings[-1]["step"] != trainer.step:  # stopped between two readings
            self._read(trainer, history.steps[-1])

    def _read(self, trainer: Any, record: Record) -> None:
        model = unwrap(trainer.model)
        reading: Record = {"step": record["step"]}
        names = self._timed("names", lambda: trained_names(model))
        reading |= {"trains": len(names), "names": names}
        reading["base"] = self._timed("base", lambda: fingerprint(model))
        # Callbacks see gradients after clipping, which divides by norm / limit where the norm is larger: here that is undone.
        clipped = max(1.0, record.get("grad_norm", 0.0) / (trainer.config.max_grad_norm or math.inf))
        grads = self._timed("gradients", lambda: gradient_norms(model))
        reading |= {name: None if norm is None else norm * clipped for name, norm in grads.items()}
        reading |= self._timed("norms", lambda: factor_norms(model))
        reading |= {name: record.get(name) for name in ("loss", "learning_rate", "tokens")} | {"held_out": None}
        reading["sample"] = self._timed("sample", lambda: self._say(model)) if self.sample else None
        self.readings.append(reading)  # "held_out" is filled in by the evaluation, which comes after the step's hook

    def _say(self, model: nn.Module) -> str:
        assert self.sample is not None
        with modes(model, training=False), torch.no_grad(), own_rng():  # a sample that draws must not move the run
            return self.sample()

    def _timed(self, instrument: str, read: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        try:
            return read()
        finally:
            self.costs[instrument] += time.perf_counter() - start

    # -- shown -----------------------------------------------------------------------------------------------------------
    def column(self, name: str) -> list[Any]:
        """One entry of every reading: `instruments.column("norm_delta_W")`. Raises ConfigError for a name there is none of."""
        known = [entry for entries, _ in INSTRUMENTS.values() for entry in entries]
        if name not in ("step", *known):
            raise ConfigError(f"there is no entry {name!r} in a reading; there are: step, {', '.join(known)}")
        return [reading[name] for reading in self.readings]

    def table(self) -> list[list[str]]:
        """Head and rows as text; the names that train are only counted, and a sample stands in no column of its own."""
        return [list(_HEADS.values()), *([_said(reading[name]) for name in _HEADS] for reading in self.readings)]

    def __str__(self) -> str:
        said = [f"step {reading['step']} says: {reading['sample']}" for reading in self.readings if reading["sample"]]
        return "\n".join([text_table(self.table(), "r"), *said, self._cost()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *rows = self.table()
        said = "".join(
            f"<br>step {reading['step']} says: <q>{escape(reading['sample'])}</q>"
            for reading in self.readings
            if reading["sample"]
        )
        return f"{html_table(head, rows, 'What the instruments read', 'r')}<small>{escape(self._cost())}{said}</small>"

    def _cost(self) -> str:
        count = max(1, len(self.readings))
        each = ", ".join(f"{name} {1000 * spent / count:.1f}" for name, spent in self.costs.items())
        return f"milliseconds a reading: {each}"


_HEADS = {
    "step": "step",
    "loss": "loss",
    "held_out": "held-out",
    "learning_rate": "lr",
    "tokens": "tokens",
    "trains": "train",
    "base": "hash of W₀",
    "grad_A": "‖∇A‖",
    "grad_B": "‖∇B‖",
    "norm_A": "‖A‖",
    "norm_B": "‖B‖",
    "norm_delta_W": "‖ΔW‖",
}


def _said(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
