"""Tests of tfstyle/networks/training.py."""

import csv
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import tensorflow as tf
from conftest import draw, use_tiny_backbone

import tfstyle
from tfstyle.errors import NonFiniteLossError, TfstyleError, UsageError
from tfstyle.losses import perceptual as losses
from tfstyle.networks import training
from tfstyle.networks.any_style import AnyStyleNet
from tfstyle.networks.style_net import load_network
from tfstyle.networks.training import train
from tfstyle.networks.training_folder import TrainingFolder

TINY = {
    "size": 32,
    "style_size": 40,
    "batch_size": 2,
    "width": 4,
    "blocks": 1,
    "warmup_steps": 0,
    "sample_steps": (),
}
STEPS = {"steps": 120, "checkpoint_every": 50, "learning_rate": 0.01}
STYLES = {"fine": draw(40, 40, (4, 5, 7)), "wide": draw(40, 40, (20, 30, 9)) ** 2}


@pytest.fixture(scope="module", autouse=True)
def tiny_backbone():
    with pytest.MonkeyPatch.context() as patch:
        yield use_tiny_backbone(patch)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eight small pictures in a folder, one of them damaged."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(8):
        picture = draw(48, 60, (40 - 3 * i, 20 + 2 * i, 30 + i))
        tfstyle.save_image(picture, folder / f"{i}.png")
    (folder / "5.png").write_bytes(b"no picture")
    return folder


def run(photos, output, **options):
    return train(photos, STYLES, output, **{**TINY, **options})


class Finished:
    """A finished training, its folder, what it reported, and what it logged."""

    def __init__(self, photos, output):
        handler = logging.Handler()
        self.output, self.warnings, self.reported = output, [], []
        handler.emit = lambda record: self.warnings.append(record.getMessage())
        logging.getLogger("tfstyle").addHandler(handler)
        try:
            self.result = run(
                photos,
                output,
                sample_steps=(2,),
                callbacks=[self.reported.append],
                **STEPS,
            )
        finally:
            logging.getLogger("tfstyle").removeHandler(handler)

    def copy(self, path):
        return shutil.copytree(self.output, path)


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    return Finished(photos, tmp_path_factory.mktemp("finished") / "run")


