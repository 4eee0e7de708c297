"""Tests of what an engine builds once: network, weights, graphs, targets."""

import logging.handlers
import random

import numpy as np
import pytest
import tensorflow as tf

import tfstyle
from tfstyle.backbones import weights
from tfstyle.backbones.feature_extractor import FeatureExtractor
from tfstyle.errors import UsageError
from tfstyle.options import Options
from tfstyle.options.presets import preset_names
from tfstyle.stylizer import Stylizer
from tfstyle.stylizer import engine as module
from tfstyle.stylizer import run as run_module
from tfstyle.stylizer.engine import Engine

# Of Adam and Gram matrices, whose graphs are the smallest.
OPTIONS = {"scales": 2, "steps": (4, 3), "margin": 2}
OPTIONS.update(optimizer="adam", style_loss="gram")


@pytest.fixture
def reads(monkeypatch):
    """Counts how often weights are read."""
    from tfstyle.backbones import feature_extractor

    found, load = [], weights.load_weights

    def counted(*arguments):
        found.append(arguments)
        return load(*arguments)

    monkeypatch.setattr(feature_extractor, "load_weights", counted)
    return found


@pytest.fixture
def passes(monkeypatch):
    """The sizes of pictures that the network has been called or traced with."""
    found, call = [], FeatureExtractor.__call__

    def counted(self, images):
        found.append(tuple(images.shape[1:3]))
        return call(self, images)

    monkeypatch.setattr(FeatureExtractor, "__call__", counted)
    return found


# Calls.


# Adam's learning rates depend on the number of steps, which differs between scales.
@pytest.mark.parametrize(("optimizer", "traces"), [("adam", 2), ("lbfgs", 1)])
def test_calls_trace_once_for_all_scales_and_read_weights_once(
    tiny_backbone, reads, content, style, optimizer, traces
):
    stylizer = Stylizer(**{**OPTIONS, "optimizer": optimizer})
    pictures = [content, content[:, ::-1], 1 - content]
    results = [stylizer(np.ascontiguousarray(p), style) for p in pictures]
    assert stylizer.engine.traces == traces
    assert len(reads) == 1
    assert len({result.image.tobytes() for result in results}) == 3


def test_other_numbers_of_steps_trace_nothing(tiny_backbone, content, style):
    stylizer = Stylizer(**{**OPTIONS, "optimizer": "lbfgs"})
    stylizer(content, style)
    traces = stylizer.engine.traces
    more = stylizer.with_options(steps=(7, 4))
    result = more(content, style)
    assert more.engine is stylizer.engine and more.engine.traces == traces
    fresh = Stylizer(**{**OPTIONS, "optimizer": "lbfgs", "steps": (7, 4)})
    np.testing.assert_array_equal(result.image, fresh(content, style).image)


@pytest.mark.parametrize("style_loss", ["gram", "wasserstein", "neighbors"])
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_one_graph_serves_pictures_of_any_size(
    tiny_backbone, reads, content, style, optimizer, style_loss
):
    options = {"optimizer": optimizer, "style_loss": style_loss}
    options.update(scales=1, steps=6)
    stylizer = Stylizer(**options)
    for rows, columns in ((24, 32), (32, 40), (21, 37), (24, 32)):
        picture = np.ascontiguousarray(content[:, :rows, :columns])
        left = np.zeros((rows, columns), "float32")
        left[:, :9] = 1
        result = stylizer(picture, style, protect=left)
        assert stylizer.engine.traces == 1
        fresh = Stylizer(**options)(picture, style, protect=left)
        np.testing.assert_array_equal(result.image, fresh.image)


def test_calls_of_many_sizes_print_no_warning(tiny_backbone, content, style):
    lines = logging.handlers.BufferingHandler(100)
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # the command line has another
    logger.addHandler(lines)
    try:
        options = {**OPTIONS, "scales": 1, "steps": 3}
        stylizer = Stylizer(**options)
        # TensorFlow warns of the fifth graph of one function.
        for width in (40, 38, 36, 34, 32, 30):
            picture = np.ascontiguousarray(content[:, :, :width])
            stylizer(picture, style)
            tfstyle.stylize(picture, style, **options)
    finally:
        logger.setLevel(level)
        logger.removeHandler(lines)
    assert [record.getMessage() for record in lines.buffer] == []


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_later_call_has_the_bits_of_a_fresh_stylizer(
    tiny_backbone, content, style, optimizer
):
    options = {**OPTIONS, "optimizer": optimizer}
    used = Stylizer(**options)
    used(1 - content, np.ascontiguousarray(style[:, ::-1]))
    again, fresh = used(content, style), Stylizer(**options)(content, style)
    np.testing.assert_array_equal(again.images, fresh.images)
    assert again.history == fresh.history


