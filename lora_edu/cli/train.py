"""`lora-edu train`: an adapter from a task's recipe or from your own rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from lora_edu.adapters.config import LoRAConfig
from lora_edu.cli.common import chosen_task, counted, opened, writable
from lora_edu.cli.options import flags, read, with_flags
from lora_edu.cli.run_folder import HELD_OUT, from_run, keep_rows, write_run
from lora_edu.cli.settings import from_config
from lora_edu.errors import DataError, LoRAEduError
from lora_edu.training.config import TrainConfig, plan_warnings

_ADAPTER, _RUN, _DATA = "The adapter", "The run", "The data"
FEW_STEPS = 20  # fewer teach a fresh adapter next to nothing at the usual rates
ENOUGH_STEPS = 60  # what the rows of your own are repeated for, where neither steps nor epochs are given
MOST_EPOCHS = 20
FIRST_BATCHES = 8  # that a start from data or gradients looks at
# One of these given, and the others are not advised: they would say the opposite.
TOGETHER = ({"epochs", "max_steps"}, {"warmup_steps", "warmup_ratio"}, {"batch_size", "gradient_accumulation_steps"})

# What `save` and `--out` decide, or the model itself.
NO_FLAG = {
    LoRAConfig: ("fan_in_fan_out", "base_model_name_or_path", "ensure_weight_tying"),
    TrainConfig: ("output_dir",),
}


@with_flags(*flags(LoRAConfig, _ADAPTER, NO_FLAG[LoRAConfig]), *flags(TrainConfig, _RUN, NO_FLAG[TrainConfig]))
def train(
    task: Annotated[
        str | None,
        typer.Option(
            help="A task of the course: identity, iso_dates, kjv, sentiment, intents, reminders or general. Options after a colon: identity:name=Ada.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Or your own rows: a .jsonl, .json or .csv file (chapter 05 shows the forms).", rich_help_panel=_DATA
        ),
    ] = None,
    system: Annotated[
        str,
        typer.Option(
            help="System message of rows of your own that bring none; empty is an empty turn.", rich_help_panel=_DATA
        ),
    ] = "",
    valid_rows: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Rows held out to measure the loss on; a tenth of them, 50 at most, without it.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    max_length: Annotated[
        int, typer.Option(min=2, help="Longest row in tokens; a longer one is an error.", rich_help_panel=_DATA)
    ] = 512,
    packing: Annotated[
        bool,
        typer.Option("--packing", help="Rows of a batch one after the other, without padding.", rich_help_panel=_DATA),
    ] = False,
    model: Annotated[
        str,
        typer.Option(help="The course's own model, a folder, or a name on the model hub.", rich_help_panel=_ADAPTER),
    ] = "smollm2-135m",
    advise: Annotated[
        bool,
        typer.Option(
            "--advise", help="Let `lora-edu advise` choose what no flag says, for these rows.", rich_help_panel=_RUN
        ),
    ] = False,
    bits: Annotated[
        int | None,
        typer.Option(
            help="4 holds the frozen base in four bits (NF4, as QLoRA): less memory, longer steps.",
            rich_help_panel=_ADAPTER,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Another way to fine-tune than LoRA: ia3, prefix, prompt, bottleneck, bitfit or full; settings after a colon: "
            "prefix:num_virtual_tokens=16 (chapter 12). Rates that suit LoRA need not suit it.",
            rich_help_panel=_ADAPTER,
        ),
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Write the curves into this folder, for TensorBoard.", rich_help_panel=_RUN)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the result; runs/NAME without it.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file with any of these settings; flags win.", callback=from_config, is_eager=True),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with the interrupted run in this folder.", callback=from_run, is_eager=True),
    ] = None,
    **given: Any,
) -> None:
    """Train an adapter and keep it in PEFT's format. What is not given comes from the task's recipe.

    Examples:

    `lora-edu train --task kjv`

    `lora-edu train --task identity:name=Ada --out runs/ada`

    `lora-edu train --data my_rows.jsonl -r 4 --alpha 8 --lr 1e-3 --epochs 3`

    `lora-edu train --config my_run.yaml --seed 1`

    `lora-edu train --data my_rows.jsonl --advise`

    `lora-edu train --resume runs/kjv`

    `torchrun --nproc-per-node 4 -m lora_edu train --task kjv` (four GPUs share each batch)
    """
    if (task is None) == (data is None):
        raise typer.BadParameter("give --task NAME or --data FILE, one of the two.")
    out = out or Path("runs") / (task.split(":")[0] if task else data.stem if data else "")
    given |= {"task": task, "data": data and data.absolute()}  # absolute: a run may be resumed from another folder
    given |= {
        "method": method,
        "tensorboard": tensorboard,
        "system": system,
        "valid_rows": valid_rows,
        "max_length": max_length,
        "packing": packing,
        "model": model,
        "bits": bits,
    }
    # A resumed run has what was advised in its settings.
    _run(
        {key: value for key, value in given.items() if value is not None},
        out,
        resume is not None,
        advise and not resume,
    )


def _run(given: dict[str, Any], out: Path, resume: bool, advised: bool) -> None:
    import torch

    from lora_edu.adapters.injection import audit
    from lora_edu.adapters.neighbours.attaching import attach
    from lora_edu.adapters.save_load import save
    from lora_edu.data.examples import check_fits, collate, encode_rows, pack
    from lora_edu.training.losses import causal_lm_loss
    from lora_edu.training.optimizers import freeze_for
    from lora_edu.training.processes import new_accelerator
    from lora_edu.training.tensorboard import TensorBoard
    from lora_edu.training.trainer import Trainer

    if not resume:
        _refuse_a_run_that_is_there(out)
    writable(out)
    first = new_accelerator().is_main_process  # of several processes one speaks and writes

    def say(text: str) -> None:
        if first:
            typer.echo(text)

    task = chosen_task(given["task"]) if "task" in given else None
    train_rows, valid_rows = _rows(task, given)
    lora, plan = _settings(task, given, out, len(train_rows))
    method = _method(given, advised)

    curves = [TensorBoard(given["tensorboard"])] if "tensorboard" in given else []

    model, tokenizer = opened(given["model"], None, bits=given.get("bits"))
    examples = encode_rows(train_rows, tokenizer, given["max_length"])
    held_out = encode_rows(valid_rows, tokenizer, given["max_length"])
    check_fits([*examples, *held_out], model, [row.where for row in (*train_rows, *valid_rows)])
    if advised:
        given = _advised(task, given, model, examples, say) | given
        lora, plan = _settings(task, given, out, len(train_rows))
    torch.manual_seed(plan.seed)  # A is drawn here, before the trainer seeds its own run
    together = pack if given["packing"] else partial(collate, pad_token_id=tokenizer.pad_token_id)
    batches = None if method else _first_batches(lora, plan, examples, together, model.device)
    attach(model, method or lora, data=batches)
    freeze_for(model, plan)
    say(f"{audit(model)}\n{counted(len(examples), 'row')} to train on, {len(held_out)} held out.")
    if first:
        write_run(out, given)
        keep_rows(out, train_rows, valid_rows)
    trainer = Trainer(model, examples, causal_lm_loss, plan, collate=together, eval_examples=held_out or None)
    trainer.resume_hint = f"lora-edu train --resume {out}"
    say(_what_runs(method or lora, trainer))
    steps: list[int] = []
    trainer.callbacks += [_counting(steps), *curves]
    history = trainer.resume() if resume else trainer.train()
    save(model, out)
    if not steps:
        say(
            f"The run in {out} had ended already, after {counted(len(history.steps), 'step')}: nothing was trained now."
        )
        say(f"For a longer one begin anew, with another --out.\n{_next(out, task, valid_rows)}")
        return
    for step, loss in history.eval_losses[-1:]:
        say(f"Loss on the held-out rows after step {step}: {loss:.3f} nats per answer token.")
    say(f"{counted(len(history.steps), 'step')} in {trainer.seconds:.0f} s. The adapter is in {out}.")
    say(_next(out, task, valid_rows))


def _advised(
    task: Any, given: dict[str, Any], model: Any, examples: list[Any], say: Callable[[str], None]
) -> dict[str, Any]:
    """What `advise` chooses otherwise than the recipe (or the defaults), as settings; said with its reasons."""
    from lora_edu.data.examples import IGNORE
    from lora_edu.experiments.advisor import advise
    from lora_edu.models.cache import DEFAULT_MODEL

    advice = advise(
        given["model"] if given["model"] == DEFAULT_MODEL else model, task, rows=len(examples),
        tokens=max(len(example.input_ids) for example in examples),
        answer_tokens=max(sum(label != IGNORE for label in example.labels) for example in examples),
    )  # fmt: skip
    say(f"{advice}\n")
    recipe, found = _recipe(task), dict[str, Any]()
    for new, old in ((advice.lora, recipe.lora), (advice.train, recipe.train)):
        for field in fields(new):
            if (value := getattr(new, field.name)) != getattr(old, field.name):
                found[field.name] = value
    if found.get("max_steps", 0) is None:  # the recipe's number of steps gives way to passes
        found["epochs"] = advice.train.epochs
    for together in TOGETHER:
        if together & set(given):
            found = {name: value for name, value in found.items() if name not in together}
    return {name: value for name, value in found.items() if value is not None}


def _recipe(task: Any) -> Any:
    from lora_edu.tasks.base import Recipe

    return task.recipe if task else Recipe(LoRAConfig(), TrainConfig())


def _first_batches(lora: LoRAConfig, plan: TrainConfig, examples: Any, together: Any, device: Any) -> Any:
    """What a variant that starts from data is given: the first rows, FIRST_BATCHES batches of them; None for every other adapter."""
    if not (lora.variant and lora.variant.needs_data):
        return None
    size = plan.batch_size
    starts = range(0, min(len(examples), FIRST_BATCHES * size), size)
    batches = (together(examples[i : i + size]) for i in starts)
    return [{key: value.to(device) for key, value in batch.items()} for batch in batches]


def _counting(steps: list[int]) -> Any:
    """A callback that notes the steps of this call; a resumed run's history holds those of earlier calls too."""
    from lora_edu.training.callbacks import Callback

    class Counting(Callback):
        def on_step_end(self, trainer: Any, record: dict[str, Any]) -> None:
            steps.append(record["step"])

    return Counting()


