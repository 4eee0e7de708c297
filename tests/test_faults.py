"""What runs do when the machine fails them."""

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import no_memory

from tfstyle import Stylizer, load_image, save_image, stylize
from tfstyle.backbones.weights import save_weights
from tfstyle.cli import main as cli
from tfstyle.cli import run as cli_run
from tfstyle.errors import NonFiniteLossError, TfstyleError, user_error
from tfstyle.images.samples import SAMPLES
from tfstyle.monitoring.best_effort import BestEffort
from tfstyle.monitoring.tensorboard import TensorBoard
from tfstyle.optimizers.loop import Loop

PROGRAM = [sys.executable, "-m", "tfstyle"]
SHORT = ["--content=photo.png", "--style=art.png", "--size=32"]
SHORT += ["--optimizer=adam", "--style_loss=gram"]


@pytest.fixture
def folder(tmp_path, monkeypatch, content, style):
    """The working folder, with two pictures."""
    monkeypatch.chdir(tmp_path)
    save_image(content, "photo.png")
    save_image(style, "art.png")
    return tmp_path


@contextlib.contextmanager
def mounted(place):
    """A small file system, which holds a picture."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount")
    try:
        save_image(load_image("art.png"), place / "out.png")
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def full(folder):
    """A file system without room, which holds a picture."""
    with mounted(folder / "full") as place:
        fill(place)
        yield place


def fill(place):
    with (place / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(512))
        except OSError:
            pass


@pytest.fixture
def sealed(folder):
    """A file system that holds a picture, and becomes read-only when ``seal`` says."""
    with mounted(folder / "sealed") as place:
        yield place


def seal(*_):
    subprocess.run(["mount", "-o", "remount,ro", "sealed"], check=True)


def rescued_picture(capsys, problem):
    """A run has told where the picture is that could not be kept in its place."""
    error = capsys.readouterr().err
    assert error.startswith(f"tfstyle: {problem}") and error.count("\n") == 1
    rescued = Path(re.search(r"; meanwhile the picture is (\S+)\n$", error)[1])
    assert load_image(rescued).shape == (1, 26, 32, 3)
    rescued.unlink()


def test_a_picture_that_finds_no_room_is_rescued(full, tiny_backbone, capsys):
    before = (full / "out.png").read_bytes()
    assert cli.main(["stylize", *SHORT, "--steps=3", "--output=full/out.png"]) == 1
    rescued_picture(capsys, "full/out.png: could not be written (No space left")
    assert (full / "out.png").read_bytes() == before
    assert sorted(p.name for p in full.iterdir()) == ["filler", "out.png"]


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


WRITTEN = ["--steps=8", "--snapshot_every=1", "--checkpoint_every=0"]


@pytest.mark.parametrize(
    "words",
    [
        ["stylize", *SHORT, f"--{flag}"]
        for flag in (
            "output=sealed/out.png",
            "output=sealed/new.png",
            "snapshot_dir=sealed",
            "snapshot_dir=sealed/new",
            "checkpoint=sealed",
            "log_dir=sealed",
            "report=sealed/r.json",
            "loss_plot=sealed/p.png",
            "animate=sealed/a.gif",
        )
    ]
    + [
        ["apply", "--content=photo.png", "--output=sealed/new.png"],
        ["apply", "--content=photo.png,art.png", "--output=sealed/new"],
        ["batch", "--content=*.png", "--output=sealed/new"],
        ["batch", "--content=*.png", "--dead_letter=sealed/new/bad.jsonl"],
        ["export", "--output=sealed"],
        ["export", "--format=keras", "--output=sealed/n.keras"],
        ["train", "--style=art.png", "--photos=.", "--output=sealed/new"],
    ],
    ids=" ".join,
)
def test_a_place_that_is_read_only_is_told_at_once(
    sealed, tiny_backbone, capsys, words
):
    seal()
    if not any(word.startswith("--output") for word in words):
        words = [*words, "--output=made" + ".png" * (words[0] == "stylize")]
    assert cli.main(words) == (1 if words[0] == "export" else 2)
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert error.startswith("tfstyle: ") and "sealed" in error
    assert "Error" not in error
    assert [p.name for p in sealed.iterdir()] == ["out.png"]


@pytest.mark.parametrize(
    ("flag", "code", "problem"),
    [
        ("--snapshot_dir=sealed", 0, ""),
        ("--checkpoint=sealed", 0, ""),
        ("--report=sealed/r.json", 1, "sealed/r.json: could not be written"),
        ("--loss_plot=sealed/p.png", 1, "sealed/p.png: could not be written"),
        ("--animate=sealed/a.gif", 1, "sealed/a.gif: could not be written"),
    ],
)
def test_a_place_that_becomes_read_only_does_not_cost_the_picture(
    sealed, tiny_backbone, capsys, caplog, monkeypatch, flag, code, problem
):
    monkeypatch.setattr(cli_run.StopOnSignal, "__call__", seal)
    assert cli.main(["stylize", *SHORT, *WRITTEN, "--output=o.png", flag]) == code
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == code
    assert load_image("o.png").shape == (1, 26, 32, 3)
    assert [p.name for p in sealed.iterdir()] == ["out.png"]
    if not code:
        assert [r for r in caplog.records if "without" in r.getMessage()]


def test_a_picture_whose_place_becomes_read_only_is_rescued(
    sealed, tiny_backbone, capsys, monkeypatch
):
    before = (sealed / "out.png").read_bytes()
    monkeypatch.setattr(cli_run.StopOnSignal, "__call__", seal)
    assert cli.main(["stylize", *SHORT, *WRITTEN, "--output=sealed/out.png"]) == 1
    rescued_picture(capsys, "sealed/out.png: you may not write to the folder")
    assert (sealed / "out.png").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--output=gone/o.png"], "gone/o.png: the folder gone does not exist"),
        (["--output=o.png", "--snapshot_dir=gone"], ""),
        (["--output=o.png", "--checkpoint=gone"], ""),
    ],
)
def test_a_folder_that_is_removed_does_not_cost_the_picture(
    folder, tiny_backbone, capsys, monkeypatch, flags, problem
):
    def remove(*_):
        shutil.rmtree("gone", ignore_errors=True)

    Path("gone").mkdir()
    monkeypatch.setattr(cli_run.StopOnSignal, "__call__", remove)
    code = cli.main(["stylize", *SHORT, *WRITTEN, *flags])
    assert code == bool(problem)
    if problem:
        rescued_picture(capsys, problem)
    else:
        assert capsys.readouterr().err == ""
        assert load_image("o.png").shape == (1, 26, 32, 3)


def test_weights_whose_place_becomes_read_only(sealed):
    seal()
    with pytest.raises(TfstyleError, match=r"could not be written: .*Read-only"):
        save_weights(sealed / "w.npz", {}, preprocessing="torch")


def test_memory_that_never_is_enough(
    folder, tiny_backbone, capsys, caplog, monkeypatch
):
    def full(*_, **__):
        raise no_memory()[1]

    monkeypatch.setattr(Loop, "run", full)
    assert cli.main(["stylize", *SHORT, "--output=o.png"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tfstyle: a tile of ") and error.count("\n") == 1
    assert "more memory than is left; raise --max_memory, use" in error
    assert 0 < len(caplog.records) < 30
    assert not Path("o.png").exists()


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("stylize", "tfstyle.stylizer.pictures.load_image"),
        ("stylize", "tfstyle.losses.from_options.FeatureExtractor"),
        ("stylize", "tfstyle.stylizer.run.Run._begin"),
        ("apply", "tfstyle.networks.apply.load_image"),
        ("apply", "tfstyle.networks.style_net.Passes"),
    ],
)
def test_full_memory_is_told_with_a_way_out(
    folder, tiny_backbone, capsys, monkeypatch, command, place, which
):
    def full(*_, **__):
        raise no_memory()[which]

    monkeypatch.setattr(place, full)
    words = SHORT if command == "stylize" else ["--content=photo.png"]
    assert cli.main([command, *words, "--output=o.png"]) == 1
    error = capsys.readouterr().err
    assert error == (
        "tfstyle: there is not enough memory; choose a smaller size, or end other "
        "programs\n"
    )
    assert not Path("o.png").exists()


def test_a_full_disk_is_not_taken_for_full_memory():
    import tensorflow as tf

    text = "logs; No space left on device"
    assert user_error(tf.errors.ResourceExhaustedError(None, None, text)) is None
    assert user_error(ValueError("OOM")) is None
    assert user_error(tf.errors.AbortedError(None, None, "Status: 2")) is None


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
    board = BestEffort(TensorBoard(folder / "logs"), "TensorBoard")
    options = {"size": 32, "steps": 40, "optimizer": "adam", "scales": 2}
    result = stylize("photo.png", "art.png", callbacks=[board], **options)
    assert len(calls) == 1
    assert len(result.history["step"]) == 80
    assert [record.getMessage() for record in caplog.records] == [
        "the run goes on without TensorBoard: No space left on device"
    ]


def test_files_that_change_while_it_runs_change_nothing(folder, tiny_backbone):
    options = {"size": 32, "steps": 5, "optimizer": "adam"}
    expected = stylize("photo.png", "art.png", **options).images

    def change(progress):
        Path("photo.png").unlink(missing_ok=True)
        Path("art.png").write_bytes(b"something else")

    result = stylize("photo.png", "art.png", callbacks=[change], **options)
    np.testing.assert_array_equal(result.images, expected)


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
def test_extreme_weights_end_with_a_picture_or_a_reason(
    tiny_backbone, content, style, optimizer, precision
):
    stylizer = Stylizer(size=32, steps=6, optimizer=optimizer, precision=precision)
    weights = itertools.product(
        ("content_weight", "style_weight", "tv_weight"), (1e-30, 1e30, 3e38)
    )
    for name, weight in weights:
        extreme = stylizer.with_options(**{name: weight})
        assert extreme.engine is stylizer.engine
        try:
            result = extreme(content, style)
        except NonFiniteLossError as error:
            result = error.result
        assert np.isfinite(result.images).all(), (name, weight)
        assert result.images.min() >= 0 and result.images.max() <= 1, (name, weight)


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
        # What a shell begins in the background is deaf to SIGINT, and so are its heirs.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(delay)
    process.send_signal(number)
    try:
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    # A shell shows a process that a signal ended as 128 and its number, too.
    assert process.returncode in (128 + number, -number)
    assert "Traceback" not in error
    assert load_image("out.png").size
    assert sorted(p.name for p in folder.iterdir()) == [
        "art.png",
        "out.png",
        "photo.png",
    ]
