"""Tests of the callbacks in tfstyle/monitoring."""

import dataclasses
import io
import logging
import sys

import numpy as np
import pytest
import tensorflow as tf

from tfstyle.errors import MissingExtraError, TfstyleError
from tfstyle.images import load_image
from tfstyle.monitoring import progress_bar
from tfstyle.monitoring.best_effort import BestEffort
from tfstyle.monitoring.progress_bar import ProgressBar, print_message
from tfstyle.monitoring.snapshots import Snapshots
from tfstyle.monitoring.tensorboard import TensorBoard
from tfstyle.optimizers.progress import Progress

pytestmark = pytest.mark.fast


def progress(first: int, last: int, steps: int | None = 10, **others) -> Progress:
    """A report of the steps from ``first`` to ``last``, of loss 1/step."""
    row_steps = np.arange(first, last + 1)
    rows = np.stack([1 / row_steps, 0.75 / row_steps, 0.25 / row_steps], axis=1)
    report = Progress(
        step=last,
        steps=steps,
        scale=0,
        scales=1,
        columns=("total", "content/a", "style/b"),
        rows=rows.astype("float32"),
        row_steps=row_steps,
        seconds=0.1 * last,
        size=(4, 6),
        image=lambda: np.full((1, 4, 6, 3), last / 10, "float32"),
    )
    return dataclasses.replace(report, **others)


def film_progress(frame: int, frames: int | None, flicker: float) -> Progress:
    """A report of a film after a frame."""
    rows = np.array([[flicker]], "float32")
    return progress(frame, frame, columns=("flicker",), rows=rows, steps=frames)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> list[str]:
        """The bars that were drawn, in order."""
        return [text for text in self.getvalue().split("\r") if text.strip()]


@pytest.fixture
def open_terminal(monkeypatch):
    """Puts a terminal in place of standard error, on which every report is drawn."""
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)
    monkeypatch.setattr("tqdm.std.time", iter(range(1000)).__next__)

    def here() -> Terminal:  # pytest replaces standard error after fixtures are made
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        return terminal

    return here


@pytest.fixture
def clock(monkeypatch):
    """A clock for the lines of a bar, in seconds."""
    now = [100.0]
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now[0])
    return now


def test_progress_bar_of_a_run_shows_size_steps_loss_and_time_left(open_terminal):
    terminal = open_terminal()
    with ProgressBar() as bar:
        bar(progress(1, 1))
        bar(progress(2, 5))

    last = terminal.shown[-1]
    assert "6×4" in last and "50%" in last and "5/10 steps" in last
    assert "loss 0.2" in last and "left" in last
    assert terminal.getvalue().endswith("\r")  # the bar has been wiped away


def test_progress_bar_of_a_film_shows_frames_and_flicker(open_terminal):
    terminal = open_terminal()
    with ProgressBar("frame") as bar:
        bar(film_progress(1, 8, np.nan))
        bar(film_progress(4, 8, 0.0125))

    first, last = terminal.shown[1], terminal.shown[-1]
    assert "1/8 frames" in first and "nan" not in first and "flicker" not in first
    assert "50%" in last and "4/8 frames" in last and "flicker 0.0125" in last
    assert "6×4" in last and "left" in last and "loss" not in last


def test_progress_bar_of_a_film_of_unknown_length_shows_the_time_so_far(open_terminal):
    terminal = open_terminal()
    with ProgressBar("frame") as bar:
        bar(film_progress(1, None, np.nan))
        bar(film_progress(4, None, 0.0125))

    last = terminal.shown[-1]
    assert "4 frames [00:0" in last and "flicker 0.0125" in last
    assert "%" not in last and "left" not in last and "None" not in last


def test_progress_bar_of_a_folder_shows_pictures(open_terminal):
    terminal = open_terminal()
    with ProgressBar("picture", total=4) as bar:
        bar.move_to(0)
        bar.move_to(3)

    last = terminal.shown[-1]
    assert "75%" in last and "3/4 pictures" in last and "left" in last


def test_progress_bar_keeps_silent_without_a_terminal(capsys, clock):
    with ProgressBar() as bar:
        bar(progress(1, 1))
        clock[0] += 1000
        bar(progress(2, 9, scale=1))
        bar.move_to(10)

    assert capsys.readouterr() == ("", "")


