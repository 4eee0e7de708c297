import dataclasses
import importlib
import tempfile
import threading
import time
from pathlib import Path

import hostile
import numpy as np
import pytest
from conftest import no_memory
from hostile import EITHER, PICTURE, REFUSED
from PIL import Image

from tfstyle import load_image, save_image
from tfstyle.cli import main as cli
from tfstyle.errors import TfstyleError, UsageError
from tfstyle.options import Options
from tfstyle.options.presets import preset_names
from tfstyle.options.provenance import read_origin
from tfstyle.studio import jobs, watch
from tfstyle.studio.jobs import run
from tfstyle.studio.requests import Limits, Request, load_upload, option_values
from tfstyle.studio.watch import Update
from tfstyle.stylizer import Stylizer

SMALL = {"size": "32", "steps": "3", "margin": "0"}


@pytest.fixture
def pictures(tmp_path, content, style):
    for name, picture in (("photo", content), ("art", style), ("b", style[:, ::-1])):
        save_image(picture, tmp_path / f"{name}.png")
    return tmp_path


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def ask(pictures, command="stylize", styles=("art",), **fields):
    options = {**SMALL, **fields.pop("options", {})}
    if command == "apply":
        options = {"size": "32", "style_name": "waves"}
    return Request(
        command,
        None if command == "texture" else str(pictures / "photo.png"),
        tuple(str(pictures / f"{name}.png") for name in styles),
        options=options,
        **fields,
    )


def ask_any(pictures, styles=("art",), **fields):
    options = {"size": "32", "style_name": "waves", **fields.pop("options", {})}
    asked = ask(pictures, "apply", styles, **fields)
    return dataclasses.replace(asked, options=options)


def carry_out(request, results):
    return list(run(request, results, threading.Event(), Limits()))


@pytest.mark.parametrize(
    ("command", "styles"),
    [
        *(("stylize", ["art"]), ("texture", ["art"]), ("invert", [])),
        *(("apply", []), ("apply", ["art"])),
    ],
)
def test_the_shown_command_makes_the_same_picture(
    pictures, results, tiny_backbone, monkeypatch, command, styles
):
    *_, last = carry_out(ask(pictures, command, styles), results)
    assert last.status.startswith("Done in ") and not last.failed
    path = last.files[0]
    assert read_origin(path).command == command
    monkeypatch.chdir(pictures)
    words = last.command.split()
    assert words[:2] == ["tfstyle", command]
    assert cli.main(words[1:]) == 0
    assert path.read_bytes() == (pictures / "out.png").read_bytes()


def test_a_painting_is_drawn_in_one_pass_with_strength_and_regions(pictures, results):
    *_, half = carry_out(ask_any(pictures, options={"strength": "0.5"}), results)
    assert half.files[0].name == "photo_art.png"
    origin = read_origin(half.files[0])
    assert origin.options == {"size": "32", "strength": "0.5"}
    *_, whole = carry_out(ask_any(pictures, ("art",)), results)
    photo = load_image(pictures / "photo.png", 32)
    changes = [np.abs(each.preview / 255 - photo[0]).mean() for each in (half, whole)]
    assert 0.01 < changes[0] < 0.9 * changes[1]
    mask = np.zeros([10, 10], bool)
    mask[:, 5:] = True
    request = ask_any(pictures, ("art", "b"), mask=mask, mask_use="second")
    *_, regions = carry_out(request, results)
    assert set(read_origin(regions.files[0]).pictures) == {
        *("content", "style", "content_mask"),
    }


