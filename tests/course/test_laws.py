"""The runner passes correct layers in any dress, and names the one bug of each wrong layer."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from command_line import run
from helpers import TESTS
from right_layers import RIGHT
from torch import nn

from lora_edu.adapters import LoRALinear
from lora_edu.course import check, laws
from lora_edu.course.lawbook.common import CASES
from lora_edu.course.lawbook.diagnosis import name_scale
from lora_edu.course.lawbook.probe import guess
from lora_edu.course.lawbook.runner import LayerFileError, load_class, run_laws

WRONG = sorted((TESTS / "wrong_layers").glob("*.py"))


def breaks(path: Path) -> dict[int, str]:
    spec = importlib.util.spec_from_file_location(f"wrong_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.BREAKS


def test_there_are_wrong_layers():
    assert len(WRONG) >= 30


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.stem)
def test_wrong_layer_fails_for_the_right_reason(path):
    expected, report = breaks(path), run_laws(path)
    assert not report.passed
    assert report.broken == sorted(expected), str(report)
    for result in report.results:
        if result.findings:
            meant = " / ".join(finding.means for finding in result.findings)
            assert expected[result.number] in meant, str(report)
            assert all(finding.what for finding in result.findings)
    assert "Traceback" not in str(report)


class Ten(nn.Module):
    def __init__(self, base_layer, r, alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, base_layer.in_features) / r)
        self.B = nn.Parameter(torch.zeros(base_layer.out_features, r))
        self.scaling = alpha / r

    def forward(self, x):
        return self.base_layer(x) + self.scaling * (x @ self.A.T @ self.B.T)


class Linears(nn.Module):
    """Factors as nn.Linear, the dtype taken care of, dropout on the adapter's input, a switch, and an exact merge."""

    def __init__(self, base_layer, r, lora_alpha, lora_dropout=0.1):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.lora_A = nn.Linear(base_layer.in_features, r, bias=False)
        self.lora_B = nn.Linear(r, base_layer.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)
        self.dropout, self.scaling, self.enabled, self.W0 = nn.Dropout(lora_dropout), lora_alpha / r, True, None

    def forward(self, x):
        y = self.base_layer(x)
        if not self.enabled or self.W0 is not None:
            return y
        return y + (self.scaling * self.lora_B(self.lora_A(self.dropout(x.to(self.lora_A.weight.dtype))))).to(y.dtype)

    @torch.no_grad()
    def merge(self):
        if self.W0 is None:
            self.W0 = self.base_layer.weight.data
            self.base_layer.weight.data = self.W0 + self.scaling * (self.lora_B.weight @ self.lora_A.weight).to(
                self.W0.dtype
            )

    @torch.no_grad()
    def unmerge(self):
        if self.W0 is not None:
            self.base_layer.weight.data, self.W0 = self.W0, None


class OtherWayRound(nn.Module):
    """Factors stored (in, r) and (r, out), the base taken apart but not copied, arguments in another order, merge as a new layer."""

    def __init__(self, base, *, alpha, rank):
        super().__init__()
        self.weight, self.bias = nn.Parameter(base.weight.detach(), requires_grad=False), base.bias
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(base.in_features, rank))
        self.up = nn.Parameter(torch.zeros(rank, base.out_features))
        self.scale = alpha / rank

    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias) + (x @ self.down @ self.up) * self.scale

    def merge(self):
        out, inp = self.weight.shape
        new = nn.Linear(inp, out, bias=self.bias is not None, dtype=self.weight.dtype)
        new.weight.data = self.weight + self.scale * (self.down @ self.up).T
        if self.bias is not None:
            new.bias.data = self.bias.detach().clone()
        return new


@pytest.mark.parametrize(
    ("layer", "judged"),
    [
        (LoRALinear, {1, 2, 3, 4, 5, 6, 9}),
        (Ten, {1, 2, 3, 4, 6}),
        (Linears, {1, 2, 3, 4, 5, 6, 9}),
        (OtherWayRound, {1, 2, 3, 4, 5, 6}),
    ],
)
def test_correct_layers_pass(layer, judged):
    report = laws(layer)
    assert report.passed, str(report)
    assert {result.number for result in report.results if result.status == "holds"} == judged


@pytest.mark.parametrize("layer", RIGHT, ids=lambda layer: layer.__name__)
def test_right_layers_in_other_styles_pass_twice(layer):
    for _ in range(2):  # a second report says the same: nothing is left behind on the class
        report = laws(layer)
        assert report.passed, str(report)
    assert (result := check("03.1", layer)).passed, str(result)


@pytest.mark.parametrize("name", ["shared_B", "shared_B_of_the_class", "shared_scale", "seed_in_init"])
def test_what_is_shared_has_its_name_in_a_second_report_too(name):
    path = TESTS / "wrong_layers" / f"{name}.py"
    layer_class = load_class(path)
    assert str(laws(layer_class)) == str(laws(layer_class))
    assert laws(layer_class).broken == [2]


