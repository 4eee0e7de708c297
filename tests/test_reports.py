"""Tests of tfstyle/monitoring/reports.py."""

import json

import numpy as np
import pytest
from PIL import Image

from tfstyle.errors import TfstyleError
from tfstyle.monitoring.reports import save_loss_plot, save_report
from tfstyle.stylizer.result import Result

pytestmark = pytest.mark.fast


@pytest.fixture
def result():
    history = {
        "step": [1, 2, 3, 4],
        "scale": [0, 0, 1, 1],
        "total": [4.0, 3.0, 5.0, 2.0],
        "content/a": [0.0, 1.0, 3.0, 1.5],
        "style/b": [4.0, 2.0, 2.0, 0.5],
    }
    return Result(np.zeros((1, 2, 2, 3), "float32"), history, 1.23456)


def test_report_has_the_facts_and_every_step(result, tmp_path):
    save_report(result, tmp_path / "r.json", {"flags": {"style": "Größe.jpg"}})

    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert report == {
        "flags": {"style": "Größe.jpg"},
        "seconds": 1.235,
        "stopped": False,
        "history": result.history,
    }


def test_report_that_cannot_be_written_leaves_the_old_one(
    result, tmp_path, monkeypatch
):
    path = tmp_path / "r.json"
    path.write_text("old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(TfstyleError, match=r"r.json: could not be written.*No space"):
        save_report(result, path, {})

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("extension", ["png", "svg", "pdf", "PNG"])
def test_loss_plot_is_of_the_kind_that_its_name_says(result, tmp_path, extension):
    path = tmp_path / f"loss.{extension}"
    save_loss_plot(result.history, path)

    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[extension.lower()]
    assert path.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [path]


def test_loss_plot_names_every_term(result, tmp_path):
    save_loss_plot(result.history, tmp_path / "loss.svg")

    drawing = (tmp_path / "loss.svg").read_text(encoding="utf-8")
    for name in ("total", "content/a", "style/b", "step", "loss"):
        assert f"<!-- {name} -->" in drawing


def test_loss_plot_is_a_picture_with_curves(result, tmp_path):
    save_loss_plot(result.history, tmp_path / "loss.png")

    colours = Image.open(tmp_path / "loss.png").convert("RGB").getcolors(1 << 20)
    found = {colour for _, colour in colours}
    assert (31, 119, 180) in found and (255, 127, 14) in found  # the first two terms


def test_loss_plot_stays_readable_when_a_term_begins_near_zero(
    result, tmp_path, monkeypatch
):
    import matplotlib.figure

    bottoms = []
    monkeypatch.setattr(
        matplotlib.figure.Figure,
        "savefig",
        lambda figure, path, **_: (
            bottoms.append(figure.axes[0].get_ylim()[0]) or path.touch()
        ),
    )
    result.history["content/a"][0] = 1e-14
    save_loss_plot(result.history, tmp_path / "loss.png")

    assert bottoms == [pytest.approx(2e-4)]


def test_loss_plot_of_few_steps_has_whole_steps_on_its_axis(
    result, tmp_path, monkeypatch
):
    import matplotlib.figure

    ticks = []
    monkeypatch.setattr(
        matplotlib.figure.Figure,
        "savefig",
        lambda figure, path, **_: (
            ticks.extend(figure.axes[0].get_xticks()) or path.touch()
        ),
    )
    save_loss_plot(result.history, tmp_path / "loss.png")

    assert ticks and all(tick == round(tick) for tick in ticks)