def test_the_picture_is_seen_to_form(pictures, results, tiny_backbone, monkeypatch):
    monkeypatch.setattr(watch, "_SECONDS_BETWEEN", 0.0)
    options = {"steps": "30", "optimizer": "adam", "scales": "1"}
    updates = carry_out(ask(pictures, options=options), results)
    seen = [u for u in updates if u.losses]
    assert len(seen) > 2
    assert np.abs(seen[0].preview.astype(int) - seen[-1].preview).max() > 0
    losses = [
        [value for _, kind, value in update.losses if kind == "total"]
        for update in seen
    ]
    assert losses[-1][-1] < losses[0][0]
    kinds = {"total", "content", "style", "total variation"}
    assert all({kind for _, kind, _ in update.losses} == kinds for update in seen)
    assert seen[-1].losses[-1][0] == 30
    assert "Step 30 of 30 · 32×26" in seen[-1].status
    shares = [update.share for update in seen]
    assert shares == sorted(shares) and shares[0] > 0 and shares[-1] == 1
    assert seen[-1].scales == ((1, "32 pixels"),)


def test_curves_have_few_points(pictures, results, tiny_backbone, monkeypatch):
    monkeypatch.setattr(watch, "_MOST_POINTS", 10)
    updates = carry_out(ask(pictures, options={"steps": "64"}), results)
    *_, last = (u.losses for u in updates if u.losses)
    assert len([1 for _, kind, _ in last if kind == "total"]) <= 10


def test_stop_keeps_the_picture_so_far_and_the_command_that_makes_it(
    pictures, results, tiny_backbone, monkeypatch
):
    stop = threading.Event()
    options = {"steps": "4000", "optimizer": "adam"}
    for last in run(ask(pictures, options=options), results, stop, Limits()):
        if last.losses:
            stop.set()
    assert last.status.startswith("Stopped at step ")
    assert "this is the picture so far" in last.status
    assert load_image(last.files[0]).shape == (1, 26, 32, 3)
    monkeypatch.chdir(pictures)
    assert cli.main(last.command.split()[1:]) == 0
    assert last.files[0].read_bytes() == Path("out.png").read_bytes()


def test_a_page_that_has_gone_away_ends_its_run(pictures, results, tiny_backbone):
    options = {"steps": "4000", "optimizer": "adam"}
    updates = run(ask(pictures, options=options), results, threading.Event(), Limits())
    next(updates)
    next(updates)
    updates.close()
    assert not [t for t in threading.enumerate() if t.name == "tfstyle-run"]


@pytest.mark.parametrize("command", ["stylize", "apply"])
def test_painted_parts_stay(pictures, results, tiny_backbone, command):
    mask = np.zeros([13, 16], bool)
    mask[:, :8] = True
    request = ask(pictures, command, mask=mask)
    *_, last = carry_out(request, results)
    result, painted = last.files
    assert painted.name == "photo_mask.png"
    photo, picture = load_image(pictures / "photo.png", 32), load_image(result)
    difference = np.abs(photo - picture)[0]
    assert difference[:, :14].max() <= 1 / 255
    assert difference[:, 20:].max() > 0.1
    assert [s.file for s in read_origin(result).pictures["protect"]] == [painted.name]


def test_painted_parts_take_the_second_style(pictures, results, tiny_backbone):
    red = np.broadcast_to([0.9, 0.1, 0.1], [1, 20, 20, 3])
    save_image(red, pictures / "b.png")
    mask = np.zeros([13, 16], bool)
    mask[:, :8] = True
    request = ask(pictures, styles=("art", "b"), mask=mask, mask_use="second")
    *_, last = carry_out(request, results)
    picture = load_image(last.files[0])[0]
    red = picture[..., 0] - picture[..., 1:].mean(-1)
    assert red[:, :12].mean() > red[:, 20:].mean() + 0.2
    assert "--content_mask=photo_mask.png" in last.command


