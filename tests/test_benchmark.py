import functools
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import flagsaver
from conftest import draw, lively_network, load_script, simple_pictures

import tfstyle
from tfstyle import Options, losses, save_image
from tfstyle.backbones.vgg import VGG19
from tfstyle.backbones.weights import save_weights
from tfstyle.errors import TfstyleError, UsageError
from tfstyle.losses import neighbors
from tfstyle.losses.from_options import perceptual_loss
from tfstyle.stylizer.engine import Engine

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "benchmark.py"
SHALLOW = {
    "backbone": "slim19",
    "weights": "imagenet",
    "style_layers": ["block1_conv1", "block2_conv1"],
    "content_layers": ["block2_conv1"],
    "style_loss": "gram",
}
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs PyTorch"
)


@pytest.fixture(scope="module", autouse=True)
def one_thread_of_pytorch():
    """On busy cores, small operations would wait for their second thread."""
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="module")
def baselines():
    return load_script("baselines")


@pytest.fixture(scope="module")
def report():
    return load_script("benchmark_report")


@pytest.fixture(scope="module")
def runtimes():
    return load_script("runtimes")


@pytest.fixture(scope="module")
def work():
    return load_script("benchmark_profile")


@pytest.fixture(scope="module")
def rows_module():
    load_script("benchmark_timing")
    return load_script("commit_rows")


@pytest.fixture(scope="module")
def commits(report, rows_module):
    return load_script("compare_commits")


@pytest.fixture(scope="module")
def sections(baselines):
    return load_script("benchmark_losses")


@pytest.fixture(scope="module")
def benchmark(baselines, report, runtimes, work, commits, sections):
    return load_script("benchmark")


@pytest.fixture
def tiny(benchmark, work, tmp_path, content, style, monkeypatch):
    """Flags for a benchmark of seconds, and a VGG-19 that ends at block2_conv1."""
    save_image(content, tmp_path / "photo.png")
    save_image(style, tmp_path / "painting.png")
    rng, arrays = np.random.default_rng(3), {}
    for layer, inputs, outputs in (
        ("block1_conv1", 3, 64),
        ("block1_conv2", 64, 64),
        ("block2_conv1", 64, 128),
    ):
        kernel = rng.standard_normal((3, 3, inputs, outputs), "float32")
        arrays[f"{layer}/kernel"] = kernel * np.float32((2 / 9 / inputs) ** 0.5)
        arrays[f"{layer}/bias"] = np.zeros(outputs, "float32")
    save_weights(tmp_path / "vgg19.npz", arrays)
    for module in (benchmark, work):
        monkeypatch.setattr(module, "matmul_gflops", lambda dtype="float32": 0.5)
    monkeypatch.setattr(benchmark, "random_vgg19", lambda _: "not needed")
    with flagsaver.flagsaver(
        output=str(tmp_path / "results"),
        content=[str(tmp_path / "photo.png")],
        style=[str(tmp_path / "painting.png")],
        vgg19_weights=str(tmp_path / "vgg19.npz"),
        repeats=1,
        timing_steps=3,
        timing_seconds=0.0,
    ):
        yield tmp_path / "results"


def results(folder: Path) -> tuple[dict, str]:
    data = json.loads((folder / "benchmark.json").read_text())
    return data, (folder / "benchmark.md").read_text()


# What is counted and measured.


def test_vgg19_has_the_multiply_adds_of_its_shape(work):
    inputs = keras.Input([None, None, 3])
    network = keras.Model(inputs, VGG19.build(inputs, "max")["block5_conv1"])

    assert work.convolution_macs(network, 64, 48) == 361_152 * 64 * 48


