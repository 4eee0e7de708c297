"""Tests of sweeps, from Python and from the command line."""

import csv
import hashlib
import os
import signal

import numpy as np
import pytest
from conftest import without_progress
from PIL import Image

import tfstyle
from tfstyle.cli import sweep as command
from tfstyle.errors import UsageError
from tfstyle.images.sheet import contact_sheet
from tfstyle.losses import PerceptualLoss
from tfstyle.options.provenance import read_origin
from tfstyle.stylizer.sweep import sweep

OPTIONS = {"scales": 2, "steps": 6, "margin": 2, "optimizer": "adam"}
GRID = {
    "content_layers": [{"block1_conv1": 1.0}, {"block3_conv1": 1.0}],
    "style_weight": [1.0, 30.0, 100.0],
}


def test_each_cell_is_the_run_with_its_options(tiny_backbone, content, style):
    options = {**OPTIONS, "scales": 1, "style_loss": "gram"}
    cells = list(sweep(content, style, GRID, **options))
    settings = [
        (*c.settings["content_layers"], c.settings["style_weight"]) for c in cells
    ]
    assert settings == [
        (layer, weight)
        for layer in ("block1_conv1", "block3_conv1")
        for weight in (1.0, 30.0, 100.0)
    ]
    for cell in cells:
        alone = tfstyle.stylize(content, style, **options, **cell.settings)
        assert cell.result.history.keys() == alone.history.keys()
        np.testing.assert_allclose(cell.result.images, alone.images, atol=1e-4)
    first, second = cells[0].result.images, cells[1].result.images
    assert np.abs(first - second).mean() > 1e-3


def test_features_of_content_and_style_are_computed_once(
    tiny_backbone, content, style, monkeypatch
):
    seen = []
    for name in ("content_targets", "style_statistics"):
        original = getattr(PerceptualLoss, name)

        def counted(self, picture, *rest, original=original):
            seen.append(tuple(picture.shape[1:3]))
            return original(self, picture, *rest)

        monkeypatch.setattr(PerceptualLoss, name, counted)
    assert len(list(sweep(content, style, GRID, **OPTIONS))) == 6
    assert sorted(seen) == [(20, 24), (27, 21), (36, 44), (54, 42)]


def test_pictures_may_differ_too(tiny_backbone, content, style):
    grid = {"color": ["style", "free"], "size": [24, 40]}
    options = {**OPTIONS, "scales": 1, "style_loss": "gram"}
    cells = list(sweep(content, style, grid, **options))
    assert [c.result.images.shape[2] for c in cells] == [24, 40] * 2
    for cell in cells:
        alone = tfstyle.stylize(content, style, **options, **cell.settings)
        np.testing.assert_allclose(cell.result.images, alone.images, atol=1e-4)


def test_a_stopped_run_ends_the_sweep(tiny_backbone, content, style):
    def stop_second(settings):
        return [lambda progress: settings["style_weight"] == 30]

    cells = list(sweep(content, style, GRID, callbacks=stop_second, **OPTIONS))
    assert [cell.result.stopped for cell in cells] == [False, True]


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"style_weight": [1, -1]}, "style_weight=-1: give a number of at least 0"),
        ({"style_weight": []}, "style_weight: give a list of at least one value"),
        ({"pooling": "max"}, "pooling: give a list of at least one value"),
        ({"stile": [1]}, "stylize has no option 'stile'"),
    ],
)
def test_what_is_wrong_is_refused_before_the_first_run(content, style, grid, said):
    with pytest.raises(UsageError, match=said):
        sweep(content, style, grid, **OPTIONS)


def test_a_sheet_has_every_picture_in_its_place():
    colours = np.eye(3, dtype="float32")
    pictures = [np.broadcast_to(c, (1, 30, 60, 3)) for c in (*colours, colours[0])]
    sheet = contact_sheet(pictures, ["a", "b\nlonger", "c", "d"], columns=3)
    assert sheet.shape[2] == 3 * 68 + 8
    row = 30 + 2 * 18 + 8
    assert sheet.shape[1] == 2 * row + 8
    for i, colour in enumerate((*colours, colours[0])):
        x, y = (i % 3) * 68 + 8 + 30, i // 3 * row + 8 + 15
        np.testing.assert_allclose(sheet[0, y, x], colour, atol=0.01)
    captions = sheet[0, 8 + 30 : 8 + 30 + 36, 8:204]
    assert captions.min() < 0.3 and captions.mean() > 0.8