def test_two_styles_are_blended(pictures, results, tiny_backbone):
    *_, last = carry_out(ask(pictures, styles=("art", "b")), results)
    assert "--style=art.png,b.png" in last.command


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"styles": ()}, "style: choose a painting first"),
        ({"command": "texture", "styles": ()}, "style: choose a painting first"),
        ({"options": {"size": "4096"}}, "size=4096: this studio makes pictures of"),
        ({"options": {"steps": "9,9999"}}, "steps: this studio takes at most 5000"),
        ({"options": {"style_scale": "20", "size": "512"}}, "style_scale: the style"),
        ({"options": {"steps": "many"}}, "steps=many: give whole numbers"),
        ({"options": {"backbone": "vgg"}}, "backbone='vgg': give one of"),
        ({"options": {"seed": "-1"}}, "seed=-1: give a whole number"),
        (
            {"mask": np.ones([2, 2], bool), "mask_use": "second"},
            "second: choose one for the painted parts first",
        ),
        ({"mask": np.ones([13, 16], bool)}, "protect: all is white"),
    ],
)
def test_wrong_requests_are_answered(pictures, results, fields, message):
    updates = carry_out(ask(pictures, **fields), results)
    assert updates[-1].failed
    assert message in updates[-1].status
    assert not updates[-1].files


@pytest.mark.parametrize(
    ("name", "shown"), [("photo.png", "photo.png"), ("a\nb.png", r"'a\nb.png'")]
)
def test_messages_do_not_tell_where_uploads_are(pictures, results, name, shown):
    path = pictures / name
    path.write_text("not a picture")
    request = Request("stylize", str(path), (str(pictures / "art.png"),))
    *_, last = carry_out(request, results)
    with pytest.raises(TfstyleError) as caught:
        load_upload(str(path), 16)
    for text in (last.status, str(caught.value)):
        assert text.startswith(f"{shown}: not a PNG")
        assert str(pictures) not in text


def test_a_network_that_cannot_be_built_leaves_the_last_one(tiny_backbone):
    engines = jobs.Engines()
    with pytest.raises(UsageError, match="relu9_9"):
        engines.stylizer(Options(style_layers=["relu9_9"]))
    good = engines.stylizer(Options(size=32))
    with pytest.raises(UsageError, match="relu9_9"):
        engines.stylizer(Options(style_layers=["relu9_9"]))
    assert engines.stylizer(Options(size=40)).engine is good.engine


def test_the_history_is_on_disk_and_the_oldest_makes_room(tmp_path):
    sessions = pytest.importorskip("tfstyle.studio.sessions")
    session = sessions.Session(tempfile.TemporaryDirectory(dir=tmp_path))
    folders = []
    for number in range(sessions._MOST_RESULTS + 3):
        folders.append(Path(tempfile.mkdtemp(dir=session.folder.name)))
        preview = np.full([4, 6, 3], number, "uint8")
        update = Update("Done", preview=preview, files=(folders[-1] / "a.png",))
        session.keep(preview, None, update)
    kept = [entry.preview.parent for entry in session.history]
    assert kept == folders[3:] == [each for each in folders if each.exists()]
    assert all(entry.update.preview is None for entry in session.history)
    assert np.array(Image.open(session.history[-1].preview)).min() == number
    session.end()
    assert not list(tmp_path.iterdir())


