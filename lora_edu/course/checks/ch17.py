"""Exercises of chapter 17, the blank page: a layer and its injection; loss and loop; save and merge. The laws judge, and PEFT."""

from typing import Any

import torch

from lora_edu.course.blank_page import Page
from lora_edu.course.checks.judged_folder import judge_folder, judge_merge
from lora_edu.course.checks.judged_page import Settings, adapted, batches, logits, merged_reference, needs, tiny
from lora_edu.course.checks.judged_steps import judge_loss, judge_steps
from lora_edu.course.exercises import Wrong, close, generator, register
from lora_edu.course.lawbook.diagnosis import name_scale
from lora_edu.course.lawbook.probe import Case
from lora_edu.course.lawbook.runner import run_laws

TRIES = (Settings(), Settings(("down_proj", "k_proj"), 5, 3.0))


@register(
    "17.1",
    title="The layer, and where it goes",
    stars=3,
    minutes=12,
    task="Write `layer(base, r, alpha)`, a module around an `nn.Linear`, and `inject(model, names, r, alpha)`, which freezes the model and puts such a layer "
    "in the place of every `nn.Linear` whose name ends in one of `names` (as `q_proj`). `inject` may return the model, or change it in place.",
    wants="page",
    shows="The laws hold for the layer; what was named got an adapter, nothing else trains, the start is silent, and the model computes W₀ + s·B A.",
    hints=(
        "Five things make the layer: a frozen base, A random, B zero, the scale α/r, and base(x) + s · B A x.",
        "`named_modules()` gives path and module; make a list of it before you change the model.",
        '`model.set_submodule("a.b.q_proj", new)` puts a module in the place of another.',
    ),
)
def layer_and_inject(page: Any) -> None:
    needs(page, "layer", "inject")
    judge_layer(page)
    draw = generator()
    for settings in TRIES:
        judge_injection(page, settings, int(torch.randint(2**31, (1,), generator=draw)))


def judge_layer(page: Page) -> None:
    for result in run_laws(page.layer).results:
        if result.status == "broken":
            finding = result.findings[0]
            law = f"law {result.number}, {result.name}" if result.number else "no law could be judged"
            raise Wrong(finding.means or finding.what, f"the layer breaks {law}: {finding.what}")


def judge_injection(page: Page, settings: Settings, seed: int) -> None:
    """Raises: Wrong, where what trains, the start, or what is computed is not as it should be."""
    ids, _ = batches(torch.Generator().manual_seed(seed), 1)[0]
    made = adapted(page, settings)
    base = tiny()
    factors = {id(p) for p in made.parameters()}
    others = [name for name, p in made.model.named_parameters() if p.requires_grad and id(p) not in factors]
    if others:
        head = next((name for name in others if name.startswith("lm_head")), None)
        if head and len(others) == 1:
            raise Wrong("the head is trained", f"`{head}` has requires_grad=True: A and B train, and nothing else")
        if any("lora" in name.lower() or name.rpartition(".")[2] in ("A", "B") for name in others):
            raise Wrong(
                "more layers than the named ones", f"`{others[0]}` trains too, and `names` is {list(settings.names)}"
            )
        raise Wrong(
            "the base is not frozen", f"`{others[0]}` has requires_grad=True, and so have {len(others) - 1} more"
        )
    if not all(p.requires_grad for p in made.parameters()):
        raise Wrong("the adapter is frozen", "a factor has requires_grad=False: freeze first, then put the layers in")
    before = logits(base, ids)
    if not close(logits(made.model, ids), before, 1e-4):
        raise Wrong(
            "the start is not silent", f"right after `inject` with {settings} the model says something else than before"
        )
    made.fill(seed)
    got, values = logits(made.model, ids), made.values()
    if not close(got, logits(merged_reference(values, settings.scale), ids), 1e-4):
        raise Wrong(
            _scale_bug(settings, got, values, ids),
            f"with {settings} and random A and B the model is not the one with W₀ + α/r · B A",
        )


def _scale_bug(settings: Settings, got: torch.Tensor, values: Any, ids: torch.Tensor) -> str:
    r, alpha, s = settings.r, settings.alpha, settings.scale
    for p in (0.0, 1.0, alpha, 1 / r, r / alpha, alpha / r**0.5, s * s, 2 * s, -s, 1 / alpha):
        if close(got, logits(merged_reference(values, p), ids), 1e-4):
            return name_scale(p, Case(r=r, alpha=alpha))
    return "another model than W₀ + s·B A"


@register(
    "17.2",
    title="The loss, and the loop",
    stars=3,
    minutes=10,
    task="Write `loss(model, ids, labels)`: the mean cross-entropy of the next token over all places whose label is not −100; `ids` and `labels` are (B, T) and stand "
    "beside each other, not shifted. And `train(model, batches, lr)`: one pass over the list of (ids, labels), a step of AdamW at the rate `lr` for each, on what trains.",
    wants="page",
    shows="The loss is that of the answer's tokens alone, each said one place before; one step a batch; the base stays what it was, to the bit.",
    hints=(
        "The logits at place t are about the token at place t + 1: which of them has no label, and which label has no logits?",
        "`cross_entropy` leaves labels of −100 out by itself; it wants (places, V) and (places,).",
        "Gradients add up until somebody empties them.",
    ),
)
def loss_and_loop(page: Any) -> None:
    needs(page, "layer", "inject", "loss", "train")
    draw = generator()
    seed = int(torch.randint(2**31, (1,), generator=draw))
    judge_loss(page, TRIES[0], seed, batches(draw, 2))
    judge_steps(page, TRIES[0], seed, batches(draw, 5))


@register(
    "17.3",
    title="Save, and merge",
    stars=3,
    minutes=12,
    task="Write `save(model, folder, names, r, alpha)`: `adapter_model.safetensors` and `adapter_config.json` in the `folder` (a Path that exists), so that PEFT loads your "
    "adapter from it. And `merge(model)`: s·B A goes into the weights, and from then on nothing is added beside them.",
    wants="page",
    shows="PEFT reads from your folder the model that you saved; and merged it says the same with plain weights, also when it is merged once more.",
    hints=(
        "PEFT's keys are `base_model.model.` + the layer's path + `.lora_A.weight` or `.lora_B.weight`; shapes (r, in) and (out, r).",
        'The settings it needs: `peft_type` ("LORA"), `r`, `lora_alpha`, `target_modules`.',
        "After the merge the layer's place may be given back to the `nn.Linear`: then nothing is there to be added twice.",
    ),
)
def save_and_merge(page: Any) -> None:
    needs(page, "layer", "inject", "save", "merge")
    draw = generator()
    for settings in TRIES:
        seed = int(torch.randint(2**31, (1,), generator=draw))
        ids, _ = batches(draw, 1)[0]
        judge_folder(page, settings, seed, ids)
        judge_merge(page, settings, seed, ids)
