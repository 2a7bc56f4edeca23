"""The torch engine: answers in a batch are those of one at a time; what fails costs nobody else's answer."""

import queue
import threading

import pytest
import torch
from helpers import randomise
from safetensors.torch import load_file, save_file
from serving_kit import collect, held

from lora_edu.adapters import FullFineTuning, LoRAConfig, PrefixTuning, PromptTuning, attach, inject, save
from lora_edu.data import Row, prompt_ids
from lora_edu.errors import AdapterError, BusyError, CheckpointError, ServingError
from lora_edu.evaluation import generate
from lora_edu.models import load_base
from lora_edu.serving import Limits, Question, TorchEngine, ask

NAMES = [None, "small", "wide", "table", "dora", "ia3"]


def prompts(tokenizer, count=12):
    return [
        tuple(tokenizer(f"{'the thing ' * (i % 3)}{i}", add_special_tokens=False)["input_ids"]) for i in range(count)
    ]


@pytest.fixture(scope="module")
def engine(model_folder, adapters):
    engine = TorchEngine(*load_base(model_folder, device="cpu"))
    for name, folder in adapters.items():
        engine.add(name, folder)
    yield engine
    engine.close()


def test_a_batch_answers_as_one_at_a_time(engine):
    questions = [
        Question(prompt, NAMES[i % len(NAMES)], dial=0.5 if i == 7 else 1.0, max_tokens=3 + i)
        for i, prompt in enumerate(prompts(engine.tokenizer))
    ]
    alone = [ask(engine, question) for question in questions]
    before = len(engine.batches)
    got = collect(engine, questions)
    assert got == [(a.text, a.tokens, a.finish) for a in alone]
    assert sorted(engine.batches[before:]) == [2, 2, 8]  # DoRA's rows, IA³'s, and all others together
    assert len({a.text for a in alone}) > 6  # adapters and prompts do differ


def test_the_answer_is_that_of_generate(engine, model_folder):
    model, tokenizer = load_base(model_folder, device="cpu")
    rows = [Row.chat(f"thing {i}", "x") for i in range(3)]
    expected = generate(model, tokenizer, rows, max_new_tokens=12)
    got = [ask(engine, Question(tuple(prompt_ids(row.messages[:-1], tokenizer)), max_tokens=12)) for row in rows]
    assert [a.text.strip() for a in got] == expected


@pytest.mark.parametrize(
    "method", [PrefixTuning(num_virtual_tokens=3), PromptTuning(num_virtual_tokens=3)], ids=["prefix", "prompt"]
)
def test_virtual_tokens_are_served_in_batches_of_their_own(model_folder, tmp_path, method):
    model, tokenizer = load_base(model_folder, device="cpu")
    save(randomise(attach(model, method), std=0.5), tmp_path / "adapter")
    rows = [Row.chat("thing " * n, "x") for n in (1, 2, 3)]
    expected = generate(model, tokenizer, rows, max_new_tokens=8, batch_size=1)
    engine = TorchEngine(*load_base(model_folder, device="cpu"))
    assert "no low-rank update" in engine.add("v", tmp_path / "adapter")
    prompts = [tuple(prompt_ids(row.messages[:-1], tokenizer)) for row in rows]
    got = collect(engine, [Question(prompt, "v", max_tokens=8) for prompt in prompts])
    assert [text.strip() for text, _, _ in got] == expected and engine.batches[-1] == 3
    plain = load_base(model_folder, device="cpu").model
    assert (
        ask(engine, Question(prompts[0], "v", 0.0, 8)).text.strip()
        == generate(plain, tokenizer, rows[:1], max_new_tokens=8)[0]
    )
    with pytest.raises(AdapterError, match="has no dial"):
        engine.submit(Question(prompts[0], "v", 0.5), print)
    engine.close()


def test_drawn_answers_depend_on_their_seed_alone(engine):
    a, b = prompts(engine.tokenizer, 2)
    question = Question(a, "small", temperature=1.0, top_p=0.9, seed=7, max_tokens=12)
    alone = ask(engine, question)
    other = Question(b, "wide", temperature=1.5, seed=1, max_tokens=12)
    assert collect(engine, [other, question, other])[1][0] == alone.text
    assert ask(engine, Question(a, "small", temperature=1.0, top_p=0.9, seed=8, max_tokens=12)).text != alone.text
    greedy = ask(engine, Question(a, "small", max_tokens=12)).text
    assert ask(engine, Question(a, "small", temperature=1.0, top_p=1e-9, seed=3, max_tokens=12)).text == greedy


