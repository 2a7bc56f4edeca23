"""What each widget claims, checked against the mathematics it draws."""

from dataclasses import replace

import pytest
import torch
from every_widget import budget_grid, dial_data, mixer_data, rank_slider

from lora_edu.adapters import LoRAConfig
from lora_edu.errors import DataError
from lora_edu.experiments import Choice
from lora_edu.experiments.choices import ALL_LINEAR, KINDS, budget
from lora_edu.linalg import low_rank
from lora_edu.plots import BLUE, GREEN, INK, VERMILION
from lora_edu.plots.primitives import Dot, Path, Raster, Text
from lora_edu.plots.raster import font
from lora_edu.training.memory import megabytes, predict_memory, sketch
from lora_edu.training.memory.ledger import SHAPES
from lora_edu.widgets.adapter_mixer import AdapterMixer, MixerData
from lora_edu.widgets.base import WIDTH, Widget
from lora_edu.widgets.budget import NEAR, R_MAX, BudgetPainter
from lora_edu.widgets.dial import LINES, AdapterDial, DialData
from lora_edu.widgets.dial import _lines as dial_lines
from lora_edu.widgets.directions import RankDirections, rank_one
from lora_edu.widgets.memory import Bars, MemoryBars
from lora_edu.widgets.ranks import SHOWN, RankSlider, photograph
from lora_edu.widgets.shapes import STARTS, STEPS, VERDICT_FROM, ShapesAndStarts, start_and_train


def drawing(widget: Widget) -> str:
    return widget._image.value


# ShapesAndStarts ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "start, silent, grad_A, grad_B",
    [("B", True, False, True), ("A", True, True, False), ("both", True, False, False), ("neither", False, True, True)],
)
def test_starts_behave_as_chapter_03_says(start, silent, grad_A, grad_B):
    run = start_and_train(24, 16, 4, 8, start)
    assert (run.output_change[0] == 0) == silent
    assert (run.grad_A[0] != 0) == grad_A
    assert (run.grad_B[0] != 0) == grad_B
    learns = grad_A or grad_B
    assert (run.loss[-1] < 0.9 * run.loss[0]) == learns
    if start == "B":  # law 4: after one step only B has moved
        assert torch.equal(run.As[1], run.As[0]) and not torch.equal(run.Bs[1], run.Bs[0])
        assert run.grad_A[1] > 0
    if start == "both":
        assert run.loss[-1] == run.loss[0] == pytest.approx(1.0)


def test_doubling_alpha_quadruples_the_first_step():
    """Law 4: with B = 0 the first SGD step is ΔW = −η s² G AᵀA, so s enters twice."""
    one, two = start_and_train(12, 8, 3, 6, "B", steps=1), start_and_train(12, 8, 3, 12, "B", steps=1)
    assert one.delta(0).abs().max() == 0 and one.delta(1).abs().max() > 0
    torch.testing.assert_close(two.delta(1), 4 * one.delta(1))


def test_rank_slider_follows_the_sides():
    widget = ShapesAndStarts()
    widget.controls["r"].value = 32
    widget.controls["d_in"].value = 8
    assert widget.controls["r"].max == widget.controls["r"].value == 8
    assert widget.errors == []
    widget.controls["d_in"].value = 64
    assert widget.controls["r"].max == 48


def test_a_run_that_blows_up_is_drawn_and_said():
    widget = ShapesAndStarts()
    widget.controls["alpha"].value = 32
    widget.controls["r"].value = 1
    widget.controls["step"].value = STEPS
    assert "blew up" in drawing(widget)
    assert widget.errors == []


VERDICTS = {
    "B = 0 (LoRA)": "silent at step 0; learns",
    "A = 0": "silent at step 0; learns",
    "both random": "not silent",
    "both zero": "dead: nothing flows back, ever",
}


@pytest.mark.parametrize("start", STARTS)
def test_the_verdict_waits_for_the_third_step(start):
    widget = ShapesAndStarts()
    widget.controls["start"].value = start
    for step in range(VERDICT_FROM + 1):
        widget.controls["step"].value = step
        for words in (drawing(widget), widget.canvas().alt):
            assert (VERDICTS[start] in words) == (step == VERDICT_FROM)
        ahead = [
            p
            for p in widget.canvas().items
            if isinstance(p, Path) and p.stroke == GREEN and len(p.points) > VERDICT_FROM + 1
        ]
        assert bool(ahead) == (step == VERDICT_FROM)  # nor does the curve show what is to come


