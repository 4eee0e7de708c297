"""Tests of slim19 and of its bundled weights."""

import keras
import numpy as np
import pytest

from tfstyle.backbones import slim19, vgg
from tfstyle.backbones.feature_extractor import FeatureExtractor
from tfstyle.backbones.slim19 import SLIM19
from tfstyle.backbones.vgg import VGG19
from tfstyle.images import load_image

pytestmark = pytest.mark.fast

VGG19_CHANNELS = {1: 64, 2: 128, 3: 256, 4: 512, 5: 512}


def multiply_adds(backbone, taps, side=128):
    """Multiply-adds of all convolutions that ``taps`` need, at a square picture."""
    inputs = keras.Input([side, side, 3])
    built = backbone.build(inputs, "max")
    model = keras.Model(inputs, [built[tap] for tap in taps])
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            _, height, width, _ = layer.output.shape
            total += height * width * int(np.prod(layer.kernel.shape))
    return total


def names_to_block5_conv1():
    """Every name of VGG-19's layers as far as block5_conv1."""
    late = {f"block5_conv{i}" for i in (2, 3, 4)}
    late |= {f"conv5_{i}" for i in (2, 3, 4)} | {"block5_pool"}
    return [name for name, tap in VGG19.layers.items() if tap not in late]


@pytest.fixture(scope="module")
def network():
    return FeatureExtractor("slim19", names_to_block5_conv1())


def test_multiply_adds_of_vgg19_by_hand():
    # 3×3 by 3×64 and 64×64 at full size.
    by_hand = 32 * 32 * 9 * (3 * 64 + 64 * 64)
    assert multiply_adds(VGG19, ["block1_conv2"], side=32) == by_hand


def test_slim19_with_all_heads_costs_less_than_a_seventh_of_vgg19():
    inputs = keras.Input([None, None, 3])
    taps = list(SLIM19.build(inputs, "max"))
    whole = multiply_adds(SLIM19, taps)
    assert whole > multiply_adds(SLIM19, ["conv5_1"])  # heads are counted
    assert whole * 7 < multiply_adds(VGG19, ["block5_conv1"])


def test_slim19_weights_file_is_small():
    assert slim19.WEIGHTS.stat().st_size <= 4 * 2**20


def test_slim19_published_weights_fit_and_are_float32():
    weights = SLIM19.published_weights()
    inputs = keras.Input([None, None, 3])
    model = keras.Model(inputs, SLIM19.build(inputs, "max"))
    layers = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    factors, waist, heads = 2 * len(slim19.FACTORS), 1, 2
    assert len(layers) == 13 + factors + waist + heads
    for layer in layers:
        for part in layer.weights:
            array = weights[f"{layer.name}/{part.name}"]
            assert array.shape == tuple(part.shape)
            assert array.dtype == np.float32
            assert np.isfinite(array).all()
            assert array.any() or layer.name.endswith(("_in", "_mid")), layer.name
    assert len(weights) == 2 * len(layers)


def test_slim19_accepts_every_layer_of_vgg19_to_block5_conv1(network):
    names = names_to_block5_conv1()
    assert len(names) == 13 * 3 + 4 * 2
    assert set(names) <= set(SLIM19.layers)
    assert {name: SLIM19.layers[name] for name in names} == {
        name: VGG19.layers[name] for name in names
    }
    features = network(np.zeros([1, 64, 48, 3], "float32"))
    assert list(features) == names


def test_slim19_layers_name_every_tap_and_nothing_else():
    taps = SLIM19.build(keras.Input([None, None, 3]), "max")
    assert set(SLIM19.layers.values()) == set(taps)
    assert "block5_conv2" not in SLIM19.layers
    assert "conv5_4" not in SLIM19.layers