def test_a_step_counts_convolutions_and_grams_forward_and_back(benchmark, baselines):
    task = baselines.Task(draw(16, 16, (4, 5, 7)), draw(16, 16, (4, 5, 7)), SHALLOW)
    # slim19: VGG-19's 64, 64 and 128 channels, by way of fewer, and Gram matrices.
    first = 16 * 16 * (9 * 3 * 64 + 64 * 24 + 9 * 24 * 20 + 20 * 64 + 64**2)
    second = 8 * 8 * (64 * 32 + 9 * 32 * 32 + 32 * 128 + 128**2)

    assert benchmark.step_gflop(task.loss, 16, 16) == pytest.approx(
        4e-9 * (first + second)
    )


def test_the_peak_of_a_product_is_positive(work):
    assert work.matmul_gflops(64, 2) > 0


def test_seconds_leave_out_the_first_step_of_each_scale(benchmark):
    clock = benchmark.Clock()
    clock.marks = {0: [(1, 10.0), (2, 10.5), (6, 12.5)], 1: [(7, 30.0), (8, 32.0)]}

    assert clock.seconds_per_step() == [0.5, 2.0]


def test_memory_is_extrapolated_from_the_last_two_sizes(benchmark):
    assert benchmark.extrapolated({}, 4) == 0
    assert benchmark.extrapolated({1: 2.0}, 4) == pytest.approx(8)
    assert benchmark.extrapolated({0.25: 1.0, 1: 2.5}, 4) == pytest.approx(8.5)


def test_the_cheapest_run_that_reaches_the_goal_counts(report):
    entry = {
        "curves": {"tutorial": {"final_loss": 0.5, "steps": 100}},
        "seconds": {"tutorial": [1.0, 3.0, 2.0], "tfstyle": [[0.5, 0.7, 2.0, 3.0]] * 2},
        "ours": {
            "8,2": {
                "losses": [0.9, 0.8, 0.7],
                "work": [[8, 0, 1, 0], [8, 0, 2, 0], [8, 0, 2, 0]],
                "final_loss": 0.7,
                "steps": [8, 2],
            },
            "8,6": {
                "losses": [0.9, 0.6, 0.4, 0.3],
                "work": [[6, 2, 1, 0], [6, 2, 3, 0], [6, 2, 3, 1], [6, 2, 3, 3]],
                "final_loss": 0.3,
                "steps": [8, 6],
            },
        },
    }

    row = report.compared(entry, "tutorial")
    assert (row["seconds"], row["our_work"]) == (200, [6, 2, 3, 1])
    # One step more at each scale and precision stands for its targets.
    assert row["our_seconds"] == 7 * 0.5 + 3 * 0.7 + 4 * 2.0 + 2 * 3.0
    del entry["ours"]["8,6"]
    row = report.compared(entry, "tutorial")
    assert row["our_seconds"] is None
    cases = {"64": {"a:b": {"against": {"tutorial": row}}}}
    table = report.quality_table({"vgg19": cases})
    assert "| 0.5 | 200 | not reached (0.7) | – |" in table
    assert table.splitlines()[-1].count("not measured") == 4


# Everybody means the same by the loss.


@pytest.fixture(params=["slim19", "vgg19"])
def task(request, baselines, tiny):
    names = ("style_layers", "content_layers", "style_loss")
    layers = {name: SHALLOW[name] for name in names}
    weights = {
        "slim19": "imagenet",
        "vgg19": str(tiny.parent / "vgg19.npz"),
    }[request.param]
    options = {"backbone": request.param, "weights": weights, **layers}
    return baselines.Task(draw(20, 24, (9, 8, 6)), draw(18, 30, (4, 5, 7)), options)


def test_the_tutorial_has_tfstyles_loss(baselines, task):
    tutorial = baselines.Tutorial(task)
    picture = np.random.default_rng(1).random((1, 20, 24, 3), "float32")

    assert float(tutorial.loss(tf.constant(picture))) == pytest.approx(
        task.our_loss(picture), rel=1e-4
    )
    baselines.check_same_loss(task, {"tutorial": tutorial})
    tutorial.tv_weight *= 2
    with pytest.raises(RuntimeError, match="tutorial has a loss of"):
        baselines.check_same_loss(task, {"tutorial": tutorial})


