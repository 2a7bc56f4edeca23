"""Chapter 17, the blank page: programs in several styles that are right, and the bugs that the judge names."""

import copy
import json
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from kit import Answers
from peft import LoraConfig, get_peft_model
from right_layers import (
    BuiltInDropout,
    ByHook,
    DropoutByMask,
    Folds,
    KeepsTheSum,
    Parametrized,
    Plain,
    ReturnsALinear,
    ThrowsTheFactorsAway,
    UnmergesToTrain,
)
from safetensors.torch import save_file
from torch import nn

from lora_edu.adapters import LoRALinear
from lora_edu.course import thirty_lines as ours
from lora_edu.course.blank_page import Page

OURS = Page(ours.LoRA, ours.inject, ours.loss, ours.train, ours.save, ours.merge)


# --- other styles -----------------------------------------------------------------------------------------------------
def injected(layer):
    """`inject` for a layer class, by setattr on the parent."""

    def inject(model, names, r, alpha):
        for p in model.parameters():
            p.requires_grad = False
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if name in names:
                    setattr(parent, name, layer(child, r, alpha))
        return model

    return inject


class Merging(nn.Module):
    """Holds matrices the other way round, and a flag that remembers the merge."""

    def __init__(self, base, r, alpha):
        super().__init__()
        self.base_layer = base
        for p in base.parameters():
            p.requires_grad = False
        self.down = nn.Parameter(torch.randn(base.in_features, r) * 0.1)  # (in, r)
        self.up = nn.Parameter(torch.zeros(r, base.out_features))  # (r, out)
        self.s, self.merged = alpha / r, False

    def forward(self, x):
        y = self.base_layer(x)
        return y if self.merged else y + (x @ self.down) @ self.up * self.s

    def merge(self):
        if not self.merged:
            with torch.no_grad():
                self.base_layer.weight += (self.down @ self.up).T * self.s
        self.merged = True


def gathered(model, ids, labels):
    """The loss with a loop over rows, log_softmax and a mask of its own."""
    total, count = 0.0, 0
    says = model(input_ids=ids, attention_mask=(ids != 0).long()).logits.log_softmax(-1)
    for row in range(len(ids)):
        for t in range(ids.shape[1] - 1):
            if labels[row, t + 1] != -100:
                total, count = total - says[row, t, labels[row, t + 1]], count + 1
    return total / count


def backward_first(model, batches, lr):
    trains = [p for p in model.parameters() if p.requires_grad]
    steps = torch.optim.AdamW(trains, lr=lr, weight_decay=0)
    model.train()
    for step in range(len(batches)):
        gathered(model, *batches[step]).backward()
        steps.step()
        steps.zero_grad(set_to_none=True)
    model.eval()
    return model


def save_merging(model, folder, names, r, alpha):
    tensors = {}
    for path, layer in model.named_modules():
        if isinstance(layer, Merging):
            tensors[f"base_model.model.{path}.lora_A.weight"] = layer.down.detach().T.contiguous()
            tensors[f"base_model.model.{path}.lora_B.weight"] = layer.up.detach().T.contiguous()
    save_file(tensors, f"{folder}/adapter_model.safetensors", metadata={"format": "pt"})
    with open(f"{folder}/adapter_config.json", "w") as file:
        json.dump(
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "r": r,
                "lora_alpha": alpha,
                "target_modules": "|".join(f".*{n}" for n in names),
            },
            file,
        )


def merge_by_method(model):
    for layer in model.modules():
        if isinstance(layer, Merging):
            layer.merge()
    return model


MERGING = Page(Merging, injected(Merging), gathered, backward_first, save_merging, merge_by_method)


def save_plain(model, folder, names, r, alpha):
    parts = {p: m for p, m in model.named_modules() if isinstance(m, Plain)}
    tensors = {
        f"base_model.model.{p}.lora_{n}.weight": getattr(m, n).data.clone() for p, m in parts.items() for n in "AB"
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": r, "lora_alpha": alpha, "target_modules": list(parts)})
    )


