"""Tests of runs over scales, most of them with a tiny random network."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import simple_pictures, use_tiny_backbone

import tfstyle
from tfstyle.backbones.feature_extractor import FeatureExtractor
from tfstyle.backbones.slim19 import SLIM19
from tfstyle.errors import NonFiniteLossError, UsageError
from tfstyle.images import load_image, resize_image
from tfstyle.losses import PerceptualLoss, gram_matrix
from tfstyle.optimizers import loop as optimize
from tfstyle.optimizers.adam import Adam
from tfstyle.optimizers.lbfgs import LBFGS
from tfstyle.options import Options
from tfstyle.stylizer import engine as engines
from tfstyle.stylizer import memory, scales
from tfstyle.stylizer.engine import Engine
from tfstyle.stylizer.run import Run
from tfstyle.stylizer.scales import first_picture, scale_sizes

DATA = Path(__file__).resolve().parents[1] / "data"
TERMS = [
    "content/block3_conv1",
    *(f"style/block{i}_conv1" for i in (1, 2, 3)),
    "total_variation",
]


def run(content, style, start=None, size=None, callbacks=(), engine=None, **options):
    few = {"style_loss": "gram", "scales": 1, "steps": 8, "margin": 0}
    few["optimizer"] = "adam"
    chosen = Options(**{**few, **options})
    pictures = simple_pictures(content, style, start, size)
    return Run(engine or Engine([chosen]), chosen, pictures, callbacks).finish()


def start_noise(shape, init, options):
    picture = np.zeros((shape[0], 4, 4, 3), "float32")
    pictures = simple_pictures(picture, None, init, shape[1:3])
    return first_picture(pictures, shape[1:3], options)


@pytest.fixture
def every_step(monkeypatch):
    """Makes the loop report each step by itself."""
    monkeypatch.setattr(optimize, "_MOST_STEPS_PER_CALL", 1)


# Sizes of the scales.


@pytest.mark.parametrize(
    ("size", "number", "least", "expected"),
    [
        ((384, 512), 1, 112, [(384, 512)]),
        ((384, 512), 0, 112, [(96, 128), (192, 256), (384, 512)]),
        ((384, 512), 0, 129, [(192, 256), (384, 512)]),
        ((384, 512), 0, 128, [(96, 128), (192, 256), (384, 512)]),
        ((384, 512), 2, 1000, [(192, 256), (384, 512)]),
        ((101, 75), 3, 1, [(25, 19), (50, 38), (101, 75)]),
        ((60, 50), 0, 112, [(60, 50)]),
        ((1, 4), 4, 1, [(1, 1), (1, 1), (1, 2), (1, 4)]),
        ((4, 2), 0, 1, [(1, 1), (2, 1), (4, 2)]),
    ],
)
def test_scale_sizes(size, number, least, expected, monkeypatch):
    monkeypatch.setattr(scales, "_LEAST_SIDE", least)
    assert scale_sizes(size, number) == expected


# Noise and spaces.


def test_noise_follows_its_seed():
    first, again = (
        start_noise((1, 8, 9, 3), "noise", Options(init="noise")) for _ in range(2)
    )
    assert first.dtype == np.float32 and first.shape == (1, 8, 9, 3)
    np.testing.assert_array_equal(first, again)
    other = start_noise((1, 8, 9, 3), "noise", Options(seed=1))
    assert np.abs(first - other).mean() > 0.1


def test_uniform_noise_is_around_grey():
    noise = start_noise((1, 60, 60, 3), "noise", Options(init="noise"))
    assert 0 <= noise.min() <= 0.01 and 0.99 <= noise.max() <= 1
    assert noise.mean() == pytest.approx(0.5, abs=0.01)
    assert noise.std() == pytest.approx(1 / np.sqrt(12), abs=0.01)


def test_normal_noise_is_around_grey():
    noise = start_noise((1, 60, 60, 3), "normal", Options(init="normal"))
    assert noise.min() == 0 and noise.max() == 1  # two deviations; the rest is cut off
    assert noise.mean() == pytest.approx(0.5, abs=0.01)
    inside = noise[(noise > 0.25) & (noise < 0.75)]
    assert inside.size / noise.size == pytest.approx(0.683, abs=0.01)  # one deviation


# Runs.


def test_a_run_lowers_the_loss_and_keeps_size_and_range(tiny_backbone, content, style):
    result = run(content, style, steps=60)
    assert result.images.shape == content.shape
    assert result.images.dtype == np.float32
    assert result.images.min() >= 0 and result.images.max() <= 1
    assert list(result.history) == ["step", "scale", "total", *TERMS]
    assert result.history["step"] == list(range(1, 61))
    assert result.history["scale"] == [0] * 60
    totals = result.history["total"]
    np.testing.assert_allclose(
        totals, np.sum([result.history[term] for term in TERMS], 0), rtol=1e-5
    )
    assert result.history["content/block3_conv1"][0] == pytest.approx(0, abs=1e-6)
    assert totals[-1] < totals[0] / 3
    assert not result.stopped
    assert result.seconds > 0


def test_scales_go_from_coarse_to_fine(tiny_backbone, content, style, every_step):
    seen = []

    def callback(progress):
        image = progress.image()
        assert image.min() >= 0 and image.max() <= 1
        seen.append((progress.step, progress.scale, image.shape[1:3]))
        assert (progress.steps, progress.scales) == (9, 3)
        assert progress.columns == ("total", *TERMS)
        assert progress.row_steps.tolist() == [progress.step]
        assert set(progress.terms) == set(TERMS)
        assert progress.total == pytest.approx(sum(progress.terms.values()), rel=1e-5)

    result = run(content, style, scales=3, steps=(4, 3, 2), callbacks=[callback])
    sizes = [(8, 10)] * 4 + [(16, 20)] * 3 + [(32, 40)] * 2
    scales = [0] * 4 + [1] * 3 + [2] * 2
    assert seen == list(zip(range(1, 10), scales, sizes, strict=True))
    assert result.history["step"] == list(range(1, 10))
    assert result.history["scale"] == scales
    assert result.images.shape == (1, 32, 40, 3)


def test_the_loss_is_traced_once_for_all_scales(
    tiny_backbone, content, style, monkeypatch
):
    shapes, evaluate = [], PerceptualLoss.__call__

    def traced(self, images, *args, **options):
        shapes.append(tuple(images.shape[1:3]))
        return evaluate(self, images, *args, **options)

    monkeypatch.setattr(PerceptualLoss, "__call__", traced)
    run(content, style, scales=3, steps=20, optimizer="lbfgs")
    assert shapes == [(None, None)]


@pytest.mark.parametrize("end", ["done", "stopped", "broken"])
def test_a_margin_is_optimised_and_cut_off(
    tiny_backbone, content, style, monkeypatch, end
):
    shapes, seen, evaluate = [], [], PerceptualLoss.__call__
    minimize = optimize.Loop.run

    def traced(self, images, targets, **options):
        total, terms = evaluate(self, images, targets, **options)
        breaks = (end == "broken") & (tf.shape(images)[1] > 24)
        return tf.where(breaks, tf.constant(np.nan, total.dtype), total), terms

    def run_loop(self, steps, targets, *rest):
        rows, columns = self._optimizer.variable.value().shape[1:3]
        shapes.append((rows, columns))
        of_content = targets[0].content["block3_conv1"]
        assert of_content.shape[1:3] == (rows // 4, columns // 4)
        return minimize(self, steps, targets, *rest)

    def callback(progress):
        seen.append(progress.image().shape)
        return end == "stopped"

    monkeypatch.setattr(PerceptualLoss, "__call__", traced)
    monkeypatch.setattr(optimize.Loop, "run", run_loop)
    options = {"margin": 4, "scales": 2, "callbacks": [callback]}
    if end == "broken":
        with pytest.raises(NonFiniteLossError) as caught:
            run(content, style, **options)
        result = caught.value.result
    else:
        result = run(content, style, **options)
    expected = {(1, 16, 20, 3), (1, 32, 40, 3)} if end == "done" else {(1, 16, 20, 3)}
    assert shapes == [(24, 28), (40, 48)][: 1 if end == "stopped" else 2]
    assert set(seen) == expected
    assert result.images.shape == content.shape
    before = result.images - content
    assert np.abs(before).mean() < 0.2  # in its place


def test_lbfgs_comes_to_a_lower_loss_than_adam(tiny_backbone, content, style):
    losses = {
        optimizer: run(content, style, steps=30, optimizer=optimizer).history["total"]
        for optimizer in ("auto", "lbfgs", "adam")
    }
    assert losses["auto"] == losses["lbfgs"]
    assert losses["lbfgs"][-1] < 0.8 * losses["adam"][-1]


def test_adam_takes_over_where_the_history_does_not_fit(
    tiny_backbone, content, style, monkeypatch
):
    monkeypatch.setattr(memory, "RUNTIME", 0.0)
    monkeypatch.setattr(memory, "_ACTIVATIONS", 1e-6)
    kinds, make = [], engines._optimizer
    monkeypatch.setattr(
        engines,
        "_optimizer",
        lambda *args: kinds.append(make(*args)) or kinds[-1],
    )
    picture = 12 * 32 * 40
    for copies in (1000, 15):
        gigabytes = copies * picture / 1e9
        run(content, style, optimizer="auto", max_memory=gigabytes, steps=2)
    assert isinstance(kinds[0], LBFGS) and isinstance(kinds[1], Adam)


# Precision.


def test_bfloat16_ends_where_float32_does(tiny_backbone, bfloat16_cpu, content, style):
    """Its losses are a staircase, on which a search for lower ones would halt."""
    losses = {}
    for precision in ("float32", "bfloat16"):
        options = {"precision": precision, "optimizer": "lbfgs", "steps": 200}
        result = run(content, style, **options)
        assert result.history["step"][-1] == 200
        again = {"start": result.images, "steps": 1, "precision": "float32"}
        losses[precision] = run(content, style, **again).history["total"][0]
    assert losses["bfloat16"] < 1.05 * losses["float32"]


def test_bfloat16_draws_smooth_styles_without_specks():
    """What rounding adds to the variances of smooth pictures would become dots."""
    grey = np.random.default_rng(0).uniform(0.80, 0.84, [1, 96, 96, 1])
    paper = np.repeat(grey, 3, -1).astype("float32")
    photo = load_image("sample:cat", 96)
    losses = {}
    for precision in ("float32", "bfloat16"):
        result = tfstyle.stylize(
            photo, paper, size=96, scales=1, steps=60, precision=precision
        )
        losses[precision] = result.history["total"][-1]
    assert losses["bfloat16"] < 1.1 * losses["float32"]
    colors = result.image - result.image.mean(-1, keepdims=True)
    assert np.abs(colors).max() < 0.02


def test_targets_are_computed_once_per_scale(
    tiny_backbone, content, style, monkeypatch
):
    sizes = []

    def count(name):
        original = getattr(PerceptualLoss, name)

        def counted(self, picture, *rest):
            sizes.append(tuple(picture.shape[1:3]))
            return original(self, picture, *rest)

        monkeypatch.setattr(PerceptualLoss, name, counted)

    count("content_targets")
    count("style_statistics")
    run(content, style, scales=2, steps=12)
    assert sizes == [(16, 20), (18, 14), (32, 40), (36, 28)]


def test_a_finer_scale_starts_from_what_the_coarser_has_made(
    tiny_backbone, content, style, every_step
):
    pictures = []
    run(
        content,
        style,
        scales=2,
        steps=30,
        learning_rate=0.05,
        callbacks=[lambda progress: pictures.append(progress.image())],
    )
    coarse, fine = pictures[29], pictures[30]
    enlarged = resize_image(coarse, (32, 40))
    assert np.abs(enlarged - content).mean() > 0.1  # it has changed
    assert np.abs(fine - enlarged).mean() < 0.06  # one step of Adam moves by 0.05


def test_the_first_picture_gives_some_of_its_fine_detail(tiny_backbone, style):
    board = np.indices([32, 40]).sum(0) % 2
    content = np.repeat(0.3 + 0.4 * board[None, ..., None], 3, -1).astype("float32")
    options = {"scales": 2, "steps": 1, "learning_rate": 1e-6}
    result = run(content, style, **options)
    # A picture enlarged from half size would be flat.
    np.testing.assert_allclose(result.images, 0.3 + 0.4 * content, atol=0.01)


@pytest.mark.parametrize("space", ["rgb", "normalized"])
def test_a_run_that_does_not_move_returns_its_start(
    tiny_backbone, content, style, space
):
    options = {"steps": 2, "learning_rate": 1e-7, "space": space, "clamp": ()}
    result = run(content, style, **options)
    np.testing.assert_allclose(result.images, content, atol=1e-5)


def test_space_is_that_of_steps_clamp_and_total_variation(
    tiny_backbone, content, style
):
    std = np.array([0.229, 0.224, 0.225])
    options = {"steps": 1, "learning_rate": 0.1, "clamp": (), "schedule": "constant"}
    images = {
        space: run(content, style, space=space, **options).images
        for space in ("rgb", "normalized")
    }
    for space, step in (("rgb", 0.1 * np.ones(3)), ("normalized", 0.1 * std)):
        moved = np.median(np.abs(images[space] - content), axis=(0, 1, 2))
        np.testing.assert_allclose(moved, step, rtol=0.01)

    mean = np.array([0.485, 0.456, 0.406])
    clamped = run(content, style, space="normalized", clamp=(-0.5, 0.5)).images
    assert (clamped >= mean - 0.5 * std - 1e-6).all()
    assert (clamped <= mean + 0.5 * std + 1e-6).all()

    options = {"steps": 1, "normalization": "sum", "tv_weight": 1.0, "clamp": ()}
    terms = {
        space: run(content, style, space=space, **options).history["total_variation"][0]
        for space in ("rgb", "normalized")
    }
    differences = [np.square(np.diff(content, axis=axis)) for axis in (1, 2)]
    assert terms["rgb"] == pytest.approx(sum(np.sum(d) for d in differences), rel=1e-4)
    scaled = sum(np.sum(d / std**2) for d in differences)
    assert terms["normalized"] == pytest.approx(scaled, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_clamp_is_a_box_for_each_optimizer(tiny_backbone, content, style, optimizer):
    options = {"optimizer": optimizer, "steps": 25, "learning_rate": 0.2}
    boxed = run(content, style, clamp=(0.25, 0.6), **options).images
    assert boxed.min() == np.float32(0.25)
    assert boxed.max() == np.float32(0.6)


def test_clamp_until_is_passed_on(tiny_backbone, content, style):
    options = {"steps": 6, "clamp": (0.4, 0.6), "learning_rate": 0.05}
    assert run(content, style, **options).images.max() <= np.float32(0.6)
    assert run(content, style, clamp_until=3, **options).images.max() > 0.601


def test_lbfgs_lowers_the_loss(tiny_backbone, content, style):
    result = run(content, style, optimizer="lbfgs", steps=(20, 20), scales=2)
    for scale in (0, 1):
        rows = np.array(result.history["scale"]) == scale
        totals = np.array(result.history["total"])[rows]
        steps = np.array(result.history["step"])[rows] - 20 * scale
        assert totals[-1] < totals[0] / 2
        assert (np.diff(totals) <= 0).all()
        assert steps[0] == 1 and steps[-1] <= 20


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_the_same_seed_gives_the_same_bytes(tiny_backbone, content, style, optimizer):
    options = {"optimizer": optimizer, "steps": 12}
    first, again, other = (
        run(content, style, start="noise", seed=seed, **options).images.tobytes()
        for seed in (7, 7, 8)
    )
    assert first == again
    assert first != other


def test_the_result_may_be_of_another_size_than_the_style(tiny_backbone, style):
    options = {"content_weight": 0.0, "scales": 2, "steps": 5}
    result = run(None, style, start="noise", size=(30, 50), **options)
    assert result.images.shape == (1, 30, 50, 3)
    assert "content/block3_conv1" not in result.history


# Ends before time.


def test_a_callback_stops_the_run_and_keeps_the_picture(
    tiny_backbone, content, style, every_step
):
    pictures = []

    def callback(progress):
        pictures.append(progress.image())
        return progress.step == 5

    others = []
    result = run(
        content, style, scales=2, steps=20, callbacks=[callback, others.append]
    )
    assert result.stopped
    assert result.history["step"] == [1, 2, 3, 4, 5]
    assert len(others) == 5
    assert pictures[-1].shape == (1, 16, 20, 3)
    np.testing.assert_array_equal(result.images, resize_image(pictures[-1], (32, 40)))
    assert np.abs(result.images - content).mean() > 0.01


@pytest.fixture(scope="module")
def engine():
    """Serves runs of either optimizer, and traces each of their graphs once."""
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        return Engine([Options(style_loss="gram")])


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
@pytest.mark.parametrize("end", [1, 7, 8, 9, 15])  # within each scale, and between them
def test_stop_at_gives_the_picture_that_a_callback_stops_at(
    tiny_backbone, engine, content, style, every_step, optimizer, end
):
    options = {"scales": 2, "optimizer": optimizer, "engine": engine}
    stopped = run(
        content, style, callbacks=[lambda progress: progress.step >= end], **options
    )
    seen = []
    callbacks = [lambda progress: seen.append((progress.step, progress.steps))]
    result = run(content, style, callbacks=callbacks, stop_at=stopped.step, **options)
    assert seen[-1] == (stopped.step, stopped.step)
    assert result.history == stopped.history
    np.testing.assert_array_equal(result.images, stopped.images)
    assert stopped.stopped and not result.stopped


def test_stop_at_ends_before_a_scale_that_begins_later(tiny_backbone, content, style):
    start = np.full_like(content, 0.5)
    options = {"scales": 2, "steps": 8, "optimizer": "lbfgs", "content_weight": 0.0}
    options["engine"] = Engine([Options(style_loss="gram", content_weight=0.0)])
    result = run(content, style, start=start, stop_at=8, **options)
    assert max(result.history["scale"]) == 0
    later = run(content, style, start=start, stop_at=100, **options)
    assert later.history == run(content, style, start=start, **options).history


@pytest.mark.parametrize(("broken_at", "scale"), [(3, 0), (9, 1)])
def test_a_broken_run_carries_its_last_good_picture(
    tiny_backbone, content, style, monkeypatch, broken_at, scale
):
    evaluations, evaluate = tf.Variable(0), PerceptualLoss.__call__

    def breaking(self, images, *args, **options):
        total, terms = evaluate(self, images, *args, **options)
        broken = tf.equal(evaluations.assign_add(1), broken_at)
        nan = tf.where(broken, np.nan, 0.0)
        terms["style/block2_conv1"] += nan
        return total + nan, terms

    monkeypatch.setattr(PerceptualLoss, "__call__", breaking)
    with pytest.raises(NonFiniteLossError) as caught:
        run(content, style, scales=2, steps=(6, 7))
    assert str(caught.value).startswith(
        f"the loss became NaN or infinite at step {broken_at} in style/block2_conv1;"
    )
    result = caught.value.result
    assert result.images.shape == content.shape
    assert np.isfinite(result.images).all()
    assert np.abs(result.images - content).mean() > 0.001
    assert result.history["step"] == list(range(1, broken_at))
    assert result.history["scale"][-1] == scale
    assert np.isfinite(result.history["total"]).all()


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_loss_that_overflows_ends_the_run(tiny_backbone, content, style, optimizer):
    options = {"style_weight": 1e39, "normalization": "sum", "optimizer": optimizer}
    with pytest.raises(
        NonFiniteLossError, match=r"at step 1 in style/block\d_conv1;"
    ) as e:
        run(content, style, **options)
    np.testing.assert_allclose(e.value.result.images, content, atol=1e-6)
    assert e.value.result.history["step"] == []


def test_pictures_that_become_too_small_are_refused_before_the_run(
    tiny_backbone, content, style
):
    with pytest.raises(
        UsageError, match=r"a picture of 5×4 pixels .* at least 8 pixels"
    ):
        run(content, style, scales=4, content_layers=["pool3"])
    with pytest.raises(
        UsageError, match=r"a picture of 3×18 pixels .* at least 4 pixels"
    ):
        run(content, style[:, :, :6], scales=2)


# What a person would look for.


def test_the_style_comes_nearer_and_the_content_stays():
    content = load_image(DATA / "content" / "astronaut.jpg", 80)
    style = load_image(DATA / "style" / "waves.jpg", 80)
    result = run(content, style, steps=50, scales=2, margin=8)
    extract = FeatureExtractor("slim19", SLIM19.style_layers)

    def grams(image):
        return {layer: gram_matrix(f) for layer, f in extract(image).items()}

    def distance(image):
        ours, theirs = grams(image), grams(style)
        return np.mean(
            [np.sum((ours[k] - A) ** 2) / np.sum(A**2) for k, A in theirs.items()]
        )

    def edges(image):
        grey = image.mean(-1)[0]
        return np.concatenate([np.diff(grey, axis=axis).ravel() for axis in (0, 1)])

    assert distance(result.images) < distance(content) / 4
    assert np.corrcoef(edges(result.images), edges(content))[0, 1] > 0.25
    colours = [x.mean((0, 1, 2)) for x in (result.images, style, content)]
    nearer, further = (np.linalg.norm(colours[i] - colours[1]) for i in (0, 2))
    assert nearer < further


def test_scales_too_small_for_the_network_are_left_out(monkeypatch):
    monkeypatch.setattr(scales, "_LEAST_SIDE", 20)
    options = Options(style_layers=["block5_conv1"])
    content, style = np.zeros((1, 48, 400, 3), "f"), np.zeros((1, 300, 400, 3), "f")
    pictures = simple_pictures(content, style, size=(48, 400))
    assert Run(Engine([options]), options, pictures).sizes == [(48, 400)]