def test_progress_bar_with_lines_prints_one_per_scale_without_a_terminal(capsys, clock):
    with ProgressBar(lines=True) as bar:
        bar(progress(1, 1))
        clock[0] += 2
        bar(progress(2, 4, scale=1))
        bar(progress(5, 6, scale=1))

    line = "tfstyle: step 4 of 10, 6×4, loss 0.25, 2 s\n"
    assert capsys.readouterr() == ("", line)


def test_progress_bar_with_lines_prints_one_every_30_seconds(capsys, clock):
    with ProgressBar("frame", lines=True) as bar:
        for frame in range(1, 9):
            clock[0] += 10
            bar(film_progress(frame, None, 0.5))

    assert capsys.readouterr().err.splitlines() == [
        "tfstyle: frame 3, 6×4, flicker 0.5, 30 s",
        "tfstyle: frame 6, 6×4, flicker 0.5, 60 s",
    ]


def test_progress_bar_with_lines_tells_of_a_folder(capsys, clock):
    with ProgressBar("picture", total=4, lines=True) as bar:
        clock[0] += 31
        bar.move_to(2)

    assert capsys.readouterr().err == "tfstyle: picture 2 of 4, 31 s\n"


def test_progress_bar_of_a_folder_is_told_how_many_there_are(
    open_terminal, capsys, clock
):
    with ProgressBar("picture", lines=True) as bar:
        clock[0] += 31
        bar.move_to(2)
        clock[0] += 31
        bar.move_to(3, 4)
    terminal = open_terminal()
    with ProgressBar("picture") as bar:
        bar.move_to(1, 4)
        assert "1/4 pictures" in terminal.getvalue()

    assert capsys.readouterr().err.splitlines() == [
        "tfstyle: picture 2, 31 s",
        "tfstyle: picture 3 of 4, 62 s",
    ]


def test_progress_bar_with_lines_prints_none_on_a_terminal(open_terminal, clock):
    terminal = open_terminal()
    with ProgressBar(lines=True) as bar:
        bar(progress(1, 1))
        clock[0] += 31
        bar(progress(2, 5, scale=1))

    assert "\n" not in terminal.getvalue()


def test_progress_bar_of_a_run_that_never_began(capsys):
    with ProgressBar(lines=True):
        pass

    assert capsys.readouterr() == ("", "")


def test_print_message_stands_on_a_line_above_the_bar(open_terminal):
    terminal = open_terminal()
    with ProgressBar() as bar:
        bar(progress(1, 5))
        print_message("a message")

    text = terminal.getvalue()
    assert "\ra message\n" in text
    assert "50%" in text.rpartition("a message\n")[2]  # the bar is drawn again


def test_print_message_without_a_bar(capsys):
    print_message("a message")

    assert capsys.readouterr() == ("", "a message\n")


def test_warnings_stand_on_a_line_above_the_bar(open_terminal):
    terminal = open_terminal()
    logger = logging.getLogger("tfstyle")
    before = list(logger.handlers)
    with ProgressBar() as bar:
        bar(progress(1, 5))
        logger.warning("a warning")

    assert "\ra warning\n" in terminal.getvalue()
    assert logger.handlers == before


def test_callbacks_let_the_run_go_on(tmp_path):
    for callback in (ProgressBar(), Snapshots(tmp_path, 1), TensorBoard(tmp_path)):
        assert callback(progress(1, 1)) is None


def test_snapshots_are_written_when_due_and_at_the_end(tmp_path):
    snapshots = Snapshots(tmp_path / "new" / "folder", 4)
    for first, last in ((1, 1), (2, 3), (4, 5), (6, 7), (8, 8), (9, 10)):
        snapshots(progress(first, last))

    files = sorted((tmp_path / "new" / "folder").iterdir())
    names = ["step_00005.png", "step_00008.png", "step_00010.png"]
    assert [file.name for file in files] == names
    assert load_image(files[0]).shape == (1, 4, 6, 3)
    np.testing.assert_allclose(load_image(files[0]), 0.5, atol=1 / 255)


def test_snapshots_of_a_run_that_ends_early_have_its_last_picture(tmp_path):
    snapshots = Snapshots(tmp_path, 50)
    snapshots(progress(1, 2))
    snapshots(progress(3, 7))
    assert not list(tmp_path.iterdir())
    snapshots.close()
    snapshots.close()

    assert [file.name for file in tmp_path.iterdir()] == ["step_00007.png"]


def test_snapshot_that_cannot_be_written_is_told(tmp_path):
    snapshots = Snapshots(tmp_path / "folder", 1)
    (tmp_path / "folder").rmdir()

    with pytest.raises(TfstyleError, match="folder does not exist"):
        snapshots(progress(1, 1))