def test_the_command_writes_pictures_sheet_and_table(run, folder):
    layers = "--style_layers=relu1_1+relu2_1,relu1_1"
    code, out, err = run(
        "sweep",
        *("--content=content.png", "--style=style.png", "--output=all", "--steps=3+2"),
        *("--content_layers=relu2_1", "--style_weight=1,1e1", layers, "--scales=2"),
    )
    assert (code, without_progress(err)) == (0, "")
    assert out.count("loss ") == 4 and out.endswith("all/sheet.png: 4 pictures\n")
    with (folder / "all" / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["style_layers"], row["style_weight"]) for row in rows] == [
        (layers, weight)
        for weight in ["1", "10"]
        for layers in ("relu1_1+relu2_1", "relu1_1")
    ]
    for row in rows:
        assert Image.open(folder / "all" / row["file"]).size == (40, 32)
        assert (row["step"], row["finished"]) == ("5", "yes")
        terms = [float(row[name] or 0) for name in row if "/" in name or "_v" in name]
        assert sum(terms) == pytest.approx(float(row["total"]), rel=1e-4)
    assert rows[1]["style/relu2_1"] == ""
    assert Image.open(folder / "all" / "sheet.png").size[0] == 2 * 48 + 8


def test_the_command_refuses_a_folder_of_another_sweep(run, refused, folder):
    words = ("sweep", "--content=content.png", "--style=style.png", "--output=all")
    words += ("--content_layers=relu2_1", "--style_layers=relu1_1", "--scales=1")
    assert run(*words, "--steps=2", "--seed=0,5")[0] == 0
    before = {path: path.read_bytes() for path in (folder / "all").iterdir()}
    for other, said in (
        (("--steps=2", "--seed=0,6"), "seed (0,5, now 0,6)"),
        (("--steps=3", "--seed=0,5"), "steps (2, now 3)"),
        (("--steps=2", "--seed=0,5", "--size=20"), "size (None, now 20)"),
        (("--steps=2", "--seed=0,5", "--style=content.png"), "style"),
    ):
        code, line = refused(*words, *other)
        assert code == 2
        assert said in line and line.endswith(
            "; give another folder, or delete this one\n"
        )
    assert {path: path.read_bytes() for path in (folder / "all").iterdir()} == before
    assert run(*words, "--steps=2", "--seed=0,5")[0] == 0


def test_the_command_leaves_files_alone_that_no_sweep_wrote(refused, folder):
    (folder / "all").mkdir()
    (folder / "all" / "losses.csv").write_text("mine")
    words = ("--content=content.png", "--style=style.png", "--output=all")
    code, line = refused("sweep", *words, "--seed=0,5")
    assert code == 2
    assert "all/losses.csv: is there already" in line
    assert (folder / "all" / "losses.csv").read_text() == "mine"


def test_the_command_marks_the_picture_that_a_signal_left_unfinished(
    run, folder, monkeypatch
):
    class StopAtOnce(command.ProgressBar):
        def __call__(self, progress):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(command, "ProgressBar", StopAtOnce)
    code, _, err = run(
        "sweep",
        *("--content=content.png", "--style=style.png", "--output=all", "--scales=1"),
        *("--style_layers=relu1_1", "--content_layers=relu2_1"),
        *("--steps=200", "--style_weight=1,10"),
    )
    assert code == 130
    assert err.endswith("all has what is done; the last picture is unfinished\n")
    with (folder / "all" / "losses.csv").open() as file:
        assert [row["finished"] for row in csv.DictReader(file)] == ["no"]


