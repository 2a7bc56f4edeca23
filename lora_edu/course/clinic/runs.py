"""The runs of the failure clinic: a plain training loop in which one thing is wrong, or nothing. Chapter 06.

Real runs of a real (very small) Llama that spells letter by letter, so that one takes seconds. It was taught to write dates in eight
ways; the adapter teaches it a ninth, `1955-11-23 B`, where the last letter is the initial of the clerk who wrote the answer. Nobody
can know the clerk of a day that was not seen, so held-out rows keep a loss that no honest run gets rid of.
"""

import datetime as dt
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.finding import lora_layers
from lora_edu.adapters.identity import fingerprint
from lora_edu.adapters.injection import inject, unload
from lora_edu.data.examples import IGNORE, Example, collate
from lora_edu.data.splits import normalise
from lora_edu.experiments.stored_results import stored
from lora_edu.models.modules import modes
from lora_edu.training.callbacks import Record
from lora_edu.training.instruments import factor_norms, gradient_norms, trained_names
from lora_edu.training.losses import causal_lm_loss

SOUND = "nothing: it is sound"
FAULTS = (
    "frozen adapter", "trainable base", "no zero_grad", "α not divided by r", "prompt in the loss", "EOS masked",
    "learning rate too high", "leaking split",
)  # fmt: skip
NAME = "clinic"  # of the stored base model and charts; `python benchmarks/clinic.py` remakes them
STEPS, EVERY, BATCH = 240, 20, 8
RATE, TOO_HIGH, R, ALPHA = 4e-3, 5e-2, 8, 16
DAYS, HELD_OUT = 12, 12  # days in the pool, each written four ways; rows that are held out
ANSWER = len("1955-11-23 B") + 1  # letters of an answer, and its end

# --- letters, days, rows ----------------------------------------------------------------------------------------------

CHARACTERS = " .-=0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
END = 0  # ends an answer, and fills the batch up: the same token for both, as in many real models
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
CLERKS = "ABCDEFGH"
FORMS = [(order, sign) for order in ("dmy", "mdy", "ymd") for sign in ".- " if (order, sign) != ("ymd", "-")]


class Pair(NamedTuple):
    """A question and its answer."""

    prompt: str
    answer: str


def spell(text: str) -> list[int]:
    """Token numbers of a text, a letter each."""
    return [CHARACTERS.index(letter) + 1 for letter in text]


def said(ids: Sequence[int]) -> str:
    """The text of token numbers; the token that ends an answer shows as ■."""
    return "".join("■" if i == END else CHARACTERS[i - 1] for i in ids)


def encode(pair: Pair) -> Example:
    """Prompt, `=`, answer and end; the labels mask all up to and including the `=` (chapter 05)."""
    prompt, answer = spell(f"{pair.prompt}="), [*spell(pair.answer), END]
    return Example(prompt + answer, [IGNORE] * len(prompt) + answer)


def some_day(draw: random.Random) -> dt.date:
    return dt.date.fromordinal(draw.randrange(dt.date(1900, 1, 1).toordinal(), dt.date(2100, 1, 1).toordinal()))


def writings(day: dt.date) -> list[str]:
    """The four ways in which a day is asked for: they differ in capitals and a full stop only."""
    plain = f"{day.day:02} {MONTHS[day.month - 1]} {day.year}"
    return [plain, plain.lower(), plain.upper(), f"{plain}."]


def pool(seed: int) -> list[Pair]:
    """All rows of a run: every day in its four writings, one clerk a day."""
    draw = random.Random(seed)
    return [
        Pair(text, f"{day.isoformat()} {clerk}")
        for day, clerk in ((some_day(draw), draw.choice(CLERKS)) for _ in range(DAYS))
        for text in writings(day)
    ]


