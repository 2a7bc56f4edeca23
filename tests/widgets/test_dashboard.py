"""The training dashboard without a page: its controls are pressed from the run's own thread and from another."""

import itertools
import math
import shutil
import signal
import threading
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from helpers import TESTS
from small_run import regression, training_dashboard

from lora_edu.course.notebooks import execute
from lora_edu.errors import ConfigError
from lora_edu.plots.primitives import Path, Text
from lora_edu.training import Callback
from lora_edu.training.checkpoints import checkpoints
from lora_edu.widgets import TrainingDashboard, curves, live


class At(Callback):
    """Does something after a step, as a hand on the page would."""

    def __init__(self, **hands):
        self.hands = {int(step.removeprefix("step")): hand for step, hand in hands.items()}

    def on_step_end(self, trainer, record):
        if record["step"] in self.hands:
            self.hands[record["step"]]()


def move(dashboard: TrainingDashboard, rate: float):
    """What a move of the slider in the page calls."""
    values = [value for _, value in dashboard.rate.options]
    return lambda: dashboard.rate.set_state({"index": values.index(rate)})


def rates(trainer) -> list[float]:
    return [record["learning_rate"] for record in trainer.history.steps]


def weights(trainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.parameters.values()]


def equal(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def words(dashboard: TrainingDashboard) -> str:
    return " ".join(item.text for item in dashboard.canvas().items if isinstance(item, Text))


# The controls -----------------------------------------------------------------------------------------------------
def test_the_slider_changes_the_rate_of_the_next_step():
    dashboard = TrainingDashboard()
    trainer = regression(dashboard, At(step10=lambda: move(dashboard, 0.02)()), max_steps=30)
    trainer.train()
    assert rates(trainer) == [0.3] * 11 + [0.02] * 19  # the hand came after the dashboard had looked
    assert [tuple(mark) for mark in dashboard.marks] == [(11, 0.02, "you")]
    assert "You set the learning rate to 0.02 after step 11." in words(dashboard)


def test_a_schedule_goes_on_from_the_new_peak():
    dashboard = TrainingDashboard()
    slow = regression(dashboard, At(step10=lambda: move(dashboard, 0.02)()), scheduler="linear", max_steps=20)
    slow.train()
    plain = regression(scheduler="linear", max_steps=20, learning_rate=0.02)
    plain.train()
    assert rates(slow)[11:] == rates(plain)[11:]


def test_stop_ends_the_run_after_the_step():
    dashboard = TrainingDashboard()
    trainer = regression(dashboard, At(step7=lambda: dashboard.stop.click()))
    history = trainer.train()
    assert (len(history.steps), history.stopped) == (8, "stopped by hand")
    assert "Stopped by hand at step 8 of 60" in words(dashboard)


def test_another_thread_pauses_changes_and_stops():
    """As in a notebook, where the page's messages arrive in a thread of their own; only the run's thread draws."""
    dashboard, drawers, held = TrainingDashboard(), set(), []
    redraw = dashboard._redraw
    dashboard._redraw = lambda: (drawers.add(threading.current_thread()), redraw())
    trainer = regression(dashboard, seconds=0.002, max_steps=5000, eval_every=5000)

    def hand():
        wait_for(lambda: trainer.step >= 3)
        dashboard.controls["smoothing"].value = 3
        dashboard.pause.click()
        wait_for(lambda: dashboard.paused and "Paused" in dashboard._image.value)
        held.append((trainer.step, dashboard.pause.description))
        move(dashboard, 0.05)()
        wait_for(lambda: "You set the learning rate to 0.05" in dashboard._image.value)
        held.append((trainer.step, dashboard.pause.description))
        dashboard.pause.click()
        wait_for(lambda: trainer.step >= held[0][0] + 3)
        dashboard.stop.click()

    other = threading.Thread(target=hand)
    other.start()
    history = trainer.train()
    other.join()
    step = held[0][0]
    assert held == [(step, "Continue")] * 2
    assert rates(trainer)[step - 1 : step + 1] == [0.3, 0.05]
    assert history.stopped == "stopped by hand" and drawers == {threading.current_thread()}


def wait_for(true, seconds: float = 20):
    pause = threading.Event()
    for _ in range(int(seconds / 0.002)):
        if true():
            return
        pause.wait(0.002)
    raise AssertionError("it never came")


def test_ctrl_c_ends_a_pause_saves_and_goes_on_exactly(tmp_path):
    settings = {"dropout": 0.3, "max_steps": 12}
    whole = regression(**settings)
    whole.train()
    dashboard = TrainingDashboard()
    trainer = regression(dashboard, At(step4=lambda: dashboard.pause.click()), output_dir=str(tmp_path), **settings)

    def press_twice_if_once_is_not_enough():
        wait_for(lambda: dashboard.paused)
        signal.raise_signal(signal.SIGINT)
        try:
            wait_for(lambda: not dashboard.running, seconds=5)
        except AssertionError:
            signal.raise_signal(signal.SIGINT)

    threading.Thread(target=press_twice_if_once_is_not_enough, daemon=True).start()
    with pytest.raises(KeyboardInterrupt, match=r"Stopped after step 5 and saved"):
        trainer.train()
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-00000005"]
    assert "Interrupted at step 5 of 12: it can go on" in words(dashboard)
    again = regression(TrainingDashboard(), output_dir=str(tmp_path), **settings)
    assert again.resume().losses == whole.history.losses and equal(again, whole)


def test_a_pause_is_not_counted(monkeypatch):
    dashboard, clock = TrainingDashboard(), {}
    trainer = regression(dashboard, At(step4=lambda: dashboard.pause.click()), max_steps=8)

    def hand():
        wait_for(lambda: dashboard.paused)
        threading.Event().wait(0.6)
        dashboard.pause.click()

    threading.Thread(target=hand, daemon=True).start()
    trainer.hold, hold = lambda go: clock.update(held=True) or hold(go), trainer.hold
    now = [0.0]  # a clock that stands still, but while the run waits

    def wait(seconds: float) -> None:
        now[0] += 100
        threading.Event().wait(seconds)

    monkeypatch.setattr("lora_edu.training.trainer.time", SimpleNamespace(perf_counter=lambda: now[0], sleep=wait))
    trainer.train()
    assert clock == {"held": True} and now[0] >= 100 and trainer.seconds == 0
    seconds = [record["seconds"] for record in trainer.history.steps]
    assert seconds == sorted(seconds)


def test_a_rate_set_by_hand_survives_ctrl_c_and_resume(tmp_path):
    settings = {"dropout": 0.3, "max_steps": 20, "scheduler": "cosine"}
    ctrl_c = At(step9=lambda: signal.raise_signal(signal.SIGINT))
    whole = regression(TrainingDashboard(script={5: ("learning_rate", 0.02)}), **settings)
    whole.train()
    dashboard = TrainingDashboard()
    hand = At(step4=lambda: move(dashboard, 0.02)())
    with pytest.raises(KeyboardInterrupt):
        regression(dashboard, hand, ctrl_c, output_dir=str(tmp_path), **settings).train()
    after = TrainingDashboard()
    again = regression(after, output_dir=str(tmp_path), **settings)
    again.resume()
    assert rates(again) == rates(whole) and rates(again)[4] > 0.1 > rates(again)[5]
    assert equal(again, whole) and again.learning_rate == after.rate.value == 0.02


def test_an_order_from_before_the_run_is_forgotten():
    dashboard = TrainingDashboard()
    dashboard.stop.click()
    dashboard.rate.value = 0.1
    trainer = regression(dashboard, max_steps=5)
    trainer.train()
    assert trainer.history.stopped == "finished" and rates(trainer) == [0.3] * 5 and dashboard.rate.value == 0.3


def test_another_callback_may_change_the_rate_too():
    dashboard = TrainingDashboard()

    class Halve(Callback):
        def on_step_end(self, trainer, record):
            trainer.learning_rate /= 2

    trainer = regression(dashboard, Halve(), max_steps=4)
    trainer.train()
    assert rates(trainer) == [0.3, 0.15, 0.075, 0.0375] and dashboard.marks == []


# The script and the verdict ---------------------------------------------------------------------------------------
def test_the_script_acts_and_the_drawing_says_so():
    dashboard = TrainingDashboard(script={3: ("learning_rate", 0.0123), 9: ("stop", None)})
    trainer = regression(dashboard)
    trainer.train()
    assert rates(trainer) == [0.3] * 3 + [0.0123] * 6
    assert "The script set the learning rate to 0.0123 after step 3." in words(dashboard)
    assert trainer.history.stopped == "stopped by the script"


def test_a_reader_who_acts_takes_over_from_the_script():
    dashboard = TrainingDashboard(script={8: ("stop", None)})
    trainer = regression(dashboard, At(step4=lambda: move(dashboard, 0.05)()), max_steps=12)
    trainer.train()
    assert trainer.history.stopped == "finished"


@pytest.mark.parametrize("order", [("pause", None), ("learning_rate", None), ("learning_rate", -1.0), ("faster", 1.0)])
def test_a_script_that_cannot_be_is_refused(order):
    """A pause that nobody may end would hang a notebook for ever."""
    with pytest.raises(ConfigError, match="step 3"):
        TrainingDashboard(script={3: order})


def test_every_must_be_a_step():
    with pytest.raises(ConfigError, match="every"):
        TrainingDashboard(every=0)


@pytest.mark.parametrize("target, rescued", [(100.0, True), (1e-9, False)])
def test_the_verdict_is_the_held_out_loss_against_the_target(target, rescued):
    dashboard = TrainingDashboard(target=target)
    trainer = regression(dashboard, learning_rate=0.9)
    assert dashboard.verdict == ""
    losses = trainer.train().losses
    assert dashboard.rescued is rescued and dashboard.verdict.startswith("Rescued" if rescued else "Not rescued")
    assert dashboard.held_out == trainer.evaluate()
    lost = int((np.array(losses) > losses[0]).sum())
    assert lost > 0 and dashboard.lost_steps == lost and f"Lost: {lost} of 60 steps" in dashboard.verdict


def test_the_verdict_judges_the_weights_that_are_kept():
    dashboard = TrainingDashboard(target=1.0)
    trainer = regression(dashboard, learning_rate=0.9, keep_best=True)
    trainer.train()
    assert dashboard.held_out == trainer.history.best["loss"] == trainer.evaluate()


# What it costs, what it shows, and where ---------------------------------------------------------------------------
def test_the_run_is_bit_for_bit_the_one_without_it(monkeypatch):
    """With a sample that draws random numbers, and every step drawn."""
    monkeypatch.setattr(live, "why_no_controls", lambda: "")
    monkeypatch.setattr("lora_edu.widgets.dashboard.GAP", 0.0)
    modes = []

    def sample():
        modes.append(trainer.model.training)
        return f"{torch.rand(3)} {np.random.rand()}"

    dashboard = TrainingDashboard(sample, every=5)
    trainer, plain = regression(dashboard, dropout=0.3), regression(dropout=0.3)
    trainer.train(), plain.train()
    assert trainer.history.losses == plain.history.losses and equal(trainer, plain)
    assert len(modes) == 60 // 5 + 1 and not any(modes)
    assert "Sample after step 60: tensor" in words(dashboard)


@pytest.mark.parametrize("gap, drawings", [(1e9, 3), (0.0, 62)])
def test_drawings_are_few(monkeypatch, gap, drawings):
    monkeypatch.setattr(live, "why_no_controls", lambda: "")
    monkeypatch.setattr("lora_edu.widgets.dashboard.GAP", gap)
    monkeypatch.setattr("lora_edu.widgets.dashboard.SHARE", 1e9)
    dashboard = TrainingDashboard()
    regression(dashboard).train()
    assert drawings - 1 <= dashboard.drawings <= drawings  # at the beginning, at the end, and on the way


def test_a_long_run_has_no_larger_drawing_and_every_spike():
    dashboard = training_dashboard()
    trainer, record = dashboard.trainer, dashboard.trainer.history.steps[-1]
    trainer.history.steps = [record | {"step": step, "loss": 1.0} for step in range(1, 5001)]
    trainer.history.steps[1234]["loss"], trainer.total_steps = 50.0, 5000
    trainer.history.evaluations = [{"step": 5000, "loss": 1.0}]
    canvas = dashboard.canvas()
    assert len(canvas.svg()) < 20_000
    curve = max((item for item in canvas.items if isinstance(item, Path)), key=lambda path: len(path.points))
    x, y = min(curve.points, key=lambda point: point[1])
    assert y < 110 and x == pytest.approx(52 + 692 * 1235 / 5000)  # at the top of the box, in its place


def test_controls_are_there_only_while_they_act(monkeypatch):
    monkeypatch.setattr(live, "why_no_controls", lambda: "")
    dashboard, seen = TrainingDashboard(), []
    row = dashboard.view.children[1]
    assert dashboard.stop not in row.children
    trainer = regression(dashboard, At(step3=lambda: seen.append(dashboard.stop in row.children)))
    trainer.train()
    assert seen == [True] and dashboard.stop not in row.children and "No live controls" not in words(dashboard)


@pytest.mark.parametrize("deaf", ["", "No live controls: a test."])
def test_the_progress_bar_runs_where_the_controls_cannot(monkeypatch, capsys, deaf):
    monkeypatch.setattr(live, "why_no_controls", lambda: deaf)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    dashboard, seen = TrainingDashboard(), []
    regression(dashboard, At(step3=lambda: seen.append(words(dashboard))), progress=True).train()
    printed = capsys.readouterr()
    assert ("training: 100%" in printed.err) == (deaf != "") and (deaf in printed.err)
    assert deaf in seen[0]
    assert "No live controls" not in words(dashboard), "who sees the picture afterwards has nothing to control"


@pytest.mark.parametrize("height", [62, 190])
def test_the_numbers_of_an_axis_never_overlap(height):
    for low in (1e-7, 2.7e-5, 4e-4, 0.0021, 0.3):
        for factor in (1.3, 3, 6.25, 37, 125, 5e4):
            kept = curves._log_ticks(low, low * factor, height)
            places = [math.log(tick / low) * height / math.log(factor) for tick in kept]
            assert all(0 <= place <= height + 1e-6 for place in places)
            assert all(b - a >= 13.9 for a, b in itertools.pairwise(places))
            assert len(kept) >= 2 or factor < 6


def test_an_error_takes_the_controls_away_and_keeps_the_curves(monkeypatch):
    monkeypatch.setattr(live, "why_no_controls", lambda: "")
    dashboard = TrainingDashboard()
    with pytest.raises(ZeroDivisionError):
        regression(dashboard, At(step5=lambda: 1 / 0)).train()
    assert dashboard.stop not in dashboard.view.children[1].children and not dashboard.shows_progress
    assert "Failed after step 5 of 60" in words(dashboard)


def test_a_second_run_begins_with_a_clean_dashboard():
    dashboard = TrainingDashboard(script={3: ("learning_rate", 0.1)})
    regression(dashboard, At(step5=lambda: move(dashboard, 0.05)()), max_steps=10).train()
    again = regression(dashboard, max_steps=10)
    again.train()
    assert rates(again) == [0.3] * 3 + [0.1] * 7 and [mark.by for mark in dashboard.marks] == ["the script"]


def test_a_finished_run_follows_its_controls():
    dashboard = training_dashboard()
    before = dashboard._image.value
    dashboard.controls["axis"].value = "linear"
    assert dashboard._image.value != before


# Can the page reach a running cell? --------------------------------------------------------------------------------
def kernel_with(subshells: list[str] | None):
    manager = SimpleNamespace(list_subshell=lambda: subshells)
    return SimpleNamespace(shell_channel_thread=None if subshells is None else SimpleNamespace(manager=manager))


@pytest.mark.parametrize(
    "kernel, why",
    [
        (None, "not a notebook"),
        (kernel_with(None), "this kernel"),
        (kernel_with([]), "nothing could speak"),
        (kernel_with(["a"]), ""),
    ],
)
def test_it_knows_why_it_is_deaf(monkeypatch, kernel, why):
    monkeypatch.setattr(live, "kernel", lambda: kernel)
    said = live.why_no_controls(patience=0.0)
    assert why in said and bool(said) == bool(why) and said.count(".") <= 3


def test_messages_stay_where_the_page_sends_them():
    """ipykernel 7.4's own rule would send them to the shell that is busy with the cell."""
    from ipykernel.comm.comm import Comm

    comm = Comm(target_name="test", primary=False, show_warning=False)
    comm._reply_subshell_id = None  # the main shell has just written to it
    if hasattr(comm, "_reply_subshell_for"):
        assert comm._reply_subshell_for({}, "a subshell") is None
        live.let_through([SimpleNamespace(comm=comm)])
        assert comm._reply_subshell_for({}, "a subshell") == "a subshell"


@pytest.mark.slow
def test_an_executed_notebook_keeps_the_last_picture_and_nothing_else(tmp_path):
    """nbclient has no page: the run waits for nobody, and a hundred redraws would leave no trace."""
    source = (
        "from small_run import regression\nfrom lora_edu.widgets import TrainingDashboard\n"
        "trainer = regression(TrainingDashboard(script={20: ('learning_rate', 0.03)}))\nlen(trainer.train().steps)"
    )
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = tmp_path / "page.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)], metadata=kernel), path)
    shutil.copy(TESTS / "small_run.py", tmp_path)
    picture, count = execute(path).cells[0].outputs
    assert count.data["text/plain"] == "60" and set(picture.data) == {"text/html", "text/plain"}
    alt = picture.data["text/html"].split(" width=")[0]
    assert "Finished at step 60 of 60" in alt
    assert "No live controls" not in alt  # who reads a stored page has none to miss
    assert path.stat().st_size < 150_000
