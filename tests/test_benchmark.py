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

from tfstyle import Options, save_image
from tfstyle.backbones.vgg import VGG19
from tfstyle.backbones.weights import save_weights
from tfstyle.errors import TfstyleError, UsageError
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
def benchmark(baselines, report, runtimes):
    return load_script("benchmark")


@pytest.fixture
def tiny(benchmark, tmp_path, content, style, monkeypatch):
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
    sgemm = benchmark.sgemm_gflops
    monkeypatch.setattr(benchmark, "sgemm_gflops", lambda: sgemm(64, 1))
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


def test_vgg19_has_the_multiply_adds_of_its_shape(benchmark):
    inputs = keras.Input([None, None, 3])
    network = keras.Model(inputs, VGG19.build(inputs, "max")["block5_conv1"])

    assert benchmark.convolution_macs(network, 64, 48) == 361_152 * 64 * 48


def test_a_step_counts_convolutions_and_grams_forward_and_back(benchmark, baselines):
    task = baselines.Task(draw(16, 16, (4, 5, 7)), draw(16, 16, (4, 5, 7)), SHALLOW)
    # slim19: 16, 16 → 32 ... channels, and heads of 64 and 128.
    first = 16 * 16 * (9 * 3 * (64 + 16) + 9 * 16 * 32 + 64**2)
    second = 8 * 8 * (9 * 32 * 48 + 48 * 128 + 128**2)

    assert benchmark.step_gflop(task.loss, 16, 16) == pytest.approx(
        4e-9 * (first + second)
    )


def test_sgemm_is_positive(benchmark):
    assert benchmark.sgemm_gflops(64, 2) > 0


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
    assert ours["work"][-1] == [sum(ours["steps"]), 0] == [40, 0]
    assert len(ours["work"]) == len(ours["losses"])
    assert [len(turn) for turn in entry["seconds"]["tfstyle"]] == [2]
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


def test_work_in_either_precision_counts_by_itself(
    benchmark, baselines, tiny, bfloat16_cpu, halts
):
    picture, style = draw(20, 24, (9, 8, 6)), draw(18, 30, (4, 5, 7))
    task = baselines.Task(picture, style, {**SHALLOW, "precision": "auto"})
    curve = benchmark.our_curve(task, [4, 300])
    assert len(halts) == 1
    assert curve["work"][-1] == [4, 0, halts[0], 300 - halts[0]]
    assert [4, 0, halts[0], 0] in curve["work"]
    assert len(benchmark.seconds_by_phase(task)) == 2  # of one scale


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