@needs_torch
def test_pytorch_has_tfstyles_loss_and_lowers_it(baselines, task):
    baseline = baselines.Torch(task)
    picture = np.random.default_rng(1).random((1, 20, 24, 3), "float32")

    assert baseline.loss_of(picture) == pytest.approx(task.our_loss(picture), rel=1e-4)
    curve = baseline.curve(12)
    assert 12 <= curve["steps"] == len(curve["losses"]) < 40
    assert curve["final_loss"] < 0.5 * curve["losses"][0]
    assert baseline.lbfgs_seconds(3) > 0
    step = baseline.adam()
    first = step()
    assert first == pytest.approx(task.our_loss(task.content), rel=1e-4)
    assert step() < first


def test_all_runtimes_make_the_same_picture(benchmark, runtimes, tmp_path):
    found = runtimes.runtimes(lively_network(["a"]), tmp_path)
    picture = np.random.default_rng(2).random((1, 33, 46, 3), "float32")
    assert {"Keras call", "tfstyle apply", "SavedModel"} <= set(found)
    benchmark.check_same_picture(picture, found)
    found["broken"] = lambda picture: 1 - found["Keras call"](picture)
    with pytest.raises(TfstyleError, match="broken differs from Keras by"):
        benchmark.check_same_picture(picture, found)


def test_pictures_per_second_are_compared_with_pytorch(report):
    rows = {
        "16": {
            "512": {"PyTorch eager": {"median": 0.5}, "SavedModel": {"median": 0.25}}
        }
    }
    lines = report.apply_table(rows).splitlines()
    assert lines[2:] == [
        "| 16 | 512 | PyTorch eager | 2 | 1.00× |",
        "| 16 | 512 | SavedModel | 4 | 2.00× |",
    ]


# The methods that others publish.


@pytest.fixture(scope="module")
def peers():
    pytest.importorskip("torch", reason="needs PyTorch")
    return load_script("torch_peers")


def as_torch(peers, features: np.ndarray):
    return peers.torch.tensor(np.ascontiguousarray(features.transpose(0, 3, 1, 2)))


def test_pytorch_has_slim19s_features(peers):
    picture = draw(48, 64, (9, 8, 6))
    layers = [*peers.NEIGHBOR_LAYERS, "block5_conv1"]
    for pooling in ("max", "avg"):
        wanted = tfstyle.FeatureExtractor("slim19", layers, pooling=pooling)(picture)
        found = peers.Network.slim19(pooling)(peers.tensor(picture), layers)
        for layer in layers:
            features = found[layer].permute(0, 2, 3, 1).numpy()
            np.testing.assert_allclose(features, wanted[layer], rtol=0, atol=1e-4)


@pytest.fixture
def exact_roots(peers, monkeypatch):
    """Square roots of all variances, of which twelve iterations leave small ones."""
    monkeypatch.setattr(peers.WassersteinDistance, "iterations", 40)
    monkeypatch.setattr(peers.WassersteinDistance, "epsilon", 1e-12)


def test_crowsons_distance_is_tfstyles(peers, exact_roots):
    rng = np.random.default_rng(4)
    ours, style = rng.random((2, 1, 9, 8, 6)) @ rng.random((6, 6))
    expected = losses.wasserstein_loss(
        losses.moments(ours), losses.moments(style), "mean"
    )
    with tf.GradientTape() as tape:
        features = tf.constant(ours)
        tape.watch(features)
        statistics = losses.moments(features), losses.moments(style)
        total = losses.wasserstein_loss(*statistics, "mean")
    distance = peers.WassersteinDistance(as_torch(peers, style))
    theirs = as_torch(peers, ours).requires_grad_()
    found = distance(theirs)
    found.backward()

    assert found.item() == pytest.approx(float(expected[0]), rel=1e-3)
    np.testing.assert_allclose(
        theirs.grad.permute(0, 2, 3, 1).numpy(),
        tape.gradient(total, features),
        rtol=1e-2,
        atol=1e-4 * float(expected[0]),
    )