def test_old_files_of_visitors_are_deleted_and_samples_stay(tmp_path):
    server = pytest.importorskip("tfstyle.studio.server")
    for name in ("sample", "given"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.jpg").write_text("a picture")
    samples = set((tmp_path / "sample").rglob("*"))
    server._delete_old(tmp_path, samples, time.time() - 60)
    assert (tmp_path / "given" / "photo.jpg").exists()
    for _ in range(2):  # a folder is as old as its last change
        server._delete_old(tmp_path, samples, time.time() + 60)
    assert list(tmp_path.rglob("*.jpg")) == [tmp_path / "sample" / "photo.jpg"]
    assert not (tmp_path / "given").exists()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return hostile.write_corpus(tmp_path_factory.mktemp("uploads"))


def said_of(case, act):
    """What a user is told of an upload, which must be clear; with what it costs."""
    hostile._reset_peak()
    memory, began = hostile._peak(), time.process_time()
    text = act()
    assert time.process_time() - began < 5, case
    assert hostile._peak() - memory < 200, case
    if text:
        name = case.path.name
        assert text.startswith(f"{name if name.isprintable() else ascii(name)}: ")
        assert text.isprintable() and "; " in text and len(text) < 900
        assert str(case.path.parent) not in text
    assert case.expected in (EITHER, REFUSED if text else PICTURE), (case, text)
    return text


def test_hostile_uploads_are_read_or_refused_in_one_line(corpus, results, monkeypatch):
    def checked():
        try:
            load_upload(str(case.path), 16)
        except TfstyleError as error:
            return str(error)
        return ""

    def asked():
        *_, last = carry_out(Request("stylize", str(case.path), (art,)), results)
        assert last.failed and not last.files
        return last.status.removeprefix("all pictures were read")

    def reached(*_):
        raise UsageError("all pictures were read")

    importlib.import_module("tfstyle.stylizer.run")  # takes more memory than any upload
    monkeypatch.setattr(Stylizer, "run", reached)
    art = next(str(case.path) for case in corpus if case.name == "whole.png")
    for number, case in enumerate(corpus):
        said = said_of(case, checked)
        if said or number % 10 == 0:
            assert said_of(case, asked) == said
    assert not list(results.iterdir())
    there = {case.path.name for case in corpus}
    assert {path.name for path in Path(art).parent.iterdir()} <= there


@pytest.mark.parametrize("which", [0, 1, 2])
def test_full_memory_is_told(pictures, results, tiny_backbone, monkeypatch, which):
    def full(*_):
        raise no_memory()[which]

    monkeypatch.setattr(Stylizer, "run", full)
    *_, last = carry_out(ask(pictures), results)
    assert last.failed
    assert last.status.startswith("there is not enough memory; choose a smaller size")


def test_a_loss_of_nan_leaves_the_last_good_picture(pictures, results, tiny_backbone):
    options = {"optimizer": "adam", "learning_rate": "1e30", "clamp": ""}
    *_, last = carry_out(ask(pictures, options=options), results)
    assert last.failed
    if last.files:
        assert "this is the last good picture" in last.status
        assert np.isfinite(load_image(last.files[0])).all()


def test_a_sweep_draws_a_sheet(pictures, results, tiny_backbone):
    request = ask(pictures)
    updates = list(
        jobs.run_sweep(
            *(request, "style_weight", "1, 10,100", results),
            *(threading.Event(), Limits()),
        )
    )
    assert [u.status for u in updates[1:]] == [
        "1 of 3 pictures",
        "2 of 3 pictures",
        "3 of 3 pictures",
        "Done: 3 pictures",
    ]
    sheet, *cells = updates[-1].files
    assert sheet.name == "sheet.png"
    assert [cell.name for cell in cells] == [
        f"photo_art_style_weight={value}.png" for value in ("1", "10", "100")
    ]
    weights = [read_origin(cell).options.get("style_weight") for cell in cells]
    assert weights == [None, "10.0", "100.0"]
    assert "tfstyle sweep" in updates[-1].command
    assert "--style_weight=1,10,100" in updates[-1].command


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("seed", "1", "seed: give 2 to 16 values"),
        ("seed", ",".join("1" * 17), "seed: give 2 to 16 values"),
        ("size", "32,9999", "size=9999: this studio"),
        ("tv_weight", "1,x", "tv_weight=x: give a number"),
    ],
)
def test_wrong_sweeps_are_answered(pictures, results, name, text, message):
    request = ask(pictures)
    stop, limits = threading.Event(), Limits()
    *_, last = jobs.run_sweep(request, name, text, results, stop, limits)
    assert last.failed and message in last.status


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("command", ["stylize", "texture", "invert"])
def test_presets_fit_every_method_that_has_their_pictures(command, preset):
    if (command, "inversion" in preset) == ("texture", True):
        pytest.skip("it has no style")
    if (command, "texture" in preset) == ("invert", True):
        pytest.skip("it has no content")
    assert option_values(command, {"preset": preset})["backbone"]