def test_the_command_keeps_what_was_made_before_the_loss_broke(run, folder):
    words = ("--content=content.png", "--style=style.png", "--output=all", "--steps=4")
    words += ("--style_layers=relu1_1", "--content_layers=relu2_1", "--scales=1")
    code, _, err = run("sweep", *words, "--content_weight=1,1e40")
    assert code == 1
    assert err.endswith("(all has the 1 picture before)\n")
    assert (folder / "all" / "sheet.png").is_file()
    with (folder / "all" / "losses.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1


def test_a_picture_of_a_sweep_keeps_its_mask_and_is_made_again(run, folder):
    mask = np.zeros([1, 32, 40, 3], "float32")
    mask[:, :, 20:] = 1
    tfstyle.save_image(mask, folder / "mask.png")
    code, _, err = run(
        "sweep",
        *("--content=content.png", "--style=style.png", "--protect=mask.png"),
        *("--content_layers=relu2_1", "--style_layers=relu1_1+relu2_1", "--scales=1"),
        *("--steps=4", "--style_weight=1,100", "--output=all"),
    )
    assert (code, without_progress(err)) == (0, "")
    first, second = sorted((folder / "all").glob("0*.png"))
    assert run("stylize", f"--from_image={second}", "--output=again.png")[0] == 0
    again, swept, other = (
        np.asarray(Image.open(path)) for path in (folder / "again.png", second, first)
    )
    np.testing.assert_array_equal(again, swept)
    np.testing.assert_array_equal(swept[:, 20:], other[:, 20:])
    assert np.abs(swept[:, :20].astype(int) - other[:, :20]).max() > 0


def test_a_picture_that_goes_during_a_sweep_costs_no_result(run, folder, monkeypatch):
    from tfstyle.cli import sweep as command

    def sweep_and_remove(*args, **kwargs):
        cells = sweep(*args, **kwargs)

        def remove_and_run():
            (folder / "content.png").unlink()
            yield from cells

        return remove_and_run()

    monkeypatch.setattr(command, "sweep", sweep_and_remove)
    sha256 = hashlib.sha256((folder / "content.png").read_bytes()).hexdigest()
    layers = ("--content_layers=relu2_1", "--style_layers=relu1_1", "--scales=1")
    pictures = ("--content=content.png", "--style=style.png", "--output=all")
    code, _, err = run("sweep", *pictures, *layers, "--steps=2", "--seed=0,5")
    assert (code, without_progress(err)) == (0, "")
    origins = [read_origin(path) for path in sorted((folder / "all").glob("0*.png"))]
    assert [origin.options.get("seed", "0") for origin in origins] == ["0", "5"]
    assert {origin.pictures["content"][0].sha256 for origin in origins} == {sha256}


def test_a_preset_is_for_what_is_not_swept(run, folder, monkeypatch):
    from tfstyle.cli import sweep as command

    asked = {}

    def sweep_nothing(content, style, grid, callbacks, **fixed):
        asked.update(grid=grid, fixed=fixed)
        raise UsageError("enough")

    monkeypatch.setattr(command, "sweep", sweep_nothing)
    pictures = ("--content=content.png", "--style=style.png", "--output=all")
    run("sweep", *pictures, "--preset=vgg19-lbfgs-1e4", "--style_weight=1e4,1e6")
    assert asked["grid"] == {"style_weight": [1e4, 1e6]}
    assert asked["fixed"]["backbone"] == "vgg19"
    assert len(asked["fixed"]["style_layers"]) > 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "no flag has several values; give one with commas"),
        (("--style_weight=1,x",), "--style_weight=x: give a number"),
        (("--pooling=max,min",), "--pooling=min: give one of max, avg"),
        (("--style_weight=1,-2",), "--style_weight=-2: give a number of at least 0"),
        (("--style_weight=1,2", "--output=a.png"), "a.png"),
        (("--style_wait=1,2",), "did you mean --style_weight"),
    ],
)
def test_bad_flags(refused, folder, no_tensorflow, flags, said):
    pictures = ("--content=content.png", "--style=style.png", "--output=all")
    code, line = refused("sweep", *pictures, *flags)
    assert code == 2
    assert said in line