def test_crowsons_loss_is_that_of_tfstyles_options(
    peers, sections, exact_roots, monkeypatch
):
    content, style = draw(64, 80, (9, 8, 6)), draw(64, 80, (4, 5, 7))
    picture, tensor = 0.5 * content + 0.5 * style, peers.tensor
    monkeypatch.setattr(peers, "tensor", lambda picture: tensor(picture).double())
    monkeypatch.setattr(peers.Wasserstein, "tv_weight", 0)
    network = peers.Network.slim19().double()
    theirs = peers.Wasserstein(network, content, style, 80).loss(80)
    options = Options(**{**sections.EQUAL_LOSS, "tv_weight": 0}, precision="float32")
    loss = perceptual_loss(options)
    targets = loss.targets(tf.constant(content), tf.constant(style))

    assert theirs(peers.tensor(picture)).item() == pytest.approx(
        float(loss(tf.constant(picture), targets)[0]), rel=1e-3
    )


def test_kolkins_distance_and_neighbors_are_tfstyles(peers):
    rng = np.random.default_rng(5)
    ours, style = rng.random((2, 1, 7, 5, 12), "float32")
    shares = {"a": tf.constant(1.0)}
    found = neighbors.references({"a": tf.reshape(style, [-1, 12])}, shares, None)
    rows, painted = (peers.torch.tensor(x.reshape(-1, 12)) for x in (ours, style))
    centered = ours - ours.mean((1, 2), keepdims=True)
    indices = neighbors.nearest(neighbors.unit(tf.constant(centered)), found, None)
    nearest = peers.nearest_rows(rows, painted, 8)
    targets = neighbors.Neighbors(
        indices, found.columns, shares, None, tf.constant(1 / 35)
    )
    features = {"a": tf.constant(ours)}
    expected = neighbors.neighbor_loss(features, {"a": neighbors.CELL}, targets)

    assert nearest.tolist() == indices.numpy().ravel().tolist()
    distance = 1 - (peers.unit(painted[nearest]) * peers.unit(rows)).sum(1)
    assert distance.mean().item() == pytest.approx(float(expected[0]), rel=1e-3)


def test_a_pyramid_is_the_image(peers):
    image = peers.tensor(draw(33, 46, (9, 8, 6)))
    levels = peers.pyramid(image, 4)

    assert [tuple(x.shape[2:]) for x in levels][-1] == (2, 2)
    assert (peers.collapsed(levels) - image).abs().max() < 1e-5


@pytest.fixture
def short_schedules(peers, monkeypatch):
    """Four steps at each scale, of few layers and positions."""
    few = {f"block{i}_conv1": 0.5 for i in (1, 2)}
    monkeypatch.setattr(peers, "STYLE_LAYERS", few)
    monkeypatch.setattr(peers.Neighbors, "most_positions", 16)
    for kind in (peers.Wasserstein, peers.Neighbors):
        monkeypatch.setattr(kind, "least_side", 48)
        for name in {"first_steps", "further_steps", "steps"} & set(vars(kind)):
            monkeypatch.setattr(kind, name, 4)


def test_published_methods_lower_their_losses(peers, short_schedules):
    pictures = draw(72, 96, (30, 25, 20)), draw(72, 96, (4, 5, 7))
    network = peers.Network.slim19()
    for kind, wanted in (
        (peers.Wasserstein, ["48", "68", "96"]),
        (peers.Neighbors, ["48", "96", "layer by layer"]),
    ):
        method, heard = kind(network, *pictures, 96), {}

        def hear(phase, loss, picture, heard=heard):
            heard.setdefault(phase, []).append(loss)

        picture = method.paint(hear)
        names = [phase.name.removesuffix(" pixels") for phase in method.phases()]
        assert names == wanted
        assert (
            picture.shape == (1, 72, 96, 3) and 0 <= picture.min() < picture.max() <= 1
        )
        assert all(losses[-1] < losses[0] for losses in heard.values())
        assert len(heard) == len(names)


