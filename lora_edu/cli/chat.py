"""`lora-edu chat`: talk to a model in the terminal, and turn an adapter's dial."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lora_edu.cli.common import Adapter, Model, Scale, opened


def chat(
    adapter: Adapter = None,
    scale: Scale = 1.0,
    model: Model = None,
    system: Annotated[
        str, typer.Option(help="System message; the course's adapters were trained with an empty one.")
    ] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 200,
) -> None:
    """Talk to a model in the terminal. `/scale 0.5` turns the adapter's dial, `/new` forgets the talk so far, `/quit` ends it.

    Example: `lora-edu chat --adapter runs/kjv --scale 1.2`
    """
    import torch
    from transformers import GenerationConfig, TextStreamer

    from lora_edu.adapters import set_scale
    from lora_edu.data import Message, prompt_ids

    base, tokenizer = opened(model, adapter, scale)
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    opening: list[Message] = [{"role": "system", "content": system}]
    talk = list(opening)
    typer.echo("Ask something; /quit ends the talk.")
    while True:
        try:
            line = input("\nyou> ").strip()
        except EOFError:
            line = "/quit"
        if line == "/quit":
            return
        if line == "/new":
            talk = list(opening)
        elif line.startswith("/scale"):
            _turn(base, line, adapter, set_scale)
        elif line.startswith("/"):
            typer.echo("Known are /scale NUMBER, /new and /quit.")
        elif line:
            talk.append({"role": "user", "content": line})
            ids = torch.tensor([prompt_ids(talk, tokenizer)], device=base.device)  # (1, T)
            with torch.no_grad():
                answer = base.generate(
                    ids, attention_mask=torch.ones_like(ids), generation_config=greedy, streamer=streamer
                )
            talk.append(
                {"role": "assistant", "content": tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True)}
            )


def _turn(base: Any, line: str, adapter: Path | None, set_scale: Any) -> None:
    try:
        scale = float(line.removeprefix("/scale"))
    except ValueError:
        typer.echo("Give a number: /scale 0.5")
        return
    if adapter is None:
        typer.echo("There is no adapter to turn: start with --adapter FOLDER.")
    else:
        set_scale(base, scale)
