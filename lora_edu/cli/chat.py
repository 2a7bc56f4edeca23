"""`lora-edu chat`: talk to a model in the terminal, and turn an adapter's dial."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lora_edu.cli.common import Adapter, Bits, Folder, Model, Scale, System, finite, opened, the_adapter
from lora_edu.cli.run_folder import run_of
from lora_edu.errors import AdapterError


def chat(
    folder: Folder = None,
    adapter: Adapter = None,
    scale: Scale = 1.0,
    model: Model = None,
    bits: Bits = None,
    system: System = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 200,
    temperature: Annotated[
        float,
        typer.Option(min=0, help="0 takes the likeliest token; above, tokens are drawn, the more evenly the higher."),
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the drawing.")] = 0,
) -> None:
    """Talk to a model in the terminal. `/scale 0.5` turns the adapter's dial, `/new` forgets the talk so far, `/quit` ends it.

    Examples:

    `lora-edu chat runs/kjv --scale 1.2`

    `lora-edu chat runs/kjv < questions.txt`
    """
    import torch
    from transformers import GenerationConfig, TextStreamer

    from lora_edu.adapters.switching import set_scale
    from lora_edu.data.rows import Message
    from lora_edu.data.templates import prompt_ids

    adapter = the_adapter(folder, adapter)
    base, tokenizer = opened(model, adapter, scale, bits)
    torch.manual_seed(seed)
    drawn = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    how = GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **drawn,
    )
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    system = run_of(adapter).get("system", "") if system is None else system
    opening: list[Message] = [{"role": "system", "content": system}]
    talk = list(opening)
    typer.echo("Ask something; /quit ends the talk.")
    while (line := _line()) != "/quit":
        if line == "/new":
            talk = list(opening)
        elif line.startswith("/scale"):
            if _turn(base, line, adapter, set_scale):
                talk = list(opening)  # else the model copies what it said at the other scale
        elif line.startswith("/"):
            typer.echo("Known are /scale NUMBER, /new and /quit.")
        elif line:
            talk.append({"role": "user", "content": line})
            ids = torch.tensor([prompt_ids(talk, tokenizer)], device=base.device)  # (1, T)
            with torch.no_grad():
                answer = base.generate(
                    ids, attention_mask=torch.ones_like(ids), generation_config=how, streamer=streamer
                )
            talk.append(
                {"role": "assistant", "content": tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True)}
            )


def _line() -> str:
    """The next line, shown where it does not come from a keyboard; /quit at the end of them."""
    try:
        line = input("\nyou> ").strip()
    except EOFError:
        typer.echo()
        return "/quit"
    if not sys.stdin.isatty():
        typer.echo(line)
    return line


def _turn(base: Any, line: str, adapter: Path | None, set_scale: Any) -> bool:
    """Turns the dial, says so, and whether it was turned."""
    try:
        scale = finite(float(line.removeprefix("/scale")))
    except (ValueError, typer.BadParameter):
        typer.echo("Give a number: /scale 0.5")
        return False
    if adapter is None:
        typer.echo("There is no adapter to turn: start with the adapter's folder, lora-edu chat runs/mine.")
        return False
    try:
        set_scale(base, scale)
    except AdapterError as error:  # a prefix has no dial
        typer.echo(str(error))
        return False
    typer.echo(f"The dial is at {scale:g}. A new talk begins.")
    return True
