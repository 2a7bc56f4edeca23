"""From a moved control to the new picture: compute and drawing of every widget, in CPU milliseconds. The bound is 60 (median).

    OMP_NUM_THREADS=1 python benchmarks/widgets.py

Every control walks through values it has not shown yet, so nothing comes from a widget's memory. RankSlider holds a q_proj of
the default model (576 × 576) and a change of rank 8 of the same size.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from unittest import mock

import ipywidgets
import torch
from common import write

from lora_edu.models import load_base
from lora_edu.widgets import RankSlider, TrainingDashboard, Widget, live

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from every_widget import MAKERS
from small_run import regression


def real_rank_slider() -> RankSlider:
    W0 = load_base().model.model.layers[10].self_attn.q_proj.weight.detach()
    draw = torch.Generator().manual_seed(0)
    delta = torch.randn(W0.shape[0], 8, generator=draw) @ torch.randn(8, W0.shape[1], generator=draw)
    return RankSlider({"W₀": W0, "a change of rank 8": delta})


def values_of(control: ipywidgets.ValueWidget, most: int) -> list:
    """Values a control can take, other than the present one, evenly spread."""
    if hasattr(control, "options"):
        every = [option[1] if isinstance(option, tuple) else option for option in control.options]
    elif hasattr(control, "step"):
        every = [control.min + k * control.step for k in range(int((control.max - control.min) / control.step) + 1)]
    else:
        every = [True, False]
    every = [value for value in every if value != control.value]
    return every[:: -(-len(every) // most)]


def milliseconds(widget: Widget, most: int) -> list[float]:
    times = []
    for control in widget.controls.values():
        start = control.value
        for value in values_of(control, most):
            before = time.process_time()
            control.value = value
            times.append(1000 * (time.process_time() - before))
        control.value = start
    return times


def dashboard_while_training() -> dict[str, float]:
    """A run of 1,000 steps of 10 ms with the dashboard live: CPU milliseconds of a drawing, and its share of the run's time."""
    dashboard = TrainingDashboard()
    with mock.patch.object(live, "why_no_controls", lambda: ""):
        trainer = regression(dashboard, seconds=0.01, max_steps=1000, eval_every=100)
        trainer.train()
    before = time.process_time()
    for _ in range(20):
        dashboard._redraw()
    return {
        "drawings": dashboard.drawings,
        "last_drawing_ms": round(50 * (time.process_time() - before), 1),
        "share_of_the_run": round(dashboard.drawing_seconds / trainer.seconds, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=20, help="values a control, at most (default 20)")
    most = parser.parse_args().moves
    table = {}
    for name, make in (MAKERS | {"RankSlider": real_rank_slider}).items():
        times = sorted(milliseconds(make(), most))
        before = time.process_time()
        picture = make().picture()
        table[name] = {
            "moves": len(times),
            "median_ms": round(statistics.median(times), 1),
            "slowest_ms": round(times[-1], 1),
            "made_and_still_picture_ms": round(1000 * (time.process_time() - before), 1),
            "still_picture_bytes": len(picture.png),
        }
        print(f"{name:16}", "  ".join(f"{key} {value}" for key, value in table[name].items()))
    live_run = dashboard_while_training()
    print("TrainingDashboard while a run goes:", live_run)
    write("widgets", {"widgets": table, "dashboard_while_training": live_run})


if __name__ == "__main__":
    main()
