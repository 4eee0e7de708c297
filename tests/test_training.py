"""Tests of tfstyle/training.py."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import draw

import tfstyle
from tfstyle.errors import TfstyleError, UsageError
from tfstyle.networks import training
from tfstyle.networks.style_net import load_network
from tfstyle.networks.training import train
from tfstyle.optimizers.loop import NonFiniteLossError

TINY = {
    "size": 32,
    "style_size": 40,
    "batch_size": 2,
    "width": 4,
    "blocks": 1,
    "warmup_steps": 0,
    "sample_steps": (),
}


@pytest.fixture
def photos(tmp_path):
    """Eight small pictures in a folder."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(8):
        picture = draw(48, 60, (40 - 3 * i, 20 + 2 * i, 30 + i))
        tfstyle.save_image(picture, folder / f"{i}.png")
    return folder


STYLES = {"fine": draw(40, 40, (4, 5, 7)), "wide": draw(40, 40, (20, 30, 9)) ** 2}


def run(photos, output, **options):
    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    return train(photos, STYLES, output, **{**TINY, **options})


def unstarted(photos, output, **options):
    chosen = tfstyle.TrainingOptions(**{**TINY, **options})
    strategy = tf.distribute.get_strategy()
    return training._Training(photos, STYLES, output, (), strategy, chosen)


def test_a_network_learns(photos, tmp_path, tiny_backbone):
    result = run(photos, tmp_path / "run", steps=60, learning_rate=0.01)
    total = result.history["total"]
    assert result.history["step"] == list(range(1, 61))
    assert np.mean(total[-5:]) < 0.6 * np.mean(total[:3])
    terms = [result.history[name] for name in list(result.history)[3:]]
    np.testing.assert_allclose(np.sum(terms, 0), total, rtol=1e-4)
    assert not result.stopped
    # The styles have been told apart.
    picture = draw(40, 40, (20, 30, 25))
    fine, wide = (tfstyle.apply_style(picture, s, model=result.network) for s in STYLES)
    assert np.abs(fine - wide).mean() > 0.02


