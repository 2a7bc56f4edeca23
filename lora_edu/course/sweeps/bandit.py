"""A signal of one bit, the comparison: each way at the rate that `bandit_pilot` chose, on six other seeds and on test digits. Chapter 12."""

from dataclasses import replace

from lora_edu.course.sweeps import bandit_pilot
from lora_edu.course.sweeps.bandit_pilot import LABEL, METHODS, ONE_BIT, ONE_BIT_SGD

CHOSEN = {  # the pilot's best rates: the highest expected reward on validation digits, in the mean of its two seeds
    **dict(zip([(ONE_BIT, name) for name in METHODS], (3e-3, 1e-3, 3e-4))),
    **dict(zip([(LABEL, name) for name in METHODS], (3e-3, 3e-3, 1e-2))),
    **dict(zip([(ONE_BIT_SGD, name) for name in METHODS], (3e-2, 3e-1, 3e-1))),
}

SWEEP = replace(
    bandit_pilot.SWEEP,
    name="bandit",
    title="right or wrong is all that comes back: rank 1, rank 8 and full training, each at its own rate; turned digits",
    cells=[{"signal": signal, "method": method, "learning_rate": rate} for (signal, method), rate in CHOSEN.items()],
    seeds=(0, 1, 2, 3, 4, 5),
)
