"""Tests of tfstyle/networks/any_style.py and of what it is made of."""

import hashlib
import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import draw

import tfstyle
from tfstyle.errors import UsageError
from tfstyle.images.tiles import choose_grid
from tfstyle.networks import operations
from tfstyle.networks.any_style import AnyStyleNet, mixed
from tfstyle.networks.apply import apply_network
from tfstyle.networks.blends import PRESET_FILES, read_style_names, takes_any_style
from tfstyle.networks.style_net import StyleNet, load_network

DATA = pathlib.Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def network() -> AnyStyleNet:
    return load_network("any")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return draw(height, width, (3 + seed, 5, 7 + 2 * seed))


def assert_same_but_for_rounding(found: np.ndarray, wanted: np.ndarray) -> None:
    """Processors round in their own ways, and the decoder magnifies single values."""
    difference = np.abs(found - wanted)
    assert difference.mean() <= 1e-5
    assert difference.max() <= 1e-4


def test_the_bundled_file_is_the_one_that_was_measured():
    file = PRESET_FILES["any"]
    record = json.loads(file.with_name("any.json").read_text())
    assert record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert file.stat().st_size <= 5e6


def test_moments_are_means_and_variances():
    x = np.random.default_rng(0).normal(size=[2, 5, 7, 3]).astype("float32")
    mean, variance = operations.moments(x)
    np.testing.assert_allclose(mean, x.mean((1, 2), keepdims=True), atol=1e-6)
    np.testing.assert_allclose(variance, x.var((1, 2), keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    ("length", "wanted"),
    [
        (8, [*range(8), 6, 5, 4, 3, 2, 1, 0, 1]),
        (16, [*range(16)]),
        (17, [*range(17), 15, 14, 13, 12, 11, 10, 9]),
        (3, [0, 1, 2, 1] * 4),
        (1, [0] * 16),
    ],
)
def test_mirrored_indices_go_to_and_fro(length, wanted):
    assert np.array(operations.mirrored_indices(length, 8)).tolist() == wanted


def test_enlarged_convolution_is_a_convolution_of_linearly_enlarged_values():
    random = np.random.default_rng(2)
    x, kernel = (
        random.normal(size=size).astype("float32")
        for size in ([2, 4, 5, 3], [3, 3, 3, 2])
    )
    large = tf.image.resize(x, [8, 10])
    wanted = tf.nn.conv2d(large, kernel, 1, "VALID")
    found = operations.enlarged_convolution(x, kernel)
    assert found.shape == (2, 8, 10, 2)
    np.testing.assert_allclose(found[:, 1:-1, 1:-1], wanted, atol=1e-5)


def test_spread_gives_the_same_on_each_backend(monkeypatch):
    x = np.arange(2 * 3 * 4 * 8, dtype="float32").reshape(2, 3, 4, 8)
    in_tensorflow = operations.spread(x)
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    np.testing.assert_array_equal(operations.spread(x), in_tensorflow)


def test_gradients_pass_where_values_are_cut(network):
    code = network.code(picture(20, 31))
    bias = network.convolutions["decoder_rgb"].bias
    before = bias.numpy()
    bias.assign(before + 9)  # far above white
    try:
        with tf.GradientTape() as tape:
            result = network(picture(16, 16), code)
            total = tf.reduce_sum(result)
        assert (result.numpy() == 1).all()
        np.testing.assert_allclose(tape.gradient(total, bias.value), [256.0] * 3)
    finally:
        bias.assign(before)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 9), (33, 48)])
def test_call_keeps_any_size(network, size):
    code = network.code(picture(20, 31))
    result = network(picture(*size), code).numpy()
    assert result.shape == (1, *size, 3)
    assert 0 <= result.min() <= result.max() <= 1


def test_call_takes_a_code_for_each_picture_or_one_for_all(network):
    contents = np.concatenate([picture(24, 32), picture(24, 32, 1)])
    styles = [picture(24, 32, 2), picture(24, 32, 3)]
    codes = network.code(np.concatenate(styles))
    both = network(contents, codes).numpy()
    for i in range(2):
        alone = network(contents[i : i + 1], network.code(styles[i]))
        np.testing.assert_allclose(both[i], alone[0], atol=1e-5)
    shared = network(contents, network.code(styles[0])).numpy()
    np.testing.assert_allclose(shared[0], both[0], atol=1e-5)


def test_the_result_has_the_colours_of_the_style(network):
    content = tfstyle.load_image(DATA / "content/cat.jpg", 160)
    for name in ("waves", "pointillism", "nocturne"):
        style = tfstyle.load_image(DATA / f"style/{name}.jpg", 160)
        result = network.stylize(content[0], style[0])
        before = np.abs(content.mean((0, 1, 2)) - style.mean((0, 1, 2))).mean()
        after = np.abs(result.mean((0, 1)) - style.mean((0, 1, 2))).mean()
        assert after < before / 2


@pytest.mark.parametrize(
    ("size", "pixels"), [((331, 264), 40_000), ((250, 517), 60_000)]
)
def test_tiles_make_the_same_picture(network, size, pixels):
    content, code = picture(*size), network.code(picture(96, 64, 1))
    content *= np.linspace(0.1, 1, size[1], dtype="float32")[:, None]
    passes = network.passes
    grid = choose_grid(passes.working_size(size), passes.field, pixels)
    assert len(grid) >= 3
    tiled = passes.by_tiles(content, code, grid)
    assert_same_but_for_rounding(tiled, apply_network(network, content, code))