# The sections.


@pytest.fixture
def small_networks(benchmark, monkeypatch):
    """Shallow layers, for pictures of 40 pixels."""
    monkeypatch.setattr(
        benchmark,
        "our_options",
        lambda backbone, weights, **options: SHALLOW | options,
    )


def test_sections_are_measured_merged_and_written(benchmark, tiny, small_networks):
    with flagsaver.flagsaver(
        sections=["step"], sizes=["32"], step_backbones=["slim19"]
    ):
        book = benchmark.Book(tiny)
        benchmark.measure_steps(book)
    with flagsaver.flagsaver(
        quality_backbones=["slim19"],
        quality_sizes=["40"],
        tutorial_steps=3,
        lbfgs_evaluations=3,
        our_steps="2;40",
    ):
        book = benchmark.Book(tiny)
        benchmark.measure_quality(book)
        benchmark.write_report(book.folder, book.data)
        with flagsaver.flagsaver(time_only_steps=4):
            benchmark.measure_quality(benchmark.Book(tiny))

    data, text = results(tiny)
    row = data["step"]["rows"]["32"]["tfstyle slim19"]
    assert row["median"] > 0 and row["gflop"] > 0 and row["share_of_sgemm"] > 0
    assert "| 32 | tfstyle slim19 |" in text
    assert "| 32 | pytorch vgg19 | not measured |" in text
    entry = data["quality"]["rows"]["slim19"]["40"]["photo:painting"]
    assert len(entry["curves"]["tutorial"]["losses"]) == 4
    assert list(entry["ours"]) == ["2", "40"]
    assert entry["against"]["tutorial"]["our_seconds"] > 0
    ours = entry["ours"]["40"]
    assert ours["work"][-1] == ours["steps"] == [40]
    assert len(ours["work"]) == len(ours["losses"])
    assert [len(turn) for turn in entry["seconds"]["tfstyle"]] == [1]
    assert "| slim19 | 40 | photo:painting | TensorFlow tutorial, Adam |" in text
    assert data["step"]["machine"]["tensorflow"] == tf.__version__
    assert "## Memory\n\nnot measured" in text
    assert (tiny / "loss.png").stat().st_size > 1000


def test_any_style_is_timed_in_what_is_installed(
    benchmark, runtimes, tiny, monkeypatch
):
    monkeypatch.setattr(runtimes, "has", lambda module: False)
    with flagsaver.flagsaver(sizes=["64"], repeats=1, timing_steps=3):
        book = benchmark.Book(tiny)
        benchmark.measure_any(book)
        benchmark.write_report(book.folder, book.data)
    data, text = results(tiny)
    rows = data["any"]["rows"]["64"]
    assert {"Keras call", "tfstyle apply", "SavedModel"} <= set(rows)
    assert all(row["median"] > 0 for row in rows.values())
    assert "| 64 | Keras call |" in text


def test_work_is_counted_by_scale(benchmark, baselines, tiny):
    picture, style = draw(64, 72, (9, 8, 6)), draw(58, 60, (4, 5, 7))
    task = baselines.Task(picture, style, {**SHALLOW, "scales": 2})
    curve = benchmark.our_curve(task, [4, 6])
    assert curve["work"][-1] == curve["steps"] == [4, 6]
    assert len(benchmark.seconds_by_scale(task)) == 2


def test_timing_alone_needs_the_curves(benchmark, tiny, small_networks):
    flags = {"quality_backbones": ["slim19"], "quality_sizes": ["40"]}
    with (
        flagsaver.flagsaver(time_only_steps=3, **flags),
        pytest.raises(UsageError, match="has no loss curve of tutorial"),
    ):
        benchmark.measure_quality(benchmark.Book(tiny))