def _refuse_a_run_that_is_there(out: Path) -> None:
    from lora_edu.adapters.save_load import CONFIG
    from lora_edu.training.checkpoints import checkpoints

    if (out / CONFIG).exists():
        raise LoRAEduError(
            f"{out} holds a run that has ended: choose another --out, or talk to it: lora-edu chat {out}"
        )
    if checkpoints(out / "checkpoints"):
        raise LoRAEduError(
            f"{out} holds an interrupted run: go on with it (lora-edu train --resume {out}), or choose another --out"
        )


def _method(given: dict[str, Any], advised: bool) -> Any:
    """What `--method` says, or None. Raises LoRAEduError where options of LoRA are given beside it."""
    from lora_edu.adapters.neighbours.known import named

    if "method" not in given or (method := named(given["method"])) == LoRAConfig():
        return None
    if isinstance(method, LoRAConfig):
        raise LoRAEduError("LoRA's settings are flags of their own (-r, --alpha, …): leave --method out")
    if of_lora := sorted(read(LoRAConfig, given)):
        words = ", ".join(f"--{key.replace('_', '-')}" for key in of_lora)
        raise LoRAEduError(
            f"{words}: of LoRA, and --method {given['method']} is another way; its own settings stand behind a colon"
        )
    if advised:
        raise LoRAEduError("--advise chooses what LoRA needs: leave it out beside --method")
    if given["packing"] and getattr(method, "virtual", False):
        raise LoRAEduError(
            f"--packing: {given['method']} puts tokens before each row, and packed rows have one beginning"
        )
    return method