@pytest.mark.parametrize("start, empty", [("B = 0 (LoRA)", 2), ("A = 0", 2), ("both random", 0), ("both zero", 3)])
def test_a_matrix_of_zeros_is_an_empty_dashed_frame(start, empty):
    widget = ShapesAndStarts()
    widget.controls["start"].value = start
    items = widget.canvas().items
    frames = [p for p in items if isinstance(p, Path) and p.closed and p.dash]
    assert len(frames) == drawing(widget).count(">zeros<") == empty
    assert all(frame.fill is None and frame.stroke == INK for frame in frames)
    assert sum(isinstance(item, Raster) for item in items) == 4 - empty + 1  # the other matrices, and the legend


# RankDirections -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("angle_a", [0, 35, 90, 210])
@pytest.mark.parametrize("angle_b", [0, 100, 270])
def test_a_decides_who_moves_and_b_where_to(angle_a, angle_b):
    W0 = torch.tensor([[1.0, 0.5], [-0.2, 1.3]])
    moved = rank_one(W0, angle_a, angle_b, 0.8)
    torch.testing.assert_close(moved.after, moved.inputs @ (W0 + moved.delta).T, atol=1e-5, rtol=0)
    move = moved.after - moved.before
    assert torch.equal(move[-moved.deaf :], torch.zeros(moved.deaf, 2))
    torch.testing.assert_close(moved.inputs[-moved.deaf :] @ moved.a, torch.zeros(moved.deaf), atol=1e-6, rtol=0)
    across = torch.tensor([-moved.b[1], moved.b[0]])
    torch.testing.assert_close(move @ across, torch.zeros(len(move)), atol=1e-6, rtol=0)
    assert (move.norm(dim=1) > 0.1).sum() > 20
    assert torch.linalg.matrix_rank(moved.delta) == 1


def test_the_plane_counts_entries_and_says_that_nothing_moves_without_b():
    widget = RankDirections()
    assert "4 of its 4 entries are not zero, yet all outputs move along lines parallel to b" in drawing(widget)
    widget.controls["a"].value = widget.controls["b"].value = 0
    assert "1 of its 4 entries are not zero, yet all outputs move along lines parallel to b" in drawing(widget)
    widget.controls["strength"].value = 0.0
    assert "0 of its 4 entries are not zero, and no output moves" in drawing(widget)
    assert widget.errors == []


# RankSlider -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("r", [1, 6, 48])
def test_reconstruction_error_and_bytes_are_those_of_the_whole_matrix(r):
    widget = rank_slider(size=SHOWN + 40)
    widget.controls["r"].value = r
    for kept in widget._result():
        M = kept.spectrum.matrix
        best = low_rank(M, r)
        assert kept.error == pytest.approx(float((M - best).norm() / M.norm()), abs=2e-6)
        assert (kept.bytes_kept, kept.bytes_full) == (4 * r * sum(M.shape), 4 * M.numel())
        rows, columns = kept.pixels.shape[:2]
        torch.testing.assert_close(kept.spectrum.reconstruction(r), best[:rows, :columns], atol=1e-4, rtol=1e-4)


def test_a_rank_above_a_small_matrix_keeps_it_whole():
    widget = RankSlider({"tall": torch.randn(40, 8), "wide": torch.randn(16, 60)}, with_photograph=False)
    widget.controls["r"].value = 16
    tall, wide = widget._result()
    assert (tall.r, wide.r) == (8, 16)
    assert tall.error == wide.error == 0
    assert "no saving" in drawing(widget)


def test_columns_must_fit():
    with pytest.raises(ValueError, match="4 columns do not fit"):
        RankSlider({str(n): torch.eye(4) for n in range(3)})


def test_the_photograph_is_a_picture():
    picture = photograph()
    assert picture.shape == (256, 256) and 0 <= float(picture.min()) < 0.1 and 0.9 < float(picture.max()) <= 1
    assert float(picture.std()) > 0.15


# AdapterDial ----------------------------------------------------------------------------------------------------------
def test_the_dial_shows_the_answers_of_its_scale_and_marks_the_losses():
    widget = AdapterDial(dial_data())
    assert widget.state["scale"] == 0.0  # the base first
    widget.controls["scale"].value = 2.0
    assert "(2.0)" in drawing(widget) and "(1.0)" not in drawing(widget)
    assert "4.9" in drawing(widget)  # 3.7 + 0.3 · 2²
    assert "…" in drawing(widget)  # the long answer is cut
    assert "general text 4.9" in widget.canvas().alt


