"""resize, combine, extract and merge as a user meets them: what they write, what they say, and that nothing is half-written."""

import pytest
import torch
from command_line import run, said, write_tiny_model
from helpers import randomise, tokens

from lora_edu.adapters import LoRAConfig, combine, extract, inject, load, lora_layers, resize, save, unload
from lora_edu.adapters.folder import read, read_config
from lora_edu.models import load_base


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the tiny model and two adapters for it, one of which a run left its rows beside."""
    folder = tmp_path_factory.mktemp("place")
    write_tiny_model(folder / "model")
    for seed, (name, targets) in enumerate({"a": ["q_proj", "up_proj"], "b": ["q_proj", "v_proj"]}.items()):
        model = load_base(folder / "model").model
        config = LoRAConfig(r=4, target_modules=targets, base_model_name_or_path=str(folder / "model"))
        save(randomise(inject(model, config), seed=seed, std=0.1), folder / name)
        (folder / name / "trained_on.txt").write_text(f"row{name}\nboth\n")
        (folder / name / "run.yaml").write_text(f"r: 4\nsystem: Be brief.\nmax_length: {100 + seed}\n")
    (folder / "a" / "held_out.jsonl").write_text("{}\n")
    return folder


def logits(place, adapter=None):
    model = load_base(place / "model").model
    return (load(model, adapter) if adapter else model)(tokens()).logits


def nothing_else(folder, before):
    return sorted(path.name for path in folder.iterdir()) == before


def test_resize_writes_the_cut_adapter_and_what_is_known_of_its_run(place, tmp_path):
    result = run("resize", place / "a", "--rank", 2, "--out", tmp_path / "new" / "cut")
    assert result.exit_code == 0, result.output
    model = load(load_base(place / "model").model, place / "a")
    report = resize(model, 2)
    assert torch.equal(logits(place, tmp_path / "new" / "cut"), model(tokens()).logits)
    assert read_config(tmp_path / "new" / "cut").r == 2
    assert str(report) in said(result) and "lora-edu eval" in said(result)
    for name in ("run.yaml", "trained_on.txt", "held_out.jsonl"):
        kept, there = ((folder / name).read_text().split() for folder in (tmp_path / "new" / "cut", place / "a"))
        assert sorted(kept) == sorted(there)
    result = run("resize", place / "a", "--energy", 0.9, "--out", tmp_path / "energy")
    assert result.exit_code == 0, result.output
    ranks = {A.shape[0] for key, A in read(tmp_path / "energy")[1].items() if "lora_A" in key}
    assert ranks == set(resize(load(load_base(place / "model").model, place / "a"), energy=0.9).ranks.values())


@pytest.mark.parametrize("more", [[], ["--method", "svd", "--rank", "3"], ["--method", "ties_svd", "--density", "0.5"]])
def test_combine_writes_what_the_module_makes(place, tmp_path, more):
    result = run("combine", f"{place / 'a'}=0.5", f"{place / 'b'}=-2", *more, "--out", tmp_path / "both")
    assert result.exit_code == 0, result.output
    model = load_base(place / "model").model
    for name in ("a", "b"):
        load(model, place / name, name)
    options = dict(zip(more[::2], more[1::2]))
    rank, density = options.get("--rank"), options.get("--density")
    report = combine(
        model, {"a": 0.5, "b": -2}, "c", options.get("--method", "cat"), rank and int(rank), density and float(density)
    )
    written = load(load_base(place / "model").model, tmp_path / "both")
    for path, layer in lora_layers(written).items():
        torch.testing.assert_close(layer.delta_weight("default"), lora_layers(model)[path].delta_weight("c"))
    assert f"{report.off:.2%} off the exact sum" in said(result) and "cosine of" in said(result)
    assert (tmp_path / "both" / "trained_on.txt").read_text().split() == ["both", "rowa", "rowb"]
    assert (
        tmp_path / "both" / "run.yaml"
    ).read_text() == "system: Be brief.\n"  # the lengths differ, nothing else is told


def test_extract_gives_the_adapter_back_and_names_what_it_leaves_out(place, tmp_path):
    tuned = load(load_base(place / "model").model, place / "a")
    from lora_edu.adapters import merge

    merge(tuned, keep_base=False)
    unload(tuned)
    tuned.model.norm.weight.data += 0.5
    tuned.save_pretrained(tmp_path / "tuned")
    load_base(place / "model").tokenizer.save_pretrained(tmp_path / "tuned")
    start = ["extract", tmp_path / "tuned", "--base", place / "model"]
    result = run(*start, "--rank", 4, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "left out, though it differs: model.norm.weight" in said(result)
    torch.testing.assert_close(logits(place, tmp_path / "out"), logits(place, place / "a"), rtol=1e-4, atol=1e-4)
    assert read_config(tmp_path / "out").base_model_name_or_path == str(place / "model")
    result = run(*start, "--energy", 0.5, "--targets", "q_proj", "--out", tmp_path / "q")
    assert result.exit_code == 0, result.output
    base, other = load_base(place / "model").model, load_base(tmp_path / "tuned").model
    report = extract(base, other, energy=0.5, targets=["q_proj"])
    assert str(report) in result.output.replace("\n  ", " ") and "up_proj" in said(result)
    refused = run(*start, "--rank", 4, "--targets", "q_porj", "--out", tmp_path / "x")
    assert refused.exit_code == 1 and "did you mean q_proj" in said(refused)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["resize", "a", "--out", "x"], 2, "give --rank or --energy"),
        (["resize", "a", "--rank", "2", "--energy", "0.5", "--out", "x"], 2, "give --rank or --energy"),
        (["resize", "a", "--energy", "90", "--out", "x"], 2, "a share in (0, 1]"),
        (["resize", "--rank", "2", "--out", "x"], 2, "name an adapter's folder"),
        (["resize", "nowhere", "--rank", "2", "--out", "x"], 1, "nowhere does not exist"),
        (["resize", "a", "--rank", "2", "--out", "b"], 1, "b is there already, and nothing is overwritten"),
        (["resize", "a", "--rank", "99", "--out", "x"], 1, "no update here has a rank above"),
        (["combine", "a=x", "b", "--out", "x"], 2, "FOLDER=0.5"),
        (["combine", "a=inf", "b", "--out", "x"], 2, "finite"),
        (["combine", "a=1", "a=2", "--out", "x"], 2, "named twice"),
        (["combine", "a", "b", "--out", "model"], 1, "there already"),
        (["combine", "a", "b", "--method", "mean", "--out", "x"], 1, "choose cat, compact"),
        (["combine", "a", "b", "--method", "ties", "--out", "x"], 1, "needs density"),
        (["combine", "a", "nowhere", "--out", "x"], 1, "nowhere does not exist"),
        (["combine", "a", "b", "--method", "cat", "--rank", "2", "--out", "x"], 1, "only svd"),
        (["extract", "model", "--out", "x"], 2, "give --rank or --energy"),
        (
            ["extract", "model", "--base", "model", "--rank", "2", "--out", "x"],
            1,
            "do not differ in any of the 14 targets",
        ),
        (["extract", "./nowhere", "--base", "model", "--rank", "2", "--out", "x"], 1, "There is no folder"),
        (["merge", "a", "--out", "b"], 1, "there already"),
    ],
)
def test_a_mistake_gets_a_sentence_and_writes_nothing(place, arguments, code, words, monkeypatch):
    monkeypatch.chdir(place)
    before = sorted(path.name for path in place.iterdir())
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert words in said(result) and "Traceback" not in result.output
    assert nothing_else(place, before)


@pytest.mark.parametrize("command", ["resize", "combine", "extract", "merge"])
@pytest.mark.parametrize("fault", [OSError("no space left on device"), KeyboardInterrupt()])
def test_what_fails_in_the_middle_leaves_nothing_behind(place, command, fault, monkeypatch, tmp_path):
    from transformers import PreTrainedModel

    half = {"merge": (PreTrainedModel, "save_pretrained")}.get(command)

    def fails(*arguments, **_):
        folder = arguments[1]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "half").write_text("half")
        raise fault

    monkeypatch.setattr(*(half or ("lora_edu.adapters.save_load.save",)), fails)
    arguments = {
        "resize": [place / "a", "--rank", 2],
        "combine": [place / "a", place / "b"],
        "extract": [place / "other", "--base", place / "model", "--rank", 2],
        "merge": [place / "a"],
    }[command]
    if command == "extract":
        model = load_base(place / "model").model
        model.model.layers[0].mlp.up_proj.weight.data += 0.1
        model.save_pretrained(tmp_path / "other")
        load_base(place / "model").tokenizer.save_pretrained(tmp_path / "other")
        arguments[0] = tmp_path / "other"
    result = run(command, *arguments, "--out", tmp_path / "out" / "adapter")
    assert result.exit_code == (130 if isinstance(fault, KeyboardInterrupt) else 1), result.output
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "command",
    ["eval nosuch", "chat nosuch", "merge nosuch --out OUT", "resize nosuch --rank 2 --out OUT", "combine nosuch other --out OUT"]
    + [f"export nosuch --{form} OUT" for form in ("portable", "merged", "gguf", "gguf-adapter")]
    + ["serve nosuch"],
)
def test_an_adapter_that_is_not_there_is_named_by_every_command(command, tmp_path):
    result = run(*command.replace("OUT", str(tmp_path / "new")).split())
    assert result.exit_code != 0 and "nosuch does not exist" in f"{said(result)} {result.exception}"
    assert not (tmp_path / "new").exists()
