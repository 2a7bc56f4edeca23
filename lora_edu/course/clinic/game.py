"""The failure clinic: nine runs whose names are gone, instruments that cost something, and a disease to name for each. Chapter 06.

    ward = clinic()
    ward.buy("C", "norms")                      # what the form's buttons do
    ward.name("C", "learning rate too high")

The training-loss curves are free, and so is every reading of a healthy run of other rows. An instrument read on a patient costs 1, a
wrong name 3. The best score of a finished round is kept with the reader's progress.
"""

import base64
import random
from collections.abc import Sequence
from html import escape
from typing import Any

from lora_edu.course import store
from lora_edu.course.card import SIGNS, Card, panel
from lora_edu.course.clinic.runs import FAULTS, SOUND, Chart, charts
from lora_edu.errors import LoRAEduError
from lora_edu.plots.axes import Axes, decades
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import BLUE, MUTED
from lora_edu.plots.picture import Picture
from lora_edu.tables import html_table, text_table
from lora_edu.training.instruments import INSTRUMENTS

LETTERS = "ABCDEFGHI"
WRONG = 3  # what a wrong name costs, in instruments
KEY = "06.clinic"  # of the best score, among the exercises
NOT_FOR_SALE = ("loss", "rate")  # the training loss is free, and the rate would name a disease outright
FOR_SALE = tuple(name for name in INSTRUMENTS if name not in NOT_FOR_SALE)
_SHOWN = (0, 1, 3, 6, 12)  # which of a chart's readings a table shows
_WORDS = {
    "grad_A": "‖∇A‖", "grad_B": "‖∇B‖", "norm_A": "‖A‖", "norm_B": "‖B‖", "norm_delta_W": "‖ΔW‖", "held_out": "held-out loss",
    "learning_rate": "learning rate", "tokens": "tokens counted, of 8 rows", "base": "hash of W₀", "loss": "training loss",
}  # fmt: skip


class ClinicError(LoRAEduError, ValueError):
    """A patient, an instrument or a disease that does not exist."""


def clinic(seed: int = 0) -> "Clinic":
    """A round with the nine patients of a stored seed (0, 1 or 2), and a healthy run of the next seed to compare with."""
    return Clinic(list(charts(seed).values()), charts((seed + 1) % 3)[SOUND])


def lines_of(chart: Chart, instrument: str) -> list[list[str]]:
    """What an instrument shows of a run, as rows of a table: first the name, then a value a column."""
    seen = [chart.readings[i] for i in _SHOWN if i < len(chart.readings)]
    if instrument == "names":
        some = ", ".join(name.removeprefix("model.layers.") for name in chart.names[:2])
        return [["tensors that train", f"{len(chart.names)}: {some} …" if chart.names else "0: none"]]
    if instrument == "base":
        return [["hash of W₀ before", chart.base_before], ["hash of W₀ after", seen[-1]["base"]]]
    if instrument == "sample":
        return [["asked (a training row)", chart.asked], ["said at the end", chart.sample]]
    return [[_WORDS[entry], *(_said(reading[entry]) for reading in seen)] for entry in INSTRUMENTS[instrument][0]]


def _said(value: Any) -> str:
    if value is None:
        return "none"
    return (
        f"{value:.2g}"
        if isinstance(value, float) and value < 1
        else f"{value:.3g}"
        if isinstance(value, float)
        else str(value)
    )