ANSWERS = ["x" * n + " thou shalt not tarry" * 40 for n in range(4)] + ["o " * 400, "ye" * 400, "\n\n", "W" * 41]


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_of_any_length_fits_in_its_lines(answer):
    data = dial_data()
    widget = AdapterDial(DialData(**(vars(data) | {"answers": [[answer, "yes"]] * len(data.scales)})))
    lines = dial_lines(answer)
    assert len(lines) <= LINES and max(font(14, bold=True).getlength(line) for line in lines) <= WIDTH - 40
    for scale in (0.0, 1.0):  # 0.0: nothing is marked, a line is one text
        widget.controls["scale"].value = scale
        assert all(f">{line.removesuffix(' …')}<" in drawing(widget) for line in lines if line)
    said = "".join("".join(lines).split())
    assert "".join(answer.split()).startswith(said.removesuffix("…"))
    assert said.endswith("…") == (len(answer) > 200)  # nothing is left out without a word


def test_words_that_the_base_does_not_say_are_marked():
    data = DialData(
        [0.0, 1.0], ["q"], [["I know not where."], ["And I knowest not where."]], {"loss": [1.0, 2.0]}, "", ""
    )
    widget = AdapterDial(data)

    def marked():
        return [item.text for item in widget.canvas().items if isinstance(item, Text) and item.bold and item.size == 14]

    assert [text for text in marked() if not text[0].isdigit()] == []  # the base itself
    widget.controls["scale"].value = 1.0
    assert [text for text in marked() if not text[0].isdigit()] == ["And", "knowest"]
    assert len([item for item in widget.canvas().items if isinstance(item, Path) and item.width == 1.5]) == 2


def test_the_dial_can_leave_its_losses_for_later():
    whole, first = AdapterDial(dial_data()), AdapterDial(dial_data(), curves=False)
    assert "Loss in nats" in whole.canvas().alt and "Loss" not in first.canvas().alt + first.question + drawing(first)
    assert first.canvas().height < whole.canvas().height


def test_the_dial_s_curves_differ_without_colour():
    items = AdapterDial(dial_data()).canvas().items
    squares = [p for p in items if isinstance(p, Path) and p.closed]
    dots = [p for p in items if isinstance(p, Dot)]
    assert len(squares) == len(dots) == 2  # on the curve and in the legend
    curves = {p.stroke: p.dash for p in items if isinstance(p, Path) and len(p.points) == 6}
    assert len(set(curves.values())) == len(curves) == 2


def test_the_dial_names_the_base_and_the_adapter_as_trained():
    widget = AdapterDial(dial_data())
    assert "Shown at: scale 0 (base)." in widget.picture().summary
    widget.controls["scale"].value = 1.0
    assert widget.controls["scale"].label == "1 (as trained)"


def test_the_reader_can_ask_at_a_scale():
    asked = []
    widget = AdapterDial(dial_data(), ask=lambda prompt, scale: asked.append((prompt, scale)) or "an <answer>")
    widget.controls["scale"].value = 0.5
    widget.button.click()
    assert asked == []  # nothing typed, nothing asked
    widget.own.value = "Who are you?"
    widget.button.click()
    assert asked == [("Who are you?", 0.5)]
    assert "an &lt;answer&gt;" in widget.reply.value and "0.5" in widget.reply.value
    widget.own.value = "And now?"  # which a browser had told before: Enter comes before a text field's own change
    assert widget.own.continuous_update and len(asked) == 1
    widget.own._handle_custom_msg({"event": "submit"}, [])  # as a browser says it
    assert asked[1:] == [("And now?", 0.5)]


def test_a_failing_model_is_reported_by_the_dial():
    def ask(prompt, scale):
        raise RuntimeError("the model is not loaded")

    widget = AdapterDial(dial_data(), ask=ask)
    widget.own.value = "Hello"
    widget.button.click()  # ipywidgets logs what a button's callback raises; it must not end there
    assert "the model is not loaded" in widget._message.value and len(widget.errors) == 1


def test_dial_data_survives_the_disk(tmp_path):
    data = dial_data()
    data.write(tmp_path / "dial.json")
    assert DialData.read(tmp_path / "dial.json") == data


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scales": [1.0]}, "two scales or more"),
        ({"scales": [0.0, 0.0, 0.5, 1.0, 1.5, 2.0]}, "rising"),
        ({"answers": [["only one"]] * 6}, "needs 2 answers at each of 6 scales"),
        ({"curves": {"style": [1.0]}}, "the curve 'style' has 1 values for 6 scales"),
    ],
)
def test_dial_data_that_does_not_fit_together_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        DialData(**(vars(dial_data()) | change))


