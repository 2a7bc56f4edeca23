"""The training loop. It knows nothing of its model: examples are opaque, `collate` makes a batch of them, `loss_fn` a `LossSum`.

Chapters 05, 06 and 14. Built on `accelerate`, which supplies the device, several processes and the backward pass; precision is
torch's own autocast, and checkpoints are ours (`checkpoints`), because `accelerate.save_state` pickles.
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, send_to_device
from torch import Tensor, nn

from lora_edu.errors import TrainingError
from lora_edu.models.limits import limits_of
from lora_edu.models.modules import modes, unwrap
from lora_edu.models.sharded import put, whole
from lora_edu.training.callbacks import Callback, History, Record
from lora_edu.training.checkpoints import newest_state, restore, save_checkpoint, save_for_later, save_or_warn
from lora_edu.training.checks import (
    all_finite,
    check_first_gradients,
    check_graph,
    check_rows,
    explain_bad_number,
)
from lora_edu.training.config import TrainConfig, lr_factor, step_rows, steps_per_epoch
from lora_edu.training.context import progress_bar, run_context
from lora_edu.training.failures import in_clear_words
from lora_edu.training.folder import checkpoints
from lora_edu.training.optimizers import set_rate
from lora_edu.training.processes import any_process
from lora_edu.training.rng import capture_rng, restore_rng
from lora_edu.training.run import LossFunction, LossSum, Run, variant_hooks


class Trainer(Run):
    """Trains whatever in `model` has requires_grad. Chapter 05.

        trainer = Trainer(model, examples, causal_lm_loss, TrainConfig(epochs=3), collate=collate)
        history = trainer.train()

    `examples` and `eval_examples` are sequences of anything; `collate(list of examples)` makes a batch; `loss_fn(model, batch)`
    returns the summed loss and the number of tokens it covers. A step's gradient is that of (sum of all its losses) / (all its
    tokens), so accumulating unequal micro-batches equals one large batch. Raises TrainingError when nothing trains, when a loss or
    gradient is not finite, and when a trainable parameter gets no gradient; DataError for `Example`s that the model cannot read.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Sequence[Any],
        loss_fn: LossFunction,
        config: TrainConfig | None = None,
        *,
        collate: Callable[[list[Any]], Any],
        eval_examples: Sequence[Any] | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> None:
        config = config or TrainConfig()
        if len(examples) == 0:
            raise TrainingError("There are no examples to train on.")
        if (config.keep_best or config.patience) and not eval_examples:
            raise TrainingError("keep_best and patience need eval_examples to measure on.")
        if not any(p.requires_grad for p in model.parameters()):
            raise TrainingError(
                "Nothing trains: no parameter of the model has requires_grad. Inject an adapter first, or unfreeze the one that is there."
            )
        from lora_edu.data.examples import check_fits  # late: the loop itself knows no rows

        for rows in (examples, eval_examples or ()):
            check_fits(rows, model)
        super().__init__(model, examples, loss_fn, config, collate, eval_examples, callbacks, progress)
        self._limits = limits_of(unwrap(self.model))
        self._started = 0.0  # on the clock, had the run never been held or broken off
        self._interrupted = threading.Event()  # Ctrl-C was pressed

    # --- the run ------------------------------------------------------------------------------------------------------

    def train(self) -> History:
        """Runs to the end, or goes on from where this trainer was interrupted. Returns the history.

        Ctrl-C or SIGTERM, in any of its processes, ends the step, saves (if there is an output_dir) and raises KeyboardInterrupt
        with the words to resume. The model ends with the weights of the best evaluation if keep_best, else with the last ones. The
        caller's random generators are left as they were: the run has its own, seeded by the config. What else can end a run raises
        TrainingError with what is lost (at most the steps since the last checkpoint) and what to do. A disk that fails ends none, but
        an output_dir that cannot be written to, or that another run holds, is refused before the first step.
        """
        if self.history.stopped:
            return self.history
        if self.updating:
            raise TrainingError(
                f"Step {self.step + 1} was broken off inside its update, so the weights may be half new: resume() from a checkpoint."
            )
        with self.in_its_folder():
            if self.step == 0 and self.output_dir and checkpoints(self.output_dir):
                raise TrainingError(
                    f"{self.output_dir} holds checkpoints of an earlier run: go on with resume(), or train into another output_dir."
                )
            return self._to_the_end()

    def _to_the_end(self) -> History:
        if self.output_dir:
            _ = self.identity  # as the run is before its first step
        self._started = time.perf_counter() - self.seconds
        with in_clear_words(self), run_context(self) as self._interrupted, self._watched(), progress_bar(self) as bar:
            while self.step < self.total_steps and not self.history.stopped:
                record = self._train_step()
                self.seconds = record["seconds"] = round(time.perf_counter() - self._started, 3)
                self.history.steps.append(record)
                bar.update()
                bar.set_postfix(loss=f"{record['loss']:.3f}", lr=f"{record['learning_rate']:.1e}")
                self._tell("on_step_end", record)
                if self.eval_examples and self._evaluation_is_due():
                    self._evaluate_and_compare()
                interrupted = self._agree()
                if self.step == self.total_steps or self.history.stopped:
                    break
                if interrupted:
                    raise KeyboardInterrupt(save_for_later(self))
                if self.config.save_every and self.step % self.config.save_every == 0:
                    save_or_warn(self)
            self.stop("finished")
            try:
                if self.output_dir:
                    save_or_warn(self)  # the last weights; the best ones lie beside them
            finally:
                if self.best_weights is not None:
                    self.put(self.best_weights)
            self._tell("on_train_end", self.history)
        return self.history

    def resume(self) -> History:
        """Goes on from the newest whole checkpoint in output_dir; on the same machine the weights end bit for bit as if the run had
        never stopped. A run that had ended gets its weights and history back.

        Raises TrainingError if there is none, or if config, rows, loss, adapters or model are not those of the run, naming what differs.
        """
        state = newest_state(self)
        if state.values["history"]["stopped"]:  # nothing is left to write
            restore(self, state)
            return self.history
        with self.in_its_folder():
            restore(self, state)
            return self.train()

    def hold(self, may_go_on: Callable[[], bool]) -> None:
        """Waits until `may_go_on()` says so, or Ctrl-C, which then saves as ever. For callbacks, in `on_step_end`.

        The wait does not count in the run's seconds.
        """
        since = time.perf_counter()
        while not (self._interrupted.is_set() or may_go_on()):
            time.sleep(0.05)
        self._started += time.perf_counter() - since

    def _agree(self) -> bool:
        """Whether one of the processes was interrupted. If a callback stopped the run in one of them, it stops in all."""
        interrupted, stopped = any_process(self.accelerator, self._interrupted.is_set(), bool(self.history.stopped))
        if stopped:
            self.history.stopped = next(filter(None, gather_object([self.history.stopped])))
        return interrupted

    def _train_step(self) -> Record:
        """One step; one that breaks off takes back what it drew and averaged, so that it can be done again as if for the first time."""
        rng, buffers = capture_rng(), {name: buffer.clone() for name, buffer in self.buffers().items()}
        try:
            return self._optimizer_step()
        except BaseException:
            restore_rng(rng)
            for name, buffer in self.buffers().items():
                put(buffer, buffers[name])
            raise

    def _optimizer_step(self) -> Record:
        """Forward and backward through the micro-batches of a step, one clip, one update."""
        micro_batches = step_rows(len(self.examples), self.step, self.config)
        self.optimizer.zero_grad(set_to_none=True)
        losses: list[LossSum] = []
        for i, rows in enumerate(micro_batches):
            last = i == len(micro_batches) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self._loss(self.examples, rows)
                check_graph(loss.total)
                self.accelerator.backward(loss.total)
            losses.append(LossSum(loss.total.detach(), loss.count))
        total, count = self._sum(losses)
        if not torch.isfinite(total):
            bad = any_process(self.accelerator, *(not torch.isfinite(loss.total) for loss in losses))
            raise self._bad_number("the loss", list(itertools.compress(micro_batches, bad)) or micro_batches)
        if count == 0:
            raise TrainingError(
                f"Step {self.step + 1} has no token to learn: every label of rows {micro_batches} is masked."
            )
        if self.step == 0:
            check_first_gradients(self.parameters)
        for p in self.parameters.values():
            if p.grad is not None:
                p.grad.mul_(self.accelerator.num_processes / count)  # processes average what we want summed
        penalty = self._add_penalty()
        limit = self.config.max_grad_norm or float("inf")
        norm = whole(self.accelerator.clip_grad_norm_(self.parameters.values(), limit))
        if not torch.isfinite(norm):
            raise self._bad_number("the loss is finite, but its gradient", micro_batches)
        rate = self.learning_rate * lr_factor(self.step, self.total_steps, self.config)
        set_rate(self.optimizer, rate)
        self.updating = True
        self.optimizer.step()
        if hooks := variant_hooks(self.model):
            hooks.after_step(unwrap(self.model), self.step + 1, self.total_steps)
        self.updating = False
        self.step += 1
        return {
            "step": self.step,
            "epoch": round(self.step / steps_per_epoch(len(self.examples), self.config), 6),
            "loss": total.item() / count,
            "grad_norm": norm.item(),
            "learning_rate": rate,
            "tokens": count,
            **penalty,
        }

    def _add_penalty(self) -> Record:
        """A variant's term of the loss, its gradient added to that of the mean loss: {"penalty": its value}, or {} without one.

        It is the weights' and not the rows', and so the same in all processes and once a step.
        """
        hooks = variant_hooks(self.model)
        term = hooks.variant_loss(unwrap(self.model)) if hooks else None
        if term is None:
            return {}
        if term.requires_grad:
            trained = list(self.parameters.values())
            for p, gradient in zip(trained, torch.autograd.grad(term, trained, allow_unused=True)):
                if gradient is not None:
                    p.grad = gradient if p.grad is None else p.grad + gradient
        return {"penalty": term.item()}

    def _loss(self, examples: Sequence[Any], rows: Sequence[int]) -> LossSum:
        """The loss of this process's share of `rows`; a process without a share takes one row at weight zero."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        mine = rows[rank::processes]
        batch = self.collate([examples[row] for row in mine or rows[:1]])
        check_rows(self._limits, batch, mine or rows[:1])
        batch = send_to_device(batch, self.accelerator.device)
        with self._autocast():
            total, count = self.loss_fn(self.model, batch)
        return LossSum(total, count) if mine else LossSum(total * 0, 0)

    def _sum(self, losses: Sequence[LossSum]) -> tuple[Tensor, int]:
        """Total loss and count over micro-batches and processes."""
        # In float64, so that the sum is the same in any order to the last digit that is shown; MPS has it only on the CPU.
        sums = torch.tensor([[loss.total.item(), loss.count] for loss in losses], dtype=torch.float64).sum(dim=0)
        if self.accelerator.num_processes > 1:
            sums = self.accelerator.reduce(sums.to(self.accelerator.device), reduction="sum").cpu()
        total, count = sums
        return total, int(count)

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def evaluate(self, examples: Sequence[Any] | None = None) -> float:
        """Mean loss in nats per token over `examples` (the trainer's eval_examples), with dropout off and no gradients."""
        return self._evaluate(examples)["loss"]

    def _evaluate(self, examples: Sequence[Any] | None = None) -> Record:
        examples = self.eval_examples if examples is None else examples
        if not examples:
            raise TrainingError(
                "There is nothing to evaluate on: give eval_examples to the Trainer, or examples to evaluate()."
            )
        size = self.config.batch_size
        with modes(self.model, training=False), torch.no_grad():
            losses = [
                self._loss(examples, range(i, min(i + size, len(examples)))) for i in range(0, len(examples), size)
            ]
        total, count = self._sum(losses)
        if count == 0:
            raise TrainingError("The evaluation examples have no token to measure: every label is masked.")
        if not torch.isfinite(total):
            raise TrainingError(
                f"The evaluation loss after step {self.step} is not a finite number: look at its examples."
            )
        return {"step": self.step, "loss": total.item() / count, "tokens": count}

    def _evaluation_is_due(self) -> bool:
        every = self.config.eval_every or steps_per_epoch(len(self.examples), self.config)
        return self.step % every == 0 or self.step == self.total_steps

    def _evaluate_and_compare(self) -> None:
        record = self._evaluate()
        history = self.history
        history.evaluations.append(record)
        if history.best is None or record["loss"] < history.best["loss"]:
            history.best = record
            if self.config.keep_best:
                self.best_weights = self.weights()
        elif (
            self.config.patience
            and (since := len(history.evaluations) - 1 - history.evaluations.index(history.best))
            >= self.config.patience
        ):
            self.stop(f"no better evaluation in {since}")
        self._tell("on_evaluate", record)

    # --- on disk ------------------------------------------------------------------------------------------------------

    def save(self) -> Path:
        """Writes a checkpoint of the run as it stands into output_dir and returns its folder. All processes must call it.

        Raises DiskError when it cannot be written (DiskFullError: no room); earlier checkpoints are still there, and the run can go on.
        """
        return save_checkpoint(self)

    # --- surroundings -------------------------------------------------------------------------------------------------

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Callbacks hear that the run begins and, whatever ends it, that it is over."""
        self._tell("on_train_begin")
        try:
            yield
        finally:
            self._tell("on_train_exit")

    def _tell(self, hook: str, *values: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self, *values)

    def _bad_number(self, what: str, micro_batches: Sequence[Sequence[int]]) -> TrainingError:
        def row_is_bad(row: int) -> bool:
            batch = send_to_device(self.collate([self.examples[row]]), self.accelerator.device)
            with torch.no_grad(), self._autocast():
                return not all_finite([self.loss_fn(unwrap(self.model), batch).total])

        rows = [row for rows in micro_batches for row in rows]
        return explain_bad_number(what, self.step + 1, rows, row_is_bad, self.parameters, self.history, self.precision)
