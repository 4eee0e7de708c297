"""Tests of what is optimised, and of the loss and the network that options ask for."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tfstyle import load_image, resize_image, stylize
from tfstyle.backbones.slim19 import SLIM19
from tfstyle.losses.from_options import perceptual_loss
from tfstyle.options import Options
from tfstyle.stylizer import canvas as module
from tfstyle.stylizer.canvas import Canvas, favor_chroma, favor_strokes
from tfstyle.stylizer.engine import Engine

DATA = pathlib.Path(__file__).parents[1] / "data"


def test_spaces_by_hand_and_back(content):
    assert Canvas(0, "rgb").values(content) is content
    value = Canvas(0, "normalized").values(content)
    assert value.dtype == np.float32
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(value, (content - mean) / std, rtol=1e-5, atol=1e-5)
    for space in ("rgb", "normalized"):
        canvas = Canvas(0, space)
        there = tf.constant(canvas.values(content))
        np.testing.assert_allclose(canvas.rgb(there), content, atol=1e-6)
        np.testing.assert_allclose(canvas.picture(there), content, atol=1e-6)


def test_favored_chroma_is_doubled_and_grey_stays():
    colors = tf.constant([[[[0.5, 0.5, 0.5], [0.9, 0.0, 0.0]]]])
    favored = [[[[0.5, 0.5, 0.5], [1.5, -0.3, -0.3]]]]
    np.testing.assert_allclose(favor_chroma(colors), favored, rtol=1e-6)
    # What L-BFGS asks of it: symmetric and positive definite.
    matrix = favor_chroma(tf.eye(3)).numpy()
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_allclose(np.linalg.eigvalsh(matrix), [1, 2, 2], rtol=1e-6)


def test_favored_strokes_are_waves_that_are_not_the_finest():
    flat = np.tile(np.float32([0.9, 0.0, 0.0]), (1, 6, 8, 1))
    np.testing.assert_allclose(
        favor_strokes(tf.constant(flat)), favor_chroma(tf.constant(flat)), atol=1e-6
    )
    board = np.float32(np.indices([6, 8]).sum(0) % 2 - 0.5)
    grain = np.repeat(board[None, ..., None], 3, -1)
    inner = favor_strokes(tf.constant(grain))[:, 2:-2, 2:-2]
    np.testing.assert_allclose(inner, 0.03 * grain[:, 2:-2, 2:-2], atol=1e-6)


def test_favored_strokes_are_what_l_bfgs_asks_for():
    basis = np.eye(5 * 4 * 3, dtype="float32").reshape(-1, 5, 4, 3)
    ones = np.ones_like(basis)  # values of exactly 0 would be held
    moved, still = favor_strokes(tf.constant(1 + basis)), favor_strokes(ones)
    matrix = (moved - still).numpy().reshape(len(basis), -1)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)  # symmetric
    values = np.linalg.eigvalsh(matrix)
    assert values.min() > 0.99 * 0.03 and values.max() < 2.001


def test_strokes_bring_less_grain_except_into_noise(monkeypatch):
    smooth = resize_image(load_image(DATA / "content/astronaut.jpg", 24), (128, 128))

    def grain(**options):
        options |= {"size": 128, "scales": 1, "steps": 20}
        image = stylize(smooth, DATA / "style/nocturne.jpg", **options).image
        return np.abs(np.diff(image, 4, axis=0)).mean()

    calm, noisy = grain(), grain(init="noise")
    monkeypatch.setattr(module, "_GRAIN", 1.0)
    assert calm < 0.95 * grain()
    assert noisy == grain(init="noise")


def test_favored_chroma_brings_a_lower_loss_sooner(monkeypatch):
    def loss():
        pictures = DATA / "content/astronaut.jpg", DATA / "style/nocturne.jpg"
        options = {"size": 128, "allow_upscale": True, "scales": 1, "steps": 40}
        options["style_loss"] = "gram"
        return stylize(*pictures, **options).history["total"][-1]

    monkeypatch.setattr(module, "_GRAIN", 1.0)
    favored = loss()
    monkeypatch.setattr(module, "_CHROMA", 1.0)
    assert favored < 0.99 * loss()


def test_a_margin_is_the_mirror_image_and_comes_off_again():
    picture = np.arange(12.0).reshape(1, 3, 4, 1)
    canvas = Canvas(2, "rgb")
    wide = canvas.framed(picture)
    assert wide.shape == (1, 7, 8, 1) and canvas.size((3, 4)) == (7, 8)
    assert wide[0, 2, :, 0].tolist() == [2, 1, 0, 1, 2, 3, 2, 1]
    assert wide[0, :, 2, 0].tolist() == [8, 4, 0, 4, 8, 4, 0]
    assert Canvas(0, "rgb").framed(picture) is picture
    rgb = np.repeat(picture / 12, 3, -1).astype("float32")
    for canvas in (Canvas(2, "rgb"), Canvas(0, "rgb")):
        values = tf.constant(canvas.values(rgb))
        np.testing.assert_array_equal(canvas.picture(values), rgb)


def test_perceptual_loss_follows_the_options(tiny_backbone):
    loss = perceptual_loss(
        Options(
            content_layers=["conv2_1"],
            style_layers={"relu1_1": 0.5, "pool2": 2.0},
            content_weight=3.0,
            style_weight=10.0,
            tv_weight=0.25,
            normalization="mean",
            pooling="max",
        )
    )
    assert loss.content_layers == {"conv2_1": 3.0}
    assert loss.style_layers == {"relu1_1": 5.0, "pool2": 20.0}
    assert (loss.tv_weight, loss.normalization) == (0.25, "mean")
    assert loss.features.layers == ("conv2_1", "relu1_1", "pool2")
    kinds = {type(layer).__name__ for layer in loss.features.model.layers}
    assert "MaxPooling2D" in kinds and "AveragePooling2D" not in kinds


def test_the_network_goes_no_deeper_than_the_terms_need(tiny_backbone):
    loss = perceptual_loss(Options(content_weight=0.0, style_layers=["relu1_1"]))
    assert loss.features.layers == ("relu1_1",)
    loss = perceptual_loss(Options(style_weight=0.0))
    assert loss.features.layers == ("block3_conv1",)


@pytest.mark.parametrize(
    ("style_loss", "shares"),
    [("wasserstein", [256, 64, 16, 4, 1]), ("gram", [1, 1, 1, 1, 1])],
)
def test_default_layers_are_those_of_the_backbone(style_loss, shares):
    options = Options(style_loss=style_loss)
    loss = perceptual_loss(options)
    assert loss.content_layers == pytest.approx(
        {"block4_conv2": options.content_weight}
    )
    assert list(loss.style_layers) == list(SLIM19.style_layers)
    weights = [share / sum(shares) for share in shares]
    assert list(loss.style_layers.values()) == pytest.approx(weights)


# Precision.


@pytest.mark.parametrize(
    ("precision", "found"),
    [("auto", "bfloat16"), ("bfloat16", "bfloat16"), ("float32", "float32")],
)
def test_auto_is_bfloat16_where_a_cpu_multiplies_it(
    tiny_backbone, bfloat16_cpu, precision, found
):
    assert Engine([Options(precision=precision)]).features.dtype == found


def test_auto_is_float32_where_a_cpu_does_not_multiply_bfloat16(tiny_backbone):
    assert Engine([Options(precision="auto")]).features.dtype == "float32"