def test_a_file_that_is_no_dial_is_named(tmp_path):
    (tmp_path / "x.json").write_text('{"scales": [1]}')
    with pytest.raises(DataError, match=r"x\.json holds no dial data"):
        DialData.read(tmp_path / "x.json")


# MemoryBars -----------------------------------------------------------------------------------------------------------
def test_memory_bars_show_the_ledger_of_each_setting():
    widget = MemoryBars(["smollm2-135m"], batch_size=2)
    settings = {"r": 32, "length": 128, "dtype": "bfloat16", "checkpointing": True}
    for name, value in settings.items():
        widget.controls[name].value = value
    options = {"dtype": torch.bfloat16, "gradient_checkpointing": True}
    full = predict_memory("smollm2-135m", 2, 128, **options)
    lora = predict_memory("smollm2-135m", 2, 128, lora=LoRAConfig(r=32), **options)
    assert widget._result() == Bars(full.entries(), lora.entries())
    assert lora.total < 0.6 * full.total
    for ledger in (full, lora):
        assert f"{megabytes(ledger.total)} (weights {megabytes(ledger.weights)}" in widget.canvas().alt
        assert f">{megabytes(ledger.total)}<" in drawing(widget)
    assert f"{megabytes(full.optimizer)} → {megabytes(lora.optimizer)}" in drawing(widget)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_bars_tell_all_layers_from_two(shape, checkpointing):
    """A sketch of one layer and one of two, instead of one of all: the same bytes, in a tenth of the time."""
    widget = MemoryBars([shape])
    widget.controls["checkpointing"].value = checkpointing
    full, lora = (
        predict_memory(shape, 4, 256, lora=lora, gradient_checkpointing=checkpointing)
        for lora in (None, LoRAConfig(r=8))
    )
    assert widget._result() == Bars(full.entries(), lora.entries())


# BudgetPainter --------------------------------------------------------------------------------------------------------
def paint(widget: BudgetPainter, kinds: str, r: int, first: int = 0, last: int = 29) -> None:
    wanted = {"first": first, "last": last, "r": r} | {kind: kind in kinds.split() for kind in KINDS}
    for name, value in wanted.items():
        widget.controls[name].value = value


@pytest.mark.parametrize("kinds, r, first, last", [("q v", 42, 0, 29), ("k", 3, 7, 7), (" ".join(KINDS), 24, 10, 19)])
def test_the_painter_s_bill_is_the_ledger_s(kinds, r, first, last):
    widget = BudgetPainter(budget_grid())
    paint(widget, kinds, r, first, last)
    bill, model = widget._result(), sketch("smollm2-135m", Choice.of(widget.state).config())
    ledger = predict_memory(model, 1, 8)
    assert (bill.parameters, bill.optimizer, bill.file) == (ledger.trainable, ledger.optimizer, ledger.file)
    assert f"{ledger.trainable:,} parameters" in drawing(widget) and megabytes(ledger.file) in drawing(widget)
    assert f"{len(bill.targets)} of 210 matrices" in widget.canvas().alt
    painted = [
        item for item in widget.canvas().items if isinstance(item, Path) and (item.fill, item.stroke) == (BLUE, INK)
    ]
    assert len(painted) == len(bill.targets)


def test_layers_may_be_named_from_either_end_and_nothing_painted_costs_nothing():
    widget = BudgetPainter(budget_grid())
    paint(widget, "q", 4, first=9, last=2)
    assert len(widget._result().targets) == 8
    paint(widget, "", 4)
    assert widget._result().parameters == 0 and "Nothing is painted" in drawing(widget)
    widget.button.click()
    assert widget.errors == []


@pytest.mark.parametrize(
    "kinds, r, said",
    [
        (" ".join(KINDS), 8, "the one to beat"),
        ("q v", 42, "0.610 (0.600 to 0.620 over 3 seeds): at this learning rate worse than all-linear at 0.520"),
        ("o down", 25, "0.420 (0.400 to 0.450 over 3 seeds): at this learning rate better than all-linear"),
        ("v", 106, "0.510 (0.490 to 0.530 over 3 seeds): all-linear has 0.520, and the seeds overlap"),
        ("k", 128, "no score, and none is made up"),  # in the grid, but never run
        ("q v", 41, "Not measured at r = 41, but at r = 42"),
        ("q k", 41, "no score, and none is made up"),
    ],
)
def test_the_painter_judges_what_was_measured_and_nothing_else(kinds, r, said):
    widget = BudgetPainter(budget_grid())
    paint(widget, kinds, r)
    assert said in widget.canvas().alt and said.split(" (")[0] in drawing(widget)


