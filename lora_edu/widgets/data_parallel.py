"""Chapter 14: what one of N cards holds under DDP and under FSDP, and from how many cards on it fits."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets

from lora_edu.errors import ConfigError
from lora_edu.plots.axes import Axes
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import INK, MUTED, PAPER, PURPLE, RULE, WASH
from lora_edu.plots.raster import wrapped
from lora_edu.training.memory.fitting import SPARE
from lora_edu.training.memory.ledger import megabytes
from lora_edu.widgets.base import WIDTH, State, Widget, choice
from lora_edu.widgets.memory import MACHINES
from lora_edu.widgets.memory import PARTS as ENTRIES
from lora_edu.widgets.shares import CARDS, TRAINS, WAYS, Share, Shares, shares

SIZES = ("24 GB", "80 GB")  # names in MACHINES
AT_ONCE = {"all": None, "1": 1}  # of a card's rows
PARTS = ENTRIES | {"gathered": PURPLE}
MARGIN, BAR, COLUMNS = 12, (66, 40), (292, 160)  # pixels; the last two: top and height


class DataParallelPlanner(Widget):
    """One card of N drawn large, and what a card holds for every N under DDP and FSDP, from `predict` and `sharded`. Chapter 14.

    A card's rows go through it all at once, or one after the other. Like `fitting.fit`, it leaves a tenth of a card to what the ledger does not count.

    Args:
        shapes: names in `memory.SHAPES`, a button each.
        batch_size: rows of a step, on all cards together; every number of cards in CARDS divides it.
        seq_len: tokens a row.

    Raises:
        ConfigError: for rows that the largest number of cards does not divide.
    """

    title = "How many cards?"
    question = "On how many cards does it fit, and what do more cards take off each?"
    computes_on = ("shape", "trains", "checkpointing", "at_once")

    def __init__(
        self,
        shapes: Sequence[str] = ("llama-3.2-1b", "llama-2-7b", "llama-2-70b"),
        batch_size: int = 128,
        seq_len: int = 512,
    ) -> None:
        if batch_size % CARDS[-1] or batch_size < 1:
            raise ConfigError(
                f"{batch_size} rows do not divide among {CARDS[-1]} cards: take a multiple of {CARDS[-1]}."
            )
        self.batch_size, self.seq_len = batch_size, seq_len
        for shape in shapes:  # all of them now, or the first move to the largest takes half a second
            for trains in TRAINS:
                for checkpointing in (False, True):
                    for at_once in AT_ONCE.values():
                        shares(shape, trains, batch_size, seq_len, checkpointing, at_once)
        super().__init__(
            shape=choice("model", list(shapes), shapes[min(1, len(shapes) - 1)]),
            trains=choice("trains", [(name, key) for key, (name, _) in TRAINS.items()]),
            way=choice("shared by", WAYS),
            cards=ipywidgets.SelectionSlider(options=CARDS, value=4, description="number of cards"),
            size=choice("each of", SIZES, SIZES[-1]),
            at_once=choice("rows at once", list(AT_ONCE)),
            checkpointing=ipywidgets.Checkbox(True, description="gradient checkpointing", indent=False),
        )

    def compute(self, state: State) -> Shares:
        step = (self.batch_size, self.seq_len, state["checkpointing"], AT_ONCE[state["at_once"]])
        return shares(state["shape"], state["trains"], *step)

    def draw(self, state: State, result: Shares) -> Canvas:
        card = MACHINES[state["size"]]
        room, way, at = (1 - SPARE) * card, state["way"], CARDS.index(state["cards"])
        share = result[way][at]
        canvas = Canvas(WIDTH, 572)
        verdict, more = _verdict(share, room), _more(result[way], at)
        together = "all" if AT_ONCE[state["at_once"]] is None else "one"
        canvas.text(MARGIN, 20, verdict, 15, bold=True)
        canvas.text(MARGIN, 40, more, 12)
        _draw_card(canvas, share, card, room)
        _draw_legend(canvas, share, way)
        _draw_cards(canvas, share, room)
        _draw_columns(canvas, result, room, way, at)
        assumed = (
            f"From the ledger: bf16 weights; AdamW's two means in fp32; the factors of LoRA in fp32; {self.batch_size} rows of "
            f"{self.seq_len} tokens a step, of which a card takes its share, {together} at once. The sum bounds from above what the ledger counts; a tenth "
            "of each card stays free for the rest. DDP's buffers for sending are not counted; what FSDP gathers is a "
            "bound found on CPUs."
        )
        for row, line in enumerate(wrapped(assumed, 11, WIDTH - 2 * MARGIN)):
            canvas.text(MARGIN, 530 + 16 * row, line, 11, MUTED)
        canvas.alt = (
            f"{state['shape']}, {TRAINS[state['trains']][0]}, {way}, {_cards(share.cards)} of {state['size']}. {verdict} One card holds "
            + ", ".join(f"{part} {megabytes(size)}" for part, size in share.parts.items() if size)
            + f". {more} Bytes on each card: "
            + "; ".join(f"{name}: {_said(result[name], room)}" for name in WAYS)
            + "."
        )
        return canvas


# --- in words ---------------------------------------------------------------------------------------------------------


def _cards(number: int) -> str:
    return "1 card" if number == 1 else f"{number} cards"


def _rows(share: Share) -> str:
    whole = "its 1 row" if share.rows == 1 else f"its {share.rows} rows"
    return whole if share.at_once == share.rows else f"{share.at_once} of {whole}"


def _verdict(share: Share, room: float) -> str:
    where = "On one card" if share.cards == 1 else f"On each of {share.cards} cards"
    if share.total <= room:
        return f"{where} it fits: {megabytes(share.total)} of the {megabytes(int(room))} to use."
    over = megabytes(int(share.total - room))
    return f"{where} it does not fit: {over} too much ({megabytes(share.total)} for {megabytes(int(room))} to use)."


def _more(row: Sequence[Share], at: int) -> str:
    """What doubling the cards would change on each, and in which parts."""
    if at + 1 == len(row):
        return f"{CARDS[-1]} cards are the most shown here."
    now, then = row[at], row[at + 1]
    off = now.total - then.total
    less = [part for part in PARTS if now.parts[part] > then.parts[part]]
    if not less:
        return f"{then.cards} cards would take nothing off each."
    where = f"from the {less[0]} alone" if len(less) == 1 else f"from {', '.join(less[:-1])} and {less[-1]}"
    said = f"take {megabytes(off)} off each, {where}" if off >= 0 else f"add {megabytes(-off)} to each"
    gathers = then.parts["gathered"] - now.parts["gathered"]
    return f"{then.cards} cards would {said}{f' ({megabytes(gathers)} for gathering counted)' if gathers else ''}."


def _said(row: Sequence[Share], room: float) -> str:
    fits = [share.cards for share in row if share.total <= room]
    said = ", ".join(f"{megabytes(share.total)} with {share.cards}" for share in row)
    return f"{said} ({f'fits from {_cards(fits[0])} on' if fits else 'fits on none of these'})"


# --- drawn ------------------------------------------------------------------------------------------------------------


def _draw_card(canvas: Canvas, share: Share, card: float, room: float) -> None:
    """One card to scale with what it holds; what is beyond the room to use is hatched and named."""
    top, height = BAR
    axes = Axes(canvas, (MARGIN, top, WIDTH - 2 * MARGIN, height), (0, max(card, share.total)), (0, 1))
    canvas.rect(axes.x(0), top, axes.x(card) - axes.x(0), height, fill=WASH, stroke=None)
    left = 0
    for part, size in share.parts.items():
        x, width = axes.x(left), axes.x(left + size) - axes.x(left)
        _draw_part(canvas, part, x, top, width, height)
        left += size
    end, limit = axes.x(left), axes.x(room)
    if left > room:
        _hatch(canvas, limit, top, end - limit, height)
        canvas.rect(limit, top, end - limit, height, stroke=INK, width=2, dash=(5, 3))
    left = 0
    for part, size in share.parts.items():  # names on top of the hatching
        x, width = axes.x(left + size / 2), axes.x(size) - axes.x(0)
        if width > 8.4 * len(part):
            canvas.rect(x - 4 * len(part), top + 11, 8 * len(part), 18, fill=PAPER, stroke=None, opacity=0.9, width=0)
            canvas.text(x, top + 24, part, 12, INK, "middle")
        left += size
    canvas.rect(axes.x(0), top, axes.x(card) - axes.x(0), height, stroke=INK, width=2)
    canvas.path([(limit, top - 7), (limit, top + height + 7)], stroke=INK, width=2, dash=(3, 3))
    side = "end" if limit > WIDTH / 2 else "start"
    canvas.text(
        limit + (-6 if side == "end" else 6),
        top - 5,
        f"{megabytes(int(room))} to use of a card of {megabytes(int(card))}",
        11,
        MUTED,
        side,
    )
    over = share.total - room
    said = f"too much by {megabytes(int(over))}" if over > 0 else f"{megabytes(int(-over))} left"
    canvas.text(max(end, limit), top + height + 18, said, 13, INK, "end", bold=True)


def _draw_part(canvas: Canvas, part: str, x: float, y: float, w: float, h: float) -> None:
    """A piece of a bar; what stands only for a moment is paler and has a dashed rim."""
    if not w or not h:
        return
    passing = part == "gathered"
    canvas.rect(x, y, w, h, fill=PARTS[part], stroke=None, opacity=0.65 if passing else 1)
    if min(w, h) > 4:
        canvas.rect(x, y, w, h, stroke=INK if passing else PAPER, width=1, dash=(2, 2) if passing else ())


def _hatch(canvas: Canvas, x: float, y: float, w: float, h: float) -> None:
    """Slanting lines over a rectangle, none beyond it."""
    for k in range(int(-h // 9), int(w // 9) + 1):
        start, end = max(9 * k, 0), min(9 * k + h, w)
        if end > start:
            ends = [(x + at, y + h - (at - 9 * k)) for at in (start, end)]
            canvas.path(ends, stroke=PAPER, width=3.5, opacity=0.8)
            canvas.path(ends, stroke=INK, width=1.3)


def _draw_legend(canvas: Canvas, share: Share, way: str) -> None:
    """The parts in the order of the bar, with the bytes of this card and whose they are."""
    kept = f"its 1/{share.cards}" if way == "FSDP" and share.cards > 1 else "a whole copy"
    whose = dict.fromkeys(PARTS, kept) | {"activations": _rows(share), "gathered": "for a moment"}
    for column, (part, size) in enumerate(share.parts.items()):
        x = MARGIN + 149 * column
        _draw_part(canvas, part, x, 140, 14, 14)
        canvas.rect(x, 140, 14, 14, stroke=INK, width=0.8)
        canvas.text(x + 20, 152, part, 12, bold=True)
        canvas.text(x + 20, 169, f"{megabytes(size)}, {whose[part]}" if size else "nothing", 11)


def _draw_cards(canvas: Canvas, share: Share, room: float) -> None:
    """A small card for each: filled as far as it is full, ticked or crossed out."""
    fits = share.total <= room
    each, words = (" each", "they all fit" if fits else "none of them fits")
    if share.cards == 1:
        each, words = "", "it fits" if fits else "it does not fit"
    canvas.text(MARGIN, 196, f"{_cards(share.cards)} with {share.rows} rows{each}: {words}.", 12, bold=True)
    pitch = min(34, (WIDTH - 2 * MARGIN) / share.cards)
    wide, full = 0.78 * pitch, 26 * min(share.total / room, 1)
    for number in range(share.cards):
        x = MARGIN + pitch * number
        canvas.rect(x, 204 + 26 - full, wide, full, fill=RULE, stroke=None, opacity=0.6)
        canvas.rect(x, 204, wide, 26, stroke=INK, width=1.2)
        _mark(canvas, x + wide / 2, 217, min(wide, 16) / 2 - 0.5, fits)


def _mark(canvas: Canvas, x: float, y: float, half: float, fits: bool) -> None:
    """A tick, or a cross."""
    if fits:
        canvas.path([(x - half, y), (x - half / 4, y + half * 0.8), (x + half, y - half)], width=2)
        return
    for slope in (-1, 1):
        canvas.path([(x - half, y - slope * half), (x + half, y + slope * half)], width=2)


def _draw_columns(canvas: Canvas, result: Shares, room: float, way: str, at: int) -> None:
    """For each way a column for each number of cards, both on one scale, and the room of a card across them."""
    (top, height), wide, gap = COLUMNS, 340, 56
    most = max(share.total for row in result.values() for share in row)
    reached = room < 2 * most
    scale = (0, 1.12 * max(most, room if reached else 0))
    stays, gathered = result["DDP"][0].copied, result["FSDP"][-1].parts["gathered"]
    notes = (
        f"DDP shares out only the rows: {megabytes(stays)} stay (dotted).",
        f"FSDP shares out all but the {megabytes(gathered)} it gathers.",
    )
    boxes = [Axes(canvas, (left, top, wide, height), (0, len(CARDS)), scale) for left in (MARGIN, MARGIN + wide + gap)]
    for axes, name, note in zip(boxes, WAYS, notes):
        left = axes.box[0]
        canvas.text(left, top - 26, name, 13, bold=True)
        canvas.text(left + 46, top - 26, "GB on each card, by number of cards", 11, MUTED)
        if name == way:
            canvas.rect(axes.x(at), top - 19, wide / len(CARDS), height + 53, fill=WASH, stroke=INK, width=1.5)
        for column, share in enumerate(result[name]):
            _draw_column(axes, column, share)
        canvas.path([(left, top + height), (left + wide, top + height)], stroke=RULE, width=1)
        canvas.text(left, top + height + 51, note, 11)
    level, limit, middle = boxes[0].y(stays), boxes[0].y(room) if reached else top, MARGIN + wide + gap / 2
    canvas.path([(MARGIN, level), (MARGIN + wide, level)], stroke=INK, width=1, dash=(1, 3))
    if reached:
        canvas.path([(MARGIN, limit), (WIDTH - MARGIN, limit)], stroke=INK, width=1.5, dash=(6, 4))
    else:
        canvas.path([(middle, top - 20), (middle, top - 38)], width=1.5, arrow=True)
    canvas.text(middle, limit - 6, _gigabytes(int(room)), 12, INK, "middle", bold=True, halo=True)
    canvas.text(middle, limit + 14, "to use", 11, INK, "middle", halo=True)
    for axes, name in zip(boxes, WAYS):  # figures on top of the lines
        for column, share in enumerate(result[name]):
            x, here = axes.x(column + 0.5), name == way and column == at
            y = axes.y(share.total) - 5
            canvas.text(x, y, _gigabytes(share.total), 11, INK, "middle", bold=here, halo=abs(y - 4 - limit) < 9)
            canvas.text(x, top + height + 15, str(share.cards), 12, INK, "middle", bold=here)
            _mark(canvas, x, top + height + 25, 4.5, share.total <= room)


def _draw_column(axes: Axes, column: int, share: Share) -> None:
    base = 0
    for part, size in share.parts.items():
        y = axes.y(base + size)
        _draw_part(axes.canvas, part, axes.x(column + 0.17), y, axes.x(0.66) - axes.x(0), axes.y(base) - y)
        base += size


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.0f}" if size >= 1e11 else f"{size / 1e9:.3g}"
