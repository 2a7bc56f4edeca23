"""The command `lora-edu` run in this process, and a tiny model and rows to run it on."""

from pathlib import Path

from conftest import make_tiny_llama
from tiny_package import vocabulary, write_gguf
from typer.testing import CliRunner

from lora_edu.cli import app

ROWS = [{"instruction": f"ping {n}", "output": f"pong {n}"} for n in range(20)]


TRAIN = ["train", "--valid-rows", "4", "--precision", "fp32", "--lr", "0.02"]


def run(*arguments, **options):
    return CliRunner(env={"COLUMNS": "300", "NO_COLOR": "1"}).invoke(app, [str(a) for a in arguments], **options)


def said(result) -> str:
    """Everything that was printed, on one line, box drawing and all."""
    return " ".join(result.output.split())


def write_tiny_model(folder: Path) -> Path:
    from transformers import AutoTokenizer

    folder.mkdir(exist_ok=True)
    llama = make_tiny_llama(vocab_size=len(vocabulary()), tied=True, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    write_gguf(llama, folder / "tiny.gguf")
    AutoTokenizer.from_pretrained(folder, gguf_file="tiny.gguf").save_pretrained(folder)
    llama.save_pretrained(folder)
    return folder