def assert_same(result, wanted):
    assert result.history == wanted.history
    for a, b in zip(
        result.network.get_weights(), wanted.network.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_train_learns_every_style(finished):
    result = finished.result
    total = result.history["total"]
    assert result.history["step"] == list(range(1, 121))
    assert np.mean(total[-5:]) < 0.6 * np.mean(total[:3])
    terms = [result.history[name] for name in list(result.history)[3:]]
    np.testing.assert_allclose(np.sum(terms, 0), total, rtol=1e-4)
    assert not result.stopped
    picture = draw(40, 40, (20, 30, 25))
    fine, wide = (result.network.stylize(picture, style) for style in STYLES)
    assert np.abs(fine - wide).mean() > 0.02


def test_train_fills_its_folder(finished):
    output, result = finished.output, finished.result
    loaded = load_network(output)
    assert loaded.style_names == ["fine", "wide"]
    for a, b in zip(loaded.get_weights(), result.network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with (output / "history.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == list(result.history)
    assert [float(row[2]) for row in rows[1:]] == result.history["total"]
    assert json.loads((output / "training.json").read_text())["styles"] == [*STYLES]
    names = {path.name for path in output.iterdir()}
    assert names == {"model.keras", "checkpoint", "history.csv", "training.json"}


def test_train_reports_at_sample_steps_and_checkpoints(finished, photos):
    reported = finished.reported
    assert {2, 50, 100, 120} <= {progress.step for progress in reported}
    last = reported[-1]
    assert last.columns == tuple(finished.result.history)[2:]
    steps = np.concatenate([progress.row_steps for progress in reported])
    assert steps.tolist() == list(range(1, 121))
    photo = tfstyle.load_image(photos / "0.png")  # the first, which is held out
    wanted = [finished.result.network.stylize(photo, name) for name in STYLES]
    np.testing.assert_array_equal(last.image(), wanted)


def test_train_counts_unreadable_photographs(finished):
    assert [file.name for file in finished.result.unreadable] == ["5.png"]
    assert [line.split(":")[0] for line in finished.warnings] == ["skipped"]


def test_train_goes_on_bit_for_bit_with_a_run_that_was_stopped(
    finished, photos, tmp_path
):
    stop = {"callbacks": [lambda progress: progress.step >= 50]}
    first = run(photos, tmp_path, **STEPS, **stop)
    assert first.stopped
    assert 50 <= first.history["step"][-1] < 120
    assert_same(run(photos, tmp_path, **STEPS), finished.result)


def test_train_drops_rows_after_the_checkpoint(finished, photos, tmp_path):
    output = finished.copy(tmp_path / "run")
    # As if it had been killed after step 103, in the middle of a line.
    (output / "checkpoint" / "checkpoint").write_text(
        'model_checkpoint_path: "ckpt-100"\nall_model_checkpoint_paths: "ckpt-100"\n'
    )
    lines = (output / "history.csv").read_text().splitlines()
    (output / "history.csv").write_text("\n".join([*lines[:104], lines[104][:9]]))
    assert_same(run(photos, output, **STEPS), finished.result)


def test_train_has_nothing_to_do_where_a_run_is_finished(finished, photos, tmp_path):
    output = finished.copy(tmp_path / "run")
    assert_same(run(photos, output, **STEPS), finished.result)


def test_train_goes_on_where_there_are_more_steps(finished, photos, tmp_path):
    output = finished.copy(tmp_path / "run")
    more = run(photos, output, **{**STEPS, "steps": 122})
    assert more.history["step"] == list(range(1, 123))
    assert more.history["total"][:120] == finished.result.history["total"]


def test_train_refuses_the_folder_of_other_options(finished, photos):
    with pytest.raises(UsageError, match=r"other settings: width \(4, now 5"):
        run(photos, finished.output, **STEPS, width=5)
    with pytest.raises(UsageError, match=r"styles \(\['fine', 'wide'\], now \["):
        train(photos, {"fine": STYLES["fine"]}, finished.output, **TINY, **STEPS)


def test_train_refuses_a_foreign_checkpoint(finished, photos, tmp_path):
    output = finished.copy(tmp_path / "run")
    (output / "training.json").unlink()
    with pytest.raises(UsageError, match=r"ckpt-120: not a checkpoint of such a netw"):
        run(photos, output, **STEPS, width=5)


def test_train_keeps_the_last_checkpoint_where_the_disk_is_full(
    finished, photos, tmp_path, monkeypatch
):
    output = finished.copy(tmp_path / "run")

    def full(*args, **kwargs):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.train.CheckpointManager, "save", full)
    with pytest.raises(TfstyleError, match=r"step 121 could not be written \(No space"):
        run(photos, output, **{**STEPS, "steps": 121})
    assert load_network(output)
    assert (output / "checkpoint" / "ckpt-120.index").exists()


def test_train_averages_weights_by_the_formula(photos, tmp_path):
    options = tfstyle.TrainingOptions(**TINY, steps=3, ema=0.2)
    one_device = tf.distribute.get_strategy()
    made = training._Training(photos, STYLES, tmp_path, None, None, one_device, options)
    batches = iter(made._dataset())
    mean = made.averaged.get_weights()[0]
    for step in (1, 2, 3):
        made._train_step(next(batches))
        decay = min(0.2, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * made.network.get_weights()[0]
        np.testing.assert_allclose(made.averaged.get_weights()[0], mean, atol=1e-6)


def test_train_with_the_wasserstein_distance_learns_and_finds_roots_once(
    photos, tmp_path, monkeypatch
):
    found, roots = [], losses.covariance_root
    monkeypatch.setattr(
        losses, "covariance_root", lambda target: found.append(1) or roots(target)
    )
    options = {"style_loss": "wasserstein", "steps": 40, "learning_rate": 0.01}
    result = run(photos, tmp_path / "run", **options)
    totals = result.history["total"]
    assert np.mean(totals[-5:]) < 0.8 * np.mean(totals[:5])
    assert len(found) == 3  # one for each style layer, of all styles at once


def test_train_refuses_photographs_of_which_none_can_be_read(photos, tmp_path):
    damaged = shutil.copytree(photos, tmp_path / "photos")
    for file in sorted(damaged.iterdir())[1:]:
        file.write_bytes(b"no picture")
    with pytest.raises(UsageError, match="none of the 7 photographs can be read"):
        run(damaged, tmp_path / "first", steps=1)  # one is to look at
    (damaged / "0.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match="none of the 8 photographs can be read"):
        run(damaged, tmp_path / "other", steps=1)
    style = STYLES["fine"]
    with pytest.raises(UsageError, match="none of the 8 photographs can be read"):
        run(damaged, tmp_path / "third", steps=1, test_photo=style)


def test_a_training_that_cannot_be_read_is_refused_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "training.json").write_text("{}")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(UsageError, match=r"json: cannot be read .*give another output"):
        TrainingFolder(tmp_path, True).check({})


def test_train_counts_paintings_that_cannot_be_read(photos, paintings, tmp_path):
    damaged = shutil.copytree(paintings, tmp_path / "paintings")
    first, *others = sorted(damaged.iterdir())
    first.write_bytes(b"no picture")
    steps = {"steps": 4, "sample_steps": (1,)}
    shown = []
    result = train(
        photos,
        damaged,
        tmp_path / "some",
        **{**ANY, **steps},
        callbacks=[lambda progress: shown.append(progress.image())],
    )
    assert first in result.unreadable
    assert all(len(pictures) == len(others) for pictures in shown)
    for file in others:
        file.write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"none of the \d paintings can be read"):
        train(photos, damaged, tmp_path / "none", **{**ANY, **steps})


def test_train_refuses_other_pictures_of_the_same_names(photos, finished, tmp_path):
    folder = finished.copy(tmp_path / "run")
    other = {**STYLES, "wide": STYLES["fine"]}
    with pytest.raises(UsageError, match="was begun with other settings: pictures"):
        train(photos, other, folder, **{**TINY, **STEPS})


def test_train_refuses_a_folder_whose_settings_are_damaged(photos, tmp_path):
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(UsageError, match=r"training\.json: is damaged"):
        run(photos, tmp_path, steps=1)


@pytest.mark.parametrize(
    ("task", "jobs", "chief"),
    [
        (("worker", 0), ["worker"], True),
        (("worker", 1), ["worker"], False),
        (("worker", 0), ["chief", "worker"], False),
        (("chief", 0), ["chief", "worker"], True),
    ],
)
def test_one_machine_is_the_chief(task, jobs, chief):
    spec = types.SimpleNamespace(jobs=jobs)
    resolver = types.SimpleNamespace(
        task_type=task[0], task_id=task[1], cluster_spec=lambda: spec
    )
    strategy = types.SimpleNamespace(cluster_resolver=resolver)
    assert training.is_chief(strategy) == chief


def test_train_ends_where_the_loss_is_nan(photos, tmp_path):
    with pytest.raises(NonFiniteLossError, match="the loss became NaN"):
        run(photos, tmp_path, steps=50, learning_rate=1e30)
    assert not (tmp_path / "model.keras").exists()


def test_train_refuses_no_style_and_no_photograph(photos, tmp_path):
    with pytest.raises(UsageError, match="styles: give at least one picture"):
        train(photos, {}, tmp_path / "run", **TINY)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="there is no picture in this folder"):
        train(tmp_path / "empty", STYLES, tmp_path / "run", **TINY)


def test_train_refuses_a_folder_of_paintings_that_is_none(photos, tmp_path):
    with pytest.raises(UsageError, match=r"a\.jpg: no such folder"):
        train(photos, "a.jpg", tmp_path / "run")


ANY = {"batch_size": 2, "size": 32, "warmup_steps": 0, "sample_steps": ()}


@pytest.fixture(scope="module")
def paintings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paintings")
    for i, picture in enumerate(STYLES.values()):
        tfstyle.save_image(picture, folder / f"{i}.png")
    return folder


def test_train_learns_any_style_from_a_folder_of_paintings(photos, paintings, tmp_path):
    whole = train(photos, paintings, tmp_path / "a", **ANY, steps=6)
    assert isinstance(whole.network, AnyStyleNet)
    train(photos, paintings, tmp_path / "b", **ANY, steps=3, checkpoint_every=3)
    resumed = train(photos, paintings, tmp_path / "b", **ANY, steps=6)
    assert len(resumed.history["step"]) == 6
    known = load_network("any").get_weights()
    for one, before in zip(whole.network.get_weights(), known, strict=True):
        assert (one != before).any()
    loaded = load_network(tmp_path / "b")
    assert isinstance(loaded, AnyStyleNet)


def test_train_learns_one_painting_better(photos, paintings, tmp_path):
    files, rates = sorted(paintings.iterdir())[:1], {"learning_rate": 2e-4}
    result = train(photos, files, tmp_path / "a", **ANY, **rates, steps=40, ema=0.0)
    total = np.array(result.history["total"])
    assert total[-10:].mean() < 0.8 * total[:10].mean()


def test_train_goes_on_from_a_network_for_any_style(photos, paintings, tmp_path):
    rate = {"learning_rate": 1e-9, "final_learning_rate": 0.0}
    files = sorted(paintings.iterdir())[:1]
    result = train(photos, files, tmp_path / "a", start="any", steps=1, **ANY, **rate)
    known = load_network("any").get_weights()
    for one, other in zip(result.network.get_weights(), known, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_train_goes_on_from_trained_styles(photos, finished, tmp_path):
    rate = {"learning_rate": 1e-9, "final_learning_rate": 0.0, "warmup_steps": 0}
    begun = train(
        photos,
        {"new": STYLES["fine"]},
        tmp_path / "run",
        start=finished.output,
        steps=1,
        **{name: TINY[name] for name in ("size", "style_size", "batch_size")},
        **rate,
    )
    known, new = finished.result.network, begun.network
    assert (new.style_names, new.width, new.blocks) == (["new"], 4, 1)
    # The mean of all styles: the one in which each of them has the same share.
    picture = draw(40, 40, (20, 30, 25))
    wanted = known.stylize(picture, {"fine": 1, "wide": 1})
    np.testing.assert_allclose(new.stylize(picture), wanted, atol=1e-5)


def test_train_refuses_what_has_no_effect(photos, paintings, tmp_path):
    with pytest.raises(UsageError, match="width: a network for any style has one size"):
        train(photos, paintings, tmp_path / "a", width=8)
    with pytest.raises(UsageError, match="start=any: takes any style; give 'bundled'"):
        train(photos, STYLES, tmp_path / "a", start="any")
    with pytest.raises(UsageError, match="blocks: the network to begin with"):
        train(photos, STYLES, tmp_path / "a", start="bundled", blocks=1)
    with pytest.raises(UsageError, match="start=bundled: is no network for any style"):
        train(photos, paintings, tmp_path / "a", start="bundled")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"callbacks": print}, "callbacks=<built-in function print>: give a list of"),
        (
            {"style_wieght": 2},
            "train has no option 'style_wieght'; did you mean style_we",
        ),
    ],
)
def test_train_refuses_what_it_cannot_use_at_once(photos, tmp_path, given, said):
    with pytest.raises(UsageError, match=said):
        train(photos, STYLES, tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_train_in_bfloat16_writes_a_network_in_float32(photos, tmp_path):
    result = run(photos, tmp_path, steps=1, blocks=0, precision="bfloat16")
    assert np.isfinite(result.history["total"]).all()
    assert load_network(tmp_path).compute_dtype == "float32"


PROGRAM = [sys.executable, "-m", "tfstyle", "train"]
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
def test_train_goes_on_with_the_same_curve_after_a_kill(photos, tmp_path):
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
def test_train_on_two_workers_does_what_one_does_and_resumes(photos, tmp_path):
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
def test_train_on_two_devices_does_what_one_does(photos, tmp_path):
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
