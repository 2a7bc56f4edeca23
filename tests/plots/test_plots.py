"""Drawings: the same in SVG and PNG, the same bytes each time, and never without words."""

import base64
import io
import xml.etree.ElementTree as ElementTree

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from nbconvert import HTMLExporter
from PIL import Image

from lora_edu.plots import Axes, Canvas, Picture, decades, number, percent, ticks, wrapped
from lora_edu.plots.palette import BLUE, CYCLE, DASHES, VERMILION, heatmap, rgb


def sample() -> Canvas:
    canvas = Canvas(200, 100, "a test drawing with one of each primitive")
    canvas.rect(10, 10, 40, 20, fill=BLUE, stroke=None)
    canvas.path([(60, 50), (150, 50)], stroke=VERMILION, width=4)
    canvas.path([(60, 70), (150, 70)], stroke=VERMILION, width=4, dash=(10, 10))
    canvas.path([(60, 90), (150, 90)], stroke=BLUE, arrow=True)
    canvas.dot(180, 20, 8, VERMILION)
    canvas.text(10, 60, "<r & s>")
    canvas.image(10, 70, 20, 20, np.array([[0, 255], [255, 0]], dtype=np.uint8))
    inner = Canvas(20, 20)
    inner.rect(0, 0, 10, 10, fill=VERMILION, stroke=None)
    canvas.paste(180, 80, inner)
    return canvas


def pixel(image: Image.Image, x: float, y: float) -> tuple[int, ...]:
    """The colour at a canvas point of a PNG at scale 2."""
    return image.convert("RGB").getpixel((round(2 * x), round(2 * y)))


def near(colour, name) -> bool:
    return max(abs(a - b) for a, b in zip(colour, rgb(name))) < 12


def test_png_has_each_primitive_where_it_was_put():
    image = Image.open(io.BytesIO(sample().png()))
    assert image.size == (400, 200)
    assert near(pixel(image, 30, 20), BLUE)
    assert near(pixel(image, 100, 50), VERMILION)
    assert near(pixel(image, 65, 70), VERMILION) and near(pixel(image, 75, 70), "paper")  # a dash, a gap
    assert near(pixel(image, 147, 90), BLUE)
    assert near(pixel(image, 180, 20), VERMILION)
    assert near(pixel(image, 14, 74), "#000000") and near(pixel(image, 26, 74), "paper")
    assert near(pixel(image, 185, 85), VERMILION)
    assert near(pixel(image, 5, 5), "paper")


def test_svg_is_well_formed_escaped_and_labelled():
    root = ElementTree.fromstring(sample().svg())
    space = "{http://www.w3.org/2000/svg}"
    assert root.get("aria-label") == sample().alt
    assert [e.text for e in root.iter(f"{space}text")] == ["<r & s>"]
    assert len(list(root.iter(f"{space}image"))) == 1
    assert len(list(root.iter(f"{space}polygon"))) == 3  # two rectangles and the arrow's head


def test_the_same_drawing_gives_the_same_bytes():
    assert sample().png() == sample().png()
    assert sample().svg() == sample().svg()


def test_an_arrow_without_length_has_no_head():
    canvas = Canvas(10, 10)
    canvas.path([(5, 5), (5, 5)], arrow=True)
    assert canvas.svg() and canvas.png()


def test_only_zero_is_clear_in_a_heatmap():
    pixels = heatmap(np.array([[0.0, 1e-4, 1.0], [-1e-4, -1.0, np.nan]]))
    assert (pixels[..., 3] == 0).tolist() == [[True, False, False], [False, False, False]]
    assert tuple(pixels[0, 2]) == (*rgb(VERMILION), 255) and tuple(pixels[1, 1]) == (*rgb(BLUE), 255)
    assert tuple(pixels[0, 1, :3]) == rgb(VERMILION) and tuple(pixels[1, 0, :3]) == rgb(BLUE)
    assert tuple(pixels[1, 2]) == (160, 160, 160, 255)
    assert not heatmap(np.zeros((2, 2)))[..., 3].any()


def test_clear_pixels_show_what_lies_below():
    canvas = Canvas(40, 20)
    canvas.rect(0, 0, 40, 20, fill=BLUE, stroke=None)
    canvas.image(0, 0, 40, 20, heatmap(np.array([[0.0, 1.0]])))
    image = Image.open(io.BytesIO(canvas.png()))
    assert near(pixel(image, 10, 10), BLUE) and near(pixel(image, 30, 10), VERMILION)