def test_a_result_is_not_changed_by_later_calls(tiny_backbone, content, style):
    stylizer = Stylizer(**OPTIONS)
    result = stylizer(content, style)
    before = result.images.copy()
    stylizer(1 - content, style)
    np.testing.assert_array_equal(result.images, before)


def test_styles_that_are_loaded_once_serve_every_call(tiny_backbone, tmp_path, content):
    path = tmp_path / "style.png"
    tfstyle.save_image(content[:, ::-1], path)
    stylizer = Stylizer(**OPTIONS)
    first = stylizer(content, str(path))
    styles = stylizer.load_styles(str(path))
    path.unlink()
    np.testing.assert_array_equal(stylizer(content, styles).images, first.images)


def test_masks_and_protection_are_arguments_too(tiny_backbone, content, style):
    stylizer = Stylizer(**OPTIONS)
    left = np.zeros((32, 40), "float32")
    left[:, :20] = 1
    results = [stylizer(content, style, protect=mask) for mask in (left, 1 - left)]
    assert stylizer.engine.traces == 2
    np.testing.assert_array_equal(results[0].images[:, :, :20], content[:, :, :20])
    np.testing.assert_array_equal(results[1].images[:, :, 20:], content[:, :, 20:])


# What is computed once.


def test_one_pass_gives_all_layers_and_targets_are_computed_once(
    tiny_backbone, passes, content, style
):
    stylizer = Stylizer(**{**OPTIONS, "margin": 0, "style_loss": "wasserstein"})
    stylizer(content, style)
    # For each scale: the content, the enlarged style, and one trace of the loss.
    first, second = [(16, 20), (27, 21)], [(32, 40), (54, 42)]
    traced = [(None, None)]
    assert passes == [*first, *traced, *second, *traced]
    passes.clear()
    stylizer(1 - content, style)  # the style is known, the graphs are there
    assert passes == [(16, 20), (32, 40)]


def test_a_sweep_over_weights_traces_each_scale_once(
    tiny_backbone, reads, passes, content, style
):
    grid = {"style_weight": [1.0, 10.0, 100.0], "content_weight": [0.1, 0.2]}
    cells = list(tfstyle.sweep(content, style, grid, **{**OPTIONS, "margin": 0}))
    assert len(cells) == 6 and len(reads) == 1
    # The content at each scale, and for the steps of each scale the loss.
    assert passes.count((32, 40)) == 1 and passes.count((None, None)) == 2


def test_variants_keep_their_engine(tiny_backbone, reads, content, style):
    stylizer = Stylizer(**OPTIONS)
    for _ in range(2):
        stylizer.texture(style, 24, 20)
        stylizer.invert(content, "relu2_1")
    assert len(reads) == 2


def test_with_options_shares_the_engine_where_the_layers_are_the_same(
    tiny_backbone, reads, content, style
):
    stylizer = Stylizer(**OPTIONS)
    heavier = stylizer.with_options(style_weight=50.0, steps=(2, 2))
    assert heavier.engine is stylizer.engine
    other = stylizer.with_options(style_layers=["relu2_1"], laplacian_weight=0.1)
    assert other.engine is not stylizer.engine
    alone = Stylizer(**{**OPTIONS, "style_weight": 50.0, "steps": (2, 2)})
    np.testing.assert_array_equal(
        heavier(content, style).images, alone(content, style).images
    )


# Memory.


def test_programs_used_longest_ago_make_room(tiny_backbone):
    engine, options = Engine([Options()]), Options(optimizer="adam")

    def program(steps, room):
        found = engine.program(1, options, steps, 0, 3, room)
        found.begin(np.zeros([1, 2 * steps, 2 * steps, 3], "float32"))
        return found

    first, second = program(4, 1e9), program(8, 1e9)
    assert program(4, 1e9) is first and program(8, 1e9) is second
    assert second.bytes == 3 * 4 * 3 * 16**2 + 8  # the values, two moments, a count
    third = program(6, second.bytes)  # there is room for one other only
    assert program(6, 1e9) is third and program(8, 1e9) is second
    assert program(4, 1e9) is not first


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_large_picture_leaves_no_state(
    tiny_backbone, content, style, optimizer, monkeypatch
):
    options = {**OPTIONS, "optimizer": optimizer}
    expected = Stylizer(**options)(content, style).images
    monkeypatch.setattr(run_module, "LARGE", 1)
    stylizer = Stylizer(**options)
    for _ in range(2):
        np.testing.assert_array_equal(stylizer(content, style).images, expected)
        assert all(p.bytes < 100 for p in stylizer.engine._programs.values())