def test_memory_is_that_of_a_process_of_its_own(benchmark, tiny):
    with flagsaver.flagsaver(
        memory_backbones=["slim19"],
        megapixels=["0.006", "0.25", "1"],
        untiled_limit_gb=0.01,
    ):
        book = benchmark.Book(tiny)
        original = benchmark.memory_of

        def small_tiled_ones(options, least_tiles, megapixels, folder):
            if least_tiles > 1 and megapixels < 1:
                return original(options, least_tiles, megapixels, folder)
            return {"peak_gb": 1.0, "seconds_per_step": 0.5}

        benchmark.memory_of = small_tiled_ones
        try:
            benchmark.measure_memory(book)
        finally:
            benchmark.memory_of = original
        benchmark.write_report(book.folder, book.data)

    data, text = results(tiny)
    # The smallest picture has no room for tiles.
    assert list(data["memory"]["rows"]["slim19, tiled"]) == ["0.25", "1"]
    row = data["memory"]["rows"]["slim19, tiled"]["0.25"]
    assert row["pixels"] == [433, 577]
    assert row["tiles"] >= 4 and 0.7 < row["max_memory"] < 4
    assert 0.2 < row["peak_gb"] < 5 and row["seconds_per_step"] > 0
    assert f"| slim19, tiled | 0.25 | {row['tiles']} | " in text
    shown = "| slim19, untiled | 1 | not measured | – | not measured (about 167) |"
    assert shown in text
    assert "neural-style issue 150" in text
    assert (tiny / "memory.png").exists() and (tiny / "seconds.png").exists()


@pytest.mark.parametrize("megapixels", [0.25, 1, 4, 16])
def test_what_is_tiled_has_four_tiles_within_the_limit(benchmark, megapixels):
    height = round((megapixels * 0.75e6) ** 0.5)
    size = (height, round(height * 4 / 3))
    picture = np.broadcast_to(np.float32(0.5), (1, *size, 3))
    options = Options(max_memory=4.0, scales=1)
    pictures = simple_pictures(picture, picture, size=size)
    run = benchmark.Run(Engine([options]), options, pictures)

    assert benchmark.limit_to_tiles(run, 4) >= 4
    assert 0.7e9 < run.problem.planner.limit <= 4e9


def test_a_whole_picture_keeps_its_limit(benchmark):
    picture = np.full((1, 433, 577, 3), np.float32(0.5))
    options = Options(max_memory=1000.0, scales=1)
    pictures = simple_pictures(picture, picture, size=(433, 577))
    run = benchmark.Run(Engine([options]), options, pictures)

    assert benchmark.limit_to_tiles(run, 1) == 1
    assert run.problem.planner.limit == 1e12


def test_startup_ends_at_the_first_line(benchmark):
    code = "import time\nprint(1, flush=True)\ntime.sleep(0.5)"

    assert 0 < benchmark.to_first_line([sys.executable, "-c", code]) < 0.9


def test_style_losses_are_measured_beside_pytorch(
    benchmark, sections, tiny, request, monkeypatch
):
    if torch := sections.has_torch("cpu"):
        request.getfixturevalue("short_schedules")
    monkeypatch.setattr(sections, "whole", lambda pictures, options: 7.0)
    with flagsaver.flagsaver(
        style_losses=["wasserstein", "gram"],
        loss_sizes=["64"],
        equal_sizes=["64"],
        our_steps="3;4",
    ):
        book = benchmark.Book(tiny)
        benchmark.measure_style_losses(book)
        benchmark.measure_equal_loss(book)
        benchmark.write_report(book.folder, book.data)

    data, text = results(tiny)
    rows = data["losses"]["rows"]["64"]
    assert list(rows) == ["wasserstein", "gram"]
    for row in rows.values():
        assert set(row) == ({"tfstyle", "PyTorch"} if torch else {"tfstyle"})
        assert all(each["median"] > 0 for each in row.values())
    assert "| 64 | wasserstein | tfstyle |" in text
    if torch:
        assert "(estimated)" in text  # the schedule of neural-style
        assert not rows["wasserstein"]["PyTorch"]["whole"]["estimated"]
        curves = data["equal"]["rows"]["64"]
        assert list(curves)[:2] == ["PyTorch", "3"]
        assert "| 64 | 3 | PyTorch's |" in text