def test_the_folder_has_all_that_was_promised(photos, tmp_path, tiny_backbone):
    output = tmp_path / "run"
    result = run(photos, output, steps=4, sample_steps=(2,), checkpoint_every=2)
    loaded = load_network(output)
    assert loaded.style_names == ["fine", "wide"]
    for a, b in zip(loaded.get_weights(), result.network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with (output / "history.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == list(result.history)
    assert [float(row[2]) for row in rows[1:]] == result.history["total"]
    assert json.loads((output / "training.json").read_text())["styles"] == [*STYLES]
    samples = sorted(file.name for file in (output / "samples").iterdir())
    assert samples == [
        f"step_{step:06d}_{name}.png" for step in (2, 4) for name in STYLES
    ]
    assert tfstyle.load_image(output / "progress.png").shape[1] > 100
    assert not list(output.glob(".tfstyle*"))


def test_a_run_that_was_stopped_goes_on_bit_for_bit(photos, tmp_path, tiny_backbone):
    options = {"steps": 7, "checkpoint_every": 3}
    whole = run(photos, tmp_path / "whole", **options)
    first = run(
        photos, tmp_path / "parts", callbacks=[lambda p: p.step >= 3], **options
    )
    assert first.stopped
    assert first.history["step"][-1] < 7
    second = run(photos, tmp_path / "parts", **options)
    assert second.history == whole.history
    for a, b in zip(
        second.network.get_weights(), whole.network.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_rows_after_the_checkpoint_are_not_kept(photos, tmp_path, tiny_backbone):
    output, options = tmp_path / "run", {"steps": 4, "checkpoint_every": 2}
    whole = run(photos, output, **options)
    # As if it had been killed after step 3, in the middle of a line.
    (output / "checkpoint" / "checkpoint").write_text(
        'model_checkpoint_path: "ckpt-2"\nall_model_checkpoint_paths: "ckpt-2"\n'
    )
    lines = (output / "history.csv").read_text().splitlines()
    (output / "history.csv").write_text("\n".join([*lines[:4], lines[4][:9]]))
    assert run(photos, output, **options).history == whole.history


def test_a_finished_run_has_nothing_left_to_do(photos, tmp_path, tiny_backbone):
    first = run(photos, tmp_path / "run", steps=2)
    again = run(photos, tmp_path / "run", steps=2)
    assert again.history == first.history


def test_more_steps_go_on_with_a_finished_run(photos, tmp_path, tiny_backbone):
    first = run(photos, tmp_path / "run", steps=2)
    more = run(photos, tmp_path / "run", steps=4)
    assert more.history["step"] == [1, 2, 3, 4]
    assert more.history["total"][:2] == first.history["total"]


def test_other_options_are_refused(photos, tmp_path, tiny_backbone):
    output = tmp_path / "run"
    run(photos, output, steps=1)
    with pytest.raises(UsageError, match=r"other settings: width \(4, now"):
        run(photos, output, steps=1, width=5)
    with pytest.raises(UsageError, match=r"\(styles was \['fine', 'wide'\] and is"):
        train(photos, {"fine": STYLES["fine"]}, output, **TINY)


def test_a_foreign_checkpoint_is_refused(photos, tmp_path, tiny_backbone):
    output = tmp_path / "run"
    run(photos, output, steps=1)
    (output / "training.json").unlink()
    with pytest.raises(UsageError, match=r"ckpt-1: not a checkpoint of such a network"):
        run(photos, output, steps=1, width=5)


def test_the_mean_of_weights_is_the_formula(photos, tmp_path, tiny_backbone):
    made = unstarted(photos, tmp_path / "run", steps=3, ema=0.2)
    batches = iter(made.strategy.distribute_datasets_from_function(made._dataset))
    mean = made.averaged.get_weights()[0]
    for step in (1, 2, 3):
        made._train_step(next(batches))
        decay = min(0.2, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * made.network.get_weights()[0]
        np.testing.assert_allclose(made.averaged.get_weights()[0], mean, atol=1e-6)


def test_each_step_has_every_style_in_turns(photos, tmp_path, tiny_backbone):
    made = unstarted(photos, tmp_path / "run", steps=3, batch_size=3)
    batches = list(made.strategy.distribute_datasets_from_function(made._dataset))
    assert [batch[2].numpy().tolist() for batch in batches] == [
        [0, 1, 0],
        [1, 0, 1],
        [0, 1, 0],
    ]
    # The content that is wanted has the style's colours.
    photo, content, style = (part[0].numpy() for part in batches[0])
    wanted = tfstyle.images.color.match_colors(photo, STYLES[[*STYLES][style]])
    np.testing.assert_allclose(content, wanted, atol=1e-6)
    assert np.abs(content - photo).mean() > 0.01


def test_unreadable_photographs_are_counted(photos, tmp_path, tiny_backbone, caplog):
    (photos / "5.png").write_bytes(b"no picture")
    result = run(photos, tmp_path / "run", steps=6)
    assert [file.name for file in result.unreadable] == ["5.png"]
    assert caplog.text.count("skipped: ") == 1


def test_photographs_of_no_use_are_refused(photos, tmp_path, tiny_backbone):
    files = sorted(photos.iterdir())
    for file in files[1:]:
        file.write_bytes(b"no picture")
    with pytest.raises(UsageError, match="none of the 7 photographs can be read"):
        run(photos, tmp_path / "first", steps=1)  # one is to look at
    for file in files:
        file.write_bytes(b"no picture")
    with pytest.raises(UsageError, match="none of the 8 photographs can be read"):
        run(photos, tmp_path / "other", steps=1)
    style = STYLES["fine"]
    with pytest.raises(UsageError, match="none of the 8 photographs can be read"):
        run(photos, tmp_path / "third", steps=1, test_photo=style)


def test_a_loss_of_nan_ends_the_run(photos, tmp_path, tiny_backbone):
    output = tmp_path / "run"
    run(photos, output, steps=1)
    with pytest.raises(NonFiniteLossError, match="the loss became NaN"):
        run(photos, tmp_path / "other", steps=50, learning_rate=1e30)
    assert not (tmp_path / "other" / "model.keras").exists()


def test_a_full_disk_is_told_and_the_last_checkpoint_kept(
    photos, tmp_path, tiny_backbone, monkeypatch
):
    output = tmp_path / "run"
    run(photos, output, steps=2)

    def full(*args, **kwargs):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.train.CheckpointManager, "save", full)
    with pytest.raises(TfstyleError, match=r"step 3 could not be written \(No space"):
        run(photos, output, steps=3)
    monkeypatch.undo()
    assert load_network(output)
    assert (output / "checkpoint" / "ckpt-2.index").exists()


def test_wrong_requests_are_refused(photos, tmp_path, tiny_backbone):
    with pytest.raises(UsageError, match="no style picture: give at least one"):
        train(photos, {}, tmp_path / "run", **TINY)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="there is no picture in this folder"):
        train(tmp_path / "empty", STYLES, tmp_path / "run", **TINY)


def test_bfloat16_trains_too(photos, tmp_path, tiny_backbone):
    result = run(photos, tmp_path / "run", steps=2, precision="bfloat16")
    assert np.isfinite(result.history["total"]).all()
    assert load_network(tmp_path / "run").compute_dtype == "float32"


PROGRAM = [sys.executable, "-m", "tfstyle.cli.main", "train"]
SLIM = [
    "--size=32",
    "--style_size=48",
    "--batch_size=2",
    "--width=4",
    "--blocks=1",
    "--style_layers=relu1_1,relu2_1",
    "--content_layers=relu2_1",
    "--checkpoint_every=5",
    "--sample_steps=",
]


def command(photos, tmp_path, output, steps, *words):
    style = tmp_path / "fine.png"
    tfstyle.save_image(STYLES["fine"], style)
    return [
        *PROGRAM,
        f"--photos={photos}",
        f"--style={style}",
        f"--output={tmp_path / output}",
        f"--steps={steps}",
        *SLIM,
        *words,
    ]


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_with_the_same_curve(photos, tmp_path):
    subprocess.run(command(photos, tmp_path, "whole", 40), check=True)
    killed = subprocess.Popen(command(photos, tmp_path, "killed", 40))
    while not list((tmp_path / "killed").glob("checkpoint/*-10.index")):
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    subprocess.run(command(photos, tmp_path, "killed", 40), check=True)
    whole, again = (
        (tmp_path / name / "history.csv").read_text() for name in ("whole", "killed")
    )
    assert again == whole


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def start_workers(words):
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    environments = [
        {
            **os.environ,
            "TF_CONFIG": json.dumps(
                {
                    "cluster": {"worker": workers},
                    "task": {"type": "worker", "index": index},
                }
            ),
        }
        for index in range(2)
    ]
    return [
        subprocess.Popen([*words, "--strategy=multiworker"], env=environment)
        for environment in environments
    ]


@pytest.mark.slow
def test_two_workers_do_what_one_does_and_resume(photos, tmp_path):
    subprocess.run(command(photos, tmp_path, "one", 20), check=True)
    words = command(photos, tmp_path, "two", 20)
    workers = start_workers(words)
    while not list((tmp_path / "two").glob("checkpoint/*-10.index")):
        assert all(worker.poll() is None for worker in workers)
        time.sleep(0.02)
    workers[1].send_signal(signal.SIGKILL)
    time.sleep(1)
    workers[0].kill()
    for worker in workers:
        worker.wait()
    assert [worker.wait(timeout=300) for worker in start_workers(words)] == [0, 0]
    curves = [
        np.loadtxt(tmp_path / name / "history.csv", delimiter=",", skiprows=1)
        for name in ("one", "two")
    ]
    assert curves[1].shape == curves[0].shape
    np.testing.assert_allclose(curves[1][:, 2], curves[0][:, 2], rtol=2e-3)
    assert load_network(tmp_path / "two").style_names == ["fine"]


@pytest.mark.slow
def test_two_devices_do_what_one_does(photos, tmp_path):
    program = f"""
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import tfstyle
for name, strategy in (("one", None), ("two", tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"]))):
    tfstyle.train({str(photos)!r}, {{"fine": {str(tmp_path / "fine.png")!r}}},
        {str(tmp_path)!r} + "/" + name, strategy=strategy, steps=8, size=32,
        style_size=48, batch_size=4, width=4, blocks=1, sample_steps=(),
        style_layers=["relu1_1", "relu2_1"], content_layers=["relu2_1"])
"""
    tfstyle.save_image(STYLES["fine"], tmp_path / "fine.png")
    subprocess.run([sys.executable, "-c", program], check=True)
    one, two = (
        np.loadtxt(tmp_path / name / "history.csv", delimiter=",", skiprows=1)
        for name in ("one", "two")
    )
    np.testing.assert_allclose(two[:, 2], one[:, 2], rtol=2e-3)