def test_strength_goes_from_the_photograph_to_the_style(network):
    content = tfstyle.load_image(DATA / "content/coffee.jpg", 128)[0]
    style = DATA / "style/waves.jpg"
    results = [network.stylize(content, style, strength=s) for s in (0.0, 0.5, 1.0)]
    change = [np.abs(result - content).mean() for result in results]
    assert change[0] < change[1] < change[2]
    assert change[0] < 1e-5


def test_several_styles_are_blended_by_their_weights(network):
    content, first, second = picture(40, 48)[0], picture(32, 32, 1), picture(32, 32, 4)
    ends = [network.stylize(content, style[0]) for style in (first, second)]
    pair = [(first[0], 1.0), (second[0], 1.0)]
    between = network.stylize(content, pair)
    assert all(np.abs(between - end).mean() > 0.005 for end in ends)
    only = network.stylize(content, [(first[0], 2.0), (second[0], 0.0)])
    np.testing.assert_allclose(only, ends[0], atol=1e-5)


def test_mixed_codes_are_weighted_means():
    codes = [{"mean_deep": tf.constant([[1.0]])}, {"mean_deep": tf.constant([[3.0]])}]
    assert float(mixed(codes, [0.25, 0.75])["mean_deep"][0, 0]) == 2.5


def test_each_region_takes_its_style(network):
    content, styles = picture(48, 64)[0], [picture(32, 32, 1)[0], picture(32, 32, 4)[0]]
    mask = np.zeros([48, 64, 3], "float32")
    mask[:, :32] = 1
    result = network.stylize(content, styles, content_mask=mask)
    for part, style in ((np.s_[:, :31], styles[0]), (np.s_[:, 33:], styles[1])):
        wanted = network.stylize(content, style)
        np.testing.assert_allclose(result[part], wanted[part], atol=1e-5)


def test_style_scale_makes_coarser_strokes(network):
    content = tfstyle.load_image(DATA / "content/cat.jpg", 160)[0]
    style = DATA / "style/pointillism.jpg"
    fine, coarse = (
        network.stylize(content, style, style_scale=scale) for scale in (0.5, 2.0)
    )

    def roughness(image):
        return np.abs(np.diff(image, axis=1)).mean()

    assert roughness(coarse) < roughness(fine)


def test_a_painting_is_shrunk_but_not_enlarged(network):
    content, small, large = picture(48, 64), picture(80, 96, 1), picture(400, 480, 2)
    for style, seen in ((small, small), (large, tfstyle.load_image(large, 384))):
        wanted = network(content, network.code(seen))
        found = network.stylize(content[0], style[0])
        np.testing.assert_allclose(found, wanted[0], atol=1e-4)


@pytest.mark.parametrize(
    "style",
    [
        np.full([40, 40, 3], 0.4, "float32"),
        np.zeros([1, 1, 3], "float32"),
        np.tile(np.linspace(0, 1, 64, dtype="float32")[:, None, None], (1, 9, 3)),
        np.random.default_rng(0).uniform(size=[2, 20_000, 3]).astype("float32"),
    ],
    ids=["flat", "tiny", "grey", "long"],
)
def test_odd_paintings_give_a_picture(network, style):
    result = network.stylize(picture(24, 40)[0], style)
    assert result.shape == (24, 40, 3)
    assert np.isfinite(result).all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"strength": 1.5}, "strength=1.5: give a number from 0 to 1"),
        ({"style_scale": 0}, "style_scale=0: give numbers above 0, at most 8"),
        ({"style_scale": (1, 2)}, "style_scale has 2 numbers for 1 style"),
        ({"color": "match"}, "color='match': choose one of style, content"),
    ],
)
def test_stylize_refuses_values_that_an_option_cannot_have(network, options, text):
    with pytest.raises(UsageError, match=text):
        network.stylize(picture(24, 40)[0], picture(24, 40)[0], **options)


def test_stylize_refuses_no_style(network):
    for style in (None, [], [(picture(8, 8)[0], 0.0)]):
        with pytest.raises(UsageError, match="style: give a picture"):
            network.stylize(picture(24, 40)[0], style)


def test_a_preset_folder_and_a_keras_file_hold_the_network(network, tmp_path):
    network.save_to_preset(tmp_path / "preset")
    loaded = StyleNet.from_preset(tmp_path / "preset")
    assert isinstance(loaded, AnyStyleNet)
    for one, other in zip(network.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    network.save(tmp_path / "n.keras")
    assert isinstance(keras.models.load_model(tmp_path / "n.keras"), AnyStyleNet)
    assert takes_any_style(tmp_path / "n.keras")
    assert not takes_any_style("bundled")
    assert read_style_names("any") == []


def test_apply_style_takes_a_picture_with_any():
    content = picture(24, 40)[0]
    result = tfstyle.apply_style(content, DATA / "style/waves.jpg", model="any")
    assert result.shape == content.shape


def test_the_network_runs_in_bfloat16(network):
    half = AnyStyleNet(dtype="mixed_bfloat16")
    half.set_weights(network.get_weights())
    content, style = picture(48, 64), picture(32, 48, 1)
    found = half(content, half.code(style)).numpy()
    wanted = network(content, network.code(style)).numpy()
    assert 1e-5 < np.abs(found - wanted).mean() < 0.06


def test_large_pictures_are_computed_by_tiles_however_much_memory_there_is(
    network, monkeypatch
):
    content, code = picture(400, 352), network.code(picture(64, 64, 1))
    whole = apply_network(network, content, code)
    monkeypatch.setattr(network.passes, "most_pixels", 90_000)
    monkeypatch.setattr(network.passes, "whole", None)
    assert_same_but_for_rounding(apply_network(network, content, code), whole)