def test_a_fixed_seed_of_its_own_is_a_remark():
    class OwnSeed(Ten):
        def __init__(self, base_layer, r, alpha):
            super().__init__(base_layer, r, alpha)
            self.A.data.normal_(generator=torch.Generator().manual_seed(0))

    assert laws(OwnSeed).passed and "starts with the same A: its seed is fixed" in str(laws(OwnSeed))


def test_a_dropout_that_cannot_be_put_to_0_is_a_remark():
    built_in = next(layer for layer in RIGHT if layer.__name__ == "BuiltInDropout")
    assert "judged in eval mode alone" in str(laws(built_in))


def test_report_reads_the_same_as_text_and_html_and_on_every_run():
    class Undivided(Ten):
        def __init__(self, base_layer, r, alpha):
            super().__init__(base_layer, r, alpha)
            self.scaling = alpha

    torch.manual_seed(1)
    one = laws(Undivided)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    two = laws(Undivided)
    assert str(one) == str(two) and one._repr_html_() == two._repr_html_()
    assert torch.equal(torch.get_rng_state(), state)
    for text in (str(one), one._repr_html_()):
        assert "α not divided by r" in text and "multiplied by 12 where s = α/r = 4" in text and "✗ Law 2" in text
    assert one.broken == [2] and not one.passed


def test_mirrored_start_is_a_remark_and_no_broken_law():
    class Mirrored(Ten):
        def __init__(self, base_layer, r, alpha):
            super().__init__(base_layer, r, alpha)
            self.A, self.B = nn.Parameter(torch.zeros_like(self.A)), nn.Parameter(torch.randn_like(self.B))

    report = laws(Mirrored)
    assert report.passed and "roles of A and B exchanged" in str(report)


def test_factors_stored_transposed_and_16_bits_are_plain_remarks():
    assert "a factor is stored transposed" in str(laws(OtherWayRound))
    report = str(laws(Ten))
    assert "on a float32 base, as here, nothing is wrong" in report and "bf16" not in report
    assert report.endswith("Laws 7 and 8 are about saved folders and training runs: no layer class can show them.")


def test_the_modules_own_switch_is_judged():
    class Deaf(LoRALinear):
        def active_adapters(self):
            return [("default", self.scaling)]

        def forward(self, x):
            self.state.active or self.state.active.update(default=1.0)
            return super().forward(x)

    assert laws(Deaf).broken == [9] and "fter `state.active = {}` the output still has 100 %" in str(laws(Deaf))


@pytest.mark.parametrize("seed", range(4))
def test_a_report_does_not_depend_on_the_learners_random_numbers(seed):
    class Drops(Ten):
        def forward(self, x):
            return self.base_layer(x) + self.scaling * (nn.functional.dropout(x, 0.1) @ self.A.T @ self.B.T)

    torch.manual_seed(seed)
    assert laws(Drops).broken == [2]


def test_an_extra_parameter_is_not_taken_for_the_base():
    class Extra(Ten):
        def __init__(self, base_layer, r, alpha):
            super().__init__(base_layer, r, alpha)
            self.C, self.D = nn.Parameter(torch.zeros(base_layer.out_features)), nn.Parameter(base_layer.weight * 2)

    report = str(laws(Extra))
    assert report.count("an extra parameter trains") == 2 and "not frozen" not in report


def test_an_exception_becomes_a_sentence_with_call_and_shape():
    class Fails(Ten):
        def forward(self, x):
            if x.dim() == 3:
                raise RuntimeError("only rows, please\nand a second line")
            return super().forward(x)

    report = laws(Fails)
    assert report.broken == [2]
    assert "`forward(x)` with x of shape (2, 4, 12)" in str(report) and "RuntimeError: only rows, please." in str(
        report
    )
    assert "second line" not in str(report)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_two_scale_bugs_look_alike_in_a_case(case):
    s, r, alpha = case.scale, case.r, case.alpha
    values = [s, 0.0, alpha, 1.0, s * s, alpha / math.sqrt(r), 1 / r, r / alpha, 1 / alpha, 2 * s, -s]
    assert min(abs(a - b) for i, a in enumerate(values) for b in values[:i]) > 1e-3
    assert len({name_scale(value, case) for value in values[1:]}) == len(values) - 1
    assert name_scale(0.7 * s, case).startswith("a wrong scale")


def test_a_transposed_product_is_also_named_where_it_is_silent():
    class Transposed(Ten):
        def forward(self, x):
            return self.base_layer(x) + self.scaling * (x @ (self.B @ self.A))

    report = laws(Transposed)
    assert report.broken == [2] and "on a square layer no error appears, but the layer adds 5 × (B A)ᵀ" in str(
        report
    ).replace("On a", "on a")