def test_slim19_layers_have_the_sizes_and_channels_of_vgg19(network):
    features = network(np.zeros([1, 64, 48, 3], "float32"))
    for layer in (*vgg.convolutions((2, 2, 1)), *slim19.HEADS):
        block, position = int(layer[5]), layer[-1]
        scale = 2 ** (block - 1)
        shape = (1, 64 // scale, 48 // scale, VGG19_CHANNELS[block])
        for name in (layer, f"relu{block}_{position}", f"conv{block}_{position}"):
            assert features[name].shape == shape
    for layer, channels in slim19.CHANNELS.items():
        if layer not in slim19.HEADS:
            assert features[layer].shape[-1] == channels


def test_slim19_has_nearly_the_features_of_vgg19(shared):
    layers = vgg.convolutions((2, 2, 1))
    weights = shared / "weights/vgg19_normalised_to_block3_conv1.npz"
    photo = load_image("sample:coffee", 256)
    for pooling in ("max", "avg"):
        true = FeatureExtractor("vgg19", layers, weights=weights, pooling=pooling)
        slim = FeatureExtractor("slim19", layers, pooling=pooling)
        wanted, got = true(photo), slim(photo)
        for layer in layers:
            inside = (slice(None), slice(8, -8), slice(8, -8))  # borders differ
            error = np.sum((got[layer][inside] - wanted[layer][inside]) ** 2)
            assert error < 0.05 * np.sum(wanted[layer][inside] ** 2), layer


def test_slim19_style_layers_have_vgg19s_channels():
    assert list(SLIM19.style_layers) == list(VGG19.style_layers)
    known = {*vgg.convolutions((2, 2, 1)), *slim19.HEADS}
    assert set(SLIM19.style_layers) <= known
    assert dict(SLIM19.content_layers) == dict(VGG19.content_layers)


def test_slim19_heads_do_not_change_the_slim_features():
    picture = np.random.default_rng(0).uniform(size=[1, 32, 32, 3]).astype("float32")
    alone = FeatureExtractor("slim19", ["block4_conv2"])
    heads = [layer.name for layer in alone.model.layers if "head" in layer.name]
    assert heads == []
    both = FeatureExtractor("slim19", [*SLIM19.style_layers, "block4_conv2"])
    np.testing.assert_allclose(
        alone(picture)["block4_conv2"],
        both(picture)["block4_conv2"],
        rtol=1e-5,
        atol=1e-5,
    )


def test_slim19_conv_is_before_the_relu(network):
    picture = np.random.default_rng(1).uniform(size=[1, 48, 40, 3]).astype("float32")
    features = {name: f.numpy() for name, f in network(picture).items()}
    for layer in vgg.convolutions((2, 2, 4, 4, 1)):
        before = features[vgg.paper_name("conv", layer)]
        assert before.min() < 0, layer
        np.testing.assert_array_equal(np.maximum(before, 0), features[layer])


@pytest.mark.parametrize("colour", [(0.2, 0.6, 0.9), (1.0, 1.0, 1.0)])
def test_slim19_features_of_a_flat_picture_are_flat_up_to_the_border(network, colour):
    picture = np.broadcast_to(np.float32(colour), [1, 64, 64, 3])
    for layer, feature in network(picture).items():
        spread = np.ptp(feature, axis=(1, 2)).max()
        assert spread <= 1e-4 * max(np.abs(feature).max(), 1), layer


def test_slim19_mirrors_the_picture_at_the_border():
    picture = np.random.default_rng(2).uniform(size=[1, 9, 8, 3]).astype("float32")
    mirrored = np.pad(picture, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    extract = FeatureExtractor("slim19", ["conv1_1"])
    inner = extract(mirrored)["conv1_1"][:, 1:-1, 1:-1]
    np.testing.assert_allclose(extract(picture)["conv1_1"], inner, rtol=1e-4, atol=1e-4)


def test_slim19_features_of_different_pictures_differ(network, content, style):
    photo, stripes = (network(np.tile(x, [1, 2, 2, 1])) for x in (content, style))
    for layer in SLIM19.style_layers:
        means = [np.mean(f[layer], axis=(1, 2)) for f in (photo, stripes)]
        assert np.linalg.norm(means[0] - means[1]) > 0.05 * np.linalg.norm(means[0])
