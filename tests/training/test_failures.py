"""Bad runs: what is said, and that nothing is lost. (A loss that is no number: `test_trainer.py`; a dead process: `test_processes.py`.)"""

import dataclasses
import errno
import weakref

import pytest
import torch
from conftest import make_tiny_llama
from safetensors import SafetensorError
from toy_runs import PressCtrlC, ScriptedLoss, collate, farthest, sentences, weights

from lora_edu.adapters import LoRAConfig, inject
from lora_edu.adapters import folder as adapter_folder
from lora_edu.adapters import save_load as checkpoint
from lora_edu.data import Example
from lora_edu.errors import DataError, DiskFullError, TrainingError
from lora_edu.training import TrainConfig, Trainer, causal_lm_loss, folder
from lora_edu.training import checkpoints as train_state
from lora_edu.training.folder import checkpoints
from lora_edu.training.memory import advice, megabytes, predict_memory
from lora_edu.training.memory.advice import Shape, memory_for_this_process, what_fits

CUDA_ASSERT = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"


def adapted(dropout: float = 0.2):
    model = make_tiny_llama()
    torch.manual_seed(5)
    return inject(model, LoRAConfig(r=2, lora_dropout=dropout))


def trainer(folder=None, loss_fn=causal_lm_loss, callbacks=(), dropout=0.2, **config) -> Trainer:
    settings = {"batch_size": 4, "epochs": 2, "precision": "fp32", "output_dir": str(folder) if folder else None}
    return Trainer(
        adapted(dropout), sentences(16), loss_fn, TrainConfig(**settings | config), collate=collate,
        callbacks=callbacks, progress=False,
    )  # fmt: skip


class FailsAt:
    """The causal loss, but its `call`-th call fails as torch does, after it has drawn its dropout.

    Its settings are private, so that a run may be resumed with one that fails never.
    """

    def __init__(self, call: int = 0, error: Exception | None = None) -> None:
        self._calls, self._call, self._error, self.filling = 0, call, error, None

    def __call__(self, model, batch):
        self._calls += 1
        if self._calls == self._call:
            filling = causal_lm_loss(model, batch).total
            self.filling = weakref.ref(filling)
            if self._error is not None:
                raise self._error
            torch.empty(2**60, dtype=torch.uint8)  # more than there is anywhere: torch's own error
        return causal_lm_loss(model, batch)