def test_colours_come_with_a_dash_each():
    assert len(set(DASHES)) == len(DASHES) == len(set(CYCLE)) == len(CYCLE)


def test_axes_map_linear_and_logarithmic():
    axes = Axes(Canvas(100, 100), (10, 20, 80, 60), (0, 4), (1, 100), ylog=True)
    assert axes.at(0, 1) == (10, 80)
    assert axes.at(4, 100) == (90, 20)
    assert axes.at(2, 10) == pytest.approx((50, 50))


def test_a_curve_breaks_where_there_is_no_number():
    canvas = Canvas(100, 100)
    Axes(canvas, (0, 0, 100, 100), (0, 4), (0, 1)).line(range(5), [0, 0.5, float("nan"), 0.5, 9], BLUE)
    first, second = canvas.items
    assert len(first.points) == len(second.points) == 2
    assert second.points[1] == (100, 0)  # cut off at the edge


def test_numbers_are_written_as_people_write_them():
    assert [number(v) for v in (0, 12345, 0.25, -0.5, 1234.5, float("nan"), float("inf"))] == [
        "0",
        "12,345",
        "0.25",
        "−0.5",
        "1,234",
        "not a number",
        "∞",
    ]
    assert [percent(v) for v in (0, 1e-9, 0.0025, 0.083, 0.5, 1.17, 2623.4)] == [
        "0 %",
        "< 0.01 %",
        "0.25 %",
        "8.3 %",
        "50 %",
        "117 %",
        "262,340 %",
    ]
    assert ticks(0, 1) == [0, 0.5, 1] and ticks(0, 40) == [0, 10, 20, 30, 40] and ticks(3, 3) == [3]
    assert decades(1e-3, 1) == [0.001, 0.01, 0.1, 1.0]


def test_text_is_wrapped_at_words():
    lines = wrapped("one two three four five six seven", 12, 90)
    assert " ".join(lines) == "one two three four five six seven" and len(lines) == 3
    assert wrapped("unbreakable" * 9, 12, 50) == ["unbreakable" * 9]
    assert wrapped("", 12, 50) == [""]


def test_a_picture_of_a_figure_keeps_its_alt_text_and_closes_the_figure():
    figure, axes = plt.subplots()
    axes.plot([0, 1], [0, 1])
    alt = 'A line from "here" & the bottom left to the top right.'
    picture = Picture.of(figure, alt=alt)
    assert plt.get_fignums() == []
    data = picture._repr_mimebundle_()
    assert set(data) == {"text/html", "text/plain"} and data["text/plain"] == alt
    image = ElementTree.fromstring(data["text/html"].replace(">", "/>"))  # the alt text is in the page itself, escaped
    assert image.tag == "img" and image.get("alt") == alt
    assert Image.open(io.BytesIO(picture.png)).width // 2 == int(image.get("width"))
    assert base64.b64decode(image.get("src").removeprefix("data:image/png;base64,")) == picture.png


def test_a_picture_lies_on_a_card_with_clear_corners():
    for drawing in (sample(), plt.figure()):
        image = Image.open(io.BytesIO(Picture.of(drawing, alt="a card").png)).convert("RGBA")
        right, bottom = image.width - 1, image.height - 1
        assert {image.getpixel(at)[3] for at in ((0, 0), (right, 0), (0, bottom), (right, bottom))} == {0}
        assert all(
            near(image.getpixel(at)[:3], "rule") for at in ((right // 2, 0), (0, bottom // 2), (right, bottom // 2))
        )
        assert near(image.getpixel((8, bottom // 2))[:3], "paper")
        opaque = sum(np.asarray(image)[..., 3].ravel() == 255) / (image.width * image.height)
        assert 0.98 < opaque < 1


@pytest.mark.parametrize("template", ["lab", "classic"])
def test_nbconvert_shows_the_alt_text(template):
    output = nbformat.v4.new_output("display_data", Picture.of(sample())._repr_mimebundle_())
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[output])])
    page, _ = HTMLExporter(template_name=template).from_notebook_node(notebook)
    assert f'<img alt="{sample().alt}"' in page


@pytest.mark.parametrize("drawing", [lambda: Canvas(10, 10), lambda: plt.figure()])
def test_a_picture_without_words_is_refused(drawing):
    with pytest.raises(ValueError, match="needs alt text"):
        Picture.of(drawing())
    plt.close("all")