class Clinic(Card):
    """One round. Show it as a cell's last value; `buy` and `name` do what its buttons do.

    Attributes: patients: letter → chart. bought: letter → instruments, in order. named: letter → disease, rightly named.
    """

    def __init__(self, runs: Sequence[Chart], healthy: Chart) -> None:
        order = random.Random(f"ward {runs[0].seed}").sample(list(runs), len(runs))
        self.patients = dict(zip(LETTERS, order))
        self.healthy = healthy
        self.bought: dict[str, list[str]] = {letter: [] for letter in self.patients}
        self.named: dict[str, str] = {}
        self.mistakes = 0
        head = (
            f"The clinic: patients {LETTERS[0]} to {LETTERS[-1]}. Eight are sick, each of something else; one is sound."
        )
        rules = f"Training-loss curves are free. A reading costs 1, a wrong name {WRONG}. With a kernel, buttons stand here."
        words = "\n".join(
            [head, f"Instruments: {', '.join(FOR_SALE)}.", f"Diseases: {', '.join((*FAULTS, SOUND))}.", rules]
        )
        super().__init__(words, kind="ask")

    # -- the game --------------------------------------------------------------------------------------------------------
    @property
    def cost(self) -> int:
        """Instruments bought, and what wrong names cost."""
        return sum(map(len, self.bought.values())) + WRONG * self.mistakes

    def _patient(self, letter: str) -> Chart:
        if letter not in self.patients:
            raise ClinicError(f"there is no patient {letter!r}; there are {', '.join(self.patients)}")
        return self.patients[letter]

    def buy(self, letter: str, instrument: str) -> Card:
        """Reads an instrument on a patient, beside the healthy run; the second time is free. Raises ClinicError."""
        chart = self._patient(letter)
        if instrument not in FOR_SALE:
            raise ClinicError(f"there is no instrument {instrument!r}; there are {', '.join(FOR_SALE)}")
        if instrument not in self.bought[letter]:
            self.bought[letter].append(instrument)
        self._refresh()
        said = f"Patient {letter}, {instrument} (cost so far: {self.cost})"
        head, *rows = _beside(chart, self.healthy, instrument)
        text = text_table([head, *rows] if head else rows)
        return Card(f"{said}\n{text}", f"<b>{escape(said)}</b>{self._table(chart, instrument)}", "open")

    def name(self, letter: str, disease: str) -> bool:
        """Names a patient's disease; True when that is right. A patient who is named already costs nothing more. Raises ClinicError."""
        chart = self._patient(letter)
        if disease not in (*FAULTS, SOUND):
            raise ClinicError(f"there is no disease {disease!r}; there are {', '.join((*FAULTS, SOUND))}")
        if letter in self.named:
            return disease == chart.fault
        if disease != chart.fault:
            self.mistakes += 1
            self._refresh()
            return False
        self.named[letter] = disease
        if len(self.named) == len(self.patients):
            self._keep()
        self._refresh()
        return True

    def _keep(self) -> None:
        before = store.get("exercises", KEY) or {"solved": True, "tries": 0, "best": self.cost}
        best = min(before["best"], self.cost)
        store.put("exercises", KEY, {"solved": True, "tries": before["tries"] + 1, "best": best})

    def status(self) -> str:
        """Where the round stands, in a sentence or two."""
        bought = sum(map(len, self.bought.values()))
        readings, names = (
            f"{n} {what}{'' if n == 1 else 's'}" for n, what in ((bought, "reading"), (self.mistakes, "wrong name"))
        )
        text = f"{len(self.named)} of {len(self.patients)} named, {readings} bought, {names}: cost {self.cost}."
        if len(self.named) < len(self.patients):
            return text
        best = (store.get("exercises", KEY) or {"best": self.cost})["best"]
        return f"All named. {text} Your best so far: {best}."

    # -- pictures --------------------------------------------------------------------------------------------------------
    def curves(self) -> Picture:
        """The training-loss curves of all patients, three by three: what is free."""
        canvas = Canvas(760, 560)
        for i, (letter, chart) in enumerate(self.patients.items()):
            curve = _curve(chart, self.healthy, 246, 178, f"{letter}")
            canvas.paste(4 + 252 * (i % 3), 4 + 186 * (i // 3), curve)
        ends = ", ".join(f"{letter} {sum(chart.losses[-20:]) / 20:.2f}" for letter, chart in self.patients.items())
        canvas.alt = (
            "Nine training-loss curves on logarithmic axes, each beside that of a healthy run of other rows. Mean loss of the last "
            f"20 steps: {ends}; healthy {sum(self.healthy.losses[-20:]) / 20:.2f}."
        )
        return Picture.of(canvas, summary="Training-loss curves of nine patients, each beside a healthy run's")

    # -- the form --------------------------------------------------------------------------------------------------------
    def form(self) -> Any:
        import ipywidgets as widgets

        from lora_edu.course import forms
        from lora_edu.widgets.base import choice

        self.which = choice("patient", list(self.patients))
        self.buttons = {
            name: widgets.Button(description=name, tooltip=f"{name}: {INSTRUMENTS[name][1]}") for name in FOR_SALE
        }
        for name, button in self.buttons.items():
            button.layout.width = "auto"
            button.on_click(lambda _, name=name: self._pressed(name))
        self.disease = forms.choices([(each, each) for each in (*FAULTS, SOUND)])
        self.confirm = widgets.Button(description="Name it", tooltip="Name the disease of this patient", icon="check")
        self.confirm.on_click(lambda _: self._confirmed())
        self.chart_view, self.said, self.score = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.which.observe(lambda _: self._show(), "value")
        wrap = widgets.Layout(flex_flow="row wrap", max_width=forms.WIDTH)
        row = widgets.HBox([widgets.Label("read (1 each):"), *self.buttons.values()], layout=wrap)
        title = widgets.HTML(panel(f"<b>{SIGNS['ask']} {escape(self.text.splitlines()[0])}</b>", "ask"))
        self._show()
        return forms.form(title, self.which, row, self.chart_view, self.disease, self.confirm, self.said, self.score)

    def _pressed(self, instrument: str) -> None:
        self.buy(self.which.value, instrument)

    def _confirmed(self) -> None:
        letter, disease = self.which.value, self.disease.value
        if disease is None:
            self.said.value = panel(f"{SIGNS['open']} Choose a disease first.", "open")
            return
        right = self.name(letter, disease)
        words = f"Right: {letter} is “{disease}”." if right else f"{letter} is not “{disease}”. That cost {WRONG}."
        self.said.value = panel(
            f"{SIGNS['right' if right else 'wrong']} {escape(words)}", "right" if right else "wrong"
        )

    def _refresh(self) -> None:
        """The form, where one is on the page, tells what was bought and named without it as well."""
        if hasattr(self, "score"):
            self._show()

    def _show(self) -> None:
        letter = self.which.value
        self.chart_view.value = self.chart_html(letter)
        for name, button in self.buttons.items():
            button.disabled = name in self.bought[letter]
        self.disease.value = self.named.get(letter)
        self.disease.disabled = self.confirm.disabled = letter in self.named
        self.said.value = (
            panel(f"{SIGNS['right']} {letter}: {escape(self.named[letter])}.", "right") if letter in self.named else ""
        )
        self.score.value = panel(escape(self.status()), "note")

    def chart_html(self, letter: str) -> str:
        """A patient's free curve, and the instruments bought so far beside the healthy run's."""
        chart = self._patient(letter)
        curve = _curve(chart, self.healthy, 420, 200, f"Patient {letter}")
        code = base64.b64encode(curve.png()).decode()
        image = f'<img alt="{escape(curve.alt, quote=True)}" width="420" style="border-radius:6px" src="data:image/png;base64,{code}">'
        tables = [self._table(chart, name) for name in self.bought[letter]]
        return image + "".join(tables)

    def _table(self, chart: Chart, instrument: str) -> str:
        head, *rows = _beside(chart, self.healthy, instrument)
        return html_table(head, rows, instrument, faint=range(1, len(rows), 2))


def _beside(chart: Chart, healthy: Chart, instrument: str) -> list[list[str]]:
    """An instrument's table: the steps (if it was read at several), then each line of the patient over that of the healthy run."""
    read_once = instrument in ("names", "base", "sample")
    rows = [[] if read_once else ["", *(f"step {chart.readings[i]['step']}" for i in _SHOWN)]]
    for lines in zip(lines_of(chart, instrument), lines_of(healthy, instrument)):
        rows += [[f"{name}, {who}", *values] for who, (name, *values) in zip(("patient", "healthy"), lines)]
    return rows


def _curve(chart: Chart, healthy: Chart, width: float, height: float, title: str) -> Canvas:
    """A training-loss curve, thick, over a healthy run's, thin and dashed; the same axes for all."""
    canvas = Canvas(width, height)
    axes = Axes(canvas, (40, 26, width - 52, height - 62), (0, len(chart.losses)), (0.01, 10), ylog=True)
    axes.frame((0, 120, 240), decades(0.01, 10), "step", "")
    steps = range(1, len(chart.losses) + 1)
    axes.line(steps, healthy.losses, stroke=MUTED, width=1, dash=(4, 3))
    axes.line(steps, chart.losses, stroke=BLUE, width=1.8)
    canvas.text(40, 16, title, 13, bold=True)
    canvas.text(width - 12, 16, "healthy, other rows", 10, MUTED, "end")
    canvas.path([(width - 148, 12), (width - 120, 12)], stroke=MUTED, width=1, dash=(4, 3))
    first, last = chart.losses[0], sum(chart.losses[-20:]) / 20
    canvas.alt = (
        f"{title}: training loss from {first:.2f} to {last:.2f} (mean of the last 20 steps); a healthy run of other rows ends at "
        f"{sum(healthy.losses[-20:]) / 20:.2f}."
    )
    return canvas