class TooLarge:
    """The causal loss on a device that holds only so many rows at once."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __call__(self, model, batch):
        if model.training and len(batch["input_ids"]) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return causal_lm_loss(model, batch)


# --- no memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        None,
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 5 GB, max allowed: 6 GB)."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        MemoryError("array too large"),
    ],
    ids=["the CPU's own", "CUDA", "MPS", "CPU on Windows", "NumPy"],
)  # fmt: skip
def test_out_of_memory_keeps_everything(tmp_path, error):
    """Saved after the last whole step; the same trainer goes on bit for bit, and so does a new one."""
    reference = trainer()
    reference.train()
    expected = weights(reference.model)
    loss_fn = FailsAt(4, error)
    run = trainer(tmp_path, loss_fn)
    with pytest.raises(
        TrainingError,
        match=r"^Out of memory in step 4\. .* weights are those after step 3, saved in .*step-00000003\. To go on",
    ) as told:
        run.train()
    assert str(error or "you tried to allocate 1152921504606846976 bytes").splitlines()[0] in str(told.value)
    assert loss_fn.filling() is None, "what filled the memory is still held, by the frames of the error"
    resumed = trainer(tmp_path, FailsAt())
    resumed.resume()
    assert farthest(weights(resumed.model), expected) == 0
    run.train()
    assert farthest(weights(run.model), expected) == 0 and run.history.losses == reference.history.losses


def test_it_says_by_how_much_and_what_would_fit(monkeypatch):
    """Room for two of four rows: the words come from the ledger, and doing as they say works."""
    run = trainer(None, TooLarge(2), dropout=0.0)
    rows = advice.step_rows(16, 0, run.config)[0]
    batch = collate([run.examples[row] for row in rows])
    tokens, answers = batch["input_ids"].shape[1], int((batch["labels"] != -100).sum())
    needed, halved, recomputed = (
        predict_memory(
            run.model, n, tokens, answer_tokens=-(-answers * n // 4), padded=True, gradient_checkpointing=again
        ).total
        for n, again in ((4, False), (2, False), (4, True))
    )
    assert recomputed < needed and halved < needed
    room = max(halved, recomputed) + 1
    monkeypatch.setattr(advice, "memory_for_this_process", lambda device: room)
    with pytest.raises(TrainingError) as told:
        run.train()
    words = str(told.value)
    assert f"By the ledger a step with 4 rows of {tokens} tokens needs {megabytes(needed)}" in words
    assert f"this process can have {megabytes(room)}, which is {megabytes(needed - room)} too little" in words
    assert f"with the same steps: batch_size=2, gradient_accumulation_steps=2 ({megabytes(halved)}); or gradient_checkpointing=True ({megabytes(recomputed)})" in words  # fmt: skip
    assert "Nothing is lost: the weights are those after step 0" in words
    run.config = dataclasses.replace(run.config, batch_size=2, gradient_accumulation_steps=2)
    run.train()
    reference = trainer(None, dropout=0.0)
    reference.train()
    assert farthest(weights(run.model), weights(reference.model)) < 1e-5
    assert run.history.losses == pytest.approx(reference.history.losses, rel=1e-5)


def test_a_run_resumes_with_smaller_batches_and_checkpointing_but_not_with_other_steps(tmp_path):
    reference = trainer(None, dropout=0.0)
    reference.train()
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, callbacks=[PressCtrlC(3)], dropout=0.0).train()
    resumed = trainer(tmp_path, batch_size=1, gradient_accumulation_steps=4, gradient_checkpointing=True, dropout=0.0)
    resumed.resume()
    assert resumed.history.losses == pytest.approx(reference.history.losses, rel=1e-5)
    assert farthest(weights(resumed.model), weights(reference.model)) < 1e-5
    with pytest.raises(TrainingError, match="config rows a step: 4 then, 2 now"):
        trainer(tmp_path, batch_size=2).resume()


def ledger(weights: int, a_row: int, checkpointed: int):
    """A made-up ledger: bytes of the weights, of a row of 8 tokens, and of one with checkpointing."""
    return lambda shape, again: weights + shape.rows * shape.tokens * (checkpointed if again else a_row) // 8


@pytest.mark.parametrize(
    ("room", "batch_size", "expected"),
    [
        (500, 8, [({"batch_size": 4, "gradient_accumulation_steps": 6}, 500), ({"gradient_checkpointing": True}, 180)]),
        (200, 8, [({"batch_size": 1, "gradient_accumulation_steps": 24}, 200), ({"gradient_checkpointing": True}, 180)]),
        (170, 8, [({"gradient_checkpointing": True, "batch_size": 4, "gradient_accumulation_steps": 6}, 140)]),
        (430, 6, [({"batch_size": 3, "gradient_accumulation_steps": 6}, 400), ({"gradient_checkpointing": True}, 160)]),
        (105, 8, []),
    ],
)  # fmt: skip
def test_the_least_change_of_each_kind_is_named(room, batch_size, expected):
    config = TrainConfig(batch_size=batch_size, gradient_accumulation_steps=3)
    assert what_fits(config, Shape(batch_size, 8, 20), ledger(100, 100, 10), room) == expected


def test_checkpointing_is_not_advised_where_it_is_on():
    config = TrainConfig(batch_size=4, gradient_checkpointing=True)
    assert what_fits(config, Shape(4, 8, 20), ledger(100, 100, 10), 120) == [
        ({"batch_size": 2, "gradient_accumulation_steps": 2}, 120)
    ]


@pytest.mark.parametrize(
    ("room", "words"),
    [
        (10**12, "so something else holds memory here"),
        (None, r"Even one row does not fit\. Rows of \d+ tokens would, with gradient_checkpointing=True"),
        (1, "No batch fits: take a smaller base, load it in bf16, or shard it"),
    ],
)
def test_other_ends_of_memory(monkeypatch, room, words):
    run = trainer(None, TooLarge(0))
    if room is None:
        room = predict_memory(run.model, 1, 3, answer_tokens=3, gradient_checkpointing=True).total
    monkeypatch.setattr(advice, "memory_for_this_process", lambda device: room)
    with pytest.raises(TrainingError, match=words):
        run.train()


def test_a_model_that_the_ledger_does_not_know_gets_general_advice():
    def full(model, batch):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    run = Trainer(
        torch.nn.Linear(2, 2), [1.0, 2.0], full, TrainConfig(precision="fp32"), collate=torch.tensor, progress=False
    )
    with pytest.raises(TrainingError, match="a smaller batch_size with more gradient_accumulation_steps, or"):
        run.train()


def test_an_update_broken_off_is_not_trusted(tmp_path):
    reference = trainer()
    reference.train()
    run = trainer(tmp_path, save_every=2)
    update, calls = run.optimizer.step, iter(range(100))

    def breaks_off():
        update()
        if next(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    run.optimizer.step = breaks_off
    with pytest.raises(TrainingError, match=r"in the middle of an update, .*The newest checkpoint is .*step-00000002"):
        run.train()
    with pytest.raises(TrainingError, match=r"Step 3 was broken off inside its update.*resume\(\) from a checkpoint"):
        run.train()
    run.resume()  # in the same trainer
    assert farthest(weights(run.model), weights(reference.model)) == 0


def test_the_room_of_this_process_is_that_of_the_machine():
    import psutil

    room = memory_for_this_process(torch.device("cpu"))
    assert psutil.Process().memory_info().rss < room <= psutil.virtual_memory().total


# --- no device --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(CUDA_ASSERT),
        RuntimeError("CUDA error: unspecified launch failure"),
        getattr(torch, "AcceleratorError", RuntimeError)("HIP error: the device was lost"),
    ],
)
def test_a_device_that_vanishes(tmp_path, error):
    reference = trainer()
    reference.train()
    run = trainer(tmp_path, FailsAt(4, error), save_every=2)
    with pytest.raises(
        TrainingError,
        match=r"The device cpu stopped answering in step 4.*newest checkpoint is .*step-00000002. To go on",
    ) as told:
        run.train()
    assert str(error).splitlines()[0] in str(told.value) and told.value.__cause__ is error
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-00000002"], (
        "nothing can be read off a lost device"
    )
    resumed = trainer(tmp_path, FailsAt(), save_every=2)
    resumed.resume()
    assert farthest(weights(resumed.model), weights(reference.model)) == 0


def test_other_errors_stay_as_they_are(tmp_path):
    for error in (
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        KeyError("labels"),
        OSError(errno.EIO, "I/O error"),
    ):
        with pytest.raises(type(error)) as raised:
            trainer(tmp_path, FailsAt(2, error)).train()
        assert raised.value is error


# --- no room on the disk ----------------------------------------------------------------------------------------------


class FullDisk:
    """`save_file` on a disk that is full from call `first` to call `last`; it leaves half a file, as a full disk does."""

    def __init__(self, monkeypatch, module, error: Exception, first: int = 1, last: int = 10**6) -> None:
        self.calls, self.error, self.full, self.write = 0, error, range(first, last + 1), module.save_file
        monkeypatch.setattr(module, "save_file", self)

    def __call__(self, tensors, path, **options):
        self.calls += 1
        if self.calls in self.full:
            path.write_bytes(b"half")
            raise self.error
        self.write(tensors, path, **options)


FULL = [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")]  # fmt: skip


@pytest.mark.parametrize("error", FULL, ids=["from the system", "from safetensors"])
def test_a_full_disk_ends_no_run_and_takes_no_checkpoint(tmp_path, monkeypatch, error):
    reference = trainer(tmp_path / "reference", save_every=2)
    reference.train()
    size = sum(path.stat().st_size for path in checkpoints(tmp_path / "reference")[1].iterdir())
    FullDisk(monkeypatch, train_state, error, first=3)
    run = trainer(tmp_path / "full", save_every=2)
    with pytest.warns(UserWarning) as told:
        run.train()
    assert len(told) == 2 and run.history.stopped == "finished"
    words = str(told[0].message)
    assert words.startswith(
        "Nothing was saved after step 6; the run goes on. The disk is full. The checkpoint step-00000006 needs"
    )
    megabytes_needed = float(words.split("needs ")[1].split(" MB")[0])
    assert megabytes_needed == pytest.approx(size / 1e6, abs=0.06) and str(tmp_path / "full") in words
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == [".lock", "step-00000002", "step-00000004"]
    assert farthest(weights(run.model), weights(reference.model)) == 0
    monkeypatch.undo()
    resumed = trainer(tmp_path / "full", save_every=2)
    resumed.resume()
    assert farthest(weights(resumed.model), weights(reference.model)) == 0


FAILING = {
    "read-only": OSError(errno.EROFS, "Read-only file system"),
    "no rights": PermissionError(errno.EACCES, "Permission denied"),
    "a vanished mount": OSError(errno.ENOTCONN, "Transport endpoint is not connected"),
    "a failing disk": SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)"),
}


@pytest.mark.parametrize("error", FAILING.values(), ids=FAILING)
def test_a_disk_that_fails_in_any_way_ends_no_run_and_keeps_the_best_weights(tmp_path, monkeypatch, error):
    """It fails for the second checkpoint and for the last one; the third is written, and what is left is whole."""

    def run(folder) -> Trainer:
        settings = TrainConfig(
            batch_size=4, epochs=2, eval_every=2, keep_best=True, save_every=2, precision="fp32", output_dir=str(folder)
        )
        return Trainer(
            adapted(), sentences(16), ScriptedLoss([3.0, 1.0, 2.0, 4.0]), settings, collate=collate,
            eval_examples=sentences(1), progress=False,
        )  # fmt: skip

    reference = run(tmp_path / "reference")
    reference.train()
    failing = run(tmp_path / "failing")
    disk = FullDisk(monkeypatch, train_state, error, first=2, last=2)
    disk.full = (2, 4)
    with pytest.warns(UserWarning) as told:
        failing.train()
    assert [str(warning.message).split(";")[0] for warning in told] == [
        f"Nothing was saved after step {step}" for step in (4, 8)
    ]
    assert "could not be written into" in str(told[0].message) and "Is the disk still there" in str(told[0].message)
    assert farthest(weights(failing.model), weights(reference.model)) == 0 and failing.history.best["step"] == 4
    assert [folder.name for folder in checkpoints(tmp_path / "failing")] == ["step-00000006", "step-00000002"]
    assert {path.name for path in (tmp_path / "failing").iterdir()} == {"step-00000006", "step-00000002", ".lock"}


def test_the_best_weights_are_put_back_whatever_ends_the_last_save(tmp_path, monkeypatch):
    run = Trainer(
        adapted(), sentences(8), ScriptedLoss([1.0, 2.0]),
        TrainConfig(batch_size=4, eval_every=1, keep_best=True, precision="fp32", output_dir=str(tmp_path)),
        collate=collate, eval_examples=sentences(1), progress=False,
    )  # fmt: skip

    def broken(*args, **options):
        raise KeyError("a fault of another kind")

    monkeypatch.setattr(train_state, "save_file", broken)
    with pytest.raises(KeyError):
        run.train()
    assert farthest(weights(run.model), run.best_weights) == 0


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_first_step(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    run = trainer(tmp_path / "file" / "run", FailsAt(1, RuntimeError("a step was made")))
    with pytest.raises(
        TrainingError, match=r"Nothing can be written into .*file/run \(Not a directory\): choose another"
    ):
        run.train()

    def refused(**options):
        raise FAILING["read-only"]

    monkeypatch.setattr(folder.tempfile, "TemporaryFile", refused)
    run = trainer(tmp_path / "run", FailsAt(1, RuntimeError("a step was made")))
    with pytest.raises(TrainingError, match=r"\(Read-only file system\)"):
        run.train()
    assert run.step == 0


def test_an_ended_run_is_read_from_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    first = trainer(tmp_path)
    first.train()

    def refused(**options):
        raise FAILING["read-only"]

    monkeypatch.setattr(folder.tempfile, "TemporaryFile", refused)
    second = trainer(tmp_path)
    second.resume()
    assert farthest(weights(second.model), weights(first.model)) == 0


def test_interrupted_on_a_full_disk_and_saved_once_there_is_room(tmp_path, monkeypatch):
    reference = trainer()
    reference.train()
    FullDisk(monkeypatch, train_state, FULL[0], last=2)
    run = trainer(tmp_path, callbacks=[PressCtrlC(3)])
    with pytest.raises(
        KeyboardInterrupt,
        match=r"Stopped after step 3, but could not save\. The disk is full.*Then save\(\) saves, or train\(\)",
    ):
        run.train()
    with pytest.raises(DiskFullError, match="The disk is full"):
        run.save()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    torch.rand(5)  # what the caller draws meanwhile does not count
    run.save()
    resumed = trainer(tmp_path)
    resumed.resume()
    assert farthest(weights(resumed.model), weights(reference.model)) == 0


@pytest.mark.parametrize("error", FULL, ids=["from the system", "from safetensors"])
def test_a_full_disk_leaves_the_adapter_that_was_there(tmp_path, monkeypatch, error):
    model = adapted()
    checkpoint.save(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.B.fill_(1.0)
    FullDisk(monkeypatch, adapter_folder, error)
    with pytest.raises(DiskFullError, match=r"The disk is full\. adapter_model\.safetensors needs .* MB"):
        checkpoint.save(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- rows that the model cannot read ----------------------------------------------------------------------------------


def plain_run(model, rows, **options) -> Trainer:
    settings = TrainConfig(batch_size=4, max_steps=2, precision="fp32")
    return Trainer(model, rows, causal_lm_loss, settings, collate=options.pop("collate", collate), progress=False)


def learnt_positions(positions: int = 8):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=positions)
    return inject(GPT2LMHeadModel(config), LoRAConfig(r=2, target_modules=["c_attn"]))


GOOD = [([1, 2, 3, 4], 2)] * 3


@pytest.mark.parametrize("token", [32, 49_152, -1])
def test_a_token_beyond_the_table_names_its_row(token):
    run = plain_run(adapted(), [*GOOD, ([1, token, 3, 4], 3)])
    with pytest.raises(
        DataError, match=rf"^Row 3 of the examples: the token {token} is not among the model's 32 tokens"
    ):
        run.train()


def test_a_label_beyond_the_table_and_an_adapted_table():
    def shifted(rows):
        batch = collate(rows)
        batch["labels"][batch["labels"] == 4] = 40
        return batch

    with pytest.raises(DataError, match=r"^Rows \d, \d, \d of the examples: the label 40 is not among"):
        plain_run(adapted(), GOOD, collate=shifted).train()
    model = inject(make_tiny_llama(), LoRAConfig(r=2, target_modules=["embed_tokens", "q_proj"]))
    with pytest.raises(DataError, match=r"the token 99 is not among the model's 32 tokens"):
        plain_run(model, [*GOOD, ([1, 99, 3, 4], 2)]).train()


def test_a_row_beyond_the_positions_is_refused_where_they_are_learnt_and_else_warned_of():
    long = (list(range(1, 11)), 2)
    with pytest.raises(DataError, match=r"of the examples: 10 tokens, and this model has 8 positions: shorten"):
        plain_run(learnt_positions(), [*GOOD, long]).train()
    assert plain_run(learnt_positions(16), [*GOOD, long]).train().stopped == "finished"
    model = inject(make_tiny_llama(max_position_embeddings=8), LoRAConfig(r=2))
    with pytest.warns(UserWarning, match=r"^Row 3 of the examples: 10 tokens, and this model was made for 8 at most"):
        plain_run(model, [*GOOD, long]).train()


def test_examples_that_do_not_fit_are_named_before_the_first_step():
    fine, long, beyond = (Example(ids, ids) for ids in ([1] * 8, [1] * 9, [1, 32]))
    for bad, words in (
        (long, "row 2: 9 tokens, and the model knows 8"),
        (beyond, "row 2: token 32, and the model's table"),
    ):
        with pytest.raises(DataError, match=words):
            plain_run(learnt_positions(), [fine, bad])
        with pytest.raises(DataError, match=words):
            Trainer(learnt_positions(), [fine], causal_lm_loss, collate=collate, eval_examples=[fine, bad])


def test_packed_rows_count_their_own_positions():
    def packed(rows):
        ids = torch.tensor([[token for ids, _ in rows for token in ids]])
        positions = torch.tensor([[i for ids, _ in rows for i in range(len(ids))]])
        return {"input_ids": ids, "labels": ids.clone(), "position_ids": positions}

    assert plain_run(learnt_positions(), [([1, 2, 3, 4], 2)] * 4, collate=packed).train().stopped == "finished"


def test_a_fault_of_the_held_out_rows_is_named_as_well():
    run = plain_run(adapted(), GOOD)
    with pytest.raises(DataError, match="Row 1 of the examples: the token 77"):
        run.evaluate([GOOD[0], ([77, 1, 2], 1)])
