"""What runs do when the machine fails them."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tfstyle import load_image, save_image, stylize
from tfstyle.callbacks import TensorBoard, outliving
from tfstyle.cli import main as cli
from tfstyle.optimize import NonFiniteLossError
from tfstyle.samples import SAMPLES

PROGRAM = [sys.executable, "-m", "tfstyle.cli.main"]
SHORT = ["--content=photo.png", "--style=art.png", "--size=32", "--optimizer=adam"]


@pytest.fixture
def folder(tmp_path, monkeypatch, content, style):
    """The working folder, with two pictures."""
    monkeypatch.chdir(tmp_path)
    save_image(content, "photo.png")
    save_image(style, "art.png")
    return tmp_path


@pytest.fixture
def full(folder):
    """A file system without room, which holds a picture."""
    place = folder / "full"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount")
    save_image(load_image("art.png"), place / "out.png")
    with (place / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(512))
        except OSError:
            pass
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_picture_that_finds_no_room_is_rescued(full, tiny_backbone, capsys):
    before = (full / "out.png").read_bytes()
    assert cli.main(["stylize", *SHORT, "--steps=3", "--output=full/out.png"]) == 1
    error = capsys.readouterr().err
    rescued = re.search(r"No space left .* the picture is (\S+)\n$", error)[1]
    assert error.count("\n") == 1
    assert load_image(rescued).shape == (1, 26, 32, 3)
    assert (full / "out.png").read_bytes() == before
    assert sorted(p.name for p in full.iterdir()) == ["filler", "out.png"]
    Path(rescued).unlink()


@pytest.mark.parametrize(
    ("flag", "code", "problem"),
    [
        ("--snapshot_dir=full", 0, ""),
        ("--checkpoint=full", 0, ""),
        ("--report=full/r.json", 1, "full/r.json: could not be written"),
        ("--loss_plot=full/p.png", 1, "full/p.png: could not be written"),
        ("--animate=full/a.gif", 1, "full/a.gif: could not be written"),
    ],
)
def test_what_goes_along_does_not_cost_the_picture(
    full, tiny_backbone, capsys, caplog, flag, code, problem
):
    words = [
        "--steps=8",
        "--snapshot_every=1",
        "--checkpoint_every=0",
        "--output=o.png",
    ]
    assert cli.main(["stylize", *SHORT, *words, flag]) == code
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == code
    assert load_image("o.png").shape == (1, 26, 32, 3)
    assert sorted(p.name for p in full.iterdir()) == ["filler", "out.png"]
    if not code:
        assert [r for r in caplog.records if "without" in r.getMessage()]


def test_no_room_for_tensorboard_is_told_at_once(full, tiny_backbone, capsys):
    words = ["stylize", *SHORT, "--output=o.png", "--log_dir=full"]
    assert cli.main(words) == 1
    assert "full: TensorBoard's file could not be made" in capsys.readouterr().err


def test_a_disk_that_fills_up_does_not_end_the_run(
    folder, tiny_backbone, monkeypatch, caplog
):
    import tensorflow as tf

    calls = []

    def full(*_):
        calls.append(1)
        # What TensorFlow raises; a run takes it for memory that is full.
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(TensorBoard, "__call__", full)
    board = outliving(TensorBoard(folder / "logs"), "TensorBoard")
    options = {"size": 32, "steps": 40, "optimizer": "adam", "scales": 2}
    result = stylize("photo.png", "art.png", callbacks=[board], **options)
    assert len(calls) == 1
    assert len(result.history["step"]) == 80
    assert [record.getMessage() for record in caplog.records] == [
        "the run goes on without TensorBoard: No space left on device"
    ]


def test_files_that_change_while_it_runs_change_nothing(folder, tiny_backbone):
    options = {"size": 32, "steps": 5, "optimizer": "adam"}
    expected = stylize("photo.png", "art.png", **options).image

    def change(progress):
        Path("photo.png").unlink(missing_ok=True)
        Path("art.png").write_bytes(b"something else")

    result = stylize("photo.png", "art.png", callbacks=[change], **options)
    np.testing.assert_array_equal(result.image, expected)


def test_runs_with_one_output_leave_one_whole_picture(folder):
    pictures = [np.full([1, 300, 400, 3], i / 20, "float32") for i in range(20)]
    pictures[0][:] = 1
    writers = [
        threading.Thread(target=save_image, args=(picture, "out.png"))
        for picture in pictures
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if Path("out.png").exists():
            assert np.ptp(load_image("out.png")) == 0
    assert np.ptp(load_image("out.png")) == 0
    assert not list(folder.glob(".tfstyle*"))


def test_the_clock_may_jump(folder, tiny_backbone, monkeypatch):
    jumps = iter([1e9, 0.0] * 10_000)
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    seconds = []
    result = stylize(
        *("photo.png", "art.png"),
        size=32,
        steps=20,
        optimizer="adam",
        callbacks=[lambda progress: seconds.append(progress.seconds)],
    )
    assert 0 < result.seconds < 60
    assert seconds == sorted(seconds) and seconds[-1] < 60


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("weight", [1e-30, 1e30, 3e38])
@pytest.mark.parametrize("name", ["content_weight", "style_weight", "tv_weight"])
def test_extreme_weights_end_with_a_picture_or_a_reason(
    folder, tiny_backbone, optimizer, precision, weight, name
):
    options = {"optimizer": optimizer, "precision": precision, name: weight}
    try:
        result = stylize("photo.png", "art.png", size=32, steps=6, **options)
    except NonFiniteLossError as error:
        result = error.result
    assert np.isfinite(result.image).all()
    assert result.image.min() >= 0 and result.image.max() <= 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("delay", [0.3, 2.0, 4.0])
def test_signals_at_any_moment(folder, number, delay):
    """Before the run there is no picture, in it there is; never half of one."""
    old = Path("art.png").read_bytes()
    Path("out.png").write_bytes(old)
    style = f"--style={SAMPLES / 'style' / 'waves.jpg'}"
    words = ["stylize", *SHORT, style, "--steps=100000", "--output=out.png"]
    process = subprocess.Popen(
        [*PROGRAM, *words, "--size=40"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    time.sleep(delay)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    # A shell shows a process that a signal ended as 128 and its number, too.
    assert process.returncode in (128 + number, -number)
    assert "Traceback" not in error
    assert load_image("out.png").size
    assert sorted(p.name for p in folder.iterdir()) == [
        "art.png",
        "out.png",
        "photo.png",
    ]
