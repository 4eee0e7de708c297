"""Tests of SqueezeNet, against PyTorch if that is installed."""

import os
import urllib.error
from pathlib import Path

import keras
import numpy as np
import pytest

from tfstyle.backbones import squeezenet, vgg
from tfstyle.backbones.base import preprocess
from tfstyle.backbones.squeezenet import SQUEEZENET
from tfstyle.backbones.weights import read_weights
from tfstyle.backbones.weights_assign import assign_weights
from tfstyle.errors import TfstyleError

_ROOT = Path(__file__).resolve().parents[1]
_SHARED = Path(os.environ.get("TFSTYLE_SHARED", _ROOT.parent / "shared"))
_WEIGHTS = _SHARED / "weights" / "squeezenet_v1.1_imagenet_notop.h5"


def _network(weights=None, pooling: str = "max") -> keras.Model:
    inputs = keras.Input([None, None, 3])
    model = keras.Model(inputs, SQUEEZENET.build(inputs, pooling))
    if weights is not None:
        assign_weights(model, weights, "test")
    return model


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(1)
    return _network()


@pytest.fixture
def published() -> dict[str, np.ndarray]:
    if not _WEIGHTS.is_file():
        pytest.skip(f"needs {_WEIGHTS}; set TFSTYLE_SHARED to the folder that has it")
    return read_weights(_WEIGHTS)[0]


@pytest.fixture
def blocked_network(monkeypatch, tmp_path) -> Path:
    def fail(*_):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", fail)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("keras.src.backend.config.keras_home", lambda: str(tmp_path))
    return tmp_path / "models"


def test_squeezenet_taps_are_from_shallow_to_deep(network):
    taps = list(SQUEEZENET.build(keras.Input([None, None, 3]), "max"))
    assert taps[:3] == ["conv1", "relu_conv1", "pool1"]
    assert taps[3:10] == [
        "fire2/squeeze1x1",
        "fire2/relu_squeeze1x1",
        "fire2/expand1x1",
        "fire2/expand3x3",
        "fire2/relu_expand1x1",
        "fire2/relu_expand3x3",
        "fire2/concat",
    ]
    assert taps.index("fire3/concat") + 1 == taps.index("pool3")
    assert taps.index("fire5/concat") + 1 == taps.index("pool5")
    assert taps[-1] == "fire9/concat"


def test_squeezenet_layers_name_every_tap_and_nothing_else():
    taps = SQUEEZENET.build(keras.Input([None, None, 3]), "max")
    assert set(SQUEEZENET.layers.values()) == set(taps)
    assert all(SQUEEZENET.layers[tap] == tap for tap in taps)
    assert set(SQUEEZENET.content_layers) <= set(SQUEEZENET.layers)
    assert set(SQUEEZENET.style_layers) <= set(SQUEEZENET.layers)


def test_squeezenet_indices_are_those_of_the_assignment():
    taps = [SQUEEZENET.layers[str(i)] for i in range(13)]
    assert taps[:3] == ["conv1", "relu_conv1", "pool1"]
    assert taps[3:6] == ["fire2/concat", "fire3/concat", "pool3"]
    assert taps[6:9] == ["fire4/concat", "fire5/concat", "pool5"]
    assert taps[9:] == [f"fire{i}/concat" for i in range(6, 10)]
    assert "13" not in SQUEEZENET.layers
    style = [SQUEEZENET.layers[name] for name in SQUEEZENET.style_layers]
    assert style == [SQUEEZENET.layers[i] for i in ("1", "4", "6", "7")]
    assert [SQUEEZENET.layers[n] for n in SQUEEZENET.content_layers] == [taps[3]]


def test_squeezenet_shapes_are_those_of_the_paper(network):
    features = network(np.zeros([1, 227, 227, 3], "float32"))
    shapes = {
        name: tuple(features[name].shape[1:]) for name in SQUEEZENET.layers.values()
    }
    assert shapes["conv1"] == (113, 113, 64)
    assert shapes["pool1"] == (56, 56, 64)
    assert shapes["fire3/squeeze1x1"] == (56, 56, 16)
    assert shapes["fire3/expand3x3"] == (56, 56, 64)
    assert shapes["pool3"] == (27, 27, 128)
    assert shapes["fire5/concat"] == (27, 27, 256)
    assert shapes["pool5"] == (13, 13, 256)
    assert shapes["fire9/concat"] == (13, 13, 512)
    assert sum(int(np.prod(v.shape)) for v in network.weights) == 722_496