class Failing:
    """A callback that fails to write from a step on."""

    def __init__(self, step: int, error: Exception):
        self.step, self.error, self.called = step, error, []

    def __call__(self, progress: Progress) -> bool:
        self.called.append(progress.step)
        if progress.step >= self.step:
            raise self.error
        return True

    def close(self) -> None:
        self.called.append("close")


@pytest.mark.parametrize(
    "error", [OSError("full\ndisk"), TfstyleError("full disk"), "full disk"]
)
def test_best_effort_goes_on_without_a_callback_that_fails(error, caplog):
    if isinstance(error, str):
        error = tf.errors.ResourceExhaustedError(None, None, error)
    failing = Failing(2, error)
    with BestEffort(failing, "pictures") as callback:
        assert callback(progress(1, 1)) is True
        for step in (2, 3):
            assert callback(progress(step, step)) is None

    assert failing.called == [1, 2]
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["the run goes on without pictures: full disk"]


def test_best_effort_closes_its_callback(tmp_path):
    with BestEffort(Snapshots(tmp_path, 50), "snapshots") as callback:
        callback(progress(1, 3))

    assert [file.name for file in tmp_path.iterdir()] == ["step_00003.png"]


def test_best_effort_survives_a_callback_that_cannot_be_closed(tmp_path, caplog):
    with BestEffort(Snapshots(tmp_path / "folder", 50), "snapshots") as callback:
        callback(progress(1, 3))
        (tmp_path / "folder").rmdir()

    assert "goes on without snapshots" in caplog.records[0].getMessage()


def test_best_effort_writes_nothing_after_a_second_interrupt():
    failing = Failing(9, OSError())
    with pytest.raises(SystemExit), BestEffort(failing, "pictures") as callback:
        callback(progress(1, 1))
        raise SystemExit(130)

    assert failing.called == [1]


def test_best_effort_does_not_hide_other_errors():
    callback = BestEffort(Failing(1, KeyError("bug")), "pictures")
    with pytest.raises(KeyError):
        callback(progress(1, 1))


def read_events(folder):
    """Values by tag and step, as TensorBoard finds them: (plugin, tensor)."""
    values = {}
    for file in sorted(folder.glob("events*")):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                plugin = value.metadata.plugin_data.plugin_name
                found = tf.make_ndarray(value.tensor)
                values.setdefault(value.tag, {})[event.step] = (plugin, found)
    return values


def test_tensorboard_has_every_term_of_every_step(tmp_path):
    board = TensorBoard(tmp_path)
    board(progress(1, 3))
    board(progress(4, 10))

    events = read_events(tmp_path)
    assert set(events) == {"total", "content/a", "style/b", "picture"}
    assert list(events["style/b"]) == list(range(1, 11))
    assert {plugin for plugin, _ in events["total"].values()} <= {"scalars", ""}
    assert events["total"][1][0] == "scalars"
    np.testing.assert_allclose(events["content/a"][8][1], 0.75 / 8, rtol=1e-6)


def test_tensorboard_of_a_run_that_ends_early_has_its_last_picture(tmp_path):
    board = TensorBoard(tmp_path)
    board(progress(1, 3))
    board(progress(4, 7))
    board.close()

    assert list(read_events(tmp_path)["picture"]) == [3, 7]


def test_tensorboard_has_all_pictures_of_a_batch(tmp_path):
    pictures = np.linspace(0, 1, 5 * 4 * 6 * 3).reshape(5, 4, 6, 3)
    TensorBoard(tmp_path)(progress(1, 1, image=lambda: pictures))

    _, (_, _, *found) = read_events(tmp_path)["picture"][1]
    decoded = np.stack([tf.io.decode_png(png).numpy() for png in found])
    np.testing.assert_array_equal(decoded, np.rint(pictures * 255))


def test_tensorboard_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)

    with pytest.raises(MissingExtraError, match=r"tfstyle\[tensorboard\]"):
        TensorBoard(tmp_path)


def test_tensorboard_has_the_first_and_the_last_picture(tmp_path):
    board = TensorBoard(tmp_path)
    for step in range(1, 11):
        board(progress(step, step))

    pictures = read_events(tmp_path)["picture"]
    assert list(pictures) == [1, 10]
    plugin, (width, height, png) = pictures[1]
    assert (plugin, width, height) == ("images", b"6", b"4")
    assert (tf.io.decode_png(png).numpy() == 26).all()  # 0.1 of 255, rounded