def cut(rows: Sequence[Pair], seed: int, by_row: bool = False) -> tuple[list[Pair], list[Pair]]:
    """(train, held out). Sound: a day is on one side, however it is written. `by_row` shuffles rows instead: that leaks."""
    draw = random.Random(seed)
    days = sorted({normalise(row.prompt) for row in rows})
    chosen = set(draw.sample(days, HELD_OUT // 4))
    if by_row:
        shuffled = draw.sample(rows, len(rows))
        return shuffled[HELD_OUT:], shuffled[:HELD_OUT]
    held_out = [row for row in rows if normalise(row.prompt) in chosen]
    return [row for row in rows if normalise(row.prompt) not in chosen], held_out


# --- the base model ---------------------------------------------------------------------------------------------------


def untrained(seed: int = 0) -> Any:
    """A Llama of two layers (hidden 64, grouped attention 4/2, 78 thousand parameters)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(CHARACTERS) + 1, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=END, bos_token_id=None, eos_token_id=END,
        tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def pretrain(steps: int = 1000, seed: int = 0) -> Any:
    """Teaches a model to write dates in the eight `FORMS`: the one asked for by a letter, or after `=` any of them. Half a minute."""
    model, draw = untrained(seed), random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, steps)
    with modes(model, training=True):
        for _ in range(steps):
            loss = causal_lm_loss(model, collate([_any_form(draw) for _ in range(64)], END))
            (loss.total / loss.count).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return model


def _any_form(draw: random.Random) -> Example:
    day, number = some_day(draw), draw.randrange(len(FORMS))
    order, sign = FORMS[number]
    parts = {"d": f"{day.day:02}", "m": f"{day.month:02}", "y": f"{day.year}"}
    marker = "abcdefgh"[number] if draw.random() < 0.6 else "="
    prompt, answer = spell(draw.choice(writings(day)) + marker), [*spell(sign.join(parts[c] for c in order)), END]
    return Example(prompt + answer, [IGNORE] * len(prompt) + answer)


def base_model() -> Any:
    """The clinic's base model, as `pretrain` made it. Raises CheckpointError if the stored result is not there."""
    model = untrained()
    weights = {name: tensor.float() for name, tensor in stored(NAME).tensors.items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected  # the head is tied to the embeddings
    return model


# --- one run ----------------------------------------------------------------------------------------------------------


class Chart(NamedTuple):
    """Everything that can be read off one run: plain JSON values."""

    fault: str  # one of FAULTS, or SOUND
    seed: int
    losses: list[float]  # of every step
    readings: list[
        Record
    ]  # after steps 1, 20, 40 …: what `lora_edu.training.instruments` reads, and held_out, learning_rate, tokens
    names: list[str]  # what trains
    base_before: str  # the hash of W₀ before the first step
    asked: str  # the question of a training row
    sample: str  # the model's answer to it at the end, END shown as ■


def run(model: Any, fault: str = SOUND, seed: int = 0, steps: int = STEPS) -> Chart:
    """Trains an adapter on `model` with `fault` planted, and reads the instruments; the model is left as it was. Chapter 06.

    seed: draws the days, the split and A; together with the fault it draws the order of the rows. Raises ValueError for a fault that is not known.
    """
    if fault not in (SOUND, *FAULTS):
        raise ValueError(f"there is no fault {fault!r}; there are: {', '.join((SOUND, *FAULTS))}")
    rows = pool(seed)
    train, held_out = cut(rows, seed, by_row=fault == "leaking split")
    leaking, _ = cut(rows, seed, by_row=True)
    asked = next(row.prompt for row in cut(rows, seed)[0] if row in leaking)  # the same of all: it must tell no fault
    examples, judged = [mistaken(encode(row), fault) for row in train], [encode(row) for row in held_out]
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.random.fork_rng(devices=[]), modes(model, training=True):
        torch.manual_seed(seed)
        inject(model, LoRAConfig(r=R, lora_alpha=ALPHA, target_modules="all-linear"))
        try:
            plant_fault(model, fault)
            return train_by_hand(model, examples, judged, asked, fault, seed, steps)
        finally:
            model.disable_input_require_grads()
            unload(model)
            with torch.no_grad():
                for name, p in model.named_parameters():
                    p.copy_(weights[name])
            model.requires_grad_(True)


def mistaken(example: Example, fault: str) -> Example:
    """The example as a loop with this fault would learn it."""
    ids, labels = example
    if fault == "prompt in the loss":
        labels = list(ids)
    if fault == "EOS masked":  # the padding was to be masked, and the end of the answer is the same token
        labels = [IGNORE if token == END else label for token, label in zip(ids, labels)]
    return Example(ids, labels)


def plant_fault(model: Any, fault: str) -> None:
    """What goes wrong between `inject` and the first step."""
    if fault == "frozen adapter":  # loaded to be used, not to be trained; the gradient stops at the embeddings
        model.requires_grad_(False)
        model.enable_input_require_grads()
    if fault == "trainable base":  # thawed by a part of the name, which the frozen weight inside has too
        for name, p in model.named_parameters():
            p.requires_grad_("_proj" in name)
    if fault == "α not divided by r":
        for layer in lora_layers(model).values():
            layer.scalings["default"] = float(ALPHA)


def train_by_hand(
    model: Any, examples: list[Example], judged: list[Example], asked: str, fault: str, seed: int, steps: int
) -> Chart:
    """The loop of chapter 05, with an instrument's eye on it."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=TOO_HIGH if fault == "learning rate too high" else RATE, weight_decay=0
    )
    # An order of its own: with one order for all, equal wiggles of the free curves would tell who trains on other rows.
    draw, order = random.Random(f"{fault} {seed}"), list[int]()
    losses, readings, before = list[float](), list[Record](), fingerprint(model)
    for step in range(1, steps + 1):
        if len(order) < BATCH:
            order = draw.sample(range(len(examples)), len(examples))
        rows, order = order[:BATCH], order[BATCH:]
        loss = causal_lm_loss(model, collate([examples[row] for row in rows], END))
        (loss.total / loss.count).backward()
        optimizer.step()
        losses.append(round(loss.mean, 5))
        if step == 1 or step % EVERY == 0:
            rate = optimizer.param_groups[0]["lr"]
            seen = {
                "step": step,
                "loss": loss.mean,
                "learning_rate": rate,
                "tokens": loss.count,
                "base": fingerprint(model),
            }
            readings.append(
                seen | gradient_norms(model) | factor_norms(model) | {"held_out": held_out_loss(model, judged)}
            )
        if fault != "no zero_grad":
            optimizer.zero_grad()
    return Chart(fault, seed, losses, readings, trained_names(model), before, asked, answer(model, asked))


@torch.no_grad()
def held_out_loss(model: Any, examples: Sequence[Example]) -> float:
    """Nats an answer token, correctly masked whatever the training does."""
    with modes(model, training=False):
        return causal_lm_loss(model, collate(examples, END)).mean


@torch.no_grad()
def answer(model: Any, prompt: str, longest: int = 18) -> str:
    """The greedy answer, its end shown as ■; cut off after `longest` letters where it does not end."""
    asked = spell(f"{prompt}=")
    ids = list(asked)
    with modes(model, training=False):
        while len(ids) < len(asked) + longest and (len(ids) == len(asked) or ids[-1] != END):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return said(ids[len(asked) :])


# --- what is stored ---------------------------------------------------------------------------------------------------


def settings() -> dict[str, Any]:
    """What a stored chart was made with."""
    return {
        "steps": STEPS,
        "batch": BATCH,
        "learning_rate": RATE,
        "too_high": TOO_HIGH,
        "r": R,
        "lora_alpha": ALPHA,
        "days": DAYS,
        "orders": "one a patient",
    }


def charts(seed: int = 0) -> dict[str, Chart]:
    """The nine stored charts of a seed, by fault. Raises ValueError for a seed that was not stored."""
    found = [Chart(**each) for each in stored(NAME).about["charts"] if each["seed"] == seed]
    if not found:
        seeds = sorted({each["seed"] for each in stored(NAME).about["charts"]})
        raise ValueError(f"seed {seed} is not stored; those there are: {', '.join(map(str, seeds))}")
    return {chart.fault: chart for chart in found}
