"""What the studio says, and the chart that it draws, without its page."""

import xml.etree.ElementTree as ElementTree

import pytest

from tfstyle.studio.chart import loss_chart
from tfstyle.studio.requests import METHODS
from tfstyle.studio.words import LABELS, LINES, SWEPT, in_plain_words

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("message", "name", "said"),
    [
        (
            "steps=abc: give whole numbers",
            "steps",
            "Steps: abc does not fit: give whole numbers",
        ),
        ("style: choose a painting", "style", "Painting: choose a painting"),
        (
            "steps: at most 5 a scale: fewer",
            "steps",
            "Steps: at most 5 a scale: fewer",
        ),
        ("protect: all is white", "protect", "Mask: all is white"),
        ("notes.jpg: not a picture", "", "notes.jpg: not a picture"),
        ("there is not enough memory", "", "There is not enough memory"),
    ],
)
def test_messages_name_what_the_page_names(message, name, said):
    assert in_plain_words(message) == (name, said)


def test_every_method_and_option_has_words():
    assert set(LINES) == set(METHODS)
    assert set(SWEPT) <= set(LABELS)


def test_a_chart_has_a_line_for_each_loss_and_marks_the_scales():
    rows = [
        (step, kind, value / step)
        for step in (1, 2, 4)
        for kind, value in (("total", 10.0), ("style <b>", 0.1))
    ]
    chart = ElementTree.fromstring(loss_chart(rows, [(1, "64 pixels"), (3, "128")]))
    lines = [each.get("points").split() for each in chart.iter("polyline")]
    assert [len(line) for line in lines] == [3, 3]
    heights = [float(point.split(",")[1]) for point in lines[0]]
    assert heights == sorted(heights)  # SVG counts from the top: the loss falls
    marks = [each for each in chart.iter("line") if each.get("class") == "scale"]
    assert len(marks) == 2
    texts = {each.text for each in chart.iter("text")}
    assert {"64 pixels", "128", "— total", "— style <b>", "step 4"} <= texts


def test_a_chart_of_one_step():
    assert loss_chart([(1, "total", 1.0)], []).startswith("<svg ")