def merge_into_new(model):
    """A merged copy; the model that was handed over stays as it is."""
    new = copy.deepcopy(model)
    for path, layer in [(p, m) for p, m in new.named_modules() if isinstance(m, Plain)]:
        plain = nn.Linear(
            layer.base_layer.in_features, layer.base_layer.out_features, bias=layer.base_layer.bias is not None
        )
        plain.weight.data = layer.base_layer.weight.data + layer.scaling * layer.B.data @ layer.A.data
        new.set_submodule(path, plain)
    return new


def inject_copy(model, names, r, alpha):
    new = copy.deepcopy(model).requires_grad_(False)
    return injected(Plain)(new, names, r, alpha)


PLAIN = Page(
    lambda base, r, alpha: Plain(base, r, alpha), inject_copy, ours.loss, ours.train, save_plain, merge_into_new
)
HOOKED = replace(PLAIN, layer=ByHook, inject=injected(ByHook))


class Wrapper(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


def inject_wrapping(model, names, r, alpha):
    ours.inject(model, names, r, alpha)
    return Wrapper(model)


def inject_listing(model, names, r, alpha):
    """Changes the model in place, and returns its layers."""
    ours.inject(model, names, r, alpha)
    return nn.ModuleList(m for m in model.modules() if isinstance(m, ours.LoRA))


def merge_unwrapping(model):
    inner = model.inner if isinstance(model, Wrapper) else model
    ours.merge(inner)
    return inner


WRAPPED = Page(
    ours.LoRA,
    inject_wrapping,
    ours.loss,
    ours.train,
    lambda model, *more: ours.save(model.inner, *more),
    merge_unwrapping,
)


def with_method(layer):
    """A page whose layers merge themselves, and may return an nn.Linear."""

    def merge(model):
        for path, m in [(p, m) for p, m in model.named_modules() if isinstance(m, layer)]:
            if isinstance(new := m.merge(), nn.Linear):
                model.set_submodule(path, new)

    return replace(PLAIN, layer=layer, inject=injected(layer), merge=merge)


class KeepsACopy(Plain):
    """A copy of W₀ lies before the weight, so that the merge can be taken back."""

    merged = False

    def __init__(self, base_layer, r, lora_alpha):
        super().__init__(base_layer, r, lora_alpha)
        self.register_buffer("W0", base_layer.weight.detach().clone())

    @torch.no_grad()
    def merge(self):
        self.base_layer.weight.copy_(self.W0 + self.scaling * self.B @ self.A)
        self.merged = True

    def forward(self, x):
        return self.base_layer(x) if self.merged else super().forward(x)


def by_hand(model, batches, lr):
    """AdamW written out, without weight decay."""
    trains = [p for p in model.parameters() if p.requires_grad]
    first, second = ([torch.zeros_like(p) for p in trains] for _ in range(2))
    for step, batch in enumerate(batches, 1):
        grads = torch.autograd.grad(ours.loss(model, *batch), trains)
        with torch.no_grad():
            for p, g, m, v in zip(trains, grads, first, second):
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g * g)
                p -= lr * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)