def test_equal_losses_are_told_by_when_they_are_reached(report):
    curves = {
        "PyTorch": {"seconds": [1, 8, 9], "losses": [5, 2, 1]},
        "7": {"seconds": [1, 2, 3], "losses": [4, 2.5, 2]},
    }
    lines = report.equal_table({"64": curves}).splitlines()
    assert lines[2:] == [
        "| 64 | 7 | PyTorch's | 1 | not reached | 9 | – |",
        "| 64 | 7 | tfstyle's | 2 | 3 | 8 | 2.67× |",
    ]


def test_a_steps_time_is_told_by_kinds(benchmark, work, tiny):
    kinds = work.by_kind(
        [
            ("Conv2D", 2.0),
            ("Conv2DBackpropInput", 4.0),
            ("_FusedConv2D", 1.0),
            ("X", 1),
        ],
        4.0,
    )
    assert kinds == {work.BACKWARD: 2.0, work.FORWARD: 1.5, work.REST: 0.5}
    with flagsaver.flagsaver(
        profile_sizes=["64"], style_losses=["wasserstein", "gram"]
    ):
        book = benchmark.Book(tiny)
        benchmark.measure_profile(book)
        benchmark.write_report(book.folder, book.data)
    data, text = results(tiny)
    rows = data["profile"]["rows"]["64"]
    assert len(rows) == 4  # losses and optimizers, without bfloat16
    for name, row in rows.items():
        assert sum(row["kinds"].values()) == pytest.approx(row["seconds_per_step"])
        assert {work.FORWARD, work.BACKWARD, "padding"} <= set(row["kinds"])
        assert ("Adam" in row["kinds"]) == ("adam" in name)
        assert ("eigendecompositions" in row["kinds"]) == ("gram" not in name)
    assert f"| {work.BACKWARD} | " in text


# Two commits.


ROWS_OF_BOTH_SIDES = """
import sys
sys.path.insert(0, {scripts!r})
import commit_rows

new = {root!r} in sys.path

def only_new(*pictures):
    if not new:
        raise AttributeError("no\\nsuch name")
    return lambda: 1.0

def lost(*pictures):
    if new:
        sys.exit("broken")
    return lambda: 1.0

commit_rows.ROWS = {{
    "same": ("", lambda *pictures: lambda: 1.0),
    "slow": ("", lambda *pictures: lambda: 1.3 if new else 1.0),
    "new": ("", only_new),
    "lost": ("", lost),
}}
commit_rows.main()
"""


@pytest.fixture
def rows(commits, tmp_path, monkeypatch):
    """``compare`` by rows that take no time."""
    child, scripts = tmp_path / "child.py", SCRIPT.parent
    text = ROWS_OF_BOTH_SIDES.format(scripts=str(scripts), root=str(scripts.parent))
    child.write_text(text)
    monkeypatch.setattr(commits, "CHILD", child)
    return functools.partial(commits.compare, pictures=["a.png", "b.png"])


def worktrees() -> str:
    words = ["git", "-C", str(SCRIPT.parent), "worktree", "list"]
    return subprocess.run(words, capture_output=True, text=True).stdout


needs_git = pytest.mark.skipif(
    not (SCRIPT.parents[1] / ".git").exists(), reason="needs a git checkout"
)