def _adapter_line(method: Any) -> str:
    if not isinstance(method, LoRAConfig):
        return f"Method: {method}. A rate that suits LoRA need not suit it: try several, and compare them on the held-out rows."
    targets = method.target_modules if isinstance(method.target_modules, str) else ",".join(method.target_modules)
    scale = "α/√r" if method.use_rslora else "α/r"
    kind = type(method.variant).__name__ if method.variant else "LoRA"
    return f"Adapter: {kind}, r {method.r}, α {method.lora_alpha:g} (scale {scale}), dropout {method.lora_dropout:g}, on {targets}"


def _what_runs(method: Any, trainer: Any) -> str:
    """Everything that decides the run, whether it was given or taken by default, and what will come of so few steps."""
    plan, steps = trainer.config, trainer.total_steps
    lines = [
        _adapter_line(method),
        f"Run: {counted(steps, 'step')} of {counted(plan.batch_size * plan.gradient_accumulation_steps, 'row')}, learning rate "
        f"{plan.learning_rate:g} ({plan.scheduler}), weight decay {plan.weight_decay:g}, {trainer.precision}, seed {plan.seed}",
    ]
    if steps < FEW_STEPS:
        lines.append(
            f"So few steps teach little: look at the loss on the held-out rows, and try --steps {ENOUGH_STEPS}."
        )
    return "\n".join([*lines, *plan_warnings(len(trainer.examples), plan)])