@pytest.mark.parametrize(
    ("error", "means"),
    [
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "transposed product"),
        (RuntimeError("expected m1 and m2 to have the same dtype"), "another dtype"),
        (AttributeError("no attribute 'lora_A'"), "does not set"),
        (AttributeError("cannot assign parameters before Module.__init__() call"), "`super().__init__()` is missing"),
        (NameError("name 'a' is not defined"), "not defined"),
        (RuntimeError("a leaf Variable that requires grad is being used in an in-place operation."), "no_grad"),
        (KeyError("x"), ""),
    ],
)
def test_what_an_exception_usually_means(error, means):
    assert means in guess(error) and bool(means) == bool(guess(error))


class IdleDropout(Ten):
    def __init__(self, base_layer, r, lora_alpha, lora_dropout):
        super().__init__(base_layer, r, lora_alpha)


def test_a_dropout_that_is_never_applied_is_a_remark():
    assert laws(IdleDropout).passed and "never applied" in str(laws(IdleDropout))


class Demands(Ten):
    def __init__(self, base_layer, r, lora_alpha, seed):
        super().__init__(base_layer, r, lora_alpha)


class Positional(Ten):
    def __init__(self, base_layer, r, lora_alpha, /):
        super().__init__(base_layer, r, lora_alpha)


class Anything(Ten):
    def __init__(self, *args):
        super().__init__(*args)


class Surprising(Ten):
    def named_buffers(self, *args, **kwargs):
        raise ZeroDivisionError("no buffers today")


class WrongShape(Ten):
    def forward(self, x):
        return super().forward(x).sum(-1)


class NoUnmerge(Linears):
    unmerge = None


def test_constructors():
    assert "demands seed too" in str(laws(Demands)) and laws(Demands).broken == [0]
    assert laws(Positional).passed
    assert laws(Anything).broken == [0] and "another constructor" in str(laws(Anything))


def test_what_nobody_foresaw_is_still_a_sentence():
    report = laws(Surprising)
    assert report.broken == [0] and "ZeroDivisionError: no buffers today" in str(report)
    assert "a wrong output shape" in str(laws(WrongShape))
    assert laws(NoUnmerge).passed and "no `unmerge()` method" in str(laws(NoUnmerge))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no file"),
        ("x = 1", "defines no class"),
        ("x = (", "line 1"),
        ("\n\nraise KeyError('gone')", "line 3.*KeyError"),
        ("from torch import nn\nclass A(nn.Module): ...\nclass B(nn.Module): ...", "several layers"),
    ],
)
def test_a_file_without_a_layer_is_a_clear_error(tmp_path, text, message):
    path = tmp_path / "my_lora.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(LayerFileError, match=message):
        run_laws(path)


PASSES = "from lora_edu.adapters import LoRALinear\nfrom torch import nn\nclass Helper(nn.Module): ...\nclass MyLoRA(LoRALinear): ...\n"


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (PASSES, 0, "has Helper too; another is named with `--class`"),
        (PASSES + "import sys; sys.exit()", 2, "could not be run: SystemExit"),
        (PASSES + "raise SystemExit(0)", 2, "line 5 could not be run: SystemExit"),
        (PASSES.replace(": ...\n", ":\n    def __init__(self, base_layer, r, alpha):\n        exit()\n"), 1, "must not end the program"),
        (PASSES.replace(": ...\n", ":\n    def merge(self):\n        exit()\n"), 1, "must not end the program"),
        (PASSES.replace(": ...\n", ":\n    def forward(self, x):\n        return x\n"), 1, "Law 2"),
    ],
)  # fmt: skip
def test_the_command_fails_where_the_file_or_the_layer_ends_the_program(tmp_path, text, code, says):
    path = tmp_path / "my_lora.py"
    path.write_text(text)
    result = run("laws", path)
    said = result.output + str(result.exception)
    assert bool(result.exit_code) == bool(code) and says in said, said


def test_a_file_of_another_kind_is_a_clear_error(tmp_path):
    (tmp_path / "my_lora.txt").write_text("x")
    with pytest.raises(LayerFileError, match="not a Python file"):
        run_laws(tmp_path / "my_lora.txt")


def test_one_class_of_a_file_can_be_named(tmp_path):
    path = tmp_path / "my_lora.py"
    path.write_text(
        "from torch import nn\nclass Helper(nn.Module): ...\nfrom lora_edu.adapters import LoRALinear\nclass MyLoRA(LoRALinear): ...\n"
    )
    assert run_laws(path).passed  # the only one named after LoRA
    with pytest.raises(LayerFileError, match="no layer class Other"):
        run_laws(path, "Other")
    assert run_laws(str(path), "Helper").broken == [0]
    with pytest.raises(LayerFileError, match="the class itself"):
        laws(nn.Linear(2, 2))