@needs_git
def test_a_commit_is_compared_with_the_working_tree(rows, tiny, capsys):
    assert rows("HEAD", ["same", "new"], tolerance=1.15) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "|  | HEAD | working tree | ratio |  |"
    assert lines[2] == "| same | 1 s | 1 s | 1.00 |  |"
    assert lines[3] == "| new | – | 1 s | – | HEAD: AttributeError: no such name |"
    assert rows("HEAD", ["new"], tolerance=1.15) == 1
    assert "HEAD can do none of this" in capsys.readouterr().out
    assert "tfstyle-against" not in worktrees()


@needs_git
def test_what_is_slower_or_lost_fails(rows, tiny, capsys):
    assert rows("HEAD", ["same", "slow"], tolerance=1.15) == 1
    assert (
        "slower than 1.15 times, or not to be measured: slow" in capsys.readouterr().out
    )
    assert rows("HEAD", ["slow"], tolerance=1.5) == 0


@needs_git
def test_the_worktree_goes_when_measuring_is_interrupted(rows, commits, monkeypatch):
    def interrupted(*_):
        assert "tfstyle-against" in worktrees()
        raise KeyboardInterrupt

    monkeypatch.setattr(commits, "measured", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rows("HEAD", ["same"], tolerance=1.15)
    assert "tfstyle-against" not in worktrees()


@needs_git
def test_a_commit_that_does_not_exist_is_told_in_one_line(benchmark, tiny, capsys):
    with flagsaver.flagsaver(against="no-such"), pytest.raises(SystemExit) as ended:
        benchmark.main([""])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("benchmark: --against=no-such: ") and said.count("\n") == 1


def test_rows_of_commits_are_seconds(rows_module, tiny, monkeypatch):
    pictures = [str(tiny.parent / name) for name in ("photo.png", "painting.png")]
    for name in ("STEP_SIZE", "WHOLE_SIZE", "CALL_SIZE"):
        monkeypatch.setattr(rows_module, name, 64)
    for name in ("step", "apply", "call"):
        assert rows_module.ROWS[name][1](*pictures)() > 0


# What is refused.


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"sections": ["stpe"]}, "--sections: no 'stpe'; choose of step, quality"),
        ({"sizes": ["big"]}, "--sizes=big: give positive numbers"),
        ({"megapixels": []}, "--megapixels=: give positive numbers"),
        ({"our_steps": "9,x"}, "--our_steps=9,x: write it as"),
        ({"style": []}, "give as many of both"),
        ({"vgg19_weights": "none.npz"}, "none.npz: cannot be read"),
        ({"step_backbones": ["alexnet"]}, "no 'alexnet'"),
        ({"rows": ["stpe"]}, "--rows: no 'stpe'; choose of step, neighbors"),
    ],
)
def test_bad_flags_are_refused_at_once(benchmark, tiny, flags, message):
    with flagsaver.flagsaver(**flags), pytest.raises(UsageError, match=message):
        benchmark.check_flags()


def test_results_of_another_device_are_not_mixed(benchmark, tiny):
    benchmark.Book(tiny).put({}, "step", "64")
    with (
        flagsaver.flagsaver(device="gpu"),
        pytest.raises(UsageError, match="has results of --device=cpu"),
    ):
        benchmark.Book(tiny)
    (tiny / "benchmark.json").write_text("{")
    with pytest.raises(UsageError, match="give another --output"):
        benchmark.Book(tiny)


@pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU"
)
def test_no_gpu_is_said_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--device=gpu", f"--output={tmp_path}"],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 2
    assert done.stderr.startswith("benchmark: --device=gpu: TensorFlow sees no GPU")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("flag", ["--outptu=x", "--repeats=0", "--device=tpu"])
def test_a_misspelt_flag_is_refused_in_one_line(benchmark, capsys, flag, monkeypatch):
    monkeypatch.setattr(benchmark, "FLAGS", benchmark.flags.FLAGS)
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
        benchmark.parse_flags(["benchmark.py", flag])

    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