def _next(out: Path, task: Any, valid_rows: list[Any]) -> str:
    """What is honest to do next: measure on rows that it was not trained on, and talk to it."""
    measure = f"lora-edu eval {out} --against-base"
    if task:
        return f"Next: {measure} (the task's test rows)    lora-edu chat {out}"
    if valid_rows:
        return f"Next: {measure} (the {counted(len(valid_rows), 'row')} held out, in {out / HELD_OUT})    lora-edu chat {out}"
    return f"Next: lora-edu chat {out}    (No row was held out, so nothing can be measured here: keep some for `lora-edu eval --data`.)"


def _rows(task: Any, given: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Rows to train on and rows to hold out. Your own are split by a hash of the input, so the same question is never on both sides."""
    from lora_edu.data.reading import read_rows
    from lora_edu.data.splits import split

    rows = task.splits().train if task else read_rows(given["data"], system=given["system"])
    held_out = given.get("valid_rows", min(50, max(len(rows) // 10, 1 if len(rows) > 4 else 0)))
    if task:
        return rows, task.splits().valid[:held_out]
    if held_out == 0:
        return rows, []
    if len(rows) < 2 * held_out:
        raise DataError(f"{given['data']} has {len(rows)} rows, too few to hold out {held_out} of them (--valid-rows)")
    parts = split(rows, held_out, 0)
    return parts.train, parts.valid


def _settings(task: Any, given: dict[str, Any], out: Path, n_rows: int) -> tuple[LoRAConfig, TrainConfig]:
    """The task's recipe (or the defaults, for your own rows) with what was given in its place."""
    recipe = _recipe(task)
    lora, plan = read(LoRAConfig, given), read(TrainConfig, given) | {"output_dir": str(out / "checkpoints")}
    if "epochs" in given:
        plan.setdefault("max_steps", None)  # the recipe's number of steps would win over the epochs asked for
    for instead, of in (("warmup_steps", "warmup_ratio"), ("warmup_ratio", "warmup_steps")):
        if instead in given:
            plan.setdefault(of, 0)
    settings = replace(recipe.train, **plan)
    if task is None and not {"epochs", "max_steps"} & set(given):
        each = math.ceil(n_rows / (settings.batch_size * settings.gradient_accumulation_steps))
        settings = replace(settings, epochs=min(MOST_EPOCHS, math.ceil(ENOUGH_STEPS / each)))
    return replace(recipe.lora, **lora), settings