def test_squeezenet_taps_before_and_after_a_relu(network):
    images = np.random.default_rng(1).normal(size=[1, 35, 35, 3]).astype("float32")
    features = {name: np.asarray(f) for name, f in network(images).items()}
    pairs = [("conv1", "relu_conv1")] + [
        (f"fire4/{layer}", f"fire4/relu_{layer}")
        for layer in ("squeeze1x1", "expand1x1", "expand3x3")
    ]
    for before, after in pairs:
        assert features[before].min() < 0
        np.testing.assert_array_equal(np.maximum(features[before], 0), features[after])
    concat = [features[f"fire4/relu_expand{size}"] for size in ("1x1", "3x3")]
    np.testing.assert_array_equal(np.concatenate(concat, -1), features["fire4/concat"])


@pytest.mark.parametrize(("pooling", "reduce"), [("max", np.max), ("avg", np.mean)])
def test_squeezenet_pools_valid_windows_of_3_with_stride_2(pooling, reduce):
    features = _network(pooling=pooling)(
        np.random.default_rng(2).normal(size=[1, 35, 38, 3]).astype("float32")
    )
    before, after = np.asarray(features["relu_conv1"]), np.asarray(features["pool1"])
    windows = np.lib.stride_tricks.sliding_window_view(before, (3, 3), axis=(1, 2))
    expected = reduce(windows[:, ::2, ::2], axis=(-2, -1))
    assert after.shape == (1, 8, 8, 64)
    np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)


def test_squeezenet_of_31_pixels_reaches_the_last_layer(network):
    shape = network(np.zeros([1, 31, 31, 3], "float32"))["fire9/concat"].shape
    assert tuple(shape) == (1, 1, 1, 512)


def test_squeezenet_published_weights_give_the_features_of_pytorch(published):
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(3).uniform(size=[1, 63, 79, 3]).astype("float32")
    inputs = np.asarray(preprocess(images, SQUEEZENET.preprocessing), "float32")
    features = _network(published)(inputs)

    def conv(x, layer, **how):
        kernel = torch.tensor(published[f"{layer}/kernel"].transpose(3, 2, 0, 1))
        bias = torch.tensor(published[f"{layer}/bias"])
        expected = torch.nn.functional.conv2d(x, kernel, bias, **how)
        _assert_same(features[layer], expected)
        return torch.relu(expected)

    def pool(x, layer):
        expected = torch.nn.functional.max_pool2d(x, 3, 2)
        _assert_same(features[layer], expected)
        return expected

    x = torch.tensor(inputs.transpose(0, 3, 1, 2))
    x = pool(conv(x, "conv1", stride=2), "pool1")
    for i in range(2, 10):
        squeezed = conv(x, f"fire{i}/squeeze1x1")
        left = conv(squeezed, f"fire{i}/expand1x1")
        right = conv(squeezed, f"fire{i}/expand3x3", padding=1)
        x = torch.cat([left, right], 1)
        _assert_same(features[f"fire{i}/concat"], x)
        x = pool(x, f"pool{i}") if i in (3, 5) else x


def _assert_same(ours, theirs):
    ours, theirs = np.asarray(ours), theirs.numpy().transpose(0, 2, 3, 1)
    assert ours.shape == theirs.shape
    error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    assert error < 1e-4


def test_squeezenet_failed_download_names_the_file_and_the_ways_around_it(
    blocked_network,
):
    with pytest.raises(TfstyleError) as caught:
        SQUEEZENET.published_weights()
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5:")
    assert "Name or service not known" in message
    assert message.count("https://") == 1 and squeezenet.URL in message
    assert f" {blocked_network}," in message
    assert "--weights=PATH" in message and "--backbone=slim19" in message


@pytest.mark.parametrize("backbone", [vgg.VGG19, vgg.VGG16])
def test_vgg_failed_download_names_the_file_and_the_ways_around_it(
    backbone, blocked_network
):
    with pytest.raises(TfstyleError) as caught:
        backbone.published_weights()
    file = f"{backbone.name}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    message = str(caught.value)
    assert message.startswith(f"{file}: ") and "Name or service not known" in message
    assert f"keras-applications/{backbone.name}/{file} " in message
    assert f" {blocked_network}," in message
    assert message.count("https://") == 1
    assert "--backbone=slim19" in message


def test_squeezenet_uses_a_file_in_the_cache(published, blocked_network):
    blocked_network.mkdir()
    name = squeezenet.URL.rpartition("/")[2]
    (blocked_network / name).write_bytes(_WEIGHTS.read_bytes())
    weights = SQUEEZENET.published_weights()
    assert list(weights) == list(published)
    np.testing.assert_array_equal(weights["conv1/kernel"], published["conv1/kernel"])