def test_a_dot_appears_when_its_choice_is_painted_and_stays():
    widget = BudgetPainter(budget_grid())

    def dots():
        return [item for item in widget.canvas().items if isinstance(item, Dot)]

    assert len(dots()) == 1 and "found so far: 1" in drawing(widget)  # all-linear, the one to beat
    paint(widget, "q v", 42)
    assert len(dots()) == 2 and "found so far: 2" in drawing(widget)
    paint(widget, "q v", 41)
    assert len(dots()) == 2
    paint(widget, "o down", 25)
    assert len(dots()) == 3 and dots()[-1].fill == VERMILION  # the present one on top
    heights = {dot.centre[1] for dot in dots()}
    assert len(heights) > 1


def test_one_seed_is_no_verdict():
    grid = budget_grid()
    widget = BudgetPainter(replace(grid, metrics={"loss": grid.metrics["loss"][:, :1]}))
    for kinds, r in (("q v", 42), ("o down", 25)):
        paint(widget, kinds, r)
        assert "One seed each" in drawing(widget)
        assert "worse" not in drawing(widget) and "won" not in drawing(widget)


def test_the_button_takes_the_rank_of_the_same_bytes():
    widget = BudgetPainter(budget_grid())
    reference = budget(ALL_LINEAR).parameters
    for kinds, r in (("q v", 42), ("gate up down", 13), ("v", 106)):
        paint(widget, kinds, 1)
        widget.button.click()
        assert widget.state["r"] == r
        assert abs(widget._result().parameters / reference - 1) < NEAR and "the same bytes" in drawing(widget)
    paint(widget, "v", 1, first=3, last=3)
    widget.button.click()
    assert widget.state["r"] == R_MAX and "the same bytes" not in drawing(widget)


# AdapterMixer ---------------------------------------------------------------------------------------------------------
def test_the_mixer_says_what_its_table_holds_at_every_pair_and_method():
    data = mixer_data()
    widget = AdapterMixer(data)
    for method in data.methods:
        for i, first in enumerate(data.weights):
            for j, second in enumerate(data.weights):
                for name, value in (("method", method), ("first", first), ("second", second)):
                    widget.controls[name].value = value
                (one, loss), (two, _) = data.methods[method][i][j]
                alt = widget.canvas().alt
                assert (
                    f"share of hits {one:.2f} (alone 1.00), loss {loss:.3g}" in alt
                    and f"share of rights {two:.2f}" in alt
                )
                assert f"answered “first at {first}, {second}”" in alt and f"added by {method}" in alt
    assert widget.errors == []


def test_the_mixer_frames_the_present_pair_and_shows_losses_when_asked():
    widget = AdapterMixer(mixer_data())

    def numbers():
        return [shape.text for shape in widget.canvas().items if isinstance(shape, Text)]

    scores = numbers()
    widget.controls["shown"].value = "loss"
    assert numbers() != scores and "3.00" in numbers()
    frames = [shape for shape in widget.canvas().items if isinstance(shape, Path) and len(shape.points) == 5]
    before = [shape.points[0] for shape in frames]
    widget.controls["second"].value = 1
    after = [s.points[0] for s in widget.canvas().items if isinstance(s, Path) and len(s.points) == 5]
    assert len(before) == len(after) == 2 and all(b[0] > a[0] and b[1] == a[1] for a, b in zip(before, after))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"weights": [0, 0.5]}, "0 and 1 among them"),
        ({"weights": [0, 1, 0.5]}, "rising"),
        ({"weights": [0, 1]}, "not 2 × 2"),
        ({"answers": {}}, "one of answers for each method"),
    ],
)
def test_a_mixer_that_does_not_fit_together_is_refused(changes, said):
    with pytest.raises(DataError, match=said):
        mixer_data(**changes)


def test_mixer_data_comes_back_from_its_file(tmp_path):
    data = mixer_data()
    data.write(tmp_path / "mixer.json")
    again = MixerData.read(tmp_path / "mixer.json")
    assert again.methods == {
        k: [[[list(c) for c in cell] for cell in row] for row in t] for k, t in data.methods.items()
    }
    assert again.alone(0)[0] == again.alone(1)[0] == 1.0
    with pytest.raises(DataError, match="holds no mixer data"):
        MixerData.read(tmp_path / "nothing.json")
