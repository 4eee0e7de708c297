import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfstyle import load_image, save_image
from tfstyle.cli import main as cli
from tfstyle.cli.signals import StopOnSignal
from tfstyle.errors import UsageError
from tfstyle.images import read_metadata
from tfstyle.images.samples import SAMPLES
from tfstyle.options.provenance import Origin, Source, origin_of, read_origin
from tfstyle.version import __version__

_written: list[bytes] = []  # by the first test that asks for it


@pytest.fixture
def made(tmp_path, monkeypatch, tiny_backbone, content, style):
    """A picture that ``tfstyle stylize`` wrote, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name, picture in (("photo", content), ("a", style), ("b", style[:, ::-1])):
        save_image(picture, f"{name}.png")
    if not _written:
        words = ["--style=a.png:0.7,b.png:0.3", "--size=24", "--steps=3", "--seed=4"]
        words += ["--style_layers=block1_conv1:0.25,block2_conv1:1.0", "--margin=2"]
        assert run("stylize", "--content=photo.png", *words, "--output=out.png") == 0
        _written.append((tmp_path / "out.png").read_bytes())
    (tmp_path / "out.png").write_bytes(_written[0])
    return tmp_path / "out.png"


RECORD = {"version": "1", "command": "stylize", "options": {}, "pictures": {}}


def run(*words):
    return cli.main(list(words))


def edit(path, record):
    """Another picture that says it was made as ``record`` has it."""
    text = record if isinstance(record, str) else json.dumps(record)
    save_image(load_image(path), path, metadata={"tfstyle": text})


def test_a_picture_says_how_it_was_made(made):
    origin = read_origin(made)
    assert origin.command == "stylize"
    assert origin.options == {
        "margin": "2",
        "seed": "4",
        "size": "24",
        "steps": "3",
        "style_layers": "block1_conv1:0.25,block2_conv1:1.0",
    }
    assert [(s.file, s.weight) for s in origin.pictures["style"]] == [
        ("a.png", 0.7),
        ("b.png", 0.3),
    ]
    assert list(origin.pictures) == ["content", "style"]


@pytest.mark.parametrize("extension", ["png", "jpg", "webp"])
def test_it_survives_in_every_format(tmp_path, extension, content):
    origin = Origin("texture", {"size": "7"}, {"style": (Source("größe.jpg", "00"),)})
    path = tmp_path / f"a.{extension}"
    save_image(content, path, metadata=origin.metadata())
    assert read_origin(path) == origin


def test_a_picture_is_made_again_to_the_byte(made):
    assert run("stylize", "--from_image=out.png", "--output=again.png") == 0
    assert made.read_bytes() == made.with_name("again.png").read_bytes()


def test_a_picture_that_was_stopped_is_made_to_the_same_step(made, monkeypatch):
    words = ["--from_image=out.png", "--steps=40", "--scales=2"]
    with monkeypatch.context() as patch:
        stop = lambda self, progress: progress.step >= 47  # noqa: E731
        patch.setattr(StopOnSignal, "__call__", stop)
        # So that a fast machine reports before the last step.
        patch.setattr("tfstyle.optimizers.loop.SECONDS_BETWEEN_REPORTS", 0.0)
        assert run("stylize", *words, "--output=stopped.png") == 128
    assert 47 <= int(read_origin("stopped.png").options["stop_at"]) < 80
    assert run("stylize", "--from_image=stopped.png", "--output=again.png") == 0
    assert Path("again.png").read_bytes() == Path("stopped.png").read_bytes()


def test_other_flags_override_what_is_recorded(made):
    words = ["--from_image=out.png", "--seed=5", "--content=b.png"]
    assert run("stylize", *words, "--output=other.png") == 0
    origin = read_origin("other.png")
    assert origin.options["seed"] == "5"
    assert [s.file for s in origin.pictures["content"]] == ["b.png"]
    assert origin.options["margin"] == "2"


def test_info_prints_flags_for_a_flagfile(made, capsys):
    capsys.readouterr()
    assert run("info", "--image=out.png") == 0
    text = capsys.readouterr().out
    made.with_name("flags.txt").write_text(text)
    assert run("stylize", "--flagfile=flags.txt", "--output=again.png") == 0
    assert made.read_bytes() == made.with_name("again.png").read_bytes()


def test_pictures_are_looked_for_beside_the_result_and_among_the_samples(
    made, tmp_path, monkeypatch
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run("stylize", f"--from_image={made}", "--output=again.png") == 0
    sample = SAMPLES / "content" / "cat.jpg"
    origin = origin_of("stylize", {}, {"content": [(sample, None)]})
    assert origin.pictures["content"][0].file == "cat.jpg"
    assert origin.located(made).pictures["content"][0].file == str(sample)


def test_another_picture_of_the_same_name_is_refused(made, capsys):
    shutil.copy("a.png", "photo.png")
    assert run("stylize", "--from_image=out.png", "--output=again.png") == 2
    assert capsys.readouterr().err == (
        "tfstyle: photo.png is not the picture that out.png was made from; give "
        "--content=FILE\n"
    )
    words = ["--from_image=out.png", "--content=photo.png", "--output=again.png"]
    assert run("stylize", *words) == 0


def test_a_picture_that_is_gone_is_named_with_the_flag_that_supplies_it(made, capsys):
    made.with_name("photo.png").unlink()
    assert run("stylize", "--from_image=out.png", "--output=again.png") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for named in ("out.png", "photo.png", "--content=FILE"):
        assert named in error
    words = ["--from_image=out.png", "--content=other.png", "--output=again.png"]
    assert run("stylize", *words) == 2
    assert "other.png: no such file" in capsys.readouterr().err


def test_info_shows_what_made_a_picture_though_its_pictures_are_gone(made, capsys):
    made.with_name("photo.png").unlink()
    capsys.readouterr()
    assert run("info", "out.png") == 0
    shown = capsys.readouterr().out
    assert "stylize" in shown and __version__ in shown
    assert "--content=photo.png" in shown.splitlines()
    for source in read_origin(made).pictures["style"]:
        assert f"{source.file}: {source.sha256}" in shown


def test_another_command_is_named(made, capsys):
    assert run("texture", "--from_image=out.png", "--output=again.png") == 2
    assert "was made by tfstyle stylize" in capsys.readouterr().err


def test_paths_do_not_tell_about_the_machine(made, tmp_path):
    absolute = str(tmp_path / "photo.png")
    pictures = {"content": [(absolute, None), ("../" + tmp_path.name + "/a.png", None)]}
    origin = origin_of("stylize", {"weights": "/home/me/w.npz"}, pictures)
    assert [s.file for s in origin.pictures["content"]] == ["photo.png", "a.png"]
    assert origin.options == {"weights": "w.npz"}
    assert str(tmp_path) not in str(origin.metadata())


@pytest.mark.parametrize(
    "options",
    [
        {"output": "stolen.png"},
        {"flagfile": "flags.txt"},
        {"checkpoint": "folder"},
        {"size\n--output": "stolen.png"},
    ],
)
def test_flags_that_write_are_not_read_from_a_picture(made, options):
    edit(made, RECORD | {"options": options})
    with pytest.raises(UsageError, match="cannot be read"):
        read_origin(made)


def test_a_whole_record_is_read(made):
    edit(made, RECORD)
    assert read_origin(made) == Origin("stylize", {}, {}, "1")


@pytest.mark.parametrize(
    "record",
    [
        "{",
        "[" * 100_000,
        [],
        7,
        {"command": "stylize"},
        RECORD | {"options": []},
        RECORD | {"pictures": {"output": []}},
        RECORD | {"options": {"seed": "4\n--output=stolen.png"}},
        RECORD | {"version": "1\n--output=stolen.png"},
        RECORD | {"command": "\x1b[2Jinfo"},
        RECORD | {"pictures": {"content": [{}]}},
    ],
)
def test_a_damaged_record_is_refused(made, record):
    edit(made, record)
    with pytest.raises(UsageError, match="cannot be read"):
        read_origin(made)


def test_a_picture_of_another_program_is_refused(tmp_path, capsys):
    path = tmp_path / "plain.png"
    Image.new("RGB", (4, 4)).save(path)
    with pytest.raises(UsageError, match="does not say how it was made"):
        read_origin(path)
    exif = Image.Exif()
    exif[0x010E] = "a holiday"
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.jpg", exif=exif)
    assert read_metadata(tmp_path / "plain.jpg") == {}


def test_a_trained_style_is_applied_again(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    save_image(content, "photo.png")
    words = ["--content=photo.png", "--style_name=waves", "--size=32"]
    assert run("apply", *words, "--output=out.png") == 0
    assert run("apply", "--from_image=out.png", "--output=again.png") == 0
    again = np.asarray(Image.open("again.png"))
    np.testing.assert_array_equal(again, np.asarray(Image.open("out.png")))
