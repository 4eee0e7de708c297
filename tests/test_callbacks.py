import io
import sys

import numpy as np
import pytest
import tensorflow as tf

from tfstyle.errors import TfstyleError
from tfstyle.images import load_image
from tfstyle.monitoring.callbacks import ProgressBar, Snapshots, TensorBoard
from tfstyle.optimizers.progress import Progress


def progress(first: int, last: int, steps: int = 10) -> Progress:
    """A report of the steps from ``first`` to ``last``, of loss 1/step."""
    row_steps = np.arange(first, last + 1)
    rows = np.stack([1 / row_steps, 0.75 / row_steps, 0.25 / row_steps], axis=1)
    return Progress(
        step=last,
        steps=steps,
        scale=0,
        scales=1,
        columns=("total", "content/a", "style/b"),
        rows=rows.astype("float32"),
        row_steps=row_steps,
        seconds=0.1 * last,
        size=(4, 6),
        image=lambda: np.full((1, 4, 6, 3), last / steps, "float32"),
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bar_shows_size_steps_loss_and_time_left(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    with ProgressBar() as bar:
        bar(progress(1, 1))
        bar._bar.mininterval = 0
        bar(progress(2, 5))

    last = terminal.getvalue().split("\r")[2]
    assert "6×4" in last and "50%" in last and "5/10" in last
    assert "loss 0.2" in last and "left" in last
    assert terminal.getvalue().endswith("\r")  # the bar has been wiped away


def test_progress_bar_keeps_silent_without_a_terminal(capsys):
    with ProgressBar() as bar:
        bar(progress(1, 1))
        bar(progress(2, 10))

    assert capsys.readouterr() == ("", "")


def test_progress_bar_of_a_run_that_never_began(capsys):
    with ProgressBar():
        pass

    assert capsys.readouterr() == ("", "")


def test_callbacks_let_the_run_go_on(tmp_path):
    for callback in (ProgressBar(), Snapshots(tmp_path, 1), TensorBoard(tmp_path)):
        assert callback(progress(1, 1)) is None


def test_snapshots_are_written_when_due(tmp_path):
    snapshots = Snapshots(tmp_path / "new" / "folder", 4)
    for first, last in ((1, 1), (2, 3), (4, 5), (6, 7), (8, 8), (9, 10)):
        snapshots(progress(first, last))

    files = sorted((tmp_path / "new" / "folder").iterdir())
    assert [file.name for file in files] == ["step_00005.png", "step_00008.png"]
    assert load_image(files[0]).shape == (1, 4, 6, 3)
    np.testing.assert_allclose(load_image(files[0]), 0.5, atol=1 / 255)


def test_snapshot_that_cannot_be_written_is_told(tmp_path):
    snapshots = Snapshots(tmp_path / "folder", 1)
    (tmp_path / "folder").rmdir()

    with pytest.raises(TfstyleError, match="folder does not exist"):
        snapshots(progress(1, 1))


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


def test_tensorboard_has_the_first_and_the_last_picture(tmp_path):
    board = TensorBoard(tmp_path)
    for step in range(1, 11):
        board(progress(step, step))

    pictures = read_events(tmp_path)["picture"]
    assert list(pictures) == [1, 10]
    plugin, (width, height, png) = pictures[1]
    assert (plugin, width, height) == ("images", b"6", b"4")
    assert (tf.io.decode_png(png).numpy() == 26).all()  # 0.1 of 255, rounded
