"""Other pictures for a reader of digits: 8×8 capital letters, drawn from matplotlib's own fonts, and a small convolutional network. Chapter 12.

Few rows, and a split by font: what is tested is drawn in fonts that no training row shows. Fonts: DejaVu and STIX, as matplotlib brings them (free
licences, beside them in its folder); only their drawings are used.
"""

import string
from collections import OrderedDict
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from lora_edu.tasks.digits import Digits, load_digits, train_digits

LETTERS = string.ascii_uppercase
_SANS, _MONO, _SERIF, _STIX = "DejaVuSans", "DejaVuSansMono", "DejaVuSerif", "STIXGeneral"
FONTS = {  # of each part, with how often a letter is drawn in each font
    "train": ((_SANS, f"{_SANS}-Oblique", _MONO, f"{_MONO}-Bold", _SERIF, f"{_SERIF}-Italic", _STIX, f"{_STIX}Bol"), 1),
    "valid": ((f"{_SANS}-Bold", f"{_MONO}-Oblique", f"{_STIX}BolIta"), 3),
    "test": ((f"{_SANS}-BoldOblique", f"{_MONO}-BoldOblique", f"{_SERIF}-Bold", f"{_SERIF}-BoldItalic", f"{_STIX}Italic"), 3),
}  # fmt: skip
CONVOLUTIONS, HEAD = ("conv1", "conv2", "conv3"), "head"


@cache
def load_letters() -> Digits:
    """26 capital letters, pixels in 0 … 1, as (n, 64): 208 to train, 234 to choose on, 390 to test, each part in fonts of its own."""
    generator = torch.Generator().manual_seed(0)
    parts: list[Tensor] = []
    for fonts, times in FONTS.values():
        drawn = [
            (_drawn(letter, font, generator), label)
            for font in fonts
            for label, letter in enumerate(LETTERS)
            for _ in range(times)
        ]
        parts += [torch.stack([x for x, _ in drawn]), torch.tensor([y for _, y in drawn])]
    return Digits(*parts)


def _drawn(letter: str, font: str, generator: torch.Generator) -> Tensor:
    """One letter (64,), turned by up to 10° and moved by up to 2 of 32 points, then made small as the digits were."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    turn, right, down = (torch.rand(3, generator=generator) * 2 - 1).tolist()
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    canvas = Image.new("L", (32, 32))
    ImageDraw.Draw(canvas).text(
        (16 + 2 * right, 16 + 2 * down), letter, fill=255, font=ImageFont.truetype(str(file), 28), anchor="mm"
    )
    turned = canvas.rotate(10 * turn, resample=Image.Resampling.BILINEAR)
    values = torch.tensor(list(turned.tobytes()), dtype=torch.float32).view(8, 4, 8, 4)
    return (values.mean((1, 3)) / 255).reshape(64)


def vision_net(classes: int = 10, seed: int = 0) -> nn.Sequential:
    """An untrained network for images (n, 64): three convolutions, and a head that makes logits (n, classes) of their 256 features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts: list[tuple[str, nn.Module]] = [("picture", nn.Unflatten(1, (1, 8, 8)))]
        for number, (n_in, n_out) in enumerate(((1, 16), (16, 32), (32, 64)), 1):
            parts += [(f"conv{number}", nn.Conv2d(n_in, n_out, 3, padding=1)), (f"relu{number}", nn.ReLU())]
            if number > 1:
                parts.append((f"pool{number}", nn.MaxPool2d(2)))
        parts += [("flat", nn.Flatten()), (HEAD, nn.Linear(64 * 2 * 2, classes))]
        return nn.Sequential(OrderedDict(parts))


@cache
def reader_of_digits() -> nn.Module:
    """`vision_net` that has learnt to read upright digits: the pretrained one."""
    return train_digits(vision_net(), load_digits(), epochs=10)


def with_new_head(net: nn.Module, seed: int, classes: int = len(LETTERS)) -> nn.Module:
    """Puts a freshly drawn head for other classes on `net`, in place."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        setattr(net, HEAD, nn.Linear(net.get_parameter(f"{HEAD}.weight").shape[1], classes))
    return net