def test_cancelled_and_late_questions_end(engine):
    prompt = prompts(engine.tokenizer, 1)[0]
    pieces = queue.SimpleQueue()
    ticket = engine.submit(Question(prompt, max_tokens=40), pieces.put)
    ticket.cancel()
    piece = pieces.get(timeout=60)
    while piece.finish is None:
        piece = pieces.get(timeout=60)
    assert piece.finish == "cancelled" and piece.tokens < 40
    assert ask(engine, Question(prompt, max_tokens=40, seconds=0.0)).finish == "timeout"
    assert ask(engine, Question(prompt, max_tokens=2)).finish == "length"


def test_a_full_queue_and_a_closed_engine(model_folder):
    engine = TorchEngine(*load_base(model_folder, device="cpu"), Limits(queue=2))
    got = queue.SimpleQueue()
    with held(engine):
        for _ in range(2):
            engine.submit(Question((5, 6), max_tokens=2), got.put)
        with pytest.raises(BusyError, match="2 questions wait already"):
            engine.submit(Question((5, 6)), got.put)
    engine.close(seconds=60)  # which answers what it took
    assert _ends(got) == ["length", "length"]
    with pytest.raises(ServingError, match="closing"):
        engine.submit(Question((5, 6)), got.put)
    with pytest.raises(ServingError, match="closing"):
        engine.work(lambda model: None)


def _ends(pieces):
    found = []
    while not pieces.empty():
        if (piece := pieces.get()).finish:
            found.append(piece.finish)
    return found


def test_a_fault_costs_its_batch_alone(engine, monkeypatch):
    prompt = prompts(engine.tokenizer, 1)[0]
    expected = ask(engine, Question(prompt, "small", max_tokens=4))
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_forward", lambda *inputs: 1 / 0)
        broken = ask(engine, Question(prompt, "small", max_tokens=4))
    assert broken.finish == "error" and "ZeroDivisionError" in broken.error
    assert ask(engine, Question(prompt, "small", max_tokens=4)) == expected


def test_unloading_waits_for_what_was_asked(model_folder, adapters):
    engine = TorchEngine(*load_base(model_folder, device="cpu"))
    plain = ask(engine, Question((5, 6, 7), max_tokens=4)).text
    engine.add("small", adapters["small"])
    asked = [Question((5, 6, 7), "small", max_tokens=4)] * 3
    expected = ask(engine, asked[0]).text
    got = queue.SimpleQueue()
    leaving = threading.Thread(target=lambda: engine.remove("small"))
    with held(engine):
        for question in asked:
            engine.submit(question, got.put)
        leaving.start()
    leaving.join(timeout=60)
    assert _ends(got) == ["length"] * 3
    with pytest.raises(AdapterError, match="no adapter 'small'"):
        engine.submit(asked[0], got.put)
    assert ask(engine, Question((5, 6, 7), max_tokens=4)).text == plain != expected
    engine.close()


def test_adapters_that_do_not_fit_are_refused_and_change_nothing(engine, adapters, model_folder, tmp_path):
    before = ask(engine, Question((5, 6, 7), "wide", max_tokens=8))
    cut = tmp_path / "cut"
    cut.mkdir()
    for file in adapters["small"].iterdir():
        (cut / file.name).write_bytes(file.read_bytes()[: 700 if file.suffix == ".safetensors" else None])
    with pytest.raises(CheckpointError, match="damaged"):
        engine.add("cut", cut)
    tampered = load_file(adapters["small"] / "adapter_model.safetensors")
    for change, words in (
        (lambda t: t * float("nan"), "not finite"),
        (lambda t: t[:1], "has shape"),
        (None, "missing"),
    ):
        key = next(iter(tampered))
        changed = {k: change(v) if change and k == key else v for k, v in tampered.items() if change or k != key}
        save_file({k: v.contiguous() for k, v in changed.items()}, cut / "adapter_model.safetensors")
        with pytest.raises(CheckpointError, match=words):
            engine.add("tampered", cut)
    other = load_base(model_folder, device="cpu").model
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.mul_(2)
    save(inject(other, LoRAConfig(r=2)), tmp_path / "foreign")
    with pytest.raises(CheckpointError, match=r"base with other weights.*--any-base"):
        engine.add("foreign", tmp_path / "foreign")
    full = load_base(model_folder, device="cpu").model
    save(attach(full, FullFineTuning()), tmp_path / "full")
    with pytest.raises(AdapterError, match="changes the base's own weights"):
        engine.add("full", tmp_path / "full")
    with pytest.raises(CheckpointError, match="already"):
        engine.add("wide", adapters["wide"])
    with pytest.raises(CheckpointError, match="cannot name"):
        engine.add("a.b", adapters["wide"])
    assert ask(engine, Question((5, 6, 7), "wide", max_tokens=8)) == before
    assert set(engine.alone) == {"dora", "ia3"}