def test_known_targets_are_bounded(tiny_backbone, content, style, monkeypatch):
    stylizer = Stylizer(**OPTIONS)
    for shift in range(4):
        stylizer(content, np.roll(style, shift, 2))
    kept, most = len(stylizer.engine._known), stylizer.engine._known_bytes
    assert kept >= 4
    monkeypatch.setattr(module, "_MOST_KEPT", 0.6 * most)
    stylizer(content, np.roll(style, 4, 2))
    assert 1 < len(stylizer.engine._known) < kept
    assert stylizer.engine._known_bytes <= 0.6 * most


# Manners.


def test_a_run_leaves_determinism_and_seeds_as_they_were(tiny_backbone, content, style):
    from tensorflow.python.framework import config

    def draws():
        return random.random(), np.random.random(), float(tf.random.uniform([]))

    def seed():
        random.seed(1), np.random.seed(1), tf.random.set_seed(1)

    seed()
    expected = draws()
    stylizer = Stylizer(init="noise", **OPTIONS)
    _ = stylizer.engine
    seed()
    first = stylizer(content, style)
    assert draws() == expected
    assert not config.is_op_determinism_enabled()
    np.testing.assert_array_equal(stylizer(content, style).images, first.images)


def test_result_has_the_picture_in_every_form(tiny_backbone, content, style, tmp_path):
    result = tfstyle.stylize(content, style, **OPTIONS)
    assert result.images.shape == (1, 32, 40, 3) and result.image.shape == (32, 40, 3)
    assert result.step == 7
    assert "40×32" in repr(result) and "7 steps" in repr(result)
    assert len(repr(result)) < 100
    assert result._repr_png_().startswith(b"\x89PNG")
    result.save(tmp_path / "out.png")
    saved = tfstyle.load_image(tmp_path / "out.png")
    np.testing.assert_allclose(saved, result.images, atol=0.5 / 255 + 1e-6)


def test_result_is_never_saved_over_a_picture_it_was_made_from(
    tiny_backbone, content, style, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "art").mkdir()
    for name in ("photo.png", "art/a.png", "start.png"):
        tfstyle.save_image(content, name)
    mask = np.zeros_like(content)
    mask[:, :, 20:] = 1
    tfstyle.save_image(mask, "mask.png")
    (tmp_path / "link.png").symlink_to("photo.png")
    before = (tmp_path / "photo.png").read_bytes()
    options = {**OPTIONS, "init": "start.png"}
    result = tfstyle.stylize("photo.png", "art", protect="mask.png", **options)
    names = ("photo.png", tmp_path / "photo.png", "./art/../link.png", "art/a.png")
    for name in (*names, "mask.png", "start.png"):
        with pytest.raises(UsageError, match="was made from this file"):
            result.save(name)
    assert (tmp_path / "photo.png").read_bytes() == before
    result.save("out.png")
    result.save("out.png")
    with pytest.raises(UsageError, match="path is of type NoneType"):
        result.save(None)
    # From arrays, nothing is known of a file.
    tfstyle.stylize(content, style, **OPTIONS).save("photo.png")


def test_cells_of_a_sweep_and_loaded_styles_know_their_files(
    tiny_backbone, content, tmp_path
):
    files = [str(tmp_path / name) for name in ("photo.png", "art.png")]
    for file in files:
        tfstyle.save_image(content, file)
    cells = tfstyle.sweep(*files, {"seed": [1]}, **OPTIONS)
    stylizer = Stylizer(**OPTIONS)
    results = [next(cells).result, stylizer(files[0], stylizer.load_styles(files[1]))]
    for result in results:
        for file in files:
            with pytest.raises(UsageError, match="was made from this file"):
                result.save(file)


@pytest.mark.parametrize("name", preset_names())
def test_from_preset_has_the_published_options_and_takes_others(name):
    stylizer = Stylizer.from_preset(name, size=64)
    assert stylizer.options.size == 64
    assert stylizer.options.color == "free"
    assert name in Stylizer.presets


def test_a_preset_runs_from_python(content, style):
    pictures = [tfstyle.resize_image(p, (48, 64)) for p in (content, style)]
    stylizer = Stylizer.from_preset("gatys-vgg19", backbone="slim19", steps=3)
    result = stylizer(*pictures)
    assert result.images.shape == (1, 48, 64, 3)
    assert "content/relu4_2" in result.history


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Stylizer(style_wieght=1), "did you mean style_weight"),
        (lambda: Stylizer(optimizer="lbfgs", beta_2=0.5), "has no effect"),
        (lambda: Stylizer.from_preset("gatys"), "did you mean gatys-vgg19"),
        (lambda: Stylizer().texture(None, 0), "width=0: give a whole number"),
        (lambda: Stylizer().texture(None, 2.5), "width=2.5: give a whole number"),
        (lambda: Stylizer().film(None), "no style picture"),
        (lambda: Stylizer().film(None, frame_steps=0), "frame_steps=0: give a whole"),
        (lambda: Stylizer()(None, None), "no content picture"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(call, said):
    with pytest.raises(UsageError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)