def constant(model, batches, lr):
    """In train mode, with a schedule that does nothing and an optimiser over all there is: the base has no gradients."""
    steps = torch.optim.AdamW(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(steps, lambda _: 1.0)
    model.train()
    for ids, labels in torch.utils.data.DataLoader(batches, batch_size=None):
        ours.loss(model, ids, labels).backward()
        steps.step()
        schedule.step()
        steps.zero_grad()


# --- wrong programs ---------------------------------------------------------------------------------------------------
class NoScale(ours.LoRA):
    def forward(self, x):
        return self.base(x) + self.lora_B(self.lora_A(x))


class Thawed(ours.LoRA):
    def __init__(self, base, r, alpha):
        super().__init__(base, r, alpha)
        base.requires_grad_(True)


class BothRandom(ours.LoRA):
    def __init__(self, base, r, alpha):
        super().__init__(base, r, alpha)
        nn.init.normal_(self.lora_B.weight)


class AZero(ours.LoRA):
    """The other way round: silent too, and it learns."""

    def __init__(self, base, r, alpha):
        super().__init__(base, r, alpha)
        nn.init.normal_(self.lora_B.weight)
        nn.init.zeros_(self.lora_A.weight)


class RsScale(ours.LoRA):
    def __init__(self, base, r, alpha):
        super().__init__(base, r, alpha)
        self.scale = alpha / r**0.5


class Dead(ours.LoRA):
    def __init__(self, base, r, alpha):
        super().__init__(base, r, alpha)
        nn.init.zeros_(self.lora_A.weight)


def with_head(model, names, r, alpha):
    ours.inject(model, names, r, alpha)
    model.lm_head.requires_grad_(True)


def thaws(model, names, r, alpha):
    ours.inject(model, names, r, alpha)
    model.model.norm.requires_grad_(True)


def not_frozen(model, names, r, alpha):
    for path in [p for p, _ in model.named_modules() if p.split(".")[-1] in names]:
        model.set_submodule(path, ours.LoRA(model.get_submodule(path), r, alpha))


def frozen_after(model, names, r, alpha):
    ours.inject(model, names, r, alpha)
    model.requires_grad_(False)


def by_first_name(model, names, r, alpha):
    return ours.inject(model, names[:1], r, alpha)


def one_layer(model, names, r, alpha):
    model.requires_grad_(False)
    for path in [p for p, _ in model.named_modules() if p.split(".")[-1] in names and ".0." in p]:
        model.set_submodule(path, ours.LoRA(model.get_submodule(path), r, alpha))


def everything(model, names, r, alpha):
    ours.inject(model, [*names, "up_proj"], r, alpha)


def swapped_settings(model, names, r, alpha):
    ours.inject(model, names, int(alpha), r)


def fixed_alpha(model, names, r, alpha):
    ours.inject(model, names, r, r)


def nothing(model, names, r, alpha):
    model.requires_grad_(False)


def loss_by(function):
    return lambda model, ids, labels: function(model(ids).logits, ids, labels)


def ce(says, labels, **more):
    return F.cross_entropy(says.flatten(0, 1), labels.flatten(), **more)


def loop(step=lambda loss, steps, number: (steps.zero_grad(), loss.backward(), steps.step()), which=lambda model: [p for p in model.parameters() if p.requires_grad], kind=torch.optim.AdamW, first=False):  # fmt: skip
    def train(model, batches, lr):
        steps = kind(which(model), lr)
        for number, (ids, labels) in enumerate(batches):
            step(ours.loss(model, ids, labels), steps, number)
            if first:
                return

    return train


def keeps(loss, steps, number):
    loss.backward()
    steps.step()


def climbs(loss, steps, number):
    steps.zero_grad()
    (-loss).backward()
    steps.step()


def head_too(model, batches, lr):
    model.lm_head.requires_grad_(True)
    ours.train(model, batches, lr)


def base_too(model, batches, lr):
    for p in model.parameters():
        p.requires_grad_(True)
    ours.train(model, batches, lr)


def scheduled(factor):
    def train(model, batches, lr):
        steps = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(steps, lambda k: factor(k / len(batches)))
        for ids, labels in batches:
            steps.zero_grad()
            ours.loss(model, ids, labels).backward()
            steps.step()
            schedule.step()

    return train


def train_and_merge(model, batches, lr):
    ours.train(model, batches, lr)
    ours.merge(model)


def train_and_thaw(model, batches, lr):
    ours.train(model, batches, lr)
    model.requires_grad_(True)


def every_second(loss, steps, number):
    loss.backward()
    if number % 2:
        steps.step()
        steps.zero_grad()


def clipped(loss, steps, number):
    steps.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(steps.param_groups[0]["params"], 1.0)
    steps.step()


def loss_and_backward(model, ids, labels):
    value = ours.loss(model, ids, labels)
    value.backward()
    return value


def from_first_to_last(says, ids, labels):
    """Each row from its first label to its last, holes and all."""
    total, count = 0.0, 0
    for row in range(len(ids)):
        there = (labels[row] != -100).nonzero()[:, 0].tolist()
        a, z = max(there[0], 1), there[-1] + 1
        total, count = total + F.cross_entropy(says[row, a - 1 : z - 1], ids[row, a:z], reduction="sum"), count + z - a
    return total / count


def anew(model, batches, lr):
    for batch in batches:
        ours.train(model, [batch], lr)


def saving(keys=lambda k: k, tensors=lambda k, t: t, **more):
    def save(model, folder, names, r, alpha):
        held = {k: t for k, t in model.state_dict().items() if "lora_" in k}
        save_file(
            {keys(f"base_model.model.{k}"): tensors(k, t).contiguous() for k, t in held.items()},
            folder / "adapter_model.safetensors",
        )
        config = {"peft_type": "LORA", "r": r, "lora_alpha": alpha, "target_modules": names} | more
        (folder / "adapter_config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

    return save


def whole_state(model, folder, names, r, alpha):
    saving()(model, folder, names, r, alpha)
    save_file(
        {f"base_model.model.{k}": t.clone() for k, t in model.state_dict().items()},
        folder / "adapter_model.safetensors",
    )


def pickled(model, folder, names, r, alpha):
    saving()(model, folder, names, r, alpha)
    (folder / "adapter_model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "adapter_model.bin")


def only_B(model, folder, names, r, alpha):
    held = {f"base_model.model.{k}": t for k, t in model.state_dict().items() if "lora_B" in k}
    saving()(model, folder, names, r, alpha)
    save_file(held, folder / "adapter_model.safetensors")


def other_letter(key):
    return key.replace("lora_A", "lora_X").replace("lora_B", "lora_A").replace("lora_X", "lora_B")


def merging(add, back=True, call=1):
    def merge(model):
        for path, m in [(p, m) for p, m in model.named_modules() if isinstance(m, ours.LoRA)]:
            for _ in range(call):
                m.base.weight.data += add(m, m.lora_B.weight.data @ m.lora_A.weight.data)
            if back:
                model.set_submodule(path, m.base)

    return merge


def merge_zeroing(model):
    for m in model.modules():
        if isinstance(m, ours.LoRA):
            nn.init.zeros_(m.lora_A.weight)


def merge_not_at_all(model):
    return model


def again_and_again(model):
    """Leaves the layers in place with a scale of zero for forward, and adds whenever it is called."""
    for m in model.modules():
        if isinstance(m, ours.LoRA):
            m.kept = getattr(m, "kept", m.scale)
            m.base.weight.data += m.kept * m.lora_B.weight.data @ m.lora_A.weight.data
            m.scale = 0.0


def saving_by(settings, tensors=lambda k, t, s: t):
    """`save` whose config takes `settings(names, r, alpha)`."""

    def save(model, folder, names, r, alpha):
        saving(tensors=lambda k, t: tensors(k, t, alpha / r), **settings(names, r, alpha))(
            model, folder, names, r, alpha
        )

    return save


def only_A(model, folder, names, r, alpha):
    saving()(model, folder, names, r, alpha)
    held = {f"base_model.model.{k}": t for k, t in model.state_dict().items() if "lora_A" in k}
    save_file(held, folder / "adapter_model.safetensors")


def merge_some(which, strip=False):
    def merge(model):
        for path, m in [(p, m) for p, m in model.named_modules() if isinstance(m, ours.LoRA)]:
            if which(path):
                m.base.weight.data += m.scale * m.lora_B.weight.data @ m.lora_A.weight.data
            if which(path) or strip:
                model.set_submodule(path, m.base)

    return merge


def merge_rounding(kind):
    def merge(model):
        ours.merge(model)
        for p in model.parameters():
            p.data = p.data.to(kind).float()

    return merge


class KeepsTheProduct(Plain):
    """The merge works s·B A out, and adds it beside the weight."""

    D = None

    @torch.no_grad()
    def merge(self):
        self.D = self.scaling * self.B @ self.A

    def forward(self, x):
        return super().forward(x) if self.D is None else self.base_layer(x) + F.linear(x, self.D)


class ForgetsTheSum(Plain):
    @torch.no_grad()
    def merge(self):
        self.W = self.base_layer.weight + self.scaling * self.B @ self.A


class MergesWithAGraph(KeepsACopy):
    def merge(self):
        if not self.merged:
            self.base_layer.weight.add_(self.scaling * self.B @ self.A)
        self.merged = True


def of_peft(model, names, r, alpha):
    return get_peft_model(model, LoraConfig(r=r, lora_alpha=alpha, target_modules=list(names)))


def layered(layer):
    return replace(OURS, layer=layer, inject=injected(layer))


STUB = Page()
ANSWERS = {
    "17.1": Answers(
        OURS, STUB,
        {
            "scale missing": layered(NoScale),
            "base not frozen": layered(Thawed),
            "one of A and B has to start at zero": layered(BothRandom),
            "rsLoRA's scale": layered(RsScale),
            "the head is trained": replace(OURS, inject=with_head),
            "a layer is left out": replace(OURS, inject=one_layer),
            "more layers than the named ones": replace(OURS, inject=everything),
            "the adapter is frozen": replace(OURS, inject=frozen_after),
            "r and α have changed places": replace(OURS, inject=swapped_settings),
            "nothing is injected": replace(OURS, inject=nothing),
        },
    ),
    "17.2": Answers(
        OURS, STUB,
        {
            "the labels are not shifted": replace(OURS, loss=loss_by(lambda s, ids, labels: ce(s, labels))),
            "shifted the wrong way": replace(OURS, loss=loss_by(lambda s, ids, labels: ce(s[:, 1:], labels[:, :-1]))),
            "the prompt's tokens are trained on": replace(OURS, loss=loss_by(lambda s, ids, labels: ce(s[:, :-1], ids[:, 1:]))),
            "the sum, not the mean": replace(OURS, loss=loss_by(lambda s, ids, labels: ce(s[:, :-1], labels[:, 1:], reduction="sum"))),
            "no gradient": replace(OURS, loss=lambda model, ids, labels: ours.loss(model, ids, labels).item()),
            "the model's own loss": replace(OURS, loss=lambda model, ids, labels: model(ids, labels=labels).loss),
            "the old gradients are kept": replace(OURS, train=loop(keeps)),
            "the head is trained": replace(OURS, train=head_too),
            "the loop ends after its first batch": replace(OURS, train=loop(first=True)),
            "a new optimiser for every step": replace(OURS, train=anew),
            "the loss is climbed": replace(OURS, train=loop(climbs)),
        },
    ),
    "17.3": Answers(
        OURS, STUB,
        {
            "keys that PEFT leaves out in silence": replace(OURS, save=saving(lambda k: k.removeprefix("base_model.model."))),
            "A and B are swapped in the file": replace(OURS, save=saving(other_letter)),
            "lora_alpha is another in the config": replace(OURS, save=saving(lora_alpha=None)),
            "more than the adapter is saved": replace(OURS, save=whole_state),
            "a pickle": replace(OURS, save=pickled),
            "the scale is saved in the factors": replace(OURS, save=saving(tensors=lambda k, t: t * 2.5 if "lora_B" in k else t)),
            "merge does nothing": replace(OURS, merge=merge_not_at_all),
            "counted twice": replace(OURS, merge=merging(lambda m, BA: m.scale * BA, back=False)),
            "in merge: scale missing": replace(OURS, merge=merging(lambda m, BA: BA)),
            "a second merge adds once more": replace(OURS, merge=again_and_again),
        },
    ),
}  # fmt: skip

RIGHT = {
    "17.1": (
        MERGING,
        PLAIN,
        HOOKED,
        WRAPPED,
        layered(AZero),
        layered(Parametrized),
        layered(BuiltInDropout),
        layered(DropoutByMask),
        replace(OURS, inject=inject_listing),
    ),
    "17.2": (
        MERGING,
        HOOKED,
        WRAPPED,
        replace(OURS, train=by_hand),
        replace(OURS, train=constant),
        replace(OURS, train=loop(kind=partial(torch.optim.AdamW, weight_decay=0.1))),
        replace(layered(BuiltInDropout), train=constant),
        replace(OURS, loss=loss_by(lambda s, ids, labels: ce(s[:, :-1], labels[:, 1:].clamp_min(0), ignore_index=0))),
    ),
    "17.3": (
        MERGING,
        PLAIN,
        WRAPPED,
        *map(with_method, (Folds, KeepsTheSum, KeepsACopy, ReturnsALinear, ThrowsTheFactorsAway, UnmergesToTrain)),
        replace(OURS, save=saving(tensors=lambda k, t: t.double())),
        replace(
            OURS,
            save=saving_by(lambda names, r, alpha: {"lora_alpha": r}, lambda k, t, s: s * t if "lora_B" in k else t),
        ),
        replace(OURS, save=saving_by(lambda names, r, alpha: {"lora_alpha": alpha / r**0.5, "use_rslora": True})),
        replace(OURS, merge=lambda model: [ours.merge(model), model.lm_head][1]),
    ),
}
MORE_WRONG = [
    ("17.1", replace(OURS, inject=thaws), "the base is not frozen"),
    ("17.1", replace(OURS, inject=not_frozen), "the base is not frozen"),
    ("17.1", replace(OURS, inject=fixed_alpha), "scale missing"),
    ("17.1", replace(OURS, inject=of_peft), "not written by you"),
    ("17.1", layered(Dead), "both zero"),
    ("17.1", replace(OURS, inject=by_first_name), "a layer is left out"),
    ("17.1", ours.LoRA, "not a page"),
    ("17.1", replace(OURS, layer=LoRALinear), "not written by you"),
    ("17.1", layered(lambda base, r, alpha: LoRALinear(base, r, alpha)), "not written by you"),
    ("17.2", replace(OURS, inject=frozen_after), "the adapter is frozen"),
    ("17.2", replace(OURS, loss=lambda model, ids, labels: model.forward(ids, labels=labels).loss), "the model's own loss"),
    ("17.2", replace(OURS, loss=lambda model, ids, labels: model(ids, None, None, None, None, labels).loss), "the model's own loss"),
    ("17.2", replace(OURS, loss=loss_and_backward), "the gradient cannot be computed"),
    ("17.2", replace(OURS, loss=loss_by(lambda s, ids, labels: ce(s[:, :-1], labels[:, 1:], reduction="sum") / (labels != -100).sum())), "the first token counts"),
    ("17.2", replace(OURS, loss=loss_by(lambda s, ids, labels: ce(s[:, :-1], labels[:, 1:], reduction="sum") / (ids != 0).sum())), "masked places count"),
    ("17.2", replace(OURS, loss=loss_by(lambda s, ids, labels: ce(s[:, :-1], ids[:, 1:].masked_fill(labels[:, :-1] == -100, -100)))), "the mask is not shifted"),
    ("17.2", replace(OURS, loss=loss_by(lambda s, ids, labels: ce(s[:, :-1], labels[:, 1:].clamp_min(0)))), "asked for token 0"),
    ("17.2", replace(OURS, loss=loss_by(from_first_to_last)), "another number"),
    ("17.2", replace(OURS, loss=lambda model, ids, labels: ours.loss(model, ids, labels).exp()), "perplexity"),
    ("17.2", replace(OURS, train=scheduled(lambda part: 1 - part)), "the learning rate changes"),
    ("17.2", replace(OURS, train=scheduled(lambda part: 0.3 + part)), "the learning rate changes"),
    ("17.2", replace(OURS, train=lambda model, batches, lr: ours.train(model, batches, 3 * lr)), "another learning rate"),
    ("17.2", replace(OURS, train=lambda model, batches, lr: ours.train(model, [batches[i] for i in (2, 0, 1, 4, 3)], lr)), "another order"),
    ("17.2", replace(OURS, train=lambda model, batches, lr: ours.train(model, [b for b in batches for _ in (0, 1)], lr)), "more than once"),
    ("17.2", replace(OURS, train=lambda model, batches, lr: ours.train(model, batches[:-1], lr)), "a batch is left out"),
    ("17.2", replace(OURS, train=lambda model, batches, lr: ours.train(model, [(ids, ids) for ids, _ in batches], lr)), "the prompt's tokens"),
    ("17.2", replace(OURS, train=loop(every_second)), "fewer steps than batches"),
    ("17.2", replace(OURS, train=loop(clipped)), "the gradients are clipped"),
    ("17.2", replace(OURS, train=train_and_merge), "another model after `train`"),
    ("17.2", replace(OURS, train=train_and_thaw), "the base is thawed"),
    ("17.2", replace(OURS, train=base_too), "the head is trained"),
    ("17.2", replace(OURS, train=loop(kind=torch.optim.SGD)), "SGD"),
    ("17.2", replace(OURS, train=lambda model, batches, lr: ours.train(model, batches, 1e-3)), "another learning rate"),
    ("17.2", replace(OURS, train=lambda model, batches, lr: None if model is None else ours.loss(model, *batches[0]) * 0), "nothing has moved"),
    ("17.2", replace(OURS, train=lambda model, batches, lr: ours.train(model, batches * 2, lr)), "more than once"),
    ("17.3", replace(OURS, save=saving(lambda k: k.replace(".weight", ".default.weight"))), "keys"),
    ("17.3", replace(OURS, save=saving(use_rslora=True)), "rsLoRA"),
    ("17.3", replace(OURS, save=saving(target_modules=["gate_proj"])), "PEFT"),
    ("17.3", replace(OURS, save=only_B), "a factor is left out"),
    ("17.3", replace(OURS, save=only_A), "a factor is left out"),
    ("17.3", replace(OURS, save=saving(tensors=lambda k, t: t.half())), "half precision"),
    ("17.3", replace(OURS, save=saving(tensors=lambda k, t: t.bfloat16())), "half precision"),
    ("17.3", replace(OURS, save=saving(tensors=lambda k, t: t * 0)), "other numbers"),
    ("17.3", replace(OURS, save=saving(target_modules=None)), "target_modules"),
    ("17.3", replace(OURS, save=saving(target_modules="all-linear")), "more layers"),
    ("17.3", replace(OURS, save=saving_by(lambda names, r, alpha: {"target_modules": [*names, "up_proj"]})), "more layers"),
    ("17.3", replace(OURS, save=saving_by(lambda names, r, alpha: {"target_modules": names[:1]})), "other layers"),
    ("17.3", replace(OURS, save=saving(layers_to_transform=[0])), "other layers"),
    ("17.3", replace(OURS, merge=merge_some(lambda path: ".0." in path)), "merge leaves a layer out"),
    ("17.3", replace(OURS, merge=merge_some(lambda path: ".0." in path, strip=True)), "merge leaves a layer out"),
    ("17.3", replace(OURS, merge=copy.deepcopy), "merge does nothing"),
    ("17.3", with_method(KeepsTheProduct), "merge does nothing"),
    ("17.3", with_method(ForgetsTheSum), "merge does nothing"),
    ("17.3", with_method(MergesWithAGraph), "hangs on A and B"),
    ("17.3", replace(OURS, merge=merge_rounding(torch.half)), "precision lost"),
    ("17.3", replace(OURS, merge=merge_rounding(torch.bfloat16)), "precision lost"),
    ("17.3", replace(OURS, merge=merge_zeroing), "merge does nothing"),
    ("17.3", replace(OURS, merge=merging(lambda m, BA: m.scale * BA, call=2)), "in merge: "),
    ("17.3", replace(OURS, merge=merging(lambda m, BA: -m.scale * BA)), "subtracted"),
]  # fmt: skip
