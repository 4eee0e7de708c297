"""Tests of runs that go on where they were interrupted."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import tfstyle
from tfstyle.errors import TfstyleError, UsageError
from tfstyle.optimizers import loop as optimize
from tfstyle.stylizer import Stylizer
from tfstyle.stylizer import checkpoint as checkpoints
from tfstyle.stylizer.checkpoint import Checkpoint, State, identity

OPTIONS = {"scales": 2, "steps": (9, 12), "margin": 2}


@pytest.fixture(autouse=True)
def reported_often(monkeypatch):
    monkeypatch.setattr(optimize, "_MOST_STEPS_PER_CALL", 2)


def stop_at(step):
    return [lambda progress: progress.step >= step]


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_stopped_run_goes_on_bit_for_bit(
    tiny_backbone, tmp_path, content, style, optimizer
):
    options = {**OPTIONS, "optimizer": optimizer}
    stylizer = Stylizer(**options)
    whole = stylizer(content, style)
    for stop in (3, 9, 14):  # within each scale, and between them
        stopped = stylizer(content, style, callbacks=stop_at(stop), checkpoint=tmp_path)
        assert stopped.stopped and stopped.history["step"][-1] < 21
    steps = []
    result = tfstyle.stylize(
        content,
        style,
        callbacks=[lambda progress: steps.append(progress.step)],
        checkpoint=tmp_path,
        **options,
    )
    assert steps[0] > 14  # what is done is not done again
    np.testing.assert_array_equal(result.images, whole.images)
    assert result.history == whole.history
    assert not result.stopped


def test_a_finished_run_is_not_run_again(tiny_backbone, tmp_path, content, style):
    first = tfstyle.stylize(content, style, checkpoint=tmp_path, **OPTIONS)

    def never(progress):
        raise AssertionError("a step was made")

    again = tfstyle.stylize(
        content, style, callbacks=[never], checkpoint=tmp_path, **OPTIONS
    )
    np.testing.assert_array_equal(again.images, first.images)
    assert again.history == first.history
    assert again.seconds >= first.seconds - 0.5


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"style_weight": 2.0}, r"style_weight \(1.0, now 2.0\); give the same"),
        ({"tv_weight": 0.1, "seed": 3}, r"tv_weight .*, seed \(0, now 3\); give"),
        ({"steps": (9, 13)}, r"steps \(9,12, now 9,13\)"),
    ],
)
def test_a_checkpoint_of_other_flags_is_refused(
    tiny_backbone, tmp_path, content, style, changed, said
):
    tfstyle.stylize(
        content, style, callbacks=stop_at(2), checkpoint=tmp_path, **OPTIONS
    )
    before = (tmp_path / "run.npz").read_bytes()
    with pytest.raises(UsageError, match=said):
        tfstyle.stylize(content, style, checkpoint=tmp_path, **{**OPTIONS, **changed})
    assert (tmp_path / "run.npz").read_bytes() == before


@pytest.mark.parametrize("which", ["content", "style"])
def test_a_checkpoint_of_other_pictures_is_refused(
    tiny_backbone, tmp_path, content, style, which
):
    pictures = {"content": content, "style": style}
    options = {**OPTIONS, "color": "free", "checkpoint": tmp_path}
    tfstyle.stylize(**pictures, callbacks=stop_at(2), **options)
    pictures[which] = np.ascontiguousarray(pictures[which][:, ::-1])
    with pytest.raises(UsageError, match=f"other settings: {which}[,;]"):
        tfstyle.stylize(**pictures, **options)


def a_run(content, style):
    stylizer = Stylizer(**OPTIONS)
    return stylizer.options, stylizer.read(content, style)


def a_state():
    variables = [np.arange(6.0), np.array(7)]
    neighbors = np.arange(6, dtype="int32").reshape(1, 2, 3, 1)
    return State(1, False, 2.5, np.ones((3, 4)), variables, neighbors)


def test_what_is_saved_is_read_again(tmp_path, content, style):
    kept = Checkpoint(tmp_path / "new", *a_run(content, style), 30.0)
    assert kept.load() is None
    kept.save(a_state())
    found = kept.load()
    assert (found.scale, found.finished) == (1, False)
    assert found.seconds == 2.5
    np.testing.assert_array_equal(found.rows, np.ones((3, 4)))
    np.testing.assert_array_equal(found.neighbors.ravel(), np.arange(6))
    assert [v.tolist() for v in found.variables] == [[0, 1, 2, 3, 4, 5], 7]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["run.npz"]


@pytest.mark.parametrize("name", ["tfstyle", "tensorflow", "format"])
def test_another_version_is_refused(tmp_path, content, style, name, monkeypatch):
    a = a_run(content, style)
    Checkpoint(tmp_path, *a, 30.0).save(a_state())
    other = {**identity(*a), name: "0.0.1"}
    monkeypatch.setattr(checkpoints, "identity", lambda *_: other)
    with pytest.raises(UsageError, match=f"{name} .*, now 0.0.1.*; go on with"):
        Checkpoint(tmp_path, *a, 30.0).load()


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_told_of(tmp_path, content, style, damage):
    kept = Checkpoint(tmp_path, *a_run(content, style), 30.0)
    kept.save(a_state())
    whole = kept.file.read_bytes()
    kept.file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with pytest.raises(TfstyleError, match="damaged; delete it to start afresh"):
        kept.load()


def test_a_pickle_is_not_run(tmp_path, content, style):
    kept = Checkpoint(tmp_path, *a_run(content, style), 30.0)

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    np.savez(kept.file, facts=np.array([Trap()], object))
    with pytest.raises(TfstyleError, match="damaged"):
        kept.load()
    assert not (tmp_path / "trapped").exists()


def test_a_full_disk_does_not_end_the_run(
    tmp_path, content, style, monkeypatch, caplog
):
    kept = Checkpoint(tmp_path, *a_run(content, style), 30.0)
    kept.save(a_state())
    before = kept.file.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    kept.save(a_state())
    kept.save(a_state())
    assert [record.getMessage() for record in caplog.records] == [
        f"{kept.file}: could not be written: [Errno 28] No space left on device; the "
        "run goes on without checkpoints until that is fixed"
    ]
    assert kept.file.read_bytes() == before


def test_writing_takes_a_tenth_of_the_time_at_most(
    tmp_path, content, style, monkeypatch
):
    kept = Checkpoint(tmp_path, *a_run(content, style), 1.0)
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    savez = np.savez

    def slow(*arguments, **arrays):
        now[0] += 4.0
        savez(*arguments, **arrays)

    monkeypatch.setattr(np, "savez", slow)
    kept.save(a_state())
    now[0] += 39.9
    assert not kept.due
    now[0] += 0.2
    assert kept.due


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, content, style):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"checkpoint=.*file/x: the folder cannot be"):
        Checkpoint(tmp_path / "file" / "x", *a_run(content, style), 30.0)


def test_a_killed_command_goes_on_to_the_same_bytes(folder):
    words = ["--content=content.png", "--style=style.png", "--steps=60,400"]
    words += ["--scales=2", "--optimizer=lbfgs", "--checkpoint_every=0.05"]
    words += ["--style_layers=relu1_1,relu2_1", "--content_layers=relu2_1"]
    words += ["--style_loss=gram"]
    resumed = [sys.executable, "-m", "tfstyle", "stylize", *words]
    resumed += ["--output=out.png", "--checkpoint=kept", "--report=out.json"]
    killed = subprocess.Popen(resumed, stderr=subprocess.DEVNULL)
    while killed.poll() is None and not (folder / "kept" / "run.npz").exists():
        time.sleep(0.02)
    time.sleep(random.uniform(0.0, 1.0))
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (folder / "out.png").exists()
    # Then the same without an interruption, for which TensorFlow is not loaded anew.
    whole = ["stylize", *words, "--output=whole.png"]
    both = f"sys.exit(main({resumed[3:]}) or main({whole}))"
    code = f"import sys; from tfstyle.cli.main import main; {both}"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert (folder / "out.png").read_bytes() == (folder / "whole.png").read_bytes()
    steps = json.loads((folder / "out.json").read_text())["history"]["step"]
    assert steps == sorted(set(steps)) and steps[0] == 1
